//! `models synth` and `quantize`: files made here.

use anyhow::{Result, bail};

use crate::cli::{QuantizeArgs, SynthArgs};
use crate::cmd::print_line;
use crate::model::cache::CacheDir;
use crate::model::gguf::GgufFile;
use crate::model::locate::{WeightsPolicy, is_path};
use crate::model::quant::Quant;
use crate::model::quantize::{self, Target};
use crate::model::registry::Registry;
use crate::model::synth::{DEFAULT_SEED, Random};
use crate::progress::{ByteProgress, say};
use crate::session::find::{find_file, make, whole};
use crate::units::Bytes;

pub fn synth(args: &SynthArgs) -> Result<()> {
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
            find_file(&args.model.model, Some(quant), policy, &cache, Random::PLAIN)?.path
        }
        None => bail!(
            "--seed {}: name the file with --out FILE; the cache holds seed {DEFAULT_SEED}",
            args.seed
        ),
    };
    print_line(&out.display().to_string())?;
    Ok(())
}

pub fn quantize(args: &QuantizeArgs) -> Result<()> {
    let quants = wanted(args)?;
    let float = (!is_path(&args.model)).then_some(Quant::F16);
    let cache = CacheDir::from_env()?;
    let located = find_file(&args.model, float, WeightsPolicy::Auto, &cache, Random::PLAIN)?;
    let located = whole(located, &cache)?;
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
    let again = args.allow_requantize;
    let mut show = |done, total| bar.set(done, total);
    let sizes = quantize::quantize(&source, &targets, threads, again, &mut show)?;
    bar.done(Bytes(sizes.iter().map(|b| b.0).sum()));
    for target in targets {
        print_line(&target.out.display().to_string())?;
    }
    Ok(())
}

/// The types to make, each once.
fn wanted(args: &QuantizeArgs) -> Result<Vec<Quant>> {
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
    Ok(quants)
}
