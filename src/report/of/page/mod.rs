//! The page that people share: one result, or several, with everything in it. A part stands only
//! where the record has its data; every number comes from the analysis that tables use too.

mod courses;
mod environment;
mod front;
mod history;
mod latency;
mod load;
mod memory;
mod names;
mod raw;
mod speed;

use super::{SYNTHETIC, batch, encode, run, sections, sustained, sweep, verify};
use crate::analysis;
use crate::metric::{Metric, Rank};
use crate::record::{Record, WeightsSource};
use crate::report::document::{Block, Cell, Column, Document, Level, Mark, Medium, Remarks, Table};
use crate::report::plot::Plot;
use crate::text::clean;

use names::Names;

/// More results than this are drawn in full only for the newest: a page of all would be too large
/// to share.
const MOST_FULL: usize = 4;

/// Results in one page, in the order of the files. Expects summarized records.
pub fn document(records: &[Record]) -> Document {
    let mut document = Document::default();
    let newest = records.iter().max_by(|a, b| a.run.started_at.cmp(&b.run.started_at));
    match newest {
        Some(newest) if records.len() > MOST_FULL => many(&mut document, records, newest),
        _ => {
            records.iter().for_each(|record| one(&mut document, record));
            history::add(&mut document, records);
        }
    }
    raw::add(&mut document, records);
    document
}

/// Every generation of every result in order, for `--timing`: folded, because it is long and the plots
/// show its course.
pub fn add_generations(document: &mut Document, records: &[Record]) {
    for record in records {
        let mut all = Document::default();
        sections::add_timing(&mut all, record, Medium::Page);
        if !all.blocks.is_empty() {
            let title = format!("Every generation in order: {}", run::title(record));
            document.push(Block::Fold(title, all.blocks));
        }
    }
}

/// The line through all of them first, then the newest, then the others in short.
fn many(document: &mut Document, records: &[Record], newest: &Record) {
    document.push(Block::Heading(Level::Report, format!("{} results", records.len())));
    history::add(document, records);
    one(document, newest);
    document.push(Block::Heading(Level::Part, "The other results".into()));
    document.push(Block::Text(
        "The newest result is drawn above; these are in short. llm-bench report FILE -o html draws \
         any of them."
            .into(),
    ));
    for record in records.iter().filter(|record| !std::ptr::eq(*record, newest)) {
        let mut short = Document::default();
        head(&mut short, record);
        let table = match sweep::is_sweep(record) {
            true => sweep::speed_alone(record),
            false => run::summary(record, Medium::Page),
        };
        if !record.arms.is_empty() {
            short.push(Block::Table(table));
        }
        let when = clean(&record.run.started_at);
        document.push(Block::Fold(format!("{when} · {}", run::title(record)), short.blocks));
    }
}

/// The plots that a text with pictures shows, without those that repeat its tables.
pub fn pictures(record: &Record) -> Vec<Plot> {
    let names = Names::of(record);
    let mut plots = front::plots(record, &names);
    plots.extend(latency::distribution(record, &names));
    plots.extend(memory::parts(record, &names));
    plots.extend(courses::plots(record, &names));
    plots.extend(encode::plots(record));
    plots
}

fn one(document: &mut Document, record: &Record) {
    let names = Names::of(record);
    document.push(Block::Heading(Level::Report, run::title(record)));
    head(document, record);
    if record.arms.is_empty() {
        document.push(Block::Text("No engine was run.".into()));
        return;
    }
    front::add(document, record, &names);
    comparison(document, record, &names);
    warnings(document, record);
    latency::add(document, record, &names);
    memory::add(document, record, &names);
    courses::add(document, record, &names);
    sustained::add(document, record);
    if sweep::is_sweep(record) {
        document.push(Block::Heading(Level::Part, "Quality".into()));
        sweep::add_quality(document, record);
    }
    verification(document, record);
    stages(document, record);
    environment::add(document, record, &names);
}

/// What comes before any number, and what was measured on what.
fn head(document: &mut Document, record: &Record) {
    if record.models().iter().any(|model| model.weights == WeightsSource::Synthetic) {
        document.push(Block::Caution(SYNTHETIC.into()));
    }
    let lead: Vec<String> = analysis::reading(record).iter().map(|s| clean(s)).collect();
    if !lead.is_empty() {
        document.push(Block::Lead(lead));
    }
    if !record.run.complete {
        document.push(Block::Caution("The run was not finished: launches are missing.".into()));
    }
    document.push(Block::Facts(run::facts(record)));
}

fn comparison(document: &mut Document, record: &Record, names: &Names) {
    document.push(Block::Heading(Level::Part, "Comparison".into()));
    let bars = speed::bars(record, names);
    if !bars.is_empty() {
        document.push(Block::Panels(bars));
    }
    match sweep::is_sweep(record) {
        true => sweep::add_speed(document, record),
        false => {
            document.push(Block::Table(run::summary(record, Medium::Page)));
            let legend = run::legend(record).join("; ");
            if !legend.is_empty() {
                document.push(Block::Legend(vec![legend + "."]));
            }
        }
    }
    if analysis::is_encoding(record) {
        encode::add(document, record);
        let maps = encode::plots(record);
        if !maps.is_empty() {
            document.push(Block::Panels(maps));
        }
    } else if analysis::batching::is_batched(record) {
        let table = batch::table(record);
        if !table.rows.is_empty() {
            document.push(Block::Table(table));
            document.push(Block::Legend(vec![format!("{}.", batch::LEGEND)]));
        }
    }
    if let Some(table) =
        run::prompts(record, Medium::Page).filter(|_| !analysis::is_encoding(record))
    {
        document.push(Block::Fold("Each prompt alone".into(), vec![Block::Table(table)]));
    }
    document.push(Block::Fold("What the metrics mean".into(), vec![meanings(record)]));
}

/// The definitions of what the record has.
fn meanings(record: &Record) -> Block {
    let mut table = Table::new([
        Column::left("Metric"),
        Column::left("Name in files"),
        Column::left("Better"),
        Column::left("Definition"),
    ]);
    table.stub = 1;
    let has = |metric: &Metric| record.arms.iter().any(|arm| arm.metrics.contains_key(metric));
    for metric in Metric::measured().filter(|m| m.rank() <= Rank::Detail).filter(has) {
        table.push(vec![
            Cell::from(metric.title()),
            metric.name().into(),
            super::better(metric.better()).into(),
            metric.meaning().into(),
        ]);
    }
    Block::Table(table)
}

/// What a reader must know before quoting a number.
fn warnings(document: &mut Document, record: &Record) {
    let mut warnings: Vec<_> = record.warnings.iter().map(super::warning).collect();
    warnings.sort_by_key(|w| w.mark == Mark::Note);
    let notes = run::notes(record);
    if warnings.is_empty() && notes.is_empty() {
        return;
    }
    document.push(Block::Heading(Level::Part, "Before you quote a number".into()));
    document.remarks(Remarks { title: "", items: warnings });
    document.remarks(Remarks::all("Notes of the engines", Mark::Plain, notes));
}

fn verification(document: &mut Document, record: &Record) {
    let verdicts: Vec<(&str, _)> = record
        .arms
        .iter()
        .filter_map(|arm| Some((arm.label.as_str(), arm.verification.as_ref()?)))
        .collect();
    if verdicts.is_empty() {
        return;
    }
    document.push(Block::Heading(Level::Part, "Verification".into()));
    document.push(Block::Text(
        "Whether the engines compute the same function: the logits of a fixed text against float32 \
         on the same file. NMSE is the power of the error by that of the logits."
            .into(),
    ));
    verify::add(document, &verdicts);
}

/// Where the time went, if it was profiled.
fn stages(document: &mut Document, record: &Record) {
    let mut found = Document::default();
    sections::add_stages(&mut found, record, Medium::Page);
    if !found.blocks.is_empty() {
        document.push(Block::Heading(Level::Part, "Time by stage".into()));
        document.blocks.append(&mut found.blocks);
    }
}

#[cfg(test)]
mod tests;
