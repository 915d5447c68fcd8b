//! Compares result files: what each one is, what differs, and a verdict for each pair of arms.

use super::SYNTHETIC;
use crate::analysis::foreign::{SampledArm, Source};
use crate::analysis::pairing::{Against, ArmPair, Compared, How, Row};
use crate::analysis::verdict::{Decision, Rule, Side};
use crate::identity::{Difference, Severity};
use crate::metric::Better;
use crate::number::{Form, Scale, share};
use crate::record::Warning;
use crate::report::document::{
    Block, Cell, Column, Content, Document, Level, Mark, Measured, Medium, Remark, Remarks, Table,
    Tone, joined,
};
use crate::report::{Format, Style, write};
use crate::text::clean;

mod json;

/// Writes a comparison in one of the formats; ends with a newline.
pub fn render(compared: &Compared<'_>, format: Format, style: Style) -> String {
    match format {
        Format::Csv => write::csv::render(&rows(compared)),
        Format::Json => json::render(compared),
        _ => write::for_readers(format, style, |medium| document(compared, medium)),
    }
}

fn document(compared: &Compared<'_>, medium: Medium) -> Document {
    let candidates: Vec<&Source> = compared.against.iter().map(|a| a.candidate).collect();
    let several = candidates.len() > 1;
    let mut document = Document::default();
    if medium == Medium::Page {
        document.push(Block::Heading(Level::Report, "Comparison".into()));
    }
    if candidates.iter().chain([&compared.baseline]).any(|source| source.synthetic) {
        document.push(Block::Caution(SYNTHETIC.into()));
    }
    let mut sides = vec![("baseline".to_string(), side(compared.baseline))];
    sides.extend(candidates.iter().zip(1..).map(|(source, i)| {
        let name = if several { format!("candidate {i}") } else { "candidate".into() };
        (name, side(source))
    }));
    document.push(Block::Facts(sides));
    for against in &compared.against {
        if several {
            document.push(Block::Heading(Level::Part, clean(&against.candidate.file)));
        }
        file(&mut document, against, medium);
    }
    if compared.against.iter().any(|against| !against.pairs.is_empty()) {
        document.push(Block::Legend(vec![legend(compared)]));
    }
    document
}

/// The file, and when, where and by what it was made.
fn side(source: &Source) -> String {
    let head = [source.file.clone()].into_iter();
    let tool = source.facts.first().is_none_or(|f| !f.starts_with(source.format.name()));
    let tool = tool.then(|| source.format.name().to_string());
    joined(head.chain(tool).chain(source.facts.iter().cloned()))
}

fn file(document: &mut Document, against: &Against<'_>, medium: Medium) {
    if against.pairs.is_empty() {
        let text = "nothing in the two files belongs together";
        document.push(Outcome::NotComparable.block(text, medium));
    }
    for pair in &against.pairs {
        self::pair(document, pair, medium);
    }
    document.remarks(Remarks::all("Without a partner", Mark::Plain, unpaired(against)));
    let mut remarks: Vec<Remark> = against.differences.iter().map(difference).collect();
    remarks.extend(against.warnings.iter().map(warning));
    document.remarks(Remarks { title: "Around both", items: remarks });
}

fn unpaired(against: &Against<'_>) -> Vec<String> {
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
    unpaired
}

fn warning(warning: &Warning) -> Remark {
    let mark = match warning.code.as_str() {
        "machine_unknown" | "other_definition" | "one_program" | "resumed" | "other_session" => {
            Mark::Note
        }
        _ => Mark::Warning,
    };
    Remark::advised(mark, clean(&warning.message), clean(&warning.advice))
}

fn difference(difference: &Difference) -> Remark {
    let shown = |side: &Option<String>| match side {
        Some(text) if text.is_empty() => "nothing".to_string(),
        Some(text) => clean(text),
        None => "not recorded".into(),
    };
    let (a, b) = (shown(&difference.baseline), shown(&difference.candidate));
    let mark = match difference.severity {
        Severity::Refuse => Mark::Forbids,
        Severity::Warn => Mark::Warning,
    };
    Remark::new(mark, format!("{} differs: {a} → {b}", clean(&difference.title)))
}

/// The outcome for a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    NotComparable,
    Decided(Decision),
}

impl Outcome {
    fn text(self) -> &'static str {
        match self {
            Outcome::NotComparable => "not comparable",
            Outcome::Decided(decision) => decision.as_str(),
        }
    }

    fn tone(self) -> Tone {
        match self {
            Outcome::NotComparable => Tone::Bad,
            Outcome::Decided(decision) => super::tone(decision),
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Outcome::NotComparable => "⚪",
            Outcome::Decided(Decision::Regressed) => "🔴",
            Outcome::Decided(Decision::Inconclusive) => "🟡",
            Outcome::Decided(Decision::Improved | Decision::NotRegressed) => "🟢",
        }
    }

    /// `Regressed: decode_tps`, on a page after its sign.
    fn block(self, why: &str, medium: Medium) -> Block {
        let text = match why.strip_prefix(self.text()) {
            Some(_) => why.to_string(),
            None => format!("{}: {why}", self.text()),
        };
        let mut letters = text.chars();
        let text: String =
            letters.next().map_or(String::new(), |c| c.to_uppercase().chain(letters).collect());
        match medium {
            Medium::Terminal => Block::Verdict(text, self.tone()),
            Medium::Page => Block::Text(format!("{} {text}", self.sign())),
        }
    }
}

fn pair(document: &mut Document, pair: &ArmPair<'_>, medium: Medium) {
    let (a, b) = (pair.baseline, pair.candidate);
    let both = |a: &str, b: &str| match a == b {
        true => a.to_string(),
        false => format!("{a} → {b}"),
    };
    let title = joined([both(&a.label, &b.label), both(&a.on, &b.on)]);
    document.push(Block::Heading(Level::Detail, title));
    document.push(match pair.comparable {
        true => {
            let outcome = Outcome::Decided(pair.decision());
            outcome.block(&clean(&pair.judgement.why), medium)
        }
        false => {
            let why = "what was measured differs; the numbers below are no verdict";
            Outcome::NotComparable.block(why, medium)
        }
    });
    let differences = pair.differences.iter().map(difference).collect();
    document.remarks(Remarks { title: "", items: differences });
    if !pair.rows.is_empty() {
        let narrower = || Some(Box::new(stacked(&pair.rows, false)));
        document.push(Block::Table(match medium {
            Medium::Terminal => Table { narrower: narrower(), ..stacked(&pair.rows, true) },
            Medium::Page => flat(&pair.rows),
        }));
    }
    document.remarks(Remarks::all("", Mark::Plain, reading(pair)));
}

fn reading(pair: &ArmPair<'_>) -> Vec<String> {
    let mut reading = Vec::new();
    if pair.how == How::OnlyOnes {
        reading.push("Not the same by name: compared because each file has one arm.".to_string());
    }
    reading.extend(pair.rows.iter().filter_map(|row| sentence(row, pair.judgement.rule)));
    for (side, names) in ["baseline", "candidate"].iter().zip(&pair.one_sided) {
        if !names.is_empty() {
            reading.push(format!("Only the {side} has {}.", clean(&names.join(", "))));
        }
    }
    reading
}

/// Why a metric got its decision, unless the table says it all.
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

fn title(row: &Row) -> String {
    match &row.test {
        None => row.metric.title().to_string(),
        Some(test) if row.part => format!("{}, {}", row.metric.title(), clean(test)),
        Some(test) => clean(test),
    }
}

fn scale(row: &Row) -> Scale {
    let sides = [&row.judged.baseline, &row.judged.candidate];
    Scale::of(row.metric.unit(), sides.into_iter().map(|side| side.mean))
}

fn mean(side: &Side, scale: Scale) -> Cell {
    Measured { mean: side.mean, half_width: None, ratio: None, scale }.into()
}

/// The p-value, or why there is none.
fn p(row: &Row) -> Cell {
    match row.judged.p_raw {
        None if row.judged.exact => "exact".into(),
        p => Cell::maybe(p, Form::P),
    }
}

/// `-19.69 (7.3)`: t and degrees of freedom.
fn t(row: &Row) -> Cell {
    let parts = row.judged.t_raw.zip(row.judged.df_raw).map(|(t, df)| {
        let end = Content::Text(")".into());
        let df = Content::Joined(vec![Content::Number(df, Form::Fixed(1)), end], "");
        Content::Joined(vec![Content::Number(t, Form::Fixed(2)), df], " (")
    });
    parts.into()
}

/// The change, in the colour of its direction if it has one.
fn change(row: &Row) -> Cell {
    let judged = &row.judged;
    let worse = match judged.better {
        Better::Higher => judged.change < 0.0,
        Better::Lower => judged.change > 0.0,
    };
    let clear = judged.ci95.is_some_and(|[low, high]| low > 0.0 || high < 0.0);
    Cell::number(judged.change, Form::Change).toned(match (clear, worse) {
        (false, _) => Tone::Plain,
        (true, true) => Tone::Bad,
        (true, false) => Tone::Good,
    })
}

/// For a terminal: two lines per metric, with less in them if the room is small.
fn stacked(rows: &[Row], wide: bool) -> Table {
    let two = |lines: [&str; 2]| lines.join("\n");
    let both = ["baseline", "candidate"].map(|side| two([side, "n, CV"]));
    let others: &[[&str; 2]] = match wide {
        true => &[
            ["change", ""],
            ["95 % interval", "90 %"],
            ["p", "t (df)"],
            ["g", ""],
            ["MDE", "would do"],
        ],
        false => &[["change", "95 % interval"], ["p", "g"]],
    };
    let others = others.iter().map(|lines| two(*lines));
    let verdict = if wide { two(["verdict", ""]) } else { two(["verdict", "MDE"]) };
    let numbers = both.into_iter().chain(others).map(Column::right);
    let mut table =
        Table::new([Column::left("")].into_iter().chain(numbers).chain([Column::left(verdict)]));
    let mut deciding = true;
    for row in rows {
        let judged = &row.judged;
        if deciding && !judged.primary {
            let empty = std::iter::repeat_n(Cell::empty(), table.columns.len() - 1);
            let head = Cell::from("(not deciding)").toned(Tone::Soft);
            table.push([head].into_iter().chain(empty).collect());
            deciding = false;
        }
        let scale = scale(row);
        let spread = |side: &Side| {
            let n = Content::Number(side.n as f64, Form::Count);
            let cv = side.cv.map(|cv| Content::Number(cv, Form::Share));
            Cell::from(Content::Joined([n].into_iter().chain(cv).collect(), ", "))
        };
        let g = Cell::maybe(judged.hedges_g, Form::Fixed(2));
        let mde = Cell::maybe(judged.mde, Form::Share);
        let ci95 = Cell::interval(judged.ci95, Form::Change);
        let ci90 = Cell::interval(judged.ci90, Form::Change);
        let outcome = Cell::from(judged.decision.as_str()).toned(match judged.primary {
            true => super::tone(judged.decision),
            false => Tone::Soft,
        });
        let needed = judged.launches_needed.into();
        let numbers = match wide {
            true => vec![
                [change(row), Cell::empty()],
                [ci95, ci90],
                [p(row), t(row)],
                [g, Cell::empty()],
                [mde.clone(), needed],
            ],
            false => vec![[change(row), ci95], [p(row), g]],
        };
        let sides = [&judged.baseline, &judged.candidate];
        let sides = sides.map(|side| [mean(side, scale), spread(side)]);
        let beneath = if wide { Cell::empty() } else { mde };
        let lines = [[title(row).into(), format!("  {}", scale.unit).into()]]
            .into_iter()
            .chain(sides)
            .chain(numbers)
            .chain([[outcome, beneath]]);
        let (upper, lower): (Vec<Cell>, Vec<Cell>) = lines.map(|[a, b]| (a, b)).unzip();
        table.push(upper);
        table.push(lower.into_iter().map(|cell| cell.toned(Tone::Soft)).collect());
    }
    table
}

/// For a page: one column per value.
fn flat(rows: &[Row]) -> Table {
    let numbers = [
        "baseline",
        "candidate",
        "change",
        "95 % interval",
        "90 % interval",
        "p",
        "t (df)",
        "g",
        "n",
        "CV",
        "MDE",
    ];
    let head = [Column::untitled(), Column::untitled()];
    let numbers = numbers.map(Column::right);
    let mut table = Table::new(head.into_iter().chain(numbers).chain([Column::left("verdict")]));
    for row in rows {
        let judged = &row.judged;
        let scale = scale(row);
        let sides = [&judged.baseline, &judged.candidate];
        let outcome = Outcome::Decided(judged.decision);
        let n = sides.map(|side| Content::Number(side.n as f64, Form::Count));
        let cv =
            |side: &Side| side.cv.map_or(Content::Missing, |cv| Content::Number(cv, Form::Share));
        table.push(vec![
            title(row).into(),
            scale.unit.into(),
            mean(sides[0], scale),
            mean(sides[1], scale),
            change(row).toned(Tone::Strong),
            Cell::interval(judged.ci95, Form::Change),
            Cell::interval(judged.ci90, Form::Change),
            p(row),
            t(row),
            Cell::maybe(judged.hedges_g, Form::Fixed(2)),
            Content::Joined(n.to_vec(), ", ").into(),
            Content::Joined(sides.map(cv).to_vec(), ", ").into(),
            Cell::maybe(judged.mde, Form::Share),
            match judged.primary {
                true => format!("{} {}", outcome.sign(), outcome.text()).into(),
                false => format!("({})", outcome.text()).into(),
            },
        ]);
    }
    table
}

fn legend(compared: &Compared<'_>) -> String {
    let rules = compared.rules;
    let margins = rules.margins.iter().map(|(name, m)| format!(", {name} {}", share(*m)));
    let margins: String = margins.collect();
    let rule = match rules.rule {
        Rule::Rank => "one-sided rank-sum tests of the shift, Holm over the metrics that decide",
        Rule::Welch => {
            "--rule welch: one-sided Welch tests on logarithms, Holm over the metrics that decide"
        }
        Rule::Point => "--rule point: the mean beyond the margin and p < α",
    };
    format!(
        "Margin {}{margins}; α {}; {rule}. change: ratio of geometric means; p, t (df): plain \
         Welch on the raw values. g: Hedges; MDE: the least change that these launches would see \
         four times in five; would do: launches on each side that decide the metric as often.",
        share(rules.margin),
        rules.alpha
    )
}

/// The keys of a row for programs.
const KEYS: &str = "baseline_file,candidate_file,baseline,candidate,on,metric,test,unit,better,decides,\
    comparable,decision,margin_rule,point_rule,margin,change,ci95_lo,ci95_hi,ci90_lo,\
    ci90_hi,p_raw,t_raw,df_raw,p,p_reg,p_reg_holm,p_ok,p_improved,p_improved_holm,\
    hedges_g,mde,launches_needed,real_but_small,exact,baseline_n,baseline_mean,\
    baseline_sd,baseline_cv,baseline_median,candidate_n,candidate_mean,candidate_sd,\
    candidate_cv,candidate_median";

/// One row per pair of arms and metric.
fn rows(compared: &Compared<'_>) -> Table {
    let mut table = Table::keyed(KEYS);
    for against in &compared.against {
        let files = [&compared.baseline.file, &against.candidate.file];
        for pair in &against.pairs {
            pair.rows.iter().for_each(|row| table.push(values(files, pair, row)));
        }
    }
    table
}

fn values(files: [&String; 2], pair: &ArmPair<'_>, row: &Row) -> Vec<Cell> {
    let j = &row.judged;
    let number = |x: Option<f64>| Cell::maybe(x, Form::Twelve);
    let texts =
        [files[0], files[1], &pair.baseline.label, &pair.candidate.label, &pair.candidate.on];
    let mut cells: Vec<Cell> = texts.iter().map(|text| clean(text).into()).collect();
    let test = row.test.as_deref().map(clean);
    cells.extend([row.metric.name().into(), test.into(), row.metric.unit().as_str().into()]);
    cells.extend([super::better(j.better).into(), j.primary.into(), pair.comparable.into()]);
    let rules = [j.decision, j.margin_rule, j.point_rule];
    cells.extend(rules.map(|d| d.as_str().replace(' ', "_").into()));
    cells.extend([Some(j.margin), Some(j.change)].map(number));
    for interval in [j.ci95, j.ci90] {
        cells.extend([0, 1].map(|end| number(interval.map(|ends| ends[end]))));
    }
    cells.extend([j.p_raw, j.t_raw, j.df_raw, j.p, j.p_reg, j.p_reg_holm, j.p_ok].map(number));
    cells.extend([j.p_improved, j.p_improved_holm, j.hedges_g, j.mde].map(number));
    cells.extend([j.launches_needed.into(), j.real_but_small.into(), j.exact.into()]);
    for side in [&j.baseline, &j.candidate] {
        cells.push(side.n.into());
        cells.extend([Some(side.mean), side.sd, side.cv, Some(side.median)].map(number));
    }
    cells
}
