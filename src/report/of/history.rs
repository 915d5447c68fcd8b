//! Reports on a history: its lines, one metric over the commits, and where levels changed.

mod changes;

use jiff::Timestamp;

use self::changes::{aside, latest};
pub use self::changes::{changes, unchanged};
use super::weights;
use crate::history::{Course, Group, Identity, Line};
use crate::metric::Metric;
use crate::number::{self, Form, Scale, count};
use crate::record::WeightsSource;
use crate::report::document::{Block, Cell, Column, Document, Level, Measured, Table, Tone};
use crate::report::plot::{
    self, Axis, Field, Look, Plot, Reach, Series as Drawn, Shape, Steps, svg,
};
use crate::report::{Format, Style, write};
use crate::stats::{ChangeKind, ChangePoint};
use crate::text::clean;
use crate::units::Bytes;

const NOTHING: &str = "No session fits.";
/// Nobody reads a page with more lines of one metric than this.
const MOST_LINES: usize = 24;
/// The same for changes in the table at the top.
const MOST_CHANGES: usize = 30;

/// The contents of the history, line by line.
pub fn list(lines: &[Line], format: Format, style: Style) -> String {
    match format {
        // JSON lists every field of the identity.
        Format::Json => {
            let whole = |line: &Line| {
                serde_json::json!({
                    "id": line.id, "identity": line.identity, "sessions": line.sessions,
                    "first": line.first.to_string(), "last": line.last.to_string(),
                })
            };
            write::json::whole(&lines.iter().map(whole).collect::<Vec<_>>())
        }
        Format::Csv => write::csv::render(&line_rows(lines)),
        _ => write::for_readers(format, style, |_| lines_document(lines)),
    }
}

fn line_rows(lines: &[Line]) -> Table {
    let mut table = Table::keyed(
        "identity,engine,label,model,quant,weights,prompt_set,cpu_model,threads,sessions,\
         first,last",
    );
    for line in lines {
        let i = &line.identity;
        table.push(vec![
            line.id.into(),
            i.engine.as_str().into(),
            i.label.as_str().into(),
            i.model.as_str().into(),
            i.quant.as_str().into(),
            weights(i.weights).into(),
            i.prompt_set.as_str().into(),
            i.cpu_model.as_str().into(),
            i.threads.into(),
            (line.sessions as i64).into(),
            line.first.to_string().into(),
            line.last.to_string().into(),
        ]);
    }
    table
}

fn lines_document(lines: &[Line]) -> Document {
    if lines.is_empty() {
        return nothing();
    }
    let mut table = Table::new([
        Column::right("line"),
        Column::left("engine"),
        Column::left("model"),
        Column::left("prompts"),
        Column::left("machine"),
        Column::right("sessions"),
        Column::left("from"),
        Column::left("to"),
    ]);
    for line in lines {
        let i = &line.identity;
        table.push(vec![
            line.id.into(),
            clean(&i.label).into(),
            bare_model(i).into(),
            clean(&i.prompt_set).into(),
            short_machine(i).into(),
            (line.sessions as i64).into(),
            date(line.first.as_millisecond()).into(),
            date(line.last.as_millisecond()).into(),
        ]);
    }
    let synthetic = synthetic_lines(lines.iter().map(|line| (line.id, &line.identity)));
    let remarks = apart(lines).into_iter().chain(synthetic).map(Block::Text);
    Document { blocks: [Block::Table(table)].into_iter().chain(remarks).collect() }
}

fn nothing() -> Document {
    Document { blocks: vec![Block::Text(NOTHING.into())] }
}

/// `Lines 1 and 3 have SYNTHETIC weights: …`, if any line has.
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

/// Why lines that look alike are separate: `line 2 is not line 1: governor, target_cpu`.
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

/// One metric over the commits: the last `last` groups of each line, or all for 0.
pub fn show(courses: &[Course], last: usize, format: Format, style: Style) -> String {
    match format {
        Format::Json => write::json::rows(&group_rows(courses, last)),
        Format::Csv => write::csv::render(&group_rows(courses, last)),
        _ => write::for_readers(format, style, |_| match courses {
            [] => nothing(),
            _ => Document { blocks: courses.iter().flat_map(|c| commits(c, last)).collect() },
        }),
    }
}

/// How many groups to skip at the start, and all groups.
fn shown(course: &Course, last: usize) -> (usize, Vec<Group>) {
    let groups = course.groups();
    let skipped = if last == 0 { 0 } else { groups.len().saturating_sub(last) };
    (skipped, groups)
}

fn group_rows(courses: &[Course], last: usize) -> Table {
    let mut table = Table::keyed(
        "identity,label,model,quant,metric,unit,better,date,commit,dirty,sessions,launches,\
         complete,mean,ci95_lo,ci95_hi,change_point,change_point_p",
    );
    let exact = |x: Option<f64>| Cell::maybe(x, Form::Exact);
    for course in courses {
        let series = &course.series;
        let (skipped, groups) = shown(course, last);
        for group in groups.into_iter().skip(skipped) {
            let revision = &series.revisions[group.revision as usize];
            let change = change_in(course, &group);
            let of = &series.points[group.points.clone()];
            table.push(vec![
                series.id.into(),
                series.identity.label.as_str().into(),
                series.identity.model.as_str().into(),
                series.identity.quant.as_str().into(),
                series.metric.name().into(),
                series.metric.unit().as_str().into(),
                super::better(series.metric.better()).into(),
                date(of[0].place).into(),
                revision.commit.as_deref().into(),
                revision.changed.is_some().into(),
                of.len().into(),
                group.launches.into(),
                of.iter().all(|p| p.complete).into(),
                exact(Some(group.mean)),
                exact(group.interval.map(|i| i.low)),
                exact(group.interval.map(|i| i.high)),
                exact(change.map(|c| c.change)),
                exact(change.map(|c| c.p)),
            ]);
        }
    }
    table
}

fn change_in<'a>(course: &'a Course, group: &Group) -> Option<&'a ChangePoint> {
    course.changes().iter().find(|c| group.points.contains(&c.index))
}

fn commits(course: &Course, last: usize) -> Vec<Block> {
    let series = &course.series;
    let scale = scale(course);
    let mut table = Table::new([
        Column::left("date"),
        Column::left("commit"),
        Column::right(scale.unit),
        Column::right("n"),
        Column::right("change"),
        Column::left(""),
    ]);
    let (skipped, groups) = shown(course, last);
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
        let against = before.filter(|b| *b > 0.0).map(|b| group.mean / b - 1.0);
        let change = change_in(course, group).map(|c| {
            let level = percent(c.change);
            let p = number::text(c.p, Form::P);
            let more = aside(course, c);
            format!("◆ level {level} ({}), p {p}{more}", word(course, c))
        });
        let half_width = group.interval.map(|i| (i.high - i.low) / 2.0);
        table.push(vec![
            date(of[0].place).into(),
            revision.label().map_or_else(Cell::missing, |label| clean(&label).into()),
            Measured { mean: group.mean, half_width, ratio: None, scale }.into(),
            match (several.as_str(), cut) {
                ("", "") => group.launches.into(),
                _ => format!("{}{several}{cut}", group.launches).into(),
            },
            against.map_or_else(Cell::empty, |x| Cell::number(x, Form::ChangeTenths)),
            change.unwrap_or_default().into(),
        ]);
        before = Some(group.mean);
    }
    let more = format!("{skipped} earlier commits are not shown; --last 0 shows all.");
    let more = (skipped > 0).then_some(Block::Text(more));
    [Block::Plot(figure(course)), Block::Table(table)].into_iter().chain(more).collect()
}

/// A sparkline for every line, and the changes of its level.
pub fn sparklines(courses: &[Course], style: Style) -> String {
    let blocks = |course: &Course| {
        let changes = course.changes().iter().map(|change| {
            Block::Text(format!(
                "◆ {} {} on {}: {}{}",
                percent(change.change),
                word(course, change),
                date(course.series.points[change.index].place),
                look_at(course, change),
                aside(course, change)
            ))
        });
        [Block::Plot(figure(course))].into_iter().chain(changes).collect::<Vec<_>>()
    };
    write::for_readers(Format::Table, style, |_| match courses {
        [] => nothing(),
        _ => Document { blocks: courses.iter().flat_map(blocks).collect() },
    })
}

/// Draws the lines as one picture.
pub fn picture(courses: &[Course]) -> String {
    svg::alone(&courses.iter().map(figure).collect::<Vec<_>>())
}

/// A line to be drawn.
pub(super) fn figure(course: &Course) -> Plot {
    let series = &course.series;
    let scale = scale(course);
    let place = |p: &crate::history::Point| {
        let label = series.revision(p).label().map(|label| clean(&label));
        [label.unwrap_or_else(|| "no commit".into()), date(p.place)]
    };
    let point = |(i, p): (usize, &crate::history::Point)| {
        let half_width = p.interval().map(|i| (i.high - i.low) / 2.0);
        let note = count(p.n as usize, "launch");
        plot::Point { note, ..plot::Point::new(i as f64, p.mean, Reach::half(half_width)) }
    };
    let change = |c: &ChangePoint| plot::Change {
        index: c.index,
        before: c.before,
        after: c.after,
        better: course.is_better(c),
        label: percent(c.change),
        told: format!(
            "{} to {} {}, p {}; {}{}",
            scale.text(c.before, None),
            scale.text(c.after, None),
            scale.unit,
            number::text(c.p, Form::P),
            look_at(course, c),
            aside(course, c)
        ),
    };
    let places = Steps::Named(series.points.iter().map(place).collect());
    let line = Drawn {
        name: String::new(),
        hue: 0,
        look: Look::Line,
        points: series.points.iter().enumerate().map(point).collect(),
    };
    let field = Field {
        x: Axis::count("Session", places),
        y: Axis::new(series.metric.title(), scale, Steps::Linear),
        series: vec![line],
        edge: Vec::new(),
        changes: course.changes().iter().map(change).collect(),
    };
    Plot { title: title(course), facts: facts(course), shape: Shape::Field(Box::new(field)) }
}

/// `Decode · candle · llama3-1b Q4_0, SYNTHETIC weights · quick`.
fn title(course: &Course) -> String {
    let i = &course.series.identity;
    let synthetic = match i.weights {
        WeightsSource::Synthetic => ", SYNTHETIC weights",
        WeightsSource::Hub | WeightsSource::File | WeightsSource::Pypi => "",
    };
    let model = format!("{}{synthetic}", bare_model(i));
    let metric = course.series.metric.title().to_string();
    [metric, clean(&i.label), model, clean(&i.prompt_set)].join(" · ")
}

/// `line 3 · AMD EPYC 9R14, 2 threads, 24.9 GB · 12 sessions, 38.1 to 41.2 tok/s, higher is better`.
fn facts(course: &Course) -> String {
    let series = &course.series;
    let scale = scale(course);
    let means = || series.points.iter().map(|p| p.mean);
    let least = means().fold(f64::INFINITY, f64::min);
    let most = means().fold(f64::NEG_INFINITY, f64::max);
    let unit = if scale.unit.is_empty() { String::new() } else { format!(" {}", scale.unit) };
    format!(
        "line {} · {} · {}, {} to {}{unit}, {} is better",
        series.id,
        machine(&series.identity),
        count(series.points.len(), "session"),
        scale.text(least, None),
        scale.text(most, None),
        super::better(series.metric.better()),
    )
}

fn bare_model(identity: &Identity) -> String {
    format!("{} {}", clean(&identity.model), clean(&identity.quant))
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

/// The page for some metrics with the lines of each; metrics without lines are left out.
pub fn page(metrics: &[(Metric, Vec<Course>)]) -> String {
    let mut document = Document::default();
    document.push(Block::Heading(Level::Report, "Results over commits".into()));
    let last = metrics.iter().flat_map(|(_, c)| c).flat_map(|c| &c.series.points);
    document.push(match last.map(|p| p.measured).max() {
        Some(last) => Block::Legend(vec![format!(
            "Last measured on {}. Each point is one session: the mean over its launches, with the \
             95 % interval (Student's t). Axes do not start at zero.",
            date(last)
        )]),
        None => Block::Text(NOTHING.into()),
    });
    page_changes(&mut document, metrics);
    for (metric, courses) in metrics.iter().filter(|(_, courses)| !courses.is_empty()) {
        document.push(Block::Heading(Level::Part, metric.title().to_string()));
        document.push(Block::Legend(vec![format!("{}: {}.", metric.name(), metric.meaning())]));
        let shown = &courses[..courses.len().min(MOST_LINES)];
        document.blocks.extend(shown.iter().map(figure).map(Block::Plot));
        if shown.len() < courses.len() {
            document.push(Block::Legend(vec![format!(
                "{} further lines are not drawn; --engine, --model or --identity choose among \
                 them.",
                courses.len() - shown.len()
            )]));
        }
    }
    write::html::render(&document)
}

fn page_changes(document: &mut Document, metrics: &[(Metric, Vec<Course>)]) {
    let all = latest(metrics.iter().flat_map(|(_, courses)| courses));
    for (_, courses) in metrics {
        document.blocks.extend(unchanged(courses).into_iter().map(Block::Text));
    }
    if all.is_empty() {
        return;
    }
    document.push(Block::Heading(Level::Part, "Changes of level".into()));
    document.push(Block::Legend(vec![
        "Change points that may reach the margin. They say where to look; they are no verdict."
            .into(),
    ]));
    let mut table = Table::new(["Date", "Line", "Change", "Look at"].map(Column::left));
    for (course, change) in all.iter().take(MOST_CHANGES) {
        let tone = if course.is_better(change) { Tone::Good } else { Tone::Bad };
        let (size, more) = (percent(change.change), aside(course, change));
        let text = format!("{size} {}{more}", word(course, change));
        table.push(vec![
            date(course.series.points[change.index].place).into(),
            title(course).into(),
            Cell::from(text).toned(tone),
            look_at(course, change).into(),
        ]);
    }
    document.push(Block::Table(table));
    if all.len() > MOST_CHANGES {
        document.push(Block::Legend(vec![format!(
            "{} older ones are not listed; llm-bench history changes lists all.",
            all.len() - MOST_CHANGES
        )]));
    }
}

/// `git log A..B`, or what may explain the change otherwise.
fn look_at(course: &Course, change: &ChangePoint) -> String {
    let [before, after] = match (&change.kind, course.extent(change)) {
        // From the last session before the ramp to its last one.
        (ChangeKind::Ramp(range), Some([.., last])) => {
            let first = &course.series.points[range.start.saturating_sub(1)];
            [first, last].map(|p| course.series.revision(p))
        }
        _ => course.around(change),
    };
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

fn word(course: &Course, change: &ChangePoint) -> &'static str {
    if course.is_better(change) { "better" } else { "worse" }
}

/// `+6.8 %`.
fn percent(share: f64) -> String {
    number::text(share, Form::ChangeTenths)
}

/// The day of a place, in UTC.
fn date(ms: i64) -> String {
    let day = Timestamp::from_millisecond(ms).map(|t| t.strftime("%Y-%m-%d").to_string());
    day.unwrap_or_default()
}

/// One unit and one number of digits for the whole line.
fn scale(course: &Course) -> Scale {
    Scale::fine(course.series.metric.unit(), course.series.points.iter().map(|p| p.mean))
}
