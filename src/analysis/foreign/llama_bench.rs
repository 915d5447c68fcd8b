//! llama-bench's `-o json` and `-o jsonl`: one arm per model and setting, one series per test
//! (pp512, tg128, pp512+tg128, each perhaps at a depth). A test that occurs once in the file gives
//! its repetitions, which share a process. One that occurs several times (several runs appended to
//! one file) gives one value per run; all tests of one list belong to one run.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, anyhow, bail};
use serde_json::Value;

use super::field::Object;
use super::runs::mean;
use super::{Format, SampledArm, Series, Source};
use crate::analysis::sides::Earlier;
use crate::identity::{Identity, Severity, scalar};
use crate::metric::Metric;
use crate::record::Warning;

/// Fields that hold results, places or times, and no settings.
const NOT_SETTINGS: [&str; 19] = [
    "build_commit",
    "build_number",
    "cpu_info",
    "gpu_info",
    "backends",
    "model_filename",
    "model_type",
    "model_size",
    "model_n_params",
    "n_prompt",
    "n_gen",
    "n_depth",
    "test_time",
    "avg_ns",
    "stddev_ns",
    "avg_ts",
    "stddev_ts",
    "samples_ns",
    "samples_ts",
];
/// A warning that holds only as long as a file stands alone.
pub(super) const ONE_PROCESS: &str = "samples_of_one_process";
/// llama-bench writes rates with six digits.
const ROUNDING: f64 = 1e-4;

/// One test of one run.
struct Entry {
    /// The process that it ran in: all tests of one list share one.
    process: usize,
    build: String,
    /// Name of the model file, without its folder.
    file: String,
    model: String,
    identity: Identity,
    settings: BTreeMap<String, String>,
    test: Test,
    /// Tokens per second: of each repetition, and of all together.
    rates: Vec<f64>,
    rate: f64,
    facts: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Test {
    depth: u32,
    prompt: u32,
    generated: u32,
}

impl Test {
    /// The name in llama-bench's own table.
    fn name(self) -> String {
        let mut name = match (self.prompt, self.generated) {
            (p, 0) => format!("pp{p}"),
            (0, n) => format!("tg{n}"),
            (p, n) => format!("pp{p}+tg{n}"),
        };
        if self.depth > 0 {
            name += &format!(" @ d{}", self.depth);
        }
        name
    }

    fn metric(self) -> Metric {
        match (self.prompt, self.generated) {
            (_, 0) => Metric::PrefillTps,
            (0, _) => Metric::DecodeTps,
            _ => Metric::TotalTps,
        }
    }
}

pub(super) fn read(bytes: &[u8], file: String) -> Result<Source> {
    let (mut entries, mut processes) = (Vec::new(), 0);
    // A list, objects line by line, or several of either in a row.
    for value in serde_json::Deserializer::from_slice(bytes).into_iter::<Value>() {
        let value = value.map_err(|e| anyhow!("{file}: {e}"))?;
        processes += 1;
        let items = match value {
            Value::Array(items) => items,
            other => vec![other],
        };
        for item in &items {
            let place = format!("{file}: entry {}", entries.len() + 1);
            entries.push(entry(&Object::new(place, item)?, processes)?);
        }
    }
    let Some(first) = entries.first() else {
        bail!("{file}: expected the tests of a llama-bench run, found an empty list");
    };
    let mut facts = first.facts.clone();
    let builds: BTreeSet<&String> = entries.iter().map(|e| &e.build).collect();
    if builds.len() > 1 {
        facts.push(format!("{} builds", builds.len()));
    }
    let (arms, in_one_process) = arms(&entries);
    let mut warnings = Vec::new();
    if in_one_process {
        warnings.push(Warning {
            code: ONE_PROCESS.into(),
            arm: None,
            message: "llama-bench repeats inside one process: what that process is lucky in, all \
                      its samples share, so that small differences look surer than they are"
                .into(),
            advice: "append several runs to one file (llama-bench -o jsonl >> FILE), or give the \
                     files of each side (compare A1 A2 -- B1 B2): each run is then one launch"
                .into(),
        });
    }
    Ok(Source {
        file,
        format: Format::LlamaBench,
        facts,
        synthetic: false,
        session: None,
        executable: None,
        arms,
        warnings,
    })
}

fn entry(object: &Object<'_>, process: usize) -> Result<Entry> {
    let test = Test {
        depth: object.get("n_depth").map_or(Ok(0), |_| object.count("n_depth"))?,
        prompt: object.count("n_prompt")?,
        generated: object.count("n_gen")?,
    };
    let tokens = u64::from(test.prompt) + u64::from(test.generated);
    if tokens == 0 {
        return Err(object.error("n_prompt", "a test with tokens", "0, and n_gen is 0"));
    }
    let rates = rates(object, tokens as f64)?;
    let known = |name: &str| object.get(name).and_then(scalar).unwrap_or_default();
    let path = object.text("model_filename")?;
    let file = path.rsplit(['/', '\\']).next().unwrap_or(path).to_string();
    let settings: BTreeMap<String, String> = object
        .fields
        .iter()
        .filter(|(name, value)| !NOT_SETTINGS.contains(&name.as_str()) && !value.is_f64())
        .filter_map(|(name, value)| Some((name.clone(), scalar(value)?)))
        .collect();
    let mut identity = Identity::of_format("llama-bench");
    for (name, field, title, severity) in [
        ("cpu_info", "cpu_model", "CPU", Severity::Refuse),
        ("gpu_info", "gpu_model", "GPU", Severity::Refuse),
        ("backends", "features", "backends", Severity::Refuse),
        ("model_type", "model", "model", Severity::Refuse),
        ("model_size", "model_size", "size of the model", Severity::Refuse),
        ("n_threads", "engine_threads", "threads of the engines", Severity::Refuse),
    ] {
        identity.text(field, title, severity, known(name));
    }
    identity.text("model_file", "model file's name", Severity::Warn, &file);
    for (name, value) in settings.iter().filter(|(name, _)| *name != "n_threads") {
        identity.setting(name, value);
    }
    let build = known("build_commit");
    let facts = vec![format!("build {build}"), known("cpu_info"), known("gpu_info")];
    Ok(Entry {
        process,
        facts: facts.into_iter().chain([known("test_time")]).filter(|f| !f.is_empty()).collect(),
        build,
        file,
        model: known("model_type"),
        identity,
        settings,
        test,
        rate: mean(test.metric(), &rates),
        rates,
    })
}

/// Tokens per second of each repetition, from the times, which are exact. The rates in the file
/// must agree with them.
fn rates(object: &Object<'_>, tokens: f64) -> Result<Vec<f64>> {
    let times = object.samples("samples_ns", "time")?;
    let stated = object.samples("samples_ts", "rate")?;
    let Some(times) = times else {
        return stated.ok_or_else(|| {
            let found = "none; its avg_ts and stddev_ts are no samples";
            object.error("samples_ns", "the time of every repetition", found)
        });
    };
    let rates: Vec<f64> = times.iter().map(|ns| tokens * 1e9 / ns).collect();
    let near = |(a, b): (&f64, &f64)| (a / b - 1.0).abs() < ROUNDING;
    match stated {
        Some(stated) if stated.len() != rates.len() || !rates.iter().zip(&stated).all(near) => {
            let expected = "the rates that follow from samples_ns and the numbers of tokens";
            Err(object.error("samples_ts", expected, "others"))
        }
        _ => Ok(rates),
    }
}

/// Groups entries of one build, model and setting into an arm. Also returns whether a series rests
/// on the repetitions of one process.
fn arms(entries: &[Entry]) -> (Vec<SampledArm>, bool) {
    let mut groups: Vec<Vec<&Entry>> = Vec::new();
    let alike = |a: &Entry, b: &Entry| {
        (&a.build, &a.file, &a.model, &a.settings) == (&b.build, &b.file, &b.model, &b.settings)
    };
    for entry in entries {
        match groups.iter_mut().find(|group| alike(group[0], entry)) {
            Some(group) => group.push(entry),
            None => groups.push(vec![entry]),
        }
    }
    let mut in_one_process = false;
    let firsts: Vec<&Entry> = groups.iter().map(|group| group[0]).collect();
    let arms = groups
        .iter()
        .map(|group| {
            let first = group[0];
            SampledArm {
                key: format!("{}\n{}", first.file, first.model),
                settings: first.settings.clone(),
                label: label(first, &firsts),
                on: match first.model.as_str() {
                    "" => first.file.clone(),
                    model => format!("{model} · {}", first.file),
                },
                identity: first.identity.clone(),
                launches: None,
                line: None,
                earlier: Earlier::default(),
                series: series(group, &mut in_one_process),
            }
        })
        .collect();
    (arms, in_one_process)
}

fn series(group: &[&Entry], in_one_process: &mut bool) -> Vec<Series> {
    // Keeps the order of the file.
    let mut seen = BTreeSet::new();
    let tests: Vec<Test> = group.iter().map(|e| e.test).filter(|t| seen.insert(*t)).collect();
    let one = |test: Test| {
        let of: Vec<&&Entry> = group.iter().filter(|e| e.test == test).collect();
        let mut processes: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        for entry in &of {
            processes.entry(entry.process).or_default().push(entry.rate);
        }
        let (values, of_process) = match of.as_slice() {
            [only] => {
                *in_one_process |= only.rates.len() > 1;
                (only.rates.clone(), Some(only.rate))
            }
            // Each process is a launch, however often it made the test.
            _ => {
                *in_one_process |= processes.len() == 1;
                let mean = |rates: &Vec<f64>| mean(test.metric(), rates);
                (processes.values().map(mean).collect(), None)
            }
        };
        Series {
            metric: test.metric(),
            test: Some(test.name()),
            decides: true,
            part: false,
            values,
            of_process,
            places: Vec::new(),
            tail: None,
        }
    };
    tests.into_iter().map(one).collect()
}

/// `llama.cpp`, and what distinguishes the arm from the others in its file.
fn label(entry: &Entry, all: &[&Entry]) -> String {
    let mut parts = vec!["llama.cpp".to_string()];
    if all.iter().any(|other| other.build != entry.build) {
        parts.push(entry.build.clone());
    }
    if all.iter().any(|other| (&other.file, &other.model) != (&entry.file, &entry.model)) {
        parts.push(entry.file.clone());
    }
    for (name, value) in &entry.settings {
        if all.iter().any(|other| other.settings.get(name) != Some(value)) {
            parts.push(format!("{name}={value}"));
        }
    }
    parts.join(" ")
}
