//! The options of `gate`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::SetArgs;
use super::rules::RulesArgs;
use crate::analysis::requirement::Requirement;
use crate::plan::{Target, Workload};

/// The most launches of each side that a plan may have.
const MOST: i64 = 1000;

#[derive(Debug, Args)]
#[command(after_help = "Three forms:
  llm-bench gate --baseline-rev main                   two builds, interleaved (the best form)
  llm-bench gate --baseline results/benchmark_X.json   against a stored result of this machine
  llm-bench gate --require 'candle/pytorch decode_tps >= 2.0'   a ratio, on any machine

Exit codes: 0 passed, 1 regressed, 2 usage or tool error, 3 inconclusive, 4 not comparable or
baseline missing. docs/GATE.md says which form to use when.")]
pub struct GateArgs {
    /// The baseline is this llm-bench program; the candidate is the one that runs
    #[arg(long, value_name = "PROGRAM", help_heading = "Baseline",
        conflicts_with_all = ["baseline_rev", "baseline", "self_check"])]
    pub baseline_bin: Option<PathBuf>,
    /// The baseline is this revision of the repository here: built once, kept in the cache
    #[arg(long, value_name = "REV", help_heading = "Baseline",
        conflicts_with_all = ["baseline", "self_check"])]
    pub baseline_rev: Option<String>,
    /// The baseline is this result file: measured on this machine, with these settings
    #[arg(long, value_name = "FILE", help_heading = "Baseline",
        conflicts_with_all = ["self_check", "resume", "target", "workload"])]
    pub baseline: Option<PathBuf>,
    /// One engine must stay a number of times ahead of another, measured here and now; a comma
    /// list, or repeated
    #[arg(long, value_name = "'A/B METRIC >= X'", value_delimiter = ',',
        help_heading = "Baseline", conflicts_with_all = ["self_check", "resume"])]
    pub require: Vec<Requirement>,

    /// The candidate is this llm-bench program [default: the one that runs]
    #[arg(long, value_name = "PROGRAM", help_heading = "Candidate",
        conflicts_with_all = ["candidate_rev", "candidate", "self_check"])]
    pub candidate_bin: Option<PathBuf>,
    /// The candidate is this revision of the repository here
    #[arg(long, value_name = "REV", help_heading = "Candidate",
        conflicts_with_all = ["candidate", "self_check"])]
    pub candidate_rev: Option<String>,
    /// The candidate is this result file: nothing is measured
    #[arg(long, value_name = "FILE", help_heading = "Candidate",
        conflicts_with_all = ["self_check", "resume", "baseline_bin", "baseline_rev"])]
    pub candidate: Option<PathBuf>,

    #[command(flatten, next_help_heading = "Verdict")]
    pub rules: RulesArgs,
    /// Earlier sessions, which show how much sessions differ: for a stored baseline, that cannot
    /// pass without three of them [default: results/history.sqlite, if it is there]
    #[arg(long, value_name = "FILE", help_heading = "Verdict", conflicts_with = "resume")]
    pub history_db: Option<PathBuf>,
    /// What an inconclusive run counts as [default: exit code 3]
    #[arg(long, value_enum, help_heading = "Verdict")]
    pub on_inconclusive: Option<OnInconclusive>,
    /// Show the numbers of two results that may not be compared; never passes
    #[arg(long, help_heading = "Verdict")]
    pub force_incomparable: bool,

    /// Launches of each side at least: fresh processes, in mirrored pairs (an odd number is
    /// rounded up)
    #[arg(short = 'r', long, default_value_t = 6, help_heading = "Length",
        value_parser = clap::value_parser!(u32).range(2..=MOST))]
    pub launches: u32,
    /// Launches of each side at most; from the least on, measuring ends when every deciding
    /// metric is known to half its margin, or one is worse by more than its margin
    #[arg(long, default_value_t = 30, help_heading = "Length",
        value_parser = clap::value_parser!(u32).range(2..=MOST))]
    pub max_launches: u32,
    /// No further launches are begun that would end later than this
    #[arg(long, default_value_t = 4.0, value_name = "MINUTES", help_heading = "Length")]
    pub max_minutes: f64,
    /// In place of the precision rule: look after the launches of -r, and if the verdict is open,
    /// make this many more and look once again, both times at 0.588 α (Pocock)
    #[arg(long, value_name = "N", help_heading = "Length", conflicts_with = "max_launches",
        value_parser = clap::value_parser!(u32).range(2..=MOST))]
    pub extend: Option<u32>,

    #[command(flatten, next_help_heading = "Workload")]
    pub target: Target,
    /// The engine [default: candle]
    #[arg(long, value_name = "NAME", help_heading = "Workload", conflicts_with = "require")]
    pub engine: Option<String>,
    #[command(flatten, next_help_heading = "Workload")]
    pub workload: Workload,
    #[command(flatten, next_help_heading = "Workload")]
    pub set: SetArgs,
    /// Use this Python's environment for engines with scripts, instead of installing one
    #[arg(long, value_name = "PATH", help_heading = "Workload")]
    pub python: Option<PathBuf>,
    /// Never install an engine's dependencies, never build a revision
    #[arg(long, help_heading = "Workload")]
    pub no_install: bool,
    /// The longest that an engine may take for one answer, in seconds
    #[arg(long, value_name = "SECONDS", help_heading = "Workload")]
    pub timeout: Option<f64>,

    /// What goes to stdout
    #[arg(short, long, value_enum, default_value_t = GateOutput::Table, help_heading = "Output")]
    pub output: GateOutput,
    /// Append the verdict as Markdown to this file ($GITHUB_STEP_SUMMARY)
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub summary: Option<PathBuf>,
    /// Write the body of a pull request's comment to this file; it begins with a mark by which
    /// scripts/ci/comment.sh finds the comment again
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub comment: Option<PathBuf>,
    /// Write the verdict as JSON to this file
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub verdict: Option<PathBuf>,
    /// Heading of summary and comment; comments of different titles stand beside each other
    #[arg(long, default_value = "Performance gate", help_heading = "Output")]
    pub title: String,
    /// Folder of the result file
    #[arg(long, default_value = "results", value_name = "DIR", help_heading = "Output")]
    pub output_dir: PathBuf,
    /// Resume an interrupted gate of two builds, with the settings that its file states. The file
    /// starts no program: give the same ones again (--baseline-bin, --baseline-rev, …)
    #[arg(long, value_name = "FILE", help_heading = "Output",
        conflicts_with_all = ["target", "workload", "engine", "launches", "max_launches", "extend",
            "timeout", "output_dir", "margin", "alpha", "rule", "primary", "slow_candidate"])]
    pub resume: Option<PathBuf>,

    /// Check the gate itself: this program against itself, and against itself slowed down
    #[arg(long, help_heading = "Self-check", conflicts_with = "resume")]
    pub self_check: bool,
    /// Gates of each kind [default: 20]
    #[arg(long, value_name = "N", help_heading = "Self-check",
        requires = "self_check", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: Option<u32>,
    /// By how much the slowed side is slowed down [default: 10%]
    #[arg(long, value_name = "SHARE", help_heading = "Self-check",
        value_parser = share, requires = "self_check")]
    pub slow: Option<f64>,
    /// Slow the candidate down on purpose; for checks of gates
    #[arg(long, value_name = "SHARE", value_parser = share, hide = true)]
    pub slow_candidate: Option<f64>,
}

/// What an inconclusive gate counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnInconclusive {
    /// Exit code 0
    Pass,
    /// Exit code 1
    Fail,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GateOutput {
    Table,
    Json,
    Md,
}

/// `10%` or `0.1`.
fn share(text: &str) -> Result<f64, String> {
    let number = match text.strip_suffix('%') {
        Some(percent) => percent.trim_end().parse::<f64>().map(|p| p / 100.0),
        None => text.parse::<f64>(),
    };
    match number {
        Ok(share) if share > 0.0 && share <= 10.0 => Ok(share),
        _ => Err(format!("expected a share above 0 such as 10% or 0.1, found {text:?}")),
    }
}
