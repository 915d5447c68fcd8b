//! The plan of a session: what it would measure, in which order, and how long that would take.

use std::path::PathBuf;

use serde::Serialize;

use crate::number::count;
use crate::record::WorkloadPrompt;
use crate::report::document::{Block, Cell, Column, Document, Table};
use crate::report::{Format, Style, write};
use crate::text::clean;
use crate::units::{Bytes, Seconds};

/// A session that has not begun.
#[derive(Debug, Clone, Serialize)]
pub struct Outline {
    pub models: Vec<Model>,
    pub threads: Vec<u32>,
    pub prompt_set: String,
    pub prompts: Vec<WorkloadPrompt>,
    pub seed: u64,
    /// Whether the arms differ in nothing but their engines.
    #[serde(skip)]
    pub are_engines: bool,
    /// Of each point, or fewer where the time does not hold them.
    pub launches_each: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_minutes: Option<f64>,
    pub arms: Vec<Arm>,
    /// The launches: `candle #1`.
    pub order: Vec<String>,
    /// The folder whose results the estimate comes from.
    pub results: PathBuf,
}

#[derive(Debug, Clone, Serialize)]
pub struct Model {
    pub name: String,
    pub quant: String,
    pub size_bytes: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct Arm {
    pub label: String,
    pub launches: u32,
    /// Seconds of one launch; absent where none like it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launch_s: Option<f64>,
}

/// Writes a plan in one of the formats; ends with a newline. CSV has the launches alone.
pub fn render(outline: &Outline, format: Format, style: Style) -> String {
    match format {
        Format::Csv => write::listed(order(outline), format, style),
        Format::Json => write::json::whole(outline),
        _ => write::for_readers(format, style, |_| document(outline)),
    }
}

fn document(o: &Outline) -> Document {
    let threads: Vec<String> = o.threads.iter().map(u32::to_string).collect();
    let model = |m: &Model| format!("{} {} ({})", m.name, m.quant, Bytes(m.size_bytes));
    let models: Vec<String> = o.models.iter().map(model).collect();
    let fact = |name: &str, text: &str| (name.to_string(), clean(text));
    let facts = vec![
        fact("Model", &models.join(", ")),
        fact("Threads", &threads.join(", ")),
        fact("Workload", &format!("set {}, seed {}", o.prompt_set, o.seed)),
    ];
    let blocks = vec![
        Block::Facts(facts),
        Block::Table(prompts(o)),
        Block::Table(order(o)),
        Block::Table(arms(o)),
        Block::Text(duration(o)),
    ];
    Document { blocks }
}

fn prompts(o: &Outline) -> Table {
    let deep = o.prompts.iter().any(|p| p.depth > 0);
    let titles = ["Tokens in", "Tokens out", "Behind a context of"];
    let shown = if deep { &titles[..] } else { &titles[..2] };
    let columns = shown.iter().map(|title| Column::right(*title));
    let mut table = Table::new([Column::left("Prompt")].into_iter().chain(columns));
    for p in &o.prompts {
        let depth = deep.then(|| p.depth.into());
        let numbers = [p.n_prompt.into(), p.n_gen.into()].into_iter().chain(depth);
        table.push([clean(&p.id).into()].into_iter().chain(numbers).collect());
    }
    table
}

fn order(o: &Outline) -> Table {
    let mut table = Table::new([Column::right("Order"), Column::left("Launch")]);
    for (i, launch) in o.order.iter().enumerate() {
        table.push(vec![(i + 1).into(), clean(launch).into()]);
    }
    table
}

fn arms(o: &Outline) -> Table {
    let name = if o.are_engines { "Engine" } else { "Point" };
    let mut table =
        Table::new([Column::left(name), Column::right("Launches"), Column::right("One takes")]);
    for arm in &o.arms {
        let took = arm.launch_s.map(|s| Cell::from(Seconds(s).to_string()));
        let took = took.unwrap_or_else(Cell::missing);
        table.push(vec![clean(&arm.label).into(), arm.launches.into(), took]);
    }
    table
}

/// The whole session's time, as far as earlier results tell it.
fn duration(o: &Outline) -> String {
    let one = if o.are_engines { "engine" } else { "point" };
    let launches: u32 = o.arms.iter().map(|arm| arm.launches).sum();
    let limit = o.max_minutes.map(|m| format!(" within {m} minutes")).unwrap_or_default();
    let what =
        format!("{} of {}{limit}", count(launches as usize, "launch"), count(o.arms.len(), one));
    let all = |arm: &Arm| Some(arm.launch_s? * f64::from(arm.launches));
    let known = Seconds(o.arms.iter().filter_map(all).sum());
    let unknown: Vec<String> =
        o.arms.iter().filter(|arm| arm.launch_s.is_none()).map(|arm| clean(&arm.label)).collect();
    let results = clean(&o.results.display().to_string());
    match unknown.as_slice() {
        [] => format!("{what}: {known} in all, by earlier results in {results}."),
        names => format!(
            "{what}: {known}, by earlier results in {results}, and what {} takes, not measured \
             before with this file on this device with as many threads.",
            names.join(", ")
        ),
    }
}
