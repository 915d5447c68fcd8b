//! Whether two sides hold what a verdict needs. What is missing, counted twice or measured against
//! itself never passes, however the remaining numbers compare. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::ok_launches;
use super::verdict::{Decision, Rules};
use crate::metric::Metric;
use crate::record::Arm;
use crate::stats::fisher_one_sided;

/// Below this p of more failures in the candidate, a gate does not pass: it cannot tell.
const DOUBTFUL: f64 = 0.25;

/// The launches of one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launches {
    pub made: usize,
    pub failed: usize,
    /// Two launches have the same number.
    pub repeated: bool,
}

impl Launches {
    pub fn of(arm: &Arm) -> Self {
        let good = ok_launches(arm).count();
        let numbers: BTreeSet<u32> = arm.launches.iter().map(|l| l.index).collect();
        let made = arm.launches.len();
        Self { made, failed: made - good, repeated: numbers.len() < made }
    }

    fn good(&self) -> usize {
        self.made - self.failed
    }
}

/// One side of a comparison.
#[derive(Debug, Clone)]
pub struct Side<'a> {
    /// Its file, or what was measured.
    pub what: &'a str,
    /// Absent for files of other tools, which count runs.
    pub launches: Option<Launches>,
    /// How many launches have a value, by the name of the metric.
    pub values: BTreeMap<&'a str, usize>,
}

impl<'a> Side<'a> {
    pub fn of(what: &'a str, arm: &Arm) -> Self {
        let mut values = BTreeMap::new();
        for metric in Metric::measured() {
            let n = ok_launches(arm).filter(|l| l.metrics.contains_key(&metric)).count();
            if n > 0 {
                values.insert(metric.name(), n);
            }
        }
        Self { what, launches: Some(Launches::of(arm)), values }
    }
}

/// What keeps two sides from being judged, one sentence each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// The launches are not what they seem: nothing may be concluded from them.
    pub invalid: Vec<String>,
    /// Something is there on one side alone: nothing may pass.
    pub vanished: Vec<String>,
}

impl Faults {
    /// `asked`: whether the user named the deciding metrics.
    pub fn between(baseline: &Side<'_>, candidate: &Side<'_>, rules: &Rules, asked: bool) -> Self {
        let mut faults = Self::default();
        for side in [baseline, candidate] {
            if side.launches.as_ref().is_some_and(|l| l.repeated) {
                faults.invalid.push(format!(
                    "{} holds launches that are there twice: copies are no replicates",
                    side.what
                ));
            }
        }
        for metric in &rules.primary {
            let [in_base, in_cand] =
                [baseline, candidate].map(|s| s.values.get(metric.as_str()).copied().unwrap_or(0));
            match (in_base, in_cand) {
                (0, 0) if asked => faults
                    .invalid
                    .push(format!("neither side has {metric}, which was asked to decide")),
                (0, 0) => {}
                (_, 0) => faults.vanished.push(format!(
                    "{} has no {metric}, which {} has",
                    candidate.what, baseline.what
                )),
                (0, _) => faults.vanished.push(format!(
                    "{} has no {metric}, which {} has",
                    baseline.what, candidate.what
                )),
                _ => {
                    for (side, n) in [(baseline, in_base), (candidate, in_cand)] {
                        let Some(launches) = &side.launches else { continue };
                        if n < launches.good() {
                            faults.vanished.push(format!(
                                "{} has {metric} in {n} of {} launches that succeeded",
                                side.what,
                                launches.good()
                            ));
                        }
                    }
                }
            }
        }
        faults
    }

    pub fn is_empty(&self) -> bool {
        self.invalid.is_empty() && self.vanished.is_empty()
    }

    /// All of them.
    pub fn sentences(&self) -> impl Iterator<Item = &String> {
        self.invalid.iter().chain(&self.vanished)
    }
}

impl Rules {
    /// Whether the user named the metrics that decide.
    pub fn are_asked(&self) -> bool {
        self.primary != Self::default().primary
    }
}

impl Decision {
    /// The decision where nothing may pass.
    pub fn without_passing(self) -> Self {
        match self {
            Decision::Regressed => Decision::Regressed,
            _ => Decision::Inconclusive,
        }
    }
}

/// What failed launches alone decide, and why; `None` where they leave the verdict to the numbers.
/// Fisher's exact test, one-sided, of "the candidate fails more often".
pub fn failures(
    [(base_name, base), (cand_name, cand)]: [(&str, &Launches); 2],
    reason: &str,
    alpha: f64,
) -> Option<(Decision, String)> {
    let p = fisher_one_sided([base.failed, base.made], [cand.failed, cand.made]);
    let counts = format!(
        "{cand_name} failed in {} of {} launches{reason}, {base_name} in {} of {}",
        cand.failed, cand.made, base.failed, base.made
    );
    if cand.made > 0 && cand.good() == 0 {
        return Some((Decision::Regressed, counts));
    }
    if p < alpha {
        return Some((Decision::Regressed, format!("{counts} (Fisher's exact test: p {p:.3})")));
    }
    for (name, side) in [(base_name, base), (cand_name, cand)] {
        if 2 * side.failed > side.made {
            let why = format!("{name} failed in {} of {} launches", side.failed, side.made);
            return Some((
                Decision::Inconclusive,
                format!("{why}: what is left of it is no sample of it"),
            ));
        }
    }
    (cand.failed > 0 && p < DOUBTFUL).then(|| {
        let why = format!("{counts}: too often for luck, too few to tell (p {p:.2})");
        (Decision::Inconclusive, why)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launches(failed: usize, made: usize) -> Launches {
        Launches { made, failed, repeated: false }
    }

    #[test]
    fn failures_decide_by_their_counts() {
        let of = |base: (usize, usize), cand: (usize, usize)| {
            let sides = [
                ("the baseline", &launches(base.0, base.1)),
                ("the candidate", &launches(cand.0, cand.1)),
            ];
            failures(sides, "", 0.05).map(|(decision, _)| decision)
        };
        use Decision::{Inconclusive, Regressed};
        assert_eq!(of((0, 8), (0, 8)), None);
        assert_eq!(of((0, 8), (1, 8)), None, "one flaky launch");
        assert_eq!(of((0, 8), (2, 8)), Some(Inconclusive));
        assert_eq!(of((0, 8), (4, 8)), Some(Regressed));
        assert_eq!(of((1, 8), (1, 8)), None);
        assert_eq!(of((4, 8), (0, 8)), None);
        assert_eq!(of((6, 8), (6, 8)), Some(Inconclusive), "neither side is measured");
        assert_eq!(of((6, 8), (8, 8)), Some(Regressed), "nothing of the candidate is left");
        assert_eq!(of((0, 30), (3, 30)), Some(Inconclusive));
    }

    #[test]
    fn a_metric_counts_where_every_good_launch_has_it() {
        let side = |what, values: &[(&'static str, usize)]| Side {
            what,
            launches: Some(launches(1, 9)),
            values: values.iter().copied().collect(),
        };
        let name = Metric::DecodeTps.name();
        let rules = Rules { primary: vec![name.into()], ..Rules::default() };
        let faults = |a: &[(&'static str, usize)], b: &[(&'static str, usize)], asked| {
            Faults::between(&side("A", a), &side("B", b), &rules, asked)
        };
        let all = [(name, 8)];
        assert!(faults(&all, &all, true).is_empty());
        assert_eq!(faults(&all, &[], false).vanished, [format!("B has no {name}, which A has")]);
        assert_eq!(faults(&[], &all, false).vanished, [format!("A has no {name}, which B has")]);
        let few = faults(&all, &[(name, 2)], false);
        assert_eq!(few.vanished, [format!("B has {name} in 2 of 8 launches that succeeded")]);
        assert!(faults(&[], &[], false).is_empty());
        assert_eq!(faults(&[], &[], true).invalid.len(), 1);
    }
}
