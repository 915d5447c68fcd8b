//! criterion's `target/criterion/NAME/new/{sample,estimates,benchmark}.json`, and the lines of
//! `cargo criterion --message-format=json`. A benchmark runs in one process, so it has one value
//! however many samples it has: their mean, which all of these files hold.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use super::field::{self, Object};
use super::runs::{Figure, Run, Tool};
use super::{Format, MAX_FOREIGN, Source};
use crate::identity::{Identity, Severity};
use crate::metric::Metric;

/// Nanoseconds in seconds.
const NS: f64 = 1e-9;
/// The files of one benchmark.
const SAMPLE: &str = "sample.json";
const ESTIMATES: &str = "estimates.json";
const BENCHMARK: &str = "benchmark.json";

const TOOL: Tool = Tool {
    format: Format::Criterion,
    one_process: "its samples are iterations inside one process",
    differs: "criterion's time_s is the mean over its samples of the time of an iteration, without the \
              start and the end of a process; criterion itself prints the slope, where it has one",
    unknown: "on which machine it was made",
};

pub(super) fn read(path: &Path, bytes: &[u8], file: String) -> Result<Source> {
    let values = field::values(bytes, &file, &[])?;
    let runs = match values.as_slice() {
        [first, ..] if first.get("reason").is_some() => messages(&values, &file)?,
        [one] => vec![benchmark(path, one, &file)?],
        _ => bail!("{file}: expected the one object of a benchmark, found {}", values.len()),
    };
    let n = runs.len();
    let facts = vec![format!("{n} benchmark{}", if n == 1 { "" } else { "s" })];
    Ok(TOOL.source(file, facts, &runs, Vec::new()))
}

fn run(process: usize, label: String, work: Option<String>, seconds: f64) -> Run {
    let mut identity = Identity::of_format(Format::Criterion.name());
    identity.text("benchmark", "benchmark", Severity::Warn, &label);
    if let Some(work) = work {
        identity.text("work", "work of an iteration", Severity::Refuse, work);
    }
    let figures = vec![Figure { metric: Metric::Time, test: None, decides: true, value: seconds }];
    Run { process, label, on: String::new(), settings: BTreeMap::new(), identity, figures }
}

/// Lines of cargo-criterion. Names are unique within a run, so a name that comes again is of another
/// run, which was appended.
fn messages(values: &[Value], file: &str) -> Result<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    for (i, value) in values.iter().enumerate() {
        let message = Object::new(format!("{file}: message {}", i + 1), value)?;
        if message.text("reason")? != "benchmark-complete" {
            continue;
        }
        let label = message.text("id")?.to_string();
        let mean = message
            .object("mean")?
            .ok_or_else(|| message.error("mean", "an object with an estimate", "none"))?;
        match mean.text("unit")? {
            "ns" => {}
            found => return Err(mean.error("unit", "ns, a time", found)),
        }
        let seconds = required(&mean, "estimate")?;
        let work = message.get("throughput").and_then(|all| {
            let of = all.get(0)?;
            Some(work(of.get("unit")?.as_str()?, of.get("per_iteration")?))
        });
        let process = runs.iter().filter(|run| run.label == label).count();
        runs.push(run(process, label, work, seconds));
    }
    match runs.is_empty() {
        true => bail!("{file}: expected a message benchmark-complete, found none"),
        false => Ok(runs),
    }
}

/// The benchmark of a file in its folder.
fn benchmark(path: &Path, value: &Value, file: &str) -> Result<Run> {
    let names = match value.get("full_id") {
        Some(_) => Some(value.clone()),
        None => beside(path, BENCHMARK)?,
    };
    let seconds = match value.get("full_id") {
        Some(_) => match (beside(path, SAMPLE)?, beside(path, ESTIMATES)?) {
            (Some(sample), _) => mean(&sample, SAMPLE)?,
            (None, Some(estimates)) => mean(&estimates, ESTIMATES)?,
            (None, None) => {
                bail!("{file}: expected {SAMPLE} or {ESTIMATES} beside it, found neither")
            }
        },
        None => mean(value, file)?,
    };
    // target/criterion/NAME/new/sample.json
    let folder = || path.parent()?.parent()?.file_name().map(|n| n.to_string_lossy().to_string());
    let (label, per_iteration) = match &names {
        Some(names) => {
            let names = Object::new(format!("{file}: {BENCHMARK}"), names)?;
            let work = names.object("throughput")?.and_then(|of| {
                let (unit, number) = of.fields.iter().next()?;
                Some(work(unit, number))
            });
            (names.text("full_id")?.to_string(), work)
        }
        None => (folder().unwrap_or_else(|| Format::Criterion.name().into()), None),
    };
    Ok(run(0, label, per_iteration, seconds))
}

/// `1024 bytes`, whichever of the two forms says it.
fn work(unit: &str, per_iteration: &Value) -> String {
    let unit = unit.to_lowercase();
    format!("{per_iteration} {}", unit.strip_suffix("decimal").unwrap_or(&unit))
}

/// The mean time of an iteration in seconds, from a sample or from estimates.
fn mean(value: &Value, place: &str) -> Result<f64> {
    let object = Object::new(place.to_string(), value)?;
    let Some(times) = object.samples("times", "time")? else {
        let mean = object
            .object("mean")?
            .ok_or_else(|| object.error("mean", "an object with a point_estimate", "none"))?;
        return required(&mean, "point_estimate");
    };
    let iterations = object.samples("iters", "number")?.unwrap_or_default();
    if iterations.len() != times.len() {
        let expected = format!("{}, one for each time", times.len());
        return Err(object.error("iters", &expected, &iterations.len().to_string()));
    }
    let of_samples = times.iter().zip(&iterations).map(|(ns, n)| ns / n);
    let seconds = of_samples.sum::<f64>() / times.len() as f64 * NS;
    match super::measurable(seconds) {
        true => Ok(seconds),
        false => Err(object.error("times", "a time of an iteration above 0", "another")),
    }
}

/// A time in nanoseconds, as seconds.
fn required(object: &Object<'_>, name: &str) -> Result<f64> {
    let value = object.figure(name, NS)?;
    value.ok_or_else(|| object.error(name, "a number above 0", "none"))
}

/// Another file of the same folder, if it is there.
fn beside(path: &Path, name: &str) -> Result<Option<Value>> {
    let beside = path.with_file_name(name);
    if !beside.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let read = File::open(&beside).and_then(|f| f.take(MAX_FOREIGN).read_to_end(&mut bytes));
    read.with_context(|| format!("cannot read {}", beside.display()))?;
    let value = serde_json::from_slice(&bytes);
    value.map(Some).map_err(|e| anyhow!("{}: {e}", beside.display()))
}
