//! What a comparison of two means can detect: power, minimum detectable effect, launches needed.
//!
//! All refer to the one-sided Welch test at level alpha. They use the noncentral t with Welch's
//! degrees of freedom, as if the two standard deviations were known.

use super::{noncentral, student};

/// Two samples, drawn or planned: how many values, and how widely they scatter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Design {
    pub n: [u32; 2],
    pub sd: [f64; 2],
}

impl Design {
    /// Standard error of the difference of the means, and its degrees of freedom. `None` for fewer
    /// than two values, and if neither sample scatters.
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

/// The chance that the one-sided test at level `alpha` detects a true difference of `effect` (in
/// the unit of the standard deviations). `None` for an impossible design or alpha.
pub fn power(design: Design, effect: f64, alpha: f64) -> Option<f64> {
    let (error, df) = design.error_and_df()?;
    noncentral::upper_tail(student::upper_quantile(alpha, df)?, df, effect / error)
}

/// The smallest true difference that the one-sided test at level `alpha` detects with this power,
/// in the unit of the standard deviations. `None` for an impossible design, alpha or power.
pub fn minimum_detectable_effect(design: Design, alpha: f64, power: f64) -> Option<f64> {
    let (error, df) = design.error_and_df()?;
    let critical = student::upper_quantile(alpha, df)?;
    // The sum of the two quantiles is already close.
    let start = critical + student::upper_quantile(1.0 - power, df)?;
    let missing = |delta: f64| Some(noncentral::upper_tail(critical, df, delta)? - power);
    // The power rises with delta: finds two points around the root, then applies the Illinois rule.
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

/// The fewest values on each side with which the one-sided test at level `alpha` detects a true
/// difference of `effect` with this power. `None` for an effect that is not positive, for an
/// impossible alpha or power, if neither side scatters, and beyond a billion.
pub fn launches_needed(sd: [f64; 2], effect: f64, alpha: f64, wanted: f64) -> Option<u32> {
    if !(effect > 0.0 && wanted > 0.0 && wanted < 1.0) {
        return None;
    }
    let enough = |n: u32| Some(power(Design { n: [n, n], sd }, effect, alpha)? >= wanted);
    // The start treats the spread as known: it is a few too low, or one or two too high.
    let z = student::upper_quantile(alpha, 1e9)? + student::upper_quantile(1.0 - wanted, 1e9)?;
    let guess = (sd[0].hypot(sd[1]) * z.max(0.0) / effect).powi(2).ceil();
    if guess > f64::from(1 << 30) {
        return None;
    }
    let mut n = (guess as u32).max(2);
    if enough(n)? {
        while n > 2 && enough(n - 1)? {
            n -= 1;
        }
        return Some(n);
    }
    while !enough(n)? {
        n += 1;
    }
    Some(n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn equal(n: u32, sd: f64) -> Design {
        Design { n: [n, n], sd: [sd, sd] }
    }

    #[test]
    fn the_minimum_detectable_effect_agrees_with_scipy() {
        // brentq(lambda d: nct.sf(t.isf(.05, 2n-2), 2n-2, d) - .8, 0, 60) * sqrt(2/n)
        for (n, expected) in [
            (2, 3.9789966159185255),
            (3, 2.4819462704749484),
            (5, 1.7246073442461871),
            (10, 1.156297143705989),
            (20, 0.8006803362541566),
            (100, 0.35284824301203915),
        ] {
            let got = minimum_detectable_effect(equal(n, 1.0), 0.05, 0.8).unwrap();
            assert!((got / expected - 1.0).abs() < 1e-8, "n {n}: {got}");
        }
        // Unequal: sd 1, n 5 and sd 2.5, n 12, alpha .0294, power .9.
        let design = Design { n: [5, 12], sd: [1.0, 2.5] };
        let got = minimum_detectable_effect(design, 0.0294, 0.9).unwrap();
        assert!((got / 2.8687765498896285 - 1.0).abs() < 1e-8, "{got}");
        assert!((power(design, 3.0, 0.0294).unwrap() - 0.923062039493858).abs() < 1e-10);
    }

    #[test]
    fn published_effects_in_percent_are_met_to_a_tenth() {
        // One-sided alpha .05, power .8: CV in percent and n, effect in percent.
        for (cv, n, percent) in [
            (1.0, 5, 1.7),
            (1.0, 10, 1.2),
            (1.0, 20, 0.8),
            (2.0, 5, 3.5),
            (2.0, 10, 2.3),
            (2.0, 20, 1.6),
            (5.0, 5, 8.7),
            (5.0, 10, 5.8),
            (5.0, 20, 4.0),
        ] {
            let got = minimum_detectable_effect(equal(n, cv), 0.05, 0.8).unwrap();
            assert!((got - percent).abs() < 0.1, "CV {cv} %, n {n}: {got}");
        }
    }

    #[test]
    fn launches_needed_agree_with_scipy() {
        let five = 1.05f64.ln();
        for (sd, effect, expected) in [
            (0.02, five, 4),
            (0.05, five, 14),
            (0.01, five, 2),
            (0.1, 1.02f64.ln(), 316),
            (0.3, 0.01, 11130),
        ] {
            assert_eq!(launches_needed([sd, sd], effect, 0.05, 0.8), Some(expected), "sd {sd}");
        }
    }

    #[test]
    fn questions_without_an_answer_have_none() {
        assert_eq!(minimum_detectable_effect(equal(1, 1.0), 0.05, 0.8), None);
        assert_eq!(minimum_detectable_effect(equal(5, 0.0), 0.05, 0.8), None);
        assert_eq!(minimum_detectable_effect(equal(5, 1.0), 0.0, 0.8), None);
        assert_eq!(launches_needed([1.0, 1.0], 0.0, 0.05, 0.8), None);
        assert_eq!(launches_needed([0.0, 0.0], 1.0, 0.05, 0.8), None);
        assert_eq!(launches_needed([1.0, 1.0], 1e-9, 0.05, 0.8), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn the_effect_leads_back_to_its_power(
            n_a in 2u32..40, n_b in 2u32..40, sd_a in 0.0f64..10.0, sd_b in 1e-6f64..10.0,
            alpha in 1e-4f64..0.4, wanted in 0.41f64..0.99,
        ) {
            let design = Design { n: [n_a, n_b], sd: [sd_a, sd_b] };
            let effect = minimum_detectable_effect(design, alpha, wanted).unwrap();
            prop_assert!((power(design, effect, alpha).unwrap() - wanted).abs() < 1e-6);
        }

        #[test]
        fn a_smaller_effect_needs_no_fewer_launches(
            sd in 0.001f64..0.2, effect in 0.005f64..0.2, part in 0.3f64..1.0,
        ) {
            let of = |effect| launches_needed([sd, sd], effect, 0.05, 0.8).unwrap();
            prop_assert!(of(effect * part) >= of(effect));
        }
    }
}
