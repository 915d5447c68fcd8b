//! Writes a document as one self-contained HTML page: no scripts, nothing from elsewhere, and a
//! policy that forbids both. The template escapes every text.

mod aligned;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use self::aligned::{Aligned, Set};
use super::plain;
use crate::report::document::{
    Block, Cell, Column, Document, Download, Level, Mark, Remark, Remarks, Table, Tone,
};
use crate::report::plot::Plot;
use crate::report::plot::svg::{self, Size};

const PAGE_STYLE: &str = include_str!("page.css");
/// Nothing may be requested; the page styles itself.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";
/// Parts from which a page has a list of them at its top.
const LISTED_FROM: usize = 3;

pub fn render(document: &Document) -> String {
    let title = document.blocks.iter().find_map(|block| match block {
        Block::Heading(_, text) => Some(text.as_str()),
        _ => None,
    });
    let mut writer = Writer::default();
    let parts = parts(&document.blocks);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "llm-bench: " (title.unwrap_or("report")) }
                style { (PreEscaped(svg::STYLE)) (PreEscaped(PAGE_STYLE)) }
            }
            body {
                main {
                    // A list has no title of its own.
                    @if title.is_none() { h1 { "llm-bench" } }
                    (writer.blocks(&document.blocks, &parts))
                }
                footer { "Made by llm-bench " (env!("CARGO_PKG_VERSION")) ". This page needs no network." }
            }
        }
    };
    page.into_string() + "\n"
}

/// The titles of the parts with their anchors, in order.
fn parts(blocks: &[Block]) -> Vec<(String, String)> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let part = |block: &Block| {
        let Block::Heading(Level::Part, text) = block else { return None };
        let slug: String = text
            .to_lowercase()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let n = seen.entry(slug.clone()).or_default();
        *n += 1;
        Some((text.clone(), if *n == 1 { slug } else { format!("{slug}-{n}") }))
    };
    blocks.iter().filter_map(part).collect()
}

#[derive(Default)]
struct Writer {
    /// How many parts were begun.
    begun: usize,
    /// How many tables were set: each is called by its number.
    tables: usize,
}

impl Writer {
    fn blocks(&mut self, blocks: &[Block], parts: &[(String, String)]) -> Markup {
        // The list stands before the first part.
        let first = blocks.iter().position(|b| matches!(b, Block::Heading(Level::Part, _)));
        html! {
            @for (i, block) in blocks.iter().enumerate() {
                @if Some(i) == first && parts.len() >= LISTED_FROM {
                    nav aria-label="Parts of this page" {
                        ul { @for (text, slug) in parts { li { a href={ "#" (slug) } { (text) } } } }
                    }
                }
                (self.block(block, parts))
            }
        }
    }

    fn block(&mut self, block: &Block, parts: &[(String, String)]) -> Markup {
        match block {
            // A dot stays with the words before it.
            Block::Heading(Level::Report, text) => {
                html! { h1 { (text.replace(" · ", "\u{a0}· ")) } }
            }
            Block::Heading(Level::Part, text) => {
                let slug = parts.get(self.begun).map(|(_, slug)| slug.as_str());
                self.begun += 1;
                html! { h2 id=[slug] { (text) } }
            }
            Block::Heading(Level::Detail, text) => html! { h3 { (text) } },
            Block::Lead(sentences) => {
                html! { div.lead { @for sentence in sentences { p { (sentence) } } } }
            }
            Block::Caution(text) => html! { p.caution { (text) } },
            Block::Verdict(text, tone) => html! { p class={ "strong " (class(*tone)) } { (text) } },
            Block::Facts(facts) => html! {
                dl { @for (name, fact) in facts { dt { (name) } dd { (fact) } } }
            },
            Block::Table(table) => self.table(table),
            Block::Plot(plot) => self.figure(plot, Size::Full),
            Block::Panels(plots) => html! {
                div.panels { @for plot in plots { (self.figure(plot, Size::Column)) } }
            },
            Block::Text(text) => html! { p { (text) } },
            Block::Legend(lines) => html! { @for line in lines { p.soft { (line) } } },
            Block::Remarks(list) => remarks(list),
            Block::Download(download) => self::download(download),
            Block::Fold(summary, inside) => html! {
                details.fold { summary { (summary) } (self.blocks(inside, &[])) }
            },
        }
    }

    /// A plot, and beneath it its numbers.
    fn figure(&mut self, plot: &Plot, size: Size) -> Markup {
        html! {
            figure {
                figcaption { b { (plot.title) } @if !plot.facts.is_empty() { span { (plot.facts) } } }
                (svg::in_page(plot, size))
                details {
                    summary { "Numbers: " (plot.title) }
                    (self.table(&plot.table()))
                }
            }
        }
    }

    /// In a frame that scrolls where the table is wider than the page.
    fn table(&mut self, table: &Table) -> Markup {
        self.tables += 1;
        let mixed = table.columns.iter().any(|c| c.is_unit);
        let columns: Vec<Aligned> = (0..table.columns.len())
            .map(|i| Aligned::of(table.rows.iter().map(|row| &row[i]), mixed))
            .collect();
        let has_head = table.columns.iter().any(|c| c.title.is_some());
        html! {
            div.wide-table tabindex="0" role="region" aria-label={ "Table " (self.tables) } {
                table {
                    @if has_head {
                        thead { tr { @for (column, aligned) in table.columns.iter().zip(&columns) { (head(column, aligned)) } } }
                    }
                    tbody {
                        @for row in &table.rows {
                            tr {
                                @for (i, (cell, column)) in row.iter().zip(&table.columns).enumerate() {
                                    @let first = i == 0 && table.stub > 0;
                                    (set(cell, column, &columns[i], first))
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn remarks(list: &Remarks) -> Markup {
    html! {
        @if !list.title.is_empty() { h3 { (list.title) } }
        ul.remarks { @for item in &list.items { (remark(item)) } }
    }
}

fn remark(remark: &Remark) -> Markup {
    let (mark, tone) = match remark.mark {
        Mark::Prose | Mark::Plain => ("", Tone::Plain),
        Mark::Note => ("Note", Tone::Soft),
        Mark::Warning => ("Warning", Tone::Doubt),
        Mark::Forbids => ("Not comparable", Tone::Bad),
        Mark::State(state, tone) => (state, tone),
    };
    html! {
        li {
            @if !mark.is_empty() { span class=(class(tone)) { (mark) } ": " }
            @if let Some(about) = remark.about { (about) ": " }
            (remark.text)
            @if let Some(advice) = &remark.advice { p.soft { (advice) } }
        }
    }
}

/// A link that holds the file itself, so that saving it needs no request and no script.
fn download(download: &Download) -> Markup {
    let href = format!("data:{};base64,{}", download.media_type, STANDARD.encode(&download.bytes));
    html! { p { a.download href=(href) download=(download.file) { "Save " (download.file) } } }
}

fn head(column: &Column, aligned: &Aligned) -> Markup {
    let title = column.title.as_deref().unwrap_or_default();
    let classes = classes(column, column.tone);
    let span = span(column, aligned);
    html! {
        // A header without a text is none.
        @if title.is_empty() && column.note.is_empty() { td class=[classes] colspan=[span] {} }
        @else {
            th scope=(if span.is_some() { "colgroup" } else { "col" }) class=[classes] colspan=[span] {
                (title) @if !column.note.is_empty() { small { (column.note) } }
            }
        }
    }
}

/// How many cells a column takes, if more than one.
fn span(column: &Column, aligned: &Aligned) -> Option<usize> {
    Some(aligned.cells()).filter(|n| column.right && *n > 1)
}

fn set(cell: &Cell, column: &Column, aligned: &Aligned, is_head: bool) -> Markup {
    let classes = classes(column, cell.tone);
    if is_head {
        return html! { th scope="row" class=[classes] { (plain(&cell.content)) } };
    }
    if !column.right {
        return html! { td class=[classes] { (plain(&cell.content)) } };
    }
    match aligned.set(cell) {
        Set::Text(text) => html! { td class=[classes] colspan=[span(column, aligned)] { (text) } },
        Set::Number { value, half, ratio } => html! {
            td class=[classes] { (value) }
            @if aligned.halves() {
                td.half.soft[cell.tone == Tone::Soft] { @if let Some(half) = half { "±\u{a0}" (half) } }
            }
            @if aligned.ratios() { td.x { @if let Some(ratio) = ratio { (ratio) } } }
        },
    }
}

fn classes(column: &Column, tone: Tone) -> Option<String> {
    let side = match (column.right, column.is_unit) {
        (true, _) => "n",
        (_, true) => "u",
        _ => "",
    };
    let classes = [side, class(tone)].join(" ").trim().to_string();
    (!classes.is_empty()).then_some(classes)
}

fn class(tone: Tone) -> &'static str {
    match tone {
        Tone::Plain => "",
        Tone::Soft => "soft",
        Tone::Strong => "strong",
        Tone::Best => "best",
        Tone::Good => "good",
        Tone::Bad => "bad",
        Tone::Doubt => "doubt",
    }
}
