//! How far apart equal measurements lie on a machine, and what that costs: launches that a margin
//! takes. Pure.

use serde::Serialize;

use crate::metric::Metric;
use crate::record::Arm;
use crate::stats::{Sample, drift, launches_needed};

/// The margin that a comparison usually has, its level and its power.
pub const MARGIN: f64 = 0.05;
const ALPHA: f64 = 0.05;
const POWER: f64 = 0.8;

/// Equal measurements, one after the other.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spread {
    /// A metric's name, or `read_bandwidth`.
    pub what: String,
    pub unit: String,
    pub n: usize,
    pub median: f64,
    /// Standard deviation over mean.
    pub cv: f64,
    /// Median of the last third over that of the first, less one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drift: Option<f64>,
    /// Launches of each side that find a change of [`MARGIN`] four times in five.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launches_needed: Option<u32>,
}

/// What a machine does to equal measurements.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Noise {
    /// Passes over a buffer in memory.
    pub kernel: Spread,
    /// The same launch again and again, metric by metric.
    pub launches: Vec<Spread>,
    /// Shares of the processors' time that the hypervisor took during a launch: mean and worst.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steal: Option<[f64; 2]>,
    /// Share of the processors' time that other programs used before a launch: mean and worst.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub busy: Option<[f64; 2]>,
}

impl Spread {
    /// None for fewer than two values, and where their mean is zero.
    pub fn of(what: &str, unit: &str, values: &[f64]) -> Option<Self> {
        let sample = Sample::new(values).ok()?;
        let sd = sample.ln().and_then(|logs| logs.sd());
        let needed = |sd: f64| launches_needed([sd, sd], MARGIN.ln_1p(), ALPHA, POWER);
        Some(Self {
            what: what.into(),
            unit: unit.into(),
            n: values.len(),
            median: sample.median(),
            cv: sample.cv()?,
            drift: drift(values),
            launches_needed: sd.and_then(needed),
        })
    }

    /// A drift that the scatter alone would hardly show: more than 2 %, and more than three standard
    /// errors of the difference of two medians, each over a third of the values.
    pub fn real_drift(&self) -> Option<f64> {
        let third = (self.n / 3).max(1) as f64;
        let standard_error = 1.25 * self.cv * (2.0 / third).sqrt();
        self.drift.filter(|d| d.abs() > 0.02 && d.abs() > 3.0 * standard_error)
    }

    /// The smallest margin, in whole percents, that so many launches of each side resolve.
    pub fn margin_of(&self, launches: u32) -> Option<f64> {
        let margins = (1..=100).map(|percent| f64::from(percent) / 100.0);
        let resolved = |margin: &f64| {
            launches_needed([self.cv; 2], margin.ln_1p(), ALPHA, POWER)
                .is_some_and(|needed| needed <= launches)
        };
        margins.into_iter().find(resolved)
    }
}

/// Mean and largest of what launches state, where they do.
pub fn shares(values: impl Iterator<Item = Option<f64>>) -> Option<[f64; 2]> {
    let values: Vec<f64> = values.flatten().collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let worst = values.iter().copied().fold(0.0, f64::max);
    (!values.is_empty()).then_some([mean, worst])
}

/// The spread of every metric in `wanted` over the launches of an arm.
pub fn of_launches(arm: &Arm, wanted: &[Metric]) -> Vec<Spread> {
    let spread = |metric: &Metric| {
        let summary = arm.metrics.get(metric)?;
        Spread::of(metric.name(), &summary.unit, &summary.values)
    };
    wanted.iter().filter_map(spread).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Alternates by `share` around 100, times a slope from 1 to `last`.
    fn series(share: f64, last: f64) -> Spread {
        let value = |i: usize| {
            let slope = 1.0 + (last - 1.0) * i as f64 / 29.0;
            slope * 100.0 * (1.0 + if i.is_multiple_of(2) { share } else { -share })
        };
        let values: Vec<f64> = (0..30).map(value).collect();
        Spread::of(Metric::DecodeTps.name(), "tok/s", &values).unwrap()
    }

    #[test]
    fn a_quiet_machine_needs_few_launches_and_a_noisy_one_many() {
        let [quiet, noisy] = [0.01, 0.10].map(|share| series(share, 1.0));
        assert!((0.0095..0.0110).contains(&quiet.cv), "{quiet:?}");
        // Two samples, σ = .102, θ = .0488, one-sided 5 %, power .8: 2 (1.645 + .842)² (σ/θ)² = 54.
        assert!(quiet.launches_needed.unwrap() <= 3, "{quiet:?}");
        assert!((52..=58).contains(&noisy.launches_needed.unwrap()), "{noisy:?}");
        assert!(noisy.margin_of(30).unwrap() > MARGIN && quiet.margin_of(30).unwrap() <= 0.01);
    }

    #[test]
    fn a_slope_is_a_drift_and_scatter_is_none() {
        assert!(series(0.01, 0.9).real_drift().unwrap() < -0.04);
        assert_eq!(series(0.10, 1.0).real_drift(), None);
        assert_eq!(series(0.001, 0.99).real_drift(), None, "less than 2 %");
    }

    #[test]
    fn shares_have_a_mean_and_a_worst_value() {
        assert_eq!(shares([Some(0.0), None, Some(0.5)].into_iter()), Some([0.25, 0.5]));
        assert_eq!(shares([None].into_iter()), None);
    }
}
