//! Compares every arm with one baseline, as "how many times better", on the log scale.

use super::ok_launches;
use crate::metric::{Better, Metric, Rank};
use crate::record::{Arm, Comparison, MetricSummary, Point, Record};
use crate::stats::{Sample, ratio_of_geometric_means};

/// Labels that become the baseline when the user names none, in order of preference.
const BASELINES: [&str; 2] = ["pytorch", "pytorch-f32"];

/// No arm has the label that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no engine is called {label:?} in this result; it has {}", known.join(", "))]
pub struct NoSuchArm {
    pub label: String,
    pub known: Vec<String>,
}

/// The default baseline: `pytorch` if it has a good launch, otherwise `pytorch-f32`, otherwise the
/// first arm with a good launch.
pub fn baseline(record: &Record) -> Option<usize> {
    let good = |arm: &Arm| ok_launches(arm).next().is_some();
    let of = |engine: &&str| record.arms.iter().position(|a| a.point.engine == **engine && good(a));
    BASELINES.iter().find_map(of).or_else(|| record.arms.iter().position(good))
}

pub(super) fn find(record: &Record, label: &str) -> Result<usize, NoSuchArm> {
    record.arms.iter().position(|arm| arm.label == label).ok_or_else(|| NoSuchArm {
        label: label.to_string(),
        known: record.arms.iter().map(|arm| arm.label.clone()).collect(),
    })
}

/// Compares every other arm with the one at `baseline`, over the metrics that both have. An arm of
/// another batch is compared with the baseline's own arm of that batch. Skips the spread of decode
/// (the ratio of two spreads over a few launches says nothing) and the parts of other metrics.
pub(super) fn against(record: &Record, baseline: usize) -> Vec<Comparison> {
    let Some(base) = record.arms.get(baseline) else { return Vec::new() };
    let metrics =
        || Metric::measured().filter(|m| m.rank() != Rank::Part && *m != Metric::DecodeCv);
    let compared = |arm| {
        let base = at_batch_of(arm, base, record).filter(|base| base.label != arm.label);
        metrics().filter_map(move |m| compare(arm, base?, m))
    };
    record.arms.iter().flat_map(compared).collect()
}

/// The arm that is like `base` in all but its batch, which is that of `arm`.
fn at_batch_of<'a>(arm: &Arm, base: &'a Arm, record: &'a Record) -> Option<&'a Arm> {
    let place = |arm: &Arm| {
        let Point { engine, quant, device, threads, .. } = &arm.point;
        (engine.clone(), quant.clone(), *device, *threads)
    };
    let fits = |other: &&Arm| other.point.batch == arm.point.batch && place(other) == place(base);
    if base.point.batch == arm.point.batch { Some(base) } else { record.arms.iter().find(fits) }
}

/// How many times better an arm is at one prompt than the arm of the baseline's engine at the same
/// batch. `None` for that arm itself.
pub fn at_prompt(record: &Record, arm: &Arm, prompt: &str, metric: Metric) -> Option<Comparison> {
    let label = record.comparisons.first().map(|c| &c.baseline)?;
    let base = record.arms.iter().find(|base| base.label == *label)?;
    let base = at_batch_of(arm, base, record).filter(|base| base.label != arm.label)?;
    let of = |arm: &Arm| arm.prompt_metrics.get(prompt)?.get(&metric).cloned();
    between((arm, &of(arm)?), (base, &of(base)?), metric)
}

/// `None` if either arm lacks the metric or has values that are not positive.
pub(super) fn compare(arm: &Arm, base: &Arm, metric: Metric) -> Option<Comparison> {
    let (ours, theirs) = (arm.metrics.get(&metric)?, base.metrics.get(&metric)?);
    between((arm, ours), (base, theirs), metric)
}

fn between(
    (arm, ours): (&Arm, &MetricSummary),
    (base, theirs): (&Arm, &MetricSummary),
    metric: Metric,
) -> Option<Comparison> {
    let (a, b) = (Sample::new(&ours.values).ok()?, Sample::new(&theirs.values).ok()?);
    let ratio = match ours.better {
        Better::Higher => ratio_of_geometric_means(&a, &b, 0.95)?,
        Better::Lower => ratio_of_geometric_means(&b, &a, 0.95)?,
    };
    Some(Comparison {
        metric,
        arm: arm.label.clone(),
        baseline: base.label.clone(),
        times_better: ratio.ratio,
        ci95: ratio.interval.map(|i| [i.low, i.high]),
        p: ratio.p,
        equal_precision: arm.precision.is_some() && arm.precision == base.precision,
    })
}
