//! The options of `run` and `track`, and the settings that they mean.

use std::path::PathBuf;

use clap::Args;

use super::SessionArgs;
use crate::plan::{Spec, Target, Workload};
use crate::report::Sections;

/// Launches of each point and minutes, where neither is named.
const LAUNCHES: u32 = 5;
const MINUTES: f64 = 10.0;
/// Measured where none is named.
const ENGINES: [&str; 4] = ["candle", "candle-stock", "pytorch", "pytorch-f32"];

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub target: Target,
    /// Engines, comma separated; all: every one of `engines list`
    /// [default: candle,candle-stock,pytorch,pytorch-f32]
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub engine: Vec<String>,
    #[command(flatten)]
    pub workload: Workload,
    /// Launches of each point: fresh processes, the unit of every statistic [default: 5, fewer
    /// where --max-minutes ends]
    #[arg(short = 'r', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub launches: Option<u32>,
    /// Fit the launches into this time: fewer of slow engines, three of each at least; checks and
    /// quality come after it [default: 10, no limit with -r]
    #[arg(long, value_name = "MINUTES")]
    pub max_minutes: Option<f64>,
    /// How long does the speed last? One launch of each point that generates for this time, with
    /// clock, heat, power and throttling beside the speed
    #[arg(long, value_name = "MINUTES", conflicts_with_all = ["max_minutes", "profile", "timing"])]
    pub sustained: Option<f64>,
    #[command(flatten)]
    pub session: SessionArgs,
    /// The same as --engine … with pytorch-eager in place of pytorch
    #[arg(long)]
    pub pytorch_no_compile: bool,
    /// The same as --engine … with pytorch-f32 in place of pytorch
    #[arg(long)]
    pub pytorch_no_half: bool,
    /// Same file, prompts, threads and token counts for all (always on; kept for old scripts)
    #[arg(long, hide = true)]
    pub fair_comparison: bool,
    /// Also take the time of each stage of the model, in generations of their own, and show the
    /// parts of each engine's memory
    #[arg(long)]
    pub profile: bool,
    /// Also show the time of every generation in order, from the cold one on
    #[arg(long)]
    pub timing: bool,
    /// Resume an interrupted run: make the launches that this result file lacks, with the settings
    /// that it states
    #[arg(long, value_name = "FILE", conflicts_with_all = ["target", "workload", "engine", "launches",
        "max_minutes", "sustained", "timeout", "profile", "pytorch_no_compile", "pytorch_no_half",
        "engine_option", "pytorch_path", "output_dir"])]
    pub resume: Option<PathBuf>,
}

impl RunArgs {
    pub fn spec(&self) -> Spec {
        let once = self.sustained.is_some();
        let timed = self.launches.is_none() && !once;
        Spec {
            target: self.target.clone(),
            engine: Vec::new(),
            workload: self.workload.clone(),
            launches: self.launches.unwrap_or(if once { 1 } else { LAUNCHES }),
            max_minutes: self.max_minutes.or(timed.then_some(MINUTES)),
            sustained_minutes: self.sustained,
            encoding: None,
            serving: None,
            timeout: self.session.timeout,
            profile: self.profile,
        }
    }

    /// The sections of the report that were asked for.
    pub fn sections(&self) -> Sections {
        Sections { profile: self.profile, timing: self.timing }
    }

    /// The engines in the order of the table, by name.
    pub fn engines(&self) -> Vec<String> {
        let named = self.session.set.beside(self.engine.clone());
        let mut names = match named.is_empty() {
            true => ENGINES.map(String::from).to_vec(),
            false => named,
        };
        let instead = match (self.pytorch_no_half, self.pytorch_no_compile) {
            (true, _) => Some("pytorch-f32"),
            (false, true) => Some("pytorch-eager"),
            (false, false) => None,
        };
        if let Some(instead) = instead {
            names.iter_mut().filter(|n| *n == "pytorch").for_each(|n| *n = instead.into());
        }
        names
    }
}
