//! Counted shares: an interval for one, a test of two, the chance of a count.

use statrs::distribution::{ContinuousCDF, DiscreteCDF, Hypergeometric, Normal};

use super::{Interval, beta};

/// p of "the second share is not larger": Fisher's exact test, one-sided, of `[hits, of]` against
/// `[hits, of]`. 1 where there is nothing to compare.
pub fn fisher_one_sided([a, of_a]: [usize; 2], [b, of_b]: [usize; 2]) -> f64 {
    if a > of_a || b > of_b || b == 0 {
        return 1.0;
    }
    let (all, hits, drawn) = ((of_a + of_b) as u64, (a + b) as u64, of_b as u64);
    // The chance of at least `b` of the hits among the launches of the second side.
    Hypergeometric::new(all, hits, drawn).map_or(1.0, |h| h.sf(b as u64 - 1))
}

/// The exact two-sided interval of Clopper and Pearson (1934) for `hits` of `n`. Its upper end at
/// confidence 0.90 is the one-sided 95 % bound. `None` for no trials, more hits than trials, or a
/// confidence that is not between 0 and 1.
pub fn clopper_pearson(hits: u32, n: u32, confidence: f64) -> Option<Interval> {
    if n == 0 || hits > n || !(confidence > 0.0 && confidence < 1.0) {
        return None;
    }
    let tail = (1.0 - confidence) / 2.0;
    let low = if hits == 0 { 0.0 } else { beta_quantile(tail, hits, n - hits + 1) };
    // Counts from the other end, so that a bound near one keeps its digits.
    let high = if hits == n { 1.0 } else { 1.0 - beta_quantile(tail, n - hits, hits + 1) };
    Some(Interval { low, high })
}

/// The two-sided score interval of Wilson (1927) for `hits` of `n`: the shares that a z-test would not
/// refuse. Narrower than the exact one, and right on average rather than at least. `None` as there.
pub fn wilson(hits: u32, n: u32, confidence: f64) -> Option<Interval> {
    if n == 0 || hits > n || !(confidence > 0.0 && confidence < 1.0) {
        return None;
    }
    let z = Normal::standard().inverse_cdf(0.5 + confidence / 2.0);
    let (n, share) = (f64::from(n), f64::from(hits) / f64::from(n));
    let z2 = z * z;
    let middle = (share + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = z / (1.0 + z2 / n) * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
    Some(Interval { low: (middle - half).max(0.0), high: (middle + half).min(1.0) })
}

/// The chance of at least `hits` of `n` where each has the chance `share`: I_share(hits, n − hits + 1)
/// (Abramowitz and Stegun 26.5.24). `None` for more hits than trials, or a share that is not between
/// 0 and 1.
pub fn at_least(hits: u32, n: u32, share: f64) -> Option<f64> {
    if hits > n || !(0.0..=1.0).contains(&share) {
        return None;
    }
    Some(match hits {
        0 => 1.0,
        _ => beta::regularized(f64::from(hits), f64::from(n - hits + 1), share),
    })
}

/// The x with I_x(a, b) = `tail`, by bisection down to neighbouring numbers.
fn beta_quantile(tail: f64, a: u32, b: u32) -> f64 {
    let (a, b) = (f64::from(a), f64::from(b));
    let (mut low, mut high) = (0.0, 1.0);
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            return middle;
        }
        if beta::regularized(a, b, middle) < tail { low = middle } else { high = middle }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_intervals_are_those_of_scipy() {
        // scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
        for (hits, n, low, high) in [
            (81, 100, 0.722_211_546_209_356_2, 0.874_852_484_902_312_6),
            (10, 10, 0.722_467_200_137_110_7, 1.0),
            (0, 20, 0.0, 0.161_125_158_052_818_35),
            (1, 3, 0.061_491_944_720_396_26, 0.792_340_399_197_952_3),
        ] {
            let found = wilson(hits, n, 0.95).unwrap();
            assert!(
                (found.low - low).abs() < 1e-9 && (found.high - high).abs() < 1e-9,
                "{found:?}"
            );
        }
        assert!(wilson(1, 0, 0.95).is_none() && wilson(3, 2, 0.95).is_none());
    }

    #[test]
    fn intervals_agree_with_scipy() {
        // scipy.stats.binomtest(hits, n).proportion_ci(confidence, 'exact')
        for (hits, n, confidence, low, high) in [
            (0, 20, 0.95, 0.0, 0.16843347098308548),
            (20, 20, 0.95, 0.8315665290169145, 1.0),
            (19, 20, 0.9, 0.7838938357931302, 0.9974386212234697),
            (1, 1000, 0.95, 2.5317487491674634e-05, 0.0055589242798499),
            (37, 1000, 0.9, 0.027712066828402587, 0.04838992666597338),
            (50000, 100000, 0.99, 0.49592233424256255, 0.5040776657574374),
        ] {
            let got = clopper_pearson(hits, n, confidence).unwrap();
            assert!((got.low - low).abs() <= 1e-9 * low, "{hits} of {n}: {got:?}");
            assert!((got.high / high - 1.0).abs() < 1e-9, "{hits} of {n}: {got:?}");
        }
    }

    #[test]
    fn failures_are_compared_as_scipy_does() {
        // scipy.stats.fisher_exact([[b, of_b - b], [a, of_a - a]], alternative='greater')
        for (a, of_a, b, of_b, p) in [
            (0, 8, 1, 8, 0.5),
            (0, 8, 2, 8, 0.23333333333333334),
            (0, 8, 4, 8, 0.038461538461538464),
            (1, 8, 1, 8, 0.7666666666666667),
            (0, 30, 3, 30, 0.11864406779661017),
            (2, 20, 9, 12, 0.00033429315119115383),
        ] {
            let got = fisher_one_sided([a, of_a], [b, of_b]);
            assert!((got / p - 1.0).abs() < 1e-5, "{a}/{of_a} {b}/{of_b}: {got} {p}");
        }
        assert_eq!(fisher_one_sided([3, 8], [0, 8]), 1.0);
        assert_eq!(fisher_one_sided([0, 0], [0, 0]), 1.0);
    }

    #[test]
    fn chances_of_counts_agree_with_the_sum_of_the_binomial() {
        for (hits, n, share, chance) in [
            (19, 20, 0.95, 0.7358395249438498),
            (19, 20, 0.9, 0.3917469981251175),
            (20, 20, 0.95, 0.3584859224085419),
            (0, 20, 0.5, 1.0),
        ] {
            let got = at_least(hits, n, share).unwrap();
            assert!((got / chance - 1.0).abs() < 1e-9, "{hits} of {n}: {got}");
        }
        assert_eq!((at_least(3, 2, 0.5), at_least(1, 2, 1.1)), (None, None));
    }

    #[test]
    fn impossible_counts_have_no_interval() {
        assert_eq!(clopper_pearson(0, 0, 0.95), None);
        assert_eq!(clopper_pearson(3, 2, 0.95), None);
        assert_eq!(clopper_pearson(1, 2, 1.0), None);
    }
}
