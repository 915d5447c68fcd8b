//! Adjusts p-values of many tests at once; keeps their order.

/// Holm (1979), step-down: controls the family-wise error rate under any dependence.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&i, &j| p[i].total_cmp(&p[j]));
    let mut adjusted = vec![0.0; p.len()];
    let mut largest = 0.0f64;
    for (rank, &i) in order.iter().enumerate() {
        largest = largest.max(p[i] * (p.len() - rank) as f64).min(1.0);
        adjusted[i] = largest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn holm_agrees_with_statsmodels() {
        let text = include_str!("../../../tests/data/statistics_known_answers.json");
        let all: serde_json::Value = serde_json::from_str(text).unwrap();
        let numbers = |v: &serde_json::Value| -> Vec<f64> {
            v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
        };
        for case in all["holm"].as_array().unwrap() {
            let got = holm(&numbers(&case["p"]));
            for (got, expected) in got.iter().zip(numbers(&case["adjusted"])) {
                assert!((got / expected - 1.0).abs() < 1e-12, "{got} {expected}");
            }
        }
    }

    #[test]
    fn ties_none_and_one() {
        assert_eq!(holm(&[]), [0.0; 0]);
        assert_eq!(holm(&[0.02]), [0.02]);
        assert_eq!(holm(&[0.25, 0.25]), [0.5, 0.5]);
        assert_eq!(holm(&[0.0, 1.0, 0.75]), [0.0, 1.0, 1.0]);
    }

    proptest! {
        #[test]
        fn adjusted_is_no_less_than_raw_and_keeps_the_order(
            p in proptest::collection::vec(0.0f64..=1.0, 0..30),
        ) {
            let adjusted = holm(&p);
            for i in 0..p.len() {
                prop_assert!(p[i] <= adjusted[i] && adjusted[i] <= 1.0);
                for j in 0..p.len() {
                    prop_assert!(p[i] > p[j] || adjusted[i] <= adjusted[j]);
                }
            }
        }
    }
}
