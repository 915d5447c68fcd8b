//! Tests of a shift by ranks: is one side worse than the other by more than theta?
//!
//! Values are compared on their logarithms, so that a shift is a ratio. No value is dropped, and one
//! that is far off counts no more than the next one.

mod blocks;
mod counting;
mod exceedance;
mod rank_sum;

use super::Interval;
use counting::Tails;
use exceedance::Exceedance;
use rank_sum::RankSum;

/// How the values of the two sides belong together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Layout<'a> {
    /// Two independent samples.
    Independent,
    /// Both sides were measured in blocks, such as ABBA: the number of the block of each value.
    Blocks { worse: &'a [u32], other: &'a [u32] },
}

/// Two samples of positive values compared by ranks. Differences are on the log scale, "worse by":
/// positive is worse.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ShiftTest {
    /// The estimate of Hodges and Lehmann (1963): the shift at which the test sees no difference.
    pub worse_by: f64,
    /// The shifts that the two-sided test does not reject; absent where so few values cannot
    /// reject any.
    pub interval90: Option<Interval>,
    pub interval95: Option<Interval>,
    /// Two-sided p of "no difference".
    pub p: f64,
    /// H0: not worse by more than theta. A small p means worse, and by more than the margin.
    pub p_reg: f64,
    /// H0: worse by theta or more. A small p means not worse by as much as the margin.
    pub p_ok: f64,
    /// H0: not better by more than theta. A small p means better, and by more than the margin.
    pub p_improved: f64,
    /// The least one-sided p that so many values can have.
    pub least_p: f64,
    /// Degrees of freedom of the values' own scatter.
    pub df: f64,
}

/// A test that can be asked about any shift.
trait Ask {
    /// The shift at which the test sees no difference.
    fn estimate(&self) -> f64;
    /// P of a statistic at least as high, and at most as high, if `worse` is `other` plus `shift`.
    fn tails(&self, shift: f64) -> Tails;
    /// The shifts that neither one-sided test at level `tail` rejects.
    fn interval(&self, tail: f64) -> Interval;
    /// The least P that so many values can have.
    fn least_p(&self) -> f64;
}

impl ShiftTest {
    fn of(test: &impl Ask, theta: f64, values: usize) -> Self {
        let least_p = test.least_p();
        let [zero, up, down] = [0.0, theta, -theta].map(|shift| test.tails(shift));
        Self {
            worse_by: test.estimate(),
            interval90: (least_p < 0.05).then(|| test.interval(0.05)),
            interval95: (least_p < 0.025).then(|| test.interval(0.025)),
            p: (2.0 * zero.above.min(zero.below)).min(1.0),
            p_reg: up.above,
            p_ok: up.below,
            p_improved: down.below,
            least_p,
            df: (values - 2) as f64,
        }
    }
}

/// Tests the logarithms of `worse` (a time of the candidate, or a rate of the baseline) against
/// those of `other`. `None` if a side has fewer than two values or a value that is not positive, if
/// no value varies, or if no block holds both sides.
pub fn shift_test(
    worse: &[f64],
    other: &[f64],
    layout: Layout<'_>,
    theta: f64,
) -> Option<ShiftTest> {
    let test = RankSum::new(&logs(worse)?, &logs(other)?, layout)?;
    Some(ShiftTest::of(&test, theta, worse.len() + other.len()))
}

/// Tests the `quantile` of the values inside launches: the launches of `worse` (one list of positive
/// values each) against those of `other`, on logarithms. Values of one launch may be as alike as they
/// like. `None` if a side has fewer than two launches, a launch has no value or one that is not
/// positive, no value is beyond the quantile, or no block holds both sides.
pub fn quantile_test(
    worse: &[Vec<f64>],
    other: &[Vec<f64>],
    layout: Layout<'_>,
    quantile: f64,
    theta: f64,
) -> Option<ShiftTest> {
    let side = |side: &[Vec<f64>]| side.iter().map(|v| logs_of(v)).collect::<Option<Vec<_>>>();
    let test = Exceedance::new([&side(worse)?, &side(other)?], layout, quantile)?;
    Some(ShiftTest::of(&test, theta, worse.len() + other.len()))
}

fn logs_of(values: &[f64]) -> Option<Vec<f64>> {
    let positive = values.iter().all(|v| v.is_finite() && *v > 0.0);
    positive.then(|| values.iter().map(|v| v.ln()).collect())
}

fn logs(values: &[f64]) -> Option<Vec<f64>> {
    if values.len() < 2 { None } else { logs_of(values) }
}

/// The fewest values on each side with which a one-sided test at this level can reject at all.
pub fn fewest_to_reach(level: f64, blocks: bool) -> Option<u32> {
    if !(level > 0.0 && level < 1.0) {
        return None;
    }
    let least = |n: u32| match blocks {
        // Blocks of two values of each side, and one of one where n is odd.
        true => 6f64.powi(-(n as i32 / 2)) * if n % 2 == 1 { 0.5 } else { 1.0 },
        false => 1.0 / counting::ways(2 * n as usize, n as usize),
    };
    (2..1000).find(|n| least(*n) < level)
}

#[cfg(test)]
mod tests;
