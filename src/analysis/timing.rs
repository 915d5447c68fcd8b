//! The generations of an arm in the order they ran, and whether the arm reached a steady state.

use std::collections::BTreeMap;

use super::ok_launches;
use crate::record::{Arm, Launch, PromptRun, Role};
use crate::stats::{self, Sample};
use crate::units::Seconds;

/// The time between tokens may drift by this share in a steady state.
pub const DRIFT: f64 = 0.05;

/// One generation, a line of `--timing`.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    pub prompt: String,
    pub role: Role,
    pub iteration: u32,
    pub ttft: Seconds,
    /// Time of the step that follows the first token.
    pub first_step: Option<Seconds>,
    /// Median of the later steps.
    pub step: Option<Seconds>,
    /// Just-in-time compilation within the generation, if known.
    pub compile: Option<Seconds>,
}

/// One launch, with its generations in order.
#[derive(Debug, Clone, PartialEq)]
pub struct LaunchTiming {
    pub index: u32,
    pub generations: Vec<Generation>,
    /// Time of each step of the cold generation, without the first token.
    pub cold_steps: Vec<Seconds>,
    pub steady: Steady,
}

/// Whether the measured generations of a launch are in a steady state. The rule: join the gaps
/// between tokens of a prompt's measured generations; the median of the last third may differ from
/// that of the first third by `DRIFT`. With several prompts, the median over prompts counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Steady {
    /// Last third over first third, less one; `None` if every prompt has fewer than 12 gaps.
    pub drift: Option<f64>,
    /// Lag-1 autocorrelation of the gaps, the median over prompts: near 0 where tokens are
    /// independent, near 1 where slow ones follow slow ones and an interval would be too narrow.
    pub autocorrelation: Option<f64>,
}

impl Steady {
    /// `None` if there is too little data.
    pub fn reached(&self) -> Option<bool> {
        self.drift.map(|d| d.abs() <= DRIFT)
    }
}

/// The timing of every good launch of an arm.
pub fn timing(arm: &Arm) -> Vec<LaunchTiming> {
    let of = |launch: &Launch| LaunchTiming {
        index: launch.index,
        generations: launch.prompts.iter().filter_map(generation).collect(),
        cold_steps: launch
            .prompts
            .iter()
            .find(|run| run.role == Role::Cold)
            .map(|run| gaps(run).map(|ns| Seconds(ns / 1e9)).collect())
            .unwrap_or_default(),
        steady: steady(launch),
    };
    ok_launches(arm).map(of).collect()
}

/// Checks the measured generations of a launch for a steady state.
pub fn steady(launch: &Launch) -> Steady {
    let mut by_prompt: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for run in launch.prompts.iter().filter(|run| run.role == Role::Measured) {
        by_prompt.entry(&run.id).or_default().extend(gaps(run));
    }
    let median = |of: fn(&[f64]) -> Option<f64>| {
        let values: Vec<f64> = by_prompt.values().filter_map(|g| of(g)).collect();
        Sample::new(&values).ok().map(|s| s.median())
    };
    Steady { drift: median(stats::drift), autocorrelation: median(stats::autocorrelation) }
}

fn gaps(run: &PromptRun) -> impl Iterator<Item = f64> + '_ {
    run.token_ns.windows(2).map(|w| w[1].saturating_sub(w[0]) as f64)
}

fn generation(run: &PromptRun) -> Option<Generation> {
    let steps: Vec<f64> = gaps(run).map(|ns| ns / 1e9).collect();
    let later = Sample::new(steps.get(1..).unwrap_or_default()).ok();
    Some(Generation {
        prompt: run.id.clone(),
        role: run.role,
        iteration: run.iteration,
        ttft: Seconds::from_ns(*run.token_ns.first()?),
        first_step: steps.first().copied().map(Seconds),
        step: later.map(|s| Seconds(s.median())),
        compile: run.compile_ns.map(Seconds::from_ns),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing;

    #[test]
    fn generations_stand_in_their_order_with_the_first_step_apart() {
        let mut arm = testing::arm(&testing::CANDLE, 1);
        let cold = &mut arm.launches[0].prompts[0];
        cold.token_ns[1..].iter_mut().for_each(|t| *t += 500_000_000);
        let step = Seconds((cold.token_ns[2] - cold.token_ns[1]) as f64 / 1e9);
        let timing = timing(&arm);
        let first = &timing[0].generations[0];
        assert_eq!(first.role, Role::Cold);
        assert!((first.first_step.unwrap().0 - step.0 - 0.5).abs() < 1e-6);
        assert!((first.step.unwrap().0 - step.0).abs() < 1e-6);
        assert_eq!(timing[0].cold_steps.len(), 63);
        assert_eq!(timing[0].generations.len(), arm.launches[0].prompts.len());
    }

    #[test]
    fn a_launch_that_slows_down_is_not_steady_and_one_of_few_tokens_is_open() {
        let mut arm = testing::arm(&testing::CANDLE, 1);
        assert_eq!(steady(&arm.launches[0]).reached(), Some(true));
        for run in &mut arm.launches[0].prompts {
            let mut at = run.token_ns[0];
            for (i, t) in run.token_ns.iter_mut().enumerate().skip(1) {
                at += 1_000_000 + 20_000 * i as u64;
                *t = at;
            }
        }
        assert_eq!(steady(&arm.launches[0]).reached(), Some(false));
        arm.launches[0].prompts.iter_mut().for_each(|run| run.token_ns.truncate(4));
        assert_eq!(steady(&arm.launches[0]).reached(), None);
    }
}
