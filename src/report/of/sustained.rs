//! How long the speed of an arm lasted: stretch by stretch, and in a sentence.

use crate::analysis::sustained::{Course, SLOW, Stretch, course, stretches};
use crate::number::{Form, text};
use crate::record::Record;
use crate::report::document::{Block, Cell, Column, Document, Level, Table};
use crate::text::clean;

/// A column: its title, its unit, and the number of a stretch.
type Figure = (&'static str, &'static str, fn(&Stretch) -> Option<f64>);

const FIGURES: [Figure; 9] = [
    ("Decode", "tok/s", |s| Some(s.decode_tps)),
    ("Clock", "MHz", |s| s.cpu_mhz),
    ("Temperature", "°C", |s| s.temperature_c),
    ("Throttles", "", |s| s.throttles.map(|n| n as f64)),
    ("Power", "W", |s| s.watts),
    ("Stolen", "%", |s| s.steal.map(|share| 100.0 * share)),
    ("SM clock", "MHz", |s| s.sm_mhz),
    ("Card", "°C", |s| s.gpu_temperature_c),
    ("Card", "W", |s| s.gpu_watts),
];

/// A table and a sentence for each arm that was kept busy.
pub fn add(document: &mut Document, record: &Record) {
    for arm in &record.arms {
        let Some(run) = arm.launches.iter().find_map(|launch| launch.sustained.as_ref()) else {
            continue;
        };
        let stretches = stretches(run);
        let title = format!("{} for {} minutes", clean(&arm.label), run.minutes);
        document.push(Block::Heading(Level::Part, title));
        document.push(Block::Table(table(&stretches)));
        document.push(Block::Text(in_words(&course(&stretches))));
    }
}

fn table(stretches: &[Stretch]) -> Table {
    let figures: Vec<&Figure> =
        FIGURES.iter().filter(|(.., of)| stretches.iter().any(|s| of(s).is_some())).collect();
    let column =
        |(title, unit, _): &&Figure| Column { note: (*unit).into(), ..Column::right(*title) };
    let first = Column { note: "min:s".into(), ..Column::right("From") };
    let mut table = Table::new([first].into_iter().chain(figures.iter().map(column)));
    for stretch in stretches {
        let figure = |(.., of): &&Figure| {
            of(stretch).map_or_else(Cell::missing, |x| Cell::number(x, Form::Significant))
        };
        let row = [clock(stretch.from_s).into()].into_iter().chain(figures.iter().map(figure));
        table.push(row.collect());
    }
    table
}

fn clock(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

fn in_words(course: &Course) -> String {
    let percent = |share: f64| text(share, Form::Percent(0));
    let slow = percent(SLOW);
    match course {
        Course::Steady { slowest } => format!(
            "Steady: no slow-down to below {slow} of the first stretches lasted to the end; the \
             slowest stretch ran at {}.",
            percent(*slowest)
        ),
        Course::Throttled { from_s, share, why } => format!(
            "Throttled from minute {} ({} on): down to {} of the speed of the first stretches, below \
             {slow} to the end; {}.",
            minute(*from_s),
            clock(*from_s),
            percent(*share),
            why.join("; ")
        ),
        Course::Slower { from_s, share } => format!(
            "Slower from minute {} ({} on): down to {} of the speed of the first stretches, below \
             {slow} to the end. Neither clocks nor throttle counters that this machine reports say \
             why; look at the stolen time and at other programs.",
            minute(*from_s),
            clock(*from_s),
            percent(*share)
        ),
        Course::Unknown => "Too short to tell: expected at least two stretches.".into(),
    }
}

/// The number of the minute that begins or runs at this time, from 1.
fn minute(seconds: f64) -> u64 {
    (seconds / 60.0) as u64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_course_is_one_sentence_with_its_rule() {
        let why = vec!["the processor's clock fell from 4000 to 3200 MHz".to_string()];
        let hot = in_words(&Course::Throttled { from_s: 180.0, share: 0.8, why });
        assert!(hot.starts_with("Throttled from minute 4 (3:00 on): down to 80"), "{hot}");
        assert!(hot.contains("below 95"), "{hot}");
        assert!(in_words(&Course::Steady { slowest: 0.97 }).starts_with("Steady"));
    }
}
