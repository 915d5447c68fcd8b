//! The options of commands that repeat requests over texts, `encode` and `tokenize`: how long and how
//! many texts, how often.

use clap::Args;

use crate::plan::{Encoding, Spec, Target, Workload};
use crate::sensors::page_cache::PageCache;

pub const LENGTHS: &[u32] = &[32, 128];
pub const BATCHES: &[u32] = &[1, 8, 32];
const LAUNCHES: u32 = 5;
const WARMUP: u32 = 100;
const ITERATIONS: u32 = 1000;
const SECONDS: f64 = 3.0;

#[derive(Debug, Args)]
#[group(skip)]
pub struct RepeatArgs {
    /// Texts of a request; a comma list interleaves them [default: 1,8,32]
    #[arg(short, long, value_delimiter = ',', value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub batch: Vec<u32>,
    /// Tokens of each text, its special ones among them [default: 32,128]
    #[arg(short, long, value_delimiter = ',', value_name = "N")]
    pub prompt_len: Vec<u32>,
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
}

impl RepeatArgs {
    /// What ends the requests of a length: nothing where they are `counted`.
    pub fn seconds(&self, counted: bool) -> Option<f64> {
        self.seconds.or((!counted && self.iterations.is_none()).then_some(SECONDS))
    }

    /// The settings, with these lengths and batches where none are named.
    pub fn spec(
        &self,
        target: &Target,
        (lengths, batches): (&[u32], &[u32]),
        encoding: Encoding,
    ) -> Spec {
        let or = |typed: &[u32], default: &[u32]| match typed.is_empty() {
            true => default.to_vec(),
            false => typed.to_vec(),
        };
        Spec {
            target: target.clone(),
            engine: Vec::new(),
            workload: Workload {
                prompt_len: or(&self.prompt_len, lengths),
                batch: or(&self.batch, batches),
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
            encoding: Some(encoding),
            serving: None,
            timeout: None,
            profile: false,
        }
    }
}
