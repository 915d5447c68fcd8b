//! Reads a safetensors file tensor by tensor, without mapping it. Nothing is allocated before its
//! size has been checked against the file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use crate::model::gguf::regular_file_len;

/// The header of a model of thousands of tensors has about 100 bytes for each.
const MAX_HEADER: u64 = 16 << 20;
/// Bytes that are read at a time: a multiple of every float.
const CHUNK: u64 = 4 << 20;
/// What the names of a model's tensors may begin with.
const PREFIXES: [&str; 2] = ["bert.", "distilbert."];

/// An open file and its directory. Names come without the model's prefix.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    file: File,
    tensors: BTreeMap<String, Stored>,
}

#[derive(Debug)]
struct Stored {
    dtype: Dtype,
    shape: Vec<u64>,
    /// From the start of the file.
    offset: u64,
    bytes: u64,
}

impl Checkpoint {
    /// # Errors
    /// The file is not a whole safetensors file, or two of its tensors have one name.
    pub fn open(path: &Path) -> Result<Self> {
        let unreadable = || format!("cannot read {}", path.display());
        let len = regular_file_len(path).with_context(unreadable)?;
        let mut file = File::open(path).with_context(unreadable)?;
        let broken = |expected: &str, found: String| {
            anyhow::anyhow!(
                "{}: not a usable safetensors file: expected {expected}, found {found}. Download \
                 it again",
                path.display()
            )
        };
        let mut size = [0; 8];
        if file.read_exact(&mut size).is_err() {
            return Err(broken("the size of a header", format!("{len} bytes")));
        }
        let header = u64::from_le_bytes(size);
        if header > MAX_HEADER || header > len - 8 {
            let most = MAX_HEADER.min(len - 8);
            return Err(broken(&format!("a header of at most {most} bytes"), header.to_string()));
        }
        let mut text = vec![0; header as usize];
        file.read_exact(&mut text).with_context(unreadable)?;
        // The crate checks that shapes fit their bytes, and that the tensors tile the data.
        let directory: Metadata = serde_json::from_slice(&text)
            .map_err(|e| broken("a directory of tensors", e.to_string()))?;
        let begin = 8 + header;
        if Some(len) != begin.checked_add(directory.data_len() as u64) {
            let expected = format!("{} bytes of weights", directory.data_len());
            return Err(broken(&expected, format!("{}: is it truncated?", len - begin)));
        }
        let mut tensors = BTreeMap::new();
        for (name, info) in directory.tensors() {
            let (from, to) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
            let stored = Stored {
                dtype: info.dtype,
                shape: info.shape.iter().map(|&n| n as u64).collect(),
                offset: begin + from,
                bytes: to - from,
            };
            let plain = plain(&name);
            if tensors.insert(plain.clone(), stored).is_some() {
                bail!("{}: two tensors are {}", path.display(), plain.escape_debug());
            }
        }
        Ok(Self { path: path.to_owned(), file, tensors })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Refuses a tensor that is missing, has another shape, or is not of floats.
    pub fn check(&self, name: &str, shape: &[u64]) -> Result<()> {
        let at = self.path.display();
        let Some(stored) = self.tensors.get(name) else {
            bail!("{at}: tensor {name}: expected shape {shape:?}, found no such tensor");
        };
        ensure!(
            stored.shape == shape,
            "{at}: tensor {name}: expected shape {shape:?}, as the configuration says, found {:?}",
            stored.shape
        );
        ensure!(
            matches!(stored.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16),
            "{at}: tensor {name}: expected F32, F16 or BF16, found {:?}",
            stored.dtype
        );
        Ok(())
    }

    /// Hands the weights of a checked tensor to `take`, in pieces, as little-endian float32.
    ///
    /// # Errors
    /// A weight is NaN or infinite, the file cannot be read, or `take` fails.
    pub fn read(&self, name: &str, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let stored = self.tensors.get(name).with_context(|| format!("no tensor {name}"))?;
        let mut raw = Vec::new();
        let mut weights = Vec::new();
        let mut first = 0;
        while first < stored.bytes {
            raw.resize(CHUNK.min(stored.bytes - first) as usize, 0);
            self.file
                .read_exact_at(&mut raw, stored.offset + first)
                .with_context(|| format!("cannot read {}", self.path.display()))?;
            let width = match stored.dtype {
                Dtype::F32 => 4,
                _ => 2,
            };
            weights.clear();
            for (i, bytes) in raw.chunks_exact(width).enumerate() {
                let x = match stored.dtype {
                    Dtype::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
                    Dtype::F16 => f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
                    _ => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
                };
                ensure!(
                    x.is_finite(),
                    "{}: tensor {name}: expected finite weights, found {x} at index {}; the file \
                     is damaged: download it again",
                    self.path.display(),
                    first / width as u64 + i as u64
                );
                weights.extend_from_slice(&x.to_le_bytes());
            }
            take(&weights)?;
            first += raw.len() as u64;
        }
        Ok(())
    }
}

/// A tensor's name without the model's prefix, and with the names that norms have today.
fn plain(name: &str) -> String {
    let name = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    match name.rsplit_once('.') {
        Some((norm, "gamma")) => format!("{norm}.weight"),
        Some((norm, "beta")) => format!("{norm}.bias"),
        _ => name.to_owned(),
    }
}
