//! The options of `sweep`.

use std::path::PathBuf;

use clap::Args;

use super::RunArgs;
use crate::model::quant::Quant;
use crate::plan::Spec;

/// Measured where none is named.
const QUANTS: [Quant; 4] = [Quant::F16, Quant::Q8_0, Quant::Q4_K_M, Quant::Q4_0];
const ENGINES: [&str; 1] = ["candle"];

/// All of `run`, and the text that quality is judged on.
#[derive(Debug, Args)]
pub struct SweepArgs {
    /// Judge quality on this text instead of the one that comes with the program
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// Measure speed and memory alone
    #[arg(long)]
    pub no_quality: bool,
    #[command(flatten)]
    pub run: RunArgs,
}

impl SweepArgs {
    /// Every quantization that is made for comparisons, unless the user names some.
    pub fn spec(&self) -> Spec {
        let mut spec = self.run.spec();
        spec.target.of_f16 = !self.no_quality;
        if spec.target.quant.is_empty() {
            spec.target.quant = QUANTS.to_vec();
        }
        spec
    }

    /// The engines in the order of the table, by name.
    pub fn engines(&self) -> Vec<String> {
        match self.run.engine.is_empty() {
            true => ENGINES.map(String::from).to_vec(),
            false => self.run.engines(),
        }
    }
}
