//! Progress on stderr: a bar with the live figure and the time left on a terminal, one line per
//! stage where there is none.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use crate::units::{Bytes, Seconds};

/// A line of progress outside a session: installing, hashing, reading.
pub fn say(text: &str) {
    eprintln!("{}", crate::text::visible(text));
}

/// The same for what is true of a file, and would otherwise be said each time that it is opened.
pub fn say_once(text: &str) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if SAID.lock().is_ok_and(|mut said| said.insert(text.to_owned())) {
        say(text);
    }
}

/// Where log lines go: stderr, as safe to read as what [`say`] writes.
pub struct Log;

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        say(&String::from_utf8_lossy(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// Progress of something that is counted in bytes.
pub struct ByteProgress {
    what: String,
    bar: Option<ProgressBar>,
    began: Instant,
}

impl ByteProgress {
    pub fn new(what: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            let form = "{msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes} \
                        {decimal_bytes_per_sec} {eta}";
            bar.set_style(ProgressStyle::with_template(form).expect("a constant template"));
            bar.set_message(crate::text::visible(what));
            bar
        });
        if bar.is_none() {
            say(what);
        }
        Self { what: what.to_string(), bar, began: Instant::now() }
    }

    pub fn set(&mut self, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
        }
    }

    /// Ends with a line that says how long it took.
    pub fn done(self, size: Bytes) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        say(&format!("{}: {size} in {}", self.what, Seconds::from(self.began.elapsed())));
    }
}
