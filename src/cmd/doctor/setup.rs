//! What llm-bench itself has on this machine: the models whose ceilings are shown, the Python that
//! engines are installed with, the engines that could start.

use anyhow::Result;

use crate::engine::provision::{Provisioner, Python, find_python};
use crate::engine::{Launcher, Registry as Engines};
use crate::measure::arithmetic::Format;
use crate::measure::doctor::{Finding, ModelNeed};
use crate::model::cache::CacheDir;
use crate::model::quant::Quant;
use crate::model::registry::Registry;
use crate::model::synth;

/// The model whose ceilings are shown, in the lightest and the heaviest of its common types.
const MODEL: &str = "llama3-1b";
const QUANTS: [(Quant, Format); 2] = [(Quant::Q4_0, Format::Int8), (Quant::F16, Format::Bf16)];

/// What the shown model needs of the machine, in each of these types.
pub fn models() -> Result<Vec<ModelNeed>> {
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
pub fn python() -> Result<Finding> {
    let registry = Engines::load()?;
    let bounds = registry.all().iter().filter_map(|e| match &e.launcher {
        Launcher::Folder(folder) => Some(folder.python_bound()),
        Launcher::Builtin | Launcher::Endpoint(_) => None,
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
pub fn engines(cache: &CacheDir) -> Result<Finding> {
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
