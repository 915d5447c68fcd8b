//! Plans that may end early, and the number of launches that would do.

use super::machine::{Machine, Noise, Sides, blocks};
use super::*;
use llm_bench::analysis::gate::{may_be_worse, precise};

const LEAST: usize = 6;
const MOST: usize = 30;

/// The rules of every look of a plan, at and not at its end.
struct Plan {
    open: Vec<Rules>,
    last: Vec<Rules>,
    names: Vec<String>,
    sequential: bool,
}

impl Plan {
    fn new(metrics: usize, sequential: bool) -> Self {
        let names: Vec<String> = (0..metrics).map(|i| format!("metric_{i}")).collect();
        let rules = Rules { margin: MARGIN, primary: names.clone(), ..Rules::default() };
        let at = |last: bool| {
            let looks = (LEAST..=MOST).step_by(2).map(|launches| match sequential {
                true => Look::Sequential {
                    launches: launches as u32,
                    least: LEAST as u32,
                    most: MOST as u32,
                    last,
                },
                false => Look::Precise,
            });
            looks.map(|look| rules.at(look)).collect()
        };
        Self { open: at(false), last: at(true), names, sequential }
    }

    /// Launches of each side, and the verdict.
    fn run(&self, machine: &mut Machine, noise: Noise, worse: f64, cv: f64) -> (usize, Decision) {
        let whole: Vec<Sides> =
            self.names.iter().map(|_| machine.interleaved(noise, MOST, worse, cv)).collect();
        let numbers = blocks(MOST);
        for (look, n) in (LEAST..=MOST).step_by(2).enumerate() {
            let blocks = Arrangement::Blocks { baseline: &numbers[..n], candidate: &numbers[..n] };
            let pairs: Vec<Pair<'_>> = self
                .names
                .iter()
                .zip(&whole)
                .map(|(metric, sides)| Pair {
                    metric,
                    better: Better::Lower,
                    baseline: &sides[0][..n],
                    candidate: &sides[1][..n],
                    arrangement: blocks,
                    tail: None,
                })
                .collect();
            let open = judge(&pairs, &self.open[look]).unwrap();
            if self.sequential && open.decision == Decision::Regressed {
                return (n, Decision::Regressed);
            }
            if n == MOST || precise(&open) && !(self.sequential && may_be_worse(&open)) {
                return (n, judge(&pairs, &self.last[look]).unwrap().decision);
            }
        }
        unreachable!("the last look ends the plan")
    }

    /// The mean number of launches, and how many runs were red and green.
    fn runs(&self, runs: u32, noise: Noise, worse: f64, cv: f64) -> (f64, u32, u32) {
        let mut machine = Machine::new(211);
        let (mut launches, mut red, mut green) = (0, 0, 0);
        for _ in 0..runs {
            let (n, decision) = self.run(&mut machine, noise, worse, cv);
            launches += n;
            red += u32::from(decision == Decision::Regressed);
            green += u32::from(matches!(decision, Decision::NotRegressed | Decision::Improved));
        }
        (launches as f64 / f64::from(runs), red, green)
    }
}

#[test]
fn a_plan_that_may_stop_on_the_change_keeps_alpha_at_the_margin() {
    let plan = Plan::new(1, true);
    for (noise, cv) in [
        (Noise::Normal, 0.02),
        (Noise::Normal, 0.035),
        (Noise::Normal, 0.05),
        (Noise::Stalls, 0.02),
        (Noise::Autocorrelated, 0.0),
    ] {
        let (_, red, green) = plan.runs(800, noise, 1.0 + MARGIN, cv);
        println!("{noise:?}, CV {cv}: {red} red, {green} green of 800");
        at_most(red, 800, 0.05);
        at_most(green, 800, 0.05);
    }
    let (_, red, _) = Plan::new(5, true).runs(200, Noise::Normal, 1.0 + MARGIN, 0.03);
    at_most(red, 200, 0.05);
}

#[test]
fn a_gate_that_is_precise_before_it_can_tell_goes_on() {
    for cv in [0.02, 0.03, 0.04] {
        let [sequential, before] = [true, false].map(|s| Plan::new(2, s));
        let slow = |plan: &Plan| plan.runs(200, Noise::Normal, 1.10, cv);
        let (now, before) = (slow(&sequential), slow(&before));
        println!("two metrics, 10 % slower, CV {cv}: {now:?} against {before:?}");
        assert!(now.1 >= before.1 && now.1 >= 194, "{now:?} against {before:?}");
    }
}

#[test]
fn fifteen_percent_end_a_gate_after_a_third_of_its_launches_and_no_change_as_soon_as_before() {
    for metrics in [1, 5] {
        let [sequential, before] = [true, false].map(|s| Plan::new(metrics, s));
        let slow = |plan: &Plan| plan.runs(100, Noise::Normal, 1.15, 0.06);
        let (soon, late) = (slow(&sequential), slow(&before));
        println!("{metrics} metrics, 15 % slower, CV 6 %: {soon:?} against {late:?}");
        assert!(3.0 * soon.0 <= late.0, "{soon:?} against {late:?}");
        assert!(soon.1 >= 98 && late.1 >= 98, "{soon:?} against {late:?}");
        for cv in [0.02, 0.04] {
            let same = |plan: &Plan| plan.runs(60, Noise::Normal, 1.0, cv);
            let (soon, late) = (same(&sequential), same(&before));
            assert!(soon.0 <= late.0 && soon.2 >= late.2, "{soon:?} against {late:?}");
        }
    }
}

/// The number that would do according to a long run, and the share of gates with that many launches
/// that were decided.
fn promised(noise: Noise, spreads: &[f64], worse: f64, blocked: bool) -> (u32, f64) {
    let names: Vec<String> = (0..spreads.len()).map(|i| format!("metric_{i}")).collect();
    let rules = Rules { margin: MARGIN, primary: names.clone(), ..Rules::default() };
    let mut machine = Machine::new(223);
    let mut gate = |n: usize| {
        let numbers = blocks(n);
        let arrangement = match blocked {
            true => Arrangement::Blocks { baseline: &numbers, candidate: &numbers },
            false => Arrangement::Independent,
        };
        let sides: Vec<Sides> =
            spreads.iter().map(|cv| machine.interleaved(noise, n, worse, *cv)).collect();
        let pairs: Vec<Pair<'_>> = names
            .iter()
            .zip(&sides)
            .map(|(name, sides)| Pair { arrangement, ..pair(name, sides) })
            .collect();
        judge(&pairs, &rules).unwrap()
    };
    let needed = gate(600).launches_needed.unwrap();
    let decided = (0..400).filter(|_| gate(needed as usize).decision != Decision::Inconclusive);
    (needed, decided.count() as f64 / 400.0)
}

#[test]
fn as_many_launches_as_would_do_decide_the_whole_gate_four_times_in_five() {
    for (noise, spreads, worse, blocked) in [
        (Noise::Normal, &[0.05][..], 1.0, false),
        (Noise::Normal, &[0.05], 1.0, true),
        (Noise::Normal, &[0.03, 0.05, 0.04, 0.02, 0.01], 1.0, true),
        (Noise::Normal, &[0.03, 0.03], 1.03, false),
        (Noise::Normal, &[0.03, 0.03], 1.08, true),
        (Noise::Stalls, &[0.03], 1.0, false),
        (Noise::Skewed, &[0.04, 0.04], 1.0, true),
    ] {
        let (needed, decided) = promised(noise, spreads, worse, blocked);
        println!("{noise:?} {spreads:?} {worse} {blocked}: {needed} decide {decided}");
        assert!((0.74..=0.93).contains(&decided), "{noise:?} {spreads:?}: {needed}, {decided}");
    }
}
