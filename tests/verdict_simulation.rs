//! Checks the verdict's promises by simulation: how often it is wrong, and how often it detects a
//! real change. Seeded; runs only the pure functions.

use llm_bench::analysis::verdict::{
    Arrangement, Decision, Judgement, Look, Pair, Rule, Rules, Tail, Test, judge, precision_reached,
};
use llm_bench::metric::Better;
use llm_bench::stats::clopper_pearson;

/// The coefficient of variation between launches.
const CV: f64 = 0.02;
const MARGIN: f64 = 0.05;

#[path = "verdict_simulation/grid.rs"]
mod grid;
#[path = "verdict_simulation/machine.rs"]
mod machine;
#[path = "verdict_simulation/plans.rs"]
mod plans;

use machine::{Machine, Noise};

impl Machine {
    fn launches(&mut self, n: usize, level: f64, cv: f64) -> Vec<f64> {
        (0..n).map(|_| level * (cv * self.normal()).exp()).collect()
    }

    /// Seconds per token of a baseline and of a candidate that is `worse` times as slow.
    fn both(&mut self, n: usize, worse: f64, cv: f64) -> [Vec<f64>; 2] {
        self.apart(Noise::Normal, [n, n], worse, cv)
    }
}

/// Only one metric is primary, so that Holm does not change its p.
fn rules() -> Rules {
    Rules { margin: MARGIN, primary: vec!["tpot_s".into()], ..Rules::default() }
}

fn pair<'a>(metric: &'a str, [baseline, candidate]: &'a [Vec<f64>; 2]) -> Pair<'a> {
    Pair {
        metric,
        better: Better::Lower,
        baseline,
        candidate,
        arrangement: Arrangement::Independent,
        tail: None,
    }
}

fn verdict(launches: &[Vec<f64>; 2], rules: &Rules) -> Judgement {
    judge(&[pair("tpot_s", launches)], rules).unwrap()
}

/// How often a cell is drawn: `few` times, or as often as `VERDICT_SIMULATION_RUNS` says, for the
/// whole grid of docs/STATISTICS.md.
fn runs(few: u32) -> u32 {
    match std::env::var("VERDICT_SIMULATION_RUNS") {
        Ok(text) => text.parse().expect("VERDICT_SIMULATION_RUNS is a number of runs"),
        Err(_) => few,
    }
}

/// How many of `runs` get this decision.
fn count(
    runs: u32,
    seed: u64,
    decided: Decision,
    mut one: impl FnMut(&mut Machine) -> Decision,
) -> u32 {
    let mut machine = Machine::new(seed);
    (0..runs).filter(|_| one(&mut machine) == decided).count() as u32
}

/// The share is at most `limit`, as far as this many runs can tell: its interval reaches below.
fn at_most(hits: u32, runs: u32, limit: f64) {
    let interval = clopper_pearson(hits, runs, 0.99).unwrap();
    assert!(interval.low <= limit, "{hits} of {runs}: at least {}, not {limit}", interval.low);
}

/// One look at a fixed number of launches.
fn simple(n: usize, worse: f64, cv: f64) -> impl FnMut(&mut Machine) -> Decision {
    move |machine| verdict(&machine.both(n, worse, cv), &rules()).decision
}

#[test]
fn without_a_change_regressed_is_said_in_less_than_one_run_of_a_thousand() {
    for (n, cv) in [(3, 0.02), (5, 0.02), (10, 0.02), (10, 0.05)] {
        let wrong = count(2000, 11, Decision::Regressed, simple(n, 1.0, cv));
        // The counted share, and not merely the end of its interval.
        assert!(wrong <= 2, "n {n}, CV {cv}: {wrong} of 2000");
    }
}

#[test]
fn at_a_change_of_exactly_the_margin_regressed_is_said_at_most_as_often_as_alpha() {
    for n in [2, 3, 5, 10, 30] {
        let said = count(1500, 13, Decision::Regressed, simple(n, 1.0 + MARGIN, CV));
        at_most(said, 1500, 0.05);
        // With enough launches the test is exact, not merely safe.
        if n >= 10 {
            assert!(clopper_pearson(said, 1500, 0.99).unwrap().contains(0.05), "n {n}: {said}");
        }
    }
}

#[test]
fn at_a_change_of_exactly_the_margin_not_regressed_is_said_at_most_as_often_as_alpha() {
    let said = count(4000, 17, Decision::NotRegressed, simple(10, 1.0 + MARGIN, CV));
    at_most(said, 4000, 0.05);
}

#[test]
fn unequal_launches_and_spreads_keep_alpha() {
    let said = count(4000, 19, Decision::Regressed, |machine| {
        let launches = [machine.launches(5, 1.0, 0.06), machine.launches(20, 1.0 + MARGIN, 0.01)];
        verdict(&launches, &rules()).decision
    });
    at_most(said, 4000, 0.05);
}

#[test]
fn ten_percent_worse_is_seen_in_99_runs_of_100_with_ten_launches_at_two_percent() {
    let seen = count(3000, 23, Decision::Regressed, simple(10, 1.10, CV));
    let interval = clopper_pearson(seen, 3000, 0.99).unwrap();
    assert!(interval.low >= 0.99, "{seen} of 3000, at least {}", interval.low);
}

#[test]
fn as_many_launches_as_are_said_to_be_needed_pass_four_runs_of_five_without_a_change() {
    let mut machine = Machine::new(29);
    let planned = verdict(&machine.both(400, 1.0, 0.05), &rules());
    let needed = planned.metrics[0].launches_needed.unwrap() as usize;
    assert!((12..=17).contains(&needed), "{needed}");
    let passed = count(2000, 31, Decision::NotRegressed, simple(needed, 1.0, 0.05));
    let improved = count(2000, 31, Decision::Improved, simple(needed, 1.0, 0.05));
    let share = clopper_pearson(passed + improved, 2000, 0.99).unwrap();
    assert!(share.high >= 0.8 && share.low <= 0.88, "{passed} + {improved} of 2000");
}

#[test]
fn over_six_primary_metrics_any_wrong_regressed_is_as_rare_as_over_one() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let rules = Rules { primary: names.map(String::from).to_vec(), ..rules() };
    let said = count(1500, 37, Decision::Regressed, |machine| {
        let launches = names.map(|_| machine.both(6, 1.0 + MARGIN, CV));
        let pairs: Vec<Pair<'_>> =
            names.iter().zip(&launches).map(|(name, both)| pair(name, both)).collect();
        judge(&pairs, &rules).unwrap().decision
    });
    at_most(said, 1500, 0.05);
}

/// One look at six launches a side; without a decision, six more launches and a second look.
fn extended(worse: f64, cv: f64) -> impl FnMut(&mut Machine) -> Decision {
    let [at_first, at_second] =
        [Look::First, Look::Second].map(|look| Rules { alpha: look.alpha(0.05), ..rules() });
    move |machine| {
        let mut launches = machine.both(6, worse, cv);
        let first = verdict(&launches, &at_first).decision;
        if first != Decision::Inconclusive {
            return first;
        }
        let more = machine.both(6, worse, cv);
        for (side, more) in launches.iter_mut().zip(more) {
            side.extend(more);
        }
        verdict(&launches, &at_second).decision
    }
}

#[test]
fn one_planned_extension_keeps_alpha_at_the_margin() {
    for wrong in [Decision::Regressed, Decision::NotRegressed] {
        let said = count(4000, 41, wrong, extended(1.0 + MARGIN, CV));
        at_most(said, 4000, 0.05);
        assert!(said > 100, "{said}: the two looks spend most of alpha");
    }
    let wrong = count(3000, 43, Decision::Regressed, extended(1.0, CV));
    assert!(wrong <= 3, "{wrong} of 3000");
}

#[test]
fn two_looks_at_all_of_alpha_would_not_keep_it() {
    let mut rules = rules();
    rules.alpha = 0.05;
    let said = count(4000, 41, Decision::Regressed, |machine| {
        let mut launches = machine.both(6, 1.0 + MARGIN, CV);
        if verdict(&launches, &rules).decision == Decision::Regressed {
            return Decision::Regressed;
        }
        for (side, more) in launches.iter_mut().zip(machine.both(6, 1.0 + MARGIN, CV)) {
            side.extend(more);
        }
        verdict(&launches, &rules).decision
    });
    assert!(clopper_pearson(said, 4000, 0.99).unwrap().low > 0.05, "{said} of 4000");
}

/// Starts with `least` launches a side and adds one to each until the estimate is precise or there are
/// thirty; then makes one decision at the level of `look`.
fn until_precise(
    least: usize,
    worse: f64,
    cv: f64,
    look: Look,
    rule: Rule,
) -> impl FnMut(&mut Machine) -> Decision {
    let theta = MARGIN.ln_1p();
    let rules = Rules { alpha: look.alpha(0.05), rule, ..rules() };
    move |machine| {
        let mut launches = machine.both(least, worse, cv);
        loop {
            let judgement = verdict(&launches, &rules);
            let half_width = judgement.metrics[0].half_width();
            let precise = half_width.is_some_and(|width| precision_reached(width, theta));
            if precise || launches[0].len() >= 30 {
                return judgement.decision;
            }
            for (side, more) in launches.iter_mut().zip(machine.both(1, worse, cv)) {
                side.extend(more);
            }
        }
    }
}

#[test]
fn stopping_once_precise_keeps_alpha_at_the_margin_and_sees_ten_percent() {
    for cv in [0.015, 0.02, 0.03, 0.04] {
        for wrong in [Decision::Regressed, Decision::NotRegressed] {
            let one = until_precise(5, 1.0 + MARGIN, cv, Look::Precise, Rule::Rank);
            at_most(count(600, 47, wrong, one), 600, 0.05);
        }
        let one = until_precise(5, 1.0, cv, Look::Precise, Rule::Rank);
        let wrong = count(300, 53, Decision::Regressed, one);
        assert!(wrong <= 1, "CV {cv}: {wrong} of 300");
        let one = until_precise(5, 1.10, cv, Look::Precise, Rule::Rank);
        let seen = count(300, 59, Decision::Regressed, one);
        // Detection becomes rarer the closer the half-width is to θ/2 at the stop.
        assert!(clopper_pearson(seen, 300, 0.99).unwrap().low >= 0.8, "CV {cv}: {seen}");
    }
}

#[test]
fn stopping_once_precise_at_all_of_alpha_would_not_keep_it() {
    let one = until_precise(3, 1.0 + MARGIN, 0.035, Look::Only, Rule::Welch);
    let said = count(4000, 47, Decision::Regressed, one);
    assert!(clopper_pearson(said, 4000, 0.95).unwrap().low > 0.05, "{said} of 4000");
}

#[test]
fn the_point_rule_is_a_coin_at_a_change_of_exactly_the_margin() {
    let point = Rules { rule: Rule::Point, ..rules() };
    let said = count(1000, 61, Decision::Regressed, |machine| {
        verdict(&machine.both(10, 1.0 + MARGIN, CV), &point).decision
    });
    assert!((400..600).contains(&said), "{said} of 1000");
}

#[test]
fn every_verdict_is_reached() {
    let mut machine = Machine::new(68);
    for (worse, cv, expected) in [
        (1.15, 0.01, Decision::Regressed),
        (1.00, 0.01, Decision::NotRegressed),
        (0.80, 0.01, Decision::Improved),
        (1.05, 0.20, Decision::Inconclusive),
    ] {
        assert_eq!(verdict(&machine.both(8, worse, cv), &rules()).decision, expected);
    }
    let small = verdict(&machine.both(20, 1.02, 0.005), &rules());
    assert!(small.metrics[0].real_but_small, "{small:?}");
}
