//! GuideLLM's `benchmarks.json`, of version 0.3 and later: each benchmark, which is one strategy of
//! sending requests, is an arm.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde_json::Value;

use super::field::{self, Object};
use super::runs::{self, MS, Requests, Run, Tool};
use super::{Format, Source};
use crate::identity::{Identity, Severity, scalar};
use crate::metric::Metric;
use crate::record::Warning;

/// Every request with its text, which may be hundreds of megabytes.
const SKIPPED: [&str; 1] = ["requests"];
/// Where a version names the model: first inside a benchmark, then for the whole file.
const MODEL: [&str; 2] = ["/worker/backend_model", "/config/backend/model"];
const MODEL_OF_ALL: [&str; 3] =
    ["/args/model", "/args/backend_kwargs/model", "/config/spec/backend/model"];
/// Where a version keeps how requests were sent, and the fields that say it.
const STRATEGY: [&str; 2] = ["/config/strategy", "/args/strategy"];
const OF_STRATEGY: [&str; 4] = ["type_", "rate", "streams", "max_concurrency"];

/// Distributions over requests: mean, p50, p95, p99.
const TIMES: [(&str, f64, [Metric; 4]); 3] = [
    (
        "time_to_first_token_ms",
        MS,
        [Metric::Ttft, Metric::TtftP50, Metric::TtftP95, Metric::TtftP99],
    ),
    // Weighted by n - 1, so that its mean divides sum by sum, as TPOT of llm-bench does.
    (
        "inter_token_latency_ms",
        MS,
        [Metric::Tpot, Metric::TpotP50, Metric::TpotP95, Metric::TpotP99],
    ),
    (
        "request_latency",
        1.0,
        [
            Metric::E2eLatencyMean,
            Metric::E2eLatencyP50,
            Metric::E2eLatencyP95,
            Metric::E2eLatencyP99,
        ],
    ),
];
/// Distributions over time, whose mean is what was counted divided by the time.
const RATES: [(&str, Metric); 5] = [
    ("requests_per_second", Metric::RequestThroughput),
    ("prompt_tokens_per_second", Metric::InputThroughput),
    ("output_tokens_per_second", Metric::OutputThroughput),
    ("tokens_per_second", Metric::TotalTps),
    ("request_goodput", Metric::Goodput),
];

pub(super) fn read(bytes: &[u8], file: String) -> Result<Source> {
    let (mut all, mut warnings, mut facts) = (Vec::new(), Vec::new(), Vec::new());
    for (process, report) in field::values(bytes, &file, &SKIPPED)?.iter().enumerate() {
        let top = Object::new(file.clone(), report)?;
        let version = report.pointer("/metadata/guidellm_version").and_then(Value::as_str);
        if facts.is_empty() {
            facts = vec![format!("guidellm {}", version.unwrap_or("of an unknown version"))];
        }
        for (i, value) in top.list("benchmarks", "benchmarks")?.iter().enumerate() {
            let benchmark = Object::new(format!("{file}: benchmarks[{i}]"), value)?;
            let Some(metrics) = benchmark.object("metrics")? else {
                let expected = "the metrics of a benchmark of GuideLLM 0.3 or later";
                return Err(benchmark.error("metrics", expected, "none"));
            };
            let model = model(value, report).unwrap_or_default();
            let run = run(&metrics, value, process, (model, version))?;
            warnings.extend(failures(&format!("benchmarks[{i}]"), &benchmark, &metrics));
            // A strategy under which no request succeeded is lost, and is missed as an arm.
            all.extend(Some(run).filter(|run| !run.figures.is_empty()));
        }
    }
    if all.is_empty() {
        bail!("{file}: expected requests that succeeded, found none in any benchmark");
    }
    let tool = Tool {
        format: Format::Guidellm,
        one_process: "its requests share one client and one server",
        differs: "GuideLLM's ITL is each request's (t_last - t_first) / (n - 1), which llm-bench \
                  calls TPOT, weighted by tokens, and so are its percentiles; its \
                  time_per_output_token is not read; its times count from sending, not from the \
                  planned arrival",
        unknown: "on which machine it was made, or whether the server was started anew for it",
    };
    Ok(tool.source(file, facts, &all, warnings))
}

fn run(
    metrics: &Object<'_>,
    benchmark: &Value,
    process: usize,
    (model, version): (&str, Option<&str>),
) -> Result<Run> {
    // Each metric is told apart by how requests ended.
    let succeeded = |name: &str| match metrics.object(name)? {
        Some(by_status) => by_status.object("successful"),
        None => Ok(None),
    };
    let mean = |name: &str, scale| match succeeded(name)? {
        Some(distribution) => distribution.figure("mean", scale),
        None => Ok(None),
    };
    let mut figures = Requests::default();
    for (name, scale, [of_mean, p50, p95, p99]) in TIMES {
        let Some(distribution) = succeeded(name)? else { continue };
        let n = distribution.figure("count", 1.0)?.unwrap_or(0.0);
        figures.add(of_mean, distribution.figure("mean", scale)?, n);
        let Some(percentiles) = distribution.object("percentiles")? else { continue };
        for (name, metric) in [("p50", p50), ("p95", p95), ("p99", p99)] {
            figures.add(metric, percentiles.figure(name, scale)?, n);
        }
    }
    for (name, metric) in RATES {
        figures.add(metric, mean(name, 1.0)?, 1.0);
    }
    let mut identity = Identity::of_format(Format::Guidellm.name());
    identity.text("model", "model", Severity::Refuse, model);
    identity.text("version", "version of GuideLLM", Severity::Warn, version.unwrap_or_default());
    for (name, field, title) in [
        ("prompt_token_count", "prompt_tokens", "prompt tokens of a request"),
        ("output_token_count", "output_tokens", "generated tokens of a request"),
    ] {
        let tokens = mean(name, 1.0)?.unwrap_or(0.0);
        identity.text(field, title, Severity::Warn, format!("{tokens:.0}"));
    }
    let strategy = STRATEGY.iter().find_map(|place| benchmark.pointer(place));
    let of_strategy = |name: &&str| Some((name.to_string(), scalar(strategy?.get(name)?)?));
    let settings: BTreeMap<String, String> = OF_STRATEGY.iter().filter_map(of_strategy).collect();
    settings.iter().for_each(|(name, value)| identity.setting(name, value));
    Ok(Run {
        process,
        label: Format::Guidellm.name().to_string(),
        on: model.to_string(),
        settings,
        identity,
        figures: figures.figures(),
    })
}

fn model<'a>(benchmark: &'a Value, report: &'a Value) -> Option<&'a str> {
    let inside = MODEL.iter().filter_map(|place| benchmark.pointer(place)?.as_str());
    let of_all = MODEL_OF_ALL.iter().filter_map(|place| report.pointer(place)?.as_str());
    inside.chain(of_all).next()
}

/// Warns of requests that failed; those that the end of the measurement cut off did not.
fn failures(label: &str, benchmark: &Object<'_>, metrics: &Object<'_>) -> Option<Warning> {
    let totals = metrics.get("request_totals").or_else(|| benchmark.get("request_totals"))?;
    let number = |name| totals.get(name).and_then(Value::as_f64);
    let (errored, all) = (number("errored")?, number("total")?);
    runs::failed(label, errored, all)
}
