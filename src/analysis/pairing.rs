//! Compares result files: pairs their arms, lists what differs around them, and judges each pair.
//! The first file is the baseline.

use std::collections::BTreeMap;

use super::evidence::{self, Faults};
use super::foreign::{SampledArm, Series, Source};
use super::sides;
use super::verdict::{Arrangement, BadPair, Decision, Judged, Judgement, Pair, Rules, Tail, judge};
use crate::identity::{Difference, Severity};
use crate::metric::Metric;
use crate::record::Warning;

/// What to compare.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// `A_LABEL=B_LABEL`: arms to pair although their labels differ.
    pub pairs: Vec<String>,
    /// Also show metrics that do not decide.
    pub all: bool,
    /// Also show each prompt of a set.
    pub per_prompt: bool,
}

/// Every candidate against the baseline.
#[derive(Debug)]
pub struct Compared<'a> {
    pub baseline: &'a Source,
    pub against: Vec<Against<'a>>,
    pub rules: &'a Rules,
}

/// One candidate file against the baseline file.
#[derive(Debug)]
pub struct Against<'a> {
    pub candidate: &'a Source,
    pub pairs: Vec<ArmPair<'a>>,
    /// Arms without a partner, in the baseline and in the candidate.
    pub unpaired: [Vec<&'a SampledArm>; 2],
    /// What differs in every pair; each pair lists the rest.
    pub differences: Vec<Difference>,
    pub warnings: Vec<Warning>,
}

/// Whether one session measured two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sessions {
    One,
    Two,
    /// Another tool's file does not say.
    Unknown,
}

impl Sessions {
    fn of(baseline: &Source, candidate: &Source) -> Self {
        match (&baseline.session, &candidate.session) {
            (Some(a), Some(b)) if a == b => Self::One,
            (Some(_), Some(_)) => Self::Two,
            _ => Self::Unknown,
        }
    }
}

/// Why two arms are a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// The same engine, quantization and prompt set, or the same command.
    Alike,
    /// Each file has only one arm.
    OnlyOnes,
    /// `--pair`
    Asked,
}

/// Two arms, judged.
#[derive(Debug)]
pub struct ArmPair<'a> {
    pub baseline: &'a SampledArm,
    pub candidate: &'a SampledArm,
    pub how: How,
    pub differences: Vec<Difference>,
    pub rows: Vec<Row>,
    pub judgement: Judgement,
    /// Deciding series that only one side has: the baseline, the candidate.
    pub one_sided: [Vec<String>; 2],
    /// A difference forbids the comparison.
    pub refused: bool,
    /// What keeps the two from being judged.
    pub faults: Faults,
    /// What failed launches decide, and why.
    pub failures: Option<(Decision, String)>,
    /// Whether neither a difference nor a fault forbids the comparison.
    pub comparable: bool,
}

impl ArmPair<'_> {
    /// The decision over metrics and failed launches. Nothing passes that must not be compared.
    pub fn decision(&self) -> Decision {
        let by_numbers = self.judgement.decision;
        let decision = match self.failures {
            Some((Decision::Regressed, _)) => Decision::Regressed,
            Some(_) => by_numbers.without_passing(),
            None => by_numbers,
        };
        if self.comparable { decision } else { decision.without_passing() }
    }
}

/// One metric of a pair.
#[derive(Debug)]
pub struct Row {
    pub metric: Metric,
    /// The prompt or test; `None` for a whole set.
    pub test: Option<String>,
    /// Whether this is one prompt of a set.
    pub part: bool,
    pub judged: Judged,
}

/// Why files cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error(
        "--pair {given:?}: expected BASELINE_LABEL=CANDIDATE_LABEL; {baseline} has {}; the other \
         files have {}", in_words(.of_baseline), in_words(.of_candidates)
    )]
    NoSuchPair {
        given: String,
        baseline: String,
        of_baseline: Vec<String>,
        of_candidates: Vec<String>,
    },
    #[error("{baseline} and {candidate}, {label}: {source}")]
    Bad { baseline: String, candidate: String, label: String, source: Box<BadPair> },
}

fn in_words(labels: &[String]) -> String {
    let quoted: Vec<String> = labels.iter().map(|l| format!("{l:?}")).collect();
    quoted.join(", ")
}

impl Compared<'_> {
    fn pairs(&self) -> impl Iterator<Item = &ArmPair<'_>> {
        self.against.iter().flat_map(|a| &a.pairs)
    }

    /// Whether every file has at least one paired arm and nothing forbids a verdict.
    pub fn comparable(&self) -> bool {
        let whole = |a: &Against<'_>| !a.pairs.is_empty() && a.unpaired[0].is_empty();
        self.against.iter().all(whole) && self.pairs().all(|p| p.comparable)
    }

    /// What must not be compared at all: another machine, the same launches twice, no pair.
    fn refused(&self) -> bool {
        let refused = |p: &ArmPair<'_>| p.refused || !p.faults.invalid.is_empty();
        self.against.iter().any(|a| a.pairs.is_empty()) || self.pairs().any(refused)
    }

    /// The exit code of a comparison that is a verdict, as the gate's: what must not be compared is
    /// not comparable before anything else, and what vanished never passes.
    pub fn exit_code(&self) -> u8 {
        const NOT_COMPARABLE: u8 = 4;
        match self.decision() {
            _ if self.refused() => NOT_COMPARABLE,
            Decision::Regressed => Decision::Regressed.exit_code(),
            _ if !self.comparable() => NOT_COMPARABLE,
            decision => decision.exit_code(),
        }
    }

    /// The decision over all pairs: regressed if any is, else inconclusive if any is, else improved
    /// if any is.
    pub fn decision(&self) -> Decision {
        use Decision::*;
        let found = |decision| self.pairs().any(|p| p.decision() == decision);
        let worst = [Regressed, Inconclusive, Improved].into_iter().find(|d| found(*d));
        let all = worst.unwrap_or(match self.pairs().next() {
            Some(_) => NotRegressed,
            None => Inconclusive,
        });
        if self.comparable() { all } else { all.without_passing() }
    }
}

/// Compares every later source with the first.
///
/// # Errors
/// A requested pair names an arm that does not exist, or a value cannot be judged.
pub fn compare<'a>(
    baseline: &'a Source,
    candidates: &'a [Source],
    rules: &'a Rules,
    wanted: &Wanted,
) -> Result<Compared<'a>, CompareError> {
    let mut used = vec![false; wanted.pairs.len()];
    let against = candidates
        .iter()
        .map(|candidate| against(baseline, candidate, rules, wanted, &mut used))
        .collect::<Result<_, _>>()?;
    if let Some(i) = used.iter().position(|used| !used) {
        let labels = |source: &Source| source.arms.iter().map(|a| a.label.clone()).collect();
        return Err(CompareError::NoSuchPair {
            given: wanted.pairs[i].clone(),
            baseline: baseline.file.clone(),
            of_baseline: labels(baseline),
            of_candidates: candidates.iter().flat_map(|s| labels(s) as Vec<String>).collect(),
        });
    }
    Ok(Compared { baseline, against, rules })
}

fn against<'a>(
    baseline: &'a Source,
    candidate: &'a Source,
    rules: &Rules,
    wanted: &Wanted,
    used: &mut [bool],
) -> Result<Against<'a>, CompareError> {
    let sessions = Sessions::of(baseline, candidate);
    let (partners, unpaired) = partners(baseline, candidate, &wanted.pairs, used);
    let mut pairs = partners
        .into_iter()
        .map(|(a, b, how)| {
            pair(a, b, (how, sessions), rules, wanted).map_err(|source| CompareError::Bad {
                baseline: baseline.file.clone(),
                candidate: candidate.file.clone(),
                label: b.label.clone(),
                source: Box::new(source),
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let shared: Vec<Difference> = match pairs.split_first() {
        Some((first, rest)) => {
            let everywhere = |d: &&Difference| rest.iter().all(|p| p.differences.contains(d));
            first.differences.iter().filter(everywhere).cloned().collect()
        }
        None => Vec::new(),
    };
    for pair in &mut pairs {
        pair.differences.retain(|d| !shared.contains(d));
    }
    let mut warnings = around(baseline, candidate);
    if sessions == Sessions::One {
        for pair in pairs.iter_mut().filter(|p| p.baseline.label == p.candidate.label) {
            pair.faults.invalid.push("both sides are the same launches".into());
            pair.forbid();
        }
    }
    if sessions == Sessions::Two
        && let Some(least) = pairs.iter().map(|p| &p.baseline.earlier).min_by_key(|e| e.sessions)
    {
        warnings.push(least.warning(&baseline.file));
    }
    for pair in &pairs {
        let failures = pair.failures.iter().map(|(_, why)| why);
        for why in pair.faults.sentences().chain(failures) {
            warnings.push(Warning {
                code: "no_evidence".into(),
                arm: Some(pair.candidate.label.clone()),
                message: format!("{}: {why}", pair.candidate.label),
                advice: "measure what is missing; nothing passes without it".into(),
            });
        }
    }
    if !unpaired[0].is_empty() && !pairs.is_empty() {
        let names: Vec<&str> = unpaired[0].iter().map(|arm| arm.label.as_str()).collect();
        warnings.push(Warning {
            code: "lost_arms".into(),
            arm: None,
            message: format!("{} did not measure {}", candidate.file, names.join(", ")),
            advice: "--pair A=B pairs arms of other names; nothing passes without them".into(),
        });
    }
    Ok(Against { candidate, pairs, unpaired, differences: shared, warnings })
}

type Partners<'a> = (Vec<(&'a SampledArm, &'a SampledArm, How)>, [Vec<&'a SampledArm>; 2]);

/// Pairs arms: first as requested, then by key where it is unique, then the only arm of each file.
fn partners<'a>(
    baseline: &'a Source,
    candidate: &'a Source,
    asked: &[String],
    used: &mut [bool],
) -> Partners<'a> {
    let mut free: [Vec<&SampledArm>; 2] =
        [baseline.arms.iter().collect(), candidate.arms.iter().collect()];
    let mut found = Vec::new();
    for (asked, used) in asked.iter().zip(used) {
        // A label may itself contain `=`.
        let split = asked.match_indices('=').find_map(|(at, _)| {
            let place = |free: &[&SampledArm], label: &str| {
                free.iter().position(|arm| arm.label == label.trim())
            };
            Some((place(&free[0], &asked[..at])?, place(&free[1], &asked[at + 1..])?))
        });
        if let Some((a, b)) = split {
            found.push((free[0].remove(a), free[1].remove(b), How::Asked));
            *used = true;
        }
    }
    let only_one_like =
        |b: &SampledArm| baseline.arms.iter().filter(|a| are_alike(a, b)).count() == 1;
    let only_ones = free.iter().all(|arms| arms.len() == 1) && found.is_empty();
    for a in std::mem::take(&mut free[0]) {
        let mut alike = free[1].iter().enumerate().filter(|(_, b)| are_alike(a, b));
        match (alike.next(), alike.next()) {
            (Some((b, arm)), None) if only_one_like(arm) => {
                found.push((a, free[1].remove(b), How::Alike))
            }
            _ if only_ones => found.push((a, free[1].remove(0), How::OnlyOnes)),
            _ => free[0].push(a),
        }
    }
    (found, free)
}

/// Whether two arms are one thing measured twice: the same key, and the same value of each setting
/// that both files record. What only one version of a tool records is listed as a difference.
fn are_alike(a: &SampledArm, b: &SampledArm) -> bool {
    let agrees = |(name, value)| b.settings.get(name).is_none_or(|other| other == value);
    a.key == b.key && a.settings.iter().all(agrees)
}

fn pair<'a>(
    baseline: &'a SampledArm,
    candidate: &'a SampledArm,
    (how, sessions): (How, Sessions),
    rules: &Rules,
    wanted: &Wanted,
) -> Result<ArmPair<'a>, BadPair> {
    let decides = |series: &Series| match rules.primary == Rules::default().primary {
        true => series.decides,
        false => !series.part && rules.primary.iter().any(|name| name == series.metric.name()),
    };
    let shown = |series: &Series| match series.part {
        true => {
            wanted.per_prompt
                && (wanted.all || rules.primary.iter().any(|p| p == series.metric.name()))
        }
        false => wanted.all || decides(series),
    };
    let same = |a: &Series, b: &Series| a.metric == b.metric && a.test == b.test;
    let partner = |a: &Series, arm: &'a SampledArm| arm.series.iter().find(|b| same(a, b));
    let mut both: Vec<(&Series, &Series, String)> = baseline
        .series
        .iter()
        .filter(|a| shown(a))
        .filter_map(|a| Some((a, partner(a, candidate)?, name(a))))
        .collect();
    // Deciding metrics come first; each kind keeps its order.
    both.sort_by_key(|(a, _, _)| !decides(a));
    let one_sided = [(baseline, candidate), (candidate, baseline)].map(|(arm, other)| {
        let alone = arm.series.iter().filter(|s| decides(s) && partner(s, other).is_none());
        alone.map(name).collect()
    });
    let asked = rules;
    let of_series = |(a, _, name): &(&Series, &Series, String)| {
        (name.clone(), rules.margin_of(a.metric.name()))
    };
    let rules = Rules {
        margins: both.iter().map(of_series).collect::<BTreeMap<_, _>>(),
        primary: both.iter().filter(|(a, ..)| decides(a)).map(|(.., n)| n.clone()).collect(),
        ..rules.clone()
    };
    let blocks: Vec<_> =
        both.iter().map(|(a, b, _)| sides::blocks([&a.places, &b.places])).collect();
    let samples: Vec<Pair<'_>> = both
        .iter()
        .zip(&blocks)
        .map(|((a, b, name), blocks)| Pair {
            metric: name,
            better: a.metric.better(),
            baseline: &a.values,
            candidate: &b.values,
            tail: Tail::of([&a.tail, &b.tail]),
            arrangement: match (sessions, blocks) {
                (Sessions::Two, _) => baseline.earlier.arrangement(name),
                (Sessions::One, Some([baseline, candidate])) => {
                    Arrangement::Blocks { baseline, candidate }
                }
                (Sessions::One | Sessions::Unknown, _) => Arrangement::Independent,
            },
        })
        .collect();
    let mut judgement = judge(&samples, &rules)?;
    let judged = std::mem::take(&mut judgement.metrics);
    let rows = both.iter().zip(judged).map(|((a, ..), judged)| Row {
        metric: a.metric,
        test: a.test.clone(),
        part: a.part,
        judged,
    });
    let rows: Vec<Row> = rows.collect();
    let mut differences = differences(baseline, candidate);
    if how == How::Asked {
        // A user who pairs two engines by name knows that they differ.
        differences.iter_mut().filter(|d| d.is_engine()).for_each(|d| d.severity = Severity::Warn);
    }
    // Two commands that never succeeded have nothing in common but that.
    let any = !(baseline.series.is_empty() && candidate.series.is_empty());
    let comparable = any && differences.iter().all(|d| d.severity != Severity::Refuse);
    let faults = faults(baseline, candidate, asked, &decides);
    let failures = match (&baseline.launches, &candidate.launches) {
        (Some(base), Some(cand)) => {
            evidence::failures([("the baseline", base), ("the candidate", cand)], "", rules.alpha)
        }
        _ => None,
    };
    let forbidden = !(comparable && faults.is_empty());
    let mut pair = ArmPair {
        baseline,
        candidate,
        how,
        differences,
        rows,
        judgement,
        one_sided,
        refused: !comparable,
        faults,
        failures,
        comparable: true,
    };
    if forbidden {
        pair.forbid();
    }
    Ok(pair)
}

impl ArmPair<'_> {
    /// Nothing of the pair passes.
    fn forbid(&mut self) {
        self.comparable = false;
        for judged in self.rows.iter_mut().map(|row| &mut row.judged) {
            for decision in [&mut judged.decision, &mut judged.margin_rule, &mut judged.point_rule]
            {
                *decision = decision.without_passing();
            }
        }
    }
}

/// What is on one side alone, or counted twice.
fn faults(
    baseline: &SampledArm,
    candidate: &SampledArm,
    asked: &Rules,
    decides: &dyn Fn(&Series) -> bool,
) -> Faults {
    fn side<'a>(what: &'a str, arm: &SampledArm, names: &'a [String]) -> evidence::Side<'a> {
        let count = |wanted: &'a String| {
            let found = arm.series.iter().find(|series| !series.part && name(series) == *wanted);
            found.map(|series| (wanted.as_str(), series.values.len()))
        };
        let values = names.iter().filter_map(count).collect();
        evidence::Side { what, launches: arm.launches.clone(), values }
    }
    let deciding = [baseline, candidate].into_iter().flat_map(|arm| &arm.series);
    let mut names: Vec<String> = deciding.filter(|series| decides(series)).map(name).collect();
    // A metric of which there are only tests has none of its own name.
    let is_tested = |metric: &String| {
        [baseline, candidate].iter().any(|arm| {
            arm.series.iter().any(|s| s.test.is_some() && !s.part && s.metric.name() == metric)
        })
    };
    if asked.are_asked() {
        names.extend(asked.primary.iter().filter(|metric| !is_tested(metric)).cloned());
    }
    names.sort_unstable();
    names.dedup();
    let sides = [("the baseline", baseline), ("the candidate", candidate)];
    let [base, cand] = sides.map(|(what, arm)| side(what, arm, &names));
    let rules = Rules { primary: names.clone(), ..asked.clone() };
    Faults::between(&base, &cand, &rules, asked.are_asked())
}

/// A test of llama-bench is a separate metric; a prompt of a set is not.
fn name(series: &Series) -> String {
    match &series.test {
        None => series.metric.name().to_string(),
        Some(test) if series.part => format!("{} {test}", series.metric),
        Some(test) => test.clone(),
    }
}

/// Versions and settings of two different engines always differ, so they are left out.
fn differences(baseline: &SampledArm, candidate: &SampledArm) -> Vec<Difference> {
    let mut found = baseline.identity.differences(&candidate.identity);
    if found.iter().any(Difference::is_engine) {
        found.retain(|d| !d.field.starts_with("version.") && !d.field.starts_with("setting."));
    }
    found
}

/// The warnings of both files without repetition, plus a warning if both are the same session or
/// the same program.
fn around(baseline: &Source, candidate: &Source) -> Vec<Warning> {
    let mut found: Vec<Warning> = Vec::new();
    let warning = |code: &str, message: &str, advice: &str| Warning {
        code: code.into(),
        arm: None,
        message: message.into(),
        advice: advice.into(),
    };
    if baseline.session.is_some() && baseline.session == candidate.session {
        found.push(warning(
            "one_session",
            "both files hold the same session",
            "compare with another session: launches that are on both sides are no replicates",
        ));
    } else if baseline.executable.is_some() && baseline.executable == candidate.executable {
        found.push(warning(
            "one_program",
            "one and the same program file measured both sides",
            "what differs is the moment and the machine, not the build",
        ));
    }
    let from = |source: &Source, w: &Warning| Warning {
        message: format!("{}: {}", source.file, w.message),
        ..w.clone()
    };
    for warning in &baseline.warnings {
        found.push(match candidate.warnings.contains(warning) {
            true => warning.clone(),
            false => from(baseline, warning),
        });
    }
    let own = candidate.warnings.iter().filter(|w| !baseline.warnings.contains(w));
    found.extend(own.map(|w| from(candidate, w)));
    found
}
