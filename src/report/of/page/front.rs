//! The points of a sweep against each other: speed over loss, and speed over memory, with the front.

use super::names::Names;
use super::speed::value;
use crate::analysis::front::{edge, front, half_width};
use crate::metric::{Metric, Unit};
use crate::number::{Form, Scale};
use crate::record::{Arm, Record};
use crate::report::document::{Block, Document, Level};
use crate::report::of::sweep;
use crate::report::plot::{Axis, Field, Look, Plot, Point, Reach, Series, Shape, Steps};
use crate::text::clean;
use crate::units::Bytes;

pub fn add(document: &mut Document, record: &Record, names: &Names) {
    let plots = plots(record, names);
    if plots.is_empty() {
        return;
    }
    document.push(Block::Heading(Level::Part, "Trade-offs".into()));
    document.blocks.extend(plots.into_iter().map(Block::Plot));
}

/// The pictures; none for fewer than two points.
pub fn plots(record: &Record, names: &Names) -> Vec<Plot> {
    let loss = sweep::is_sweep(record).then(|| over_loss(record, names)).flatten();
    loss.into_iter().chain(over_memory(record, names)).collect()
}

fn over_loss(record: &Record, names: &Names) -> Option<Plot> {
    let at = |arm: &Arm| {
        let quality = arm.quality.as_ref()?;
        Some(match &quality.loss {
            None => (0.0, Reach::None),
            Some(loss) => (loss.kl.mean, Reach::half(half_width(loss))),
        })
    };
    let quality = record.arms.iter().find_map(|arm| arm.quality.as_ref())?;
    let nats = Scale { unit: "nats", factor: 1.0, digits: None };
    let axis = Axis {
        form: Some(Form::Scientific(2)),
        ..Axis::new("KL divergence per token", nats, Steps::Log)
    };
    let facts = format!(
        "tok/s over the KL divergence of the next token from that on {}; up and to the left is \
         better. Full: no other point beats it in speed, loss and memory; hollow: one does. \
         Crosses: 95 % intervals; beside each name: its peak memory.",
        clean(&quality.reference)
    );
    scatter(record, names, "Decode speed against what quantization loses", facts, axis, at)
}

fn over_memory(record: &Record, names: &Names) -> Option<Plot> {
    let metric = match record.arms.iter().any(|a| a.metrics.contains_key(&Metric::PeakGpuBytes)) {
        true => Metric::PeakGpuBytes,
        false => Metric::PeakHostBytes,
    };
    let at = |arm: &Arm| value(&arm.metrics, metric);
    let means: Vec<f64> = record.arms.iter().filter_map(|a| Some(at(a)?.0)).collect();
    let axis =
        Axis::new(metric.title(), Scale::of(Unit::Bytes, means.into_iter()), Steps::FromZero);
    let facts = "tok/s over the peak; up and to the left is better. Crosses: 95 % intervals.";
    scatter(record, names, "Decode speed against memory", facts.into(), axis, at)
}

fn scatter(
    record: &Record,
    names: &Names,
    title: &str,
    facts: String,
    x: Axis,
    at: impl Fn(&Arm) -> Option<(f64, Reach)>,
) -> Option<Plot> {
    let on = front(&record.arms);
    let memory = x.scale.unit == "nats";
    let mut series: Vec<Series> = (0..names.engines())
        .map(|hue| Series { name: String::new(), hue, look: Look::Dots, points: Vec::new() })
        .collect();
    let mut places = Vec::new();
    for (arm, on) in record.arms.iter().zip(on) {
        let (Some((x, along)), Some((y, across))) =
            (at(arm), value(&arm.metrics, Metric::DecodeTps))
        else {
            continue;
        };
        let peak = arm.metrics.get(&Metric::PeakHostBytes).filter(|_| memory);
        let peak = peak.map(|s| format!(" · {}", Bytes(s.mean as u64)));
        let name = names.name(arm) + &peak.unwrap_or_default();
        places.push((x, y));
        series[names.hue(arm)].points.push(Point {
            along,
            name,
            strong: on,
            ..Point::new(x, y, across)
        });
    }
    if places.len() < 2 {
        return None;
    }
    let edge = edge(&places).into_iter().map(|i| places[i]).collect();
    let means: Vec<f64> = places.iter().map(|(_, y)| *y).collect();
    let y = Axis::new(
        Metric::DecodeTps.title(),
        Scale::of(Metric::DecodeTps.unit(), means.into_iter()),
        Steps::FromZero,
    );
    series.retain(|s| !s.points.is_empty());
    let shape = Shape::Field(Box::new(Field { edge, ..Field::new(x, y, series) }));
    Some(Plot { title: title.into(), facts, shape })
}
