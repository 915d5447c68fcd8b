//! Batched decoding in the columns of llama-batched-bench, one line for each point and prompt.

use crate::analysis::batching::Batched;
use crate::metric::{Metric, Values};
use crate::number::Form;
use crate::record::{MetricSummary, Record};
use crate::report::document::{Cell, Column, Table};
use crate::text::clean;

/// Titles and units.
const COLUMNS: [(&str, &str); 12] = [
    ("PP", ""),
    ("TG", ""),
    ("B", ""),
    ("N_KV", ""),
    ("T_PP", "s"),
    ("S_PP", "t/s"),
    ("T_TG", "s"),
    ("S_TG", "t/s"),
    ("T", "s"),
    ("S", "t/s"),
    ("MBU", "%"),
    ("Arithmetic", "%"),
];

/// Below the table.
pub const LEGEND: &str = "PP tokens of each prompt, TG decode steps (the first token belongs to the \
    prompt), B sequences, N_KV positions of all caches; T seconds, S tokens of all sequences a \
    second: means over launches; Arithmetic: share of the peak that was measured";

/// Expects a summarized record.
pub fn table(record: &Record) -> Table {
    let column =
        |(title, unit): &(&str, &str)| Column { note: (*unit).into(), ..Column::right(*title) };
    let columns = [Column::left("Batched")].into_iter().chain(COLUMNS.iter().map(column));
    let mut table = Table { stub: 1, ..Table::new(columns) };
    for prompt in &record.workload.prompts {
        for arm in &record.arms {
            let Some(line) = Batched::of(arm, prompt) else { continue };
            let number = |x: Option<f64>| Cell::maybe(x, Form::Significant);
            let percent = |metric| {
                let of = |metrics: &Values<MetricSummary>| Some(metrics.get(&metric)?.mean);
                number(arm.prompt_metrics.get(&prompt.id).and_then(of).map(|share| 100.0 * share))
            };
            let mut row = vec![clean(&arm.label).into()];
            row.extend([line.pp, line.tg, line.b].map(Cell::from));
            row.push((line.n_kv as i64).into());
            row.extend([line.t_pp(), line.s_pp, Some(line.t_tg()), Some(line.s_tg)].map(number));
            row.extend([line.t(), line.s()].map(number));
            row.extend([Metric::Mbu, Metric::ArithmeticShare].map(percent));
            table.push(row);
        }
    }
    table
}
