//! Turns findings into text. The contents are decided once, as a document of blocks (`of`), and
//! writers set them for a terminal, in Markdown or in HTML (`write`). Programs get rows or the
//! values themselves.

pub mod document;
pub mod of;
pub mod pivot;
pub mod plot;
pub mod write;

use std::io::{IsTerminal, Write, stdout};
use std::path::Path;

use anyhow::{Context, Result};

pub use of::run::{render, render_all, render_with, with_pictures};

use crate::record::{Record, write_atomically};

/// A format of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For a terminal.
    Table,
    /// For GitHub.
    Markdown,
    /// One self-contained page.
    Html,
    /// Rows, RFC 4180.
    Csv,
    /// The values themselves.
    Json,
}

/// The look of a table. The other formats ignore it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    pub color: bool,
    /// Columns of the terminal.
    pub width: u16,
}

impl Style {
    /// Without colour, 100 columns: for files and pipes.
    pub const PLAIN: Style = Style { color: false, width: 100 };

    /// The style of standard output: colour on a terminal unless NO_COLOR is set or the terminal is
    /// dumb.
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

/// What a table or Markdown shows besides the comparison. CSV and JSON always hold all of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sections {
    /// The parts of each engine's memory, and of its time if recorded.
    pub profile: bool,
    /// Every generation in order, and whether the engine reached a steady state.
    pub timing: bool,
}

/// Writes the record to `json`, and what people read beside it: `.csv`, `.md` and the page, `.html`.
///
/// # Errors
/// A file cannot be written.
pub fn write_files(record: &Record, json: &Path, wanted: Sections) -> Result<()> {
    record.write(json)?;
    for (extension, format) in
        [("csv", Format::Csv), ("md", Format::Markdown), ("html", Format::Html)]
    {
        let text = render_with(record, format, Style::PLAIN, wanted);
        write_atomically(&json.with_extension(extension), text.as_bytes())?;
    }
    Ok(())
}

/// Writes a report to stdout.
///
/// # Errors
/// It is closed or full.
pub fn print(text: &str) -> Result<()> {
    stdout()
        .write_all(text.as_bytes())
        .and_then(|()| stdout().flush())
        .context("cannot write to stdout")
}

#[cfg(test)]
mod tests;
