//! `engines`: list, install, check.

use anyhow::{Result, bail};

use super::print_line;
use crate::cli::EnginesCommand;
use crate::device::Device;
use crate::engine::provision::Installed;
use crate::engine::provision::Provisioner;
use crate::engine::{Deadlines, Engine, EngineSpec, Failure, Registry};
use crate::model::cache::CacheDir;
use crate::model::golden;
use crate::model::locate::WeightsPolicy;
use crate::progress::say;
use crate::protocol::{Context, Feature, Generate, Load};
use crate::session::find::find_model;

pub fn run(command: &EnginesCommand) -> Result<()> {
    let registry = Registry::load()?;
    match command {
        EnginesCommand::List => list(&registry),
        EnginesCommand::Install { engines } => install(&registry, engines),
        EnginesCommand::Check { engines } => check(&registry, engines),
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

fn install(registry: &Registry, names: &[String]) -> Result<()> {
    let engines = names.iter().map(|n| registry.find(n)).collect::<Result<Vec<_>>>()?;
    let provisioner = Provisioner::new(CacheDir::from_env()?.path().into(), true)?;
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
        let verdict = looking
            .provide(engine, "tiny", &|_| {})
            .and_then(|installed| converse(engine, &installed, &found.path, found.model.n_vocab));
        match (verdict, engine.known_difference(quant)) {
            (Ok(told), _) => print_line(&format!("{:<16} ok      {told}", engine.name))?,
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

fn converse(
    engine: &EngineSpec,
    installed: &Installed,
    path: &std::path::Path,
    n_vocab: Option<u32>,
) -> Result<String> {
    let told = |f: Failure| match f {
        Failure::Interrupted => anyhow::anyhow!("stopped"),
        Failure::Engine(e) => {
            anyhow::anyhow!("{:?} in {}: {}", e.kind, e.phase, crate::report::clean(&e.message))
        }
    };
    let mut process = Engine::open(installed, 1, Deadlines::default()).map_err(told)?;
    let holds_context = process.has(Feature::Context);
    let load = Load {
        path: path.to_string_lossy().into_owned(),
        device: Device::Cpu.to_string(),
        threads: 1,
        n_ctx: golden::N_CTX,
        options: engine.options.clone(),
    };
    let loaded = process.load(load).map_err(told)?.value;
    let (mut same, mut all) = (0, 0);
    let mut id = 0;
    for case in golden::cases()? {
        // Whole, and with its first half as a context, which must not make a difference.
        let half = holds_context.then_some(case.prompt.len() / 2).filter(|half| *half > 0);
        for depth in [Some(0), half].into_iter().flatten() {
            let (context, prompt) = case.prompt.split_at(depth);
            if depth > 0 {
                process.context(Context { id, tokens: context.to_vec() }).map_err(told)?;
            }
            let request = Generate {
                depth: depth as u32,
                ..Generate::greedy(id + 1, prompt.to_vec(), case.tokens.len() as u32)
            };
            id += 2;
            let got = process.generate(request, n_vocab).map_err(told)?.value.tokens;
            all += got.len();
            same += got.iter().zip(&case.tokens).take_while(|(a, b)| a == b).count();
        }
    }
    process.bye().map_err(told)?;
    let p = loaded.precision;
    let told = format!(
        "{same} of {all} golden tokens{} (weights {}, compute {}, KV {})",
        if holds_context { ", half of them behind a context" } else { "" },
        p.weights,
        p.compute,
        p.kv
    );
    // 16-bit arithmetic may fall the other way at a near tie, and then the rest of that text
    // differs; float32 may not. An engine that computes something else differs at once.
    if same == all || (p.compute != "f32" && 2 * same >= all) { Ok(told) } else { bail!(told) }
}
