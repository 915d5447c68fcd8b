//! Tests that change points are found where the tests put them, and nowhere else.

use super::*;
use proptest::prelude::*;
use rand::Rng;

/// Values around levels, each with its length, with this coefficient of variation.
fn levels(parts: &[(f64, usize)], cv: f64, seed: u64) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut series = Vec::new();
    for &(level, length) in parts {
        for _ in 0..length {
            // A sum of twelve uniforms is close to normal.
            let z: f64 = (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
            series.push(level * (1.0 + cv * z));
        }
    }
    series
}

fn indices(series: &[f64], search: &Search) -> Vec<usize> {
    change_points(series, search).unwrap().iter().map(|c| c.index).collect()
}

#[test]
fn the_fast_energies_are_those_of_the_definition() {
    let values = [0.3, -0.2, 0.3, 1.1, 0.9, 1.4, -0.2, 1.0];
    let order: Vec<usize> = (0..values.len()).collect();
    let mut slow = (0, f64::NEG_INFINITY);
    for at in 2..=values.len() - 2 {
        let mean = |a: &[f64], b: &[f64], pairs: f64| {
            a.iter().flat_map(|x| b.iter().map(move |y| (x - y).abs())).sum::<f64>() / pairs
        };
        let (l, r) = values.split_at(at);
        let (n, m) = (l.len() as f64, r.len() as f64);
        let energy =
            2.0 * mean(l, r, n * m) - mean(l, l, n * (n - 1.0)) - mean(r, r, m * (m - 1.0));
        let scaled = energy * n * m / (n + m);
        if scaled > slow.1 {
            slow = (at, scaled);
        }
    }
    let fast = Energies::new(&values).best_split(&order, 2);
    assert_eq!(fast.0, slow.0);
    assert!((fast.1 / slow.1 - 1.0).abs() < 1e-12, "{fast:?} {slow:?}");
}

#[test]
fn two_steps_are_found_where_they_are() {
    let series = levels(&[(100.0, 40), (90.0, 30), (110.0, 50)], 0.01, 3);
    let found = change_points(&series, &Search::default()).unwrap();
    assert_eq!(found.iter().map(|c| c.index).collect::<Vec<_>>(), [40, 70]);
    assert!((found[0].change + 0.1).abs() < 0.01 && (found[1].change - 0.222).abs() < 0.02);
    assert!((found[0].before - 100.0).abs() < 1.0 && (found[1].after - 110.0).abs() < 1.0);
    assert!(found.iter().all(|c| c.p <= 0.01));
}

#[test]
fn a_step_below_the_least_change_is_left_out() {
    let series = levels(&[(100.0, 40), (97.0, 40), (80.0, 40)], 0.005, 5);
    assert_eq!(indices(&series, &Search::default()), [80]);
    let finer = Search { least_change: 0.01, ..Search::default() };
    assert_eq!(indices(&series, &finer), [40, 80]);
}

#[test]
fn spikes_are_no_levels() {
    let mut series = levels(&[(100.0, 80)], 0.01, 11);
    for i in [9, 33, 60] {
        series[i] = 40.0;
    }
    assert_eq!(indices(&series, &Search::default()), [0usize; 0]);
}

#[test]
fn noise_alone_has_change_points_about_as_often_as_the_significance_says() {
    // Without a minimum magnitude, only the permutation test decides.
    let search =
        Search { least_change: 0.0, significance: 0.05, permutations: 39, ..Search::default() };
    let wrong = (0..300)
        .filter(|&seed| {
            let series = levels(&[(100.0, 30)], 0.02, 1000 + seed);
            !indices(&series, &Search { seed, ..search }).is_empty()
        })
        .count();
    // 5 % of 300 is 15; 30 or more has a chance of 3e-4.
    assert!(wrong < 30, "{wrong} of 300");
    assert!(wrong > 3, "{wrong} of 300");
}

#[test]
fn a_hundred_thousand_values_are_condensed_and_the_step_still_placed_exactly() {
    let series = levels(&[(100.0, 33_333), (90.0, 50_001), (100.0, 16_666)], 0.001, 2);
    assert_eq!(indices(&series, &Search::default()), [33_333, 83_334]);
}

#[test]
fn short_constant_and_impossible_series() {
    assert_eq!(indices(&[], &Search::default()), [0usize; 0]);
    assert_eq!(indices(&[1.0, 2.0, 3.0], &Search::default()), [0usize; 0]);
    assert_eq!(indices(&[5.0; 50], &Search::default()), [0usize; 0]);
    assert_eq!(change_points(&[1.0, f64::NAN], &Search::default()), None);
    assert_eq!(change_points(&[1.0, 0.0], &Search::default()), None);
    // Levels without noise.
    let mut step = vec![10.0; 10];
    step.extend([12.0; 10]);
    assert_eq!(indices(&step, &Search::default()), [10]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]
    #[test]
    fn the_unit_and_its_inverse_do_not_matter(
        seed in 0u64..1000, at in 15usize..45, unit in 1e-6f64..1e6,
    ) {
        let series = levels(&[(100.0, at), (80.0, 60 - at)], 0.01, seed);
        let scaled: Vec<f64> = series.iter().map(|v| v * unit).collect();
        let times: Vec<f64> = series.iter().map(|v| 1.0 / v).collect();
        let expected = indices(&series, &Search::default());
        prop_assert_eq!(&expected, &[at]);
        prop_assert_eq!(&expected, &indices(&scaled, &Search::default()));
        prop_assert_eq!(&expected, &indices(&times, &Search::default()));
    }

    #[test]
    fn no_positive_series_makes_it_panic(
        series in proptest::collection::vec(1e-300f64..1e300, 0..40), bins in 0usize..12,
    ) {
        let search = Search { permutations: 19, significance: 0.05, bins, ..Search::default() };
        let found = change_points(&series, &search).unwrap();
        prop_assert!(found.windows(2).all(|w| w[0].index < w[1].index));
    }
}
