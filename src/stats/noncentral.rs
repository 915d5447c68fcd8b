//! The noncentral t distribution, which decides the power of a t test.

use statrs::function::erf::erfc;

/// Steps of the integral; more are needed only where the distribution is almost a step.
const MOST_STEPS: f64 = 100_000.0;
/// The weight that is left out on both ends: e⁻⁴⁰.
const NEGLIGIBLE: f64 = -40.0;

/// P(T > t) for T = (Z + `delta`) / S with Z standard normal and `df`·S² chi-squared.
///
/// The mean of Φ(delta − t·S) over ln S by the trapezoidal rule, which converges geometrically
/// for a smooth function that vanishes at both ends: within 1e-11 of scipy. Where that would take
/// more than 100 000 steps (`df` of a few and `delta` in the thousands) Z is left out, which
/// errs by less than 1 / delta². Absent unless all are finite and `df` positive.
pub(super) fn upper_tail(t: f64, df: f64, delta: f64) -> Option<f64> {
    if !(t.is_finite() && delta.is_finite() && df.is_finite() && df > 0.0) {
        return None;
    }
    // The density of w = ln S is exp(weight(w)) up to a factor; its peak, 0, is at w = 0.
    let weight = |w: f64| df * (w - (2.0 * w).exp_m1() / 2.0);
    let (low, high) = (end(weight, -1.0 / (2.0 * df).sqrt()), end(weight, 1.0 / (2.0 * df).sqrt()));
    let widest_step = (0.2 / (2.0 * df).sqrt()).min(0.2 / delta.abs().max(1.0));
    let steps = ((high - low) / widest_step).ceil();
    if steps > MOST_STEPS {
        let limit = delta / t;
        let log = limit.ln();
        let w = MOST_STEPS;
        let sum = |from: f64, to: f64| {
            let h = (to - from) / w;
            (0..=MOST_STEPS as usize).map(|i| weight(from + i as f64 * h).exp()).sum::<f64>() * h
        };
        let below = if limit > 0.0 && log > low { sum(low, log.min(high)) } else { 0.0 };
        let share = below / sum(low, high);
        return Some(if t > 0.0 { share } else { 1.0 - share });
    }
    let h = (high - low) / steps;
    let (mut sum, mut whole) = (0.0, 0.0);
    for i in 0..=steps as usize {
        let w = low + i as f64 * h;
        let density = weight(w).exp();
        whole += density;
        sum += density * normal_cdf(delta - t * w.exp());
    }
    Some(sum / whole)
}

fn normal_cdf(z: f64) -> f64 {
    0.5 * erfc(-z / std::f64::consts::SQRT_2)
}

/// How far `weight` must be followed from 0, in steps that double, until it is negligible.
fn end(weight: impl Fn(f64) -> f64, first: f64) -> f64 {
    let (mut near, mut far) = (0.0, first);
    while weight(far) > NEGLIGIBLE {
        (near, far) = (far, 2.0 * far);
    }
    for _ in 0..10 {
        let middle = 0.5 * (near + far);
        if weight(middle) > NEGLIGIBLE { near = middle } else { far = middle }
    }
    far
}
