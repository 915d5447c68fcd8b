//! The options of `serve-bench`, and the settings that they mean.

use std::path::PathBuf;

use clap::Args;

use super::SessionArgs;
use crate::plan::{Serving, Slo, Spacing, Spec, Target, Workload};
use crate::sensors::page_cache::PageCache;

const USERS: [u32; 5] = [1, 2, 4, 8, 16];
const LAUNCHES: u32 = 3;
const PROMPT: u32 = 128;
const GENERATED: u32 = 64;

#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub target: Target,
    /// Servers that llm-bench starts itself, comma separated, such as llama-server; --endpoint names
    /// those that run
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub engine: Vec<String>,
    /// Users at once, each of whom waits for an answer before the next request; a comma list makes
    /// levels [default: 1,2,4,8,16]
    #[arg(short, long, value_delimiter = ',', value_name = "N")]
    pub concurrency: Vec<u32>,
    /// Requests a second, whatever has been answered; a comma list makes levels
    #[arg(long, value_delimiter = ',', value_name = "PER_SECOND")]
    pub request_rate: Vec<f64>,
    /// How the requests of --request-rate are spaced
    #[arg(long, value_enum, default_value_t = Spacing::Poisson)]
    pub arrivals: Spacing,
    /// Requests of each level [default: as many as begin within --duration]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub requests: Option<u32>,
    /// No request of a level begins later than this, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0)]
    pub duration: f64,
    /// What a request must keep to count as good, such as ttft=200ms,tpot=50ms
    #[arg(long, value_name = "OBJECTIVES")]
    pub slo: Option<Slo>,
    /// The first tokens that all prompts share; the rest of each prompt is random
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub shared_prefix: u32,
    /// Prompt set (a file or the name of one that comes with llm-bench), for its lengths
    #[arg(long, value_name = "NAME|FILE", conflicts_with_all = ["prompt_len", "gen_len"])]
    pub prompts: Option<String>,
    /// Tokens of each prompt; a comma list mixes lengths [default: 128]
    #[arg(short, long, value_delimiter = ',', value_name = "N")]
    pub prompt_len: Vec<u32>,
    /// Tokens to generate after each; a comma list mixes lengths [default: 64]
    #[arg(short = 'n', long, value_delimiter = ',', value_name = "N")]
    pub gen_len: Vec<u32>,
    /// Launches of each server: fresh processes, or blocks of requests to one that runs; the unit of
    /// every statistic [default: 3]
    #[arg(short = 'r', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub launches: Option<u32>,
    /// Pause before each launch, in seconds
    #[arg(long, default_value_t = 0.0, value_name = "SECONDS")]
    pub delay: f64,
    /// Seed of prompts and of random arrivals
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    #[command(flatten)]
    pub session: SessionArgs,
    /// Resume an interrupted session: make the launches that this result file lacks, with the
    /// settings that it states
    #[arg(long, value_name = "FILE", conflicts_with_all = ["target", "concurrency", "request_rate",
        "requests", "slo", "shared_prefix", "prompts", "prompt_len", "gen_len", "launches",
        "timeout", "engine_option", "output_dir"])]
    pub resume: Option<PathBuf>,
}

impl ServeArgs {
    pub fn spec(&self) -> Spec {
        let or = |typed: &[u32], default: u32| match typed.is_empty() {
            true => vec![default],
            false => typed.to_vec(),
        };
        let fixed = self.prompts.is_none();
        let neither = self.concurrency.is_empty() && self.request_rate.is_empty();
        Spec {
            target: self.target.clone(),
            engine: Vec::new(),
            workload: Workload {
                prompts: self.prompts.clone(),
                prompt_len: if fixed { or(&self.prompt_len, PROMPT) } else { Vec::new() },
                gen_len: if fixed { or(&self.gen_len, GENERATED) } else { Vec::new() },
                delay: self.delay,
                seed: self.seed,
                page_cache: PageCache::Warm,
                ..Workload::repeated(0, 1)
            },
            launches: self.launches.unwrap_or(LAUNCHES),
            max_minutes: None,
            sustained_minutes: None,
            encoding: None,
            serving: Some(Serving {
                concurrency: if neither { USERS.to_vec() } else { self.concurrency.clone() },
                request_rate: self.request_rate.clone(),
                arrivals: self.arrivals,
                requests: self.requests,
                duration_s: self.duration,
                slo: self.slo,
                shared_prefix: self.shared_prefix,
            }),
            timeout: self.session.timeout,
            profile: false,
        }
    }

    /// The servers in the order of the table, by name.
    pub fn engines(&self) -> Vec<String> {
        self.session.set.beside(self.engine.clone())
    }
}
