//! Effect size: a difference in units of its spread.

use super::{Sample, beta};

/// Hedges' g (1981): (mean a − mean b) / pooled sd, times the exact correction for its bias, J =
/// Γ(m/2) / (√(m/2) · Γ((m − 1)/2)) with m = n_a + n_b − 2. `None` for samples of one value, and if
/// neither varies.
pub fn hedges_g(a: &Sample, b: &Sample) -> Option<f64> {
    let (free_a, free_b) = ((a.n() - 1) as f64, (b.n() - 1) as f64);
    let m = free_a + free_b;
    // Uses shares of the sums of squares instead of the squares, so that tiny spreads do not
    // underflow.
    let (sd_a, sd_b) = (a.sd()?, b.sd()?);
    let pooled = (sd_a * (free_a / m).sqrt()).hypot(sd_b * (free_b / m).sqrt());
    let d = (a.mean() - b.mean()) / pooled;
    d.is_finite().then(|| d * correction(m))
}

/// The correction for `m` degrees of freedom, m ≥ 2.
fn correction(m: f64) -> f64 {
    beta::half_step((m - 1.0) / 2.0) / (m / 2.0).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn g_agrees_with_the_known_answers() {
        let text = include_str!("../../../tests/data/statistics_known_answers.json");
        let all: serde_json::Value = serde_json::from_str(text).unwrap();
        let sample = |v: &serde_json::Value| {
            let values = v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap());
            Sample::new(&values.collect::<Vec<_>>()).unwrap()
        };
        for case in all["hedges_g"].as_array().unwrap() {
            let mut welch = all["welch"].as_array().unwrap().iter();
            let data = welch.find(|w| w["name"] == case["name"]).unwrap();
            let got = hedges_g(&sample(&data["a"]), &sample(&data["b"])).unwrap();
            let expected = case["g"].as_f64().unwrap();
            assert!((got / expected - 1.0).abs() < 1e-10, "{}: {got}", case["name"]);
        }
    }

    #[test]
    fn the_correction_is_the_exact_one() {
        // mpmath: gamma(m/2) / (sqrt(m/2) * gamma((m-1)/2))
        for (m, expected) in
            [(2.0, 0.5641895835477563), (18.0, 0.957646427023718), (1000.0, 0.9992497811797164)]
        {
            assert!((correction(m) / expected - 1.0).abs() < 1e-14, "{m}");
        }
    }

    #[test]
    fn without_a_spread_there_is_no_effect_size() {
        let constant = |x: f64| Sample::new(&[x, x]).unwrap();
        assert_eq!(hedges_g(&constant(1.0), &constant(2.0)), None);
        assert_eq!(hedges_g(&constant(1.0), &Sample::new(&[2.0]).unwrap()), None);
    }

    proptest! {
        #[test]
        fn neither_unit_nor_order_of_the_samples_changes_its_size(
            a in proptest::collection::vec(0.1f64..9.0, 2..9),
            b in proptest::collection::vec(0.1f64..9.0, 2..9), unit in 1e-200f64..1e200,
        ) {
            let of = |v: &[f64], unit: f64| {
                Sample::new(&v.iter().map(|x| x * unit).collect::<Vec<_>>()).unwrap()
            };
            let g = hedges_g(&of(&a, 1.0), &of(&b, 1.0)).unwrap();
            let back = hedges_g(&of(&b, unit), &of(&a, unit)).unwrap();
            prop_assert!((g + back).abs() <= 1e-9 * g.abs().max(1.0));
        }
    }
}
