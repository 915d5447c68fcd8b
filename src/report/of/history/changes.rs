//! The changes of level in a history: rows for programs, sentences for readers.

use super::{MOST_CHANGES, bare_model, date, look_at, percent, scale, synthetic_lines, word};
use crate::history::Course;
use crate::number::{self, Form, count};
use crate::report::document::{Block, Cell, Column, Document, Table};
use crate::report::{Format, Style, write};
use crate::stats::{ChangeKind, ChangePoint, Interval};
use crate::text::clean;

/// The changes of level, the latest first.
pub fn changes(courses: &[Course], format: Format, style: Style) -> String {
    match format {
        Format::Json => write::json::rows(&change_rows(courses)),
        Format::Csv => write::csv::render(&change_rows(courses)),
        _ => write::for_readers(format, style, |_| changes_document(courses)),
    }
}

pub(super) fn latest<'a>(
    courses: impl IntoIterator<Item = &'a Course>,
) -> Vec<(&'a Course, &'a ChangePoint)> {
    let mut all: Vec<(&Course, &ChangePoint)> = courses
        .into_iter()
        .flat_map(|c| c.changes().iter().map(move |change| (c, change)))
        .collect();
    all.sort_by_key(|(c, change)| std::cmp::Reverse(c.series.points[change.index].place));
    all
}

fn change_rows(courses: &[Course]) -> Table {
    let mut table = Table::keyed(
        "identity,label,model,quant,metric,unit,date,before,after,change,better,p,\
         last_before,first_after,look_at,kind,before_ci95_lo,before_ci95_hi,after_ci95_lo,\
         after_ci95_hi,change_ci95_lo,change_ci95_hi,extent_sessions,extent_from,extent_to,\
         extent_first,extent_last,autocorrelation,sessions",
    );
    for (course, change) in latest(courses) {
        let series = &course.series;
        let [before, after] = course.around(change);
        let exact = |x: f64| Cell::number(x, Form::Exact);
        let extent = course.extent(change);
        let (first, last) = (extent.and_then(<[_]>::first), extent.and_then(<[_]>::last));
        table.push(vec![
            series.id.into(),
            series.identity.label.as_str().into(),
            series.identity.model.as_str().into(),
            series.identity.quant.as_str().into(),
            series.metric.name().into(),
            series.metric.unit().as_str().into(),
            date(series.points[change.index].place).into(),
            exact(change.before),
            exact(change.after),
            exact(change.change),
            course.is_better(change).into(),
            exact(change.p),
            before.commit.as_deref().into(),
            after.commit.as_deref().into(),
            look_at(course, change).into(),
            kind(change).into(),
            exact(change.before_interval.low),
            exact(change.before_interval.high),
            exact(change.after_interval.low),
            exact(change.after_interval.high),
            exact(change.change_interval.low),
            exact(change.change_interval.high),
            extent.map(|points| points.len() as i64).map_or_else(Cell::missing, Cell::from),
            first.map_or_else(Cell::missing, |p| date(p.place).into()),
            last.map_or_else(Cell::missing, |p| date(p.place).into()),
            first.and_then(|p| series.revision(p).commit.as_deref()).into(),
            last.and_then(|p| series.revision(p).commit.as_deref()).into(),
            Cell::maybe(course.levels.as_ref().map(|l| l.autocorrelation), Form::Exact),
            series.points.len().into(),
        ]);
    }
    table
}

/// The word for it in JSON and CSV.
fn kind(change: &ChangePoint) -> &'static str {
    match change.kind {
        ChangeKind::Step => "step",
        ChangeKind::Ramp(_) => "ramp",
        ChangeKind::Transient(_) => "transient",
    }
}

/// How a change went on: `ramp over 12 sessions, 2026-01-02 to 2026-01-13`.
fn course_of(course: &Course, change: &ChangePoint) -> String {
    let (Some([first, ..]), Some([.., last])) = (course.extent(change), course.extent(change))
    else {
        return String::new();
    };
    let sessions = course.extent(change).map_or(0, <[_]>::len);
    let (sessions, from) = (count(sessions, "session"), date(first.place));
    let to = date(last.place);
    match &change.kind {
        ChangeKind::Step => String::new(),
        ChangeKind::Ramp(_) => format!("ramp over {sessions}, {from} to {to}"),
        ChangeKind::Transient(range) if range.end == change.index => {
            format!("end of the transient of {sessions} from {from}: back to the old level")
        }
        ChangeKind::Transient(_) => {
            format!("transient: {sessions}, {from} to {to}, then back to the old level")
        }
    }
}

/// The same after a comma; nothing for a step.
pub(super) fn aside(course: &Course, change: &ChangePoint) -> String {
    match course_of(course, change) {
        text if text.is_empty() => text,
        text => format!(", {text}"),
    }
}

fn changes_document(courses: &[Course]) -> Document {
    let all = latest(courses);
    let mut table = Table::new([
        Column::left("date"),
        Column::left("metric"),
        Column::left("line"),
        Column::right("before"),
        Column::right("after"),
        Column::right("change (95 %)"),
        Column::right("p"),
        Column::left("look at"),
        Column::left(""),
    ]);
    for (course, change) in &all {
        let series = &course.series;
        let scale = scale(course);
        let line = format!(
            "{} {}, {}",
            series.id,
            clean(&series.identity.label),
            bare_model(&series.identity)
        );
        table.push(vec![
            date(series.points[change.index].place).into(),
            series.metric.name().into(),
            line.into(),
            scale.text(change.before, Some(half(change.before_interval))).into(),
            format!(
                "{} {}",
                scale.text(change.after, Some(half(change.after_interval))),
                scale.unit
            )
            .into(),
            format!(
                "{} ({} to {}) {}",
                percent(change.change),
                percent(change.change_interval.low).trim_end_matches(" %"),
                percent(change.change_interval.high),
                word(course, change)
            )
            .into(),
            Cell::number(change.p, Form::P),
            look_at(course, change).into(),
            course_of(course, change).into(),
        ]);
    }
    let mut document = Document::default();
    if !all.is_empty() {
        document.push(Block::Table(table));
    }
    document.blocks.extend(unchanged(courses).into_iter().map(Block::Text));
    let sessions: usize = courses.iter().map(|c| c.series.points.len()).sum();
    document.push(Block::Text(format!(
        "Searched {} of {sessions} session means (penalized likelihood, autocorrelation allowed \
         for; without a change about 1 line in 100 raises a false alarm, more where fewer than 60 \
         sessions correlate). A change point is advice, not a verdict: \
         measure both sides with `llm-bench gate`.",
        count(courses.len(), "line"),
    )));
    let changed = all.iter().map(|(course, _)| (course.series.id, &course.series.identity));
    document.blocks.extend(synthetic_lines(changed).map(Block::Text));
    let short: Vec<String> = courses
        .iter()
        .filter(|c| c.levels.is_none())
        .map(|c| format!("{} of line {}", c.series.metric.name(), c.series.id))
        .collect();
    if !short.is_empty() {
        document.push(Block::Text(format!(
            "Not searched, since a value is not above zero: {}.",
            short.join(", ")
        )));
    }
    document
}

/// What the lines without a change show: that no level changed, or that there are too few sessions
/// to know.
pub fn unchanged(courses: &[Course]) -> Vec<String> {
    let changed = courses.iter().any(|c| !c.changes().is_empty());
    let mut lines = Vec::new();
    if !changed && courses.iter().any(|c| c.levels.is_some() && !c.too_short()) {
        let margin = courses.iter().map(|c| c.margin).fold(0.0, f64::max);
        lines.push(format!(
            "No level changed by more than the margin of {}.",
            number::share(margin)
        ));
    }
    let short: Vec<&Course> = courses.iter().filter(|c| c.too_short()).collect();
    lines.extend(short.iter().take(MOST_CHANGES).map(|course| too_few(course)));
    if short.len() > MOST_CHANGES {
        let rest = short.len() - MOST_CHANGES;
        lines.push(format!("Too few sessions in {} more.", count(rest, "line")));
    }
    lines
}

fn too_few(course: &Course) -> String {
    let series = &course.series;
    let seen = match course.levels.as_ref().and_then(|levels| levels.visible) {
        Some(least) => format!("a lasting change of {} or more would show", percent_up(least)),
        None => "no change would show".into(),
    };
    format!(
        "{} of line {}: too few sessions to see a change of {} ({}; {seen}).",
        series.metric.name(),
        series.id,
        number::share(course.margin),
        count(series.points.len(), "session"),
    )
}

/// Rounded up, so that no more is promised than holds.
fn percent_up(share: f64) -> String {
    let tenths = (share * 1000.0).ceil();
    match tenths < 100.0 {
        true => format!("{:.1} %", tenths / 10.0),
        false => format!("{:.0} %", (tenths / 10.0).ceil()),
    }
}

fn half(interval: Interval) -> f64 {
    (interval.high - interval.low) / 2.0
}
