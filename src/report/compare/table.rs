//! The comparison for a terminal: metrics down, two lines for each; wide where there is room.

use comfy_table::{Attribute, Cell, CellAlignment, Color};

use super::super::Style;
use super::super::document::SYNTHETIC;
use super::super::table::{heading, padded, paint, paragraphs, ruled, width};
use super::{Direction, Document, File, Line, Mark, PairText, Remark, Weight};
use crate::analysis::verdict::Decision;

/// Narrower terminals get lines that are too long.
const NARROWEST: u16 = 60;

/// A column: two lines of header, two lines of every metric.
struct Column {
    header: [&'static str; 2],
    of: fn(&Line) -> [String; 2],
}

const WIDE: &[Column] = &[
    Column { header: ["baseline", "n, CV"], of: |l| l.baseline.clone() },
    Column { header: ["candidate", "n, CV"], of: |l| l.candidate.clone() },
    Column { header: ["change", ""], of: |l| [l.change.clone(), String::new()] },
    Column { header: ["95 % interval", "90 %"], of: |l| [l.ci95.clone(), l.ci90.clone()] },
    Column { header: ["p", "t (df)"], of: |l| [l.p.clone(), l.t.clone()] },
    Column { header: ["g", ""], of: |l| [l.g.clone(), String::new()] },
    Column { header: ["MDE", "n for it"], of: |l| [l.mde.clone(), l.needed.clone()] },
];

const NARROW: &[Column] = &[
    Column { header: ["baseline", "n, CV"], of: |l| l.baseline.clone() },
    Column { header: ["candidate", "n, CV"], of: |l| l.candidate.clone() },
    Column { header: ["change", "95 % interval"], of: |l| [l.change.clone(), l.ci95.clone()] },
    Column { header: ["p", "g"], of: |l| [l.p.clone(), l.g.clone()] },
];

pub(super) fn render(document: &Document, style: Style) -> String {
    let style = Style { width: style.width.max(NARROWEST), ..style };
    let longest = document.sides.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
    let sides = document.sides.iter();
    let sides: Vec<(String, String)> =
        sides.map(|(name, text)| (format!("{name:<longest$} "), text.clone())).collect();
    let sides: Vec<(&str, String)> = sides.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
    let mut out = String::new();
    if document.synthetic {
        out += &paint(SYNTHETIC, style, &[Attribute::Bold], Some(Color::Yellow));
        out.push('\n');
    }
    out += &paragraphs(&sides, style, None);
    for file in &document.files {
        out += &of_file(file, style);
    }
    if document.files.iter().any(|file| !file.pairs.is_empty()) {
        let legend = document.legend.join(". ") + ".";
        out.push('\n');
        out += &paragraphs(&[("", legend)], style, Some(Color::DarkGrey));
    }
    out
}

fn of_file(file: &File, style: Style) -> String {
    let mut out = String::new();
    if let Some(name) = &file.name {
        out += &heading(&format!("── {name} ──"), style);
    }
    if file.pairs.is_empty() {
        let text = "Not comparable: nothing in the two files belongs together";
        out.push('\n');
        out += &paint(text, style, &[Attribute::Bold], Some(Color::Red));
        out.push('\n');
    }
    for pair in &file.pairs {
        out += &of_pair(pair, style);
    }
    out += &list("Without a partner", &file.unpaired, style);
    if !file.remarks.is_empty() {
        out += &heading("Around both", style);
        out += &remarks(&file.remarks, style);
    }
    out
}

fn of_pair(pair: &PairText, style: Style) -> String {
    let mut out = heading(&pair.title, style);
    let color = match pair.mark {
        Mark::NotComparable => Some(Color::Red),
        Mark::Decided(decision) => color(decision),
    };
    out += &paint(&pair.mark.sentence(&pair.why), style, &[Attribute::Bold], color);
    out.push('\n');
    if !pair.remarks.is_empty() {
        out += &remarks(&pair.remarks, style);
    }
    if !pair.lines.is_empty() {
        let wide = grid(pair, WIDE, false, Style { color: false, ..style });
        let fits = wide.lines().all(|line| width(line) <= usize::from(style.width));
        out.push('\n');
        out += &if fits { grid(pair, WIDE, false, style) } else { grid(pair, NARROW, true, style) };
    }
    let reading: Vec<(&str, String)> = pair.reading.iter().map(|r| ("·", r.clone())).collect();
    if !reading.is_empty() {
        out.push('\n');
        out += &paragraphs(&reading, style, None);
    }
    out
}

/// The metrics; `mde_beneath` puts the minimum detectable effect beneath the verdict.
fn grid(pair: &PairText, columns: &[Column], mde_beneath: bool, style: Style) -> String {
    let mut table = ruled(style);
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    let bold = |cell: Cell| cell.add_attribute(Attribute::Bold);
    let grey = |cell: Cell| cell.fg(Color::DarkGrey);
    let mut header = vec![Cell::new("")];
    header.extend(columns.iter().map(|c| bold(right(c.header.join("\n")))));
    header.push(bold(Cell::new(if mde_beneath { "verdict\nMDE" } else { "verdict\n" })));
    table.set_header(header);
    let mut told = true;
    for line in &pair.lines {
        if told && !line.decides {
            table.add_row(vec![grey(Cell::new("(not deciding)"))]);
            told = false;
        }
        let texts: Vec<[String; 2]> = columns.iter().map(|c| (c.of)(line)).collect();
        let mut upper = vec![Cell::new(&line.title)];
        upper.extend(texts.iter().zip(columns).map(|(text, column)| {
            let cell = right(text[0].clone());
            match line.direction {
                Some(Direction::Worse) if column.header[0] == "change" => cell.fg(Color::Red),
                Some(Direction::Better) if column.header[0] == "change" => cell.fg(Color::Green),
                _ => cell,
            }
        }));
        let verdict = Cell::new(line.verdict.as_str());
        upper.push(match color(line.verdict) {
            Some(color) if line.decides => bold(verdict.fg(color)),
            _ if line.decides => verdict,
            _ => grey(verdict),
        });
        table.add_row(upper);
        let mut lower = vec![grey(Cell::new(format!("  {}", line.unit)))];
        lower.extend(texts.iter().map(|text| grey(right(text[1].clone()))));
        lower.push(grey(Cell::new(if mde_beneath { line.mde.as_str() } else { "" })));
        table.add_row(lower);
    }
    let mut table = padded(table);
    if let Some(column) = table.column_mut(1) {
        column.set_padding((2, 0));
    }
    table.trim_fmt() + "\n"
}

fn color(decision: Decision) -> Option<Color> {
    match decision {
        Decision::Regressed => Some(Color::Red),
        Decision::Improved => Some(Color::Green),
        Decision::Inconclusive => Some(Color::Yellow),
        Decision::NotRegressed => None,
    }
}

fn remarks(remarks: &[Remark], style: Style) -> String {
    let item = |remark: &Remark| {
        let bullet = match remark.weight {
            Weight::Forbids => "✗",
            Weight::Warns => "!",
            Weight::Tells => "·",
        };
        let advice = remark.advice.as_ref().map(|a| format!("\n→ {a}")).unwrap_or_default();
        (bullet, format!("{}{advice}", remark.text))
    };
    paragraphs(&remarks.iter().map(item).collect::<Vec<_>>(), style, None)
}

fn list(title: &str, items: &[String], style: Style) -> String {
    if items.is_empty() {
        return String::new();
    }
    let items: Vec<(&str, String)> = items.iter().map(|text| ("·", text.clone())).collect();
    heading(title, style) + &paragraphs(&items, style, None)
}
