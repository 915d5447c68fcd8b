//! Sequential looks: the level of each test if the data are looked at more than once.

use statrs::function::erf::erfc;

use super::student;

/// The two-sided level of each of two equally spaced looks that together spend `alpha` (Pocock
/// 1977): .0294 of .05. One-sided tests at this level spend a little less than `alpha`, and so do
/// looks that are closer together. `None` unless `alpha` is between 0 and 1.
pub fn pocock(alpha: f64) -> Option<f64> {
    if !(alpha > 0.0 && alpha < 1.0) {
        return None;
    }
    // All of alpha at each look is too much and half of it too little, so the level lies between.
    let (mut low, mut high) = (0.5 * alpha, alpha);
    for _ in 0..50 {
        let middle = 0.5 * (low + high);
        if spent(middle)? < alpha { low = middle } else { high = middle }
    }
    Some(low)
}

/// The chance that one of two standard normal scores exceeds the two-sided critical value of
/// `level`, where the second score uses twice the data of the first. Simpson's rule over the first
/// score.
fn spent(level: f64) -> Option<f64> {
    const STEPS: usize = 400;
    // A t with this many degrees of freedom equals the normal to 1e-9.
    let critical = student::upper_quantile(level / 2.0, 1e9)?;
    let inside = |z: f64| {
        // The second score given the first: mean z·√½, variance ½.
        let upper = (critical - z * 0.5f64.sqrt()) / 0.5f64.sqrt();
        let lower = (-critical - z * 0.5f64.sqrt()) / 0.5f64.sqrt();
        let cdf = |x: f64| 0.5 * erfc(-x / std::f64::consts::SQRT_2);
        (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() * (cdf(upper) - cdf(lower))
    };
    let h = 2.0 * critical / STEPS as f64;
    let weight = |i: usize| match i {
        0 | STEPS => 1.0,
        i if i % 2 == 1 => 4.0,
        _ => 2.0,
    };
    let sum: f64 = (0..=STEPS).map(|i| weight(i) * inside(-critical + i as f64 * h)).sum();
    Some(1.0 - sum * h / 3.0)
}

/// The one-sided level of each look such that the chance of a rejection at any look up to the k-th is
/// `spent[k]` if the hypothesis just holds (Lan and DeMets 1983). `times` are the shares of the data
/// that each look has, rising; `spent` rises too. The scores are those of a Brownian motion, which
/// those of a rank-sum test approach. `None` unless both lists are of one length, times are above 0
/// and at most 1, and chances are between 0 and 1.
pub fn spending_levels(times: &[f64], spent: &[f64]) -> Option<Vec<f64>> {
    let rising = |list: &[f64]| list.windows(2).all(|w| w[0] <= w[1]);
    let apart = times.windows(2).all(|w| w[0] < w[1]);
    let inside = |x: &f64| *x > 0.0 && *x <= 1.0;
    let valid = times.len() == spent.len() && apart && rising(spent);
    if !(valid && times.iter().all(inside) && spent.iter().all(|s| *s > 0.0 && *s < 1.0)) {
        return None;
    }
    let mut levels = Vec::with_capacity(times.len());
    // The density of the motion where no look has rejected yet, on a grid.
    let mut density: Vec<(f64, f64)> = Vec::new();
    let (mut before, mut used) = (0.0, 0.0);
    for (&time, &spent) in times.iter().zip(spent) {
        let (now, step) = (spent - used, (time - before).sqrt());
        let beyond = |limit: f64| match density.is_empty() {
            true => upper(limit / step),
            false => density.iter().map(|(x, w)| w * upper((limit - x) / step)).sum(),
        };
        let (mut low, mut high) = (-8.0 * time.sqrt(), 9.0 * time.sqrt());
        for _ in 0..60 {
            let middle = 0.5 * (low + high);
            if beyond(middle) > now { low = middle } else { high = middle }
        }
        levels.push(upper(high / time.sqrt()));
        density = carried(&density, step, -8.0 * time.sqrt(), high);
        (before, used) = (time, spent);
    }
    Some(levels)
}

/// The motion one step later, below `limit`: values with their weights, by Simpson's rule.
fn carried(density: &[(f64, f64)], step: f64, least: f64, limit: f64) -> Vec<(f64, f64)> {
    const STEPS: usize = 160;
    let h = (limit - least) / STEPS as f64;
    let normal = |z: f64| (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() / step;
    let point = |i: usize| {
        let x = least + i as f64 * h;
        let at = match density.is_empty() {
            true => normal(x / step),
            false => density.iter().map(|(from, w)| w * normal((x - from) / step)).sum(),
        };
        let weight = match i {
            0 | STEPS => 1.0,
            i if i % 2 == 1 => 4.0,
            _ => 2.0,
        };
        (x, at * weight * h / 3.0)
    };
    (0..=STEPS).map(point).collect()
}

/// P(Z > z) of a standard normal number.
fn upper(z: f64) -> f64 {
    0.5 * erfc(z / std::f64::consts::SQRT_2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_agree_with_the_bivariate_normal_of_scipy() {
        // The root over scipy.stats.multivariate_normal with correlation sqrt(1/2).
        for (alpha, expected) in [
            (0.1, 0.06073455326402951),
            (0.05, 0.029385785866272832),
            (0.01, 0.005574579779460787),
            (0.001, 0.0005334548880757901),
        ] {
            let level = pocock(alpha).unwrap();
            assert!((level / expected - 1.0).abs() < 1e-4, "{alpha}: {level}");
        }
        assert_eq!(pocock(0.0), None);
    }

    #[test]
    fn levels_of_many_looks_agree_with_published_ones() {
        // Five looks of Pocock's and O'Brien and Fleming's spending functions at one-sided .025
        // (Jennison and Turnbull 2000, tables 7.1 to 7.3; R ldbounds): critical values.
        let times = [0.2, 0.4, 0.6, 0.8, 1.0];
        let alpha = 0.025;
        let pocock = times.map(|t| alpha * ((std::f64::consts::E - 1.0) * t + 1.0).ln());
        let levels = spending_levels(&times, &pocock).unwrap();
        for (level, expected) in levels.iter().zip([2.438, 2.427, 2.410, 2.397, 2.386]) {
            let z = student::upper_quantile(*level, 1e9).unwrap();
            assert!((z - expected).abs() < 0.002, "{z} {expected}");
        }
        let z = student::upper_quantile(alpha / 2.0, 1e9).unwrap();
        let fleming = times.map(|t| 2.0 * upper(z / t.sqrt()));
        let levels = spending_levels(&times, &fleming).unwrap();
        for (level, expected) in levels.iter().zip([4.877, 3.357, 2.680, 2.290, 2.031]) {
            let z = student::upper_quantile(*level, 1e9).unwrap();
            assert!((z - expected).abs() < 0.002, "{z} {expected}");
        }
        assert_eq!(spending_levels(&[1.0], &[0.05]).map(|l| (l[0] * 1e9).round()), Some(5e7));
        assert_eq!(spending_levels(&[0.5, 0.4], &[0.01, 0.02]), None);
        assert_eq!(spending_levels(&[0.5, 1.0], &[0.02, 0.01]), None);
    }
}
