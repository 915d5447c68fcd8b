//! `gate --self-check`: whole gates of this program against itself, and against itself slowed down
//! by a known amount.

use std::io::{Write, stdout};
use std::time::Instant;

use anyhow::{Context, Result};

use super::builds::{Stated, judged, measure};
use super::{bench, builtin, check, session, spec};
use crate::analysis::gate::Setting;
use crate::analysis::self_check::{SCHEMA, SelfCheck, Tally};
use crate::analysis::verdict::Decision;
use crate::cli::gate::{GateArgs, GateOutput};
use crate::plan::Spec;
use crate::progress::say;
use crate::record::write_atomically;
use crate::report::{Style, of::self_check as report};
use crate::session::{Session, new_record, output_base};

/// Gates of each kind, unless the user wants another number.
const RUNS: u32 = 20;
/// By how much the slowed side is slowed down, as a share, unless the user wants another one.
const SLOW: f64 = 0.1;

pub fn run(args: &GateArgs) -> Result<u8> {
    let (runs, slow) = (args.runs.unwrap_or(RUNS), args.slow.unwrap_or(SLOW));
    check(args)?;
    let engine = builtin(args)?;
    let stated = Stated::of_itself(args, None)?;
    let rules = stated.rules();
    let base = output_base(&args.output_dir, "self_check")?;
    let slowed = Stated { slow_candidate: Some(slow), ..stated.clone() };
    let setting =
        Setting::of(&new_record(&bench(spec(args)?, &stated.sides(&engine))?, stated.stop, None));
    let mut tallies = [Tally::default(), Tally::default()];
    let kinds = [("same", &stated), ("slowed", &slowed)];
    // The kinds take turns, so that both meet the machine in the same states.
    for i in 0..runs {
        for ((kind, stated), tally) in kinds.iter().zip(&mut tallies) {
            say(&format!("gate {} of {}, {kind}", i + 1, runs));
            let mut spec: Spec = spec(args)?;
            spec.workload.seed = spec.workload.seed.wrapping_add(u64::from(i));
            let bench = bench(spec, &stated.sides(&engine))?;
            let began = Instant::now();
            let base = Some(base.join(format!("{kind}_{:03}", i + 1)));
            let measured =
                measure(Session { base, ..session(args, &bench, stated.stop)? }, stated)?;
            let gate = judged(&measured, stated)?.conclude(None);
            let metrics: Vec<String> = gate
                .judgement
                .iter()
                .flat_map(|j| &j.metrics)
                .filter(|m| m.primary && m.decision == Decision::Regressed)
                .map(|m| m.metric.clone())
                .collect();
            let launches = gate.candidate.as_ref().map_or(0, |side| side.launches);
            let seconds = began.elapsed().as_secs_f64();
            say(&crate::report::of::gate::verdict(&gate));
            tally.add(gate.outcome, launches, seconds, &metrics);
        }
    }
    let [same, slowed] = tallies;
    let check = SelfCheck {
        schema: SCHEMA.into(),
        setting,
        slow,
        margin: rules.margin,
        alpha: rules.alpha,
        same,
        slowed,
        wrong: None,
        false_alarms: None,
        detected: None,
        needed: 0,
        power: Vec::new(),
        passed: false,
        records: base.display().to_string(),
    }
    .conclude();
    let text = match args.output {
        GateOutput::Table => report::table(&check, Style::of_stdout()),
        GateOutput::Json => report::json(&check),
        GateOutput::Md => report::markdown(&check),
    };
    stdout().write_all(text.as_bytes()).and_then(|()| stdout().flush())?;
    let kept = base.join("self_check.json");
    write_atomically(&kept, report::json(&check).as_bytes())?;
    if let Some(path) = &args.verdict {
        write_atomically(path, report::json(&check).as_bytes()).context("--verdict")?;
    }
    Ok(if check.passed { 0 } else { 1 })
}
