//! The report for a terminal: metrics down, engines across; quiet, aligned, within the width.

use comfy_table::presets::NOTHING;
use comfy_table::{
    Attribute, Cell as Painted, CellAlignment, Color, ContentArrangement, LineStyle, Table,
};

use super::Style;
use super::document::{Column, Document, Remark, SHARES_TITLE, is_peak};
use super::grid::{Cell, Row};
use super::sections::Block;

const DASH: &str = "–";
/// Labels longer than this are broken at a hyphen.
const LABEL_WIDTH: usize = 14;
/// Narrower terminals get lines that are too long rather than one word per line.
const NARROWEST: u16 = 40;

/// Where the ratio to the baseline stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Beside,
    Beneath,
}

/// One line of the table, over all engines.
struct Line {
    title: String,
    unit: &'static str,
    cells: Vec<Content>,
    best: Option<usize>,
}

enum Content {
    Text(String),
    Number(Cell),
    Missing,
    Empty,
}

pub(super) fn render(document: &Document, style: Style) -> String {
    let style = Style { width: style.width.max(NARROWEST), ..style };
    let mut out = head(document, style);
    if document.columns.is_empty() {
        out += "\nNo engine was run.\n";
    } else {
        out += &grid(&document.columns, &summary_lines(document), style, true);
        if !document.legend.is_empty() {
            let legend = document.legend.join("; ") + ".";
            out += &paragraphs(&[("", legend)], style, Some(Color::DarkGrey));
        }
        if !document.prompts.is_empty() {
            out += &grid(&document.columns, &prompt_lines(document), style, false);
        }
    }
    out.extend(document.blocks.iter().map(|block| of_texts(block, style)));
    out += &section("Reading", "", &document.reading, style);
    if !document.warnings.is_empty() {
        out += &heading("Warnings", style);
        out += &paragraphs(&warnings(document), style, None);
    }
    out += &section("Notes of the engines", "·", &document.notes, style);
    out
}

/// Each with its advice; of neighbours with the same advice, the last one has it.
fn warnings(document: &Document) -> Vec<(&'static str, String)> {
    let next = document.warnings.iter().skip(1).map(Some).chain([None]);
    let item = |(warning, next): (&Remark, Option<&Remark>)| {
        let bullet = if warning.information { "·" } else { "!" };
        match next.is_some_and(|n| n.advice == warning.advice) {
            true => (bullet, warning.message.clone()),
            false => (bullet, format!("{}\n→ {}", warning.message, warning.advice)),
        }
    };
    document.warnings.iter().zip(next).map(item).collect()
}

/// Model and where it ran, above the numbers.
fn head(document: &Document, style: Style) -> String {
    let mut out = paint(&document.title, style, &[Attribute::Bold], None) + "\n";
    if let Some(warning) = document.synthetic {
        out += &paint(warning, style, &[Attribute::Bold], Some(Color::Yellow));
        out.push('\n');
    }
    let longest = document.facts.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
    let named = |(name, fact): &(&str, String)| (format!("{name:<longest$} "), fact.clone());
    let facts: Vec<(String, String)> = document.facts.iter().map(named).collect();
    let facts: Vec<(&str, String)> = facts.iter().map(|(n, f)| (n.as_str(), f.clone())).collect();
    out + &paragraphs(&facts, style, None)
}

fn summary_lines(document: &Document) -> Vec<Line> {
    let text = |title: &str, of: &dyn Fn(&Column) -> Option<String>| Line {
        title: title.into(),
        unit: "",
        cells: document
            .columns
            .iter()
            .map(|c| of(c).map_or(Content::Missing, Content::Text))
            .collect(),
        best: None,
    };
    let mut lines = vec![
        text("Launches", &|c| Some(c.launches.clone())),
        text("Weights", &|c| c.precision[0].clone()),
        text("Compute", &|c| c.precision[1].clone()),
        text("KV cache", &|c| c.precision[2].clone()),
    ];
    if document.columns.iter().any(|c| c.verified.is_some()) {
        lines.push(text("Verified", &|c| c.verified.clone()));
    }
    if !document.rows.is_empty() {
        lines.push(text_only("", document));
    }
    for row in &document.rows {
        lines.push(number_line(row, row.title.clone(), true));
        if is_peak(row) && !document.memory_shares.is_empty() {
            let shares = document.memory_shares.iter().cloned();
            lines.push(Line {
                title: SHARES_TITLE.into(),
                unit: "%",
                cells: shares.map(|s| s.map_or(Content::Missing, Content::Text)).collect(),
                best: None,
            });
        }
    }
    lines
}

fn prompt_lines(document: &Document) -> Vec<Line> {
    let mut lines = Vec::new();
    for (metric, rows) in &document.prompts {
        lines.push(text_only(metric, document));
        lines.extend(rows.iter().map(|row| number_line(row, format!("  {}", row.title), false)));
    }
    lines
}

fn text_only(title: &str, document: &Document) -> Line {
    let cells = document.columns.iter().map(|_| Content::Empty).collect();
    Line { title: title.into(), unit: "", cells, best: None }
}

fn number_line(row: &Row, title: String, whole: bool) -> Line {
    let content = |cell: &Option<Cell>| match cell {
        None => Content::Missing,
        Some(cell) if whole => Content::Number(cell.clone()),
        Some(cell) => {
            Content::Number(Cell { half_width: None, ratio: None, value: cell.value.clone() })
        }
    };
    Line { title, unit: row.unit, cells: row.cells.iter().map(content).collect(), best: row.best }
}

/// Sets the lines as one table; beside each other if they fit, else with the ratios beneath the
/// values, else as several tables below one another.
fn grid(columns: &[Column], lines: &[Line], style: Style, states: bool) -> String {
    let title = lines.iter().map(|l| width(&l.title)).max().unwrap_or(0);
    let unit = lines.iter().map(|l| width(l.unit)).max().unwrap_or(0);
    let room = usize::from(style.width).saturating_sub(title + 1 + unit);
    let widths = |layout| -> Vec<usize> {
        (0..columns.len())
            .map(|i| Fields::of(lines, i, layout).column(&columns[i], states))
            .collect()
    };
    let beside = widths(Layout::Beside);
    let total: usize = beside.iter().map(|w| w + 2).sum();
    let (layout, widths) = match total <= room {
        true => (Layout::Beside, beside),
        false => (Layout::Beneath, widths(Layout::Beneath)),
    };
    let mut out = String::new();
    for chunk in chunks(&widths, room) {
        out.push('\n');
        out += &table(columns, lines, style, layout, chunk, states);
    }
    out
}

/// A block of texts, in as many tables as the width asks for, with its remarks beneath.
fn of_texts(block: &Block, style: Style) -> String {
    let titles = block.lines.iter().map(|l| width(&l.title)).chain([width(&block.title)]);
    let unit = block.lines.iter().map(|l| width(l.unit)).max().unwrap_or(0);
    let room = usize::from(style.width).saturating_sub(titles.max().unwrap_or(0) + 1 + unit);
    let widest = |i: usize| {
        let cells = block.lines.iter().filter_map(|l| l.cells.get(i)?.as_deref().map(width));
        cells.chain([width(&block.columns[i])]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..block.columns.len()).map(widest).collect();
    let right = |text: &str| Painted::new(text).set_alignment(CellAlignment::Right);
    let mut out = String::new();
    for chunk in chunks(&widths, room) {
        let mut table = ruled(style);
        let labels = block.columns[chunk.clone()].iter().map(|c| right(c));
        let bold = |cell: Painted| cell.add_attribute(Attribute::Bold);
        let corner = [Painted::new(&block.title), Painted::new("")];
        table.set_header(corner.into_iter().chain(labels).map(bold).collect::<Vec<_>>());
        for line in &block.lines {
            let cells = chunk
                .clone()
                .map(|i| right(line.cells.get(i).and_then(Option::as_deref).unwrap_or(DASH)));
            let title = [Painted::new(&line.title), Painted::new(line.unit).fg(Color::DarkGrey)];
            table.add_row(title.into_iter().chain(cells).collect::<Vec<_>>());
        }
        out += &format!("\n{}\n", padded(table).trim_fmt());
    }
    let remarks: Vec<(&str, String)> = block.remarks.iter().map(|r| ("", r.clone())).collect();
    out + &paragraphs(&remarks, style, Some(Color::DarkGrey))
}

/// Ranges of columns that fit into the room together; a column wider than it stands alone.
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

fn table(
    columns: &[Column],
    lines: &[Line],
    style: Style,
    layout: Layout,
    chunk: std::ops::Range<usize>,
    states: bool,
) -> String {
    let mut table = ruled(style);
    let fields: Vec<Fields> = chunk.clone().map(|i| Fields::of(lines, i, layout)).collect();
    let mut header = vec![Painted::new(if states { "" } else { "Per prompt" }), Painted::new("")];
    header.extend(columns[chunk.clone()].iter().map(|column| {
        let text = header_lines(column, states).join("\n");
        let cell = Painted::new(text).set_alignment(CellAlignment::Right);
        match column.failed && states {
            true => cell.fg(Color::Red),
            false => cell.add_attribute(Attribute::Bold),
        }
    }));
    table.set_header(header);
    for line in lines {
        let mut row = vec![Painted::new(&line.title), Painted::new(line.unit).fg(Color::DarkGrey)];
        row.extend(chunk.clone().map(|i| {
            let text = fields[i - chunk.start].set(&line.cells[i], layout);
            let cell = Painted::new(text).set_alignment(CellAlignment::Right);
            match line.best == Some(i) {
                true => cell.fg(Color::Green).add_attribute(Attribute::Bold),
                false => cell,
            }
        }));
        table.add_row(row);
    }
    padded(table).trim_fmt() + "\n"
}

/// A table with a line under its header and nothing else.
pub(super) fn ruled(style: Style) -> Table {
    let rule = NOTHING.header_separator(LineStyle::none().fill('─'));
    let mut table = bare(style);
    table.load_style(rule).set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// Title, unit, columns: with room between them.
pub(super) fn padded(mut table: Table) -> Table {
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding(([0, 1, 2][i.min(2)], 0));
    }
    table
}

/// How wide the parts of a column's numbers are, so that they stand under each other.
#[derive(Debug, Default)]
struct Fields {
    value: usize,
    half_width: usize,
    ratio: usize,
    text: usize,
}

impl Fields {
    fn of(lines: &[Line], column: usize, layout: Layout) -> Self {
        let mut fields = Self::default();
        for content in lines.iter().filter_map(|line| line.cells.get(column)) {
            match content {
                Content::Number(cell) => {
                    let part = |p: &Option<String>| p.as_deref().map_or(0, width);
                    fields.value = fields.value.max(width(&cell.value));
                    fields.half_width = fields.half_width.max(part(&cell.half_width));
                    fields.ratio = fields.ratio.max(part(&cell.ratio));
                }
                Content::Text(text) => fields.text = fields.text.max(width(text)),
                Content::Missing => fields.value = fields.value.max(1),
                Content::Empty => {}
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

    fn column(&self, column: &Column, states: bool) -> usize {
        let header = header_lines(column, states).iter().map(|l| width(l)).max().unwrap_or(0);
        self.numbers().max(self.text).max(header)
    }

    fn set(&self, content: &Content, layout: Layout) -> String {
        let (value, half, ratio) = match content {
            Content::Empty => return String::new(),
            Content::Text(text) => return text.clone(),
            Content::Missing => (DASH, None, None),
            Content::Number(c) => (c.value.as_str(), c.half_width.as_deref(), c.ratio.as_deref()),
        };
        let mut text = format!("{value:>0$}", self.value);
        match half {
            Some(half) => text += &format!(" ± {half:<0$}", self.half_width),
            None if self.half_width > 0 => text += &" ".repeat(self.half_width + 3),
            None => {}
        }
        match layout {
            Layout::Beside if self.ratio > 0 => {
                text += &format!("  {:>1$}", ratio.unwrap_or(""), self.ratio);
            }
            Layout::Beneath if ratio.is_some() => {
                text += "\n";
                text += ratio.unwrap_or("");
            }
            _ => {}
        }
        text
    }
}

/// The label, broken where it is long, and what became of the arm.
fn header_lines(column: &Column, states: bool) -> Vec<String> {
    let mut lines = vec![String::new()];
    for part in column.label.split_inclusive(['-', ' ', '/', '+']) {
        let last = lines.len() - 1;
        if !lines[last].is_empty() && width(&lines[last]) + width(part) > LABEL_WIDTH {
            lines.push(part.to_string());
        } else {
            lines[last] += part;
        }
    }
    if states {
        // "failed: compile_failed" on two lines.
        lines.extend(column.state.split_inclusive(' ').map(|s| s.trim().to_string()));
    }
    lines.retain(|line| !line.is_empty());
    lines
}

pub(super) fn section(title: &str, bullet: &str, texts: &[String], style: Style) -> String {
    if texts.is_empty() {
        return String::new();
    }
    let items: Vec<(&str, String)> = texts.iter().map(|text| (bullet, text.clone())).collect();
    heading(title, style) + &paragraphs(&items, style, None)
}

pub(super) fn heading(title: &str, style: Style) -> String {
    format!("\n{}\n", paint(title, style, &[Attribute::Bold], None))
}

/// Texts wrapped to the width, each beside its bullet.
pub(super) fn paragraphs(items: &[(&str, String)], style: Style, color: Option<Color>) -> String {
    let mut table = bare(style);
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    let bullets = items.iter().any(|(bullet, _)| !bullet.is_empty());
    for (bullet, text) in items {
        let mut cell = Painted::new(text);
        if let Some(color) = color {
            cell = cell.fg(color);
        }
        let mut mark = Painted::new(bullet);
        if *bullet == "!" {
            mark = mark.fg(Color::Yellow).add_attribute(Attribute::Bold);
        }
        table.add_row(if bullets { vec![mark, cell] } else { vec![cell] });
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 1));
    }
    table.trim_fmt() + "\n"
}

/// A heading on a line of its own.
pub(super) fn bold(text: &str, style: Style) -> String {
    paint(text, style, &[Attribute::Bold], None)
}

/// One text in bold or in colour.
pub(super) fn paint(
    text: &str,
    style: Style,
    attributes: &[Attribute],
    color: Option<Color>,
) -> String {
    let mut table = bare(style);
    table.load_style(NOTHING);
    let mut cell = Painted::new(text).add_attributes(attributes.to_vec());
    if let Some(color) = color {
        cell = cell.fg(color);
    }
    table.set_content_arrangement(ContentArrangement::Dynamic).add_row(vec![cell]);
    for column in table.column_iter_mut() {
        column.set_padding((0, 0));
    }
    table.trim_fmt()
}

/// A table that asks no terminal anything.
pub(super) fn bare(style: Style) -> Table {
    let mut table = Table::new();
    table.force_no_tty().set_width(style.width);
    if style.color {
        table.enforce_styling();
    }
    table
}

pub(super) fn width(text: &str) -> usize {
    text.chars().count()
}
