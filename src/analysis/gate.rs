//! A gate's verdict. Combines the metric-by-metric judgement of two arms, requirements on ratios,
//! failed launches and comparability into one outcome with one exit code.

use serde::Serialize;

use super::evidence::{self, Faults, Launches, Side as Evidence};
use super::kind_name;
use super::requirement::{Checked, State};
use super::sides::{self, Origin};
use super::verdict::{
    ALPHA, Arrangement, BadPair, Decision, FEWEST_SESSIONS, Judged, Judgement, Pair, Rules, Tail,
    judge, precision_reached,
};
use crate::identity::{Difference, Severity};
use crate::metric::{Better, Metric, Rank};
use crate::record::{Arm, Record, Status, Warning, WeightsSource};

/// Name and version of the verdict's JSON.
pub const SCHEMA: &str = "llm-bench-gate/1";

/// The result of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Passed,
    Improved,
    Regressed,
    Inconclusive,
    NotComparable,
}

impl Outcome {
    /// The outcome in words, for reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Improved => "improved",
            Outcome::Regressed => "regressed",
            Outcome::Inconclusive => "inconclusive",
            Outcome::NotComparable => "not comparable",
        }
    }

    /// The fixed exit codes.
    pub fn exit_code(self) -> u8 {
        match self {
            Outcome::Passed | Outcome::Improved => 0,
            Outcome::Regressed => 1,
            Outcome::Inconclusive => 3,
            Outcome::NotComparable => 4,
        }
    }
}

/// One side: what was measured, and how often.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Side {
    /// `revision 1f2e3d (main)`, `target/release/llm-bench`, `results/benchmark_X.json`.
    pub what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Hash of the program file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    pub launches: usize,
    pub failed: usize,
    /// Why the first failed launch failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl Side {
    pub fn new(what: String, commit: Option<String>, sha256: Option<String>, arm: &Arm) -> Self {
        let failed = || arm.launches.iter().filter(|l| l.status == Status::Failed);
        let why = failed().find_map(|l| l.error.as_ref()).map(|e| {
            let line = e.message.lines().find(|l| !l.trim().is_empty()).unwrap_or("no message");
            format!("{}: {}", kind_name(e.kind), line.trim())
        });
        let (launches, failed) = (arm.launches.len(), failed().count());
        Self { what, commit, sha256, launches, failed, failure: why }
    }
}

/// Where and on what the gate was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    pub model: String,
    pub quant: String,
    pub weights: WeightsSource,
    pub prompt_set: String,
    pub cpu_model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    pub started_at: String,
}

impl Setting {
    pub fn of(record: &Record) -> Self {
        Self {
            model: record.model.name.clone(),
            quant: record.model.quant.clone(),
            weights: record.model.weights,
            prompt_set: record.workload.prompt_set.clone(),
            cpu_model: record.host.cpu_model.clone(),
            threads: record.arms.first().and_then(|arm| arm.point.threads),
            started_at: record.run.started_at.clone(),
        }
    }
}

/// The verdict and everything it rests on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gate {
    pub schema: String,
    pub outcome: Outcome,
    /// The exit code of the command: that of the outcome, unless inconclusive runs have another
    /// one.
    pub exit_code: u8,
    /// The outcome in one sentence.
    pub why: String,
    pub setting: Setting,
    /// The level that the user set. Where measuring may end early, each test gets a part of it.
    pub alpha: f64,
    /// Absent if only ratios are required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Side>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Side>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judgement: Option<Judgement>,
    /// How many earlier sessions show how much sessions differ; absent where one session measured
    /// both sides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub earlier_sessions: Option<u32>,
    /// Why the launches are not what they seem, one sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub invalid: Vec<String>,
    /// What is on one side alone, or not in every launch, one sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vanished: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub requirements: Vec<Checked>,
    /// Differences between a stored baseline and the candidate, other than their numbers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<Difference>,
    /// Why measuring ended; absent if nothing was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
    /// The files that hold the launches.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<String>,
}

impl Gate {
    /// A gate that knows its setting and has no findings yet.
    pub fn new(record: &Record) -> Self {
        Self {
            schema: SCHEMA.into(),
            outcome: Outcome::Inconclusive,
            exit_code: Outcome::Inconclusive.exit_code(),
            why: String::new(),
            setting: Setting::of(record),
            alpha: ALPHA,
            baseline: None,
            candidate: None,
            judgement: None,
            earlier_sessions: None,
            invalid: Vec::new(),
            vanished: Vec::new(),
            requirements: Vec::new(),
            differences: Vec::new(),
            ended: None,
            warnings: record.warnings.clone(),
            records: Vec::new(),
        }
    }

    /// Draws the conclusion from what is filled in. `inconclusive_as` replaces the exit code of an
    /// inconclusive outcome.
    pub fn conclude(mut self, inconclusive_as: Option<u8>) -> Self {
        let (outcome, why) = self.outcome();
        self.outcome = outcome;
        self.why = why;
        self.exit_code = match (outcome, inconclusive_as) {
            (Outcome::Inconclusive, Some(code)) => code,
            (outcome, _) => outcome.exit_code(),
        };
        self
    }

    fn outcome(&self) -> (Outcome, String) {
        let mut found: Vec<(Outcome, String)> = Vec::new();
        found.extend(self.failures());
        if let Some(judgement) = &self.judgement {
            let outcome = match judgement.decision {
                Decision::Regressed => Outcome::Regressed,
                Decision::Inconclusive => Outcome::Inconclusive,
                Decision::Improved => Outcome::Improved,
                Decision::NotRegressed => Outcome::Passed,
            };
            let decisive = |d: Decision| {
                judgement.metrics.iter().filter(move |m| m.primary && m.decision == d)
            };
            let why: Vec<String> = match outcome {
                Outcome::Regressed => decisive(judgement.decision).map(|m| m.why.clone()).collect(),
                Outcome::Inconclusive if decisive(judgement.decision).next().is_some() => {
                    decisive(judgement.decision).map(|m| m.why.clone()).collect()
                }
                _ => vec![judgement.why.clone()],
            };
            found.push((outcome, why.join("; ")));
        }
        found.extend(self.unknown_sessions());
        for one in &self.requirements {
            let outcome = match one.state {
                State::Met => Outcome::Passed,
                State::Failed => Outcome::Regressed,
                State::Inconclusive => Outcome::Inconclusive,
            };
            found.push((outcome, one.why.clone()));
        }
        // The worst outcome counts, with its reasons.
        let worst = [Outcome::Regressed, Outcome::Inconclusive, Outcome::Improved, Outcome::Passed]
            .into_iter()
            .find(|o| found.iter().any(|(outcome, _)| outcome == o))
            .unwrap_or(Outcome::Inconclusive);
        let why = |of: Outcome| {
            let reasons = found.iter().filter(|(outcome, _)| *outcome == of);
            let reasons: Vec<&str> = reasons.map(|(_, why)| why.as_str()).collect();
            match reasons.is_empty() {
                true => "nothing was compared".to_string(),
                false => reasons.join("; "),
            }
        };
        let mut reasons = Vec::new();
        let refused = self.refused();
        if !refused.is_empty() {
            reasons.push(format!("baseline and candidate differ in {}", refused.join(", ")));
        }
        reasons.extend(self.invalid.iter().cloned());
        // Numbers of another machine, or of the same launches twice, say nothing of the candidate.
        if !reasons.is_empty() {
            return (Outcome::NotComparable, reasons.join("; "));
        }
        match worst {
            Outcome::Regressed => (worst, why(worst)),
            _ if !self.vanished.is_empty() => (Outcome::NotComparable, self.vanished.join("; ")),
            _ => (worst, why(worst)),
        }
    }

    /// The differing facts that forbid a comparison.
    pub fn refused(&self) -> Vec<String> {
        let refused = self.differences.iter().filter(|d| d.severity == Severity::Refuse);
        refused.map(|d| d.title.clone()).collect()
    }

    /// What to do where too few earlier sessions are known for anything to pass.
    fn unknown_sessions(&self) -> Option<(Outcome, String)> {
        let n = self.earlier_sessions.filter(|n| *n < FEWEST_SESSIONS)?;
        self.judgement.as_ref()?;
        let why = format!(
            "the baseline is of another session, and a pass needs {FEWEST_SESSIONS} earlier ones \
             in the history, which has {n}: add results with `llm-bench history add FILE`, or \
             measure both sides in one session with --baseline-rev or --baseline-bin"
        );
        Some((Outcome::Inconclusive, why))
    }

    /// What failed launches decide, by their counts, however fast the others are.
    fn failures(&self) -> Option<(Outcome, String)> {
        let (baseline, candidate) = (self.baseline.as_ref()?, self.candidate.as_ref()?);
        let reason = candidate.failure.as_ref().map_or(String::new(), |why| format!(" ({why})"));
        let [base, cand] = [baseline, candidate].map(|side| Launches {
            made: side.launches,
            failed: side.failed,
            repeated: false,
        });
        let sides = [("the baseline", &base), ("the candidate", &cand)];
        let (decision, why) = evidence::failures(sides, &reason, self.alpha)?;
        Some(match decision {
            Decision::Regressed => (Outcome::Regressed, why),
            _ => (Outcome::Inconclusive, why),
        })
    }
}

/// Judges the metrics that both arms have, with one value per good launch. Leaves out metrics that
/// do not decide and cannot be judged. Arms of one session are judged in its blocks.
///
/// # Errors
/// A deciding metric has a value that is not a finite number above zero.
pub fn judge_arms(
    baseline: &Arm,
    candidate: &Arm,
    origin: Origin<'_>,
    rules: &Rules,
) -> Result<Judgement, BadPair> {
    let decides = |metric: &Metric| rules.primary.iter().any(|p| p == metric.name());
    let sides: Vec<_> = Metric::measured()
        .filter(|m| m.rank() != Rank::Part)
        .map(|m| (m, sides::values(baseline, m), sides::values(candidate, m)))
        .filter(|(_, (b, _), (c, _))| !b.is_empty() && !c.is_empty())
        .filter(|(m, (b, _), (c, _))| decides(m) || b.iter().chain(c).all(|v| *v > 0.0))
        .map(|(m, (b, of_b), (c, of_c))| {
            let tails = [baseline, candidate].map(|arm| sides::tail(arm, m));
            (m, b, c, sides::blocks([&of_b, &of_c]), tails)
        })
        .collect();
    let pairs: Vec<Pair<'_>> = sides
        .iter()
        .map(|(m, b, c, blocks, tails)| Pair {
            metric: m.name(),
            better: m.better(),
            baseline: b,
            candidate: c,
            tail: Tail::of(tails.each_ref()),
            arrangement: match (origin, blocks) {
                (Origin::TwoSessions(earlier), _) => earlier.arrangement(m.name()),
                (Origin::OneSession, None) => Arrangement::Independent,
                (Origin::OneSession, Some([baseline, candidate])) => {
                    Arrangement::Blocks { baseline, candidate }
                }
            },
        })
        .collect();
    judge(&pairs, rules)
}

/// What keeps two arms from being judged. `asked`: whether the user named the deciding metrics.
pub fn faults(baseline: &Arm, candidate: &Arm, rules: &Rules, asked: bool) -> Faults {
    let (base, cand) =
        (Evidence::of("the baseline", baseline), Evidence::of("the candidate", candidate));
    Faults::between(&base, &cand, rules, asked)
}

/// Whether every deciding metric is precise enough: the half-width of its 90 % interval is below
/// half its margin. Looks at the spread, never at the change.
pub fn precise(judgement: &Judgement) -> bool {
    let enough = |m: &Judged| {
        m.exact || m.half_width().is_some_and(|width| precision_reached(width, m.margin.ln_1p()))
    };
    let mut deciding = judgement.metrics.iter().filter(|m| m.primary).peekable();
    deciding.peek().is_some() && deciding.all(enough)
}

/// Whether the estimate of some deciding metric is worse by more than its margin, so that more
/// launches may show that the metric is.
pub fn may_be_worse(judgement: &Judgement) -> bool {
    let worse = |m: &Judged| {
        let change = m.estimate().0.ln_1p();
        let worse = if m.better == Better::Lower { change } else { -change };
        worse > m.margin.ln_1p()
    };
    judgement.metrics.iter().any(|m| m.primary && worse(m))
}

/// The same for requirements, each held to the margin of its metric.
pub fn precise_ratios(checked: &[Checked], rules: &Rules) -> bool {
    !checked.is_empty()
        && checked.iter().all(|one| {
            let theta = rules.theta_of(one.metric.name());
            one.interval
                .is_some_and(|[low, high]| precision_reached((high.ln() - low.ln()) / 2.0, theta))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::{self, CANDLE, Engine};

    /// Two arms of twenty launches each; the second decodes `factor` times as fast.
    fn arms(factor: f64) -> (Arm, Arm) {
        let faster = Engine { decode_tps: CANDLE.decode_tps * factor, ..CANDLE };
        (testing::arm(&CANDLE, 20), testing::arm(&faster, 20))
    }

    fn gate(baseline: &Arm, candidate: &Arm) -> Gate {
        let rules = Rules::default();
        let side = |arm: &Arm| Some(Side::new("it".into(), None, None, arm));
        Gate {
            judgement: Some(judge_arms(baseline, candidate, Origin::OneSession, &rules).unwrap()),
            vanished: faults(baseline, candidate, &rules, false).vanished,
            baseline: side(baseline),
            candidate: side(candidate),
            ..Gate::new(&testing::empty())
        }
    }

    fn outcome(factor: f64) -> (Outcome, u8) {
        let (a, b) = arms(factor);
        let gate = gate(&a, &b).conclude(None);
        (gate.outcome, gate.exit_code)
    }

    #[test]
    fn the_outcome_follows_the_deciding_metrics() {
        assert_eq!(outcome(1.0), (Outcome::Passed, 0));
        assert_eq!(outcome(1.3), (Outcome::Improved, 0));
        assert_eq!(outcome(0.7), (Outcome::Regressed, 1));
        let (a, b) = arms(0.95);
        let close = gate(&a, &b).conclude(None);
        assert_eq!((close.outcome, close.exit_code), (Outcome::Inconclusive, 3), "{}", close.why);
        assert!(close.why.contains(Metric::DecodeTps.name()), "{}", close.why);
        assert_eq!(gate(&a, &b).conclude(Some(0)).exit_code, 0);
        assert_eq!(gate(&a, &b).conclude(Some(1)).exit_code, 1);
    }

    #[test]
    fn inconclusive_as_pass_does_not_let_a_regression_through() {
        let (a, b) = arms(0.7);
        assert_eq!(gate(&a, &b).conclude(Some(0)).exit_code, 1);
    }

    #[test]
    fn failed_launches_are_judged_by_their_counts_and_shown() {
        let (a, mut b) = arms(1.3);
        let failed = testing::failed_arm("candidate", 1).launches.remove(0);
        let gate_of = |a: &Arm, b: &Arm| gate(a, b).conclude(None);
        b.launches[3] = failed.clone();
        assert_eq!(gate_of(&a, &b).outcome, Outcome::Improved, "one of twenty may be luck");
        for i in 4..9 {
            b.launches[i] = failed.clone();
        }
        let found = gate_of(&a, &b);
        assert_eq!(found.outcome, Outcome::Regressed);
        assert!(found.why.contains("failed in 6 of 20 launches (compile_failed"), "{}", found.why);
        let mut a = a;
        a.launches[5..9].iter_mut().for_each(|l| *l = failed.clone());
        assert_eq!(gate_of(&a, &b).outcome, Outcome::Improved, "both fail alike");
    }

    #[test]
    fn a_metric_that_the_candidate_no_longer_has_is_not_passed_over() {
        let (a, mut b) = arms(1.0);
        b.launches.iter_mut().for_each(|l| _ = l.metrics.remove(&Metric::PrefillTps));
        let found = gate(&a, &b).conclude(None);
        assert_eq!(found.outcome, Outcome::NotComparable);
        assert!(found.why.contains("has no prefill_tps"), "{}", found.why);
    }

    #[test]
    fn what_may_not_be_compared_never_passes() {
        let refused = Difference {
            field: "cpu_model".into(),
            title: "CPU".into(),
            baseline: Some("Z80".into()),
            candidate: Some("6502".into()),
            severity: Severity::Refuse,
        };
        for (factor, code) in [(1.0, 4), (1.3, 4), (0.95, 4), (0.7, 4)] {
            let (a, b) = arms(factor);
            let differences = vec![refused.clone()];
            let found = Gate { differences, ..gate(&a, &b) }.conclude(Some(0));
            assert_eq!(found.exit_code, code, "{}", found.why);
        }
        let (a, b) = arms(1.0);
        let differences = vec![Difference { severity: Severity::Warn, ..refused }];
        assert_eq!(Gate { differences, ..gate(&a, &b) }.conclude(None).exit_code, 0);
    }

    #[test]
    fn precision_is_reached_with_launches_and_not_with_luck() {
        let rules = Rules::default();
        let (a, b) = arms(1.0);
        let few = |n: usize| {
            let cut = |arm: &Arm| Arm { launches: arm.launches[..n].to_vec(), ..arm.clone() };
            precise(&judge_arms(&cut(&a), &cut(&b), Origin::OneSession, &rules).unwrap())
        };
        assert!(!few(1) && few(20));
        let tight = Rules { margin: 0.001, ..rules };
        assert!(!precise(&judge_arms(&a, &b, Origin::OneSession, &tight).unwrap()));
    }

    #[test]
    fn a_gate_that_compared_nothing_is_inconclusive() {
        let found = Gate::new(&testing::empty()).conclude(None);
        assert_eq!((found.outcome, found.exit_code), (Outcome::Inconclusive, 3));
    }
}
