//! vLLM's benchmarks: `vllm bench serve --save-result`, `vllm bench latency --output-json` and
//! `vllm bench throughput --output-json`. Each object of a file is one run of the tool;
//! `--append-result` writes several. The means of a run are taken as the file states them.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::Value;

use super::field::{self, Object};
use super::runs::{self, Figure, MS, Requests, Run, Tool};
use super::{Format, Source, measurable};
use crate::identity::{Identity, Severity, scalar};
use crate::metric::Metric;
use crate::stats::Sample;

/// What `--save-detailed` adds for each request.
const LISTS: [&str; 9] = [
    "input_lens",
    "output_lens",
    "ttfts",
    "itls",
    "latencies",
    "start_times",
    "queue_times",
    "generated_texts",
    "errors",
];
/// Numbers among the settings; what `--metadata` adds is text.
const NUMBERS: [&str; 6] = [
    "request_rate",
    "burstiness",
    "max_concurrency",
    "num_prompts",
    "ramp_up_start_rps",
    "ramp_up_end_rps",
];
/// Texts that are no settings, or the same setting twice.
const NO_SETTINGS: [&str; 3] = ["date", "model_id", "endpoint_type"];

/// Statistics of requests, in milliseconds.
const OF_REQUESTS: [(&str, Metric); 12] = [
    ("mean_ttft_ms", Metric::Ttft),
    ("median_ttft_ms", Metric::TtftP50),
    ("p95_ttft_ms", Metric::TtftP95),
    ("p99_ttft_ms", Metric::TtftP99),
    ("mean_tpot_ms", Metric::Tpot),
    ("median_tpot_ms", Metric::TpotP50),
    ("p95_tpot_ms", Metric::TpotP95),
    ("p99_tpot_ms", Metric::TpotP99),
    ("mean_e2el_ms", Metric::E2eLatencyMean),
    ("median_e2el_ms", Metric::E2eLatencyP50),
    ("p95_e2el_ms", Metric::E2eLatencyP95),
    ("p99_e2el_ms", Metric::E2eLatencyP99),
];
/// Statistics of gaps, in milliseconds.
const OF_GAPS: [(&str, Metric); 3] = [
    ("median_itl_ms", Metric::ItlP50),
    ("p95_itl_ms", Metric::ItlP95),
    ("p99_itl_ms", Metric::ItlP99),
];
/// Rates of the whole run. Earlier versions wrote the goodput with a colon in its name.
const RATES: [(&str, Metric); 5] = [
    ("request_throughput", Metric::RequestThroughput),
    ("output_throughput", Metric::OutputThroughput),
    ("total_token_throughput", Metric::TotalTps),
    ("request_goodput", Metric::Goodput),
    ("request_goodput:", Metric::Goodput),
];

pub(super) fn serve(bytes: &[u8], file: String) -> Result<Source> {
    let (mut all, mut warnings, mut facts) = (Vec::new(), Vec::new(), Vec::new());
    for (process, value) in field::values(bytes, &file, &LISTS)?.iter().enumerate() {
        let object = Object::new(format!("{file}: result {}", process + 1), value)?;
        let requests = f64::from(object.number_of("completed", "requests")?);
        let asked = object.get("num_prompts").and_then(Value::as_f64).unwrap_or(requests);
        let failed = object.get("failed").and_then(Value::as_f64).unwrap_or(asked - requests);
        let result = format!("result {}", process + 1);
        warnings.extend(runs::failed(&result, failed, failed + requests));
        if facts.is_empty() {
            let fact = |name| object.get(name).and_then(scalar).unwrap_or_default();
            facts = vec![Format::VllmServe.name().to_string(), fact("date")];
        }
        all.push(served(&object, process, requests)?);
    }
    let tool = Tool {
        format: Format::VllmServe,
        one_process: "its requests share one client and one server",
        differs: "vLLM's TPOT is the mean over requests of (E2E - TTFT) / (n - 1), where llm-bench \
                  divides sum by sum; its ITL is the gap between chunks, which may carry several \
                  tokens; its times count from sending, not from the planned arrival",
        unknown: "on which machine it was made, or whether the server was started anew for it",
    };
    Ok(tool.source(file, facts, &all, warnings))
}

fn served(object: &Object<'_>, process: usize, requests: f64) -> Result<Run> {
    let mut figures = Requests::default();
    for (name, metric) in OF_REQUESTS {
        figures.add(metric, object.figure(name, MS)?, requests);
    }
    let tokens = object.figure("total_output_tokens", 1.0)?;
    for (name, metric) in OF_GAPS {
        figures.add(metric, object.figure(name, MS)?, tokens.unwrap_or(0.0) - requests);
    }
    for (name, metric) in RATES {
        figures.add(metric, object.figure(name, 1.0)?, requests);
    }
    let prompts = object.figure("total_input_tokens", 1.0)?;
    let duration = object.figure("duration", 1.0)?;
    let input = prompts.zip(duration).map(|(tokens, s)| tokens / s).filter(|x| measurable(*x));
    figures.add(Metric::InputThroughput, input, requests);
    let figures = figures.figures();
    if figures.is_empty() {
        return Err(object.error("completed", "requests that succeeded", &requests.to_string()));
    }
    let model = object.text("model_id")?;
    let mut identity = Identity::of_format(Format::VllmServe.name());
    identity.text("model", "model", Severity::Refuse, model);
    for (name, title, tokens) in [
        ("prompt_tokens", "prompt tokens of all requests", prompts),
        ("output_tokens", "generated tokens of all requests", tokens),
    ] {
        identity.text(name, title, Severity::Warn, tokens.unwrap_or(0.0).to_string());
    }
    let is_setting = |name: &str, value: &Value| {
        NUMBERS.contains(&name) || (value.is_string() && !NO_SETTINGS.contains(&name))
    };
    let fields = object.fields.iter().filter(|(name, value)| is_setting(name, value));
    let settings: BTreeMap<String, String> =
        fields.filter_map(|(name, value)| Some((name.clone(), scalar(value)?))).collect();
    settings.iter().for_each(|(name, value)| identity.setting(name, value));
    let label = Format::VllmServe.name().to_string();
    Ok(Run { process, label, on: model.to_string(), settings, identity, figures })
}

pub(super) fn latency(bytes: &[u8], file: String) -> Result<Source> {
    let tool = Tool {
        format: Format::VllmLatency,
        one_process: "its iterations share one process",
        differs: "vLLM's latency is the time of a whole batch inside one process, from handing over \
                  the prompts to the last token of the last sequence; e2e_latency of llm-bench is \
                  that of one request",
        unknown: "on which machine, with which model and with which batch it was made",
    };
    offline(&tool, bytes, file, |object| {
        let latencies = object.samples("latencies", "time")?.ok_or_else(|| {
            object.error("latencies", "the time of every iteration", "none; a mean is no sample")
        })?;
        let sample = Sample::new(&latencies)?;
        Ok(vec![
            (Metric::E2eLatencyMean, sample.mean(), true),
            (Metric::E2eLatencyP50, sample.median(), false),
        ])
    })
}

pub(super) fn throughput(bytes: &[u8], file: String) -> Result<Source> {
    let tool = Tool {
        format: Format::VllmThroughput,
        one_process: "its requests share one process",
        differs: "vLLM's throughput hands over all requests at once inside one process, without a \
                  server; its tokens per second count prompt and generated tokens together",
        unknown: "on which machine, with which model and with which lengths it was made",
    };
    offline(&tool, bytes, file, |object| {
        let figure = |name: &str| {
            let value = object.figure(name, 1.0)?;
            value.ok_or_else(|| object.error(name, "a number above 0", "none"))
        };
        Ok(vec![
            (Metric::TotalTps, figure("tokens_per_second")?, true),
            (Metric::RequestThroughput, figure("requests_per_second")?, false),
        ])
    })
}

/// A file that holds figures and nothing about what was measured.
fn offline(
    tool: &Tool,
    bytes: &[u8],
    file: String,
    read: impl Fn(&Object<'_>) -> Result<Vec<(Metric, f64, bool)>>,
) -> Result<Source> {
    let mut all = Vec::new();
    for (process, value) in field::values(bytes, &file, &[])?.iter().enumerate() {
        let object = Object::new(format!("{file}: result {}", process + 1), value)?;
        let figure = |(metric, value, decides)| Figure { metric, test: None, decides, value };
        let figures = read(&object)?.into_iter().map(figure).collect();
        all.push(Run {
            process,
            label: tool.format.name().to_string(),
            on: String::new(),
            settings: BTreeMap::new(),
            identity: Identity::of_format(tool.format.name()),
            figures,
        });
    }
    Ok(tool.source(file, Vec::new(), &all, Vec::new()))
}
