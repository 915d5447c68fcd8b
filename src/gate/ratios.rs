//! A gate on ratios between engines, measured here or read from `--candidate`.

use anyhow::{Context, Result, bail};

use super::judge::{check_ratios, look_alpha};
use super::{bench, session, spec, stop};
use crate::analysis::gate::{Gate, precise_ratios};
use crate::analysis::requirement::{self, State};
use crate::cli::gate::GateArgs;
use crate::engine::Registry;
use crate::record::Record;
use crate::session::Side;

pub fn run(args: &GateArgs) -> Result<Gate> {
    let alpha = args.rules.alpha;
    if let Some(file) = &args.candidate {
        let mut record = Record::read(file)?;
        crate::analysis::summarize(&mut record);
        let requirements = check_ratios(&record, &args.require, alpha)?;
        let records = vec![file.display().to_string()];
        return Ok(Gate { requirements, records, alpha, ..Gate::new(&record) });
    }
    if args.candidate_bin.is_some() || args.candidate_rev.is_some() {
        bail!("--require alone measures this llm-bench; give a baseline to measure two builds");
    }
    let registry = Registry::load()?;
    let mut sides: Vec<Side> = Vec::new();
    for name in args.require.iter().flat_map(|r| [&r.arm, &r.reference]) {
        let engine = registry.find(name).with_context(|| format!("--require: {name}"))?;
        if !sides.iter().any(|side| side.engine.name == engine.name) {
            sides.push(engine.clone().into());
        }
    }
    let bench = bench(spec(args)?, &sides)?;
    let stop = stop(args)?;
    let rules = args.rules.rules();
    let look = look_alpha(stop, alpha);
    let measured = session(args, &bench, stop)?
        .measure(&mut |record, launches| match requirement::check(record, &args.require, look) {
            Ok(checked) if stop.is_extension() => {
                let open = checked.iter().any(|c| c.state == State::Inconclusive);
                launches == stop.limits().least && !open
            }
            Ok(checked) => precise_ratios(&checked, &rules),
            Err(_) => true,
        })?
        .finish(super::then_as_candidate)?;
    Ok(Gate {
        requirements: check_ratios(&measured.record, &args.require, look)?,
        alpha,
        ended: Some(stop.reason(measured.ended)),
        records: vec![measured.path.display().to_string()],
        ..Gate::new(&measured.record)
    })
}
