//! Progress of a session on stderr: on a terminal a live table with a bar and the time left, one
//! line per launch where there is none.

use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};

use super::drive::Observer;
use crate::metric::{Metric, Rank, Unit};
use crate::plan::Planned;
use crate::progress::say;
use crate::record::{Arm, Launch, Record, Status};
use crate::task;
use crate::units::{Bytes, Seconds, three_digits};

/// The observer of a session: shows each launch and hands the record on to be kept.
pub struct SessionProgress<'a> {
    table: Option<Table>,
    total: usize,
    done: usize,
    /// Whether the user knows that the time allows fewer launches than were planned.
    said_fewer: bool,
    keep: &'a mut dyn FnMut(&mut Record) -> bool,
}

impl<'a> SessionProgress<'a> {
    /// `total` launches of the record's arms; `keep` gets the record after each one, and says
    /// whether it could keep another.
    pub fn new(
        record: &Record,
        total: usize,
        keep: &'a mut dyn FnMut(&mut Record) -> bool,
    ) -> Self {
        let table = std::io::stderr().is_terminal().then(|| Table::new(record, total));
        Self { table, total, done: 0, said_fewer: false, keep }
    }

    /// Removes the table.
    pub fn close(self) {
        if let Some(table) = self.table {
            let _ = table.all.clear();
        }
    }
}

/// The launches of each arm: "3 of pytorch, 4 of candle".
fn fewer(record: &Record, counts: &[u32]) -> String {
    let part = |(arm, n): (&Arm, &u32)| format!("{n} of {}", arm.label);
    let parts: Vec<String> = record.arms.iter().zip(counts).map(part).collect();
    crate::text::clean(&parts.join(", "))
}

impl Observer for SessionProgress<'_> {
    fn begins(&mut self, arm: &Arm, planned: Planned, left: Option<Seconds>) {
        match &self.table {
            Some(table) => table.begins(arm, planned, left),
            None if self.done == 0 => say(&format!("{} launches", self.total)),
            None => {}
        }
    }

    fn finished(&mut self, record: &mut Record, arm: usize) -> bool {
        self.done += 1;
        let room = (self.keep)(record);
        let arm_record = &record.arms[arm];
        match &self.table {
            Some(table) => table.finished(arm_record, arm),
            None => {
                let (label, figures) = (&arm_record.label, last_launch(arm_record));
                say(&format!("[{}/{}] {label}: {figures}", self.done, self.total));
            }
        }
        room
    }

    fn fitted(&mut self, record: &Record, counts: &[u32]) {
        let total = counts.iter().sum::<u32>() as usize;
        if total < self.total && !self.said_fewer {
            self.said_fewer = true;
            say(&format!("the time allows launches: {}", fewer(record, counts)));
        }
        self.total = total;
        if let Some(table) = &self.table {
            table.bar.set_length(total as u64);
        }
    }
}

/// A row for each arm with its medians so far, and a bar below them.
struct Table {
    all: MultiProgress,
    rows: Vec<ProgressBar>,
    width: usize,
    bar: ProgressBar,
    /// When the session should end, as estimated at the start of the launch that runs now.
    end: Arc<Mutex<Option<Instant>>>,
}

impl Table {
    fn new(record: &Record, total: usize) -> Self {
        let all = MultiProgress::new();
        let plain = ProgressStyle::with_template("{msg}").expect("a constant template");
        let width = record.arms.iter().map(|arm| arm.label.chars().count()).max().unwrap_or(0);
        let rows: Vec<ProgressBar> = record
            .arms
            .iter()
            .map(|arm| {
                let row = all.add(ProgressBar::new(0).with_style(plain.clone()));
                row.set_message(figures(arm, width));
                row
            })
            .collect();
        let end = Arc::new(Mutex::new(None));
        let form = "{spinner} {pos}/{len} {bar:20} {elapsed_precise} {left}{wide_msg}";
        let at_end = Arc::clone(&end);
        let style = ProgressStyle::with_template(form).expect("a constant template").with_key(
            "left",
            move |_: &ProgressState, out: &mut dyn Write| {
                if let Some(left) = at_end.lock().unwrap().map(time_left) {
                    let _ = write!(out, "{left}");
                }
            },
        );
        let bar = all.add(ProgressBar::new(total as u64).with_style(style));
        // Twice a second: some microseconds of one processor, well under a thousandth.
        bar.enable_steady_tick(Duration::from_millis(500));
        Self { all, rows, width, bar, end }
    }

    fn begins(&self, arm: &Arm, planned: Planned, left: Option<Seconds>) {
        *self.end.lock().unwrap() = left.map(|s| Instant::now() + Duration::from_secs_f64(s.0));
        self.bar.set_message(format!("{} #{}", arm.label, planned.index + 1));
    }

    fn finished(&self, arm: &Arm, index: usize) {
        self.rows[index].set_message(figures(arm, self.width));
        self.bar.inc(1);
    }
}

/// Counts down to `end`.
fn time_left(end: Instant) -> String {
    let left = end.saturating_duration_since(Instant::now()).as_secs();
    format!("ETA {:02}:{:02} ", left / 60, left % 60)
}

/// A row of the table: medians of the main metrics over the launches so far.
fn figures(arm: &Arm, width: usize) -> String {
    let good = arm.launches.iter().filter(|l| l.status == Status::Ok).count();
    let mut row = format!("{:<width$}  {good:>3}", arm.label);
    let main = Metric::measured().filter(|m| m.rank() == Rank::Primary);
    for (metric, summary) in main.filter_map(|m| Some((m, arm.metrics.get(&m)?))) {
        let _ = write!(row, "  {} {}", metric.title(), figure(metric, summary.median));
    }
    if good < arm.launches.len() {
        let _ = write!(row, "  {}", last_launch(arm));
    }
    crate::text::clean(&row)
}

/// A launch in one line, by the columns of its task; empty if it has none of them.
pub(super) fn in_a_line(launch: &Launch) -> String {
    let part = |(name, metric): &(&str, Metric)| {
        let value = launch.metrics.get(metric)?;
        Some(format!("{name} {}", figure(*metric, *value)))
    };
    let parts = task::COLUMNS.iter().flat_map(|columns| columns.line).filter_map(part);
    parts.collect::<Vec<_>>().join(", ")
}

/// A value with its unit.
fn figure(metric: Metric, value: f64) -> String {
    match metric.unit() {
        Unit::Seconds => Seconds(value).to_string(),
        Unit::Bytes => Bytes(value as u64).to_string(),
        Unit::BytesPerSecond => format!("{}/s", Bytes(value as u64)),
        unit => format!("{} {}", three_digits(value), unit.as_str()),
    }
}

/// What the last launch came to, in a line.
fn last_launch(arm: &Arm) -> String {
    let Some(launch) = arm.launches.last() else { return String::new() };
    let line = match launch.status {
        Status::Failed => {
            let why = launch.error.as_ref().map_or("", |e| e.message.as_str());
            format!("failed: {}", why.lines().next().unwrap_or_default())
        }
        Status::Ok => {
            let line = in_a_line(launch);
            if line.is_empty() { "measured".into() } else { line }
        }
    };
    crate::text::clean(&line)
}
