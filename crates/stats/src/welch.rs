//! Welch's t for two samples with different variances, on the raw scale and on logarithms.

use super::{Interval, Sample, student};

/// Two means compared: a − b.
#[derive(Debug, Clone, PartialEq)]
pub struct Welch {
    pub difference: f64,
    /// Standard error of the difference; zero if neither sample varies.
    pub standard_error: f64,
    /// Interval of the difference. Its width is zero if neither sample varies.
    pub interval: Interval,
    /// Absent if neither sample varies: the difference is then exact and t has no meaning.
    pub test: Option<TTest>,
}

/// The test of "no difference".
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TTest {
    pub t: f64,
    /// Welch–Satterthwaite.
    pub df: f64,
    /// Two-sided.
    pub p: f64,
    /// One-sided: small if a is greater.
    pub p_greater: f64,
    /// One-sided: small if a is less.
    pub p_less: f64,
}

/// a / b: the ratio of the geometric means.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    pub ratio: f64,
    /// Welch on logarithms; absent if a sample has only one value.
    pub interval: Option<Interval>,
    /// Two-sided p of a ratio of one; absent if a sample has only one value or neither varies.
    pub p: Option<f64>,
}

/// Compares two means without assuming equal variances (Welch 1947). `None` if a sample has fewer
/// than two values, if `confidence` is not between 0 and 1, or if t or an end of the interval does
/// not fit into a number.
pub fn welch(a: &Sample, b: &Sample, confidence: f64) -> Option<Welch> {
    let error_a = a.sd()? / (a.n() as f64).sqrt();
    let error_b = b.sd()? / (b.n() as f64).sqrt();
    let difference = a.mean() - b.mean();
    let error = error_a.hypot(error_b);
    if error == 0.0 {
        let interval = Interval { low: difference, high: difference };
        return Some(Welch { difference, standard_error: 0.0, interval, test: None });
    }
    // Uses shares of the whole, so that neither tiny nor huge variances are ever squared.
    let (part_a, part_b) = ((error_a / error).powi(2), (error_b / error).powi(2));
    let df = 1.0 / (part_a.powi(2) / (a.n() - 1) as f64 + part_b.powi(2) / (b.n() - 1) as f64);
    let t = difference / error;
    let reach = student::two_sided_quantile(confidence, df)? * error;
    if !(t.is_finite() && (difference.abs() + reach).is_finite()) {
        return None;
    }
    Some(Welch {
        difference,
        standard_error: error,
        interval: Interval { low: difference - reach, high: difference + reach },
        test: Some(TTest {
            t,
            df,
            p: student::two_sided_p(t, df)?,
            p_greater: student::upper_tail(t, df)?,
            p_less: student::upper_tail(-t, df)?,
        }),
    })
}

/// Compares two samples of positive values as a ratio, so that tok/s and s/token agree. `None` if a
/// value is not positive.
pub fn ratio_of_geometric_means(a: &Sample, b: &Sample, confidence: f64) -> Option<Ratio> {
    let (a, b) = (a.ln()?, b.ln()?);
    let ratio = (a.mean() - b.mean()).exp();
    let welch = welch(&a, &b, confidence);
    let interval = welch
        .as_ref()
        .map(|w| Interval { low: w.interval.low.exp(), high: w.interval.high.exp() })
        .filter(|i| i.high.is_finite());
    let p = welch.and_then(|w| w.test).map(|test| test.p);
    ratio.is_finite().then_some(Ratio { ratio, interval, p })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn known_answers(section: &str) -> Vec<serde_json::Value> {
        let text = include_str!("../../../tests/data/statistics_known_answers.json");
        let all: serde_json::Value = serde_json::from_str(text).unwrap();
        all[section].as_array().unwrap().clone()
    }

    fn sample(value: &serde_json::Value) -> Sample {
        let values: Vec<f64> =
            value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        Sample::new(&values).unwrap()
    }

    fn close(got: f64, expected: &serde_json::Value, relative: f64) {
        let expected = expected.as_f64().unwrap();
        assert!((got / expected - 1.0).abs() < relative, "{got} against {expected}");
    }

    #[test]
    fn welch_agrees_with_scipy() {
        for case in known_answers("welch") {
            let confidence = case["confidence"].as_f64().unwrap();
            let w = welch(&sample(&case["a"]), &sample(&case["b"]), confidence).unwrap();
            let test = w.test.unwrap();
            close(w.difference, &case["mean_diff"], 1e-12);
            close(test.t, &case["t"], 1e-12);
            close(test.df, &case["df"], 1e-12);
            close(test.p, &case["p_two_sided"], 1e-10);
            close(test.p_greater, &case["p_a_greater"], 1e-10);
            close(w.interval.low, &case["ci"][0], 1e-9);
            close(w.interval.high, &case["ci"][1], 1e-9);
        }
    }

    #[test]
    fn awkward_samples_agree_with_sixty_digits() {
        // scipy.stats.ttest_ind(a, b, equal_var=False), computed with 60 digits (mpmath), because
        // scipy's own squares vanish for "tiny" and overflow for "huge".
        type Case = (&'static str, &'static [f64], &'static [f64], [f64; 4]);
        let cases: &[Case] = &[
            (
                "two values a side",
                &[1.0, 2.0],
                &[1.5, 4.0],
                [-1.25, -0.9284766908852593, 1.31201248049922, 0.49188526844981434],
            ),
            (
                "ties",
                &[3.0, 3.0, 3.0, 4.0],
                &[3.0, 4.0, 4.0, 4.0, 4.0],
                [-0.55, -1.7179113807746667, 6.172582619339045, 0.13523205557263343],
            ),
            (
                "a large offset",
                &[1000000001.0, 1000000002.0, 1000000003.0],
                &[1000000002.0, 1000000004.0, 1000000006.0, 1000000009.0],
                [-3.25, -2.030258904551879, 3.8356291726527507, 0.11518332270648292],
            ),
            (
                "tiny",
                &[1.1e-200, 1.3e-200, 1.2e-200],
                &[2.1e-200, 2.4e-200],
                [-1.05e-200, -6.532795676801677, 1.3039348710990497, 0.05928371397212852],
            ),
            (
                "huge",
                &[1.1e+200, 1.3e+200, 1.2e+200],
                &[2.1e+200, 2.4e+200],
                [-1.05e+200, -6.532795676801677, 1.3039348710990502, 0.05928371397212847],
            ),
            (
                "spreads a million times apart",
                &[1.0, 1.000001, 0.999999, 1.0000005],
                &[2.0, 3.0, 1.0],
                [-0.999999875, -1.7320505910620527, 2.0000000000021876, 0.2254033694883025],
            ),
            (
                "a p of 1e-76",
                &[
                    10.0, 10.1, 9.9, 10.05, 9.95, 10.02, 9.98, 10.03, 9.97, 10.01, 10.0, 10.1, 9.9,
                    10.05, 9.95, 10.02, 9.98, 10.03, 9.97, 10.01,
                ],
                &[
                    20.0, 20.1, 19.9, 20.05, 19.95, 20.02, 19.98, 20.03, 19.97, 20.01, 20.0, 20.1,
                    19.9, 20.05, 19.95, 20.02, 19.98, 20.03, 19.97, 20.01,
                ],
                [-10.0, -585.7338524458381, 38.0, 8.944917467870165e-77],
            ),
            (
                "one side does not vary",
                &[5.0, 5.0, 5.0],
                &[5.5, 6.0, 5.2, 5.9],
                [-0.6500000000000001, -3.5165115752029865, 3.0, 0.039014854493563685],
            ),
        ];
        for (name, a, b, [difference, t, df, p]) in cases {
            let w = welch(&Sample::new(a).unwrap(), &Sample::new(b).unwrap(), 0.95).unwrap();
            let test = w.test.unwrap();
            let near = |got: f64, expected: f64, relative: f64| {
                assert!((got / expected - 1.0).abs() < relative, "{name}: {got}, {expected}");
            };
            near(w.difference, *difference, 1e-12);
            near(test.t, *t, 1e-12);
            near(test.df, *df, 1e-12);
            near(test.p, *p, 1e-10);
            near(test.p_less, p / 2.0, 1e-10);
        }
    }

    #[test]
    fn ratios_agree_with_scipy_on_logarithms() {
        for case in known_answers("gate") {
            // The file's difference is "worse by", candidate against base.
            let (base, candidate) = (sample(&case["base"]), sample(&case["cand"]));
            let worse = match case["better"].as_str().unwrap() {
                "higher" => ratio_of_geometric_means(&base, &candidate, 0.9).unwrap(),
                _ => ratio_of_geometric_means(&candidate, &base, 0.9).unwrap(),
            };
            let interval = worse.interval.unwrap();
            close(worse.ratio.ln(), &case["delta_log"], 1e-10);
            close(interval.low.ln(), &case["ci90_log"][0], 1e-9);
            close(interval.high.ln(), &case["ci90_log"][1], 1e-9);
        }
    }

    #[test]
    fn where_nothing_varies_the_difference_is_exact_and_p_absent() {
        let (a, b) = (Sample::new(&[2.0, 2.0]).unwrap(), Sample::new(&[1.0; 3]).unwrap());
        let w = welch(&a, &b, 0.95).unwrap();
        assert_eq!((w.difference, w.interval.low, w.interval.high), (1.0, 1.0, 1.0));
        assert!(w.test.is_none());
        let r = ratio_of_geometric_means(&a, &b, 0.95).unwrap();
        assert_eq!((r.ratio, r.p), (2.0, None));
    }

    #[test]
    fn one_value_gives_a_ratio_without_an_interval() {
        let (a, b) = (Sample::new(&[2.0]).unwrap(), Sample::new(&[1.0, 1.1]).unwrap());
        assert!(welch(&a, &b, 0.95).is_none());
        let r = ratio_of_geometric_means(&a, &b, 0.95).unwrap();
        assert!(r.ratio > 1.8 && r.interval.is_none() && r.p.is_none());
    }

    fn values() -> impl Strategy<Value = Vec<f64>> {
        proptest::collection::vec(0.1f64..1e3, 2..20)
    }

    proptest! {
        #[test]
        fn exchanging_the_samples_turns_the_sign_and_keeps_p(a in values(), b in values()) {
            let (a, b) = (Sample::new(&a).unwrap(), Sample::new(&b).unwrap());
            let (ab, ba) = (welch(&a, &b, 0.95).unwrap(), welch(&b, &a, 0.95).unwrap());
            prop_assert_eq!(ab.difference, -ba.difference);
            let (x, y) = (ab.test.unwrap(), ba.test.unwrap());
            prop_assert!((x.p - y.p).abs() < 1e-12);
            prop_assert!((x.p_greater + y.p_greater - 1.0).abs() < 1e-12);
            prop_assert!((ab.interval.low + ba.interval.high).abs() < 1e-6);
        }

        #[test]
        fn the_ratio_does_not_depend_on_the_unit(
            a in values(), b in values(), unit in 1e-9f64..1e9,
        ) {
            let scale = |v: &[f64]| Sample::new(&v.iter().map(|x| x * unit).collect::<Vec<_>>());
            let plain = ratio_of_geometric_means(
                &Sample::new(&a).unwrap(), &Sample::new(&b).unwrap(), 0.95).unwrap();
            let scaled = ratio_of_geometric_means(
                &scale(&a).unwrap(), &scale(&b).unwrap(), 0.95).unwrap();
            prop_assert!((plain.ratio / scaled.ratio - 1.0).abs() < 1e-9);
        }

        #[test]
        fn rates_and_times_give_the_same_ratio(a in values(), b in values()) {
            let inverse = |v: &[f64]| Sample::new(&v.iter().map(|x| 1.0 / x).collect::<Vec<_>>());
            let rates = ratio_of_geometric_means(
                &Sample::new(&a).unwrap(), &Sample::new(&b).unwrap(), 0.95).unwrap();
            let times = ratio_of_geometric_means(
                &inverse(&b).unwrap(), &inverse(&a).unwrap(), 0.95).unwrap();
            prop_assert!((rates.ratio / times.ratio - 1.0).abs() < 1e-9);
        }

        #[test]
        fn no_finite_samples_make_the_test_panic(
            a in proptest::collection::vec(proptest::num::f64::ANY, 0..6),
            b in proptest::collection::vec(proptest::num::f64::ANY, 0..6),
        ) {
            if let (Ok(a), Ok(b)) = (Sample::new(&a), Sample::new(&b)) {
                let _ = welch(&a, &b, 0.95);
                let _ = ratio_of_geometric_means(&a, &b, 0.95);
                let _ = a.mean_interval(0.95);
            }
        }
    }
}
