//! The comparison as GitHub Markdown: for a step summary or a comment.

use super::super::document::SYNTHETIC;
use super::super::text::escape_markdown as escape;
use super::{Document, File, Line, Mark, PairText, Remark, Weight};
use crate::analysis::verdict::Decision;

const HEADER: &str = "| | | baseline | candidate | change | 95 % interval | 90 % interval | p | \
                      t (df) | g | n | CV | MDE | verdict |\n|:---|:---|---:|---:|---:|---:|---:|\
                      ---:|---:|---:|---:|---:|---:|:---|\n";

pub(super) fn render(document: &Document) -> String {
    let mut out = String::from("### Comparison\n\n");
    if document.synthetic {
        out += &format!("> **{}**\n\n", escape(SYNTHETIC));
    }
    for (name, text) in &document.sides {
        out += &format!("- {name}: {}\n", escape(text));
    }
    for file in &document.files {
        out += &of_file(file);
    }
    if document.files.iter().any(|file| !file.pairs.is_empty()) {
        out += &format!("\n<sub>{}.</sub>\n", escape(&document.legend.join(". ")));
    }
    out
}

fn of_file(file: &File) -> String {
    let mut out = String::new();
    if let Some(name) = &file.name {
        out += &format!("\n#### {}\n", escape(name));
    }
    if file.pairs.is_empty() {
        out += "\n⚪ **Not comparable**: nothing in the two files belongs together\n";
    }
    for pair in &file.pairs {
        out += &of_pair(pair);
    }
    let remarks = file.remarks.iter().map(remark);
    out + &list(file.unpaired.iter().map(|text| escape(text)).chain(remarks))
}

fn of_pair(pair: &PairText) -> String {
    let verdict = escape(&pair.mark.sentence(&pair.why));
    let mut out = format!("\n**{}**\n\n{} {verdict}\n", escape(&pair.title), sign(pair.mark));
    out += &list(pair.remarks.iter().map(remark));
    if !pair.lines.is_empty() {
        out.push('\n');
        out += HEADER;
        out.extend(pair.lines.iter().map(row));
    }
    out + &list(pair.reading.iter().map(|text| escape(text)))
}

fn row(line: &Line) -> String {
    // "5, 1.2 %" is n and CV.
    let spread = |side: &[String; 2]| match side[1].split_once(", ") {
        Some((n, cv)) => [n.to_string(), cv.to_string()],
        None => [side[1].clone(), "–".into()],
    };
    let (a, b) = (spread(&line.baseline), spread(&line.candidate));
    let verdict = Mark::Decided(line.verdict);
    let verdict = match line.decides {
        true => format!("{} {}", sign(verdict), verdict.text()),
        false => format!("({})", verdict.text()),
    };
    let cells = [
        escape(&line.title),
        line.unit.to_string(),
        line.baseline[0].clone(),
        line.candidate[0].clone(),
        format!("**{}**", line.change),
        line.ci95.clone(),
        line.ci90.clone(),
        line.p.replace('<', "&lt;"),
        line.t.clone(),
        line.g.clone(),
        format!("{}, {}", a[0], b[0]),
        format!("{}, {}", a[1], b[1]),
        line.mde.clone(),
        verdict,
    ];
    format!("| {} |\n", cells.join(" | "))
}

fn sign(mark: Mark) -> &'static str {
    match mark {
        Mark::NotComparable => "⚪",
        Mark::Decided(Decision::Regressed) => "🔴",
        Mark::Decided(Decision::Inconclusive) => "🟡",
        Mark::Decided(Decision::Improved | Decision::NotRegressed) => "🟢",
    }
}

fn remark(remark: &Remark) -> String {
    let sign = match remark.weight {
        Weight::Forbids => "**Not comparable**",
        Weight::Warns => "**Warning**",
        Weight::Tells => "Note",
    };
    let advice = remark.advice.as_ref().map(|a| format!(". *{}.*", escape(a))).unwrap_or_default();
    format!("{sign}: {}{advice}", escape(&remark.text))
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    match items.is_empty() {
        true => String::new(),
        false => format!("\n- {}\n", items.join("\n- ")),
    }
}
