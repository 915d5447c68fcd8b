//! How fast an answer came, for the user to see. The definitions are those of `run`; one answer,
//! read while it comes, is no measurement.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::session::{Answer, End};
use crate::metric::{Metric, Values};
use crate::record::{PromptRun, Role};
use crate::task::generate::{of_generation, run_of};
use crate::units::{Seconds, three_digits};

/// The figures of one answer.
#[derive(Debug)]
pub struct Figures {
    load: Option<Seconds>,
    /// Tokens of the prompt that were computed, and those that the cache had.
    prefilled: u32,
    reused: u32,
    n: usize,
    values: Values,
    compile: Option<Seconds>,
    end: End,
}

impl Figures {
    /// Of an answer to `n_prompt` tokens.
    pub fn of(answer: &Answer, n_prompt: u32, load: Option<Seconds>, end: End) -> Self {
        let reused = answer.generated.as_ref().and_then(|g| g.value.reused).unwrap_or(0);
        let prefilled = n_prompt - reused;
        let (mut values, mut compile) = (Values::new(), None);
        if let Some(generated) = &answer.generated {
            let compiled = generated.value.compile_ns.filter(|ns| *ns > 0);
            compile = compiled.map(Seconds::from_ns);
            let run = PromptRun {
                n_prompt: prefilled,
                depth: reused,
                ..run_of(Role::Measured, generated, answer.observes)
            };
            values = of_generation(&run);
        }
        Self { load, prefilled, reused, n: answer.tokens.len(), values, compile, end }
    }

    fn seconds(&self, metric: Metric) -> Option<String> {
        self.values.get(&metric).map(|s| Seconds(*s).to_string())
    }

    fn rate(&self, metric: Metric) -> Option<String> {
        self.values.get(&metric).map(|r| format!("{} tok/s", three_digits(*r)))
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = Vec::new();
        rows.extend(self.load.map(|s| ("load", s.to_string())));
        rows.extend(self.seconds(Metric::Ttft).map(|s| ("TTFT", s)));
        rows.extend(self.compile.map(|s| ("compile", format!("{s} inside this answer"))));
        rows.extend(self.rate(Metric::PrefillTps).map(|r| {
            let kept = match self.reused {
                0 => String::new(),
                n => format!(" + {n} cached"),
            };
            let s = if self.prefilled == 1 { "" } else { "s" };
            ("prefill", format!("{r} ({} token{s}{kept})", self.prefilled))
        }));
        rows.extend(self.rate(Metric::DecodeTps).map(|r| ("decode", r)));
        if let (Some(p50), Some(p95)) = (self.seconds(Metric::ItlP50), self.seconds(Metric::ItlP95))
        {
            rows.push(("ITL", format!("p50 {p50}, p95 {p95}")));
        }
        rows.push(("tokens", self.n.to_string()));
        let end = match self.end {
            End::Length => "the length asked for",
            End::Stop => "end of text",
            End::Context => "the context is full",
            End::Cancelled => "Ctrl-C",
        };
        rows.push(("stopped", end.to_string()));
        rows
    }

    /// One figure a line.
    pub fn lines(&self) -> String {
        let rows = self.rows();
        let lines: Vec<String> = rows.iter().map(|(name, v)| format!("{name:<9}{v}")).collect();
        lines.join("\n")
    }

    /// All in one line, for under an answer.
    pub fn line(&self) -> String {
        let short = self.rows().into_iter().filter(|(name, _)| *name != "ITL");
        let parts: Vec<String> = short
            .map(|(name, v)| match name {
                "tokens" => format!("{v} tokens"),
                "stopped" => v,
                _ => format!("{name} {v}"),
            })
            .collect();
        parts.join(" · ")
    }
}

/// A counter on stderr while text goes to a file; on one terminal with the text it would be in
/// its way.
pub struct Live {
    on: bool,
    n: u32,
    first: Option<Instant>,
    shown: Instant,
}

impl Live {
    pub fn new(wanted: bool) -> Self {
        let on = wanted && std::io::stderr().is_terminal() && !std::io::stdout().is_terminal();
        Self { on, n: 0, first: None, shown: Instant::now() }
    }

    /// One more token.
    pub fn token(&mut self) {
        self.n += 1;
        let first = *self.first.get_or_insert_with(Instant::now);
        if !self.on || self.n < 2 || self.shown.elapsed() < Duration::from_millis(200) {
            return;
        }
        self.shown = Instant::now();
        let rate = f64::from(self.n - 1) / first.elapsed().as_secs_f64();
        self.show(&format!("\r{} tokens, {} tok/s ", self.n, three_digits(rate)));
    }

    /// Takes the counter away.
    pub fn close(&mut self) {
        if self.on && self.n > 1 {
            self.show(&format!("\r{:40}\r", ""));
        }
    }

    fn show(&self, text: &str) {
        let mut err = std::io::stderr().lock();
        let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
    }
}
