//! What a comparison of two means could see: power, minimum detectable effect, launches needed.
//!
//! All of the one-sided Welch test at level alpha; the noncentral t with Welch's degrees of
//! freedom, as if the two standard deviations were known.

use super::{noncentral, student};

/// Two samples that are or could be drawn: how many values, and how widely they scatter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Design {
    pub n: [u32; 2],
    pub sd: [f64; 2],
}

impl Design {
    /// Standard error of the difference of the means, and its degrees of freedom. Absent for
    /// fewer than two values and where neither scatters.
    fn error_and_df(self) -> Option<(f64, f64)> {
        let [n_a, n_b] = self.n.map(f64::from);
        if self.n.iter().any(|n| *n < 2) || !self.sd.iter().all(|sd| *sd >= 0.0) {
            return None;
        }
        let (a, b) = (self.sd[0] / n_a.sqrt(), self.sd[1] / n_b.sqrt());
        let error = a.hypot(b);
        if !(error > 0.0 && error.is_finite()) {
            return None;
        }
        let share = (a / error).powi(2);
        let df = 1.0 / (share.powi(2) / (n_a - 1.0) + (1.0 - share).powi(2) / (n_b - 1.0));
        Some((error, df))
    }
}

/// The chance that the one-sided test at level `alpha` sees a true difference of `effect` (same
/// unit as the standard deviations). Absent for an impossible design or alpha.
pub fn power(design: Design, effect: f64, alpha: f64) -> Option<f64> {
    let (error, df) = design.error_and_df()?;
    noncentral::upper_tail(student::upper_quantile(alpha, df)?, df, effect / error)
}

/// The least true difference that the one-sided test at level `alpha` sees with this power, in
/// the unit of the standard deviations. Absent for an impossible design, alpha or power.
pub fn minimum_detectable_effect(design: Design, alpha: f64, power: f64) -> Option<f64> {
    let (error, df) = design.error_and_df()?;
    let critical = student::upper_quantile(alpha, df)?;
    // Close already: the two quantiles added.
    let start = critical + student::upper_quantile(1.0 - power, df)?;
    let missing = |delta: f64| Some(noncentral::upper_tail(critical, df, delta)? - power);
    // The power rises with delta: two points around the root, then the Illinois rule.
    let mut width = 0.25 * start.abs().max(1.0);
    let (mut low, mut high) = (start - width, start + 0.1 * width);
    let (mut at_low, mut at_high) = (missing(low)?, missing(high)?);
    while at_low > 0.0 {
        (high, at_high) = (low, at_low);
        width *= 2.0;
        low -= width;
        at_low = missing(low)?;
    }
    while at_high < 0.0 {
        (low, at_low) = (high, at_high);
        width *= 2.0;
        high += width;
        at_high = missing(high)?;
    }
    let mut side = 0;
    for _ in 0..100 {
        let next = (low * at_high - high * at_low) / (at_high - at_low);
        let at_next = missing(next)?;
        if at_next.abs() < 1e-9 || (high - low) <= 1e-12 * high.abs() {
            return Some(next * error);
        }
        if at_next > 0.0 {
            (high, at_high) = (next, at_next);
            if side == 1 {
                at_low /= 2.0;
            }
            side = 1;
        } else {
            (low, at_low) = (next, at_next);
            if side == -1 {
                at_high /= 2.0;
            }
            side = -1;
        }
    }
    None
}

/// The fewest values on each side with which the one-sided test at level `alpha` sees a true
/// difference of `effect` with this power. Absent for an effect that is not positive, an
/// impossible alpha or power, where neither side scatters, and beyond a billion.
pub fn launches_needed(sd: [f64; 2], effect: f64, alpha: f64, wanted: f64) -> Option<u32> {
    if !(effect > 0.0 && wanted > 0.0 && wanted < 1.0) {
        return None;
    }
    let enough = |n: u32| Some(power(Design { n: [n, n], sd }, effect, alpha)? >= wanted);
    if enough(2)? {
        return Some(2);
    }
    // Doubling, then halving the gap: 2 is too few, `high` enough.
    let (mut low, mut high) = (2u32, 4u32);
    while !enough(high)? {
        low = high;
        high = high.checked_mul(2).filter(|n| *n <= 1 << 30)?;
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if enough(middle)? { high = middle } else { low = middle }
    }
    Some(high)
}
