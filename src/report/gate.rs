//! A gate's verdict as text: a table for the terminal, Markdown for a job's summary and a pull
//! request's comment, JSON.

pub mod self_check;

use comfy_table::{Attribute, Cell, CellAlignment, Color};

use super::grid::{decimals, unit_for};
use super::table::{heading, paint, paragraphs, ruled};
use super::text::escape_markdown as escape;
use super::{Style, clean};
use crate::analysis::gate::{Gate, Outcome, Side};
use crate::analysis::identity::{Difference, Severity};
use crate::analysis::is_information;
use crate::analysis::requirement::{Checked, State};
use crate::analysis::verdict::{Decision, Judged, Judgement};
use crate::metric::{Metric, Rank};
use crate::record::WeightsSource;
use crate::units::three_digits;

const DASH: &str = "–";
const HEADER: [&str; 10] =
    ["", "", "Baseline", "Candidate", "Change", "90 % interval", "Verdict", "p", "n", "MDE"];
const LEGEND: &str = "Baseline and candidate: means over launches; change: ratio of the geometric \
means; p: Welch's t on logarithms, two-sided; MDE: the least change that these launches would see \
four times in five.";

/// The verdict as JSON; ends with a newline.
pub fn json(gate: &Gate) -> String {
    // String keys and plain values: there is nothing that JSON could refuse.
    serde_json::to_string_pretty(gate).expect("a verdict is valid JSON") + "\n"
}

/// For a terminal.
pub fn table(gate: &Gate, style: Style) -> String {
    let mut out = String::new();
    let facts: Vec<(&str, String)> = facts(gate);
    out += &paragraphs(&facts, style, None);
    let lines = lines(gate, true);
    if !lines.is_empty() {
        out += "\n";
        out += &grid(&lines, style);
        let others = self::lines(gate, false);
        if !others.is_empty() {
            out += &heading("Not gated", style);
            out += &grid(&others, style);
        }
        out += &paragraphs(&[("", LEGEND.to_string())], style, Some(Color::DarkGrey));
    }
    if !gate.requirements.is_empty() {
        out += &heading("Requirements", style);
        let of = |one: &Checked| (mark(one.state), format!("{}\n{}", one.requirement, one.why));
        out += &paragraphs(&gate.requirements.iter().map(of).collect::<Vec<_>>(), style, None);
    }
    if !gate.differences.is_empty() {
        out += &heading("Differences between baseline and candidate", style);
        let of = |d: &Difference| (if refuses(d) { "!" } else { "·" }, difference(d));
        out += &paragraphs(&gate.differences.iter().map(of).collect::<Vec<_>>(), style, None);
    }
    if !gate.warnings.is_empty() {
        out += &heading("Warnings", style);
        let of = |w: &crate::record::Warning| {
            let bullet = if is_information(&w.code) { "·" } else { "!" };
            (bullet, format!("{}\n→ {}", clean(&w.message), clean(&w.advice)))
        };
        out += &paragraphs(&gate.warnings.iter().map(of).collect::<Vec<_>>(), style, None);
    }
    let color = match gate.outcome {
        Outcome::Passed | Outcome::Improved => Color::Green,
        Outcome::Regressed => Color::Red,
        Outcome::Inconclusive | Outcome::NotComparable => Color::Yellow,
    };
    out += "\n";
    out += &paint(&verdict(gate), style, &[Attribute::Bold], Some(color));
    out + "\n"
}

/// As GitHub Markdown, beneath a heading of `title`.
pub fn markdown(gate: &Gate, title: &str) -> String {
    let mut out = format!("### {}: {}\n\n", escape(&clean(title)), gate.outcome.as_str());
    out += &format!("**{}**\n", escape(&verdict(gate)));
    let lines = lines(gate, true);
    if !lines.is_empty() {
        out += &format!("\n{}", markdown_grid(&lines));
    }
    if !gate.requirements.is_empty() {
        out += "\n| Requirement | Ratio | Interval | n | |\n|:---|---:|---:|---:|:---|\n";
        for one in &gate.requirements {
            let ratio = one.ratio.map_or(DASH.into(), three_digits);
            let interval = one.interval.map_or(DASH.into(), |[low, high]| {
                format!("{}–{}", three_digits(low), three_digits(high))
            });
            let n = format!("{}/{}", one.n[0], one.n[1]);
            let requirement = escape(&one.requirement);
            let state = mark(one.state);
            out += &format!("| {requirement} | {ratio} | {interval} | {n} | {state} |\n");
        }
    }
    let list = |items: Vec<String>| match items.is_empty() {
        true => String::new(),
        false => format!("\n- {}\n", items.join("\n- ")),
    };
    out += &list(gate.differences.iter().map(|d| escape(&difference(d))).collect());
    let warning = |w: &crate::record::Warning| {
        let mark = if is_information(&w.code) { "Note" } else { "**Warning**" };
        format!("{mark}: {}. *{}.*", escape(&clean(&w.message)), escape(&clean(&w.advice)))
    };
    out += &list(gate.warnings.iter().map(warning).collect());
    let others = self::lines(gate, false);
    if !others.is_empty() {
        out += "\n<details><summary>Metrics that are not gated</summary>\n\n";
        out += &markdown_grid(&others);
        out += "\n</details>\n";
    }
    if !lines.is_empty() {
        out += &format!("\n<sub>{LEGEND}</sub>\n");
    }
    let fact = |(name, text): (&str, String)| format!("{}: {}", name.trim(), escape(&text));
    out + &list(facts(gate).into_iter().map(fact).collect())
}

/// The body of a comment: Markdown behind a mark that no reader sees and by which the comment is
/// found again. Comments of different titles have different marks.
pub fn comment(gate: &Gate, title: &str) -> String {
    format!("{}\n{}", comment_mark(title), markdown(gate, title))
}

/// The mark of the comment with this title.
pub fn comment_mark(title: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || c == ' ';
    let name: String = title.chars().filter(|c| plain(*c)).collect();
    format!("<!-- llm-bench gate: {name} -->")
}

/// `Regressed: decode_tps changed by …`, on one line.
pub fn verdict(gate: &Gate) -> String {
    let name = gate.outcome.as_str();
    let mut text = name[..1].to_uppercase() + &name[1..];
    text += &format!(": {}", clean_long(&gate.why));
    if gate.outcome.exit_code() != gate.exit_code {
        text += &format!(" (counts as exit code {} here)", gate.exit_code);
    }
    text
}

/// `clean` cuts long texts; reasons are joined from texts of our own.
fn clean_long(text: &str) -> String {
    text.split("; ").map(clean).collect::<Vec<_>>().join("; ")
}

fn facts(gate: &Gate) -> Vec<(&'static str, String)> {
    let s = &gate.setting;
    let weights = match s.weights {
        WeightsSource::Synthetic => ", SYNTHETIC weights",
        WeightsSource::Hub | WeightsSource::File => "",
    };
    let threads = s.threads.map(|n| format!(", {n} threads")).unwrap_or_default();
    let mut facts = vec![
        (
            "model    ",
            clean(&format!("{} {}{weights}; prompts {}", s.model, s.quant, s.prompt_set)),
        ),
        ("machine  ", clean(&format!("{}{threads}, {}", s.cpu_model, s.started_at))),
    ];
    let side = |side: &Side| {
        let failed =
            if side.failed > 0 { format!(", {} failed", side.failed) } else { String::new() };
        clean(&format!("{}; {} launches{failed}", side.what, side.launches))
    };
    facts.extend(gate.baseline.as_ref().map(|b| ("baseline ", side(b))));
    facts.extend(gate.candidate.as_ref().map(|c| ("candidate", side(c))));
    facts.extend(gate.ended.as_ref().map(|e| ("ended    ", clean(e))));
    facts.extend(gate.judgement.as_ref().map(|j| ("rule     ", rule(j, gate.alpha))));
    facts.extend(gate.records.iter().map(|r| ("record   ", clean(r))));
    facts
}

/// `margin 5 % (model_load_s 25 %), α 0.05 over 5 deciding metrics`.
fn rule(judgement: &Judgement, alpha: f64) -> String {
    let primary = || judgement.metrics.iter().filter(|m| m.primary);
    let share = |x: f64| {
        format!("{} %", three_digits(x * 100.0).trim_end_matches('0').trim_end_matches('.'))
    };
    let as_many = |margin: f64| primary().filter(|m| m.margin == margin).count();
    let Some(common) = primary().map(|m| m.margin).max_by_key(|m| as_many(*m)) else {
        return format!("α {alpha}");
    };
    let others = primary().filter(|m| m.margin != common);
    let others: Vec<String> = others.map(|m| format!("{} {}", m.metric, share(m.margin))).collect();
    let others = match others.is_empty() {
        true => String::new(),
        false => format!(" ({})", others.join(", ")),
    };
    let n = judgement.primaries;
    let level = match judgement.alpha == alpha {
        true => String::new(),
        false => format!(" (each test at {:.4}, as measuring may end early)", judgement.alpha),
    };
    format!("margin {}{others}, α {alpha} over {n} deciding metrics{level}", share(common))
}

/// One row of the table, and how it was decided.
struct Line {
    cells: [String; 10],
    decision: Decision,
}

/// The deciding metrics, or those beside them that a table shows.
fn lines(gate: &Gate, primary: bool) -> Vec<Line> {
    let shown = |m: &&Judged| {
        m.primary == primary
            && (primary || m.metric.parse::<Metric>().is_ok_and(|m| m.rank() <= Rank::Shown))
    };
    gate.judgement.iter().flat_map(|j| &j.metrics).filter(shown).map(line).collect()
}

fn line(m: &Judged) -> Line {
    let found = m.metric.parse::<Metric>().ok();
    let means = [m.baseline.mean, m.candidate.mean];
    let (unit, factor) = found
        .map_or(("", 1.0), |f| unit_for(f.unit(), means[0].min(means[1]), means[0].max(means[1])));
    let value = |mean: f64| format!("{:.*}", decimals(mean * factor), mean * factor);
    let interval =
        m.ci90.map_or(DASH.into(), |[low, high]| format!("{} … {}", signed(low), signed(high)));
    let mut verdict = m.decision.as_str().to_string();
    if m.real_but_small {
        verdict += ", real but small";
    }
    if m.point_rule != m.margin_rule {
        // The other rule stands beside the one that decides.
        let other = if m.decision == m.margin_rule { m.point_rule } else { m.margin_rule };
        let name = if m.decision == m.margin_rule { "point" } else { "Welch" };
        verdict += &format!(" ({name}: {})", other.as_str());
    }
    let share = |x: f64| format!("{:.1} %", x * 100.0);
    let cells = [
        found.map_or_else(|| clean(&m.metric), |f| f.title().to_string()),
        unit.to_string(),
        value(m.baseline.mean),
        value(m.candidate.mean),
        signed(m.change),
        if m.exact { "exact".into() } else { interval },
        verdict,
        m.p.map_or(DASH.into(), probability),
        match m.baseline.n == m.candidate.n {
            true => m.baseline.n.to_string(),
            false => format!("{}/{}", m.baseline.n, m.candidate.n),
        },
        m.mde.map_or(DASH.into(), share),
    ];
    Line { cells, decision: m.decision }
}

/// `+1.2 %`, `−0.4 %`, `+130 %`.
fn signed(change: f64) -> String {
    let percent = change * 100.0;
    let decimals = usize::from(percent.abs() < 99.95);
    let digits = format!("{:.decimals$}", percent.abs());
    let sign = if percent < 0.0 && digits != "0.0" { "−" } else { "+" };
    format!("{sign}{digits} %")
}

fn probability(p: f64) -> String {
    match p {
        p if p < 0.0001 => "<.0001".into(),
        p if p < 0.001 => format!("{p:.4}").trim_start_matches('0').into(),
        p => format!("{p:.3}").trim_start_matches('0').into(),
    }
}

fn grid(lines: &[Line], style: Style) -> String {
    let mut table = ruled(style);
    let right = |i: usize| i >= 2 && i != 6;
    let set = |(i, text): (usize, &str)| match right(i) {
        true => Cell::new(text).set_alignment(CellAlignment::Right),
        false => Cell::new(text),
    };
    let header = HEADER.into_iter().enumerate().map(set);
    table.set_header(header.map(|c| c.add_attribute(Attribute::Bold)).collect::<Vec<_>>());
    for line in lines {
        let paint = |(i, text): (usize, &String)| {
            let cell = set((i, text));
            match (i, line.decision) {
                (1, _) => cell.fg(Color::DarkGrey),
                (6, Decision::Regressed) => cell.fg(Color::Red).add_attribute(Attribute::Bold),
                (6, Decision::Improved) => cell.fg(Color::Green).add_attribute(Attribute::Bold),
                (6, Decision::Inconclusive) => cell.fg(Color::Yellow),
                _ => cell,
            }
        };
        table.add_row(line.cells.iter().enumerate().map(paint).collect::<Vec<_>>());
    }
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding(([0, 1, 2][i.min(2)], 0));
    }
    table.trim_fmt() + "\n"
}

fn markdown_grid(lines: &[Line]) -> String {
    let row = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut out = row(HEADER.map(String::from).to_vec());
    out += "|:---|:---|---:|---:|---:|---:|:---|---:|---:|---:|\n";
    for line in lines {
        let bold = line.decision == Decision::Regressed;
        let cell = |(i, text): (usize, &String)| match bold && i == 6 {
            true => format!("**{}**", escape(text)),
            false => escape(text),
        };
        out += &row(line.cells.iter().enumerate().map(cell).collect());
    }
    out
}

fn mark(state: State) -> &'static str {
    match state {
        State::Met => "met",
        State::Failed => "failed",
        State::Inconclusive => "open",
    }
}

fn refuses(difference: &Difference) -> bool {
    difference.severity == Severity::Refuse
}

/// `CPU: AMD EPYC 9R14 → Intel Xeon`.
fn difference(d: &Difference) -> String {
    let side = |value: &Option<String>| value.clone().unwrap_or_else(|| "not told".into());
    let what = if refuses(d) { " (may not be compared)" } else { "" };
    clean(&format!("{}{what}: {} → {}", d.title, side(&d.baseline), side(&d.candidate)))
}

#[cfg(test)]
mod tests;
