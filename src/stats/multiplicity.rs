//! Many tests at once: adjusted p values, in the order in which the p values came.

/// Holm (1979), step down: the family-wise error rate, under any dependence.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let order = ascending(p);
    let mut adjusted = vec![0.0; p.len()];
    let mut largest = 0.0f64;
    for (rank, &i) in order.iter().enumerate() {
        largest = largest.max(p[i] * (p.len() - rank) as f64).min(1.0);
        adjusted[i] = largest;
    }
    adjusted
}

/// Benjamini and Hochberg (1995), step up: the false discovery rate, under independence or
/// positive dependence.
pub fn benjamini_hochberg(p: &[f64]) -> Vec<f64> {
    let order = ascending(p);
    let mut adjusted = vec![0.0; p.len()];
    let mut smallest = 1.0f64;
    for (rank, &i) in order.iter().enumerate().rev() {
        // The factor first: it is exactly one for the last, and p never falls below itself.
        smallest = smallest.min(p[i] * (p.len() as f64 / (rank + 1) as f64));
        adjusted[i] = smallest;
    }
    adjusted
}

fn ascending(p: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&i, &j| p[i].total_cmp(&p[j]));
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn agree(section: &str, adjust: fn(&[f64]) -> Vec<f64>) {
        let text = include_str!("../../tests/data/statistics_known_answers.json");
        let all: serde_json::Value = serde_json::from_str(text).unwrap();
        let numbers = |v: &serde_json::Value| -> Vec<f64> {
            v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
        };
        for case in all[section].as_array().unwrap() {
            let got = adjust(&numbers(&case["p"]));
            for (got, expected) in got.iter().zip(numbers(&case["adjusted"])) {
                assert!((got / expected - 1.0).abs() < 1e-12, "{got} {expected}");
            }
        }
    }

    #[test]
    fn both_agree_with_statsmodels() {
        agree("holm", holm);
        agree("bh", benjamini_hochberg);
    }

    #[test]
    fn ties_none_and_one() {
        assert_eq!(holm(&[]), [0.0; 0]);
        assert_eq!(holm(&[0.02]), [0.02]);
        assert_eq!(holm(&[0.25, 0.25]), [0.5, 0.5]);
        assert_eq!(benjamini_hochberg(&[0.25, 0.25]), [0.25, 0.25]);
        assert_eq!(holm(&[0.0, 1.0, 0.75]), [0.0, 1.0, 1.0]);
    }

    proptest! {
        #[test]
        fn adjusted_is_no_less_than_raw_and_keeps_the_order(
            p in proptest::collection::vec(0.0f64..=1.0, 0..30),
        ) {
            let (strict, loose) = (holm(&p), benjamini_hochberg(&p));
            for i in 0..p.len() {
                prop_assert!(p[i] <= loose[i] && loose[i] <= strict[i] && strict[i] <= 1.0);
                for j in 0..p.len() {
                    prop_assert!(p[i] > p[j] || (strict[i] <= strict[j] && loose[i] <= loose[j]));
                }
            }
        }
    }
}
