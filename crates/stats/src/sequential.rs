//! Sequential looks: the level of each test if the data are looked at twice.

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
}
