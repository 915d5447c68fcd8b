//! Writes a document as one self-contained HTML page, without scripts and without anything from
//! elsewhere. Every text is escaped here.

use super::plain;
use crate::number;
use crate::report::document::{
    Block, Cell, Column, Content, Document, Level, Mark, Remark, Table, Tone,
};
use crate::report::plot::svg::{self, Svg};

const STYLE: &str = "<style>\
:root{color-scheme:light dark}\
body{margin:0 auto;max-width:1000px;padding:24px 20px 60px;color:#1f2328;background:#fff;\
font:15px/1.5 system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif}\
h1{font-size:24px;margin:0 0 4px}h2{font-size:19px;margin:36px 0 4px}\
h3{font-size:16px;margin:24px 0 4px}p{margin:4px 0 12px}\
.soft{color:#656d76}svg{max-width:100%;height:auto;display:block}.wide{overflow-x:auto}\
table{border-collapse:collapse;min-width:60%;font-size:14px;margin:8px 0}\
td,th{padding:4px 12px 4px 0;text-align:left;border-bottom:1px solid #d8dee4;vertical-align:top}\
.n{text-align:right;white-space:nowrap}.best,.strong{font-weight:600}\
.good{color:#1a7f37}.bad{color:#cf222e}.doubt{color:#9a6700}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;margin:4px 0 12px}\
dt{color:#656d76}dd{margin:0}li p{margin:0}\
@media(prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}\
.soft,dt{color:#8d96a0}td,th{border-color:#30363d}.good{color:#3fb950}.bad{color:#f85149}\
.doubt{color:#d29922}}\
</style>";

pub fn render(document: &Document) -> String {
    let title = document.blocks.iter().find_map(|block| match block {
        Block::Heading(_, text) => Some(text.as_str()),
        _ => None,
    });
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src \
         'unsafe-inline'\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>llm-bench: {}</title>\n{STYLE}{}\n</head><body>\n{}</body></html>\n",
        escape(title.unwrap_or("report")),
        svg::style(),
        blocks(&document.blocks)
    )
}

fn blocks(blocks: &[Block]) -> String {
    blocks.iter().map(block).collect()
}

fn block(block: &Block) -> String {
    match block {
        Block::Heading(Level::Report, text) => tag("h1", "", text),
        Block::Heading(Level::Part, text) => tag("h2", "", text),
        Block::Heading(Level::Detail, text) => tag("h3", "", text),
        Block::Caution(text) => tag("p", "strong doubt", text),
        Block::Verdict(text, tone) => tag("p", &format!("strong {}", class(*tone)), text),
        Block::Facts(facts) => {
            let fact = |(name, fact): &(String, String)| {
                format!("{}{}", tag("dt", "", name), tag("dd", "", fact))
            };
            format!("<dl>\n{}</dl>\n", facts.iter().map(fact).collect::<String>())
        }
        Block::Table(table) => self::table(table),
        Block::Plot(plot) => svg::render(std::slice::from_ref(plot), Svg::InPage),
        Block::Text(text) => tag("p", "", text),
        Block::Legend(lines) => lines.iter().map(|line| tag("p", "soft", line)).collect(),
        Block::Remarks(list) => {
            let title = match list.title {
                "" => String::new(),
                title => tag("h3", "", title),
            };
            format!("{title}<ul>\n{}</ul>\n", list.items.iter().map(remark).collect::<String>())
        }
        Block::Fold(summary, inside) => format!(
            "<details><summary>{}</summary>\n{}</details>\n",
            escape(summary),
            blocks(inside)
        ),
    }
}

fn remark(remark: &Remark) -> String {
    let (mark, tone) = match remark.mark {
        Mark::Prose | Mark::Plain => ("", Tone::Plain),
        Mark::Note => ("Note", Tone::Soft),
        Mark::Warning => ("Warning", Tone::Doubt),
        Mark::Forbids => ("Not comparable", Tone::Bad),
        Mark::State(state, tone) => (state, tone),
    };
    let mark = match mark {
        "" => String::new(),
        mark => format!("<span class=\"{}\">{}</span>: ", class(tone), escape(mark)),
    };
    let advice = remark.advice.as_ref().map(|advice| tag("p", "soft", advice));
    let about = remark.about.map(|about| format!("{}: ", escape(about))).unwrap_or_default();
    format!("<li>{mark}{about}{}{}</li>\n", escape(&remark.text), advice.unwrap_or_default())
}

fn table(table: &Table) -> String {
    let title = |column: &Column| {
        let mut text = escape(column.title.as_deref().unwrap_or_default());
        if !column.note.is_empty() {
            text += &format!("<br>{}", escape(&column.note));
        }
        format!("<th{}>{text}</th>", classes(column, column.tone))
    };
    let row = |cells: &Vec<Cell>| {
        let set = |(cell, column): (&Cell, &Column)| {
            format!("<td{}>{}</td>", classes(column, cell.tone), text(cell))
        };
        format!("<tr>{}</tr>\n", cells.iter().zip(&table.columns).map(set).collect::<String>())
    };
    format!(
        "<div class=\"wide\"><table>\n<tr>{}</tr>\n{}</table></div>\n",
        table.columns.iter().map(title).collect::<String>(),
        table.rows.iter().map(row).collect::<String>()
    )
}

fn text(cell: &Cell) -> String {
    let text = escape(&plain(&cell.content));
    match &cell.content {
        Content::Measured(m) => match m.ratio {
            Some((times, open)) => {
                format!("{text} <span class=\"soft\">{}</span>", number::ratio(times, open))
            }
            None => text,
        },
        _ => text,
    }
}

fn classes(column: &Column, tone: Tone) -> String {
    let side = if column.right { "n" } else { "" };
    match [side, class(tone)].join(" ").trim() {
        "" => String::new(),
        classes => format!(" class=\"{classes}\""),
    }
}

fn class(tone: Tone) -> &'static str {
    match tone {
        Tone::Plain => "",
        Tone::Soft => "soft",
        Tone::Strong => "strong",
        Tone::Best => "best good",
        Tone::Good => "good",
        Tone::Bad => "bad",
        Tone::Doubt => "doubt",
    }
}

fn tag(name: &str, class: &str, text: &str) -> String {
    let class = match class.trim() {
        "" => String::new(),
        class => format!(" class=\"{class}\""),
    };
    format!("<{name}{class}>{}</{name}>\n", escape(text))
}

/// Escapes a text between tags or in an attribute, and drops what XML cannot hold.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\u{fffe}' | '\u{ffff}' => {}
            c if c.is_control() && c != '\n' => {}
            c => out.push(c),
        }
    }
    out
}
