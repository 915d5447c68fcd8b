//! Progress of a session on stderr: a bar with the live figure and the time left on a terminal,
//! one line per launch where there is none.

use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use super::drive::Observer;
use crate::metric::Metric;
use crate::plan::Planned;
use crate::progress::say;
use crate::record::{Arm, Record, Status};
use crate::units::{Seconds, three_digits};

/// The observer of `run`: shows each launch and hands the record on to be kept.
pub struct SessionProgress<'a> {
    bar: Option<ProgressBar>,
    /// When the session should end, as estimated at the start of the launch that runs now.
    end: Arc<Mutex<Option<Instant>>>,
    total: usize,
    done: usize,
    last: String,
    keep: &'a mut dyn FnMut(&mut Record),
}

impl<'a> SessionProgress<'a> {
    /// `total` launches; `keep` gets the record after each one.
    pub fn new(total: usize, keep: &'a mut dyn FnMut(&mut Record)) -> Self {
        let end = Arc::new(Mutex::new(None));
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total as u64);
            let form = "{spinner} {pos}/{len} {bar:20} {elapsed_precise} {left}{wide_msg}";
            let end = Arc::clone(&end);
            let style = ProgressStyle::with_template(form).expect("a constant template").with_key(
                "left",
                move |_: &ProgressState, out: &mut dyn Write| {
                    if let Some(left) = end.lock().unwrap().map(time_left) {
                        let _ = write!(out, "{left}");
                    }
                },
            );
            bar.set_style(style);
            // Twice a second: some microseconds of one processor, well under a thousandth.
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        });
        Self { bar, end, total, done: 0, last: String::new(), keep }
    }

    /// Removes the bar.
    pub fn close(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Counts down to `end`.
fn time_left(end: Instant) -> String {
    let left = end.saturating_duration_since(Instant::now()).as_secs();
    format!("ETA {:02}:{:02} ", left / 60, left % 60)
}

impl Observer for SessionProgress<'_> {
    fn begins(&mut self, arm: &Arm, planned: Planned, left: Option<Seconds>) {
        *self.end.lock().unwrap() = left.map(|s| Instant::now() + Duration::from_secs_f64(s.0));
        match &self.bar {
            Some(bar) => {
                bar.set_message(format!("{} #{}{}", arm.label, planned.index + 1, self.last));
            }
            None if self.done == 0 => say(&format!("{} launches", self.total)),
            None => {}
        }
    }

    fn finished(&mut self, record: &mut Record, arm: usize) {
        self.done += 1;
        let label = record.arms[arm].label.clone();
        let told = record.arms[arm].launches.last().map(|launch| match launch.status {
            Status::Failed => {
                let why = launch.error.as_ref().map_or("", |e| e.message.as_str());
                format!("failed: {}", why.lines().next().unwrap_or_default())
            }
            Status::Ok => {
                let figure = |metric| launch.metrics.get(&metric).map(|v| three_digits(*v));
                match (figure(Metric::DecodeTps), figure(Metric::PrefillTps)) {
                    (Some(d), Some(p)) => format!("decode {d} tok/s, prefill {p} tok/s"),
                    (Some(d), None) => format!("decode {d} tok/s"),
                    _ => "measured".into(),
                }
            }
        });
        let told = crate::report::clean(&told.unwrap_or_default());
        match &self.bar {
            Some(bar) => {
                bar.set_position(self.done as u64);
                self.last = format!(" · {label}: {told}");
            }
            None => say(&format!("[{}/{}] {label}: {told}", self.done, self.total)),
        }
        (self.keep)(record);
    }
}
