//! `models`: list, pull, synth, quantize, inspect, tokenize.

use std::io::{Read, Write, stdout};

use anyhow::{Context, Result, bail};

use super::print_line;
use crate::cli::{ModelArgs, ModelsCommand, QuantizeArgs, SynthArgs};
use crate::model::cache::CacheDir;
use crate::model::gguf::GgufFile;
use crate::model::hub::{Hub, HubConfig};
use crate::model::locate::{WeightsPolicy, is_path, synthetic_path};
use crate::model::quant::Quant;
use crate::model::quantize::{self, Target};
use crate::model::registry::Registry;
use crate::model::synth;
use crate::progress::{ByteProgress, say};
use crate::report::{escaped, write::json};
use crate::session::find::{DEFAULT_SEED, find_file, make, tokenizer};
use crate::units::Bytes;

pub fn run(command: &ModelsCommand) -> Result<()> {
    match command {
        ModelsCommand::List => list(),
        ModelsCommand::Pull(args) => pull(args),
        ModelsCommand::Synth(args) => synth(args),
        ModelsCommand::Quantize(args) => quantize(args),
        ModelsCommand::Inspect { model, quant, json } => inspect(model, quant.as_deref(), *json),
        ModelsCommand::Tokenize { model, quant, text } => {
            tokenize(model, quant.as_deref(), text.as_deref())
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
    let located = find_file(&args.model, quant, WeightsPolicy::Hub, &cache, 0)?;
    print_line(&located.path.display().to_string())?;
    Ok(())
}

fn synth(args: &SynthArgs) -> Result<()> {
    let cache = CacheDir::from_env()?;
    let registry = Registry::embedded()?;
    let entry = registry.find(&args.model.model)?;
    let quant = match &args.model.quant {
        Some(q) => q.parse()?,
        None => entry.default_quant.unwrap_or(Quant::Q4_0),
    };
    let out = match &args.out {
        Some(out) => {
            make(entry, quant, args.seed, out)?;
            out.clone()
        }
        // In the cache a file of this seed is used again.
        None if args.seed == DEFAULT_SEED => {
            let policy = WeightsPolicy::Synthetic;
            find_file(&args.model.model, Some(quant), policy, &cache, args.seed)?.path
        }
        None => bail!(
            "--seed {}: name the file with --out FILE; the cache holds seed {DEFAULT_SEED}",
            args.seed
        ),
    };
    print_line(&out.display().to_string())?;
    Ok(())
}

fn quantize(args: &QuantizeArgs) -> Result<()> {
    let mut quants: Vec<Quant> = Vec::new();
    for name in &args.to {
        let quant = name.parse()?;
        if quants.contains(&quant) {
            bail!("--to names {quant} twice");
        }
        quants.push(quant);
    }
    if args.out.is_some() && quants.len() > 1 {
        bail!("--out names one file, and --to {} types; use --out-dir", quants.len());
    }
    let wanted = (!is_path(&args.model)).then_some(Quant::F16);
    let cache = CacheDir::from_env()?;
    let located = find_file(&args.model, wanted, WeightsPolicy::Auto, &cache, DEFAULT_SEED)?;
    if let Some(notice) = &located.notice {
        say(&format!("note: {notice}"));
    }
    let source = GgufFile::open(&located.path)?;
    let targets: Vec<Target> = quants
        .iter()
        .map(|&quant| {
            let named = args.out.clone();
            let out = named.unwrap_or_else(|| quantize::default_out(&source, quant, &args.out_dir));
            Target { quant, out }
        })
        .collect();
    if let Some(there) = targets.iter().find(|t| !args.force && t.out.exists()) {
        bail!("{} exists; replace it with --force, or choose another", there.out.display());
    }
    let names: Vec<String> = quants.iter().map(Quant::to_string).collect();
    let mut bar =
        ByteProgress::new(&format!("quantizing {} to {}", source.name(), names.join(", ")));
    let threads = args.threads.unwrap_or(0) as usize;
    let sizes =
        quantize::quantize(&source, &targets, threads, &mut |done, total| bar.set(done, total))?;
    bar.done(Bytes(sizes.iter().map(|b| b.0).sum()));
    for target in targets {
        print_line(&target.out.display().to_string())?;
    }
    Ok(())
}

fn inspect(spec: &str, quant: Option<&str>, json: bool) -> Result<()> {
    let quant = quant.map(str::parse).transpose()?;
    let cache = CacheDir::from_env()?;
    let located = find_file(spec, quant, WeightsPolicy::Auto, &cache, DEFAULT_SEED)?;
    let inspection = GgufFile::open(&located.path)?.inspect();
    match json {
        true => write!(stdout(), "{}", json::whole(&inspection))?,
        false => write!(stdout(), "{}", escaped(&inspection.to_string()))?,
    }
    Ok(())
}

/// The longest text that `tokenize` takes from stdin, in bytes.
const MAX_TEXT: u64 = 64 << 20;

fn tokenize(spec: &str, quant: Option<&str>, text: Option<&str>) -> Result<()> {
    let quant = quant.map(str::parse).transpose()?;
    let cache = CacheDir::from_env()?;
    let located = find_file(spec, quant, WeightsPolicy::Auto, &cache, DEFAULT_SEED)?;
    let tokenizer = tokenizer(&GgufFile::open(&located.path)?)?;
    let text = match text {
        Some(text) => text.to_string(),
        None => {
            let mut text = String::new();
            let mut stdin = std::io::stdin().take(MAX_TEXT + 1);
            stdin.read_to_string(&mut text).context("stdin is not UTF-8 text")?;
            if text.len() as u64 > MAX_TEXT {
                bail!("stdin: expected at most {MAX_TEXT} bytes of text, found more");
            }
            text
        }
    };
    let ids = tokenizer.encode(&text).map_err(|e| anyhow::anyhow!("{e}"))?;
    for id in &ids {
        writeln!(stdout(), "{id:>7}  {:?}", String::from_utf8_lossy(tokenizer.token_bytes(*id)))?;
    }
    say(&format!("{} tokens", ids.len()));
    Ok(())
}
