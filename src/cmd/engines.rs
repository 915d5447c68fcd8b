//! `engines`: list, install, check.

use anyhow::{Result, bail};

use super::print_line;
use crate::cli::EnginesCommand;
use crate::device::DeviceKind;
use crate::engine::provision::Provisioner;
use crate::engine::{EngineSpec, Registry};
use crate::model::cache::CacheDir;
use crate::model::locate::WeightsPolicy;
use crate::progress::say;
use crate::session::find::find_model;
use crate::session::golden;

pub fn run(command: &EnginesCommand) -> Result<()> {
    let registry = Registry::load()?;
    match command {
        EnginesCommand::List { .. } => list(&registry),
        EnginesCommand::Install { engines, cuda, .. } => install(&registry, engines, *cuda),
        EnginesCommand::Check { engines, .. } => check(&registry, engines),
    }
}

fn list(registry: &Registry) -> Result<()> {
    let looking = Provisioner::new(CacheDir::from_env()?.path().into(), false)?;
    for engine in registry.all() {
        let (state, needs) = match looking.provide(engine, "tiny", &|_| {}) {
            Ok(_) => ("ready", String::new()),
            Err(_) => (
                "not installed",
                engine.needs().map_or_else(String::new, |n| format!("; needs {n}")),
            ),
        };
        print_line(&format!("{:<16} {state:<14} {}{needs}", engine.name, engine.summary))?;
    }
    Ok(())
}

fn install(registry: &Registry, names: &[String], cuda: bool) -> Result<()> {
    let engines = names.iter().map(|n| registry.find(n)).collect::<Result<Vec<_>>>()?;
    let mut provisioner = Provisioner::new(CacheDir::from_env()?.path().into(), true)?;
    if cuda {
        provisioner.device = DeviceKind::Cuda;
    }
    for engine in engines {
        let installed = provisioner.provide(engine, "", &say)?;
        print_line(&format!("{}: ready, {}", engine.name, installed.program.display()))?;
    }
    Ok(())
}

/// Greedy tokens of the shipped model, engine by engine, against the golden ones.
fn check(registry: &Registry, names: &[String]) -> Result<()> {
    let looking = Provisioner::new(CacheDir::from_env()?.path().into(), false)?;
    let engines: Vec<&EngineSpec> = match names.is_empty() {
        true => {
            registry.all().iter().filter(|e| looking.provide(e, "tiny", &|_| {}).is_ok()).collect()
        }
        false => names.iter().map(|n| registry.find(n)).collect::<Result<_>>()?,
    };
    let found = find_model("tiny", None, WeightsPolicy::Auto, 0)?;
    let quant = &found.model.quant;
    let mut failed = Vec::new();
    for engine in engines {
        let verdict = looking.provide(engine, "tiny", &|_| {}).and_then(|installed| {
            golden::check(engine, &installed, &found.path, found.model.n_vocab)
        });
        match (verdict, engine.known_difference(quant)) {
            (Ok(seen), _) => print_line(&format!("{:<16} ok      {seen}", engine.name))?,
            (Err(e), Some(known)) if known.nmse.is_none() => {
                print_line(&format!("{:<16} differs {e:#}: {}", engine.name, known.why))?;
            }
            (Err(e), _) => {
                print_line(&format!("{:<16} FAILED  {e:#}", engine.name))?;
                failed.push(engine.name.as_str());
            }
        }
    }
    if !failed.is_empty() {
        bail!("{} failed the check on the tiny model", failed.join(", "));
    }
    Ok(())
}
