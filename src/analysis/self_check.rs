//! Measures the gate by gating a program against itself: how often the gate is wrong, how often it
//! finds a slow-down of known size, and how certain both rates are.

use std::collections::BTreeMap;

use serde::Serialize;

use super::gate::{Outcome, Setting};
use crate::stats::{at_least, clopper_pearson};

/// Name and version of the self-check's JSON.
pub const SCHEMA: &str = "llm-bench-self-check/1";
/// The share of slow-downs that a gate must find.
pub const DETECTED: f64 = 0.95;

/// Shares of slow-downs that a gate may truly find, for which the check states its own power.
const TRUE_SHARES: [f64; 3] = [0.90, DETECTED, 0.99];

/// Gates of one kind.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Tally {
    pub gates: u32,
    pub regressed: u32,
    pub improved: u32,
    pub passed: u32,
    pub inconclusive: u32,
    /// Launches per side of each gate.
    pub launches: Vec<usize>,
    /// Duration of each gate in seconds.
    pub seconds: Vec<f64>,
    /// The first regressed metric of each gate, by how often.
    pub regressed_metrics: BTreeMap<String, u32>,
}

impl Tally {
    pub fn add(&mut self, outcome: Outcome, launches: usize, seconds: f64, metrics: &[String]) {
        self.gates += 1;
        self.launches.push(launches);
        self.seconds.push(seconds);
        *match outcome {
            Outcome::Regressed => &mut self.regressed,
            Outcome::Improved => &mut self.improved,
            Outcome::Passed => &mut self.passed,
            Outcome::Inconclusive | Outcome::NotComparable => &mut self.inconclusive,
        } += 1;
        for metric in metrics {
            *self.regressed_metrics.entry(metric.clone()).or_default() += 1;
        }
    }
}

/// A counted share with its exact 95 % interval (Clopper and Pearson).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Share {
    pub hits: u32,
    pub of: u32,
    pub share: f64,
    pub ci95: [f64; 2],
}

impl Share {
    /// `None` without trials.
    pub fn of(hits: u32, of: u32) -> Option<Self> {
        let interval = clopper_pearson(hits, of, 0.95)?;
        let share = f64::from(hits) / f64::from(of);
        Some(Self { hits, of, share, ci95: [interval.low, interval.high] })
    }
}

/// How often the check itself comes out well, which is as uncertain as any other count.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Power {
    /// The share of slow-downs that a gate truly finds.
    pub finds: f64,
    /// The chance that the check then finds as many as it asks for.
    pub passes: f64,
}

/// The fewest of `gates` slow-downs that the check asks for.
fn needed(gates: u32) -> u32 {
    (0..=gates).find(|n| f64::from(*n) >= DETECTED * f64::from(gates)).unwrap_or(gates)
}

/// The whole check.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SelfCheck {
    pub schema: String,
    pub setting: Setting,
    /// The slow-down of the slowed side.
    pub slow: f64,
    pub margin: f64,
    pub alpha: f64,
    /// Gates of the program against itself.
    pub same: Tally,
    /// Gates of the program against itself slowed down.
    pub slowed: Tally,
    /// Share of `same` that the gate calls regressed or improved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wrong: Option<Share>,
    /// Share of `same` that the gate calls regressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub false_alarms: Option<Share>,
    /// Share of `slowed` that the gate calls regressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detected: Option<Share>,
    /// The fewest slow-downs that the check asks for.
    pub needed: u32,
    pub power: Vec<Power>,
    /// The gate raised no false alarm and found 95 % of the slow-downs.
    pub passed: bool,
    /// The folder that holds the records.
    pub records: String,
}

impl SelfCheck {
    /// Computes the shares from the tallies.
    pub fn conclude(mut self) -> Self {
        let (same, slowed) = (&self.same, &self.slowed);
        self.wrong = Share::of(same.regressed + same.improved, same.gates);
        self.false_alarms = Share::of(same.regressed, same.gates);
        self.detected = Share::of(slowed.regressed, slowed.gates);
        self.needed = needed(slowed.gates);
        let power = |finds| {
            let passes = at_least(self.needed, slowed.gates, finds)?;
            Some(Power { finds, passes })
        };
        self.power = TRUE_SHARES.into_iter().filter_map(power).collect();
        let found = slowed.gates > 0 && slowed.regressed >= self.needed;
        self.passed = same.gates > 0 && same.regressed == 0 && found;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing;

    fn check(same: &[Outcome], slowed: &[Outcome]) -> SelfCheck {
        let tally = |outcomes: &[Outcome]| {
            let mut tally = Tally::default();
            outcomes.iter().for_each(|o| tally.add(*o, 6, 1.0, &[]));
            tally
        };
        SelfCheck {
            schema: SCHEMA.into(),
            setting: Setting::of(&testing::empty()),
            slow: 0.1,
            margin: 0.05,
            alpha: 0.05,
            same: tally(same),
            slowed: tally(slowed),
            wrong: None,
            false_alarms: None,
            detected: None,
            needed: 0,
            power: Vec::new(),
            passed: false,
            records: "results".into(),
        }
        .conclude()
    }

    #[test]
    fn twenty_of_twenty_still_leave_a_bound() {
        let c = check(&[Outcome::Passed; 20], &[Outcome::Regressed; 20]);
        assert!(c.passed);
        // scipy.stats.binomtest(0, 20).proportion_ci(0.95, 'exact')
        assert!((c.wrong.unwrap().ci95[1] - 0.16843347).abs() < 1e-8);
        assert!((c.detected.unwrap().ci95[0] - 0.83156653).abs() < 1e-8);
        // Nineteen of twenty come out three times in four where the gate truly finds 95 %.
        assert_eq!(c.needed, 19);
        assert_eq!(c.power[1].finds, DETECTED);
        assert!((c.power[1].passes - 0.7358).abs() < 1e-4, "{:?}", c.power);
    }

    #[test]
    fn one_false_alarm_fails_and_one_miss_of_twenty_does_not() {
        let mut slowed = [Outcome::Regressed; 20];
        slowed[0] = Outcome::Inconclusive;
        assert!(check(&[Outcome::Inconclusive; 5], &slowed).passed);
        slowed[1] = Outcome::Passed;
        assert!(!check(&[Outcome::Passed; 5], &slowed).passed);
        let alarmed = check(&[Outcome::Regressed], &[Outcome::Regressed]);
        assert!(!alarmed.passed && alarmed.false_alarms.unwrap().hits == 1);
        let improved = check(&[Outcome::Improved], &[Outcome::Regressed]);
        assert_eq!((improved.passed, improved.wrong.unwrap().hits), (true, 1));
        assert!(!check(&[], &[]).passed);
    }
}
