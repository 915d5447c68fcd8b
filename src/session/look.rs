//! A first look at each engine that is ready: one short launch, shown at once and in no table.
//! Whoever starts a long run sees figures within seconds, while other engines are still missing.

use std::time::Duration;

use super::bench::Bench;
use super::drive::ArmPlan;
use super::live::in_a_line;
use crate::launch::{self, Settings, Subject};
use crate::plan;
use crate::progress::say;
use crate::record::Host;
use crate::task::generate::Generation;
use crate::workload::Workload;

/// A run over smaller files is over before a look would pay.
const WORTH_A_LOOK: u64 = 64 << 20;
/// Tokens of the look.
const TOKENS: u32 = 16;

/// Launches each engine that can be started, once, with the first prompt alone. An engine that
/// would have to compile first is left for later.
pub fn first_look(bench: &Bench, plans: &[ArmPlan]) {
    let Some(mut prompt) = bench.workload.prompts.first().cloned() else { return };
    prompt.n_gen = prompt.n_gen.min(TOKENS);
    prompt.context.clear();
    let workload = Workload::new("first look", vec![prompt]);
    let once = plan::Workload { warmup: 0, iterations: 1, ..bench.spec.workload.clone() };
    let settings = bench.settings(&Host::default(), false);
    let alone = |settings| Settings { idle_window: Duration::ZERO, batch: 1, ..settings };
    let mut seen: Vec<&str> = Vec::new();
    for ((seat, plan), settings) in bench.seats.iter().zip(plans).zip(settings) {
        let Ok(installed) = &plan.installed else { continue };
        let model = &bench.file_of(seat).model;
        let compiles = installed.compile_cache_populated() == Some(false);
        if seen.contains(&plan.engine.name.as_str())
            || model.size_bytes < WORTH_A_LOOK
            || compiles
            || crate::interrupt::requested()
        {
            continue;
        }
        seen.push(&plan.engine.name);
        let task = Generation { model, workload: &workload, plan: &once, batch: 1, profile: false };
        let settings = alone(settings);
        let subject = Subject { engine: &plan.engine, installed, task: &task, settings: &settings };
        // A failure is the measured launches' to report.
        let Ok(outcome) = launch::launch(&subject, (0, 0)) else { return };
        let (name, figures) = (&plan.engine.name, in_a_line(&outcome.launch));
        if !figures.is_empty() {
            say(&format!("first look at {name}: {figures} (one launch, not in the table)"));
        }
    }
}
