//! Student's t: the few functions that the tests need, accurate far into the tails.

use std::f64::consts::PI;

use super::beta;

/// P(T > t) with `df` degrees of freedom; `None` unless `t` is finite and `df` is positive.
pub(super) fn upper_tail(t: f64, df: f64) -> Option<f64> {
    if !(t.is_finite() && df.is_finite() && df > 0.0) {
        return None;
    }
    let tail = positive_tail(t.abs(), df);
    Some(if t < 0.0 { 1.0 - tail } else { tail })
}

/// P(|T| > |t|). Uses the upper tail, because 2·(1 − cdf) is zero below 1e-16.
pub(super) fn two_sided_p(t: f64, df: f64) -> Option<f64> {
    upper_tail(t.abs(), df).map(|tail| (2.0 * tail).min(1.0))
}

/// The half-width, in t, of a two-sided interval of this confidence; `None` unless `confidence` is
/// between 0 and 1 and `df` is positive.
pub(super) fn two_sided_quantile(confidence: f64, df: f64) -> Option<f64> {
    if !(confidence > 0.0 && confidence < 1.0) {
        return None;
    }
    upper_quantile((1.0 - confidence) / 2.0, df)
}

/// The t with P(T > t) = `tail`; `None` unless `tail` is between 0 and 1, `df` is positive and t
/// fits into a number.
pub(super) fn upper_quantile(tail: f64, df: f64) -> Option<f64> {
    if !(tail > 0.0 && tail < 1.0 && df.is_finite() && df > 0.0) {
        return None;
    }
    if tail > 0.5 {
        return upper_quantile(1.0 - tail, df).map(|t| -t);
    }
    // Newton's method on the logarithm of the tail, kept between bounds that close in.
    let (mut low, mut high) = (0.0, 1.0);
    while positive_tail(high, df) > tail {
        (low, high) = (high, 2.0 * high);
        if high == f64::INFINITY {
            return None;
        }
    }
    let mut t = 0.5 * (low + high);
    for _ in 0..200 {
        let at = positive_tail(t, df);
        if at > tail {
            low = t
        } else {
            high = t
        }
        let next = t + (at / tail).ln() * at / density(t, df);
        if (next - t).abs() <= 2.0 * f64::EPSILON * t {
            return Some(next);
        }
        let inside = next > low && next < high;
        t = if inside { next } else { 0.5 * (low + high) };
    }
    Some(t)
}

/// The z below which a standard normal number lies with this chance; `None` unless that is between 0
/// and 1. A t with so many degrees of freedom equals the normal to 1e-9.
pub fn normal_quantile(chance: f64) -> Option<f64> {
    upper_quantile(1.0 - chance, 1e9)
}

/// The upper tail for t ≥ 0: half of I_x(df / 2, ½) with x = df / (df + t²).
fn positive_tail(t: f64, df: f64) -> f64 {
    let a = df / 2.0;
    let u = t / df.sqrt();
    let (x, y) = ((1.0 + u * u).recip(), (1.0 + (u * u).recip()).recip());
    let front = beta::half_step(a) / PI.sqrt() * (a * log_x(u)).exp() * y.sqrt();
    if x < (a + 1.0) / (a + 2.5) {
        0.5 * front / beta::fraction(a, 0.5, x, y)
    } else {
        0.5 - 0.5 * front / beta::fraction(0.5, a, y, x)
    }
}

fn density(t: f64, df: f64) -> f64 {
    let a = df / 2.0;
    let log = (a + 0.5) * log_x(t / df.sqrt());
    beta::half_step(a) / (df * PI).sqrt() * log.exp()
}

/// ln(1 / (1 + u²)), even if u² does not fit into a number.
fn log_x(u: f64) -> f64 {
    if u > 1e100 { -2.0 * u.ln() } else { -(u * u).ln_1p() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_from_one_degree_of_freedom_to_a_hundred_thousand() {
        // The root of the regularized incomplete beta function in 30 digits (mpmath).
        for (df, expected) in [
            (1.0, 12.706_204_736_174_698),
            (4.0, 2.776_445_105_197_793),
            (30.0, 2.042_272_456_301_238),
            (1e5, 1.959_987_707_534_609_6),
        ] {
            let t = two_sided_quantile(0.95, df).unwrap();
            assert!((t / expected - 1.0).abs() < 1e-13, "df {df}: {t}");
        }
    }

    #[test]
    fn tails_are_right_to_thirteen_digits_down_to_1e_300() {
        // mpmath, 40 digits: betainc(df/2, 1/2, 0, df/(df+t**2), regularized=True)/2
        for (t, df, expected) in TAILS {
            let p = upper_tail(*t, *df).unwrap();
            assert!((p / expected - 1.0).abs() < 2e-13, "t {t}, df {df}: {p} against {expected}");
        }
    }

    #[test]
    fn a_quantile_leads_back_to_its_tail() {
        for df in [1.0, 1.5, 2.0, 7.3, 40.0, 1e3, 1e6] {
            for tail in [0.4999, 0.3, 0.05, 0.0147, 1e-6, 1e-20, 1e-150] {
                let t = upper_quantile(tail, df).unwrap();
                let back = upper_tail(t, df).unwrap();
                assert!((back / tail - 1.0).abs() < 1e-11, "df {df}: {tail} → {t} → {back}");
                assert!(upper_quantile(0.5, df).unwrap().abs() < 1e-15);
            }
        }
    }

    #[test]
    fn impossible_questions_have_no_answer() {
        assert_eq!(two_sided_quantile(1.0, 5.0), None);
        assert_eq!(two_sided_quantile(0.95, 0.0), None);
        assert_eq!(two_sided_quantile(0.95, f64::NAN), None);
        assert_eq!(two_sided_p(f64::NAN, 5.0), None);
        assert_eq!(upper_tail(f64::INFINITY, 5.0), None);
    }

    const TAILS: &[(f64, f64, f64)] = &[
        (0.0, 3.0, 0.5),
        (1e-06, 1.0, 0.49999968169011383),
        (0.01, 100000.0, 0.4960106536594116),
        (0.3, 2.4, 0.3941091615042831),
        (1.0, 1.0, 0.25),
        (1.7, 12.5, 0.05692949183689403),
        (1.75, 1000000.0, 0.04005931020827394),
        (2.0, 100000.0, 0.022751481728753232),
        (3.97, 5.584615384615386, 0.004258022516486241),
        (6.4, 19.06, 1.911498800425004e-06),
        (60.0, 20.0, 2.340325799678469e-24),
        (38.0, 1000000.0, 4.860675e-316),
        (400.0, 58.0, 8.565799476239223e-102),
        (1000000000000000.0, 18.0, 1.839490642107422e-260),
        (1e+33, 9.0, 2.545897037107019e-294),
        (1e+120, 2.0, 5.0000000000000005e-241),
        (1e+200, 1.0, 3.1830988618379067e-201),
        (5.0, 10000.0, 2.9151633068313237e-07),
        (25.0, 333.3, 9.87577968065604e-79),
    ];
}
