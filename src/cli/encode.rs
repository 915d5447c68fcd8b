//! The options of `encode`, and the settings that they mean.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::SessionArgs;
use super::repeat::{BATCHES, LENGTHS, RepeatArgs};
use crate::plan::{Encoding, Spec, Target};

/// Measured where nothing else is named.
const ENGINES: [&str; 4] = ["candle", "candle-stock", "pytorch", "pytorch-f32"];

#[derive(Debug, Args)]
pub struct EncodeArgs {
    #[command(flatten)]
    pub target: Target,
    /// Engines, comma separated; all: every one of `engines list`
    /// [default: candle,candle-stock,pytorch,pytorch-f32]
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub engine: Vec<String>,
    #[command(flatten)]
    pub repeat: RepeatArgs,
    /// Labelled texts in place of random ones, for a classifier: a name (sentiment-validation,
    /// sentiment-benchmark) or a JSONL file with text, expected_label and category
    #[arg(long, value_name = "NAME|FILE", conflicts_with = "prompt_len")]
    pub data: Option<String>,
    /// Take batches, lengths and iterations from a published suite, where no option names them
    #[arg(long, value_enum, value_name = "SUITE")]
    pub like: Option<Like>,
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
            Like::Julia => BATCHES,
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
        let lengths: &[u32] = match self.data {
            Some(_) => &[],
            None => self.like.map_or(LENGTHS, Like::lengths),
        };
        let batches = self.like.map_or(BATCHES, Like::batches);
        let seconds = self.repeat.seconds(self.like == Some(Like::Max));
        let encoding = Encoding { data: self.data.clone(), seconds, tokenize: false };
        let timeout = self.session.timeout;
        Spec { timeout, ..self.repeat.spec(&self.target, (lengths, batches), encoding) }
    }

    /// The engines in the order of the table, by name.
    pub fn engines(&self) -> Vec<String> {
        match self.engine.is_empty() {
            true => ENGINES.map(String::from).to_vec(),
            false => self.engine.clone(),
        }
    }
}
