//! Records to text: a table for the terminal, Markdown, CSV, JSON. What is said is decided once,
//! in `document`; each format only sets it.

pub mod compare;
mod csv;
mod document;
pub mod gate;
mod grid;
pub mod history;
mod history_page;
mod markdown;
mod plot;
mod rows;
mod sections;
mod table;
mod text;
pub mod verification;

use std::io::IsTerminal;

use crate::analysis;
use crate::record::Record;
use document::Document;
pub use history_page::page;
pub use plot::{Svg, plot};
pub use text::{clean, visible};

/// A form of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For a terminal.
    Table,
    /// For GitHub.
    Markdown,
    /// One line per engine, prompt and metric; RFC 4180.
    Csv,
    /// The record itself, with summaries, comparisons and warnings filled.
    Json,
}

/// How a table may look. The other formats do not care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    pub color: bool,
    /// Columns of the terminal.
    pub width: u16,
}

impl Style {
    /// Without colour, 100 columns: for files and pipes.
    pub const PLAIN: Style = Style { color: false, width: 100 };

    /// What standard output deserves: colour on a terminal unless NO_COLOR is set or the terminal
    /// is dumb.
    pub fn of_stdout() -> Self {
        if !std::io::stdout().is_terminal() {
            return Self::PLAIN;
        }
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        let width = comfy_table::Table::new().width().unwrap_or(Self::PLAIN.width);
        Self { color: !no_color && !dumb, width }
    }
}

/// What a table or Markdown shows beside the comparison. CSV and JSON hold all of it anyway.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sections {
    /// The parts of each engine's memory, and of its time where that was recorded.
    pub profile: bool,
    /// Every generation in order, and whether a steady state was reached.
    pub timing: bool,
}

/// Writes a record in one of the formats, without the sections that are shown on request.
pub fn render(record: &Record, format: Format, style: Style) -> String {
    render_with(record, format, style, Sections::default())
}

/// Writes a record in one of the formats; ends with a newline. Summaries are computed afresh from
/// the launches, against the baseline that the record's comparisons name.
pub fn render_with(record: &Record, format: Format, style: Style, wanted: Sections) -> String {
    let record = summarized(record);
    match format {
        Format::Table => table::render(&Document::new(&record, wanted), style),
        Format::Markdown => markdown::render(&Document::new(&record, wanted)),
        Format::Csv => csv::render(&record),
        Format::Json => {
            // String keys and plain values: there is nothing that JSON could refuse.
            let json = serde_json::to_string_pretty(&record).expect("a record is valid JSON");
            json + "\n"
        }
    }
}

fn summarized(record: &Record) -> Record {
    let mut record = record.clone();
    let named = record.comparisons.first().map(|c| c.baseline.clone());
    let kept = named.is_some_and(|label| analysis::summarize_against(&mut record, &label).is_ok());
    if !kept {
        analysis::summarize(&mut record);
    }
    record
}

#[cfg(test)]
mod tests;
