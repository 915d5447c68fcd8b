//! `engines`: list, install, check.

use anyhow::{Result, bail};

use super::print_line;
use crate::cli::{EnginesCommand, OutputArgs};
use crate::device::DeviceKind;
use crate::engine::provision::Provisioner;
use crate::engine::{EngineSpec, Registry};
use crate::model::cache::CacheDir;
use crate::model::locate::WeightsPolicy;
use crate::model::synth::Random;
use crate::progress::say;
use crate::report::of::lists::{self, EngineState};
use crate::report::{Style, print};
use crate::session::find::find_model;
use crate::session::golden;

pub fn run(command: &EnginesCommand) -> Result<()> {
    let registry = Registry::load()?;
    match command {
        EnginesCommand::List { output, .. } => list(&registry, output),
        EnginesCommand::Install { engines, cuda, .. } => install(&registry, engines, *cuda),
        EnginesCommand::Check { engines, .. } => check(&registry, engines),
    }
}

fn list(registry: &Registry, output: &OutputArgs) -> Result<()> {
    let looking = Provisioner::new(CacheDir::from_env()?.path().into(), false)?;
    let state = |engine: &EngineSpec| {
        let ready = looking.provide(engine, "tiny", &|_| {}).is_ok();
        let (name, summary) = (engine.name.clone(), engine.summary.clone());
        EngineState { name, ready, summary, needs: engine.needs().filter(|_| !ready) }
    };
    let engines: Vec<EngineState> = registry.all().iter().map(state).collect();
    print(&lists::engines(&engines, output.output.format(), Style::of_stdout()))
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
    let found = find_model("tiny", None, WeightsPolicy::Auto, Random::PLAIN)?;
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
