//! Encoders and tokenizers over batch and length: a line for each cell with every engine side by side, and a heat
//! map for each engine.

use super::{run, verify};
use crate::analysis;
use crate::metric::Metric;
use crate::number::{Form, Scale, text};
use crate::record::{Arm, Classification, MetricSummary, Miss, Point, Record};
use crate::report::document::{
    Block, Cell, Column, Document, Mark, Measured, Remarks, Table, Tone,
};
use crate::report::plot::{Heat, Plot, Shape};
use crate::text::clean;

/// Shown cell by cell.
const METRICS: [Metric; 5] = [
    Metric::Tokenize,
    Metric::LatencyMean,
    Metric::SequencesPerS,
    Metric::TextBytesPerS,
    Metric::ArithmeticShare,
];

/// Drawn as bars, for each batch of each engine.
pub const BARS: [Metric; 7] = [
    Metric::SequencesPerS,
    Metric::TextBytesPerS,
    Metric::Tokenize,
    Metric::LatencyMean,
    Metric::ColdStart,
    Metric::ModelLoad,
    Metric::PeakHostBytes,
];

/// The arms of one engine, file, device and number of threads: one for each batch.
struct Series<'a> {
    name: String,
    arms: Vec<&'a Arm>,
}

/// The tables over batch and length; none for a single cell, which the summary shows. Expects a
/// summarized record.
pub fn add(document: &mut Document, record: &Record) {
    if cells(record).len() > 1 {
        METRICS.into_iter().filter_map(|metric| table(record, metric)).for_each(|table| {
            document.push(Block::Table(table));
        });
    }
    add_labels(document, record);
}

/// The share of labelled texts with the expected label, and the texts without it.
fn add_labels(document: &mut Document, record: &Record) {
    let judged: Vec<(&Arm, &Classification)> =
        distinct(record).filter_map(|arm| Some((arm, arm.classification.as_ref()?))).collect();
    let Some((_, first)) = judged.first() else { return };
    let head = [Column::left("Labels"), Column::right("right"), Column::right("accuracy, 95 %")];
    let names: Vec<&String> = first.categories.keys().collect();
    let categories = names.iter().map(|name| Column::right(clean(name)));
    let mut table = Table { stub: 1, ..Table::new(head.into_iter().chain(categories)) };
    for (arm, c) in &judged {
        let [low, high] = c.ci95.map(|end| text(end, Form::Percent(1)));
        let accuracy = format!("{} ({low}–{high})", text(c.accuracy, Form::Percent(1)));
        let head = [clean(&arm.label).into(), verify::of(c.right).into(), accuracy.into()];
        let each = names.iter().map(|name| c.categories.get(*name).copied().map(verify::of).into());
        table.push(head.into_iter().chain(each).collect());
    }
    document.push(Block::Table(table));
    let mut misses: Vec<(&Miss, Vec<String>)> = Vec::new();
    for (arm, miss) in judged.iter().flat_map(|(arm, c)| c.misses.iter().map(move |m| (arm, m))) {
        let label = clean(&arm.label);
        match misses.iter_mut().find(|(known, _)| *known == miss) {
            Some((_, labels)) => labels.push(label),
            None => misses.push((miss, vec![label])),
        }
    }
    let all = judged.len();
    let said = misses.iter().map(|(miss, labels)| {
        let Miss { text, category, expected, found } = miss;
        let who = if labels.len() == all { "all".into() } else { labels.join(", ") };
        clean(&format!("{who}: {found} in place of {expected} ({category}): {text}"))
    });
    document.remarks(Remarks::all("Texts with another label than expected", Mark::Plain, said));
}

/// Each engine, file and device once: labels do not depend on the batch.
fn distinct(record: &Record) -> impl Iterator<Item = &Arm> {
    let key = |arm: &Arm| {
        let Point { engine, quant, device, threads, model, .. } = &arm.point;
        (engine.clone(), quant.clone(), *device, *threads, model.clone())
    };
    let mut seen = Vec::new();
    record.arms.iter().filter(move |arm| {
        let key = key(arm);
        let is_new = !seen.contains(&key);
        seen.push(key);
        is_new
    })
}

/// A heat map of texts per second for each engine, where there are several batches and lengths.
pub fn plots(record: &Record) -> Vec<Plot> {
    let (batches, lengths) = (batches(record), &record.workload.prompts);
    if batches.len() < 2 || lengths.is_empty() || !analysis::is_encoding(record) {
        return Vec::new();
    }
    let value = |arm: Option<&&Arm>, prompt: &str| {
        let summary = arm?.prompt_metrics.get(prompt)?.get(&Metric::SequencesPerS)?;
        Some(summary.mean)
    };
    let all = series(record);
    let known = all
        .iter()
        .flat_map(|s| &s.arms)
        .flat_map(|arm| lengths.iter().filter_map(move |length| value(Some(arm), &length.id)));
    let scale = Scale::of(Metric::SequencesPerS.unit(), known);
    let plot = |series: &Series<'_>| {
        let row = |length: &crate::record::WorkloadPrompt| -> Vec<Option<f64>> {
            let arm = |batch: &u32| series.arms.iter().find(|a| batch_of(a) == *batch);
            batches.iter().map(|batch| value(arm(batch), &length.id)).collect()
        };
        let cells: Vec<Vec<Option<f64>>> = lengths.iter().map(row).collect();
        let heat = Heat {
            rows: lengths.iter().map(tokens).collect(),
            columns: batches.iter().map(|batch| format!("batch {batch}")).collect(),
            scale,
            cells,
        };
        heat.cells.iter().flatten().any(Option::is_some).then(|| Plot {
            title: format!("Texts a second, {}", series.name),
            facts: "over batch and length, shades on a logarithmic scale; more is better".into(),
            shape: Shape::Heat(heat),
        })
    };
    all.iter().filter_map(plot).collect()
}

fn table(record: &Record, metric: Metric) -> Option<Table> {
    let all = series(record);
    let summary = |arm: &Arm, prompt: &str| -> Option<MetricSummary> {
        arm.prompt_metrics.get(prompt)?.get(&metric).cloned()
    };
    let mut rows = Vec::new();
    for (batch, length) in cells(record) {
        let arms: Vec<Option<&Arm>> =
            all.iter().map(|s| s.arms.iter().find(|arm| batch_of(arm) == batch).copied()).collect();
        let found: Vec<Option<MetricSummary>> =
            arms.iter().map(|arm| summary((*arm)?, &length.id)).collect();
        let known: Vec<Option<&MetricSummary>> = found.iter().map(Option::as_ref).collect();
        if known.iter().all(Option::is_none) {
            continue;
        }
        let scale = Scale::of(metric.unit(), known.iter().flatten().map(|s| s.mean));
        let best = run::best(metric.better(), &known);
        let cell = |(i, summary): (usize, &Option<&MetricSummary>)| {
            let (Some(summary), Some(arm)) = (summary, arms[i]) else { return Cell::missing() };
            let ratio = analysis::at_prompt(record, arm, &length.id, metric)
                .map(|c| (c.times_better, run::is_open(&c)));
            let cell = Cell::from(Measured { ratio, ..run::measured(summary, scale) });
            cell.toned(if best == Some(i) { Tone::Best } else { Tone::Plain })
        };
        let head = [format!("{batch} × {}", tokens(length)).into(), Cell::unit(scale.unit)];
        rows.push(head.into_iter().chain(known.iter().enumerate().map(cell)).collect());
    }
    let head = [Column::left(metric.title()), Column::unit()];
    let columns = all.iter().map(|series| Column::right(series.name.clone()));
    let mut table = Table { stub: 2, ..Table::new(head.into_iter().chain(columns)) };
    table.rows = rows;
    (!table.rows.is_empty()).then_some(table)
}

/// Batches in ascending order.
fn batches(record: &Record) -> Vec<u32> {
    let mut batches: Vec<u32> = record.arms.iter().map(batch_of).collect();
    batches.sort_unstable();
    batches.dedup();
    batches
}

fn cells(record: &Record) -> Vec<(u32, &crate::record::WorkloadPrompt)> {
    let lengths = &record.workload.prompts;
    batches(record).into_iter().flat_map(|b| lengths.iter().map(move |l| (b, l))).collect()
}

fn batch_of(arm: &Arm) -> u32 {
    arm.point.batch.unwrap_or(1)
}

/// The arms in the order of the table, named by their label without the batch.
fn series(record: &Record) -> Vec<Series<'_>> {
    let mut all: Vec<Series<'_>> = Vec::new();
    for arm in &record.arms {
        let name = clean(&analysis::series(arm));
        match all.iter_mut().find(|series| series.name == name) {
            Some(series) => series.arms.push(arm),
            None => all.push(Series { name, arms: vec![arm] }),
        }
    }
    all
}

/// `32 tokens`, or what the pool is called where its texts differ in length.
fn tokens(prompt: &crate::record::WorkloadPrompt) -> String {
    match prompt.id == format!("p{}", prompt.n_prompt) {
        true => format!("{} tokens", prompt.n_prompt),
        false => clean(&prompt.id),
    }
}
