//! Files of encoders: Hugging Face's form, from a package, the hub or a folder, becomes one float32
//! GGUF file in the cache, once.

use std::path::{Path, PathBuf};

use super::{LocateError, Located, WeightsPolicy};
use crate::model::cache::CacheDir;
use crate::model::convert::{self, Source};
use crate::model::gguf::GgufFile;
use crate::model::quant::Quant;
use crate::model::registry::ModelEntry;
use crate::progress::ByteProgress;
use crate::record::WeightsSource;

/// The file of a model of the registry, from its weights.
pub fn of_entry(
    model: &ModelEntry,
    weights: PathBuf,
    cache: &CacheDir,
) -> Result<PathBuf, LocateError> {
    match &model.encoder {
        Some(spec) => made(&model.name, &weights, cache, |path| {
            let Some(head) = &model.head else { return Source::stated(path, spec, None) };
            let json = head.bytes()?;
            Source::stated(path, spec, Some((&head.file, &json)))
        }),
        None => Ok(weights),
    }
}

/// The file of weights with their configuration beside them; named after their folder.
pub fn given(
    weights: &Path,
    policy: WeightsPolicy,
    cache: &CacheDir,
) -> Result<Located, LocateError> {
    let whole = std::path::absolute(weights).unwrap_or_else(|_| weights.to_owned());
    let folder = whole.parent().and_then(Path::file_name).unwrap_or_default();
    let name = folder.to_string_lossy().into_owned();
    if !matches!(policy, WeightsPolicy::Auto | WeightsPolicy::File) {
        let reason = "that is a file; give a name of `llm-bench models list`".to_owned();
        return Err(LocateError::Policy { policy, model: name, reason });
    }
    let path = made(&name, weights, cache, Source::beside)?;
    let notice = Some(format!("F32 is made of {}", weights.display()));
    Ok(Located { path, source: WeightsSource::File, name, notice, parts: None })
}

fn made(
    name: &str,
    weights: &Path,
    cache: &CacheDir,
    read: impl FnOnce(&Path) -> anyhow::Result<Source>,
) -> Result<PathBuf, LocateError> {
    let make = || -> anyhow::Result<PathBuf> {
        let source = read(weights)?;
        let key = source.key(cache)?;
        let out = cache.models().join(format!("{name}-{}-of-{key}.gguf", Quant::F32));
        if GgufFile::open(&out).is_err() {
            let mut bar = ByteProgress::new(&format!("converting {name} to GGUF"));
            let size = source.write(&out, &mut |done, total| bar.set(done, total))?;
            bar.done(size);
        }
        Ok(out)
    };
    make().map_err(|e| LocateError::Convert { reason: format!("{e:#}") })
}

/// Where weights are that `spec` names, as a folder or a file in Hugging Face's form.
pub fn weights_of(spec: &str) -> Option<PathBuf> {
    convert::weights_at(Path::new(spec))
}
