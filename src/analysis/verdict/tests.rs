//! The verdict: known answers, decisions, refusals.

use super::*;
use crate::stats::Between;

fn known_answers(section: &str) -> Vec<serde_json::Value> {
    let text = include_str!("../../../tests/data/statistics_known_answers.json");
    let all: serde_json::Value = serde_json::from_str(text).unwrap();
    all[section].as_array().unwrap().clone()
}

fn values(value: &serde_json::Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn close(got: f64, expected: f64, relative: f64) {
    assert!((got - expected).abs() <= relative * expected.abs(), "{got} against {expected}");
}

fn decode<'a>(baseline: &'a [f64], candidate: &'a [f64]) -> Pair<'a> {
    Pair {
        metric: Metric::DecodeTps.name(),
        better: Better::Higher,
        baseline,
        candidate,
        arrangement: Arrangement::Independent,
        tail: None,
    }
}

fn one(pair: Pair<'_>, rules: &Rules) -> Judged {
    judge(&[pair], rules).unwrap().metrics.remove(0)
}

#[test]
fn p_values_and_intervals_agree_with_scipy() {
    for case in known_answers("gate") {
        let (baseline, candidate) = (values(&case["base"]), values(&case["cand"]));
        let better: Better = serde_json::from_value(case["better"].clone()).unwrap();
        let margin = case["margin"].as_f64().unwrap();
        let rules = Rules { margin, rule: Rule::Welch, ..Rules::default() };
        let pair = Pair {
            metric: Metric::DecodeTps.name(),
            better,
            baseline: &baseline,
            candidate: &candidate,
            arrangement: Arrangement::Independent,
            tail: None,
        };
        let got = one(pair, &rules);
        let expected = |name: &str| case[name].as_f64().unwrap();
        close(got.worse_by.unwrap(), expected("delta_log"), 1e-10);
        close(got.p_reg.unwrap(), expected("p_reg"), 1e-10);
        close(got.p_ok.unwrap(), expected("p_ok"), 1e-10);
        let log90 = got.ci90.unwrap().map(f64::ln_1p);
        let worse = match better {
            Better::Lower => log90,
            Better::Higher => [-log90[1], -log90[0]],
        };
        close(worse[0], case["ci90_log"][0].as_f64().unwrap(), 1e-9);
        close(worse[1], case["ci90_log"][1].as_f64().unwrap(), 1e-9);
    }
}

/// Only the metric of these tests is primary.
fn alone() -> Rules {
    Rules { primary: vec![Metric::DecodeTps.to_string()], ..Rules::default() }
}

#[test]
fn every_decision_has_its_exit_code_and_its_words() {
    for (candidate, expected, code) in [
        ([88.0, 89.0, 88.5, 89.5], Decision::Regressed, 1),
        ([100.0, 101.0, 100.5, 99.5], Decision::NotRegressed, 0),
        ([112.0, 113.0, 112.5, 113.5], Decision::Improved, 0),
        ([80.0, 120.0, 95.0, 105.0], Decision::Inconclusive, 3),
    ] {
        let judgement = judge(&[decode(&[100.0, 101.0, 99.5, 100.5], &candidate)], &alone());
        let judgement = judgement.unwrap();
        assert_eq!(judgement.decision, expected, "{judgement:#?}");
        assert_eq!(judgement.decision.exit_code(), code);
        assert!(judgement.metrics[0].why.starts_with("decode_tps changed by "));
        assert!(!judgement.why.is_empty());
    }
}

#[test]
fn where_nothing_varies_the_change_is_compared_exactly_and_p_is_absent() {
    let bytes = |candidate: &[f64]| {
        let pair = Pair {
            metric: Metric::PeakHostBytes.name(),
            better: Better::Lower,
            baseline: &[1000.0; 5],
            candidate,
            arrangement: Arrangement::Independent,
            tail: None,
        };
        one(pair, &Rules::default())
    };
    for (candidate, expected) in [
        (1050.0, Decision::NotRegressed),
        (1050.1, Decision::Regressed),
        (1000.0, Decision::NotRegressed),
        (953.0, Decision::NotRegressed),
        (952.0, Decision::Improved),
    ] {
        let judged = bytes(&[candidate; 5]);
        assert_eq!(judged.decision, expected, "{candidate}");
        assert_eq!(judged.point_rule, expected);
        assert!(judged.exact);
        assert_eq!((judged.p, judged.p_reg, judged.p_ok, judged.p_raw), (None, None, None, None));
        assert_eq!((judged.hedges_g, judged.mde, judged.launches_needed), (None, None, None));
        let text = serde_json::to_string(&judged).unwrap();
        assert!(!text.contains("null") && !text.contains("\"p\""), "{text}");
    }
    // Only one side varies: Welch's test has that side's degrees of freedom.
    let judged = bytes(&[1200.0, 1210.0, 1190.0, 1205.0, 1195.0]);
    assert!(!judged.exact && judged.decision == Decision::Regressed);
    assert!((judged.df_raw.unwrap() - 4.0).abs() < 1e-12);
}

#[test]
fn one_launch_is_inconclusive_and_says_how_many_are_needed() {
    let judged = one(decode(&[100.0, 90.0, 110.0, 104.0], &[50.0]), &alone());
    assert_eq!(judged.decision, Decision::Inconclusive);
    assert_eq!(judged.point_rule, Decision::Inconclusive);
    assert!((judged.change + 0.494).abs() < 0.01, "the change itself is known");
    assert_eq!((judged.p, judged.ci95, judged.mde), (None, None, None));
    let needed = judged.launches_needed.unwrap();
    assert!(
        needed > 10 && judged.why.contains(&format!("{needed} on each side")),
        "{}",
        judged.why
    );
    let neither = one(decode(&[100.0], &[50.0]), &alone());
    assert!(neither.why.contains("2 on each side"), "{}", neither.why);
    assert_eq!(neither.launches_needed, None);
}

#[test]
fn a_run_that_could_not_have_seen_the_margin_says_so() {
    let judged = one(
        decode(&[100.0, 90.0, 110.0, 104.0, 97.0], &[95.0, 108.0, 99.0, 112.0, 91.0]),
        &alone(),
    );
    assert_eq!(judged.decision, Decision::Inconclusive);
    assert!(judged.mde.unwrap() > judged.margin);
    let needed = format!("{} launches on each side would do", judged.launches_needed.unwrap());
    assert!(judged.why.contains(&needed), "{}", judged.why);
}

#[test]
fn launches_too_few_for_ranks_say_how_many_are_not() {
    let (base, slow) = ([100.0, 101.0, 99.0], [60.0, 61.0, 59.0]);
    let judged = one(decode(&base, &slow), &alone());
    assert_eq!(judged.decision, Decision::Inconclusive);
    assert!(judged.why.contains("cannot reach p < 0.05"), "{}", judged.why);
    assert!(judged.why.contains("4 on each side can"), "{}", judged.why);
    let by_welch = one(decode(&base, &slow), &Rules { rule: Rule::Welch, ..alone() });
    assert_eq!(by_welch.decision, Decision::Regressed);
    assert_eq!((judged.welch, judged.rank), (by_welch.welch, by_welch.rank));
    let four = one(decode(&[100.0, 101.0, 99.0, 100.5], &[60.0, 61.0, 59.0, 60.5]), &alone());
    assert_eq!((four.decision, four.p_reg), (Decision::Regressed, Some(1.0 / 70.0)));
}

#[test]
fn one_stall_does_not_hide_a_regression_from_ranks_and_does_from_welch() {
    let base = [100.0, 101.0, 99.0, 100.5, 99.5, 100.2, 99.8, 100.9, 33.0, 99.2];
    let slow = [90.0, 91.0, 89.0, 90.5, 30.0, 90.2, 89.8, 90.9, 90.1, 89.2];
    let judged = one(decode(&base, &slow), &alone());
    assert_eq!(judged.decision, Decision::Regressed, "{}", judged.why);
    assert_eq!(judged.decided_by, Some(Test::RankSum));
    let (change, interval, _) = judged.estimate();
    assert!((change + 0.1).abs() < 0.01 && interval.unwrap()[1] < -0.05, "{judged:?}");
    let by_welch = one(decode(&base, &slow), &Rules { rule: Rule::Welch, ..alone() });
    assert_eq!(by_welch.decision, Decision::Inconclusive);
    assert_eq!(by_welch.estimate().0, by_welch.change);
}

#[test]
fn blocks_that_were_measured_are_used_against_drift() {
    // The machine slows down by a third over ten launches of each side, ABBA.
    let at = |place: usize, by: f64| by * (1.0 + 0.3 * place as f64 / 20.0);
    let order = [0usize, 1, 1, 0].into_iter().cycle().take(20).enumerate();
    let mut sides = [vec![], vec![]];
    for (place, side) in order {
        sides[side].push(at(place, if side == 0 { 1.0 } else { 1.1 }));
    }
    let blocks: Vec<u32> = (0..10).map(|i| i / 2).collect();
    let time =
        |arrangement| Pair { better: Better::Lower, arrangement, ..decode(&sides[0], &sides[1]) };
    let blocked = Arrangement::Blocks { baseline: &blocks, candidate: &blocks };
    let judged = one(time(blocked), &alone());
    assert_eq!(judged.decided_by, Some(Test::RankSumInBlocks));
    assert_eq!(judged.decision, Decision::Regressed, "{}", judged.why);
    let alone = one(time(Arrangement::Independent), &alone());
    assert_eq!(alone.decision, Decision::Inconclusive, "{}", alone.why);
}

#[test]
fn a_stored_baseline_may_be_red_and_never_green_without_three_earlier_sessions() {
    let base = [100.0, 101.0, 99.0, 100.5, 99.5, 100.2];
    let judged = |factor: f64, known: Option<Between>| {
        let candidate = base.map(|x| x * factor);
        let pair = decode(&base, &candidate);
        one(Pair { arrangement: Arrangement::Sessions(known), ..pair }, &alone())
    };
    let of = |sessions: u32| Some(Between { sd: 0.005, sessions });
    for known in [None, of(1), of(2)] {
        let same = judged(1.0, known);
        assert_eq!(same.decision, Decision::Inconclusive);
        assert!(same.why.contains("fewer than 3 earlier sessions"), "{}", same.why);
        assert_eq!(judged(1.3, known).decision, Decision::Inconclusive);
        assert_eq!(judged(0.6, known).decision, Decision::Regressed);
    }
    assert_eq!(judged(1.0, of(5)).decision, Decision::NotRegressed);
    assert_eq!(judged(0.9, of(5)).decision, Decision::Regressed);
    assert_eq!(judged(0.9, of(5)).decided_by, Some(Test::RankSumOverSessions));
    // Sessions that differ by 5 % cannot show that 6 % is the program.
    let wide = Some(Between { sd: 0.05, sessions: 5 });
    assert_eq!(judged(0.9, wide).decision, Decision::Inconclusive);
    assert_eq!(judged(1.0, wide).decision, Decision::Inconclusive);
}

#[test]
fn rules_of_earlier_records_are_read() {
    for (text, rule) in
        [("\"rank\"", Rule::Rank), ("\"welch\"", Rule::Welch), ("\"point\"", Rule::Point)]
    {
        assert_eq!(serde_json::from_str::<Rule>(text).unwrap(), rule);
    }
    assert_eq!(Rule::default(), Rule::Rank);
}

#[test]
fn values_that_no_percentage_is_of_are_refused_with_the_metric() {
    for bad in [f64::NAN, f64::INFINITY, 0.0, -1.0] {
        let error = judge(&[decode(&[1.0, 2.0], &[1.0, bad])], &alone()).unwrap_err().to_string();
        assert!(error.starts_with("decode_tps, candidate: "), "{error}");
    }
    assert!(judge(&[decode(&[], &[1.0])], &alone()).is_err());
    for margin in [-0.01, f64::NAN, f64::INFINITY] {
        let error = judge(&[decode(&[1.0], &[1.0])], &Rules { margin, ..alone() }).unwrap_err();
        assert!(error.to_string().contains("the margin of decode_tps"));
    }
    for alpha in [0.0, 0.5, f64::NAN] {
        assert!(judge(&[], &Rules { alpha, ..alone() }).is_err());
    }
}

#[test]
fn a_margin_of_its_own_decides_for_its_metric() {
    let pair = decode(&[100.0, 100.5, 99.5, 100.2], &[96.0, 96.3, 95.8, 96.1]);
    assert_eq!(one(pair, &alone()).decision, Decision::NotRegressed);
    assert!(one(pair, &alone()).real_but_small);
    let margins = BTreeMap::from([(Metric::DecodeTps.to_string(), 0.02)]);
    assert_eq!(one(pair, &Rules { margins, ..alone() }).decision, Decision::Regressed);
}

#[test]
fn holm_over_the_primaries_can_take_a_regression_back() {
    let metrics = [Metric::DecodeTps, Metric::PrefillTps, Metric::ModelLoad, Metric::ColdStartTtft];
    // Two of the 25 pairs are not worse by 5 %: p is 4 / 252.
    let (base, worse) = ([100.0, 101.0, 99.0, 100.5, 99.5], [108.6, 105.2, 110.2, 107.9, 109.0]);
    let same = [100.2, 100.9, 99.3, 100.0, 100.4];
    let pairs = metrics.map(|metric| Pair {
        metric: metric.name(),
        better: Better::Lower,
        baseline: &base,
        candidate: if metric == Metric::DecodeTps { &worse } else { &same },
        arrangement: Arrangement::Independent,
        tail: None,
    });
    let judged = |rules: &Rules| judge(&pairs, rules).unwrap();
    let single = &judged(&alone()).metrics[0];
    assert_eq!(single.p_reg, single.p_reg_holm);
    assert_eq!(single.decision, Decision::Regressed, "{single:?}");
    let all = judged(&Rules::default());
    assert_eq!(all.primaries, 4);
    let first = &all.metrics[0];
    assert!((first.p_reg_holm.unwrap() - 4.0 * first.p_reg.unwrap()).abs() < 1e-15);
    assert_eq!(first.decision, Decision::Inconclusive);
    // The other metrics are shown beside a primary one and have no adjusted p.
    assert_eq!(judged(&alone()).metrics[1].p_reg_holm, None);
    assert!(!judged(&alone()).metrics[1].primary);
}

#[test]
fn without_a_primary_metric_nothing_is_decided() {
    let rules = Rules { primary: vec![Metric::Mbu.to_string()], ..Rules::default() };
    let judgement = judge(&[decode(&[1.0, 1.1], &[1.0, 1.1])], &rules).unwrap();
    assert_eq!((judgement.decision, judgement.primaries), (Decision::Inconclusive, 0));
}

#[test]
fn the_point_rule_decides_if_asked_and_the_other_stands_beside_it() {
    // 6 % slower, but too few launches to show that it is more than 5 %.
    let pair = decode(&[100.0, 101.0, 99.0, 100.5], &[94.0, 95.5, 93.0, 94.2]);
    let by_margin = one(pair, &alone());
    assert_eq!(by_margin.decision, Decision::Inconclusive);
    assert_eq!(by_margin.point_rule, Decision::Regressed);
    let by_point = one(pair, &Rules { rule: Rule::Point, ..alone() });
    assert_eq!(by_point.decision, Decision::Regressed);
    assert_eq!(by_point.margin_rule, Decision::Inconclusive);
}

#[test]
fn a_judgement_survives_json_and_looks_spend_less_than_alpha() {
    let judgement = judge(&[decode(&[1.0, 1.1, 1.2], &[1.0, 1.3])], &alone()).unwrap();
    let text = serde_json::to_string(&judgement).unwrap();
    assert_eq!(serde_json::from_str::<Judgement>(&text).unwrap(), judgement);
    assert!(text.contains("\"inconclusive\"") && !text.contains("null"), "{text}");
    assert_eq!(Look::Only.alpha(0.05), 0.05);
    assert!((Look::First.alpha(0.05) - 0.0294).abs() < 5e-5);
    assert!(precision_reached(0.02, 0.05) && !precision_reached(0.025, 0.05));
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    fn values() -> impl Strategy<Value = Vec<f64>> {
        proptest::collection::vec(50.0f64..150.0, 2..8)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn rates_and_times_are_judged_alike(b in values(), c in values(), unit in 1e-6f64..1e6) {
            let times = |v: &[f64]| v.iter().map(|x| unit / x).collect::<Vec<_>>();
            let rate = one(decode(&b, &c), &alone());
            let (tb, tc) = (times(&b), times(&c));
            let pair = Pair { better: Better::Lower, ..decode(&tb, &tc) };
            let time = one(pair, &alone());
            prop_assert_eq!(rate.margin_rule, time.margin_rule);
            prop_assert_eq!(rate.point_rule, time.point_rule);
            prop_assert!((rate.worse_by.unwrap() - time.worse_by.unwrap()).abs() < 1e-12);
            prop_assert!(((1.0 + rate.change) * (1.0 + time.change) - 1.0).abs() < 1e-9);
        }

        #[test]
        fn a_wider_margin_never_turns_passed_into_regressed(
            b in values(), c in values(), margin in 0.0f64..0.3, more in 0.0f64..0.3,
        ) {
            let at = |margin| one(decode(&b, &c), &Rules { margin, ..alone() }).margin_rule;
            let (narrow, wide) = (at(margin), at(margin + more));
            if narrow != Decision::Regressed {
                prop_assert_ne!(wide, Decision::Regressed);
            }
            if narrow == Decision::NotRegressed {
                prop_assert_eq!(wide, Decision::NotRegressed);
            }
        }

        #[test]
        fn no_positive_values_make_it_panic_or_say_nan(
            b in proptest::collection::vec(-700.0f64..700.0, 1..5),
            c in proptest::collection::vec(-700.0f64..700.0, 1..5),
            tiny in 0.0f64..1e-14,
        ) {
            let [b, c] = [b, c].map(|v| v.iter().map(|x| x.exp()).collect::<Vec<f64>>());
            let near: Vec<f64> = b.iter().map(|x| x * (1.0 + tiny)).collect();
            for candidate in [&c, &near] {
                let Ok(judged) = judge(&[decode(&b, candidate)], &alone()) else { continue };
                let text = serde_json::to_string(&judged).unwrap();
                prop_assert!(!text.contains("null"), "{}", text);
            }
        }
    }
}
