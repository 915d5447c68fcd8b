//! Synthesizes a GGUF file with a model's exact shapes, quantization mixture and metadata, and
//! seeded random weights scaled like trained ones. Speed, memory and agreement between engines
//! match real weights. The text means nothing, and the file is marked as synthetic.

mod blocks;
mod bpe;
pub mod encoder;
mod recipe;
mod vocab;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry::{Occupied, Vacant};
use std::path::Path;

use anyhow::{Context, Result};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use sha2::{Digest, Sha256};

use self::blocks::Filler;
use self::recipe::{TensorPlan, Weights};
use self::vocab::Vocabulary;
use crate::model::arch::ArchSpec;
use crate::model::gguf::SYNTHETIC_KEY;
use crate::model::gguf::write::{self as gguf, ALIGNMENT, TensorEntry, Value};
use crate::model::mixture::TensorType;
use crate::model::quant::Quant;
use crate::model::unfinished::{Unfinished, check_free_disk, folder_of, in_parallel};
use crate::units::Bytes;

/// Metadata key of the seed, a `u64`.
pub const SEED_KEY: &str = "llm_bench.seed";
/// Metadata key of the version of the method.
pub const METHOD_KEY: &str = "llm_bench.synth_version";

/// The seed of the synthetic files in the cache.
pub const DEFAULT_SEED: u64 = 42;

/// How files of random weights are made.
#[derive(Debug, Clone, Copy)]
pub struct Random {
    pub seed: u64,
    /// See `locate::Sources::of_f16`.
    pub of_f16: bool,
}

impl Random {
    /// Each file as fast as it can be made.
    pub const PLAIN: Self = Self { seed: DEFAULT_SEED, of_f16: false };
}
/// The version of the method. Within one version, the same seed gives the same bytes.
pub const METHOD: u32 = 1;

/// Weights that one thread generates and writes at a time: a multiple of every block size.
const CHUNK_WEIGHTS: u64 = 1 << 20;

/// The layout of a synthetic file, computed before anything is written.
struct Layout {
    head: Vec<u8>,
    tensors: Vec<TensorPlan>,
    /// Offset of each tensor from the start of the file.
    offsets: Vec<u64>,
    size: u64,
}

/// Writes a synthetic model to `out`, replacing what is there only when the new file is complete.
///
/// The bytes depend on `spec`, `quant` and `seed` alone, not on `threads` (0 uses as many as the
/// process may use). `progress` gets bytes done and bytes in all. Each thread needs a few megabytes
/// of memory, besides the vocabulary.
///
/// # Errors
/// The quantization cannot store a shape, there is too little free disk, or a write fails. The
/// temporary file is then removed.
pub fn synthesize(
    spec: &ArchSpec,
    quant: Quant,
    seed: u64,
    out: &Path,
    threads: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    write(&layout(spec, quant, seed, vocabulary(spec)?)?, seed, out, threads, progress)
}

fn write(
    layout: &Layout,
    seed: u64,
    out: &Path,
    threads: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    check_free_disk(folder_of(out), out, Bytes(layout.size))?;
    let file = Unfinished::create(out, Bytes(layout.size))?;
    let attempt = |progress: &mut dyn FnMut(u64, u64)| -> Result<()> {
        file.write_at(&layout.head, 0)?;
        write_tensors(layout, seed, &file, threads, progress)
    };
    attempt(progress).with_context(|| format!("cannot write {}", out.display()))?;
    file.finish()
}

/// Size of the file that [`synthesize`] would write.
pub fn file_size(spec: &ArchSpec, quant: Quant) -> Result<Bytes> {
    Ok(Bytes(layout(spec, quant, 0, vocabulary(spec)?)?.size))
}

/// The same for many files. Building a vocabulary is most of the work, and models share them.
#[derive(Default)]
pub struct Sizes {
    /// By their number of tokens.
    vocabularies: BTreeMap<u32, Vocabulary>,
}

impl Sizes {
    pub fn file_size(&mut self, spec: &ArchSpec, quant: Quant) -> Result<Bytes> {
        let vocabulary = match self.vocabularies.entry(spec.n_vocab) {
            Occupied(entry) => entry.into_mut(),
            Vacant(entry) => entry.insert(vocabulary(spec)?),
        };
        Ok(Bytes(layout(spec, quant, 0, vocabulary.clone())?.size))
    }
}

fn vocabulary(spec: &ArchSpec) -> Result<Vocabulary> {
    vocab::build(spec.n_vocab as usize)
}

/// Bytes of weights that one decoded token reads from that file, equal to the result of
/// [`crate::model::gguf::GgufFile::weight_bytes_per_token`] for it.
pub fn weight_bytes_per_token(spec: &ArchSpec, quant: Quant) -> Result<Bytes> {
    let head = if spec.tied { "token_embd.weight" } else { "output.weight" };
    let read = |t: &&TensorPlan| {
        t.name.starts_with("blk.") || t.name == "output_norm.weight" || t.name == head
    };
    let tensors = recipe::tensors(spec, quant)?;
    Ok(Bytes(tensors.iter().filter(read).map(TensorPlan::bytes).sum()))
}

fn layout(spec: &ArchSpec, quant: Quant, seed: u64, vocabulary: Vocabulary) -> Result<Layout> {
    let tensors = recipe::tensors(spec, quant)?;
    Ok(Layout::new(tensors, &metadata(spec, quant, seed, vocabulary)))
}

impl Layout {
    fn new(tensors: Vec<TensorPlan>, metadata: &[(String, Value)]) -> Self {
        let mut entries = Vec::with_capacity(tensors.len());
        let mut end = 0;
        for t in &tensors {
            entries.push(TensorEntry { name: &t.name, dims: &t.dims, ty: t.ty.id(), offset: end });
            end += t.bytes().next_multiple_of(ALIGNMENT);
        }
        let mut encoded = Vec::with_capacity(8 << 20);
        metadata.iter().for_each(|(key, value)| gguf::entry(&mut encoded, key, value));
        let head = gguf::head(metadata.len() as u64, &encoded, &entries, ALIGNMENT);
        let start = head.len() as u64;
        let offsets = entries.iter().map(|e| start + e.offset).collect();
        Self { head, offsets, size: start + end, tensors }
    }
}

/// The metadata that llama.cpp's converter writes for this family, and the marks of a synthetic
/// file.
fn metadata(
    spec: &ArchSpec,
    quant: Quant,
    seed: u64,
    vocabulary: Vocabulary,
) -> Vec<(String, Value)> {
    let (bos, eot) = (vocabulary.bos(), vocabulary.eot());
    let types = vocabulary.token_types();
    let entries = [
        ("general.architecture", Value::from("llama")),
        ("general.type", Value::from("model")),
        ("general.name", Value::Str(format!("{} (synthetic weights)", spec.name))),
        (
            "general.description",
            Value::from(
                "Random weights in the shapes of the named model, made by llm-bench for measuring speed. The text means nothing.",
            ),
        ),
        ("general.file_type", Value::U32(quant.file_type())),
        ("general.quantization_version", Value::U32(2)),
        (SYNTHETIC_KEY, Value::Bool(true)),
        (SEED_KEY, Value::U64(seed)),
        (METHOD_KEY, Value::U32(METHOD)),
        ("llama.block_count", Value::U32(spec.n_layers)),
        ("llama.context_length", Value::U32(spec.context_length)),
        ("llama.embedding_length", Value::U32(spec.n_embd)),
        ("llama.feed_forward_length", Value::U32(spec.n_ff)),
        ("llama.attention.head_count", Value::U32(spec.n_heads)),
        ("llama.attention.head_count_kv", Value::U32(spec.n_kv_heads)),
        ("llama.attention.key_length", Value::U32(spec.head_dim)),
        ("llama.attention.value_length", Value::U32(spec.head_dim)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(spec.rms_eps)),
        ("llama.rope.dimension_count", Value::U32(spec.head_dim)),
        ("llama.rope.freq_base", Value::F32(spec.rope_base)),
        ("llama.vocab_size", Value::U32(spec.n_vocab)),
        ("tokenizer.ggml.model", Value::from("gpt2")),
        ("tokenizer.ggml.pre", Value::from("llama-bpe")),
        ("tokenizer.ggml.tokens", Value::Strs(vocabulary.tokens)),
        ("tokenizer.ggml.token_type", Value::I32s(types)),
        ("tokenizer.ggml.merges", Value::Strs(vocabulary.merges)),
        ("tokenizer.ggml.bos_token_id", Value::U32(bos)),
        ("tokenizer.ggml.eos_token_id", Value::U32(eot)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(true)),
        ("tokenizer.chat_template", Value::from(vocab::CHAT_TEMPLATE)),
    ];
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// A part of a tensor that one thread makes.
struct Chunk {
    tensor: usize,
    index: u64,
    weights: u64,
    /// From the start of the file.
    offset: u64,
}

fn chunks(layout: &Layout) -> Vec<Chunk> {
    let mut all = Vec::new();
    for (tensor, t) in layout.tensors.iter().enumerate() {
        let chunk_bytes = t.ty.bytes_of(CHUNK_WEIGHTS);
        for index in 0..t.n_weights().div_ceil(CHUNK_WEIGHTS) {
            all.push(Chunk {
                tensor,
                index,
                weights: CHUNK_WEIGHTS.min(t.n_weights() - index * CHUNK_WEIGHTS),
                offset: layout.offsets[tensor] + index * chunk_bytes,
            });
        }
    }
    all
}

/// Fills the file in chunks. Each has its own random stream and its own offset, so it does not
/// matter which thread makes which.
fn write_tensors(
    layout: &Layout,
    seed: u64,
    file: &Unfinished,
    threads: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let chunks = chunks(layout);
    let fillers: Fillers = fillers(&layout.tensors);
    let mut done = layout.head.len() as u64;
    progress(done, layout.size);
    let fill_one = |i: usize, (bytes, random): &mut (Vec<u8>, Vec<u8>)| -> Result<u64> {
        let chunk = &chunks[i];
        let tensor = &layout.tensors[chunk.tensor];
        fill(tensor, chunk, &fillers[chunk.tensor], seed, bytes, random);
        file.write_at(bytes, chunk.offset)?;
        Ok(bytes.len() as u64)
    };
    in_parallel(threads, chunks.len(), fill_one, &mut |bytes| {
        done += bytes;
        progress(done, layout.size);
    })?;
    progress(layout.size, layout.size);
    Ok(())
}

type Fillers = Vec<Option<std::sync::Arc<Filler>>>;

/// The tables of each tensor; tensors with equal distributions share them.
fn fillers(tensors: &[TensorPlan]) -> Fillers {
    let mut made: Vec<(TensorType, f64, f64, std::sync::Arc<Filler>)> = Vec::new();
    let mut of = |t: &TensorPlan| {
        let Weights::Gaussian { mean, sigma } = t.weights else {
            return None;
        };
        let known = made.iter().find(|(ty, m, s, _)| (*ty, *m, *s) == (t.ty, mean, sigma));
        if let Some((.., filler)) = known {
            return Some(filler.clone());
        }
        let filler = std::sync::Arc::new(Filler::new(t.ty, mean, sigma));
        made.push((t.ty, mean, sigma, filler.clone()));
        Some(filler)
    };
    tensors.iter().map(&mut of).collect()
}

fn fill(
    tensor: &TensorPlan,
    chunk: &Chunk,
    filler: &Option<std::sync::Arc<Filler>>,
    seed: u64,
    bytes: &mut Vec<u8>,
    random: &mut Vec<u8>,
) {
    let ty = tensor.ty;
    bytes.resize(ty.bytes_of(chunk.weights) as usize, 0);
    match (&tensor.weights, filler) {
        (Weights::Exact(values), _) => {
            bytes.clear();
            bytes.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        }
        (Weights::Gaussian { .. }, Some(filler)) => {
            filler.fill(&mut stream(seed, &tensor.name, chunk.index), bytes, random);
        }
        (Weights::Gaussian { .. }, None) => unreachable!("every Gaussian tensor has a filler"),
    }
}

/// The random stream of one chunk, keyed by seed and tensor name and numbered by chunk.
fn stream(seed: u64, name: &str, chunk: u64) -> ChaCha8Rng {
    let mut hash = Sha256::new();
    hash.update(b"llm-bench synth 1\0");
    hash.update(seed.to_le_bytes());
    hash.update(name.as_bytes());
    let mut rng = ChaCha8Rng::from_seed(hash.finalize().into());
    rng.set_stream(chunk);
    rng
}
