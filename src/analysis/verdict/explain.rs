//! Explains decisions in plain sentences.

use super::{Decision, Judged, Rule, Rules};
use crate::number::{Form, share, text};

/// Why a metric got its decision.
pub(super) fn metric(judged: &Judged, rules: &Rules) -> String {
    let fewest = judged.baseline.n.min(judged.candidate.n);
    let name = &judged.metric;
    if fewest < 2 {
        let side = if judged.baseline.n < 2 { "the baseline" } else { "the candidate" };
        let needed = judged.launches_needed.unwrap_or(2).max(2);
        return format!(
            "{name}: {side} has one launch, and a spread needs two; {needed} on each side would do"
        );
    }
    let change = text(judged.change, Form::Change);
    let margin = format!("the margin of {}", share(judged.margin));
    if judged.exact {
        return format!(
            "{name} changed by {change} and varies on neither side: compared with {margin} without a test"
        );
    }
    let interval = judged.ci90.map_or(String::new(), |[low, high]| {
        format!(" (90 % interval {} to {})", text(low, Form::Change), text(high, Form::Change))
    });
    let ending = match (rules.rule, judged.decision) {
        (Rule::Point, Decision::NotRegressed) => {
            format!("not beyond {margin} with p below {}", rules.alpha)
        }
        (_, Decision::Regressed) => format!("worse by more than {margin}"),
        (_, Decision::Improved) => format!("better by more than {margin}"),
        (_, Decision::NotRegressed) if judged.real_but_small => {
            format!("real, but below {margin}")
        }
        (_, Decision::NotRegressed) => format!("not worse by as much as {margin}"),
        (_, Decision::Inconclusive) => {
            return format!("{name} changed by {change}{interval}: {}", unknown(judged));
        }
    };
    format!("{name} changed by {change}{interval}: {ending}")
}

/// Why the launches do not decide, and what would help.
fn unknown(judged: &Judged) -> String {
    let margin = share(judged.margin);
    let had = judged.baseline.n.min(judged.candidate.n);
    match (judged.mde, judged.launches_needed) {
        (Some(mde), Some(needed)) if mde > judged.margin => format!(
            "this run could see a change of {} at best, not one of {margin}; {needed} launches on each side would do",
            text(mde, Form::Share)
        ),
        (_, Some(needed)) if needed as usize > had => {
            format!("too few launches for a margin of {margin}; {needed} on each side would do")
        }
        _ => format!(
            "too close to the margin of {margin} to tell on which side of it the change lies"
        ),
    }
}

/// The reason for the overall decision.
pub(super) fn all(decision: Decision, metrics: &[Judged]) -> String {
    let primary: Vec<&Judged> = metrics.iter().filter(|m| m.primary).collect();
    let names = |decision: Decision| {
        let named = primary.iter().filter(|m| m.decision == decision).map(|m| m.metric.as_str());
        named.collect::<Vec<_>>().join(", ")
    };
    match decision {
        _ if primary.is_empty() => "no primary metric was measured on both sides".to_string(),
        Decision::NotRegressed => {
            format!("none of {} is worse by as much as its margin", names(decision))
        }
        _ => format!("{}: {}", decision.as_str(), names(decision)),
    }
}
