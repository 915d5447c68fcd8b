//! A history for reading: its lines, one metric over the commits, and where levels changed.

use jiff::Timestamp;
use serde::Serialize;

use super::grid::{decimals, unit_for};
use super::rows::{Rows, as_csv, as_json};
use super::text::clean;
use super::{Format, Style, table};
use crate::history::{Course, Group, Identity, Line};
use crate::metric::Better;
use crate::record::WeightsSource;
use crate::stats::ChangePoint;
use crate::units::Bytes;

/// Columns of a sparkline.
const SPARK: usize = 48;
/// The least share that its heights span.
const LEAST_SPAN: f64 = 0.05;

/// A line of the history, for other programs.
#[derive(Serialize)]
struct LineRow<'a> {
    identity: i64,
    engine: &'a str,
    label: &'a str,
    model: &'a str,
    quant: &'a str,
    weights: &'static str,
    prompt_set: &'a str,
    cpu_model: &'a str,
    threads: Option<u32>,
    sessions: u64,
    first: String,
    last: String,
}

fn line_row(line: &Line) -> LineRow<'_> {
    let i = &line.identity;
    LineRow {
        identity: line.id,
        engine: &i.engine,
        label: &i.label,
        model: &i.model,
        quant: &i.quant,
        weights: weights(i),
        prompt_set: &i.prompt_set,
        cpu_model: &i.cpu_model,
        threads: i.threads,
        sessions: line.sessions,
        first: line.first.to_string(),
        last: line.last.to_string(),
    }
}

/// What the history holds, line by line.
pub fn list(lines: &[Line], format: Format, style: Style) -> String {
    match format {
        Format::Json => {
            // Here every field of the identity has its place.
            let whole = |line: &Line| {
                serde_json::json!({
                    "id": line.id, "identity": line.identity, "sessions": line.sessions,
                    "first": line.first.to_string(), "last": line.last.to_string(),
                })
            };
            return as_json(&lines.iter().map(whole).collect::<Vec<_>>());
        }
        Format::Csv => return as_csv(lines.iter().map(line_row)),
        Format::Table | Format::Markdown => {}
    }
    let mut rows =
        Rows::new(&["line", "engine", "model", "prompts", "machine", "sessions", "from", "to"]);
    rows.right(&[0, 5]);
    for line in lines {
        let i = &line.identity;
        rows.push(vec![
            line.id.to_string(),
            clean(&i.label),
            bare_model(i),
            clean(&i.prompt_set),
            short_machine(i),
            line.sessions.to_string(),
            date(line.first.as_millisecond()),
            date(line.last.as_millisecond()),
        ]);
    }
    if lines.is_empty() {
        return "No session fits.\n".into();
    }
    let synthetic = lines.iter().map(|line| (line.id, &line.identity));
    let remarks = apart(lines).into_iter().chain(synthetic_lines(synthetic));
    rows.set(format, style) + &remarks.map(|r| remark(format, style, &r)).collect::<String>()
}

/// `Lines 1 and 3 have SYNTHETIC weights: …`, where some have.
fn synthetic_lines<'a>(lines: impl Iterator<Item = (i64, &'a Identity)>) -> Option<String> {
    let synthetic = lines.filter(|(_, i)| i.weights == WeightsSource::Synthetic);
    let mut ids: Vec<i64> = synthetic.map(|(id, _)| id).collect();
    ids.sort_unstable();
    ids.dedup();
    let names: Vec<String> = ids.iter().map(i64::to_string).collect();
    let (noun, verb) = if ids.len() == 1 { ("Line", "has") } else { ("Lines", "have") };
    (!ids.is_empty()).then(|| {
        format!(
            "{noun} {} {verb} SYNTHETIC weights: speed and memory hold, the text means nothing.",
            names.join(", ")
        )
    })
}

/// Why lines that look alike are not one: `line 2 is not line 1: governor, target_cpu`.
fn apart(lines: &[Line]) -> Vec<String> {
    let shown = |line: &Line| {
        let i = &line.identity;
        [i.label.clone(), bare_model(i), i.prompt_set.clone(), short_machine(i)]
    };
    let twin = |(at, line): (usize, &Line)| {
        let twin = lines[..at].iter().rfind(|other| shown(other) == shown(line))?;
        let fields = line.identity.differences(&twin.identity).join(", ");
        Some(format!("Line {} differs from line {} in: {fields}.", line.id, twin.id))
    };
    lines.iter().enumerate().filter_map(twin).collect()
}

/// A sentence beneath a table.
fn remark(format: Format, style: Style, text: &str) -> String {
    match format {
        Format::Markdown => format!("\n{}\n", super::text::escape_markdown(text)),
        _ => table::paragraphs(&[("", text.to_string())], style, None),
    }
}

/// One commit of a line, for other programs.
#[derive(Serialize)]
struct GroupRow<'a> {
    identity: i64,
    label: &'a str,
    model: &'a str,
    quant: &'a str,
    metric: &'static str,
    unit: &'static str,
    better: Better,
    date: String,
    commit: Option<&'a str>,
    dirty: bool,
    sessions: usize,
    launches: u32,
    /// No session of it was cut off.
    complete: bool,
    mean: f64,
    ci95_lo: Option<f64>,
    ci95_hi: Option<f64>,
    /// Change of the level that begins here, as a share.
    change_point: Option<f64>,
    change_point_p: Option<f64>,
}

/// One metric over the commits: the last `last` of each line, all for 0.
pub fn show(courses: &[Course], last: usize, format: Format, style: Style) -> String {
    let all = courses.iter().flat_map(|c| {
        let groups = c.groups();
        let skipped = skipped(&groups, last);
        groups.into_iter().skip(skipped).map(move |g| group_row(c, &g))
    });
    match format {
        Format::Json => return as_json(&all.collect::<Vec<_>>()),
        Format::Csv => return as_csv(all),
        Format::Table | Format::Markdown => {}
    }
    if courses.is_empty() {
        return "No session fits.\n".into();
    }
    let blocks: Vec<String> = courses
        .iter()
        .map(|c| heading(c, format, style) + &commits(c, last, format, style))
        .collect();
    blocks.join("\n")
}

/// How many groups come before the last ones; none where all are wanted.
fn skipped(groups: &[Group], last: usize) -> usize {
    if last == 0 { 0 } else { groups.len().saturating_sub(last) }
}

fn group_row<'a>(course: &'a Course, group: &Group) -> GroupRow<'a> {
    let series = &course.series;
    let revision = &series.revisions[group.revision as usize];
    let change = change_in(course, group);
    GroupRow {
        identity: series.id,
        label: &series.identity.label,
        model: &series.identity.model,
        quant: &series.identity.quant,
        metric: series.metric.name(),
        unit: series.metric.unit().as_str(),
        better: series.metric.better(),
        date: date(series.points[group.points.start].place),
        commit: revision.commit.as_deref(),
        dirty: revision.changed.is_some(),
        sessions: group.points.len(),
        launches: group.launches,
        complete: series.points[group.points.clone()].iter().all(|p| p.complete),
        mean: group.mean,
        ci95_lo: group.interval.map(|i| i.low),
        ci95_hi: group.interval.map(|i| i.high),
        change_point: change.map(|c| c.change),
        change_point_p: change.map(|c| c.p),
    }
}

fn change_in<'a>(course: &'a Course, group: &Group) -> Option<&'a ChangePoint> {
    course.changes().iter().find(|c| group.points.contains(&c.index))
}

fn commits(course: &Course, last: usize, format: Format, style: Style) -> String {
    let series = &course.series;
    let scale = Scale::of(course);
    let mut rows = Rows::new(&["date", "commit", scale.unit, "n", "change", ""]);
    rows.right(&[2, 3, 4]);
    let groups = course.groups();
    let skipped = skipped(&groups, last);
    let (earlier, shown) = groups.split_at(skipped);
    let mut before = earlier.last().map(|g| g.mean);
    for group in shown {
        let revision = &series.revisions[group.revision as usize];
        let several = match group.points.len() {
            1 => String::new(),
            sessions => format!(" in {sessions} sessions"),
        };
        let of = &series.points[group.points.clone()];
        let cut = if of.iter().all(|p| p.complete) { "" } else { ", cut off" };
        let against = before.filter(|b| *b > 0.0).map(|b| percent(group.mean / b - 1.0));
        let change = change_in(course, group).map(|c| {
            let word = if course.is_better(c) { "better" } else { "worse" };
            format!("◆ level {} ({word}), p {:.3}", percent(c.change), c.p)
        });
        rows.push(vec![
            date(series.points[group.points.start].place),
            revision.label().unwrap_or_else(|| "–".into()),
            scale.set(group.mean, group.interval.map(|i| (i.high - i.low) / 2.0)),
            format!("{}{several}{cut}", group.launches),
            against.unwrap_or_default(),
            change.unwrap_or_default(),
        ]);
        before = Some(group.mean);
    }
    let mut out = rows.set(format, style);
    if skipped > 0 {
        let more = format!("{skipped} earlier commits are not shown; --last 0 shows all.");
        out += &remark(format, style, &more);
    }
    out
}

/// Every line with its sparkline, and the changes of its level.
pub fn sparklines(courses: &[Course], style: Style) -> String {
    if courses.is_empty() {
        return "No session fits.\n".into();
    }
    let block = |course: &Course| {
        let changes = course.changes().iter().map(|change| {
            let word = if course.is_better(change) { "better" } else { "worse" };
            format!(
                "◆ {} {word} on {}: {}\n",
                percent(change.change),
                date(course.series.points[change.index].place),
                look_at(course, change)
            )
        });
        heading(course, Format::Table, style) + &changes.collect::<String>()
    };
    courses.iter().map(block).collect::<Vec<_>>().join("\n")
}

/// What the line is, and its sparkline.
fn heading(course: &Course, format: Format, style: Style) -> String {
    let series = &course.series;
    let (title, facts) = (title(course), facts(course));
    let spark = sparkline(series.points.iter().map(|p| p.mean), SPARK);
    match format {
        Format::Markdown => {
            let escape = super::text::escape_markdown;
            format!("### {}\n\n{}\n\n`{spark}`\n\n", escape(&title), escape(&facts))
        }
        _ => format!("{}\n{facts}\n{spark}\n", table::bold(&title, style)),
    }
}

/// `Decode · candle · llama3-1b Q4_0, SYNTHETIC weights · quick`.
pub(super) fn title(course: &Course) -> String {
    let i = &course.series.identity;
    let parts =
        [course.series.metric.title().to_string(), clean(&i.label), model(i), clean(&i.prompt_set)];
    parts.join(" · ")
}

/// `line 3 · AMD EPYC 9R14, 2 threads, 24.9 GB · 12 sessions, 38.1 to 41.2 tok/s, higher is better`.
pub(super) fn facts(course: &Course) -> String {
    let series = &course.series;
    let scale = Scale::of(course);
    let means = || series.points.iter().map(|p| p.mean);
    let least = means().fold(f64::INFINITY, f64::min);
    let most = means().fold(f64::NEG_INFINITY, f64::max);
    let better = match series.metric.better() {
        Better::Higher => "higher",
        Better::Lower => "lower",
    };
    let sessions = match series.points.len() {
        1 => "1 session".to_string(),
        n => format!("{n} sessions"),
    };
    let unit = if scale.unit.is_empty() { String::new() } else { format!(" {}", scale.unit) };
    format!(
        "line {} · {} · {sessions}, {} to {}{unit}, {better} is better",
        series.id,
        machine(&series.identity),
        scale.set(least, None),
        scale.set(most, None),
    )
}

fn bare_model(identity: &Identity) -> String {
    format!("{} {}", clean(&identity.model), clean(&identity.quant))
}

fn model(identity: &Identity) -> String {
    let synthetic = match identity.weights {
        WeightsSource::Synthetic => ", SYNTHETIC weights",
        WeightsSource::Hub | WeightsSource::File => "",
    };
    format!("{}{synthetic}", bare_model(identity))
}

fn weights(identity: &Identity) -> &'static str {
    match identity.weights {
        WeightsSource::Hub => "hub",
        WeightsSource::File => "file",
        WeightsSource::Synthetic => "synthetic",
    }
}

fn short_machine(identity: &Identity) -> String {
    let threads = identity.threads.unwrap_or(identity.processors);
    let cpu = clean(&identity.cpu_model);
    let cpu = format!("{cpu}, {threads} thread{}", if threads == 1 { "" } else { "s" });
    let device = identity.device.as_deref().filter(|d| *d != "cpu").map(clean);
    [cpu].into_iter().chain(device).collect::<Vec<_>>().join(", ")
}

fn machine(identity: &Identity) -> String {
    let parts = [short_machine(identity), Bytes(identity.ram_bytes).to_string()];
    let gpus = identity.gpus.iter().map(|gpu| clean(&gpu.name));
    parts.into_iter().chain(gpus).collect::<Vec<_>>().join(", ")
}

/// A change of level, for other programs.
#[derive(Serialize)]
struct ChangeRow<'a> {
    identity: i64,
    label: &'a str,
    model: &'a str,
    quant: &'a str,
    metric: &'static str,
    unit: &'static str,
    date: String,
    before: f64,
    after: f64,
    change: f64,
    better: bool,
    p: f64,
    last_before: Option<&'a str>,
    first_after: Option<&'a str>,
    look_at: String,
}

/// Where levels changed, the latest change first.
pub fn changes(courses: &[Course], format: Format, style: Style) -> String {
    let mut all: Vec<(&Course, &ChangePoint)> =
        courses.iter().flat_map(|c| c.changes().iter().map(move |change| (c, change))).collect();
    all.sort_by_key(|(c, change)| std::cmp::Reverse(c.series.points[change.index].place));
    let rows = all.iter().map(|(course, change)| change_row(course, change));
    match format {
        Format::Json => return as_json(&rows.collect::<Vec<_>>()),
        Format::Csv => return as_csv(rows),
        Format::Table | Format::Markdown => {}
    }
    let mut rows =
        Rows::new(&["date", "metric", "line", "before", "after", "change", "p", "look at"]);
    rows.right(&[3, 4, 5, 6]);
    for (course, change) in &all {
        let series = &course.series;
        let scale = Scale::of(course);
        let word = if course.is_better(change) { "better" } else { "worse" };
        rows.push(vec![
            date(series.points[change.index].place),
            series.metric.name().into(),
            format!(
                "{} {}, {}",
                series.id,
                clean(&series.identity.label),
                bare_model(&series.identity)
            ),
            scale.set(change.before, None),
            format!("{} {}", scale.set(change.after, None), scale.unit),
            format!("{} {word}", percent(change.change)),
            format!("{:.3}", change.p),
            look_at(course, change),
        ]);
    }
    let mut out = match all.is_empty() {
        true => "No level changed by more than the margin.\n".to_string(),
        false => rows.set(format, style),
    };
    let sessions: usize = courses.iter().map(|c| c.series.points.len()).sum();
    let said = format!(
        "Searched {} line{} of {sessions} session means (E-divisive, permutation test at 0.01). A \
         change point is advice, not a verdict: measure both sides with `llm-bench gate`.",
        courses.len(),
        if courses.len() == 1 { "" } else { "s" }
    );
    out += &remark(format, style, &said);
    let changed = all.iter().map(|(course, _)| (course.series.id, &course.series.identity));
    out.extend(synthetic_lines(changed).map(|said| remark(format, style, &said)));
    let short: Vec<String> = courses
        .iter()
        .filter(|c| c.changes.is_none())
        .map(|c| format!("{} of line {}", c.series.metric.name(), c.series.id))
        .collect();
    if !short.is_empty() {
        let said = format!("Not searched, since a value is not above zero: {}.", short.join(", "));
        out += &remark(format, style, &said);
    }
    out
}

fn change_row<'a>(course: &'a Course, change: &ChangePoint) -> ChangeRow<'a> {
    let series = &course.series;
    let [before, after] = course.around(change);
    ChangeRow {
        identity: series.id,
        label: &series.identity.label,
        model: &series.identity.model,
        quant: &series.identity.quant,
        metric: series.metric.name(),
        unit: series.metric.unit().as_str(),
        date: date(series.points[change.index].place),
        before: change.before,
        after: change.after,
        change: change.change,
        better: course.is_better(change),
        p: change.p,
        last_before: before.commit.as_deref(),
        first_after: after.commit.as_deref(),
        look_at: look_at(course, change),
    }
}

/// `git log A..B`, or what else may explain the change.
pub(super) fn look_at(course: &Course, change: &ChangePoint) -> String {
    let [before, after] = course.around(change);
    match (&before.commit, &after.commit) {
        (Some(a), Some(b)) if a != b => format!("git log {}..{}", short(a), short(b)),
        (Some(_), Some(_)) if before.changed != after.changed => {
            "the same commit: changes that were not committed".into()
        }
        (Some(_), Some(_)) => "the same commit: the machine, not the code".into(),
        _ => "no commit known".into(),
    }
}

fn short(commit: &str) -> &str {
    commit.get(..10).unwrap_or(commit)
}

/// `+6.8 %`.
pub(super) fn percent(share: f64) -> String {
    format!("{:+.1} %", share * 100.0)
}

/// Day of a place, UTC.
pub(super) fn date(ms: i64) -> String {
    let day = Timestamp::from_millisecond(ms).map(|t| t.strftime("%Y-%m-%d").to_string());
    day.unwrap_or_default()
}

/// One unit and one number of digits for a whole line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    pub unit: &'static str,
    pub factor: f64,
    digits: usize,
}

impl Scale {
    pub fn of(course: &Course) -> Self {
        let size = || course.series.points.iter().map(|p| p.mean.abs());
        let least = size().filter(|m| *m > 0.0).fold(f64::INFINITY, f64::min);
        let most = size().fold(0.0, f64::max);
        let (unit, factor) = unit_for(course.series.metric.unit(), least.min(most), most);
        // One digit more than a single table has: here small differences are looked for.
        let digits = decimals(most * factor) + usize::from(most * factor < 1000.0);
        Self { unit, factor, digits }
    }

    /// `38.41 ± 0.62`.
    pub fn set(&self, value: f64, half_width: Option<f64>) -> String {
        let digits = self.digits;
        let value = format!("{:.digits$}", value * self.factor);
        match half_width {
            Some(half) => format!("{value} ± {:.digits$}", half * self.factor),
            None => value,
        }
    }
}

/// Eight heights from the least to the greatest value, neighbours averaged where there are more
/// values than columns. A line that moves by less than 5 % does not fill them: noise is no hills.
pub fn sparkline(values: impl ExactSizeIterator<Item = f64>, columns: usize) -> String {
    const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let width = values.len().div_ceil(columns.max(1)).max(1);
    let values: Vec<f64> = values.collect();
    let bins: Vec<f64> =
        values.chunks(width).map(|bin| bin.iter().sum::<f64>() / bin.len() as f64).collect();
    let least = bins.iter().copied().fold(f64::INFINITY, f64::min);
    let most = bins.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let span = (most - least).max(LEAST_SPAN * most.abs());
    let foot = (most + least - span) / 2.0;
    let height = |x: &f64| match span > 0.0 {
        true => HEIGHTS[((x - foot) / span * 7.0).round().clamp(0.0, 7.0) as usize],
        false => HEIGHTS[3],
    };
    bins.iter().map(height).collect()
}
