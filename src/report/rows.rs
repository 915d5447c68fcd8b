//! Plain tables of texts: for the terminal, for Markdown; and rows of values for programs.

use comfy_table::{Cell, CellAlignment};
use serde::Serialize;

use super::text::escape_markdown;
use super::{Format, Style, table};

/// A table whose cells are texts.
pub(super) struct Rows {
    header: Vec<String>,
    right: Vec<usize>,
    rows: Vec<Vec<String>>,
}

impl Rows {
    pub fn new(header: &[&str]) -> Self {
        let header = header.iter().map(|h| h.to_string()).collect();
        Self { header, right: Vec::new(), rows: Vec::new() }
    }

    /// The columns that stand to the right, from 0.
    pub fn right(&mut self, columns: &[usize]) {
        self.right = columns.to_vec();
    }

    /// A row, with a text for each column.
    pub fn push(&mut self, row: Vec<String>) {
        debug_assert_eq!(row.len(), self.header.len());
        self.rows.push(row);
    }

    /// For a terminal, or for Markdown.
    pub fn set(&self, format: Format, style: Style) -> String {
        match format {
            Format::Markdown => self.markdown(),
            _ => self.terminal(style),
        }
    }

    fn terminal(&self, style: Style) -> String {
        let mut table = table::ruled(style);
        let cell = |(i, text): (usize, &String)| match self.right.contains(&i) {
            true => Cell::new(text).set_alignment(CellAlignment::Right),
            false => Cell::new(text),
        };
        table.set_header(self.header.iter().enumerate().map(cell).collect::<Vec<_>>());
        for row in &self.rows {
            table.add_row(row.iter().enumerate().map(cell).collect::<Vec<_>>());
        }
        for (i, column) in table.column_iter_mut().enumerate() {
            column.set_padding((if i == 0 { 0 } else { 2 }, 0));
        }
        table.trim_fmt() + "\n"
    }

    fn markdown(&self) -> String {
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|c| escape_markdown(c)).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let side = |i| if self.right.contains(&i) { "|---:" } else { "|:---" };
        let rule: String = (0..self.header.len()).map(side).collect();
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!("{}{rule}|\n{rows}", line(&self.header))
    }
}

/// Rows as one JSON array; what a row does not have is absent.
pub(super) fn as_json(rows: &[impl Serialize]) -> String {
    let mut rows = serde_json::to_value(rows).expect("texts and finite numbers");
    for row in rows.as_array_mut().into_iter().flatten() {
        row.as_object_mut().into_iter().for_each(|row| row.retain(|_, value| !value.is_null()));
    }
    format!("{rows:#}\n")
}

/// Rows as CSV, with the names of their fields; nothing at all for no rows.
pub(super) fn as_csv<T: Serialize>(rows: impl Iterator<Item = T>) -> String {
    let mut csv = csv::Writer::from_writer(Vec::new());
    for row in rows {
        csv.serialize(row).expect("flat rows into memory");
    }
    let bytes = csv.into_inner().expect("memory does not fail");
    String::from_utf8(bytes).expect("fields are text")
}
