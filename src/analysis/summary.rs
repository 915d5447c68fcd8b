//! Launches to summaries: one value of each metric per launch, then over launches. Averages the
//! values inside a launch first and never pools them as if they were independent.

use std::collections::BTreeMap;

use super::ok_launches;
use crate::metric::{Better, Metric, Unit, Values};
use crate::record::{Arm, Launch, MetricSummary, Record, Role};
use crate::stats;

/// Fills the summaries of every arm. Metrics that this version does not know have no direction, so
/// they stay in their launches only.
pub(super) fn fill(record: &mut Record) {
    for arm in &mut record.arms {
        arm.metrics = whole_set(arm);
        arm.prompt_metrics = by_prompt(arm);
    }
}

fn whole_set(arm: &Arm) -> Values<MetricSummary> {
    let mut summaries = Values::new();
    for metric in Metric::measured() {
        let values = ok_launches(arm).filter_map(|l| l.metrics.get(&metric).copied()).collect();
        insert(&mut summaries, metric, values);
    }
    let cv = summaries.get(&Metric::DecodeTps).and_then(|s| s.cv);
    if let Some(cv) = cv {
        insert(&mut summaries, Metric::DecodeCv, vec![cv]);
    }
    summaries
}

fn by_prompt(arm: &Arm) -> BTreeMap<String, Values<MetricSummary>> {
    let mut prompts = BTreeMap::new();
    for id in ok_launches(arm).flat_map(|l| &l.prompts).map(|run| &run.id) {
        if prompts.contains_key(id) {
            continue;
        }
        let mut summaries = Values::new();
        for metric in Metric::measured() {
            let values = ok_launches(arm).filter_map(|l| over_iterations(l, id, metric)).collect();
            insert(&mut summaries, metric, values);
        }
        if !summaries.is_empty() {
            prompts.insert(id.clone(), summaries);
        }
    }
    prompts
}

/// One value of a metric for a prompt in a launch. Rates are averaged as time per token: total
/// tokens over total time, as over a prompt set.
fn over_iterations(launch: &Launch, id: &str, metric: Metric) -> Option<f64> {
    let values: Vec<f64> = launch
        .prompts
        .iter()
        .filter(|run| run.id == id && run.role == Role::Measured)
        .filter_map(|run| run.metrics.get(&metric).copied())
        .collect();
    let n = values.len() as f64;
    match metric.unit() {
        _ if values.is_empty() => None,
        Unit::TokensPerSecond => Some(n / values.iter().map(|v| 1.0 / v).sum::<f64>()),
        _ => Some(values.iter().sum::<f64>() / n),
    }
}

/// Adds a summary unless there are no values or some are NaN or infinite, which the warnings
/// report.
fn insert(summaries: &mut Values<MetricSummary>, metric: Metric, values: Vec<f64>) {
    if let Some(summary) = of_values(metric.unit(), metric.better(), values) {
        summaries.insert(metric, summary);
    }
}

/// Summarizes one value per launch; `None` if there are none or some are NaN or infinite.
pub(super) fn of_values(unit: Unit, better: Better, values: Vec<f64>) -> Option<MetricSummary> {
    let s = stats::describe(&values).ok()?;
    Some(MetricSummary {
        unit: unit.as_str().to_string(),
        better,
        n: s.n as u32,
        values,
        mean: s.mean,
        sd: s.sd,
        cv: s.cv,
        median: s.median,
        p95: s.p95,
        p99: s.p99,
        min: s.min,
        max: s.max,
        ci95: s.ci95.map(|i| [i.low, i.high]),
    })
}
