//! Is this machine fit to measure on? Checks what the kernel reports (`settings`, `limits`,
//! `activity`: pure readings of a file tree) and what the hardware delivers (`ceilings`). Each
//! finding states what was found and what to do about it.

pub mod activity;
pub mod ceilings;
pub mod gpu;
pub mod limits;
pub mod noise;
pub mod settings;

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use self::ceilings::{Measured, Roofline};
use self::gpu::CardRoofline;
use super::host;
pub use crate::allowance::Tree;
use crate::analysis::noise::Noise;
use crate::record::Host;
use crate::sensors::gpu::ceilings as gpu_ceilings;
use crate::sensors::nvml::Library;
use crate::units::{Bytes, Seconds};

/// The outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Ok,
    Warn,
    /// This machine does not report it.
    Unknown,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub state: State,
    pub found: String,
    /// What to do, or what to keep in mind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Finding {
    pub fn new(check: &'static str, state: State, found: impl Into<String>) -> Self {
        Self { check, state, found: found.into(), advice: None }
    }

    pub fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, State::Ok, found)
    }

    pub fn warn(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(check, State::Warn, found).advice(advice)
    }

    pub fn unknown(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, State::Unknown, found)
    }

    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

/// All findings, in display order.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diagnosis {
    pub schema: &'static str,
    pub host: Host,
    pub threads: u32,
    pub checks: Vec<Finding>,
    pub measured: Measured,
    pub rooflines: Vec<Roofline>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub card_rooflines: Vec<CardRoofline>,
    /// How far apart equal measurements lie, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise: Option<Noise>,
}

pub const SCHEMA: &str = "llm-bench-doctor/1";

/// A model that this machine might be asked to run.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelNeed {
    /// For example `llama3-1b Q4_0`.
    pub name: String,
    pub file: Bytes,
    /// Weights that a decoded token reads.
    pub read_per_token: Bytes,
    /// Multiply-adds of a prompt token, without the output head.
    pub macs_per_token: f64,
    /// The format in which its weights are multiplied.
    pub format: super::arithmetic::Format,
}

/// What to examine.
pub struct Question<'a> {
    pub threads: u32,
    pub models: &'a [ModelNeed],
    pub cache: &'a Path,
    /// Findings that only the caller has (installed engines), shown last.
    pub others: Vec<Finding>,
}

/// How long other programs are watched.
const WINDOW: Duration = Duration::from_secs(1);

/// Examines this machine, which takes a few seconds. `say` gets a line of progress before each
/// wait.
///
/// # Errors
/// No check fails. The measurements fail if there is not enough memory or the user asked to stop.
pub fn examine(question: Question<'_>, say: &dyn Fn(&str)) -> anyhow::Result<Diagnosis> {
    let tree = Tree::new("/");
    let mut host = host::host();
    say(&format!("watching other programs for {}", Seconds::from(WINDOW)));
    let watched = activity::watch(&tree, WINDOW);
    let threads = question.threads;
    let mut checks = vec![
        settings::processor(&host, &host::build()),
        settings::governor(&tree),
        settings::frequency_limits(&tree),
        settings::boost(&tree),
        settings::sibling_threads(&tree, threads),
        activity::load(&watched),
        activity::processes(&watched),
        limits::processors(&tree, threads),
        limits::memory(&tree, question.models),
        settings::virtualization(&tree, host.virtualization.as_deref()),
        activity::swap(&tree),
        settings::huge_pages(&tree),
        limits::free_memory(&tree, question.models),
        limits::disk(question.cache, question.models),
        activity::temperature(&tree),
        activity::throttling(&tree),
        settings::clock(&tree, host.timer_overhead_ns),
        settings::numa(&tree),
        settings::energy(&tree),
    ];
    if !host.gpu.is_empty() {
        say("measuring what the cards deliver");
    }
    checks.extend(gpu::findings(&Library::of_machine(), &mut host.gpu, &gpu_ceilings::of));
    checks.extend(question.others);
    say(&format!("measuring read bandwidth and arithmetic, threads: {threads}"));
    let measured = ceilings::measure(threads)?;
    checks.extend(measured.findings());
    let rooflines = ceilings::rooflines(&measured, question.models);
    let card_rooflines = gpu::rooflines(&host.gpu, question.models);
    let schema = SCHEMA;
    let noise = None;
    Ok(Diagnosis { schema, host, threads, checks, measured, rooflines, card_rooflines, noise })
}

#[cfg(test)]
mod tests;
