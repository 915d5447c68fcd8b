//! `doctor`: is this machine fit to measure on?

use std::io::{Write, stdout};

use anyhow::{Result, bail};

use super::report::format_of;
use crate::cli::{DoctorArgs, Output};
use crate::engine::provision::{Provisioner, Python, find_python};
use crate::engine::{Launcher, Registry as Engines};
use crate::measure::arithmetic::Format;
use crate::measure::doctor::{Finding, ModelNeed, Question, examine};
use crate::model::cache::CacheDir;
use crate::model::quant::Quant;
use crate::model::registry::Registry;
use crate::model::synth;
use crate::progress::say;
use crate::report::Style;
use crate::report::of::doctor::render;

/// The model whose ceilings are shown, in the lightest and the heaviest of its common types.
const MODEL: &str = "llama3-1b";
const QUANTS: [(Quant, Format); 2] = [(Quant::Q4_0, Format::Int8), (Quant::F16, Format::Bf16)];

pub fn run(args: &DoctorArgs) -> Result<()> {
    if args.output.output == Output::Csv {
        bail!("doctor -o csv: expected table or json, md or html");
    }
    let threads = args
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get() as u32));
    let cache = CacheDir::from_env()?;
    let question = Question {
        threads,
        models: &models()?,
        cache: cache.path(),
        others: vec![python()?, engines(&cache)?],
    };
    let diagnosis = examine(question, &say)?;
    let text = render(&diagnosis, format_of(args.output.output), Style::of_stdout());
    Ok(stdout().write_all(text.as_bytes())?)
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

/// The Python that engines with scripts would be installed with.
fn python() -> Result<Finding> {
    let registry = Engines::load()?;
    let bounds = registry.all().iter().filter_map(|e| match &e.launcher {
        Launcher::Folder(folder) => Some(folder.python_bound()),
        Launcher::Builtin => None,
    });
    let Some(bound) = bounds.max() else {
        return Ok(Finding::ok("Python", "no engine needs one"));
    };
    Ok(match find_python(bound) {
        Ok(Python { path, version: (major, minor) }) => {
            Finding::ok("Python", format!("{major}.{minor}, {}", path.display()))
        }
        Err(e) => Finding::warn("Python", "none that is new enough", e.to_string()),
    })
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
