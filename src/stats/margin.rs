//! Tests against a margin: Welch on logarithms, so that a margin in percent is exact and rates
//! and times agree.

use super::{Interval, Sample, student, welch};

/// Two samples of positive values compared with a margin `theta` on the log scale, from their
/// difference "worse by": positive is worse.
#[derive(Debug, Clone, PartialEq)]
pub struct MarginTest {
    /// mean ln a − mean ln b.
    pub worse_by: f64,
    /// Two-sided, of `worse_by`.
    pub interval90: Interval,
    pub interval95: Interval,
    /// Absent where neither sample varies.
    pub tests: Option<MarginP>,
}

/// The one-sided tests, all with the same standard error and degrees of freedom.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MarginP {
    pub standard_error: f64,
    /// Welch–Satterthwaite.
    pub df: f64,
    /// Two-sided, of no difference.
    pub p: f64,
    /// H0: not worse by more than theta. Small: worse, and by more than the margin.
    pub p_reg: f64,
    /// H0: worse by theta or more. Small: not worse by as much as the margin.
    pub p_ok: f64,
    /// H0: not better by more than theta. Small: better, and by more than the margin.
    pub p_improved: f64,
}

/// Tests logarithms of `worse` (a time of the candidate, or a rate of the baseline) against those
/// of the other. Absent where a sample has fewer than two values or a value that is not positive.
pub fn margin_test(worse: &Sample, other: &Sample, theta: f64) -> Option<MarginTest> {
    let (a, b) = (worse.ln()?, other.ln()?);
    let (w90, w95) = (welch(&a, &b, 0.90)?, welch(&a, &b, 0.95)?);
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
