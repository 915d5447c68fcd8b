//! One panel of bars for each metric that leads: every arm with its interval.

use super::names::Names;
use crate::analysis;
use crate::metric::{Better, Metric, Values};
use crate::number::Scale;
use crate::record::{Arm, MetricSummary, Record};
use crate::report::document::Measured;
use crate::report::of::{encode, run, sweep};
use crate::report::plot::{Axis, Plot, Reach, Row, Rows, Shape, Steps, Value};

/// The columns of a sweep, but for the ratio of two of them.
pub fn bars(record: &Record, names: &Names) -> Vec<Plot> {
    let metrics: Vec<Metric> = match analysis::is_encoding(record) {
        true => encode::BARS.to_vec(),
        false => sweep::METRICS.into_iter().filter(|m| *m != Metric::TpsPerGb).collect(),
    };
    metrics.into_iter().filter_map(|metric| panel(record, names, metric)).collect()
}

fn panel(record: &Record, names: &Names, metric: Metric) -> Option<Plot> {
    let of = |arm: &Arm| arm.metrics.get(&metric).cloned();
    let summaries: Vec<Option<MetricSummary>> = record.arms.iter().map(of).collect();
    let known: Vec<Option<&MetricSummary>> = summaries.iter().map(Option::as_ref).collect();
    let means: Vec<f64> = known.iter().flatten().map(|s| s.mean).collect();
    if means.is_empty() {
        return None;
    }
    let best = run::best(metric.better(), &known);
    let scale = Scale::of(metric.unit(), means.into_iter());
    let row = |(i, arm): (usize, &Arm)| Row {
        name: names.name(arm),
        hue: names.hue(arm),
        best: best == Some(i),
        value: match (known[i], analysis::failure(arm)) {
            (Some(s), _) => Value::Bar(s.mean, reach(s)),
            (None, Some(error)) => {
                Value::Nothing(format!("failed: {}", analysis::kind_name(error.kind)))
            }
            (None, None) => Value::Nothing("not measured".into()),
        },
    };
    let rows = record.arms.iter().enumerate().map(row).collect();
    let direction = match metric.better() {
        Better::Higher => "more is better",
        Better::Lower => "less is better",
    };
    let axis = Axis::new(metric.title(), scale, Steps::FromZero);
    let facts = match scale.unit {
        "" => direction.to_string(),
        unit => format!("{unit}, {direction}"),
    };
    let shape = Shape::Rows(Rows { axis, parts: Vec::new(), rows });
    Some(Plot { title: metric.title().into(), facts, shape })
}

/// Half of its 95 % interval.
pub fn reach(summary: &MetricSummary) -> Reach {
    let scale = Scale { unit: "", factor: 1.0, digits: None };
    let Measured { half_width, .. } = run::measured(summary, scale);
    Reach::half(half_width)
}

/// The summary of a metric as a value with its reach.
pub fn value(metrics: &Values<MetricSummary>, metric: Metric) -> Option<(f64, Reach)> {
    metrics.get(&metric).map(|s| (s.mean, reach(s)))
}
