//! Rank tests: known answers, agreement of tests and intervals, invariances.

use proptest::prelude::*;

use super::counting::Tails;
use super::rank_sum::RankSum;
use super::*;

fn known_answers(section: &str) -> Vec<serde_json::Value> {
    let text = include_str!("../../../../tests/data/rank_known_answers.json");
    let all: serde_json::Value = serde_json::from_str(text).unwrap();
    all[section].as_array().unwrap().clone()
}

fn numbers(value: &serde_json::Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn blocks(value: &serde_json::Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
}

fn close(got: f64, expected: f64, what: &serde_json::Value) {
    assert!((got - expected).abs() <= 1e-9 * expected.abs(), "{what}: {got}, not {expected}");
}

fn tails_are(got: Tails, case: &serde_json::Value) {
    close(got.above, case["above"].as_f64().unwrap(), &case["name"]);
    close(got.below, case["below"].as_f64().unwrap(), &case["name"]);
}

#[test]
fn counted_tails_estimates_and_intervals_agree_with_enumeration_and_scipy() {
    for case in known_answers("independent") {
        let (a, b) = (numbers(&case["a"]), numbers(&case["b"]));
        let test = RankSum::new(&a, &b, Layout::Independent).unwrap();
        let merged = test.merged(case["shift"].as_f64().unwrap());
        tails_are(test.dealt_over_all(&merged), &case);
        if let Some(expected) = case["brunner_munzel"].as_array() {
            let got = test.unequal(&merged);
            close(got.above, expected[0].as_f64().unwrap(), &case["name"]);
            close(got.below, expected[1].as_f64().unwrap(), &case["name"]);
        }
        let estimate = case["hodges_lehmann"].as_f64().unwrap();
        assert!((test.estimate() - estimate).abs() < 1e-9, "{}", case["name"]);
        // The interval of R counts without ties and takes both scatters to be alike; ours is no
        // narrower.
        if let Some([low, high]) = case["interval90"].as_array().map(|v| &v[..]) {
            let got = test.interval(0.05);
            let (low, high) = (low.as_f64().unwrap(), high.as_f64().unwrap());
            if !case["name"].as_str().unwrap().contains("ties") {
                assert!(got.low <= low + 1e-9 && got.high >= high - 1e-9, "{case}: {got:?}");
            }
        }
    }
}

#[test]
fn ranks_dealt_within_blocks_agree_with_enumeration() {
    for case in known_answers("blocks") {
        let (a, b) = (numbers(&case["a"]), numbers(&case["b"]));
        let (of_a, of_b) = (blocks(&case["blocks_a"]), blocks(&case["blocks_b"]));
        let layout = Layout::Blocks { worse: &of_a, other: &of_b };
        let test = RankSum::new(&a, &b, layout).unwrap();
        tails_are(test.tails(case["shift"].as_f64().unwrap()), &case);
    }
}

#[test]
fn the_normal_tail_of_large_samples_is_close_to_the_count() {
    let below = counting::untied(100, 100).unwrap();
    assert!(counting::untied(100, 101).is_none());
    for u in [4000, 4300, 4500, 4900] {
        let normal = counting::normal(2.0 * u as f64 - 10_000.0, 10_000.0 / 3.0 * 201.0).below;
        assert!((normal / below[u] - 1.0).abs() < 0.03, "{u}: {normal} {}", below[u]);
    }
    // More blocks than are counted: the normal tail lies near that of ten.
    let numbers: Vec<u32> = (0..22).map(|i| i / 2).collect();
    let values =
        |n: usize, by: f64| (0..n).map(|i| (i as f64 * 0.7).sin() + by).collect::<Vec<_>>();
    let p = |n: usize| {
        let layout = Layout::Blocks { worse: &numbers[..n], other: &numbers[..n] };
        let test = RankSum::new(&values(n, 0.4), &values(n, 0.01), layout).unwrap();
        test.tails(0.0).above
    };
    assert!((p(22) / p(20)).ln().abs() < 1.0, "{} {}", p(20), p(22));
}

#[test]
fn a_block_whose_launches_of_one_side_failed_joins_another() {
    let worse = [1.3, 1.1, 1.2, 1.4];
    let other = [1.0, 1.05];
    let of_worse = [0, 0, 1, 1];
    let test = |of_other: &[u32]| {
        let layout = Layout::Blocks { worse: &of_worse, other: of_other };
        shift_test(&worse, &other, layout, 0.0).unwrap()
    };
    // One block of six: the two ways to choose two of six that are as low is one of 15.
    assert!((test(&[0, 0]).p_reg - 1.0 / 15.0).abs() < 1e-12);
    assert!((test(&[1, 1]).p_reg - 1.0 / 15.0).abs() < 1e-12);
    assert!((test(&[0, 1]).p_reg - 1.0 / 9.0).abs() < 1e-12);
    let short = Layout::Blocks { worse: &of_worse, other: &[0] };
    assert_eq!(shift_test(&worse, &other, short, 0.0), None);
}

#[test]
fn few_values_say_how_many_would_do() {
    assert_eq!(fewest_to_reach(0.05, false), Some(4));
    assert_eq!(fewest_to_reach(0.01, false), Some(5));
    assert_eq!(fewest_to_reach(0.05, true), Some(4));
    assert_eq!(fewest_to_reach(0.01, true), Some(6));
    assert_eq!(fewest_to_reach(0.0, true), None);
    let three = shift_test(&[1.2, 1.3, 1.4], &[1.0, 1.1, 1.05], Layout::Independent, 0.0).unwrap();
    assert_eq!((three.least_p, three.p_reg), (0.05, 0.05));
    assert_eq!(three.interval90, None);
    assert_eq!(shift_test(&[1.0], &[1.0, 2.0], Layout::Independent, 0.0), None);
    assert_eq!(shift_test(&[1.0, 0.0], &[1.0, 2.0], Layout::Independent, 0.0), None);
}

#[test]
fn one_stall_moves_neither_estimate_nor_decision() {
    let base = [1.00, 1.01, 0.99, 1.02, 0.98, 1.005, 0.995, 1.015, 0.985, 1.0];
    let mut slow = base.map(|x| x * 1.1);
    let clean = shift_test(&slow, &base, Layout::Independent, 1.05f64.ln()).unwrap();
    slow[3] *= 3.0;
    let mut base = base;
    base[7] *= 3.0;
    let stalled = shift_test(&slow, &base, Layout::Independent, 1.05f64.ln()).unwrap();
    assert!(clean.p_reg < 1e-4 && stalled.p_reg < 0.01, "{stalled:?}");
    assert!((clean.worse_by - stalled.worse_by).abs() < 0.005);
}

/// Launches of a hundred values; the last `hiccups` of each are four times as large.
fn launches(n: usize, level: f64, hiccups: usize) -> Vec<Vec<f64>> {
    let luck = |i: usize, j: usize| 1.0 + 0.02 * ((i * 31 + j * 17) as f64).sin();
    let value = |i, j| level * luck(i, j) * if j >= 100 - hiccups { 4.0 } else { 1.0 };
    (0..n).map(|i| (0..100).map(|j| value(i, j)).collect()).collect()
}

#[test]
fn scores_are_dealt_out_in_as_many_ways_as_enumeration_finds() {
    let scores = [0, 3, 1, 1, 2, 0, 5];
    for observed in 0..=12 {
        let sums: Vec<usize> = (0..1u32 << 7)
            .filter(|set| set.count_ones() == 3)
            .map(|set| (0..7).filter(|i| set & 1 << i != 0).map(|i| scores[i]).sum())
            .collect();
        let share = |holds: &dyn Fn(usize) -> bool| {
            sums.iter().filter(|s| holds(**s)).count() as f64 / sums.len() as f64
        };
        let got = counting::dealt(&scores, 3, observed);
        assert!((got.above - share(&|s| s >= observed)).abs() < 1e-12);
        assert!((got.below - share(&|s| s <= observed)).abs() < 1e-12);
    }
}

#[test]
fn a_longer_tail_is_found_where_the_middle_is_alike_and_a_change_of_all_is_its_size() {
    let base = launches(8, 1.0, 1);
    let theta = 1.05f64.ln();
    let test =
        |slow: &[Vec<f64>]| quantile_test(slow, &base, Layout::Independent, 0.95, theta).unwrap();
    let same = test(&launches(8, 1.0, 1));
    assert!(same.p_reg > 0.5 && same.p > 0.9 && same.worse_by.abs() < 1e-3, "{same:?}");
    let all = test(&launches(8, 1.2, 1));
    assert!(all.p_reg < 0.001 && (all.worse_by - 1.2f64.ln()).abs() < 0.01, "{all:?}");
    // Ten values of a hundred are now beyond the fifth; the median has not moved.
    let tail = test(&launches(8, 1.0, 10));
    assert!(tail.p_reg < 0.001 && tail.worse_by > 1.0, "{tail:?}");
    let interval = all.interval90.unwrap();
    assert!(interval.low <= all.worse_by && all.worse_by <= interval.high, "{interval:?}");
    let numbers = [0, 0, 1, 1, 2, 2, 3, 3];
    let layout = Layout::Blocks { worse: &numbers, other: &numbers };
    let blocked = quantile_test(&launches(8, 1.2, 1), &base, layout, 0.95, theta).unwrap();
    assert!((blocked.p_reg - 6f64.powi(-4)).abs() < 1e-9, "{blocked:?}");
}

#[test]
fn a_quantile_needs_launches_and_values_beyond_it() {
    let base = launches(8, 1.0, 1);
    let none = |slow: &[Vec<f64>], base: &[Vec<f64>], q: f64| {
        assert_eq!(quantile_test(slow, base, Layout::Independent, q, 0.05), None);
    };
    none(&base[..1], &base, 0.95);
    none(&base, &[vec![1.0], vec![]], 0.95);
    none(&base, &[vec![1.0], vec![0.0]], 0.95);
    none(&base[..2], &base[..2], 0.999);
}

fn values() -> impl Strategy<Value = Vec<f64>> {
    proptest::collection::vec(0.5f64..2.0, 2..12)
}

proptest! {
    #[test]
    fn exchanging_the_sides_exchanges_worse_and_better(
        a in values(), b in values(), theta in 0.0f64..0.5,
    ) {
        let ab = shift_test(&a, &b, Layout::Independent, theta).unwrap();
        let ba = shift_test(&b, &a, Layout::Independent, theta).unwrap();
        prop_assert!((ab.p_reg - ba.p_improved).abs() < 1e-9);
        prop_assert!((ab.p - ba.p).abs() < 1e-9);
        prop_assert!((ab.worse_by + ba.worse_by).abs() < 1e-9);
    }

    #[test]
    fn tests_and_interval_agree_in_both_layouts(
        a in proptest::collection::vec(0.5f64..2.0, 10),
        b in proptest::collection::vec(0.5f64..2.0, 10), theta in 0.0f64..0.5, blocked: bool,
    ) {
        let numbers: Vec<u32> = (0..10).map(|i| i / 2).collect();
        let layout = match blocked {
            true => Layout::Blocks { worse: &numbers, other: &numbers },
            false => Layout::Independent,
        };
        let test = shift_test(&a, &b, layout, theta).unwrap();
        let interval = test.interval90.unwrap();
        prop_assume!((interval.low - theta).abs() > 1e-9 && (interval.high - theta).abs() > 1e-9);
        // Within blocks the null distribution changes a little with the shift, so that the tests
        // need not reject a shift between two that they accept.
        if !blocked {
            prop_assert_eq!(interval.low > theta, test.p_reg < 0.05);
            prop_assert_eq!(interval.high < theta, test.p_ok < 0.05);
        }
        prop_assert!(interval.low <= test.worse_by && test.worse_by <= interval.high);
    }

    #[test]
    fn neither_the_unit_nor_rates_for_times_change_a_p(
        a in values(), b in values(), unit in 1e-9f64..1e9,
    ) {
        let times = |v: &[f64]| v.iter().map(|x| unit / x).collect::<Vec<_>>();
        let plain = shift_test(&a, &b, Layout::Independent, 0.05).unwrap();
        let other = shift_test(&times(&b), &times(&a), Layout::Independent, 0.05).unwrap();
        prop_assert!((plain.p_reg - other.p_reg).abs() < 1e-9);
        prop_assert!((plain.p_ok - other.p_ok).abs() < 1e-9);
    }

    #[test]
    fn coarse_values_never_break_a_count(
        a in proptest::collection::vec(1u32..5, 2..16),
        b in proptest::collection::vec(1u32..5, 2..16), blocked: bool,
    ) {
        let float = |v: &[u32]| v.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
        let numbers = |n: usize| (0..n as u32).map(|i| i / 2).collect::<Vec<_>>();
        let (of_a, of_b) = (numbers(a.len()), numbers(b.len()));
        let layout = match blocked {
            true => Layout::Blocks { worse: &of_a, other: &of_b },
            false => Layout::Independent,
        };
        let test = shift_test(&float(&a), &float(&b), layout, 2f64.ln()).unwrap();
        for p in [test.p, test.p_reg, test.p_ok, test.p_improved] {
            prop_assert!((0.0..=1.0).contains(&p), "{test:?}");
        }
        prop_assert!(test.p_reg + test.p_ok >= 1.0 - 1e-9);
    }
}
