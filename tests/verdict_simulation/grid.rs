//! Noise × launches × truth: how often each verdict is wrong, and what the ranks cost and save.

use super::machine::{IN_TIME, INDEPENDENT, Machine, Noise, Sides, blocks};
use super::*;
use llm_bench::stats::{Between, between_sessions};

/// Launches of each side: equal, few against many, and a stored baseline's hundred against five.
const SIZES: [[usize; 2]; 9] =
    [[2, 2], [4, 4], [6, 6], [10, 10], [30, 30], [2, 30], [30, 6], [100, 5], [5, 100]];

/// Red and green verdicts in `runs` draws, as the plan arranged them.
fn verdicts(
    runs: u32,
    seed: u64,
    blocked: bool,
    mut draw: impl FnMut(&mut Machine) -> Sides,
) -> [u32; 2] {
    let mut machine = Machine::new(seed);
    let mut said = [0; 2];
    for _ in 0..runs {
        let sides = draw(&mut machine);
        let numbers = sides.each_ref().map(|side| blocks(side.len()));
        let arrangement = match blocked {
            true => Arrangement::Blocks { baseline: &numbers[0], candidate: &numbers[1] },
            false => Arrangement::Independent,
        };
        let pair = Pair { arrangement, ..pair("tpot_s", &sides) };
        match judge(&[pair], &rules()).unwrap().decision {
            Decision::Regressed => said[0] += 1,
            Decision::NotRegressed | Decision::Improved => said[1] += 1,
            Decision::Inconclusive => {}
        }
    }
    said
}

/// At a change of the margin both are wrong; without a change red is, and at twice the margin green.
fn holds(what: &str, limit: f64, mut at: impl FnMut(f64, u32) -> [u32; 2]) {
    let (many, few) = (runs(400), runs(400).div_ceil(4));
    let [red, green] = at(1.0 + MARGIN, many);
    let (early, late) = (at(1.0, few)[0], at(1.0 + 2.0 * MARGIN, few)[1]);
    println!(
        "{what}: at the margin {red} red, {green} green of {many}; without a change {early} red, at \
         twice the margin {late} green of {few}"
    );
    at_most_in(what, red, many, limit);
    at_most_in(what, green, many, limit);
    at_most_in(what, early, few, limit);
    at_most_in(what, late, few, limit);
}

fn at_most_in(what: &str, hits: u32, runs: u32, limit: f64) {
    let interval = clopper_pearson(hits, runs, 0.998).unwrap();
    assert!(interval.low <= limit, "{what}: {hits} of {runs} wrong, at least {}", interval.low);
}

#[test]
fn of_independent_sides_no_noise_and_no_sizes_make_wrong_verdicts_of_more_than_alpha() {
    for noise in INDEPENDENT {
        for n in SIZES {
            holds(&format!("{noise:?}, {n:?}"), 0.05, |worse, runs| {
                verdicts(runs, 101, false, |machine| machine.apart(noise, n, worse, CV))
            });
        }
    }
}

#[test]
fn in_blocks_no_noise_makes_wrong_verdicts_of_more_than_alpha_drift_included() {
    for noise in INDEPENDENT.into_iter().chain(IN_TIME) {
        for n in [2, 4, 5, 6, 10, 20, 30] {
            // Blocks take both sides to scatter alike. A candidate that scatters three times as widely
            // has a sum of ranks whose variance is larger by 1 + 0.066: 5.6 % in place of 5.
            let limit = if noise == Noise::Unequal { 0.057 } else { 0.05 };
            holds(&format!("{noise:?}, {n} in blocks"), limit, |worse, runs| {
                verdicts(runs, 103, true, |machine| machine.interleaved(noise, n, worse, CV))
            });
        }
    }
}

#[test]
fn welch_fails_where_a_hundred_launches_with_stalls_meet_five() {
    let welch = Rules { rule: Rule::Welch, ..rules() };
    let passed = count(400, 107, Decision::NotRegressed, |machine| {
        verdict(&machine.apart(Noise::Stalls, [100, 5], 1.10, CV), &welch).decision
    });
    assert!(passed > 80, "{passed} of 400");
    let ranks = count(400, 107, Decision::NotRegressed, |machine| {
        verdict(&machine.apart(Noise::Stalls, [100, 5], 1.10, CV), &rules()).decision
    });
    at_most(ranks, 400, 0.05);
}

/// Five deciding metrics, the first `worse` times as slow; the share of red and of green gates.
fn five(rule: Rule, noise: Noise, n: usize, worse: f64, blocked: bool, runs: u32) -> [f64; 2] {
    let names = ["a", "b", "c", "d", "e"];
    let rules = Rules { rule, primary: names.map(String::from).to_vec(), ..rules() };
    let numbers = blocks(n);
    let arrangement = match blocked {
        true => Arrangement::Blocks { baseline: &numbers, candidate: &numbers },
        false => Arrangement::Independent,
    };
    let mut machine = Machine::new(109);
    let mut said = [0.0; 2];
    for _ in 0..runs {
        let of = |i: usize| if i == 0 { worse } else { 1.0 };
        let sides: Vec<Sides> = (0..5).map(|i| machine.interleaved(noise, n, of(i), CV)).collect();
        let pairs: Vec<Pair<'_>> = names
            .iter()
            .zip(&sides)
            .map(|(name, sides)| Pair { arrangement, ..pair(name, sides) })
            .collect();
        match judge(&pairs, &rules).unwrap().decision {
            Decision::Regressed => said[0] += 1.0 / f64::from(runs),
            Decision::NotRegressed | Decision::Improved => said[1] += 1.0 / f64::from(runs),
            Decision::Inconclusive => {}
        }
    }
    said
}

#[test]
fn with_stalls_ten_percent_in_one_of_five_metrics_are_found_in_nine_of_ten_runs_of_twenty() {
    for blocked in [true, false] {
        let [found, _] = five(Rule::Rank, Noise::Stalls, 20, 1.10, blocked, runs(300));
        println!("20 launches, blocks {blocked}: found {found}");
        assert!(found >= 0.9, "{blocked}: {found}");
    }
    let [welch, _] = five(Rule::Welch, Noise::Stalls, 20, 1.10, false, runs(300));
    println!("Welch: found {welch}");
    assert!(welch < 0.2, "{welch}");
}

#[test]
fn on_clean_launches_ranks_find_and_pass_at_least_95_of_100_that_welch_does() {
    let runs = runs(400);
    for n in [10, 20] {
        let [red, _] = five(Rule::Welch, Noise::Normal, n, 1.10, false, runs);
        let [_, green] = five(Rule::Welch, Noise::Normal, n, 1.0, false, runs);
        for blocked in [true, false] {
            let [found, _] = five(Rule::Rank, Noise::Normal, n, 1.10, blocked, runs);
            let [_, passed] = five(Rule::Rank, Noise::Normal, n, 1.0, blocked, runs);
            println!("n {n}, blocks {blocked}: red {found} of {red}, green {passed} of {green}");
            assert!(found >= 0.95 * red && passed >= 0.95 * green, "n {n}: {found} {passed}");
        }
    }
}

#[test]
fn against_drift_blocks_find_what_welch_and_the_plain_rank_sum_miss() {
    let noise = Noise::Autocorrelated;
    let [blocked, _] = five(Rule::Rank, noise, 10, 1.10, true, runs(300));
    let [plain, _] = five(Rule::Rank, noise, 10, 1.10, false, runs(300));
    let [welch, _] = five(Rule::Welch, noise, 10, 1.10, true, runs(300));
    println!("blocks {blocked}, plain {plain}, Welch {welch}");
    assert!(blocked >= 0.93 && blocked > plain + 0.1 && blocked > welch + 0.1);
}

#[test]
#[ignore = "prints the table of docs/STATISTICS.md"]
fn the_price() {
    let runs = runs(1000);
    for n in [6, 10, 20] {
        for noise in [Noise::Normal, Noise::Stalls, Noise::Autocorrelated] {
            let found = [(Rule::Welch, false), (Rule::Rank, false), (Rule::Rank, true)]
                .map(|(rule, blocked)| five(rule, noise, n, 1.10, blocked, runs)[0]);
            let [welch, ranks, blocks] = found.map(|share| 100.0 * share);
            println!("{n}, {noise:?}: Welch {welch:.1}, ranks {ranks:.1}, blocks {blocks:.1} %");
        }
    }
}

/// Sessions of a machine whose levels differ by a deviation of 2 %.
struct Sessions {
    noise: Noise,
    /// Launches of the baseline, of the candidate, and of each earlier session.
    n: [usize; 3],
    earlier: usize,
    /// Whether the baseline is one of the earlier sessions.
    among_them: bool,
}

impl Sessions {
    fn new(n: usize, earlier: usize) -> Self {
        Self { noise: Noise::Normal, n: [n; 3], earlier, among_them: false }
    }

    fn verdict(&self, machine: &mut Machine, worse: f64) -> Decision {
        let mut session = |n: usize, worse: f64| -> Vec<f64> {
            let luck = (0.02 * machine.normal()).exp();
            let [launches, _] = machine.apart(self.noise, [n, 0], 1.0, CV);
            launches.iter().map(|x| x * luck * worse).collect()
        };
        let [base, cand, other] = self.n;
        let sides: Sides = [session(base, 1.0), session(cand, worse)];
        let others = self.earlier - usize::from(self.among_them);
        let mut history: Vec<Vec<f64>> = (0..others).map(|_| session(other, 1.0)).collect();
        history.extend(self.among_them.then(|| sides[0].clone()));
        let known: Option<Between> = between_sessions(history.iter().map(Vec::as_slice));
        let pair = Pair { arrangement: Arrangement::Sessions(known), ..pair("tpot_s", &sides) };
        judge(&[pair], &rules()).unwrap().decision
    }

    fn count(&self, decided: Decision, runs: u32, worse: f64) -> u32 {
        count(runs, 113, decided, |machine| self.verdict(machine, worse))
    }

    /// Wrong red and wrong green of `runs`, without a change and at the margin.
    fn keep_alpha(&self, what: &str, runs: u32) {
        for worse in [1.0, 1.0 + MARGIN] {
            at_most_in(what, self.count(Decision::Regressed, runs, worse), runs, 0.05);
        }
        let mut green = 0;
        for decided in [Decision::NotRegressed, Decision::Improved] {
            green += self.count(decided, runs, 1.0 + MARGIN);
        }
        at_most_in(what, green, runs, 0.05);
    }
}

#[test]
fn a_stored_baseline_is_wrong_at_most_as_often_as_alpha_where_sessions_differ() {
    let runs = runs(200);
    for n in [6, 10, 30] {
        for earlier in [0, 2, 3, 5, 10] {
            for among_them in [false, true].into_iter().take(1 + earlier.min(1)) {
                let of = Sessions { among_them, ..Sessions::new(n, earlier) };
                of.keep_alpha(&format!("{n} launches, {earlier} sessions, {among_them}"), runs);
            }
        }
        for earlier in [0, 2] {
            let of = Sessions::new(n, earlier);
            let green =
                of.count(Decision::NotRegressed, 200, 1.0) + of.count(Decision::Improved, 200, 0.5);
            assert_eq!(green, 0, "{earlier} earlier sessions");
        }
    }
    // It does find and pass: with ten earlier sessions, 20 % slower and no change.
    let seen = Sessions::new(10, 10).count(Decision::Regressed, 300, 1.20);
    assert!(seen > 240, "{seen} of 300");
    let seen = Sessions::new(10, 0).count(Decision::Regressed, 300, 1.30);
    assert!(seen > 240, "{seen} of 300");
}

#[test]
fn a_stored_baseline_of_a_hundred_launches_lends_no_certainty_to_five() {
    let runs = runs(200);
    for noise in [Noise::Normal, Noise::Stalls, Noise::Skewed] {
        for n in [[100, 5, 10], [5, 100, 10], [100, 5, 100]] {
            let of = Sessions { noise, n, ..Sessions::new(5, 5) };
            of.keep_alpha(&format!("{noise:?}, {n:?}"), runs);
            let passed = of.count(Decision::NotRegressed, runs, 1.0 + 2.0 * MARGIN);
            at_most_in("10 % slower", passed, runs, 0.05);
        }
    }
}

/// A launch as the gaps between its tokens: one in two hundred takes four times as long, and the
/// launches differ by `luck` as wholes.
fn gaps(machine: &mut Machine, worse: f64, luck: f64) -> Vec<f64> {
    let luck = (luck * machine.normal()).exp() * worse;
    let gap = |machine: &mut Machine| {
        let hiccup = machine.normal() > 2.576;
        luck * (0.05 * machine.normal()).exp() * if hiccup { 4.0 } else { 1.0 }
    };
    (0..127).map(|_| gap(machine)).collect()
}

/// The decision over the 99th percentile of launches that differ by `luck`.
fn of_tails(
    machine: &mut Machine,
    (n, luck): ([usize; 2], f64),
    worse: f64,
    blocked: bool,
) -> Decision {
    let sides: [Vec<Vec<f64>>; 2] = [(n[0], 1.0), (n[1], worse)]
        .map(|(n, worse)| (0..n).map(|_| gaps(machine, worse, luck)).collect());
    let percentile = |launch: &Vec<f64>| {
        let mut sorted = launch.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[124] + 0.74 * (sorted[125] - sorted[124])
    };
    let values: Sides = sides.each_ref().map(|side| side.iter().map(percentile).collect());
    let numbers = sides.each_ref().map(|side| blocks(side.len()));
    let arrangement = match blocked {
        true => Arrangement::Blocks { baseline: &numbers[0], candidate: &numbers[1] },
        false => Arrangement::Independent,
    };
    let tail = Some(Tail { quantile: 0.99, baseline: &sides[0], candidate: &sides[1] });
    let judgement = judge(&[Pair { arrangement, tail, ..pair("tpot_s", &values) }], &rules());
    let judgement = judgement.unwrap();
    let by = judgement.metrics[0].decided_by;
    assert!(matches!(by, Some(Test::Quantile | Test::QuantileInBlocks)), "{by:?}");
    judgement.decision
}

#[test]
fn a_tail_metric_may_decide_by_the_quantile_test() {
    let runs = runs(60);
    for (n, blocked) in [([6, 6], true), ([20, 20], true), ([20, 20], false), ([30, 5], false)] {
        for luck in [CV, 0.06] {
            for wrong in [Decision::Regressed, Decision::NotRegressed] {
                let worse = 1.0 + MARGIN;
                let said = count(runs, 131, wrong, |m| of_tails(m, (n, luck), worse, blocked));
                let what = format!("{n:?}, luck {luck}, blocks {blocked}, {wrong:?}");
                println!("{what}: {said} of {runs} wrong");
                at_most_in(&what, said, runs, 0.05);
            }
        }
    }
    for blocked in [true, false] {
        let of = |decided, worse| {
            count(60, 137, decided, |m| of_tails(m, ([20, 20], CV), worse, blocked))
        };
        let (red, green) = (of(Decision::Regressed, 1.15), of(Decision::NotRegressed, 1.0));
        println!(
            "20 launches, blocks {blocked}: 15 % found in {red}, no change passed in {green} of 60"
        );
        assert!(red >= 48 && green >= 30, "{blocked}: {red} red, {green} green of 60");
        // However much launches differ, what lies beyond all of them is found by few.
        let far = |m: &mut Machine| of_tails(m, ([6, 6], 0.06), 6.0, blocked);
        assert_eq!(count(40, 139, Decision::Regressed, far), 40);
    }
}
