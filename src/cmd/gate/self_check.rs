//! `gate --self-check`: whole gates of this program against itself, and against itself slowed down
//! by a known amount.

use std::io::{Write, stdout};
use std::time::Instant;

use anyhow::{Context, Result};

use super::program::Program;
use super::session::{Bench, Session, go_on_or_stop};
use super::{
    BASELINE, CANDIDATE, Judge, Stated, build_arms, builtin, length, of_builds, quant, run_args,
};
use crate::analysis::gate::Setting;
use crate::analysis::self_check::{SCHEMA, SelfCheck, Tally};
use crate::analysis::verdict::Decision;
use crate::cli::gate::{GateArgs, GateOutput};
use crate::cmd::progress::say;
use crate::record::write_atomically;
use crate::report::{Style, of::self_check as report};

pub fn run(args: &GateArgs) -> Result<u8> {
    let engine = builtin(args)?;
    let own = Program::own()?;
    let rules = args.rules.rules();
    let stated = Stated {
        baseline: own.clone(),
        candidate: own,
        length: length(args)?,
        margin: rules.margin,
        margins: rules.margins.clone(),
        alpha: rules.alpha,
        rule: rules.rule,
        primary: rules.primary.clone(),
        slow_candidate: None,
    };
    let bench = Bench::new(run_args(args, vec![engine.name.clone()])?, quant(args)?)?;
    let base = crate::cmd::run::output_base(&args.output_dir, "self_check")?;
    let setting = Setting::of(&bench.record(serde_json::Value::Null));
    let slowed = Stated { slow_candidate: Some(args.slow), ..stated.clone() };
    let mut tallies = [Tally::default(), Tally::default()];
    let kinds = [("same", &stated), ("slowed", &slowed)];
    // The kinds take turns, so that both meet the machine in the same states.
    for i in 0..args.runs {
        for ((kind, stated), tally) in kinds.iter().zip(&mut tallies) {
            say(&format!("gate {} of {}, {kind}", i + 1, args.runs));
            let arms = build_arms(&bench, &engine, stated)?;
            go_on_or_stop()?;
            let judge = Judge { rules: &stated.rules(), length: stated.length };
            let began = Instant::now();
            let measured = bench.session(
                Session {
                    arms: &arms,
                    labels: &[BASELINE, CANDIDATE],
                    length: stated.length,
                    seed: args.seed.wrapping_add(u64::from(i)),
                    config: serde_json::to_value(stated)?,
                    base: Some(base.join(format!("{kind}_{:03}", i + 1))),
                    earlier: None,
                },
                &mut |record, launches| judge.enough(&record.arms[0], &record.arms[1], launches),
            )?;
            let gate = of_builds(&measured, stated)?.conclude(None);
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
        slow: args.slow,
        margin: rules.margin,
        alpha: rules.alpha,
        same,
        slowed,
        wrong: None,
        false_alarms: None,
        detected: None,
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
