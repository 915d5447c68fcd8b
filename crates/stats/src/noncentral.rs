//! The noncentral t distribution, which determines the power of a t test.

use statrs::function::erf::erfc;

/// The most steps of the integral; only a distribution that is almost a step would need more.
const MOST_STEPS: f64 = 20_000.0;
/// The weight that is neglected at both ends: e⁻³⁴.
const NEGLIGIBLE: f64 = -34.0;

/// P(T > t) for T = (Z + `delta`) / S with Z standard normal and `df`·S² chi-squared.
///
/// Computes the mean of Φ(delta − t·S) over ln S by the trapezoidal rule, which converges
/// geometrically for a smooth function that vanishes at both ends: within 1e-11 of scipy. If that
/// would take more than 20 000 steps (`df` of a few and `delta` in the hundreds), Z is neglected,
/// which errs by less than 1 / delta². `None` unless all are finite and `df` is positive.
pub(super) fn upper_tail(t: f64, df: f64, delta: f64) -> Option<f64> {
    if !(t.is_finite() && delta.is_finite() && df.is_finite() && df > 0.0) {
        return None;
    }
    // The density of w = ln S is exp(weight(w)) up to a factor; its peak, 0, is at w = 0.
    let weight = |w: f64| df * (w - (2.0 * w).exp_m1() / 2.0);
    let (low, high) = (end(weight, -1.0 / (2.0 * df).sqrt()), end(weight, 1.0 / (2.0 * df).sqrt()));
    // Certain, whatever S is: Φ(9) equals one to the last digit.
    let reach = [delta - t * low.exp(), delta - t * high.exp()];
    if reach.iter().all(|z| *z > 9.0) {
        return Some(1.0);
    }
    // A fraction of the width of the density, of its slope on the left, and of Φ.
    let widest_step = (0.4 / (2.0 * df).sqrt()).min(0.14).min(0.3 / delta.abs().max(1.0));
    let steps = ((high - low) / widest_step).ceil();
    if steps > MOST_STEPS {
        let limit = delta / t;
        let log = limit.ln();
        let sum = |from: f64, to: f64| {
            let h = (to - from) / MOST_STEPS;
            let inner = (1..MOST_STEPS as usize).map(|i| weight(from + i as f64 * h).exp());
            (inner.sum::<f64>() + 0.5 * (weight(from).exp() + weight(to).exp())) * h
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

/// How far from 0 `weight` becomes negligible, in steps that double.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_agree_with_scipy() {
        // scipy.stats.nct.sf(t, df, delta)
        for (t, df, delta, expected) in [
            (1.8595480375228424, 8.0, 2.5, 0.737709215717834),
            (0.5, 3.3, -1.0, 0.07496690641576083),
            (6.3, 1.0, 9.0, 0.8417282268872873),
            (2.0, 1e5, 2.1, 0.5398294250846181),
            (1.65, 1e6, 0.3, 0.08850820496266917),
            (31.8, 1.0, 40.0, 0.7913333133968464),
            (1.734, 18.0, 0.0, 0.0500057682000326),
            (3.5, 2.0, 6.0, 0.9258697260127428),
            (-1.0, 5.0, 0.5, 0.9175559089432767),
            (12.0, 4.4, 30.0, 0.99996601792453),
        ] {
            let p = upper_tail(t, df, delta).unwrap();
            assert!((p - expected).abs() < 1e-10, "t {t}, df {df}, delta {delta}: {p}");
        }
    }

    #[test]
    fn without_an_effect_it_is_the_central_t() {
        for (t, df) in [(0.3, 1.0), (2.1, 4.5), (1.7, 60.0), (4.0, 1e4)] {
            let central = super::super::student::upper_tail(t, df).unwrap();
            assert!((upper_tail(t, df, 0.0).unwrap() - central).abs() < 1e-11);
        }
    }

    #[test]
    fn where_it_is_almost_a_step_the_step_is_close() {
        // One degree of freedom: P(S < delta / t) = P(|Z| < delta / t) = erf(delta / t / √2).
        let p = upper_tail(1e6, 1.0, 1e6).unwrap();
        assert!((p - 0.682_689_492_137_085_9).abs() < 1e-4, "{p}");
    }
}
