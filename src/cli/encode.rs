//! The options of `encode`, and the settings that they mean.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::SessionArgs;
use crate::plan::{Encoding, Spec, Target, Workload};
use crate::sensors::page_cache::PageCache;

/// Measured where nothing else is named.
const ENGINES: [&str; 4] = ["candle", "candle-stock", "pytorch", "pytorch-f32"];
const LENGTHS: [u32; 2] = [32, 128];
const BATCHES: [u32; 3] = [1, 8, 32];
const LAUNCHES: u32 = 5;
const WARMUP: u32 = 100;
const ITERATIONS: u32 = 1000;
const SECONDS: f64 = 3.0;

#[derive(Debug, Args)]
pub struct EncodeArgs {
    #[command(flatten)]
    pub target: Target,
    /// Engines, comma separated; all: every one of `engines list`
    /// [default: candle,candle-stock,pytorch,pytorch-f32]
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub engine: Vec<String>,
    /// Texts of a request; a comma list interleaves them [default: 1,8,32]
    #[arg(short, long, value_delimiter = ',', value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub batch: Vec<u32>,
    /// Tokens of each text, its special ones among them [default: 32,128]
    #[arg(short, long, value_delimiter = ',', value_name = "N", conflicts_with = "data")]
    pub prompt_len: Vec<u32>,
    /// Labelled texts in place of random ones, for a classifier: a name (sentiment-validation,
    /// sentiment-benchmark) or a JSONL file with text, expected_label and category
    #[arg(long, value_name = "NAME|FILE")]
    pub data: Option<String>,
    /// Unmeasured requests of each length, in at most a third of --seconds [default: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub warmup: Option<u32>,
    /// Measured requests of each length, in at most --seconds [default: 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub iterations: Option<u32>,
    /// The longest that the measured requests of a length take; three are always made
    /// [default: 3, no limit with --iterations]
    #[arg(long, value_name = "SECONDS")]
    pub seconds: Option<f64>,
    /// Take batches, lengths and iterations from a published suite, where no option names them
    #[arg(long, value_enum, value_name = "SUITE")]
    pub like: Option<Like>,
    /// Launches of each point: fresh processes, the unit of every statistic [default: 5]
    #[arg(short = 'r', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub launches: Option<u32>,
    /// Fit the launches into this time: fewer of slow engines, three of each at least
    #[arg(long, value_name = "MINUTES")]
    pub max_minutes: Option<f64>,
    /// Pause before each launch, in seconds
    #[arg(long, default_value_t = 0.0, value_name = "SECONDS")]
    pub delay: f64,
    /// Seed of the order of launches and of random texts
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    #[command(flatten)]
    pub session: SessionArgs,
    /// Resume an interrupted session: make the launches that this result file lacks, with the
    /// settings that it states
    #[arg(long, value_name = "FILE", conflicts_with_all = ["target", "engine", "batch", "prompt_len",
        "data", "warmup", "iterations", "seconds", "like", "launches", "max_minutes", "timeout",
        "engine_option", "pytorch_path", "output_dir"])]
    pub resume: Option<PathBuf>,
}

/// A published suite whose shape is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Like {
    /// Single texts: 100 unmeasured and 1000 measured requests
    Max,
    /// Batches 1, 8 and 32 at 32, 64, 128 and 256 tokens
    Julia,
    /// Batches 1, 2, 5, 10, 20, 50 and 100 at 32 tokens
    MetalCandle,
}

impl Like {
    fn batches(self) -> &'static [u32] {
        match self {
            Like::Max => &[1],
            Like::Julia => &BATCHES,
            Like::MetalCandle => &[1, 2, 5, 10, 20, 50, 100],
        }
    }

    fn lengths(self) -> &'static [u32] {
        match self {
            Like::Max | Like::MetalCandle => &[32],
            Like::Julia => &[32, 64, 128, 256],
        }
    }
}

impl EncodeArgs {
    pub fn spec(&self) -> Spec {
        let or = |typed: &[u32], default: &[u32]| match typed.is_empty() {
            true => default.to_vec(),
            false => typed.to_vec(),
        };
        let counted = self.iterations.is_some() || self.like == Some(Like::Max);
        Spec {
            target: self.target.clone(),
            engine: Vec::new(),
            workload: Workload {
                prompt_len: match self.data {
                    Some(_) => Vec::new(),
                    None => or(&self.prompt_len, self.like.map_or(&LENGTHS, Like::lengths)),
                },
                batch: or(&self.batch, self.like.map_or(&BATCHES, Like::batches)),
                delay: self.delay,
                seed: self.seed,
                page_cache: PageCache::Warm,
                ..Workload::repeated(
                    self.warmup.unwrap_or(WARMUP),
                    self.iterations.unwrap_or(ITERATIONS),
                )
            },
            launches: self.launches.unwrap_or(LAUNCHES),
            max_minutes: self.max_minutes,
            sustained_minutes: None,
            encoding: Some(Encoding {
                data: self.data.clone(),
                seconds: self.seconds.or((!counted).then_some(SECONDS)),
            }),
            serving: None,
            timeout: self.session.timeout,
            profile: false,
        }
    }

    /// The engines in the order of the table, by name.
    pub fn engines(&self) -> Vec<String> {
        match self.engine.is_empty() {
            true => ENGINES.map(String::from).to_vec(),
            false => self.engine.clone(),
        }
    }
}
