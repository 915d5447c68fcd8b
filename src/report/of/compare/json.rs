//! The comparison as JSON, with every computed number; values that do not exist are absent.

use serde::Serialize;

use crate::analysis::foreign::{Format, SampledArm, Source};
use crate::analysis::pairing::{Against, ArmPair, Compared, Row};
use crate::analysis::verdict::{Decision, Judged, Rule};
use crate::identity::Difference;
use crate::record::Warning;

/// Name and version of this format; the number changes when old readers would misread it.
const SCHEMA: &str = "llm-bench-compare/1";

#[derive(Serialize)]
struct Whole<'a> {
    schema: &'static str,
    decision: Decision,
    /// False if a difference forbids a verdict.
    comparable: bool,
    rules: RulesOut<'a>,
    baseline: File<'a>,
    candidates: Vec<Candidate<'a>>,
}

#[derive(Serialize)]
struct RulesOut<'a> {
    rule: Rule,
    margin: f64,
    margins: &'a std::collections::BTreeMap<String, f64>,
    alpha: f64,
}

#[derive(Serialize)]
struct File<'a> {
    file: &'a str,
    format: Format,
    facts: &'a [String],
    synthetic_weights: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
}

#[derive(Serialize)]
struct Candidate<'a> {
    #[serde(flatten)]
    file: File<'a>,
    pairs: Vec<Pair<'a>>,
    only_in_baseline: Vec<&'a str>,
    only_in_candidate: Vec<&'a str>,
    /// What differs in every pair.
    differences: &'a [Difference],
    warnings: &'a [Warning],
}

#[derive(Serialize)]
struct Pair<'a> {
    baseline: &'a str,
    candidate: &'a str,
    on: &'a str,
    comparable: bool,
    decision: Decision,
    why: &'a str,
    differences: &'a [Difference],
    only_in_baseline: &'a [String],
    only_in_candidate: &'a [String],
    metrics: Vec<Metric<'a>>,
}

#[derive(Serialize)]
struct Metric<'a> {
    name: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    test: Option<&'a str>,
    unit: &'static str,
    #[serde(flatten)]
    judged: &'a Judged,
}

pub(super) fn render(compared: &Compared<'_>) -> String {
    let rules = compared.rules;
    let whole = Whole {
        schema: SCHEMA,
        decision: compared.decision(),
        comparable: compared.comparable(),
        rules: RulesOut {
            rule: rules.rule,
            margin: rules.margin,
            margins: &rules.margins,
            alpha: rules.alpha,
        },
        baseline: file(compared.baseline),
        candidates: compared.against.iter().map(candidate).collect(),
    };
    crate::report::write::json::whole(&whole)
}

fn file(source: &Source) -> File<'_> {
    File {
        file: &source.file,
        format: source.format,
        facts: &source.facts,
        synthetic_weights: source.synthetic,
        session: source.session.as_deref(),
    }
}

fn candidate<'a>(against: &'a Against<'a>) -> Candidate<'a> {
    let labels = |arms: &'a [&SampledArm]| arms.iter().map(|a| a.label.as_str()).collect();
    let [base, cand] = &against.unpaired;
    Candidate {
        file: file(against.candidate),
        pairs: against.pairs.iter().map(pair).collect(),
        only_in_baseline: labels(base),
        only_in_candidate: labels(cand),
        differences: &against.differences,
        warnings: &against.warnings,
    }
}

fn pair<'a>(pair: &'a ArmPair<'a>) -> Pair<'a> {
    let metric = |row: &'a Row| Metric {
        name: row.metric.name(),
        test: row.test.as_deref(),
        unit: row.metric.unit().as_str(),
        judged: &row.judged,
    };
    Pair {
        baseline: &pair.baseline.label,
        candidate: &pair.candidate.label,
        on: &pair.candidate.on,
        comparable: pair.comparable,
        decision: pair.decision(),
        why: &pair.judgement.why,
        differences: &pair.differences,
        only_in_baseline: &pair.one_sided[0],
        only_in_candidate: &pair.one_sided[1],
        metrics: pair.rows.iter().map(metric).collect(),
    }
}
