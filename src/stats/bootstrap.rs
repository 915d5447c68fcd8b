//! Bootstrap intervals: what the values themselves say about the spread of a mean or a median,
//! without a bell curve.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use statrs::distribution::{ContinuousCDF, Normal};

use super::sample::median;
use super::{Interval, Sample};

/// Resamples drawn: the ends then move by about a fiftieth of the half-width between seeds.
const RESAMPLES: usize = 10_000;

/// How the ends were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Quantiles of the resampled statistic.
    Percentile,
    /// Bias-corrected and accelerated (Efron 1987), acceleration by the jackknife.
    Bca,
}

/// An interval and how it was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bootstrap {
    pub interval: Interval,
    pub method: Method,
}

/// Of the mean: BCa, or percentile where the correction does not exist (values all equal). Absent
/// for one value and for a confidence that does not lie between 0 and 1. The same seed gives the
/// same interval. For a handful of values it is too narrow, as every bootstrap is: Student's
/// interval is the default of every report.
pub fn bootstrap_mean(sample: &Sample, confidence: f64, seed: u64) -> Option<Bootstrap> {
    let values = sample.sorted();
    let draws =
        resample(sample, confidence, seed, |drawn| drawn.iter().sum::<f64>() / drawn.len() as f64)?;
    let tails = bca_tails(values, &draws, sample.mean(), confidence);
    let method = if tails.is_some() { Method::Bca } else { Method::Percentile };
    let [low, high] = tails.unwrap_or_else(|| percentile_tails(confidence));
    let interval = Interval { low: draws.quantile(low), high: draws.quantile(high) };
    Some(Bootstrap { interval, method })
}

/// Of the median: percentile, since the jackknife that BCa needs is not consistent for a median.
/// Absent as for the mean.
pub fn bootstrap_median(sample: &Sample, confidence: f64, seed: u64) -> Option<Bootstrap> {
    let draws = resample(sample, confidence, seed, median)?;
    let [low, high] = percentile_tails(confidence);
    let method = Method::Percentile;
    let interval = Interval { low: draws.quantile(low), high: draws.quantile(high) };
    Some(Bootstrap { interval, method })
}

/// The statistic of each resample, sorted.
fn resample(
    sample: &Sample,
    confidence: f64,
    seed: u64,
    statistic: impl Fn(&mut [f64]) -> f64,
) -> Option<Sample> {
    let values = sample.sorted();
    if values.len() < 2 || !(confidence > 0.0 && confidence < 1.0) {
        return None;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut drawn = vec![0.0; values.len()];
    let mut draws = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        drawn.fill_with(|| values[rng.random_range(0..values.len())]);
        draws.push(statistic(&mut drawn));
    }
    Sample::new(&draws).ok()
}

fn percentile_tails(confidence: f64) -> [f64; 2] {
    [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0]
}

/// Which quantiles of the draws are the ends. Absent where the bias is infinite or the values
/// have no skewness to speak of because they do not vary.
fn bca_tails(values: &[f64], draws: &Sample, estimate: f64, confidence: f64) -> Option<[f64; 2]> {
    let normal = Normal::new(0.0, 1.0).ok()?;
    let drawn = draws.sorted();
    // Ties count half.
    let below = drawn.partition_point(|d| *d < estimate);
    let not_above = drawn.partition_point(|d| *d <= estimate);
    let bias = normal.inverse_cdf(0.5 * (below + not_above) as f64 / drawn.len() as f64);
    // The jackknife of a mean: leaving v out moves it by (mean − v) / (n − 1).
    let cubes: f64 = values.iter().map(|v| (v - estimate).powi(3)).sum();
    let squares: f64 = values.iter().map(|v| (v - estimate).powi(2)).sum();
    let acceleration = cubes / (6.0 * squares.powf(1.5));
    let tail = |p: f64| {
        let z = bias + normal.inverse_cdf(p);
        normal.cdf(bias + z / (1.0 - acceleration * z))
    };
    let tails = percentile_tails(confidence).map(tail);
    (bias.is_finite() && tails.iter().all(|t| t.is_finite()) && tails[0] < tails[1])
        .then_some(tails)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(values: &[f64]) -> Sample {
        Sample::new(values).unwrap()
    }

    /// A right-skewed sample of 30.
    const SKEWED: [f64; 30] = [
        0.02, 0.05, 0.09, 0.13, 0.17, 0.21, 0.26, 0.31, 0.36, 0.41, 0.47, 0.53, 0.59, 0.66, 0.73,
        0.81, 0.90, 0.99, 1.08, 1.19, 1.31, 1.44, 1.59, 1.75, 1.95, 2.18, 2.47, 2.85, 3.40, 4.40,
    ];

    #[test]
    fn intervals_agree_with_scipy_to_the_noise_of_resampling() {
        // scipy.stats.bootstrap((x,), np.mean, n_resamples=200000, method='BCa', confidence_level=.95)
        let mean = bootstrap_mean(&sample(&SKEWED), 0.95, 1).unwrap();
        assert_eq!(mean.method, Method::Bca);
        assert!((mean.interval.low - 0.7927).abs() < 0.02, "{mean:?}");
        assert!((mean.interval.high - 1.5690).abs() < 0.02, "{mean:?}");
        // The same with np.median and method='percentile'.
        let median = bootstrap_median(&sample(&SKEWED), 0.95, 1).unwrap();
        assert_eq!(median.method, Method::Percentile);
        assert!((median.interval.low - 0.44).abs() < 0.03, "{median:?}");
        assert!((median.interval.high - 1.25).abs() < 0.03, "{median:?}");
    }

    #[test]
    fn the_same_seed_gives_the_same_interval_and_another_almost() {
        let s = sample(&SKEWED);
        let of = |seed| bootstrap_mean(&s, 0.95, seed).unwrap().interval;
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
        assert!((of(7).high - of(8).high).abs() < 0.05);
    }

    #[test]
    fn one_value_has_no_interval_and_equal_values_one_of_no_width() {
        assert_eq!(bootstrap_mean(&sample(&[1.0]), 0.95, 0), None);
        assert_eq!(bootstrap_mean(&sample(&[1.0, 2.0]), 1.0, 0), None);
        let equal = bootstrap_mean(&sample(&[3.0; 4]), 0.95, 0).unwrap();
        assert_eq!((equal.interval.low, equal.interval.high), (3.0, 3.0));
        assert_eq!(equal.method, Method::Percentile);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn an_interval_lies_within_the_values(
            values in proptest::collection::vec(-1e3f64..1e3, 2..12), seed in 0u64..9,
        ) {
            let s = sample(&values);
            for b in [bootstrap_mean(&s, 0.9, seed), bootstrap_median(&s, 0.9, seed)] {
                let i = b.unwrap().interval;
                prop_assert!(s.min() - 1e-9 <= i.low && i.low <= i.high && i.high <= s.max() + 1e-9);
            }
        }
    }
}
