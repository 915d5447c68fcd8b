//! Requirements on a ratio: `candle/pytorch decode_tps >= 2.0`. Both sides come from one session,
//! so the ratio carries over to other machines where the numbers themselves do not.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{failure, kind_name, ok_launches};
use crate::metric::Metric;
use crate::record::{Arm, Record};
use crate::stats::{Sample, holm, margin_test, ratio_of_geometric_means};
use crate::units::three_digits;

/// Which side of the bound the ratio must be on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Relation {
    #[serde(rename = ">=")]
    AtLeast,
    #[serde(rename = "<=")]
    AtMost,
}

impl Relation {
    fn as_str(self) -> &'static str {
        match self {
            Relation::AtLeast => ">=",
            Relation::AtMost => "<=",
        }
    }
}

/// `ARM/REFERENCE METRIC >= BOUND`: a bound on the ratio of the metric's geometric means.
#[derive(Debug, Clone)]
pub struct Requirement {
    pub arm: String,
    pub reference: String,
    pub metric: Metric,
    pub relation: Relation,
    /// Above zero.
    pub bound: f64,
}

impl PartialEq for Requirement {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { arm, reference, metric, relation, bound } = self;
        write!(f, "{arm}/{reference} {metric} {} {bound}", relation.as_str())
    }
}

impl FromStr for Requirement {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "expected a form such as 'candle/pytorch decode_tps >= 2.0'";
        let at = text.find(['<', '>', '=']).ok_or_else(|| format!("{FORM}; found no >= or <="))?;
        let (left, right) = text.split_at(at);
        let sign = &right[..right.find(|c| !"<>=".contains(c)).unwrap_or(right.len())];
        let relation = match sign {
            ">=" => Relation::AtLeast,
            "<=" => Relation::AtMost,
            other => return Err(format!("{FORM}; found {other:?} in place of >= or <=")),
        };
        let number = right[sign.len()..].trim();
        let bound = match number.parse::<f64>() {
            Ok(bound) if bound.is_finite() && bound > 0.0 => bound,
            _ => return Err(format!("{FORM}; a ratio is a number above 0, found {number:?}")),
        };
        let words: Vec<&str> = left.split_whitespace().collect();
        let [engines, name] = words[..] else {
            return Err(format!("{FORM}; before {sign} found {:?}", left.trim()));
        };
        let (arm, reference) = match engines.split_once('/') {
            Some((a, b)) if !a.is_empty() && !b.is_empty() && !b.contains('/') => (a, b),
            _ => return Err(format!("{FORM}; found {engines:?} in place of two engines")),
        };
        if arm == reference {
            return Err(format!("{FORM}; found {arm:?} on both sides"));
        }
        let metric = name.parse().map_err(|e| format!("{e}"))?;
        Ok(Self { arm: arm.into(), reference: reference.into(), metric, relation, bound })
    }
}

/// What the launches say about a requirement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Met,
    Failed,
    Inconclusive,
}

/// A requirement and its result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    /// The requirement as the user wrote it.
    pub requirement: String,
    pub metric: Metric,
    pub bound: f64,
    pub relation: Relation,
    pub state: State,
    /// Ratio of the geometric means; absent if a side has no launch with the metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// Welch on logarithms: each end is the bound of a one-sided test at α. Absent if a side has
    /// fewer than two launches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    /// One-sided; H0: the bound is broken. Absent if neither side varies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_met: Option<f64>,
    /// One-sided; H0: the bound is kept. Adjusted over all requirements (Holm).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_failed: Option<f64>,
    /// Launches of the engine and of its reference.
    pub n: [usize; 2],
    /// The reason in one sentence.
    pub why: String,
}

/// Why a requirement cannot be checked against a record at all.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Unanswerable {
    #[error("{requirement}: nothing here is called {name:?}; there are: {}", known.join(", "))]
    NoSuchArm { requirement: String, name: String, known: Vec<String> },
    #[error("{requirement}: {name} could not be measured: {reason}")]
    NotMeasured { requirement: String, name: String, reason: String },
    #[error("{requirement}: {name} has no {metric}")]
    NoMetric { requirement: String, name: String, metric: Metric },
    #[error("{requirement}: a value of {metric} is not a finite number above zero")]
    BadValue { requirement: String, metric: Metric },
}

/// Checks every requirement at level `alpha` against the launches of a record.
///
/// # Errors
/// A requirement names an arm that does not exist, an arm without a good launch, or a metric that
/// the arm lacks.
pub fn check(
    record: &Record,
    requirements: &[Requirement],
    alpha: f64,
) -> Result<Vec<Checked>, Unanswerable> {
    let mut checked =
        requirements.iter().map(|r| measure(record, r, alpha)).collect::<Result<Vec<_>, _>>()?;
    let tested: Vec<usize> =
        (0..checked.len()).filter(|&i| checked[i].p_failed.is_some()).collect();
    let adjusted = holm(&tested.iter().filter_map(|&i| checked[i].p_failed).collect::<Vec<_>>());
    for (&i, p) in tested.iter().zip(adjusted) {
        checked[i].p_failed = Some(p);
    }
    for (one, requirement) in checked.iter_mut().zip(requirements) {
        decide(one, requirement, alpha);
    }
    Ok(checked)
}

fn measure(record: &Record, r: &Requirement, alpha: f64) -> Result<Checked, Unanswerable> {
    let (ours, theirs) = (sample(record, r, &r.arm)?, sample(record, r, &r.reference)?);
    let bad = || Unanswerable::BadValue { requirement: r.to_string(), metric: r.metric };
    let ratio = ratio_of_geometric_means(&ours, &theirs, 1.0 - 2.0 * alpha).ok_or_else(bad)?;
    // Tests "the ratio is at least the bound".
    let test = margin_test(&ours, &theirs, r.bound.ln()).and_then(|test| test.tests);
    let (p_met, p_failed) = match r.relation {
        Relation::AtLeast => (test.map(|t| t.p_reg), test.map(|t| t.p_ok)),
        Relation::AtMost => (test.map(|t| t.p_ok), test.map(|t| t.p_reg)),
    };
    Ok(Checked {
        requirement: r.to_string(),
        metric: r.metric,
        bound: r.bound,
        relation: r.relation,
        state: State::Inconclusive,
        ratio: Some(ratio.ratio),
        interval: ratio.interval.map(|i| [i.low, i.high]),
        p_met,
        p_failed,
        n: [ours.n(), theirs.n()],
        why: String::new(),
    })
}

fn sample(record: &Record, r: &Requirement, name: &str) -> Result<Sample, Unanswerable> {
    let requirement = r.to_string();
    let metric = r.metric;
    let arm = arm(record, name).ok_or_else(|| Unanswerable::NoSuchArm {
        requirement: requirement.clone(),
        name: name.into(),
        known: record.arms.iter().map(|arm| arm.label.clone()).collect(),
    })?;
    if ok_launches(arm).next().is_none() {
        let reason = failure(arm).map_or("it was not launched".into(), |e| {
            format!("{}: {}", kind_name(e.kind), e.message.lines().next().unwrap_or_default())
        });
        return Err(Unanswerable::NotMeasured { requirement, name: name.into(), reason });
    }
    let values: Vec<f64> =
        ok_launches(arm).filter_map(|l| l.metrics.get(&metric).copied()).collect();
    match Sample::new(&values) {
        Ok(sample) if sample.min() > 0.0 => Ok(sample),
        _ if values.is_empty() => {
            Err(Unanswerable::NoMetric { requirement, name: name.into(), metric })
        }
        _ => Err(Unanswerable::BadValue { requirement, metric }),
    }
}

fn arm<'a>(record: &'a Record, name: &str) -> Option<&'a Arm> {
    record.arms.iter().find(|arm| arm.label == name)
}

fn decide(one: &mut Checked, r: &Requirement, alpha: f64) {
    let keeps = |ratio: f64| match r.relation {
        Relation::AtLeast => ratio >= r.bound,
        Relation::AtMost => ratio <= r.bound,
    };
    let few = one.n.iter().any(|&n| n < 2);
    one.state = match (one.p_met, one.p_failed, one.ratio) {
        (Some(p), _, _) if p < alpha => State::Met,
        (_, Some(p), _) if p < alpha => State::Failed,
        // Neither side varies, so the values are compared without a test.
        (None, None, Some(ratio)) if !few => match keeps(ratio) {
            true => State::Met,
            false => State::Failed,
        },
        _ => State::Inconclusive,
    };
    let ratio = one.ratio.map_or("unknown".into(), three_digits);
    let range = one.interval.map_or(String::new(), |[low, high]| {
        format!(" ({}–{})", three_digits(low), three_digits(high))
    });
    let name = r.metric.title();
    let bound = format!("{} {}", r.relation.as_str(), r.bound);
    one.why = match one.state {
        State::Met => format!("{name}: the ratio is {ratio}{range}, {bound} is kept"),
        State::Failed => format!("{name}: the ratio is {ratio}{range}, {bound} is not kept"),
        State::Inconclusive if few => {
            format!("{name}: the ratio is {ratio}; a test needs two launches of each at least")
        }
        State::Inconclusive => {
            format!("{name}: the ratio is {ratio}{range}, which leaves {bound} open")
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing;

    fn parsed(text: &str) -> Result<Requirement, String> {
        text.parse()
    }

    #[test]
    fn a_requirement_is_two_engines_a_metric_a_relation_and_a_ratio() {
        let r = parsed("candle/llama.cpp-flash decode_tps >= 0.9").unwrap();
        assert_eq!((r.arm.as_str(), r.reference.as_str()), ("candle", "llama.cpp-flash"));
        assert_eq!((r.metric, r.relation, r.bound), (Metric::DecodeTps, Relation::AtLeast, 0.9));
        assert_eq!(parsed("  a/b  ttft_s<=2 ").unwrap().to_string(), "a/b ttft_s <= 2");
        assert_eq!(parsed(&r.to_string()).unwrap(), r);
    }

    #[test]
    fn what_is_no_requirement_is_refused_with_the_part_that_is_wrong() {
        for (text, found) in [
            ("candle/pytorch decode_tps", "found no >= or <="),
            ("candle/pytorch decode_tps > 2", "\">\""),
            ("candle/pytorch decode_tps == 2", "\"==\""),
            ("candle/pytorch decode_tps => 2", "\"=>\""),
            ("candle/pytorch decode_tps >= two", "\"two\""),
            ("candle/pytorch decode_tps >= -1", "\"-1\""),
            ("candle/pytorch decode_tps >= inf", "\"inf\""),
            ("candle/pytorch decode_tps >= ", "\"\""),
            ("candle decode_tps >= 2", "\"candle\" in place of two engines"),
            ("candle/ decode_tps >= 2", "in place of two engines"),
            ("a/b/c decode_tps >= 2", "in place of two engines"),
            ("a/a decode_tps >= 2", "on both sides"),
            ("a/b speed >= 2", "no metric is called \"speed\""),
            ("a/b the decode_tps >= 2", "before >= found"),
            ("", "found no >= or <="),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(found), "{text:?}: {error}");
        }
    }

    fn asked(text: &str) -> Checked {
        check(&testing::record(), &[parsed(text).unwrap()], 0.05).unwrap().remove(0)
    }

    #[test]
    fn a_ratio_is_met_or_failed_when_the_whole_bound_is_beyond_it_else_open() {
        // 38.4 against 3.81 tok/s: 10.08.
        assert_eq!(asked("candle/pytorch-f32 decode_tps >= 8").state, State::Met);
        assert_eq!(asked("candle/pytorch-f32 decode_tps >= 12").state, State::Failed);
        assert_eq!(asked("candle/pytorch-f32 decode_tps <= 12").state, State::Met);
        assert_eq!(asked("pytorch-f32/candle decode_tps >= 1").state, State::Failed);
        let open = asked("candle/pytorch-f32 decode_tps >= 10.08");
        assert_eq!(open.state, State::Inconclusive, "{open:?}");
        assert!(open.why.contains("leaves >= 10.08 open"), "{}", open.why);
        let [low, high] = open.interval.unwrap();
        assert!(low < 10.08 && 10.08 < high);
    }

    #[test]
    fn a_name_that_is_not_there_and_an_engine_that_failed_are_errors() {
        let ask = |text: &str| {
            check(&testing::record(), &[parsed(text).unwrap()], 0.05).unwrap_err().to_string()
        };
        let error = ask("candel/candle decode_tps >= 1");
        assert!(error.contains("\"candel\"") && error.contains("candle-stock"), "{error}");
        let record = testing::record();
        let failed = record.arms.iter().find(|arm| failure(arm).is_some()).unwrap();
        let error = ask(&format!("candle/{} decode_tps >= 1", failed.label));
        assert!(error.contains("could not be measured"), "{error}");
        let error = ask("candle/pytorch-f32 itl_p99_s <= 1");
        assert!(error.contains("has no itl_p99_s"), "{error}");
    }

    #[test]
    fn one_launch_is_not_enough_and_values_that_do_not_vary_are_compared_exactly() {
        let mut record = testing::record();
        for arm in &mut record.arms {
            for launch in &mut arm.launches {
                launch.metrics.insert(Metric::PeakHostBytes, 1e9);
            }
        }
        let r = [parsed("candle/pytorch-f32 peak_host_bytes <= 1").unwrap()];
        let exact = check(&record, &r, 0.05).unwrap().remove(0);
        assert_eq!((exact.state, exact.p_met), (State::Met, None));
        record.arms[0].launches.truncate(1);
        let few = check(&record, &r, 0.05).unwrap().remove(0);
        assert_eq!(few.state, State::Inconclusive);
        assert!(few.why.contains("needs two launches"), "{}", few.why);
    }
}
