//! The options of `tokenize`, and the settings that they mean.

use std::path::PathBuf;

use clap::Args;

use super::SessionArgs;
use super::repeat::{BATCHES, LENGTHS, RepeatArgs};
use crate::plan::{Encoding, Spec, Target};

/// Measured where nothing else is named.
const ENGINES: [&str; 2] = ["candle", "pytorch"];

#[derive(Debug, Args)]
pub struct TokenizeArgs {
    #[command(flatten)]
    pub target: Target,
    /// Engines whose tokenizers are measured, comma separated [default: candle,pytorch]
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub engine: Vec<String>,
    #[command(flatten)]
    pub repeat: RepeatArgs,
    #[command(flatten)]
    pub session: SessionArgs,
    /// Resume an interrupted session: make the launches that this result file lacks, with the
    /// settings that it states
    #[arg(long, value_name = "FILE", conflicts_with_all = ["target", "engine", "batch", "prompt_len",
        "warmup", "iterations", "seconds", "launches", "max_minutes", "timeout", "engine_option",
        "pytorch_path", "output_dir"])]
    pub resume: Option<PathBuf>,
}

impl TokenizeArgs {
    pub fn spec(&self) -> Spec {
        let seconds = self.repeat.seconds(false);
        let encoding = Encoding { data: None, seconds, tokenize: true };
        let timeout = self.session.timeout;
        Spec { timeout, ..self.repeat.spec(&self.target, (LENGTHS, BATCHES), encoding) }
    }

    /// The engines in the order of the table, by name.
    pub fn engines(&self) -> Vec<String> {
        match self.engine.is_empty() {
            true => ENGINES.map(String::from).to_vec(),
            false => self.engine.clone(),
        }
    }
}
