//! Tables of many arms by keys: which key names the rows, which the columns, and which splits
//! tables.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use super::document::{Block, Cell, Column, Document, Level, Table, Tone, joined};
use super::of::SYNTHETIC;
use super::of::run::{best, measured, summarized};
use super::{Format, Style, write};
use crate::analysis::batching::is_batched;
use crate::metric::{Metric, Rank};
use crate::number::{Form, Scale};
use crate::record::{Arm, MetricSummary, Record, WeightsSource};
use crate::text::clean;

/// A key that distinguishes results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Metric,
    Model,
    Quant,
    Engine,
    Device,
    Threads,
    Batch,
    Prompt,
    PromptLen,
    GenLen,
    Depth,
    Label,
    PromptSet,
    Cpu,
    Commit,
    File,
}

const KEYS: [(Key, &str); 16] = [
    (Key::Metric, "metric"),
    (Key::Model, "model"),
    (Key::Quant, "quant"),
    (Key::Engine, "engine"),
    (Key::Device, "device"),
    (Key::Threads, "threads"),
    (Key::Batch, "batch"),
    (Key::Prompt, "prompt"),
    (Key::PromptLen, "prompt-len"),
    (Key::GenLen, "gen-len"),
    (Key::Depth, "depth"),
    (Key::Label, "label"),
    (Key::PromptSet, "prompt-set"),
    (Key::Cpu, "cpu"),
    (Key::Commit, "commit"),
    (Key::File, "file"),
];

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(KEYS[*self as usize].1)
    }
}

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = KEYS.iter().find(|(_, name)| *name == text);
        let names = || KEYS.map(|(_, name)| name).join(", ");
        found.map(|(key, _)| *key).ok_or_else(|| format!("expected one of {}", names()))
    }
}

impl Key {
    /// Whether only single prompts have this key.
    fn is_of_prompt(self) -> bool {
        matches!(self, Key::Prompt | Key::PromptLen | Key::GenLen | Key::Depth)
    }
}

/// The keys of rows, columns and tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    pub table: Vec<Key>,
    pub row: Vec<Key>,
    pub col: Vec<Key>,
}

/// One metric of one arm, over all prompts or for one.
#[derive(Debug, Clone)]
struct Observation {
    pub metric: Metric,
    pub summary: MetricSummary,
    /// Values in the order of the keys; empty if a key does not apply.
    values: [String; KEYS.len()],
}

impl Observation {
    fn value(&self, key: Key) -> &str {
        &self.values[key as usize]
    }

    fn at(&self, keys: &[Key]) -> Vec<String> {
        keys.iter().map(|key| self.value(*key).to_string()).collect()
    }
}

/// Tables of some metrics of the records of some files; ends with a newline.
pub fn render(
    files: &[(String, Record)],
    metrics: &[Metric],
    layout: &Layout,
    format: Format,
    style: Style,
) -> String {
    let files: Vec<_> = files.iter().map(|(name, r)| (name.clone(), summarized(r))).collect();
    let observations = observations(&files, metrics, layout);
    match format {
        Format::Csv => write::csv::render(&rows(&observations, layout)),
        Format::Json => write::json::rows(&rows(&observations, layout)),
        _ => write::for_readers(format, style, |_| {
            let mut document = document(&observations, layout);
            let synthetic = |(_, record): &(String, Record)| {
                record.models().iter().any(|model| model.weights == WeightsSource::Synthetic)
            };
            if files.iter().any(synthetic) {
                document.blocks.insert(0, Block::Caution(SYNTHETIC.into()));
            }
            document
        }),
    }
}

/// All values of some metrics (none means the primary ones) in some records, by file; prompt by
/// prompt if the layout uses a key of prompts. Expects summarized records.
fn observations(
    records: &[(String, Record)],
    metrics: &[Metric],
    layout: &Layout,
) -> Vec<Observation> {
    let by_prompt =
        [&layout.table, &layout.row, &layout.col].into_iter().flatten().any(|k| k.is_of_prompt());
    let wanted = |m: &Metric| match metrics {
        [] => m.rank() == Rank::Primary,
        metrics => metrics.contains(m),
    };
    let mut all = Vec::new();
    for (file, record) in records {
        for arm in &record.arms {
            let sets: Vec<_> = match by_prompt {
                true => arm.prompt_metrics.iter().map(|(id, m)| (id.as_str(), m)).collect(),
                false => vec![("", &arm.metrics)],
            };
            for (prompt, summaries) in sets {
                for metric in Metric::measured().filter(wanted) {
                    if let Some(summary) = summaries.get(&metric) {
                        let values = values(file, record, arm, prompt, metric);
                        all.push(Observation { metric, summary: summary.clone(), values });
                    }
                }
            }
        }
    }
    all
}

fn values(
    file: &str,
    record: &Record,
    arm: &Arm,
    prompt: &str,
    metric: Metric,
) -> [String; KEYS.len()] {
    let point = &arm.point;
    let shape = record.workload.prompts.iter().find(|p| p.id == prompt);
    KEYS.map(|(key, _)| match key {
        Key::Metric => metric.name().to_string(),
        Key::Model => clean(&point.model),
        Key::Quant => clean(&point.quant),
        Key::Engine => clean(&point.engine),
        Key::Device => point.device.map(|d| d.to_string()).unwrap_or_default(),
        Key::Threads => point.threads.map(|n| n.to_string()).unwrap_or_default(),
        Key::Batch if !is_batched(record) => String::new(),
        Key::Batch => point.batch.unwrap_or(1).to_string(),
        Key::Prompt => clean(prompt),
        Key::PromptLen => shape.map(|p| p.n_prompt.to_string()).unwrap_or_default(),
        Key::GenLen => shape.map(|p| p.n_gen.to_string()).unwrap_or_default(),
        Key::Depth => shape.map(|p| p.depth.to_string()).unwrap_or_default(),
        Key::Label => clean(&arm.label),
        Key::PromptSet => clean(&record.workload.prompt_set),
        Key::Cpu => clean(&record.host.cpu_model),
        Key::Commit => record.build.git_commit.as_deref().map(clean).unwrap_or_default(),
        Key::File => clean(file),
    })
}

/// One table of a pivot, and what all its results have in common.
#[derive(Debug)]
struct Pivoted {
    /// The keys that split tables, with their values in this one.
    pub title: Vec<(Key, String)>,
    pub table: Table,
    /// How many results were left out because an equal one has their cell.
    pub doubled: usize,
}

/// Rows, columns and tables of the observations. Observations that differ in any key never share a
/// cell: a key that would make them share one splits the tables.
fn pivot(observations: &[Observation], layout: &Layout) -> Vec<Pivoted> {
    let layout = resolved(observations, layout);
    distinct(observations.iter(), &layout.table)
        .into_iter()
        .map(|title| {
            let here = |o: &&Observation| o.at(&layout.table) == title;
            let of: Vec<&Observation> = observations.iter().filter(here).collect();
            let (table, doubled) = table(&of, &layout);
            let title = layout.table.iter().copied().zip(title).collect();
            Pivoted { title, table, doubled }
        })
        .collect()
}

/// Completes the layout: default rows and columns if none are named, and the keys that must split
/// tables.
fn resolved(observations: &[Observation], layout: &Layout) -> Layout {
    let mut layout = layout.clone();
    let named = |layout: &Layout, key: Key| {
        [&layout.table, &layout.row, &layout.col].into_iter().any(|keys| keys.contains(&key))
    };
    if layout.row.is_empty() && !named(&layout, Key::Metric) {
        layout.row.push(Key::Metric);
    }
    if layout.col.is_empty() && !named(&layout, Key::Label) && !named(&layout, Key::Engine) {
        layout.col.push(Key::Label);
    }
    for (key, _) in KEYS {
        let place = [&layout.table[..], &layout.row, &layout.col].concat();
        if place.contains(&key) {
            continue;
        }
        let cells: BTreeSet<_> = observations.iter().map(|o| o.at(&place)).collect();
        let finer: BTreeSet<_> =
            observations.iter().map(|o| o.at(&[&place[..], &[key]].concat())).collect();
        if finer.len() > cells.len() {
            layout.table.push(key);
        }
    }
    layout
}

/// The different values of some keys: numbers by size, others in order of appearance.
fn distinct<'a>(of: impl Iterator<Item = &'a Observation>, keys: &[Key]) -> Vec<Vec<String>> {
    let mut found: Vec<Vec<String>> = Vec::new();
    for observation in of {
        let value = observation.at(keys);
        if !found.contains(&value) {
            found.push(value);
        }
    }
    // Starts with the least important key, because the sort is stable.
    for i in (0..keys.len()).rev() {
        let first: Vec<String> = found.iter().map(|v| v[i].clone()).collect();
        found.sort_by_cached_key(|v| match v[i].parse::<u64>() {
            Ok(n) => (0, n),
            Err(_) => (1, first.iter().position(|x| *x == v[i]).unwrap_or(0) as u64),
        });
    }
    found
}

fn table(of: &[&Observation], layout: &Layout) -> (Table, usize) {
    let rows = distinct(of.iter().copied(), &layout.row);
    let columns = distinct(of.iter().copied(), &layout.col);
    let means = |keep: &dyn Fn(&Observation) -> bool| {
        of.iter().filter(|o| keep(o)).map(|o| o.summary.mean).collect::<Vec<f64>>().into_iter()
    };
    // One unit for all values of a metric.
    let scale_of = |metric: Metric| Scale::of(metric.unit(), means(&|o| o.metric == metric));
    let across = layout.col.contains(&Key::Metric);
    let heads = layout.row.iter().map(|key| match key {
        Key::Metric => Column::left(""),
        key => Column::left(key.to_string()),
    });
    let cells = columns.iter().map(|value| {
        let named = layout.col.iter().zip(value).map(|(key, value)| match value.parse::<u64>() {
            Ok(_) => format!("{key} {value}"),
            Err(_) => title(*key, value),
        });
        let metric = of.iter().find(|o| across && o.at(&layout.col) == *value).map(|o| o.metric);
        let unit = metric.map(|m| scale_of(m).unit.to_string()).unwrap_or_default();
        Column { note: unit, ..Column::right(joined(named)) }
    });
    let unit = (!across).then(Column::unit);
    let stub = layout.row.len() + usize::from(!across);
    let mut table = Table { stub, ..Table::new(heads.chain(unit).chain(cells)) };
    let mut placed = 0;
    for row in &rows {
        let of_row: Vec<Option<&Observation>> = columns
            .iter()
            .map(|column| {
                let mut here =
                    of.iter().filter(|o| o.at(&layout.row) == *row && o.at(&layout.col) == *column);
                here.next().copied()
            })
            .collect();
        placed += of_row.iter().flatten().count();
        let heads = layout.row.iter().zip(row).map(|(key, value)| title(*key, value).into());
        let metric = of_row.iter().flatten().next().map(|o| o.metric);
        let unit = metric.filter(|_| !across).map(|m| Cell::unit(scale_of(m).unit));
        let summaries: Vec<_> = of_row.iter().map(|o| o.map(|o| &o.summary)).collect();
        let best = metric.filter(|_| !across).and_then(|m| best(m.better(), &summaries));
        let cells = of_row.iter().enumerate().map(|(i, o)| match o {
            Some(o) => Cell::from(measured(&o.summary, scale_of(o.metric)))
                .toned(if best == Some(i) { Tone::Best } else { Tone::Plain }),
            None => Cell::missing(),
        });
        table.push(heads.chain(unit).chain(cells).collect());
    }
    (table, of.len() - placed)
}

/// The value of a key in the reader's words.
fn title(key: Key, value: &str) -> String {
    match key {
        Key::Metric => value.parse().map_or(value, |m: Metric| m.title()).to_string(),
        _ if value.is_empty() => "none".into(),
        _ => value.to_string(),
    }
}

/// For readers: first what all results have in common, then the tables.
fn document(observations: &[Observation], layout: &Layout) -> Document {
    let mut document = Document::default();
    let common = KEYS.iter().filter(|(key, _)| {
        let mut values = observations.iter().map(|o| o.value(*key));
        let first = values.next().unwrap_or_default();
        !first.is_empty() && *key != Key::Metric && values.all(|value| value == first)
    });
    let facts =
        common.map(|(key, name)| (name.to_string(), observations[0].value(*key).to_string()));
    let facts: Vec<(String, String)> = facts.collect();
    if observations.is_empty() {
        document.push(Block::Text("No result has what was asked for.".into()));
    } else if !facts.is_empty() {
        document.push(Block::Facts(facts));
    }
    let mut doubled = 0;
    for pivoted in pivot(observations, layout) {
        if !pivoted.title.is_empty() {
            let named = pivoted.title.iter().map(|(key, value)| match key {
                Key::Metric => title(*key, value),
                key => format!("{key} {}", title(*key, value)),
            });
            document.push(Block::Heading(Level::Detail, joined(named)));
        }
        document.push(Block::Table(pivoted.table));
        doubled += pivoted.doubled;
    }
    if doubled > 0 {
        document.push(Block::Text(format!(
            "Results that are left out because an equal one stands in their place: {doubled}."
        )));
    }
    document
}

/// For programs: one table in base units, with the keys that split tables as columns.
fn rows(observations: &[Observation], layout: &Layout) -> Table {
    let layout = resolved(observations, layout);
    let keys = [&layout.table[..], &layout.row].concat();
    let columns = distinct(observations.iter(), &layout.col);
    let across = layout.col.contains(&Key::Metric);
    let named = keys.iter().map(Key::to_string).chain((!across).then(|| "unit".to_string()));
    let named = named.chain(columns.iter().map(|value| value.join(" ")));
    let mut table = Table::new(named.map(Column::left));
    for row in distinct(observations.iter(), &keys) {
        let here: Vec<&Observation> = observations.iter().filter(|o| o.at(&keys) == row).collect();
        let unit = here.first().filter(|_| !across).map(|o| Cell::from(o.metric.unit().as_str()));
        let cells = columns.iter().map(|column| {
            let found = here.iter().find(|o| o.at(&layout.col) == *column);
            Cell::maybe(found.map(|o| o.summary.mean), Form::Twelve)
        });
        table.push(row.into_iter().map(Cell::from).chain(unit).chain(cells).collect());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::{self, CANDLE, Engine};

    /// Two quantizations with 1, 2 and 16 threads each; not in the order of the threads.
    fn grid() -> Record {
        let arm = |(i, (quant, threads)): (i32, (&str, u32))| {
            let engine = Engine { decode_tps: 10.0 * f64::from(i + 1), ..CANDLE };
            let mut arm = testing::arm(&engine, 3);
            arm.label = format!("candle {quant} t{threads}");
            arm.point.quant = quant.into();
            arm.point.threads = Some(threads);
            arm
        };
        let points = ["Q4_0", "Q8_0"].into_iter().flat_map(|q| [2, 16, 1].map(|t| (q, t)));
        Record { arms: (0..).zip(points).map(arm).collect(), ..testing::empty() }
    }

    fn keys(text: &str) -> Vec<Key> {
        text.split_terminator(',').map(|key| key.parse().unwrap()).collect()
    }

    fn shown(
        files: &[(&str, Record)],
        row: &str,
        col: &str,
        metrics: &[Metric],
        format: Format,
    ) -> String {
        let files: Vec<_> = files.iter().map(|(f, r)| (f.to_string(), r.clone())).collect();
        let layout = Layout { table: Vec::new(), row: keys(row), col: keys(col) };
        render(&files, metrics, &layout, format, Style::PLAIN)
    }

    #[test]
    fn a_sweep_is_a_table_of_threads_by_quantization() {
        let grid = [("a.json", grid())];
        insta::assert_snapshot!(
            "grid",
            shown(&grid, "threads", "quant", &[Metric::DecodeTps], Format::Table)
        );
        let csv = shown(&grid, "threads", "quant", &[Metric::DecodeTps], Format::Csv);
        assert_eq!(csv.lines().next(), Some("threads,unit,Q4_0,Q8_0"), "{csv}");
        assert!(csv.lines().nth(1).unwrap().starts_with("1,tok/s,30.0"), "{csv}");
        let json = shown(&grid, "threads", "quant", &[Metric::DecodeTps], Format::Json);
        let rows: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(rows[2]["threads"], "16");
        assert!((rows[2]["Q8_0"].as_f64().unwrap() - 50.0).abs() < 0.5, "{rows}");
    }

    #[test]
    fn metrics_may_run_down_or_across_each_in_its_own_unit() {
        let grid = [("a.json", grid())];
        insta::assert_snapshot!(
            "metrics",
            shown(&grid, "metric", "quant,threads", &[], Format::Markdown)
        );
        let across = shown(&grid, "quant,threads", "metric", &[], Format::Table);
        assert!(
            across.contains("Model load") && across.lines().any(|l| l.contains("tok/s")),
            "{across}"
        );
    }

    #[test]
    fn a_key_that_was_not_named_and_differs_splits_the_tables_and_nothing_is_averaged() {
        let by_quant =
            shown(&[("a.json", grid())], "", "quant", &[Metric::DecodeTps], Format::Table);
        for threads in ["threads 1", "threads 2", "threads 16"] {
            assert!(by_quant.contains(threads), "{by_quant}");
        }
        let two = [("a.json", grid()), ("b.json", grid())];
        let by_file = shown(&two, "threads", "quant", &[Metric::DecodeTps], Format::Table);
        assert!(by_file.contains("file a.json") && by_file.contains("file b.json"), "{by_file}");
        let beside = shown(&two, "threads,quant", "file", &[Metric::DecodeTps], Format::Table);
        assert!(!beside.contains("file a.json") && beside.contains("a.json"), "{beside}");
        let same = [("a.json", grid()), ("a.json", grid())];
        let doubled = shown(&same, "threads", "quant", &[Metric::DecodeTps], Format::Table);
        assert!(
            doubled.contains("left out because an equal one stands in their place: 6"),
            "{doubled}"
        );
    }

    #[test]
    fn prompts_are_apart_where_a_key_of_prompts_is_asked_for() {
        let record = testing::record();
        let lengths =
            shown(&[("a.json", record)], "prompt-len", "engine", &[Metric::Ttft], Format::Table);
        let at = |n: &str| lengths.lines().position(|l| l.split_whitespace().next() == Some(n));
        assert!(at("16") < at("128") && at("128") < at("512"), "{lengths}");
        assert!(lengths.contains("SYNTHETIC WEIGHTS"), "{lengths}");
    }

    #[test]
    fn a_key_that_does_not_exist_is_refused_with_those_that_do() {
        let error = "quants".parse::<Key>().unwrap_err();
        assert!(error.contains("quant, engine"), "{error}");
        for (i, (key, name)) in KEYS.into_iter().enumerate() {
            assert_eq!((key as usize, name.parse()), (i, Ok(key)));
        }
    }

    #[test]
    fn no_result_is_said() {
        let none = shown(
            &[("a.json", testing::empty())],
            "threads",
            "quant",
            &[Metric::Mbu],
            Format::Table,
        );
        assert!(none.contains("No result has what was asked for."), "{none}");
    }
}
