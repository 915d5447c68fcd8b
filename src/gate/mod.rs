//! The gate: two builds in one session (`builds`), a measurement or a file against a stored result
//! (`stored`), or ratios between engines (`ratios`), judged by `judge`; and the check of the gate
//! itself (`self_check`).

mod builds;
mod judge;
mod program;
mod ratios;
pub mod self_check;
mod stored;

pub use builds::CONFIG;

use std::path::Path;

use anyhow::{Result, bail};

use crate::analysis::gate::Gate;
use crate::cli::gate::GateArgs;
use crate::engine::{EngineSpec, Launcher, Registry};
use crate::plan::Spec;
use crate::record::Record;
use crate::session::{Bench, Interrupted, Session, Side, Stop};
use crate::shell;

const BASELINE: &str = "baseline";
const CANDIDATE: &str = "candidate";
/// The engine that is measured where none is named.
const ENGINE: &str = "candle";

/// There is nothing to compare with: exit code 4.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BaselineMissing(String);

/// Measures or reads what the arguments mean and judges it, all but the conclusion.
pub fn verdict(args: &GateArgs) -> Result<Gate> {
    check(args)?;
    if let Some(file) = &args.resume {
        builds::resumed(args, file)
    } else if let Some(file) = &args.baseline {
        stored::run(args, file)
    } else if args.baseline_bin.is_some() || args.baseline_rev.is_some() {
        builds::run(args)
    } else if !args.require.is_empty() {
        ratios::run(args)
    } else {
        bail!(
            "expected a baseline: --baseline-rev REV or --baseline-bin PROGRAM (two builds, the \
             best form), --baseline FILE (a stored result), or --require 'A/B METRIC >= X' (a \
             ratio)"
        );
    }
}

/// What clap cannot check.
fn check(args: &GateArgs) -> Result<()> {
    if !(0.0..=10_000.0).contains(&args.max_minutes) {
        bail!("--max-minutes {:e}: expected minutes from 0 to 10000", args.max_minutes);
    }
    Ok(())
}

/// Of each side, even: half a mirrored block is no balance.
fn stop(args: &GateArgs) -> Result<Stop> {
    let even = |n: u32| n + n % 2;
    let least = even(args.launches);
    let minutes = args.max_minutes;
    match args.extend {
        Some(more) if more > args.launches => bail!(
            "--extend {more}: expected at most {}, the launches of -r: two looks at equal distance \
             are what the level is for",
            args.launches
        ),
        Some(more) => Ok(Stop::Extension { least, most: least + even(more), minutes }),
        None => {
            let most = even(args.max_launches).max(least);
            Ok(Stop::Precision { least, most, minutes })
        }
    }
}

/// The engine of a gate of two builds: its worker must be inside the programs.
fn builtin(args: &GateArgs) -> Result<EngineSpec> {
    let registry = Registry::load()?;
    let engine = registry.find(args.engine.as_deref().unwrap_or(ENGINE))?.clone();
    if !matches!(engine.launcher, Launcher::Builtin) {
        bail!(
            "--engine {}: two builds are compared by an engine inside the program (candle, \
             candle-f32, candle-stock); gate this one against a stored result (--baseline FILE)",
            engine.name
        );
    }
    Ok(engine)
}

/// The settings of the session.
fn spec(args: &GateArgs) -> Result<Spec> {
    Ok(Spec {
        target: args.target.clone(),
        engine: Vec::new(),
        workload: args.workload.clone(),
        launches: stop(args)?.limits().most,
        max_minutes: None,
        sustained_minutes: None,
        encoding: None,
        serving: None,
        timeout: args.timeout,
        profile: false,
    })
}

/// The bench of one point for each side.
fn bench(spec: Spec, sides: &[Side]) -> Result<Bench> {
    let bench = Bench::new(spec, sides)?;
    if bench.seats.len() != sides.len() {
        bail!(
            "a gate compares its sides at one point, found {} of them; name one quantization, one \
             device and one number of threads",
            bench.seats.len() / sides.len().max(1)
        );
    }
    Ok(bench)
}

/// What all sessions of a gate have in common.
fn session<'a>(args: &'a GateArgs, bench: &'a Bench, stop: Stop) -> Result<Session<'a>> {
    Ok(Session {
        bench,
        plans: bench.provide(!args.no_install)?,
        stop,
        kind: "gate",
        base: None,
        folder: &args.output_dir,
        config: None,
        // No deciding metric is a share of the bandwidth: the time is better spent on launches.
        bandwidth: false,
        compilers: false,
        earlier: None,
    })
}

/// How a stopped session of a gate is resumed that has no second program: as a run.
fn then_as_candidate(json: &str) -> String {
    let resume = shell::command(["llm-bench", "run", "--resume", json]);
    format!("resume it with `{resume}`, then give it as --candidate")
}

/// An interrupted run.
///
/// # Errors
/// It cannot be read, or is a gate's record, which is the gate's to resume.
pub fn interrupted_run(file: &Path, lacks: fn(&Record) -> bool) -> Result<Interrupted> {
    let (earlier, shown) = (Interrupted::open(file, lacks)?, file.display());
    if earlier.record().run.config.get(CONFIG).is_some() {
        let command = shell::command(["llm-bench", "gate", "--resume", &file.to_string_lossy()]);
        bail!("--resume {shown}: expected a run, found a gate; `{command}`");
    }
    Ok(earlier)
}
