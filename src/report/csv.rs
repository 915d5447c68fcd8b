//! The report as CSV, in long form: one line per engine, prompt and metric; lines of a prompt end
//! in its lengths and depth. An engine without numbers has one line that says why.

use super::text::{clean, escape_csv};
use crate::analysis;
use crate::metric::{Better, Metric, Values};
use crate::record::{Arm, Comparison, MetricSummary, Record, WeightsSource};

const HEADER: &str = "arm,engine,model,weights,quant,prompt,metric,unit,better,n,mean,sd,cv,median,\
                      p95,p99,min,max,ci95_lo,ci95_hi,times_better,baseline,status,n_prompt,n_gen,depth";

pub(super) fn render(record: &Record) -> String {
    let mut out = HEADER.to_string() + "\n";
    for arm in &record.arms {
        let mut any = false;
        for (metric, summary) in in_order(&arm.metrics) {
            let comparison =
                record.comparisons.iter().find(|c| c.arm == arm.label && c.metric == metric);
            out += &line(record, arm, "", Some((metric.name(), summary)), comparison);
            any = true;
        }
        for (name, summary) in &analysis::stage_metrics(arm) {
            out += &line(record, arm, "", Some((&clean(name), summary)), None);
            any = true;
        }
        for (prompt, metrics) in &arm.prompt_metrics {
            for (metric, summary) in in_order(metrics) {
                out += &line(record, arm, prompt, Some((metric.name(), summary)), None);
                any = true;
            }
        }
        if !any {
            out += &line(record, arm, "", None, None);
        }
    }
    out
}

/// The summaries in the order of the catalogue.
fn in_order(metrics: &Values<MetricSummary>) -> impl Iterator<Item = (Metric, &MetricSummary)> {
    Metric::measured().filter_map(|m| Some((m, metrics.get(&m)?)))
}

fn line(
    record: &Record,
    arm: &Arm,
    prompt: &str,
    measured: Option<(&str, &MetricSummary)>,
    comparison: Option<&Comparison>,
) -> String {
    let weights = match record.model.weights {
        WeightsSource::Hub => "hub",
        WeightsSource::File => "file",
        WeightsSource::Synthetic => "synthetic",
    };
    let texts = [&arm.label, &arm.engine, &record.model.name, weights, &record.model.quant, prompt];
    let mut fields: Vec<String> = texts.iter().map(|text| clean(text)).collect();
    match measured {
        None => fields.extend(std::iter::repeat_n(String::new(), 14)),
        Some((name, s)) => {
            let better = match s.better {
                Better::Higher => "higher",
                Better::Lower => "lower",
            };
            fields.extend([name.to_string(), clean(&s.unit), better.into(), s.n.to_string()]);
            let numbers = [
                Some(s.mean),
                s.sd,
                s.cv,
                Some(s.median),
                Some(s.p95),
                Some(s.p99),
                Some(s.min),
                Some(s.max),
                s.ci95.map(|ci| ci[0]),
                s.ci95.map(|ci| ci[1]),
            ];
            fields.extend(numbers.map(number));
        }
    }
    fields.push(number(comparison.map(|c| c.times_better)));
    fields.push(comparison.map(|c| clean(&c.baseline)).unwrap_or_default());
    fields.push(status(arm));
    let shape = record.workload.prompts.iter().find(|p| p.id == prompt);
    let lengths = shape.map(|p| [p.n_prompt, p.n_gen, p.depth].map(|n| n.to_string()));
    fields.extend(lengths.unwrap_or_default());
    let fields: Vec<String> = fields.iter().map(|f| escape_csv(f)).collect();
    fields.join(",") + "\n"
}

/// Twelve significant digits: more than any clock has, fewer than rounding errors reach. Nothing
/// for a missing number.
pub(super) fn number(x: Option<f64>) -> String {
    let rounded = x.map(|x| format!("{x:.11e}").parse().unwrap_or(x));
    rounded.map(|x: f64| x.to_string()).unwrap_or_default()
}

/// `ok`, `partial` where some launches failed, `failed:KIND`, `not_run`.
fn status(arm: &Arm) -> String {
    let good = analysis::ok_launches(arm).count();
    match analysis::failure(arm) {
        Some(error) => format!("failed:{}", analysis::kind_name(error.kind)),
        None if arm.launches.is_empty() => "not_run".into(),
        None if good == 0 => "failed".into(),
        None if good < arm.launches.len() => "partial".into(),
        None => "ok".into(),
    }
}
