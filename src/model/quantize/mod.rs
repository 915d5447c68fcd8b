//! Quantizes a GGUF file of 16- or 32-bit floats into files of other types, with llama.cpp's
//! mixture, order and metadata. One pass over the source serves all targets. Each thread needs a
//! few megabytes of memory, whatever the size of the model.

mod blocks;
mod k_quants;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

pub use self::k_quants::pack_scales_and_mins;
use super::encoder;
use super::gguf::write::{self, ALIGNMENT, TensorEntry, Value};
use super::gguf::{GgufFile, StoredType};
use super::mixture::{Mixture, TensorType, file_order, is_matrix};
use super::quant::Quant;
use super::unfinished::{Unfinished, check_free_disk, folder_of, in_parallel};
use crate::units::Bytes;

/// Weights that one thread reads at a time: a multiple of every block size.
const CHUNK_WEIGHTS: u64 = 1 << 18;

/// `GGML_QNT_VERSION` in llama.cpp's `ggml.h`: the layout of the block types.
const QUANTIZATION_VERSION: u32 = 2;

/// A file to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub quant: Quant,
    pub out: PathBuf,
}

/// The path in `folder` for a quantization of `source`: its file name with the float type's name
/// replaced, or with the quantization added if the name holds none.
pub fn default_out(source: &GgufFile, quant: Quant, folder: &Path) -> PathBuf {
    let stem = source.path().file_stem().unwrap_or_default().to_string_lossy();
    let label = source.quant_label();
    let at = stem.to_ascii_lowercase().rfind(&label.to_ascii_lowercase()).filter(|&at| {
        let is_part = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
        is_part(stem[..at].chars().next_back()) && is_part(stem[at + label.len()..].chars().next())
    });
    let name = match at {
        Some(at) => format!("{}{quant}{}", &stem[..at], &stem[at + label.len()..]),
        None => format!("{stem}-{quant}"),
    };
    folder.join(name + ".gguf")
}

/// Writes all targets, each completely or not at all. The bytes do not depend on `threads` (0 uses
/// as many as the process may use). Replaces targets that exist. `progress` gets the bytes of the
/// source done so far and in all. Returns the size of each target. With `again` a source may be
/// quantized already; its errors then stay in every target.
///
/// # Errors
/// The source is neither a LLaMA nor an encoder, or is already quantized without `again`, a weight is not finite or does not fit into a
/// type, a target is the source itself, there is too little free disk, or a read or write fails.
pub fn quantize(
    source: &GgufFile,
    targets: &[Target],
    threads: usize,
    again: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Bytes>> {
    let file = File::open(source.path())
        .with_context(|| format!("cannot read {}", source.path().display()))?;
    for (i, target) in targets.iter().enumerate() {
        refuse_source_as_target(&file, source.path(), &target.out)?;
        if let Some(other) = targets[..i].iter().find(|t| t.out == target.out) {
            let (a, b) = (other.quant, target.quant);
            bail!("{}: both {a} and {b} would go there; name a folder", target.out.display());
        }
    }
    let tensors = source_tensors(source, again)?;
    let layouts = targets
        .iter()
        .map(|t| Layout::new(source, &tensors, t.quant))
        .collect::<Result<Vec<_>>>()?;
    check_disk(targets, &layouts)?;
    let files = targets
        .iter()
        .zip(&layouts)
        .map(|(target, layout)| {
            let file = Unfinished::create(&target.out, Bytes(layout.size))?;
            file.write_at(&layout.head, 0)
                .with_context(|| format!("cannot write {}", target.out.display()))?;
            Ok(file)
        })
        .collect::<Result<Vec<_>>>()?;

    let chunks = chunks(&tensors);
    let total: u64 = tensors.iter().map(|t| t.bytes_of(t.weights)).sum();
    let convert = |i: usize, buffer: &mut Buffer| -> Result<u64> {
        let (chunk, tensor) = (&chunks[i], &tensors[chunks[i].tensor]);
        let size = tensor.bytes_of(chunk.weights);
        let at = tensor.offset + tensor.bytes_of(chunk.first);
        buffer.stored.resize(size as usize, 0);
        file.read_exact_at(&mut buffer.stored, at)
            .with_context(|| format!("cannot read {}", source.path().display()))?;
        blocks::widen(tensor.stored, &buffer.stored, &mut buffer.weights)
            .with_context(|| format!("tensor {}", tensor.name))?;
        if let Some(i) = buffer.weights.iter().position(|x| !x.is_finite()) {
            bail!(
                "{}: tensor {}: expected finite weights, found {} at index {}; the file is \
                 damaged: download or convert it again",
                source.path().display(),
                tensor.name,
                buffer.weights[i],
                chunk.first + i as u64
            );
        }
        for ((target, layout), file) in targets.iter().zip(&layouts).zip(&files) {
            let place = &layout.places[chunk.tensor];
            let bytes = if Some(place.ty) == blocks::float_type(tensor.stored) {
                &buffer.stored
            } else {
                blocks::store(place.ty, &buffer.weights, &mut buffer.made)
                    .with_context(|| format!("tensor {}", tensor.name))?;
                ensure!(
                    blocks::scales_are_finite(place.ty, &buffer.made),
                    "{}: tensor {}: its largest weight in this part, {:e}, is too large for {:?}; \
                     choose F32 or BF16",
                    source.path().display(),
                    tensor.name,
                    buffer.weights.iter().fold(0.0f32, |most, x| most.max(x.abs())),
                    place.ty
                );
                &buffer.made
            };
            file.write_at(bytes, place.offset + place.ty.bytes_of(chunk.first))
                .with_context(|| format!("cannot write {}", target.out.display()))?;
        }
        Ok(size)
    };
    let mut done = 0;
    progress(done, total);
    in_parallel(threads, chunks.len(), convert, &mut |bytes| {
        done += bytes;
        progress(done, total);
    })?;
    files.into_iter().try_for_each(Unfinished::finish)?;
    Ok(layouts.iter().map(|l| Bytes(l.size)).collect())
}

/// The buffers of one thread.
#[derive(Default)]
struct Buffer {
    stored: Vec<u8>,
    weights: Vec<f32>,
    made: Vec<u8>,
}

/// A tensor of the source.
struct SourceTensor {
    name: String,
    /// Row length first.
    dims: Vec<u64>,
    stored: StoredType,
    weights: u64,
    /// From the start of the file.
    offset: u64,
}

impl SourceTensor {
    /// Bytes of this many weights, a whole number of blocks.
    fn bytes_of(&self, weights: u64) -> u64 {
        weights / self.stored.block_size() as u64 * self.stored.block_bytes() as u64
    }
}

/// The tensors in the order in which they will be written. Refuses quantized ones unless `again`.
fn source_tensors(source: &GgufFile, again: bool) -> Result<Vec<SourceTensor>> {
    let mut tensors = source
        .tensors()
        .iter()
        .map(|(name, info)| {
            let is_float = blocks::float_type(info.dtype).is_some();
            if !(is_float || again && blocks::can_widen(info.dtype)) {
                bail!(
                    "{}: tensor {name} is {} already: expected F32, F16 or BF16. Quantizing twice \
                     adds the errors of both; start from the F16 file, or --allow-requantize",
                    source.path().display(),
                    info.dtype.label()
                );
            }
            Ok(SourceTensor {
                name: name.clone(),
                dims: info.shape.iter().rev().map(|&d| d as u64).collect(),
                stored: info.dtype,
                weights: info.elements(),
                offset: info.offset,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    tensors.sort_by_cached_key(|t| file_order(&t.name));
    Ok(tensors)
}

/// A part of a tensor that one thread converts.
struct Chunk {
    tensor: usize,
    first: u64,
    weights: u64,
}

fn chunks(tensors: &[SourceTensor]) -> Vec<Chunk> {
    let parts_of = |(tensor, t): (usize, &SourceTensor)| {
        let weights = t.weights;
        (0..weights.div_ceil(CHUNK_WEIGHTS)).map(move |i| {
            let first = i * CHUNK_WEIGHTS;
            Chunk { tensor, first, weights: CHUNK_WEIGHTS.min(weights - first) }
        })
    };
    tensors.iter().enumerate().flat_map(parts_of).collect()
}

/// The layout of a target, computed before anything is written.
struct Layout {
    head: Vec<u8>,
    /// One place per tensor, in the order of the source.
    places: Vec<Place>,
    size: u64,
}

struct Place {
    ty: TensorType,
    /// From the start of the file.
    offset: u64,
}

impl Layout {
    fn new(source: &GgufFile, tensors: &[SourceTensor], quant: Quant) -> Result<Self> {
        let mixture = mixture(source, quant)?;
        let alignment = source.number("general.alignment").unwrap_or(ALIGNMENT);
        let mut places = Vec::with_capacity(tensors.len());
        let mut end = 0;
        for t in tensors {
            let ty = match is_matrix(&t.name, &t.dims) {
                true => mixture.fitting(&t.name, t.dims[0]),
                // A vector that is quantized, which no writer makes, becomes float32.
                false => blocks::float_type(t.stored).unwrap_or(TensorType::F32),
            };
            places.push(Place { ty, offset: end });
            end += ty.bytes_of(t.weights).next_multiple_of(alignment);
        }
        let entries: Vec<TensorEntry> = tensors
            .iter()
            .zip(&places)
            .map(|(t, p)| TensorEntry {
                name: &t.name,
                dims: &t.dims,
                ty: p.ty.id(),
                offset: p.offset,
            })
            .collect();
        let (n_entries, metadata) = metadata(source, quant)?;
        let head = write::head(n_entries, &metadata, &entries, alignment);
        let start = head.len() as u64;
        places.iter_mut().for_each(|p| p.offset += start);
        Ok(Self { head, places, size: start + end })
    }
}

/// What the types of the target depend on.
fn mixture(source: &GgufFile, quant: Quant) -> Result<Mixture> {
    if source.text("general.architecture") == Some(encoder::ARCHITECTURE) {
        const LAYERS: &str = "bert.block_count";
        let n_layers = source.number(LAYERS).and_then(|n| u32::try_from(n).ok());
        let n_layers = n_layers.ok_or_else(|| source.unsupported(LAYERS, "a number", "nothing"))?;
        return Ok(Mixture::of_encoder(quant, n_layers));
    }
    let config = source.llama_config()?;
    Ok(Mixture {
        quant,
        n_layers: config.n_layers as u32,
        grouped: config.n_heads != config.n_kv_heads,
        tied: config.tied,
    })
}

/// The source's entries unchanged, with the two that quantization changes at the end, where
/// `llama-quantize` puts them. Returns their number and bytes.
fn metadata(source: &GgufFile, quant: Quant) -> Result<(u64, Vec<u8>)> {
    let parts = source.number("split.count").unwrap_or(1);
    ensure!(
        parts <= 1,
        "{}: one of {parts} parts of a split file: expected the whole; join them with \
         `llama-gguf-split --merge`",
        source.path().display()
    );
    let changed = [
        ("general.quantization_version", Value::U32(QUANTIZATION_VERSION)),
        ("general.file_type", Value::U32(quant.file_type())),
    ];
    let entries = source
        .raw_metadata()
        .with_context(|| format!("cannot read {}", source.path().display()))?;
    let kept = entries
        .iter()
        .filter(|(key, _)| !key.starts_with("split.") && changed.iter().all(|(c, _)| c != key));
    let (mut n, mut out) = (changed.len() as u64, Vec::new());
    for (_, bytes) in kept {
        n += 1;
        out.extend_from_slice(bytes);
    }
    changed.iter().for_each(|(key, value)| write::entry(&mut out, key, value));
    Ok((n, out))
}

/// Compares the files themselves, so a link to the source counts as the source.
fn refuse_source_as_target(source: &File, path: &Path, out: &Path) -> Result<()> {
    let here = source.metadata().with_context(|| format!("cannot read {}", path.display()))?;
    let same =
        out.metadata().is_ok_and(|there| (there.dev(), there.ino()) == (here.dev(), here.ino()));
    ensure!(
        !same,
        "{}: that is the source itself, {}; choose another file",
        out.display(),
        path.display()
    );
    Ok(())
}

/// Compares the total size that goes into each folder with the free disk.
fn check_disk(targets: &[Target], layouts: &[Layout]) -> Result<()> {
    for target in targets {
        let folder = folder_of(&target.out);
        let together = targets.iter().zip(layouts).filter(|(t, _)| folder_of(&t.out) == folder);
        let needed = Bytes(together.map(|(_, l)| l.size).sum());
        check_free_disk(folder, &target.out, needed)?;
    }
    Ok(())
}
