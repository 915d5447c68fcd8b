//! llama-benchy's `--format json`: one arm, and one series per test (pp2048, tg32 @ d4096 (c2)). Its
//! repetitions are requests of one client to one server, so a test has one value.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use super::field::{self, Object};
use super::runs::{Figure, MS, Run, Tool, mean};
use super::{Format, Source, measurable};
use crate::identity::{Identity, Severity, scalar};
use crate::metric::Metric;

const SETTINGS: [&str; 2] = ["latency_mode", "prefix_caching_enabled"];

pub(super) fn read(bytes: &[u8], file: String) -> Result<Source> {
    let (mut all, mut facts) = (Vec::new(), Vec::new());
    for (process, value) in field::values(bytes, &file, &[])?.iter().enumerate() {
        let top = Object::new(file.clone(), value)?;
        let fact = |name| top.get(name).and_then(scalar).unwrap_or_default();
        let version = fact("version");
        if facts.is_empty() {
            facts = vec![format!("llama-benchy {version}").trim().into(), fact("timestamp")];
        }
        let mut figures = Vec::new();
        for (i, test) in top.list("benchmarks", "tests")?.iter().enumerate() {
            tested(&Object::new(format!("{file}: benchmarks[{i}]"), test)?, &mut figures)?;
        }
        if figures.is_empty() {
            bail!("{file}: expected tests with results, found none");
        }
        let model = fact("model");
        let mut identity = Identity::of_format(Format::LlamaBenchy.name());
        identity.text("model", "model", Severity::Refuse, &model);
        identity.text("version", "version of llama-benchy", Severity::Warn, version);
        let setting = |name: &&str| Some((name.to_string(), scalar(top.get(name)?)?));
        let settings: BTreeMap<String, String> = SETTINGS.iter().filter_map(setting).collect();
        settings.iter().for_each(|(name, value)| identity.setting(name, value));
        let label = Format::LlamaBenchy.name().to_string();
        all.push(Run { process, label, on: model, settings, identity, figures });
    }
    let tool = Tool {
        format: Format::LlamaBenchy,
        one_process: "its runs are requests of one client to one server",
        differs: "llama-benchy's pp is prompt tokens / (time to the first response - the measured \
                  latency of the network), where prefill of llm-bench is the forward pass alone; in \
                  its tg a chunk counts as a token",
        unknown: "on which machine it was made, or whether the server was started anew for it",
    };
    Ok(tool.source(file, facts, &all, Vec::new()))
}

fn tested(test: &Object<'_>, figures: &mut Vec<Figure>) -> Result<()> {
    let count = |name| test.number_of(name, "tokens");
    let (depth, prompt, generated) =
        (count("context_size")?, count("prompt_size")?, count("response_size")?);
    let concurrency = test.number_of("concurrency", "requests")?;
    let mut behind = String::new();
    if depth > 0 {
        behind += &format!(" @ d{depth}");
    }
    if concurrency > 1 {
        behind += &format!(" (c{concurrency})");
    }
    // The load of the context is a test of its own, called as in the tool's table.
    let context = test.get("is_context_prefill_phase").and_then(|v| v.as_bool()) == Some(true);
    let (pp, tg) = match context {
        true => (format!("ctx_pp{behind}"), format!("ctx_tg{behind}")),
        false => (format!("pp{prompt}{behind}"), format!("tg{generated}{behind}")),
    };
    let mut add = |name: &str, metric: Metric, title: String, decides: bool| -> Result<()> {
        let Some(measured) = test.object(name)? else { return Ok(()) };
        let Some(values) = measured.samples("values", "number")? else { return Ok(()) };
        let scale = if metric == Metric::Ttft { MS } else { 1.0 };
        let value = mean(metric, &values) * scale;
        if !measurable(value) {
            return Err(measured.error("values", "numbers whose mean is above 0", "smaller ones"));
        }
        figures.push(Figure { metric, test: Some(title), decides, value });
        Ok(())
    };
    add("pp_throughput", Metric::PrefillTps, pp.clone(), true)?;
    match concurrency {
        1 => add("tg_throughput", Metric::DecodeTps, tg, true)?,
        _ => {
            add("tg_throughput", Metric::BatchDecodeTps, tg.clone(), true)?;
            add("tg_req_throughput", Metric::DecodeTps, format!("{tg}, each"), false)?;
        }
    }
    add("e2e_ttft", Metric::Ttft, format!("TTFT {pp}"), false)
}
