//! Writers: each sets a document, or rows for programs, in one format.

pub mod csv;
pub mod html;
pub mod json;
pub mod markdown;
pub mod terminal;

use super::document::{Block, Content, Document, Medium, Table};
use super::{Format, Style};
use crate::number::{self, DASH};

/// Writes a document for a reader; ends with a newline.
///
/// # Panics
/// For CSV and JSON, which are for programs.
pub fn for_readers(
    format: Format,
    style: Style,
    document: impl FnOnce(Medium) -> Document,
) -> String {
    match format {
        Format::Table => terminal::render(&document(Medium::Terminal), style),
        Format::Markdown => markdown::render(&document(Medium::Page)),
        Format::Html => html::render(&document(Medium::Page)),
        Format::Csv | Format::Json => unreachable!("rows, not a document"),
    }
}

/// Writes one table, for readers or as rows for programs, whose keys are its titles in lower case;
/// ends with a newline.
pub fn listed(mut table: Table, format: Format, style: Style) -> String {
    if let Format::Csv | Format::Json = format {
        for column in &mut table.columns {
            column.title = column.title.as_ref().map(|t| t.to_lowercase().replace(' ', "_"));
        }
    }
    match format {
        Format::Csv => csv::render(&table),
        Format::Json => json::rows(&table),
        _ => for_readers(format, style, |_| Document { blocks: vec![Block::Table(table)] }),
    }
}

/// A cell as one line, without alignment.
fn plain(content: &Content) -> String {
    match content {
        Content::Empty => String::new(),
        Content::Missing => DASH.into(),
        Content::Text(text) => text.clone(),
        Content::Flag(flag) => flag.to_string(),
        Content::Number(x, form) => number::text(*x, *form),
        Content::Interval(ends, form) => number::interval(*ends, *form),
        Content::Measured(m) => m.scale.text(m.mean, m.half_width),
        Content::Joined(parts, between) => {
            parts.iter().map(plain).collect::<Vec<_>>().join(between)
        }
        Content::Aligned(parts) => {
            let parts = parts.iter().map(|(_, part)| plain(part)).filter(|p| !p.is_empty());
            parts.collect::<Vec<_>>().join(" ")
        }
    }
}
