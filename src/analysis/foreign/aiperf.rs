//! AIPerf's `profile_export_aiperf.json`, of version 0.2 and later: one run, whose metrics stand in
//! the top object with their units.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde_json::Value;

use super::field::{self, Object};
use super::runs::{self, Requests, Run, Tool};
use super::{Format, Source};
use crate::identity::{Identity, Severity, scalar};
use crate::metric::Metric;
use crate::record::Warning;

/// Where a version names the model.
const MODEL: [&str; 2] =
    ["/input_config/endpoint/model_names/0", "/input_config/models/items/0/name"];
/// Where a version keeps how requests were sent.
const LOAD: [&str; 2] = ["loadgen", "phases"];

/// Distributions over requests: mean, p50, p95, p99.
const OF_REQUESTS: [(&str, [Metric; 4]); 3] = [
    ("time_to_first_token", [Metric::Ttft, Metric::TtftP50, Metric::TtftP95, Metric::TtftP99]),
    ("inter_token_latency", [Metric::Tpot, Metric::TpotP50, Metric::TpotP95, Metric::TpotP99]),
    (
        "request_latency",
        [
            Metric::E2eLatencyMean,
            Metric::E2eLatencyP50,
            Metric::E2eLatencyP95,
            Metric::E2eLatencyP99,
        ],
    ),
];
/// A distribution over the gaps between chunks.
const OF_GAPS: [(&str, Metric); 3] =
    [("p50", Metric::ItlP50), ("p95", Metric::ItlP95), ("p99", Metric::ItlP99)];
/// Rates of the whole run, and the unit of each.
const RATES: [(&str, &str, Metric); 5] = [
    ("request_throughput", "requests/sec", Metric::RequestThroughput),
    ("input_token_throughput", "tokens/sec", Metric::InputThroughput),
    ("output_token_throughput", "tokens/sec", Metric::OutputThroughput),
    ("total_token_throughput", "tokens/sec", Metric::TotalTps),
    ("goodput", "requests/sec", Metric::Goodput),
];

pub(super) fn read(bytes: &[u8], file: String) -> Result<Source> {
    let (mut all, mut warnings, mut facts) = (Vec::new(), Vec::new(), Vec::new());
    for (process, value) in field::values(bytes, &file, &[])?.iter().enumerate() {
        let top = Object::new(file.clone(), value)?;
        let fact = |name| top.get(name).and_then(Value::as_str).unwrap_or_default();
        let version = fact("aiperf_version");
        if facts.is_empty() {
            facts = vec![format!("aiperf {version}").trim().into(), fact("start_time").into()];
        }
        warnings.extend(unfinished(&top));
        let count = |name| statistic(&top, name, "avg");
        let (good, failed) = (count("request_count")?, count("error_request_count")?);
        let (good, failed) = (good.unwrap_or(0.0), failed.unwrap_or(0.0));
        warnings.extend(runs::failed("this run", failed, failed + good));
        all.push(run(&top, value, process, (version, good))?);
    }
    let tool = Tool {
        format: Format::Aiperf,
        one_process: "its requests share one client and one server",
        differs: "AIPerf's ITL is the mean over requests of (E2E - TTFT) / (n - 1), which llm-bench \
                  calls TPOT and divides sum by sum; its inter-chunk latency is read as ITL, though \
                  a chunk may carry several tokens; its times count from sending, not from the \
                  planned arrival",
        unknown: "on which machine it was made, or whether the server was started anew for it",
    };
    Ok(tool.source(file, facts, &all, warnings))
}

fn run(
    top: &Object<'_>,
    value: &Value,
    process: usize,
    (version, requests): (&str, f64),
) -> Result<Run> {
    let mut figures = Requests::default();
    for (name, [of_mean, p50, p95, p99]) in OF_REQUESTS {
        let Some((distribution, scale)) = time(top, name)? else { continue };
        let n = distribution.figure("count", 1.0)?.unwrap_or(requests);
        for (name, metric) in [("avg", of_mean), ("p50", p50), ("p95", p95), ("p99", p99)] {
            figures.add(metric, distribution.figure(name, scale)?, n);
        }
    }
    if let Some((gaps, scale)) = time(top, "inter_chunk_latency")? {
        // A version without a count has one gap or more for each request.
        let n = gaps.figure("count", 1.0)?.unwrap_or(requests);
        for (name, metric) in OF_GAPS {
            figures.add(metric, gaps.figure(name, scale)?, n);
        }
    }
    for (name, unit, metric) in RATES {
        let Some(rate) = top.object(name)? else { continue };
        match rate.text("unit")? {
            found if found == unit => figures.add(metric, rate.figure("avg", 1.0)?, 1.0),
            found => return Err(rate.error("unit", unit, found)),
        }
    }
    let figures = figures.figures();
    if figures.is_empty() {
        bail!("{}: expected figures of requests that succeeded, found none", top.place);
    }
    let model = MODEL.iter().find_map(|place| value.pointer(place)?.as_str()).unwrap_or_default();
    let mut identity = Identity::of_format(Format::Aiperf.name());
    identity.text("model", "model", Severity::Refuse, model);
    identity.text("version", "version of AIPerf", Severity::Warn, version);
    for (name, field, title) in [
        ("input_sequence_length", "prompt_tokens", "prompt tokens of a request"),
        ("output_sequence_length", "output_tokens", "generated tokens of a request"),
    ] {
        let tokens = statistic(top, name, "avg")?.unwrap_or(0.0);
        identity.text(field, title, Severity::Warn, format!("{tokens:.0}"));
    }
    let mut settings = BTreeMap::new();
    for part in LOAD {
        if let Some(load) = value.pointer(&format!("/input_config/{part}")) {
            flatten(part, load, &mut settings);
        }
    }
    settings.iter().for_each(|(name, value)| identity.setting(name, value));
    let label = Format::Aiperf.name().to_string();
    Ok(Run { process, label, on: model.into(), settings, identity, figures })
}

/// A statistic of a metric that is no time.
fn statistic(top: &Object<'_>, name: &str, statistic: &str) -> Result<Option<f64>> {
    match top.object(name)? {
        Some(metric) => metric.figure(statistic, 1.0),
        None => Ok(None),
    }
}

/// The statistics of a time, and its unit in seconds.
fn time<'a>(top: &Object<'a>, name: &str) -> Result<Option<(Object<'a>, f64)>> {
    let Some(metric) = top.object(name)? else { return Ok(None) };
    let scale = match metric.text("unit")? {
        "ns" => 1e-9,
        "us" => 1e-6,
        "ms" => 1e-3,
        "sec" => 1.0,
        found => return Err(metric.error("unit", "ns, us, ms or sec", found)),
    };
    Ok(Some((metric, scale)))
}

/// Single values at every depth, named by their places.
fn flatten(place: &str, value: &Value, all: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| flatten(&format!("{place}.{name}"), value, all));
        }
        Value::Array(items) => {
            let items = items.iter().enumerate();
            items.for_each(|(i, item)| flatten(&format!("{place}.{i}"), item, all));
        }
        single => {
            if let Some(text) = scalar(single) {
                all.insert(place.into(), text);
            }
        }
    }
}

fn unfinished(top: &Object<'_>) -> Option<Warning> {
    let is = |name, found| top.get(name).and_then(Value::as_bool) == Some(found);
    (is("was_cancelled", true) || is("is_complete", false)).then(|| Warning {
        code: "incomplete_run".into(),
        arm: None,
        message: "AIPerf did not finish this run: its figures are of the requests until then"
            .into(),
        advice: "measure again".into(),
    })
}
