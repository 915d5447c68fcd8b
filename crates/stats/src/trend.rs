//! Tells whether a steady state was reached, by comparing the end of a series with its beginning.

use super::Sample;

/// The shortest series that is judged: four values in each third.
const SHORTEST: usize = 12;

/// Median of the last third over median of the first third, less one: +0.05 means that the values
/// grew by 5 %. Uses medians, so that a single hiccup does not count as a trend. `None` for a
/// series shorter than twelve, with values that are not finite, or with a first median that is not
/// positive.
pub fn drift(series: &[f64]) -> Option<f64> {
    if series.len() < SHORTEST {
        return None;
    }
    let third = series.len() / 3;
    let first = Sample::new(&series[..third]).ok()?.median();
    let last = Sample::new(&series[series.len() - third..]).ok()?.median();
    (first > 0.0).then(|| last / first - 1.0).filter(|d| d.is_finite())
}

/// Lag-1 autocorrelation: how well a value predicts its successor, −1 to 1. `None` for a series
/// shorter than twelve, with values that are not finite, or with equal values only.
pub fn autocorrelation(series: &[f64]) -> Option<f64> {
    if series.len() < SHORTEST {
        return None;
    }
    let mean = series.iter().sum::<f64>() / series.len() as f64;
    let variance: f64 = series.iter().map(|x| (x - mean).powi(2)).sum();
    let covariance: f64 = series.windows(2).map(|w| (w[0] - mean) * (w[1] - mean)).sum();
    Some(covariance / variance).filter(|r| r.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_hiccup_is_no_drift_and_a_slow_end_is() {
        let mut gaps = vec![0.024; 30];
        gaps[28] = 0.5;
        assert_eq!(drift(&gaps), Some(0.0));
        let slowing: Vec<f64> = (0..30).map(|i| 0.024 * (1.0 + f64::from(i) / 100.0)).collect();
        assert!(drift(&slowing).unwrap() > 0.15);
    }

    #[test]
    fn a_slow_wave_is_correlated_and_a_zigzag_is_not() {
        let wave: Vec<f64> = (0..60).map(|i| (f64::from(i) / 10.0).sin()).collect();
        assert!(autocorrelation(&wave).unwrap() > 0.9);
        let zigzag: Vec<f64> = (0..60).map(|i| f64::from(i % 2)).collect();
        assert!(autocorrelation(&zigzag).unwrap() < -0.9);
        // By hand: the values 1 to 12 give 0.75.
        let ramp: Vec<f64> = (1..=12).map(f64::from).collect();
        assert!((autocorrelation(&ramp).unwrap() - 0.75).abs() < 1e-12);
        assert_eq!(autocorrelation(&[1.0; 20]), None);
    }

    #[test]
    fn short_and_impossible_series_say_nothing() {
        assert_eq!(drift(&[1.0; 11]), None);
        assert_eq!(drift(&[0.0; 30]), None);
        assert_eq!(drift(&[f64::NAN; 30]), None);
    }

    proptest! {
        #[test]
        fn drift_does_not_depend_on_the_unit(
            series in proptest::collection::vec(0.5f64..2.0, 12..60), unit in 1e-6f64..1e6,
        ) {
            let scaled: Vec<f64> = series.iter().map(|v| v * unit).collect();
            prop_assert!((drift(&series).unwrap() - drift(&scaled).unwrap()).abs() < 1e-9);
        }
    }
}
