//! Explains decisions in plain sentences.

use super::{Decision, FEWEST_SESSIONS, Judged, Rule, Rules, Test};
use crate::number::{Form, share, text};
use crate::stats::fewest_to_reach;

/// Why a metric got its decision.
pub(super) fn metric(
    judged: &Judged,
    rules: &Rules,
    would_do: Option<u32>,
    too_few_sessions: bool,
) -> String {
    let fewest = judged.baseline.n.min(judged.candidate.n);
    let name = &judged.metric;
    if fewest < 2 {
        let side = if judged.baseline.n < 2 { "the baseline" } else { "the candidate" };
        let needed = judged.launches_needed.unwrap_or(2).max(2);
        return format!(
            "{name}: {side} has one launch, and a spread needs two; {needed} on each side would do"
        );
    }
    let (change, interval, _) = judged.estimate();
    let change = text(change, Form::Change);
    let margin = format!("the margin of {}", share(judged.margin));
    if judged.exact {
        return format!(
            "{name} changed by {change} and varies on neither side: compared with {margin} without a test"
        );
    }
    let interval = interval.map_or(String::new(), |[low, high]| {
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
        (_, Decision::Inconclusive) if too_few_sessions => {
            let known = format!(
                "fewer than {FEWEST_SESSIONS} earlier sessions show how much sessions differ"
            );
            match judged.p_ok.is_some_and(|p| p < rules.alpha) {
                true => {
                    format!("these launches are within {margin}, but {known}, so nothing passes")
                }
                false => format!("{}; {known}", unknown(judged, rules, would_do, true)),
            }
        }
        (_, Decision::Inconclusive) => unknown(judged, rules, would_do, false),
    };
    format!("{name} changed by {change}{interval}: {ending}")
}

/// Why the launches do not decide, and how many would, four times in five: all deciding metrics
/// together, for one of them. `one_session`: launches of one session, which these are not.
fn unknown(judged: &Judged, rules: &Rules, would_do: Option<u32>, one_session: bool) -> String {
    let margin = share(judged.margin);
    let had = judged.baseline.n.min(judged.candidate.n);
    let blocks = judged.decided_by.is_some_and(Test::is_in_blocks);
    let least_p = judged.deciding().and_then(|figures| figures.least_p);
    if least_p.is_some_and(|p| p >= rules.alpha)
        && let Some(fewest) = fewest_to_reach(rules.alpha, blocks)
    {
        return format!(
            "{had} launches on a side cannot reach p < {}, whatever they show; {fewest} on each side can",
            level(rules.alpha)
        );
    }
    let more = match would_do {
        Some(n) if one_session => {
            format!("in one session {n} launches on each side would do")
        }
        Some(n) if n as usize > had => format!("{n} launches on each side would do"),
        Some(n) => format!("{n} launches on each side decide only four times in five"),
        None => "no number of launches would do".into(),
    };
    match judged.mde {
        Some(mde) if mde > judged.margin => format!(
            "this run could see a change of {} at best, not one of {margin}; {more}",
            text(mde, Form::Percent(1))
        ),
        _ => format!(
            "too close to the margin of {margin} to tell on which side of it the change lies; {more}"
        ),
    }
}

/// A level with up to four decimals.
fn level(alpha: f64) -> String {
    format!("{alpha:.4}").trim_end_matches('0').to_string()
}

/// The reason for the overall decision.
pub(super) fn all(decision: Decision, metrics: &[Judged], rule: Rule) -> String {
    let primary: Vec<&Judged> = metrics.iter().filter(|m| m.primary).collect();
    let names = |decision: Decision| {
        let named = primary.iter().filter(|m| m.decision == decision).map(|m| m.metric.as_str());
        named.collect::<Vec<_>>().join(", ")
    };
    match decision {
        _ if primary.is_empty() => "no primary metric was measured on both sides".to_string(),
        Decision::NotRegressed if rule == Rule::Point => format!(
            "{} did not change by more than the margin with p below alpha, which is no proof that \
             nothing is worse",
            names(decision)
        ),
        Decision::NotRegressed => {
            format!("none of {} is worse by as much as its margin", names(decision))
        }
        _ => format!("{}: {}", decision.as_str(), names(decision)),
    }
}
