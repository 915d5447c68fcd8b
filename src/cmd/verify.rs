//! `verify`: does each engine compute the function that the file describes?

use std::io::{Write, stdout};

use anyhow::Result;

use crate::cli::VerifyArgs;
use crate::engine::provision::Provisioner;
use crate::engine::{Deadlines, EngineSpec, Registry};
use crate::measure::host;
use crate::model::cache::CacheDir;
use crate::plan::grid::Cell;
use crate::progress::say;
use crate::record::{Verdict, Verification};
use crate::report::write::json;
use crate::report::{Style, of::verify as report};
use crate::sensors::gpu;
use crate::session::find::{Found, find_model};
use crate::session::verify::{Check, Subject, explained};

/// Whether every engine passed; one whose difference is known counts only if it was named.
pub fn run(args: &VerifyArgs) -> Result<bool> {
    let registry = Registry::load()?;
    let engines: Vec<EngineSpec> = match args.engine.is_empty() {
        true => registry.all().iter().filter(|e| !e.only_named()).cloned().collect(),
        false => registry.named(&args.engine)?,
    };
    args.target.device.iter().try_for_each(|device| gpu::check(*device))?;
    let (mut passed, mut all) = (true, Vec::new());
    for cell in Cell::grid(&args.target, &[1], 1, host::available_threads()) {
        let found = find_model(&cell.model, cell.quant, args.target.weights, args.target.random())?;
        let (verdicts, good) = verified(args, &registry, &engines, &found, &cell)?;
        passed &= good;
        if args.json {
            all.push(serde_json::json!({ "model": found.model, "engines": json(&verdicts)? }));
        } else {
            let table: Vec<_> = verdicts.iter().map(|(name, v)| (name.as_str(), v)).collect();
            let shown = report::render(&found.model, &table, Style::of_stdout());
            stdout().write_all(shown.as_bytes())?;
        }
    }
    if args.json {
        stdout().write_all(json::whole(&all).as_bytes())?;
    }
    Ok(passed)
}

/// The verdicts by engine, and whether all of them are good enough.
fn verified(
    args: &VerifyArgs,
    registry: &Registry,
    engines: &[EngineSpec],
    found: &Found,
    cell: &Cell,
) -> Result<(Vec<(String, Verification)>, bool)> {
    let at = (cell.device, cell.threads);
    let check = Check::new(found, at, Deadlines::default(), (args.positions, args.decode))?;
    let mut provisioner = Provisioner::new(CacheDir::from_env()?.path().into(), !args.no_install)?;
    provisioner.device = cell.device.kind();
    let mut subjects = Vec::new();
    for engine in engines {
        if let (true, Some((_, why))) =
            (args.engine.is_empty(), engine.refusal(&found.model.quant, cell.device))
        {
            say(&why);
            continue;
        }
        // Minutes of building are for those who ask for this engine.
        let mut provisioner = provisioner.clone();
        provisioner.may_install &= !(args.engine.is_empty() && engine.is_native());
        match provisioner.provide(engine, &check.work(found), &say) {
            Ok(installed) => subjects.push(Subject { engine: engine.clone(), installed }),
            Err(e) if args.engine.is_empty() => say(&format!("{}: {e:#}", engine.name)),
            Err(e) => return Err(e.context(engine.name.clone())),
        }
    }
    let reference = check.reference(registry, found, args.reference.as_deref())?;
    let verdicts = check.run(&reference, &subjects, found)?;
    let good = subjects.iter().zip(&verdicts).all(|(subject, v)| {
        let excused = args.engine.is_empty() && explained(&subject.engine, found, v).is_some();
        matches!(v.verdict, Verdict::Pass | Verdict::Reference) || excused
    });
    let named = subjects.into_iter().map(|s| s.engine.name).zip(verdicts);
    Ok((named.collect(), good))
}

fn json(verdicts: &[(String, Verification)]) -> Result<serde_json::Map<String, serde_json::Value>> {
    verdicts.iter().map(|(name, v)| Ok((name.clone(), serde_json::to_value(v)?))).collect()
}
