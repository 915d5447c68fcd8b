//! Student's t: the few functions of it that the tests need, exact enough in the tails.

use statrs::distribution::{Continuous, ContinuousCDF, StudentsT};

/// P(T > t) with `df` degrees of freedom; absent unless `t` is finite and `df` positive.
pub(super) fn upper_tail(t: f64, df: f64) -> Option<f64> {
    t.is_finite().then(|| distribution(df))?.map(|d| d.sf(t))
}

/// P(|T| > |t|). From the upper tail, since 2·(1 − cdf) is zero below 1e-16.
pub(super) fn two_sided_p(t: f64, df: f64) -> Option<f64> {
    upper_tail(t.abs(), df).map(|tail| (2.0 * tail).min(1.0))
}

/// The t that a two-sided interval of this confidence reaches to; absent unless `confidence`
/// lies between 0 and 1 and `df` is positive.
pub(super) fn two_sided_quantile(confidence: f64, df: f64) -> Option<f64> {
    if !(confidence > 0.0 && confidence < 1.0) {
        return None;
    }
    let tail = (1.0 - confidence) / 2.0;
    let d = distribution(df)?;
    let t = d.inverse_cdf(1.0 - tail);
    // statrs is good to 4e-11 up to df 200 and to 3.5e-6 at 1e5: one Newton step mends that.
    let polished = if df > 1000.0 { t + (d.sf(t) - tail) / d.pdf(t) } else { t };
    polished.is_finite().then_some(polished)
}

/// The t with P(T > t) = `tail`; absent unless `tail` lies between 0 and 1 and `df` is positive.
pub(super) fn upper_quantile(tail: f64, df: f64) -> Option<f64> {
    if !(tail > 0.0 && tail < 1.0) {
        return None;
    }
    let d = distribution(df)?;
    let t = -d.inverse_cdf(tail);
    let polished = if df > 1000.0 { t + (d.sf(t) - tail) / d.pdf(t) } else { t };
    polished.is_finite().then_some(polished)
}

fn distribution(df: f64) -> Option<StudentsT> {
    df.is_finite().then(|| StudentsT::new(0.0, 1.0, df).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_from_one_degree_of_freedom_to_a_hundred_thousand() {
        // The root of the regularized incomplete beta function in 30 digits (mpmath).
        for (df, expected) in [
            (1.0, 12.706_204_736_432_095),
            (4.0, 2.776_445_105_197_793),
            (30.0, 2.042_272_456_301_238),
            (1e5, 1.959_987_707_534_609_6),
        ] {
            let t = two_sided_quantile(0.95, df).unwrap();
            assert!((t / expected - 1.0).abs() < 1e-9, "df {df}: {t}");
        }
    }

    #[test]
    fn tails_beyond_the_reach_of_one_minus_cdf_are_not_zero() {
        let p = two_sided_p(60.0, 20.0).unwrap();
        assert!(p > 0.0 && p < 1e-20, "{p}");
    }

    #[test]
    fn impossible_questions_have_no_answer() {
        assert_eq!(two_sided_quantile(1.0, 5.0), None);
        assert_eq!(two_sided_quantile(0.95, 0.0), None);
        assert_eq!(two_sided_quantile(0.95, f64::NAN), None);
        assert_eq!(two_sided_p(f64::NAN, 5.0), None);
        assert_eq!(upper_tail(f64::INFINITY, 5.0), None);
    }
}
