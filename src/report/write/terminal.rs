//! Writes a document for a terminal: quiet, aligned, within the width.

use comfy_table::presets::NOTHING;
use comfy_table::{
    Attribute, Cell as Painted, CellAlignment, Color, ContentArrangement, LineStyle,
};

use super::plain;
use crate::number::{self, DASH};
use crate::report::Style;
use crate::report::document::{
    Block, Column, Content, Document, Level, Mark, Measured, Remark, Remarks, Table, Tone,
};
use crate::report::plot::{Plot, sparkline};

/// Longer labels are broken at a hyphen.
const LABEL_WIDTH: usize = 14;
/// Terminals below this width get overlong lines rather than one word per line.
const NARROWEST: u16 = 40;

pub fn render(document: &Document, style: Style) -> String {
    let style = Style { width: style.width.max(NARROWEST), ..style };
    blocks(&document.blocks, style)
}

fn blocks(blocks: &[Block], style: Style) -> String {
    let before = [None].into_iter().chain(blocks.iter().map(Some));
    let mut out = String::new();
    for (before, block) in before.zip(blocks) {
        if before.is_some_and(|before| is_apart(before, block)) {
            out.push('\n');
        }
        out += &self::block(block, style);
    }
    out
}

/// Whether an empty line separates the two blocks. A block that introduces or explains stays close.
fn is_apart(before: &Block, block: &Block) -> bool {
    use Block::{Caution, Facts, Heading, Legend, Plot, Remarks as List, Table, Text, Verdict};
    match (before, block) {
        (_, List(list)) if !list.title.is_empty() => true,
        (Heading(Level::Part, _), Verdict(..) | Heading(..)) => true,
        (_, Heading(..)) => true,
        (Heading(..), _) => false,
        (Caution(_), Facts(_)) | (Verdict(..), List(_)) => false,
        (Table(_), Legend(_) | Text(_)) | (Text(_) | Plot(_), Text(_)) => false,
        (Plot(_), Table(_)) => false,
        _ => true,
    }
}

fn block(block: &Block, style: Style) -> String {
    match block {
        Block::Heading(Level::Part, text) => bold(&format!("── {text} ──"), None, style),
        Block::Heading(_, text) => bold(text, None, style),
        Block::Caution(text) => bold(text, Some(Color::Yellow), style),
        Block::Verdict(text, tone) => bold(text, color(*tone), style),
        Block::Facts(facts) => {
            let longest = facts.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
            let row = |(name, fact): &(String, String)| {
                vec![Painted::new(format!("{name:<longest$} ")), Painted::new(fact)]
            };
            paragraphs(facts.iter().map(row), style)
        }
        Block::Table(table) => fitting(table, style),
        Block::Plot(plot) => self::plot(plot, style),
        Block::Panels(plots) => plots.iter().map(|p| self::plot(p, style)).collect(),
        Block::Text(text) => paragraphs([vec![Painted::new(text)]].into_iter(), style),
        Block::Lead(sentences) => {
            paragraphs(sentences.iter().map(|text| vec![Painted::new(text)]), style)
        }
        Block::Legend(lines) => {
            paragraphs(lines.iter().map(|l| vec![Painted::new(l).fg(Color::DarkGrey)]), style)
        }
        Block::Remarks(list) => remarks(list, style),
        Block::Fold(summary, inside) => bold(summary, None, style) + &blocks(inside, style),
        // The terminal's reader has the file.
        Block::Download(_) => String::new(),
    }
}

fn plot(plot: &Plot, style: Style) -> String {
    let spark = sparkline(plot.spark().into_iter());
    format!("{}{}\n{spark}\n", bold(&plot.title, None, style), plot.facts)
}

fn remarks(list: &Remarks, style: Style) -> String {
    let title = match list.title {
        "" => String::new(),
        title => bold(title, None, style),
    };
    let next = list.items.iter().skip(1).map(Some).chain([None]);
    let row = |(remark, next): (&Remark, Option<&Remark>)| {
        // Among neighbours with the same advice, the last one shows it.
        let shared = next.is_some_and(|next| next.advice == remark.advice);
        let text = match &remark.advice {
            Some(advice) if !shared => format!("{}\n→ {advice}", remark.text),
            _ => remark.text.clone(),
        };
        let mark = match remark.mark {
            Mark::Prose => return vec![Painted::new(text)],
            Mark::Plain | Mark::Note => Painted::new("·"),
            Mark::Warning => painted("!", Tone::Doubt).add_attribute(Attribute::Bold),
            Mark::Forbids => painted("✗", Tone::Bad),
            Mark::State(state, tone) => painted(state, tone),
        };
        let about = remark.about.map(Painted::new);
        [mark].into_iter().chain(about).chain([Painted::new(text)]).collect()
    };
    title + &paragraphs(list.items.iter().zip(next).map(row), style)
}

/// The table, or the first of its narrower forms that fits; the narrowest if none does.
fn fitting(table: &Table, style: Style) -> String {
    let set = grid(table, style);
    match &table.narrower {
        None => set,
        Some(narrower) => {
            let plain = grid(table, Style { color: false, ..style });
            match plain.lines().all(|line| width(line) <= usize::from(style.width)) {
                true => set,
                false => fitting(narrower, style),
            }
        }
    }
}

/// The place of the ratio to the baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Beside,
    Beneath,
}

/// Sets columns side by side if they fit, otherwise with the ratios beneath the values, otherwise
/// as several tables one below the other.
fn grid(table: &Table, style: Style) -> String {
    let columns = 0..table.columns.len();
    if table.stub == 0 {
        return part(table, columns, Layout::Beside, style);
    }
    let widths = |layout, range: std::ops::Range<usize>| -> Vec<usize> {
        range.map(|i| Fields::of(table, i, layout).column(&table.columns[i])).collect()
    };
    let stub: usize = widths(Layout::Beside, 0..table.stub).iter().sum();
    // One space precedes a unit.
    let room = usize::from(style.width).saturating_sub(stub + 1);
    let beside = widths(Layout::Beside, table.stub..table.columns.len());
    let (layout, widths) = match beside.iter().map(|w| w + 2).sum::<usize>() <= room {
        true => (Layout::Beside, beside),
        false => (Layout::Beneath, widths(Layout::Beneath, table.stub..table.columns.len())),
    };
    let parts: Vec<String> = chunks(&widths, room)
        .into_iter()
        .map(|c| part(table, c.start + table.stub..c.end + table.stub, layout, style))
        .collect();
    parts.join("\n")
}

/// Ranges of columns that fit into the room together; a wider column gets a range of its own.
fn chunks(widths: &[usize], room: usize) -> Vec<std::ops::Range<usize>> {
    let mut chunks = Vec::new();
    let (mut start, mut used) = (0, 0);
    for (i, width) in widths.iter().enumerate() {
        if i > start && used + width + 2 > room {
            chunks.push(start..i);
            (start, used) = (i, 0);
        }
        used += width + 2;
    }
    chunks.push(start..widths.len());
    chunks
}

/// Some columns of a table after those that name its rows. A line under the header is the only
/// rule.
fn part(table: &Table, of: std::ops::Range<usize>, layout: Layout, style: Style) -> String {
    let shown: Vec<usize> = (0..table.stub).chain(of).collect();
    let rule = NOTHING.header_separator(LineStyle::none().fill('─'));
    let mut grid = bare(style);
    grid.load_style(rule).set_content_arrangement(ContentArrangement::Disabled);
    let aligned = |cell: Painted, column: &Column| match column.right {
        true => cell.set_alignment(CellAlignment::Right),
        false => cell,
    };
    let header = shown.iter().map(|i| {
        let column = &table.columns[*i];
        let cell = aligned(Painted::new(header_lines(column).join("\n")), column);
        match column.tone {
            Tone::Plain => cell.add_attribute(Attribute::Bold),
            tone => color(tone).map_or(cell.clone(), |color| cell.fg(color)),
        }
    });
    grid.set_header(header.collect::<Vec<_>>());
    let fields: Vec<Fields> = shown.iter().map(|i| Fields::of(table, *i, layout)).collect();
    for row in &table.rows {
        let cells = shown.iter().zip(&fields).map(|(i, fields)| {
            let cell = painted(fields.set(&row[*i].content, layout), row[*i].tone);
            aligned(cell, &table.columns[*i])
        });
        grid.add_row(cells.collect::<Vec<_>>());
    }
    for (i, column) in grid.column_iter_mut().enumerate() {
        let gap = match (i, table.columns[shown[i]].is_unit) {
            (0, _) => 0,
            (_, true) => 1,
            (_, false) => 2,
        };
        column.set_padding((gap, 0));
    }
    grid.trim_fmt() + "\n"
}

/// Widths of the parts of a column's numbers, for alignment.
#[derive(Debug, Default)]
struct Fields {
    value: usize,
    half_width: usize,
    ratio: usize,
    text: usize,
}

/// Value, half of the interval, ratio.
fn parts(m: &Measured) -> (String, Option<String>, Option<String>) {
    let (value, half) = m.scale.parts(m.mean, m.half_width);
    (value, half, m.ratio.map(|(times, open)| number::ratio(times, open)))
}

impl Fields {
    fn of(table: &Table, column: usize, layout: Layout) -> Self {
        let mut fields = Self::default();
        for row in &table.rows {
            match &row[column].content {
                Content::Measured(m) => {
                    let (value, half, ratio) = parts(m);
                    let part = |p: Option<String>| p.as_deref().map_or(0, width);
                    fields.value = fields.value.max(width(&value));
                    fields.half_width = fields.half_width.max(part(half));
                    fields.ratio = fields.ratio.max(part(ratio));
                }
                Content::Missing => fields.value = fields.value.max(1),
                content => fields.text = fields.text.max(width(&aligned(content))),
            }
        }
        if layout == Layout::Beneath {
            fields.text = fields.text.max(fields.ratio);
            fields.ratio = 0;
        }
        fields
    }

    fn numbers(&self) -> usize {
        let optional = |width: usize, gap: usize| if width > 0 { width + gap } else { 0 };
        self.value + optional(self.half_width, 3) + optional(self.ratio, 2)
    }

    fn column(&self, column: &Column) -> usize {
        let header = header_lines(column).iter().map(|l| width(l)).max().unwrap_or(0);
        self.numbers().max(self.text).max(header)
    }

    fn set(&self, content: &Content, layout: Layout) -> String {
        let (value, half, ratio) = match content {
            Content::Missing => (DASH.to_string(), None, None),
            Content::Measured(m) => parts(m),
            content => return aligned(content),
        };
        let mut text = format!("{value:>0$}", self.value);
        match half {
            Some(half) => text += &format!(" ± {half:<0$}", self.half_width),
            None if self.half_width > 0 => text += &" ".repeat(self.half_width + 3),
            None => {}
        }
        match (layout, ratio) {
            (Layout::Beside, ratio) if self.ratio > 0 => {
                text += &format!("  {:>1$}", ratio.unwrap_or_default(), self.ratio);
            }
            (Layout::Beneath, Some(ratio)) => text += &format!("\n{ratio}"),
            _ => {}
        }
        text
    }
}

/// A cell as one line, each part aligned to the right of its width.
fn aligned(content: &Content) -> String {
    match content {
        Content::Aligned(parts) => {
            let parts = parts.iter().map(|(width, part)| format!("{:>width$}", plain(part)));
            parts.collect::<Vec<_>>().join(" ")
        }
        content => plain(content),
    }
}

/// The title, broken if it is long and names an arm, and the note beneath it, broken at spaces.
fn header_lines(column: &Column) -> Vec<String> {
    let mut lines = Vec::new();
    let title = column.title.as_deref().unwrap_or_default();
    for given in title.split('\n') {
        let mut line = String::new();
        for part in given.split_inclusive(['-', ' ', '/', '+']) {
            if column.right && !line.is_empty() && width(&line) + width(part) > LABEL_WIDTH {
                lines.push(std::mem::take(&mut line));
            }
            line += part;
        }
        lines.push(line);
    }
    lines.extend(column.note.split_whitespace().map(str::to_string));
    lines
}

/// Rows of texts, wrapped to the width, with their marks to the left.
fn paragraphs(rows: impl Iterator<Item = Vec<Painted>>, style: Style) -> String {
    let mut table = bare(style);
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    rows.for_each(|row| {
        table.add_row(row);
    });
    for column in table.column_iter_mut() {
        column.set_padding((0, 1));
    }
    table.trim_fmt() + "\n"
}

/// A line in bold, wrapped to the width.
fn bold(text: &str, color: Option<Color>, style: Style) -> String {
    let mut table = bare(style);
    let cell = Painted::new(text).add_attribute(Attribute::Bold);
    let cell = color.map_or(cell.clone(), |color| cell.fg(color));
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.add_row(vec![cell]);
    for column in table.column_iter_mut() {
        column.set_padding((0, 0));
    }
    table.trim_fmt() + "\n"
}

/// A table that does not query the terminal.
fn bare(style: Style) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.force_no_tty().set_width(style.width);
    if style.color {
        table.enforce_styling();
    }
    table
}

fn painted(text: impl ToString, tone: Tone) -> Painted {
    let cell = Painted::new(text);
    let cell = color(tone).map_or(cell.clone(), |color| cell.fg(color));
    match tone {
        Tone::Strong | Tone::Best | Tone::Good | Tone::Bad => cell.add_attribute(Attribute::Bold),
        Tone::Plain | Tone::Soft | Tone::Doubt => cell,
    }
}

fn color(tone: Tone) -> Option<Color> {
    match tone {
        Tone::Plain | Tone::Strong => None,
        Tone::Soft => Some(Color::DarkGrey),
        Tone::Best | Tone::Good => Some(Color::Green),
        Tone::Bad => Some(Color::Red),
        Tone::Doubt => Some(Color::Yellow),
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}
