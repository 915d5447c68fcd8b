//! The report as GitHub Markdown: tables, then the reading and the warnings.

use super::document::{Column, Document, SHARES_TITLE, is_peak};
use super::grid::{Cell, Row};
use super::sections::Block;
use super::text::escape_markdown as escape;

pub(super) fn render(document: &Document) -> String {
    let mut out = format!("### {}\n\n", escape(&document.title));
    if let Some(warning) = document.synthetic {
        out += &format!("> **{}**\n\n", escape(warning));
    }
    for (name, fact) in &document.facts {
        out += &format!("- {name}: {}\n", escape(fact));
    }
    if document.columns.is_empty() {
        return out + "\nNo engine was run.\n";
    }
    out += &summary(document);
    out += &prompts(document);
    if !document.legend.is_empty() {
        out += &format!("\n{}.\n", escape(&document.legend.join("; ")));
    }
    out.extend(document.blocks.iter().map(of_texts));
    if !document.reading.is_empty() {
        out += &format!("\n{}\n", escape(&document.reading.join(" ")));
    }
    let warnings: Vec<String> = document
        .warnings
        .iter()
        .map(|w| {
            let mark = if w.information { "Note" } else { "**Warning**" };
            format!("{mark}: {}. *{}.*", escape(&w.message), escape(&w.advice))
        })
        .collect();
    out += &list(&warnings);
    let notes: Vec<String> = document.notes.iter().map(|note| escape(note)).collect();
    out + &list(&notes)
}

fn summary(document: &Document) -> String {
    let mut out = header("", &document.columns, true);
    out += &texts("Launches", document, |c| Some(c.launches.clone()));
    out += &texts("Weights", document, |c| c.precision[0].clone());
    out += &texts("Compute", document, |c| c.precision[1].clone());
    out += &texts("KV cache", document, |c| c.precision[2].clone());
    if document.columns.iter().any(|c| c.verified.is_some()) {
        out += &texts("Verified", document, |c| c.verified.clone());
    }
    for row in document.rows.iter().chain(&document.details) {
        out += &numbers(row, &row.title);
        if is_peak(row) && !document.memory_shares.is_empty() {
            let shares = document.memory_shares.iter();
            let shares = shares.map(|s| s.clone().unwrap_or_else(|| "–".into()));
            let title = [escape(SHARES_TITLE.trim()), "%".to_string()];
            out += &line(title.into_iter().chain(shares));
        }
    }
    out
}

fn prompts(document: &Document) -> String {
    if document.prompts.is_empty() {
        return String::new();
    }
    let mut out = header("Per prompt", &document.columns, false);
    for (metric, rows) in &document.prompts {
        for row in rows {
            out += &numbers(row, &format!("{metric}, {}", row.title));
        }
    }
    out
}

fn of_texts(block: &Block) -> String {
    let labels = block.columns.iter().map(|label| escape(label));
    let rule = "|---:".repeat(block.columns.len());
    let corner = [escape(&block.title), String::new()];
    let mut out = format!("\n{}|:---|:---{rule}|\n", line(corner.into_iter().chain(labels)));
    for row in &block.lines {
        let cells = row.cells.iter().map(|c| c.as_deref().map_or("–".into(), escape_words));
        out += &line([escape(&row.title), row.unit.to_string()].into_iter().chain(cells));
    }
    out + &list(&block.remarks.iter().map(|r| escape(r)).collect::<Vec<_>>())
}

/// A text without the spaces that align it in a terminal.
fn escape_words(text: &str) -> String {
    escape(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn header(corner: &str, columns: &[Column], states: bool) -> String {
    let labels = columns.iter().map(|column| match column.state.as_str() {
        state if states && !state.is_empty() => {
            format!("{}<br>{}", escape(&column.label), escape(state))
        }
        _ => escape(&column.label),
    });
    let rule = "|---:".repeat(columns.len());
    format!(
        "\n{}|:---|:---{rule}|\n",
        line([corner.to_string(), String::new()].into_iter().chain(labels))
    )
}

fn texts(title: &str, document: &Document, of: impl Fn(&Column) -> Option<String>) -> String {
    let cells = document.columns.iter().map(|c| of(c).map_or("–".into(), |text| escape(&text)));
    line([title.to_string(), String::new()].into_iter().chain(cells))
}

fn numbers(row: &Row, title: &str) -> String {
    let cells = row.cells.iter().enumerate().map(|(i, cell)| match cell {
        None => "–".to_string(),
        Some(cell) => number(cell, row.best == Some(i)),
    });
    line([escape(title), row.unit.to_string()].into_iter().chain(cells))
}

fn number(cell: &Cell, best: bool) -> String {
    let half = cell.half_width.as_ref().map(|h| format!(" ± {h}")).unwrap_or_default();
    let ratio = cell.ratio.as_ref().map(|r| format!(" ({})", escape(r))).unwrap_or_default();
    let mark = if best { "**" } else { "" };
    format!("{mark}{}{half}{mark}{ratio}", cell.value)
}

fn line(cells: impl Iterator<Item = String>) -> String {
    let cells: Vec<String> = cells.collect();
    format!("| {} |\n", cells.join(" | "))
}

fn list(items: &[String]) -> String {
    if items.is_empty() {
        return String::new();
    }
    format!("\n- {}\n", items.join("\n- "))
}
