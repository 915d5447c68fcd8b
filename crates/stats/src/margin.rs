//! Tests against a margin: Welch on logarithms, so that a margin in percent is exact and rates
//! and times agree.

use super::{Interval, Sample, student, welch};

/// Two samples of positive values compared with a margin `theta` on the log scale. The difference
/// is "worse by": positive is worse.
#[derive(Debug, Clone, PartialEq)]
pub struct MarginTest {
    /// mean ln a − mean ln b.
    pub worse_by: f64,
    /// Two-sided interval of `worse_by`.
    pub interval90: Interval,
    pub interval95: Interval,
    /// Absent if neither sample varies.
    pub tests: Option<MarginP>,
}

/// The one-sided tests, all with the same standard error and degrees of freedom.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MarginP {
    pub standard_error: f64,
    /// Welch–Satterthwaite.
    pub df: f64,
    /// Two-sided p of "no difference".
    pub p: f64,
    /// H0: not worse by more than theta. A small p means worse, and by more than the margin.
    pub p_reg: f64,
    /// H0: worse by theta or more. A small p means not worse by as much as the margin.
    pub p_ok: f64,
    /// H0: not better by more than theta. A small p means better, and by more than the margin.
    pub p_improved: f64,
}

/// Tests the logarithms of `worse` (a time of the candidate, or a rate of the baseline) against
/// those of `other`. `None` if a sample has fewer than two values or a value that is not positive.
pub fn margin_test(worse: &Sample, other: &Sample, theta: f64) -> Option<MarginTest> {
    margin_of_logs(&worse.ln()?, &other.ln()?, theta)
}

/// The same for samples that are logarithms already.
pub fn margin_of_logs(worse: &Sample, other: &Sample, theta: f64) -> Option<MarginTest> {
    let (w90, w95) = (welch(worse, other, 0.90)?, welch(worse, other, 0.95)?);
    let difference = w90.difference;
    let tests = match &w90.test {
        None => None,
        Some(test) => {
            let error = w90.standard_error;
            let upper = |distance: f64| student::upper_tail(distance / error, test.df);
            Some(MarginP {
                standard_error: error,
                df: test.df,
                p: test.p,
                p_reg: upper(difference - theta)?,
                p_ok: upper(theta - difference)?,
                p_improved: upper(-difference - theta)?,
            })
        }
    };
    Some(MarginTest {
        worse_by: difference,
        interval90: w90.interval,
        interval95: w95.interval,
        tests,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values() -> impl Strategy<Value = Vec<f64>> {
        proptest::collection::vec(0.5f64..2.0, 2..12)
    }

    fn test(worse: &[f64], other: &[f64], theta: f64) -> MarginP {
        let (a, b) = (Sample::new(worse).unwrap(), Sample::new(other).unwrap());
        margin_test(&a, &b, theta).unwrap().tests.unwrap()
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-9 * a.abs().max(b.abs()) + 1e-300
    }

    proptest! {
        #[test]
        fn exchanging_the_sides_exchanges_worse_and_better(
            a in values(), b in values(), theta in 0.0f64..0.5,
        ) {
            let (ab, ba) = (test(&a, &b, theta), test(&b, &a, theta));
            prop_assert!(near(ab.p_reg, ba.p_improved) && near(ab.p_improved, ba.p_reg));
            prop_assert!(near(ab.p, ba.p));
            prop_assert!((ab.p_reg + ab.p_ok - 1.0).abs() < 1e-12);
        }

        #[test]
        fn neither_the_unit_nor_rates_for_times_change_a_p(
            a in values(), b in values(), unit in 1e-9f64..1e9,
        ) {
            let scale = |v: &[f64]| v.iter().map(|x| x * unit).collect::<Vec<_>>();
            let inverse = |v: &[f64]| v.iter().map(|x| 1.0 / x).collect::<Vec<_>>();
            let plain = test(&a, &b, 0.05);
            for other in [test(&scale(&a), &scale(&b), 0.05), test(&inverse(&b), &inverse(&a), 0.05)]
            {
                // The rounding of the logarithms shifts a p of 1e-40 in proportion to the steepness
                // of its tail.
                prop_assert!((plain.p_reg - other.p_reg).abs() < 1e-9);
                prop_assert!((plain.p_ok - other.p_ok).abs() < 1e-9);
            }
        }

        #[test]
        fn a_wider_margin_makes_regressed_harder_and_not_regressed_easier(
            a in values(), b in values(), theta in 0.0f64..0.3, more in 1e-6f64..0.3,
        ) {
            let (narrow, wide) = (test(&a, &b, theta), test(&a, &b, theta + more));
            prop_assert!(narrow.p_reg <= wide.p_reg && narrow.p_ok >= wide.p_ok);
            prop_assert!(narrow.p_improved <= wide.p_improved);
        }

        #[test]
        fn the_90_percent_interval_and_the_one_sided_tests_at_5_percent_agree(
            a in values(), b in values(), theta in 0.0f64..0.3,
        ) {
            let (x, y) = (Sample::new(&a).unwrap(), Sample::new(&b).unwrap());
            let all = margin_test(&x, &y, theta).unwrap();
            let p = all.tests.unwrap();
            prop_assume!((p.p_reg - 0.05).abs() > 1e-9 && (p.p_ok - 0.05).abs() > 1e-9);
            prop_assert_eq!(all.interval90.low > theta, p.p_reg < 0.05);
            prop_assert_eq!(all.interval90.high < theta, p.p_ok < 0.05);
        }
    }
}
