//! Models in several files, as `llama-gguf-split` makes them: which parts there are, from the name of
//! any of them, and one file out of all, which every engine reads.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::cache::CacheDir;
use super::gguf::GgufFile;
use super::gguf::write::{self, ALIGNMENT, TensorEntry};
use super::unfinished::{Unfinished, check_free_disk};
use crate::digest::hex;
use crate::units::Bytes;

/// Bytes that are copied at a time.
const COPY: usize = 4 << 20;

/// Where a part stands, by its name: `model-00002-of-00003.gguf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part<'p> {
    /// What the names of all parts begin with.
    model: &'p str,
    count: u32,
}

impl<'p> Part<'p> {
    fn of(path: &'p Path) -> Option<Self> {
        let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (model, number) = rest.rsplit_once('-')?;
        let digits = |text: &str| -> Option<u32> {
            let plain = text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|_| plain)
        };
        let (number, count) = (digits(number)?, digits(count)?);
        (1..=count).contains(&number).then_some(Self { model, count })
    }
}

/// A model whose parts are all there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// The name without numbers.
    pub model: String,
    /// In their order; the first one has the metadata.
    pub files: Vec<PathBuf>,
}

/// The parts of the model that a file is one of, whichever it is; `None` for a file that is no part
/// by its name, or is the only one.
///
/// # Errors
/// Parts are missing: their names.
pub fn find(path: &Path) -> Result<Option<Parts>> {
    let Some(Part { model, count }) = Part::of(path).filter(|part| part.count > 1) else {
        return Ok(None);
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    let file = |i| folder.join(format!("{model}-{i:05}-of-{count:05}.gguf"));
    let files: Vec<PathBuf> = (1..=count).map(file).collect();
    let missing: Vec<String> =
        files.iter().filter(|f| !f.is_file()).map(|f| f.display().to_string()).collect();
    if !missing.is_empty() {
        bail!(
            "{}: expected all {count} parts of the model in one folder, found {}; missing: {}. \
             Download them too",
            path.display(),
            count as usize - missing.len(),
            missing.join(", ")
        );
    }
    Ok(Some(Parts { model: model.to_owned(), files }))
}

impl Parts {
    /// One file out of all parts, in the cache; made once, as `llama-gguf-split --merge` makes it.
    pub fn joined(&self, cache: &CacheDir, progress: &mut dyn FnMut(u64, u64)) -> Result<PathBuf> {
        let mut sha = Sha256::new();
        for file in &self.files {
            let meta =
                file.metadata().with_context(|| format!("cannot read {}", file.display()))?;
            let path = std::path::absolute(file)?;
            sha.update(path.as_os_str().as_encoded_bytes());
            let stamp = [meta.len() as i64, meta.mtime(), meta.mtime_nsec(), meta.ino() as i64];
            stamp.iter().for_each(|n| sha.update(n.to_le_bytes()));
        }
        let key = hex(&sha.finalize()[..6]);
        let out = cache.models().join(format!("{}-joined-{key}.gguf", self.model));
        if !out.is_file() {
            self.join(&out, progress)?;
        }
        Ok(out)
    }

    fn join(&self, out: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        let parts: Vec<GgufFile> =
            self.files.iter().map(|f| GgufFile::open(f)).collect::<Result<_, _>>()?;
        let first = &parts[0];
        for (i, part) in parts.iter().enumerate() {
            let stated = (part.number("split.no"), part.number("split.count"));
            if stated != (Some(i as u64), Some(parts.len() as u64)) {
                bail!(
                    "{}: expected split.no {i} and split.count {}, as its name says, found {stated:?}",
                    part.path().display(),
                    parts.len()
                );
            }
        }
        let alignment = first.number("general.alignment").unwrap_or(ALIGNMENT);
        let mut metadata = Vec::new();
        let mut entries = 0;
        let raw = first.raw_metadata()?;
        for (_, entry) in raw.iter().filter(|(key, _)| !key.starts_with("split.")) {
            metadata.extend_from_slice(entry);
            entries += 1;
        }
        // Each tensor: its part, its name, its place there and its shape in the file's order.
        let mut tensors = Vec::new();
        for part in &parts {
            let mut own: Vec<_> = part.tensors().iter().collect();
            own.sort_by_key(|(_, info)| info.offset);
            tensors.extend(own.into_iter().map(|(name, info)| (part, name, info)));
        }
        let dims: Vec<Vec<u64>> = tensors
            .iter()
            .map(|(_, _, info)| info.shape.iter().rev().map(|&n| n as u64).collect())
            .collect();
        let mut offset = 0;
        let mut directory = Vec::new();
        for ((part, name, info), dims) in tensors.iter().zip(&dims) {
            if directory.iter().any(|t: &TensorEntry<'_>| t.name == *name) {
                bail!("{}: the tensor {name} is in another part too", part.path().display());
            }
            directory.push(TensorEntry { name, dims, ty: info.dtype.number(), offset });
            offset += info.bytes().next_multiple_of(alignment);
        }
        let stated = first.number("split.tensors.count");
        if stated.is_some_and(|n| n != directory.len() as u64) {
            bail!(
                "{}: expected {} tensors in all parts, found {}",
                first.path().display(),
                stated.unwrap_or_default(),
                directory.len()
            );
        }
        let head = write::head(entries, &metadata, &directory, alignment);
        let (begin, size) = (head.len() as u64, head.len() as u64 + offset);
        let folder = out.parent().unwrap_or(Path::new("."));
        check_free_disk(folder, out, Bytes(size))?;
        let file = Unfinished::create(out, Bytes(size))?;
        let failed = || format!("cannot write {}", out.display());
        file.write_at(&head, 0).with_context(failed)?;
        let mut buffer = vec![0; COPY];
        let mut done = 0;
        for ((part, _, info), entry) in tensors.iter().zip(&directory) {
            let unreadable = || format!("cannot read {}", part.path().display());
            let source = File::open(part.path()).with_context(unreadable)?;
            let mut copied = 0;
            while copied < info.bytes() {
                if crate::interrupt::requested() {
                    bail!("stopped; nothing was kept");
                }
                let n = (info.bytes() - copied).min(COPY as u64) as usize;
                source
                    .read_exact_at(&mut buffer[..n], info.offset + copied)
                    .with_context(unreadable)?;
                file.write_at(&buffer[..n], begin + entry.offset + copied).with_context(failed)?;
                copied += n as u64;
                done += n as u64;
                progress(done, size);
            }
        }
        file.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_any_part_names_all() {
        let part = |name: &str| Part::of(Path::new(name)).map(|p| (p.model.to_owned(), p.count));
        assert_eq!(part("a/m-q8-00002-of-00003.gguf"), Some(("m-q8".into(), 3)));
        for no in [
            "m.gguf",
            "m-00004-of-00003.gguf",
            "m-00000-of-00003.gguf",
            "m-2-of-3.gguf",
            "-of-00003.gguf",
        ] {
            assert_eq!(part(no), None, "{no}");
        }
        let folder = tempfile::tempdir().unwrap();
        let at = |i: u32| folder.path().join(format!("m-{i:05}-of-00003.gguf"));
        for i in [1, 3] {
            std::fs::write(at(i), "").unwrap();
        }
        let error = find(&at(3)).unwrap_err().to_string();
        assert!(error.contains("found 2") && error.contains("m-00002-of-00003"), "{error}");
        std::fs::write(at(2), "").unwrap();
        for i in 1..=3 {
            let parts = find(&at(i)).unwrap().unwrap();
            assert_eq!(
                (parts.model.as_str(), parts.files.len(), &parts.files[0]),
                ("m", 3, &at(1))
            );
        }
        assert_eq!(find(Path::new("m-00001-of-00001.gguf")).unwrap(), None);
    }
}
