//! The parts of each arm's peak memory as one bar.

use super::names::Names;
use crate::metric::{Metric, Unit};
use crate::number::Scale;
use crate::record::{Arm, Record};
use crate::report::document::{Block, Document, Level};
use crate::report::of::sections;
use crate::report::plot::{Axis, Plot, Row, Rows, Shape, Steps, Value};

const PARTS: [(Metric, &str); 5] = [
    (Metric::MemoryWeights, "weights"),
    (Metric::MemoryKv, "KV cache"),
    (Metric::MemoryActivations, "activations"),
    (Metric::MemoryRuntime, "runtime"),
    (Metric::MemoryUnaccounted, "unaccounted"),
];

pub fn add(document: &mut Document, record: &Record, names: &Names) {
    let Some(plot) = parts(record, names) else { return };
    document.push(Block::Heading(Level::Part, "Memory".into()));
    document.push(Block::Plot(plot));
    let mut fine = Document::default();
    sections::add_memory(&mut fine, record);
    document.push(Block::Fold("Every part".into(), fine.blocks));
}

/// Absent where no arm has a breakdown.
pub fn parts(record: &Record, names: &Names) -> Option<Plot> {
    let parts = |arm: &Arm| -> Option<Vec<f64>> {
        // An arm without a breakdown has no such row either.
        arm.metrics.get(&Metric::MemoryUnaccounted)?;
        let part = |(metric, _)| arm.metrics.get(&metric).map_or(0.0, |s| s.mean);
        Some(PARTS.map(part).to_vec())
    };
    let overlaps = record.arms.iter().filter_map(parts).flatten().any(|bytes| bytes < 0.0);
    let row = |arm: &Arm| {
        // No bar has a negative part.
        let value = Value::Stack(parts(arm)?.into_iter().map(|bytes| bytes.max(0.0)).collect());
        Some(Row { name: names.name(arm), hue: names.hue(arm), best: false, value })
    };
    let rows: Vec<Row> = record.arms.iter().filter_map(row).collect();
    let sums = rows.iter().map(|row| match &row.value {
        Value::Stack(parts) => parts.iter().sum(),
        _ => 0.0,
    });
    let scale = Scale::of(Unit::Bytes, sums.collect::<Vec<f64>>().into_iter());
    (!rows.is_empty()).then(|| Plot {
        title: "Peak memory and its parts".into(),
        facts: format!(
            "{}; the parts add up to the kernel's high-water mark of the process tree{}",
            scale.unit,
            match overlaps {
                true => "; where unaccounted is negative, others overlap, and the bar is longer by as much",
                false => "",
            }
        ),
        shape: Shape::Rows(Rows {
            axis: Axis::new("Peak memory", scale, Steps::FromZero),
            parts: PARTS.map(|(_, title)| title.to_string()).to_vec(),
            rows,
        }),
    })
}
