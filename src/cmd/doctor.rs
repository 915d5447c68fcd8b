//! `doctor`: is this machine fit to measure on?

use std::fmt::Write as _;
use std::io::{Write as _, stdout};

use anyhow::{Result, bail};
use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table};

use super::progress::say;
use crate::cli::{DoctorArgs, Output};
use crate::engine::Registry as Engines;
use crate::engine::provision::Provisioner;
use crate::measure::arithmetic::Format;
use crate::measure::doctor::{Diagnosis, Finding, ModelNeed, Question, State, examine};
use crate::model::cache::CacheDir;
use crate::model::quant::Quant;
use crate::model::registry::Registry;
use crate::model::synth;
use crate::report::Style;
use crate::units::three_digits;

/// The model whose ceilings are told, in the lightest and the heaviest of its common types.
const MODEL: &str = "llama3-1b";
const QUANTS: [(Quant, Format); 2] = [(Quant::Q4_0, Format::Int8), (Quant::F16, Format::Bf16)];

pub fn run(args: &DoctorArgs) -> Result<()> {
    if !matches!(args.output.output, Output::Table | Output::Json) {
        bail!("doctor -o: expected table or json");
    }
    let threads = args
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get() as u32));
    let cache = CacheDir::from_env();
    let question = Question {
        threads,
        models: &models()?,
        cache: cache.path(),
        others: vec![engines(&cache)?],
    };
    let diagnosis = examine(question, &say)?;
    match args.output.output {
        Output::Json => writeln!(stdout(), "{}", serde_json::to_string_pretty(&diagnosis)?)?,
        _ => write!(stdout(), "{}", table(&diagnosis, Style::of_stdout()))?,
    }
    Ok(())
}

fn models() -> Result<Vec<ModelNeed>> {
    let registry = Registry::embedded()?;
    let Some(arch) = &registry.find(MODEL)?.arch else {
        return Ok(Vec::new());
    };
    let need = |(quant, format): (Quant, Format)| {
        Ok(ModelNeed {
            name: format!("{MODEL} {quant}"),
            file: synth::file_size(arch, quant)?,
            read_per_token: synth::weight_bytes_per_token(arch, quant)?,
            macs_per_token: arch.macs_per_prompt_token() as f64,
            format,
        })
    };
    QUANTS.into_iter().map(need).collect()
}

/// Which engines could start now.
fn engines(cache: &CacheDir) -> Result<Finding> {
    let registry = Engines::load()?;
    let looking = Provisioner::new(cache.path().into(), false)?;
    let (mut ready, mut missing) = (Vec::new(), Vec::new());
    for engine in registry.all() {
        match looking.provide(engine, "tiny", &|_| {}) {
            Ok(_) => ready.push(engine.name.as_str()),
            Err(_) => missing.push(engine.name.as_str()),
        }
    }
    let found = format!("ready: {}", ready.join(", "));
    Ok(match missing.is_empty() {
        true => Finding::ok("engines", found),
        false => Finding::ok("engines", format!("{found}; not installed: {}", missing.join(", ")))
            .advice(format!("`llm-bench engines install {}`", missing.join(" "))),
    })
}

fn table(d: &Diagnosis, style: Style) -> String {
    let mut table = Table::new();
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.force_no_tty().set_width(style.width).load_style(NOTHING);
    if style.color {
        table.enforce_styling();
    }
    let paint = |text: &str, color: Color| match style.color {
        true => Cell::new(text).fg(color).add_attribute(Attribute::Bold),
        false => Cell::new(text),
    };
    for finding in &d.checks {
        let state = match finding.state {
            State::Ok => paint("ok", Color::Green),
            State::Warn => paint("warn", Color::Yellow),
            State::Unknown => paint("?", Color::DarkGrey),
        };
        let text = match &finding.advice {
            Some(advice) => format!("{}\n→ {advice}", finding.found),
            None => finding.found.clone(),
        };
        table.add_row([state, Cell::new(finding.check), Cell::new(text)]);
    }
    let lines = table.lines().map(|line| line.trim_end().to_string() + "\n");
    let mut out: String = lines.collect();
    let warnings = d.checks.iter().filter(|f| f.state == State::Warn).count();
    let unknown = d.checks.iter().filter(|f| f.state == State::Unknown).count();
    let _ = writeln!(
        out,
        "\n{warnings} warnings, {unknown} unknown, {} ok; {} threads",
        d.checks.len() - warnings - unknown,
        d.threads
    );
    for r in &d.rooflines {
        let _ = writeln!(
            out,
            "{}: at most {} tok/s of decode (read bandwidth), {} tok/s of prefill ({} arithmetic)",
            r.model,
            three_digits(r.decode_tps),
            three_digits(r.prefill_tps),
            r.format.name()
        );
    }
    out
}
