//! Opens a GGUF file. Checks the header and then reads it, types and validates the
//! hyper-parameters, and computes the sizes that METHODOLOGY.md defines. The harness and the
//! engines both read files here. The file is not mapped, so a file that shrinks cannot crash the
//! harness. Engines compute with the weights.

#![forbid(unsafe_code)]

mod bert;
mod config;
mod finite;
mod inspect;
mod keys;
mod recipe;
mod scan;
mod stored;
pub mod write;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Cursor, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{Content, Value};

use scan::{Entry, Scanned, Stop, scan};

pub use bert::{Activation, BertConfig, BertOutput, Classifier, Pooling};
pub use config::{LlamaConfig, ModelConfig};
use inspect::shown;
pub use inspect::{Inspection, KeyValue, TypeRow};
pub use stored::{StoredType, TensorInfo};

/// The metadata key that marks weights as synthetic.
pub const SYNTHETIC_KEY: &str = "llm_bench.synthetic";

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    #[error("{}: {error}. Check the path, or `llm-bench models list`", .path.display())]
    Io { path: PathBuf, error: std::io::Error },
    #[error(
        "{}: not a usable GGUF file: {what}: expected {expected}, found {found}. Download or \
         convert it again", .path.display()
    )]
    Malformed { path: PathBuf, what: String, expected: String, found: String },
    #[error(
        "{}: {what}: expected {expected}, found {found}. See `llm-bench models inspect {}`",
        .path.display(), quoted(.path)
    )]
    Unsupported { path: PathBuf, what: String, expected: String, found: String },
    #[error(
        "{}: tensor {tensor}: expected F32, F16, BF16, Q4_0 to Q8_1, Q2_K to Q8_K or IQ4_NL, found \
         {found}. Take the file in another quantization",
        .path.display()
    )]
    UnknownType { path: PathBuf, tensor: String, found: String },
    #[error(
        "{}: tensor {tensor} is {found}, which candle's own reader does not know. Take the file \
         in another quantization, or another engine", .path.display()
    )]
    NotCandles { path: PathBuf, tensor: String, found: String },
    #[error(
        "{}: tensor {tensor}: expected finite weights, found {value} at index {index}; the file is \
         damaged: download or convert it again", .path.display()
    )]
    NotFinite { path: PathBuf, tensor: String, index: u64, value: f32 },
}

/// A path as one word of a shell's command line.
fn quoted(path: &Path) -> String {
    let path = path.to_string_lossy().replace('\0', "\u{fffd}");
    shlex::try_quote(&path).map_or_else(|_| path.clone(), |quoted| quoted.into_owned())
}

/// A GGUF file whose header fits its length: every tensor lies inside the file.
pub struct GgufFile {
    path: PathBuf,
    len: u64,
    /// The metadata, and the tensors whose type candle knows.
    content: Content,
    tensors: HashMap<String, TensorInfo>,
    entries: Vec<Entry>,
}

impl std::fmt::Debug for GgufFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GgufFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl GgufFile {
    /// Reads a file's header and none of its weights.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let io = |error| GgufError::Io { path: path.to_owned(), error };
        let len = regular_file_len(path).map_err(io)?;
        let mut file = File::open(path).map_err(io)?;
        let mut start = Vec::new();
        let mut wanted = FIRST_READ;
        loop {
            let missing = wanted.min(len) - start.len() as u64;
            let got = file.by_ref().take(missing).read_to_end(&mut start).map_err(io)?;
            if (got as u64) < missing {
                return Err(GgufError::Malformed {
                    path: path.to_owned(),
                    what: "the header".into(),
                    expected: format!("a file of {len} bytes"),
                    found: format!("an end after {}: is something writing it?", start.len()),
                });
            }
            match Self::read(path, &start, len) {
                Ok(file) => return Ok(file),
                Err(Stop::Bad(e)) => return Err(e),
                Err(Stop::Short) => wanted *= 2,
            }
        }
    }

    /// The same for a file whose bytes are in memory, mapped or not; errors call it `path`.
    pub fn of_bytes(path: &Path, bytes: &[u8]) -> Result<Self, GgufError> {
        Self::read(path, bytes, bytes.len() as u64).map_err(|stop| match stop {
            Stop::Bad(e) => e,
            Stop::Short => unreachable!("all bytes are here"),
        })
    }

    /// Reads `start`, the beginning of a file of `len` bytes.
    fn read(path: &Path, start: &[u8], len: u64) -> Result<Self, Stop> {
        let Scanned { end, entries, foreign } = scan(path, start, len)?;
        let mut header = Cow::Borrowed(&start[..end]);
        for (_, _, at) in &foreign {
            // candle rejects a header with an unknown type, so these tensors are removed again
            // below.
            const F32: u32 = 0;
            header.to_mut()[at.clone()].copy_from_slice(&F32.to_le_bytes());
        }
        let mut content = Content::read(&mut Cursor::new(&header)).map_err(|e| {
            let found = e.to_string();
            let found = found.lines().next().unwrap_or_default().to_owned();
            Stop::Bad(GgufError::Malformed {
                path: path.to_owned(),
                what: "the header".into(),
                expected: "values that candle can read".into(),
                found,
            })
        })?;
        let begin = content.tensor_data_offset;
        let mut tensors: HashMap<String, TensorInfo> = HashMap::new();
        for (name, info) in &content.tensor_infos {
            let (dtype, shape) = (StoredType::Candle(info.ggml_dtype), info.shape.dims().to_vec());
            // The scan has checked the offset against the file's length.
            tensors.insert(name.clone(), TensorInfo { dtype, shape, offset: begin + info.offset });
        }
        for (name, dtype, _) in foreign {
            content.tensor_infos.remove(&name);
            if let Some(info) = tensors.get_mut(&name) {
                info.dtype = dtype;
            }
        }
        let file = Self { path: path.to_owned(), len, content, tensors, entries };
        file.check_tensors().map_err(Stop::Bad)?;
        Ok(file)
    }

    /// Checks the blocks and bytes of each tensor that can be computed with against the file. The
    /// others only have a place in an inspection.
    fn check_tensors(&self) -> Result<(), GgufError> {
        let len = self.len;
        for (name, info) in self.tensors.iter().filter(|(_, info)| info.dtype.is_computed()) {
            let row = info.shape.last().copied().unwrap_or(0);
            if row % info.dtype.block_size() != 0 {
                return Err(self.malformed(
                    format!("tensor {name}"),
                    format!("rows of whole blocks of {}", info.dtype.block_size()),
                    row,
                ));
            }
            let end = info.offset.checked_add(info.bytes());
            if end.is_none_or(|end| end > len) {
                return Err(self.malformed(
                    format!("tensor {name}"),
                    format!("{} bytes at {}", info.bytes(), info.offset),
                    format!("a file of {len} bytes: is it truncated?"),
                ));
            }
        }
        self.check_overlap()
    }

    /// Refuses tensors that share bytes: no writer makes them, and what one byte means would
    /// depend on the reader.
    fn check_overlap(&self) -> Result<(), GgufError> {
        let computed = self.tensors.iter().filter(|(_, info)| info.dtype.is_computed());
        let mut places: Vec<(Range<u64>, &str)> = computed
            .map(|(name, info)| (info.offset..info.offset + info.bytes(), name.as_str()))
            .collect();
        places.sort_unstable_by_key(|(place, name)| (place.start, place.end, *name));
        for pair in places.windows(2) {
            let [(before, first), (place, second)] = pair else { unreachable!("windows of two") };
            if place.start < before.end {
                return Err(self.malformed(
                    format!("tensor {second}"),
                    format!("bytes of its own from {} on, where {first} ends", before.end),
                    format!("a start at {}", place.start),
                ));
            }
        }
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn metadata(&self) -> &HashMap<String, Value> {
        &self.content.metadata
    }

    /// The tensor directory.
    pub fn tensors(&self) -> &HashMap<String, TensorInfo> {
        &self.tensors
    }

    /// The metadata in the file's order: each key, and the bytes of its whole entry. Reads the file
    /// again.
    pub fn raw_metadata(&self) -> std::io::Result<Vec<(&str, Vec<u8>)>> {
        let file = File::open(&self.path)?;
        let entry = |e: &Entry| -> std::io::Result<Vec<u8>> {
            let mut bytes = vec![0; e.at.len()];
            file.read_exact_at(&mut bytes, e.at.start as u64)?;
            Ok(bytes)
        };
        self.entries.iter().map(|e| Ok((e.key.as_str(), entry(e)?))).collect()
    }

    /// The header as candle reads it; fails if candle does not know a tensor's type.
    pub fn into_content(self) -> Result<Content, GgufError> {
        let foreign =
            |(_, info): &(&String, &TensorInfo)| !matches!(info.dtype, StoredType::Candle(_));
        match self.tensors.iter().filter(foreign).min_by_key(|(name, _)| *name) {
            None => Ok(self.content),
            Some((tensor, info)) => Err(GgufError::NotCandles {
                path: self.path.clone(),
                tensor: tensor.clone(),
                found: info.dtype.label().into_owned(),
            }),
        }
    }

    /// Type, shape (rows first) and place in the file of one tensor.
    pub fn tensor(&self, name: &str) -> Option<(StoredType, &[usize], Range<u64>)> {
        let info = self.tensors.get(name)?;
        Some((info.dtype, &info.shape, info.offset..info.offset + info.bytes()))
    }

    pub fn size_bytes(&self) -> u64 {
        self.len
    }

    /// A metadata value that is a string.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.content.metadata.get(key)? {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// A metadata value that is an unsigned number of any width.
    pub fn number(&self, key: &str) -> Option<u64> {
        match *self.content.metadata.get(key)? {
            Value::U8(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::U64(v) => Some(v),
            Value::I8(v) => v.try_into().ok(),
            Value::I16(v) => v.try_into().ok(),
            Value::I32(v) => v.try_into().ok(),
            Value::I64(v) => v.try_into().ok(),
            _ => None,
        }
    }

    /// A metadata value that is a floating-point number.
    pub fn float(&self, key: &str) -> Option<f64> {
        match *self.content.metadata.get(key)? {
            Value::F32(v) => Some(v.into()),
            Value::F64(v) => Some(v),
            _ => None,
        }
    }

    /// A metadata value that is true or false.
    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.content.metadata.get(key)? {
            Value::Bool(v) => Some(*v),
            _ => None,
        }
    }

    /// A metadata value that is an array.
    pub fn array(&self, key: &str) -> Option<&[Value]> {
        match self.content.metadata.get(key)? {
            Value::Array(values) => Some(values),
            _ => None,
        }
    }

    /// `general.name`, or the file's own name.
    pub fn name(&self) -> String {
        match self.text("general.name") {
            Some(name) if !name.trim().is_empty() => name.trim().to_owned(),
            _ => self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        }
    }

    /// What the file holds, with hyper-parameters that are validated against each other and against
    /// the tensors.
    pub fn model_config(&self) -> Result<ModelConfig, GgufError> {
        ModelConfig::of(self)
    }

    /// The hyper-parameters of a LLaMA; an error for any other model.
    pub fn llama_config(&self) -> Result<LlamaConfig, GgufError> {
        LlamaConfig::of(self)
    }

    /// The hyper-parameters of an encoder; an error for any other model.
    pub fn bert_config(&self) -> Result<BertConfig, GgufError> {
        BertConfig::of(self)
    }

    /// Whether the weights were generated from a seed instead of trained; the model's text is then
    /// meaningless.
    pub fn is_synthetic(&self) -> bool {
        match self.content.metadata.get(SYNTHETIC_KEY) {
            None | Some(Value::Bool(false)) => false,
            Some(_) => true,
        }
    }

    /// Elements of all tensors, counted like llama.cpp: `rope_freqs.weight` included.
    pub fn n_params(&self) -> u64 {
        self.tensors.values().map(TensorInfo::elements).sum()
    }

    /// Bytes of weights that one decoded token reads: all blocks, the last norm, and the output
    /// matrix (the embedding, if the two are tied). Of an encoder: all blocks, once for a batch. Leaves out one row of an untied embedding and
    /// the 128 bytes of `rope_freqs.weight`.
    pub fn weight_bytes_per_token(&self) -> u64 {
        self.read_by_a_token().map(|(_, info)| info.bytes()).sum()
    }

    /// Weights that one token is multiplied with: the matrices of `weight_bytes_per_token`.
    pub fn weights_per_token(&self) -> u64 {
        let matrices = self.read_by_a_token().filter(|(_, info)| info.shape.len() > 1);
        matrices.map(|(_, info)| info.elements()).sum()
    }

    fn read_by_a_token(&self) -> impl Iterator<Item = (&String, &TensorInfo)> {
        let tensors = &self.tensors;
        let head = match self.text("general.architecture") {
            Some("bert") => "",
            _ if tensors.contains_key("output.weight") => "output.weight",
            _ => EMBEDDING,
        };
        tensors.iter().filter(move |(name, _)| {
            name.starts_with("blk.") || *name == "output_norm.weight" || *name == head
        })
    }

    fn malformed(
        &self,
        what: impl ToString,
        expected: impl ToString,
        found: impl ToString,
    ) -> GgufError {
        GgufError::Malformed {
            path: self.path.clone(),
            what: what.to_string(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }

    pub fn unsupported(
        &self,
        what: impl ToString,
        expected: impl ToString,
        found: impl ToString,
    ) -> GgufError {
        GgufError::Unsupported {
            path: self.path.clone(),
            what: what.to_string(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }
}

/// Enough for the header of a small model; the read doubles until it has the whole header.
const FIRST_READ: u64 = 1 << 20;

/// The length of a regular file. Refuses anything else before opening it, because opening a FIFO
/// waits for its writer.
pub fn regular_file_len(path: &Path) -> std::io::Result<u64> {
    let metadata = std::fs::metadata(path)?;
    if metadata.is_file() {
        return Ok(metadata.len());
    }
    let what = if metadata.is_dir() { "found a folder" } else { "found a device, pipe or socket" };
    Err(std::io::Error::other(format!("expected a regular file, {what}")))
}

const EMBEDDING: &str = "token_embd.weight";

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
