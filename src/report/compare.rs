//! Result files side by side: what is said is decided here, and each format only sets it.

mod csv;
mod json;
mod markdown;
mod table;

use super::document::joined;
use super::grid::{decimals, unit_for};
use super::text::clean;
use super::{Format, Style};
use crate::analysis::foreign::{SampledArm, Source};
use crate::analysis::identity::{Difference, Severity};
use crate::analysis::pairing::{Against, ArmPair, Compared, How, Row};
use crate::analysis::verdict::{Decision, Rule, Side};
use crate::metric::Better;

/// Writes a comparison in one of the formats; ends with a newline.
pub fn render(compared: &Compared<'_>, format: Format, style: Style) -> String {
    match format {
        Format::Table => table::render(&Document::new(compared), style),
        Format::Markdown => markdown::render(&Document::new(compared)),
        Format::Csv => csv::render(compared),
        Format::Json => json::render(compared),
    }
}

/// A comparison without a format. All texts are clean.
struct Document {
    /// `baseline` and `candidate`, and what each file is.
    sides: Vec<(String, String)>,
    synthetic: bool,
    files: Vec<File>,
    /// How to read the numbers.
    legend: Vec<String>,
}

/// One candidate file.
struct File {
    /// Its name, where there are several.
    name: Option<String>,
    pairs: Vec<PairText>,
    unpaired: Vec<String>,
    remarks: Vec<Remark>,
}

struct PairText {
    title: String,
    mark: Mark,
    /// What the mark rests on.
    why: String,
    lines: Vec<Line>,
    reading: Vec<String>,
    remarks: Vec<Remark>,
}

/// The verdict over a pair or a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    NotComparable,
    Decided(Decision),
}

/// Something to know, and how much it weighs.
struct Remark {
    weight: Weight,
    text: String,
    advice: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weight {
    /// The numbers must not be compared.
    Forbids,
    Warns,
    Tells,
}

/// One metric in words.
struct Line {
    title: String,
    unit: &'static str,
    decides: bool,
    /// Mean, then n and CV.
    baseline: [String; 2],
    candidate: [String; 2],
    change: String,
    ci95: String,
    ci90: String,
    p: String,
    /// t and degrees of freedom.
    t: String,
    g: String,
    mde: String,
    needed: String,
    verdict: Decision,
    /// Which way the metric moved, where there is a change at all.
    direction: Option<Direction>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Better,
    Worse,
}

const NONE: &str = "–";

/// Changes beyond this, a hundredfold, are told by their order.
const HUGE: f64 = 100.0;

impl Document {
    fn new(compared: &Compared<'_>) -> Self {
        let candidates: Vec<&Source> = compared.against.iter().map(|a| a.candidate).collect();
        let several = candidates.len() > 1;
        let mut sides = vec![("baseline".to_string(), side(compared.baseline))];
        sides.extend(candidates.iter().zip(1..).map(|(source, i)| {
            let name = if several { format!("candidate {i}") } else { "candidate".into() };
            (name, side(source))
        }));
        let all = || candidates.iter().copied().chain([compared.baseline]);
        Self {
            sides,
            synthetic: all().any(|source| source.synthetic),
            files: compared.against.iter().map(|a| file(a, several)).collect(),
            legend: legend(compared),
        }
    }
}

/// The file, and what made it, when and where.
fn side(source: &Source) -> String {
    let head = [source.file.clone()].into_iter();
    let tool = source.facts.first().is_none_or(|f| !f.starts_with(source.format.name()));
    let tool = tool.then(|| source.format.name().to_string());
    joined(head.chain(tool).chain(source.facts.iter().cloned()))
}

fn file(against: &Against<'_>, several: bool) -> File {
    let mut remarks: Vec<Remark> = against.differences.iter().map(difference).collect();
    remarks.extend(against.warnings.iter().map(|w| Remark {
        weight: match w.code.as_str() {
            "machine_unknown" | "one_program" | "resumed" => Weight::Tells,
            _ => Weight::Warns,
        },
        text: clean(&w.message),
        advice: Some(clean(&w.advice)),
    }));
    let labels = |arms: &[&SampledArm]| {
        let labels: Vec<String> = arms.iter().map(|arm| clean(&arm.label)).collect();
        labels.join(", ")
    };
    let mut unpaired = Vec::new();
    for (side, arms) in ["baseline", "candidate"].iter().zip(&against.unpaired) {
        if !arms.is_empty() {
            unpaired.push(format!("only in the {side}: {}", labels(arms)));
        }
    }
    if let [[a, ..], [b, ..]] = against.unpaired.each_ref().map(Vec::as_slice) {
        let (a, b) = (clean(&a.label), clean(&b.label));
        unpaired.push(format!("--pair '{a}={b}' would compare them all the same"));
    }
    File {
        name: several.then(|| clean(&against.candidate.file)),
        pairs: against.pairs.iter().map(pair).collect(),
        unpaired,
        remarks,
    }
}

fn pair(pair: &ArmPair<'_>) -> PairText {
    let (a, b) = (pair.baseline, pair.candidate);
    let both = |a: &str, b: &str| match a == b {
        true => a.to_string(),
        false => format!("{a} → {b}"),
    };
    let mut reading = Vec::new();
    if pair.how == How::OnlyOnes {
        reading.push("Not the same by name: compared because each file has one arm.".to_string());
    }
    for row in &pair.rows {
        reading.extend(sentence(row, pair.judgement.rule));
    }
    for (side, names) in ["baseline", "candidate"].iter().zip(&pair.one_sided) {
        if !names.is_empty() {
            reading.push(format!("Only the {side} has {}.", clean(&names.join(", "))));
        }
    }
    let mark = match pair.comparable {
        true => Mark::Decided(pair.judgement.decision),
        false => Mark::NotComparable,
    };
    let why = match mark {
        Mark::NotComparable => "what was measured differs; the numbers below are no verdict".into(),
        Mark::Decided(_) => clean(&pair.judgement.why),
    };
    PairText {
        title: joined([both(&a.label, &b.label), both(&a.on, &b.on)]),
        mark,
        why,
        lines: pair.rows.iter().map(line).collect(),
        reading,
        remarks: pair.differences.iter().map(difference).collect(),
    }
}

/// Why a metric was decided as it was, unless the table says it all.
fn sentence(row: &Row, rule: Rule) -> Option<String> {
    let judged = &row.judged;
    if !judged.primary {
        return None;
    }
    let mut text = clean(&judged.why);
    if rule == Rule::Point && judged.margin_rule != judged.decision {
        text += &format!("; the tests against the margin say {}", judged.margin_rule.as_str());
    } else if judged.decision == Decision::NotRegressed && !judged.real_but_small {
        return None;
    }
    Some(text + ".")
}

fn difference(difference: &Difference) -> Remark {
    let shown = |side: &Option<String>| match side {
        Some(text) if text.is_empty() => "nothing".to_string(),
        Some(text) => clean(text),
        None => "not recorded".into(),
    };
    let (a, b) = (shown(&difference.baseline), shown(&difference.candidate));
    Remark {
        weight: match difference.severity {
            Severity::Refuse => Weight::Forbids,
            Severity::Warn => Weight::Warns,
        },
        text: format!("{} differs: {a} → {b}", clean(&difference.title)),
        advice: None,
    }
}

fn line(row: &Row) -> Line {
    let judged = &row.judged;
    let means = [judged.baseline.mean, judged.candidate.mean];
    let (least, greatest) = (means[0].min(means[1]), means[0].max(means[1]));
    let (unit, factor) = unit_for(row.metric.unit(), least, greatest);
    let shown = |side: &Side| {
        let mean = side.mean * factor;
        let spread = side.cv.map_or(String::new(), |cv| format!(", {}", percent(cv)));
        [format!("{mean:.*}", decimals(mean)), format!("{}{spread}", side.n)]
    };
    let or_none = |text: Option<String>| text.unwrap_or_else(|| NONE.into());
    let title = match &row.test {
        None => row.metric.title().to_string(),
        Some(test) if row.part => format!("{}, {}", row.metric.title(), clean(test)),
        Some(test) => clean(test),
    };
    let worse = match judged.better {
        Better::Higher => judged.change < 0.0,
        Better::Lower => judged.change > 0.0,
    };
    let clear = judged.ci95.is_some_and(|[low, high]| low > 0.0 || high < 0.0);
    Line {
        title,
        unit,
        decides: judged.primary,
        baseline: shown(&judged.baseline),
        candidate: shown(&judged.candidate),
        change: change(judged.change),
        ci95: or_none(judged.ci95.map(interval)),
        ci90: or_none(judged.ci90.map(interval)),
        p: match judged.p_raw {
            Some(p) if p < 0.001 => "<0.001".into(),
            Some(p) => format!("{p:.3}"),
            None if judged.exact => "exact".into(),
            None => NONE.into(),
        },
        t: or_none(judged.t_raw.zip(judged.df_raw).map(|(t, df)| format!("{t:.2} ({df:.1})"))),
        g: or_none(judged.hedges_g.map(|g| format!("{g:.2}"))),
        mde: or_none(judged.mde.map(percent)),
        needed: or_none(judged.launches_needed.map(|n| n.to_string())),
        verdict: judged.decision,
        direction: clear.then_some(if worse { Direction::Worse } else { Direction::Better }),
    }
}

fn legend(compared: &Compared<'_>) -> Vec<String> {
    let rules = compared.rules;
    let margins = rules.margins.iter().map(|(name, m)| format!(", {name} {}", share(*m)));
    let margins: String = margins.collect();
    let rule = match rules.rule {
        Rule::Welch => "one-sided Welch tests on logarithms, Holm over the metrics that decide",
        Rule::Point => "--rule point: the mean beyond the margin and p < α",
    };
    vec![
        format!("Margin {}{margins}; α {}; {rule}", share(rules.margin), rules.alpha),
        "change: ratio of geometric means; p, t (df): plain Welch on the raw values".into(),
        "g: Hedges; MDE: the least change that these launches would see four times in five".into(),
    ]
}

/// A change, signed: `-6.03 %`, `+12.3 %`, `+240 %`.
fn change(x: f64) -> String {
    if x == 0.0 {
        return "0 %".into();
    }
    match x.abs() < HUGE {
        true => format!("{:+.*} %", places(x), 100.0 * x),
        false => format!("{:+.0e} %", 100.0 * x),
    }
}

/// `-7.12 … -4.90 %`, both ends with as many digits; one number where nothing varies.
fn interval([low, high]: [f64; 2]) -> String {
    if low == high {
        return change(low);
    }
    if high >= HUGE {
        return format!("{} … {}", change(low).trim_end_matches(" %"), change(high));
    }
    let places = places(low.abs().max(high.abs()));
    format!("{:+.places$} … {:+.places$} %", 100.0 * low, 100.0 * high)
}

fn places(x: f64) -> usize {
    match x.abs() {
        x if x < 0.09995 => 2,
        x if x < 0.9995 => 1,
        _ => 0,
    }
}

/// A share as `4.2 %`, `14 %`.
fn percent(x: f64) -> String {
    if x >= HUGE {
        return format!("{:.0e} %", 100.0 * x);
    }
    format!("{:.*} %", usize::from(x.abs() < 0.0995), 100.0 * x)
}

/// A share with all its digits: `5 %`, `2.5 %`.
fn share(x: f64) -> String {
    let text = format!("{:.3}", 100.0 * x);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

impl Mark {
    fn text(self) -> &'static str {
        match self {
            Mark::NotComparable => "not comparable",
            Mark::Decided(decision) => decision.as_str(),
        }
    }

    /// `Regressed: decode_tps`
    fn sentence(self, why: &str) -> String {
        let text = match why.strip_prefix(self.text()) {
            Some(_) => why.to_string(),
            None => format!("{}: {why}", self.text()),
        };
        let mut letters = text.chars();
        letters.next().map_or(String::new(), |c| c.to_uppercase().chain(letters).collect())
    }
}
