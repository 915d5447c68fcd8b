//! A sample of finite numbers and its description: mean, spread, quantiles, Student's interval.

use super::student;

/// Why numbers do not form a sample.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum BadSample {
    #[error("no values")]
    Empty,
    #[error("value {0} is not a finite number")]
    NotFinite(f64),
    #[error("the values are too large for their variance")]
    Overflow,
}

/// One or more finite numbers, their mean and their standard deviation (n − 1), checked once.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    sorted: Vec<f64>,
    mean: f64,
    sd: Option<f64>,
}

/// A closed interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

/// A description of a sample, as records hold it. Parts that need two values are absent for one.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    pub n: usize,
    pub mean: f64,
    pub sd: Option<f64>,
    /// sd / |mean|; also absent if the mean is zero.
    pub cv: Option<f64>,
    pub median: f64,
    pub p95: f64,
    pub p99: f64,
    pub min: f64,
    pub max: f64,
    /// Student's t, two-sided, 95 %.
    pub ci95: Option<Interval>,
}

/// Describes values; refuses an empty list, NaN and infinities.
pub fn describe(values: &[f64]) -> Result<Summary, BadSample> {
    let sample = Sample::new(values)?;
    Ok(Summary {
        n: sample.n(),
        mean: sample.mean(),
        sd: sample.sd(),
        cv: sample.cv(),
        median: sample.median(),
        p95: sample.quantile(0.95),
        p99: sample.quantile(0.99),
        min: sample.min(),
        max: sample.max(),
        ci95: sample.mean_interval(0.95),
    })
}

/// Student's two-sided interval of a mean, from a sample's summary; `None` for one value.
pub fn mean_interval(n: usize, mean: f64, sd: f64, confidence: f64) -> Option<Interval> {
    let df = n.checked_sub(1)? as f64;
    let reach = student::two_sided_quantile(confidence, df)? * sd / (n as f64).sqrt();
    reach.is_finite().then_some(Interval { low: mean - reach, high: mean + reach })
}

impl Sample {
    pub fn new(values: &[f64]) -> Result<Self, BadSample> {
        if values.is_empty() {
            return Err(BadSample::Empty);
        }
        if let Some(bad) = values.iter().find(|v| !v.is_finite()) {
            return Err(BadSample::NotFinite(*bad));
        }
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (mean, sd) = moments(&sorted);
        let sd = (sorted.len() > 1).then_some(sd);
        if !mean.is_finite() || sd.is_some_and(|sd| !sd.is_finite()) {
            return Err(BadSample::Overflow);
        }
        Ok(Self { sorted, mean, sd })
    }

    pub fn n(&self) -> usize {
        self.sorted.len()
    }

    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// Uses n − 1; `None` for one value.
    pub fn sd(&self) -> Option<f64> {
        self.sd
    }

    /// Coefficient of variation, as a share; `None` for one value and for a mean of zero.
    pub fn cv(&self) -> Option<f64> {
        self.sd().map(|sd| sd / self.mean.abs()).filter(|cv| cv.is_finite())
    }

    pub fn min(&self) -> f64 {
        self.sorted[0]
    }

    pub fn max(&self) -> f64 {
        self.sorted[self.sorted.len() - 1]
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Linear interpolation between the order statistics: type 7 of Hyndman and Fan (1996), the
    /// default of R and NumPy. `q` is clamped to 0 to 1.
    pub fn quantile(&self, q: f64) -> f64 {
        let position = q.clamp(0.0, 1.0) * (self.sorted.len() - 1) as f64;
        let below = position.floor() as usize;
        let above = (below + 1).min(self.sorted.len() - 1);
        let (low, high) = (self.sorted[below], self.sorted[above]);
        low + (position - below as f64) * (high - low)
    }

    /// Student's two-sided interval of the mean; `None` for one value.
    pub fn mean_interval(&self, confidence: f64) -> Option<Interval> {
        mean_interval(self.n(), self.mean, self.sd()?, confidence)
    }

    /// The sample of logarithms; `None` unless every value is positive.
    pub fn ln(&self) -> Option<Self> {
        if self.min() <= 0.0 {
            return None;
        }
        let logs: Vec<f64> = self.sorted.iter().map(|v| v.ln()).collect();
        Self::new(&logs).ok()
    }
}

/// Mean and standard deviation (n − 1) of sorted values. Takes two passes, the second of which
/// corrects the mean. Scales the largest value to about one, so that no square overflows or
/// vanishes.
fn moments(sorted: &[f64]) -> (f64, f64) {
    let (least, most) = (sorted[0], sorted[sorted.len() - 1]);
    // Equal values have no variance at all, not even the rounding error of their mean.
    if least == most {
        return (least, 0.0);
    }
    let exponent = least.abs().max(most.abs()).log2().floor().clamp(-1000.0, 1000.0);
    let unit = exponent.exp2();
    let n = sorted.len() as f64;
    let first = sum(sorted.iter().map(|v| v / unit)) / n;
    let rest = sum(sorted.iter().map(|v| v / unit - first));
    let squares = sum(sorted.iter().map(|v| (v / unit - first).powi(2)));
    let variance = (squares - rest * rest / n) / (n - 1.0);
    ((first + rest / n) * unit, variance.max(0.0).sqrt() * unit)
}

/// The median of one or more values, which it reorders. A [`Sample`] would sort them all.
pub(super) fn median(values: &mut [f64]) -> f64 {
    let even = values.len().is_multiple_of(2);
    let (below, middle, _) = values.select_nth_unstable_by(values.len() / 2, f64::total_cmp);
    let before = below.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if even { before + 0.5 * (*middle - before) } else { *middle }
}

/// Neumaier's sum, which carries the rounding errors along.
fn sum(values: impl Iterator<Item = f64>) -> f64 {
    let (mut total, mut lost) = (0.0f64, 0.0);
    for v in values {
        let next = total + v;
        lost += if total.abs() >= v.abs() { (total - next) + v } else { (v - next) + total };
        total = next;
    }
    total + lost
}

impl Interval {
    pub fn contains(&self, x: f64) -> bool {
        self.low <= x && x <= self.high
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_small_sample_is_described_as_by_hand() {
        let s = describe(&[41.2, 40.1, 42.7, 41.9, 40.6]).unwrap();
        assert_eq!(s.n, 5);
        assert!((s.mean - 41.3).abs() < 1e-12);
        assert!((s.sd.unwrap() - 1.065f64.sqrt()).abs() < 1e-12);
        assert_eq!(s.median, 41.2);
        assert!((s.p95 - 42.54).abs() < 1e-12);
        assert_eq!((s.min, s.max), (40.1, 42.7));
        // t(0.975, 4) = 2.776445105197793
        let reach = 2.776_445_105_197_793 * (1.065f64 / 5.0).sqrt();
        let ci = s.ci95.unwrap();
        assert!((ci.high - ci.low - 2.0 * reach).abs() < 1e-9);
        assert!(ci.contains(s.mean));
    }

    #[test]
    fn one_value_has_no_spread_and_no_interval() {
        let s = describe(&[3.0]).unwrap();
        assert_eq!((s.mean, s.median, s.p99), (3.0, 3.0, 3.0));
        assert_eq!((s.sd, s.cv, s.ci95), (None, None, None));
    }

    #[test]
    fn nothing_nan_and_infinity_are_refused() {
        assert_eq!(describe(&[]), Err(BadSample::Empty));
        assert!(matches!(describe(&[1.0, f64::NAN]), Err(BadSample::NotFinite(_))));
        assert_eq!(describe(&[f64::INFINITY]), Err(BadSample::NotFinite(f64::INFINITY)));
        assert_eq!(describe(&[f64::MAX, -f64::MAX]), Err(BadSample::Overflow));
    }

    #[test]
    fn equal_values_have_exactly_no_variance() {
        let s = describe(&[0.1, 0.1, 0.1]).unwrap();
        assert_eq!((s.mean, s.sd), (0.1, Some(0.0)));
    }

    #[test]
    fn neither_a_large_offset_nor_a_tiny_unit_costs_digits() {
        // NIST StRD NumAcc4: mean 10000000.2, sd 0.1, from 1001 values.
        let mut values = vec![10_000_000.2];
        values.extend((0..500).flat_map(|_| [10_000_000.1, 10_000_000.3]));
        let s = describe(&values).unwrap();
        assert!((s.mean / 10_000_000.2 - 1.0).abs() < 1e-15);
        // The values themselves are rounded to 2e-9.
        assert!((s.sd.unwrap() / 0.1 - 1.0).abs() < 2e-8);
        for unit in [1e-300, 1e-160, 1e160, 1e300] {
            let s = describe(&[unit, 2.0 * unit, 4.0 * unit]).unwrap();
            assert!((s.sd.unwrap() / unit / (7.0f64 / 3.0).sqrt() - 1.0).abs() < 1e-14, "{unit}");
        }
    }

    #[test]
    fn logarithms_need_positive_values() {
        assert!(Sample::new(&[1.0, 0.0]).unwrap().ln().is_none());
        assert!(Sample::new(&[1.0, 2.0]).unwrap().ln().is_some());
    }

    proptest! {
        #[test]
        fn order_does_not_matter(mut values in proptest::collection::vec(-1e6f64..1e6, 1..30)) {
            let forward = describe(&values).unwrap();
            values.reverse();
            prop_assert_eq!(forward, describe(&values).unwrap());
        }

        #[test]
        fn quantiles_rise_from_the_least_value_to_the_greatest(
            values in proptest::collection::vec(-1e6f64..1e6, 1..30),
            a in 0.0f64..=1.0,
            b in 0.0f64..=1.0,
        ) {
            let s = Sample::new(&values).unwrap();
            prop_assert!(s.quantile(a.min(b)) <= s.quantile(a.max(b)));
            prop_assert_eq!((s.quantile(0.0), s.quantile(1.0)), (s.min(), s.max()));
        }

        #[test]
        fn a_change_of_unit_scales_everything_but_the_cv(
            values in proptest::collection::vec(1.0f64..1e3, 2..20),
            unit in 1e-9f64..1e9,
        ) {
            let scaled: Vec<f64> = values.iter().map(|v| v * unit).collect();
            let (a, b) = (describe(&values).unwrap(), describe(&scaled).unwrap());
            prop_assert!((a.mean * unit / b.mean - 1.0).abs() < 1e-9);
            prop_assert!((a.cv.unwrap() - b.cv.unwrap()).abs() < 1e-9);
        }
    }
}
