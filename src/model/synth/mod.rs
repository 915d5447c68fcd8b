//! Synthesis: a GGUF file with a model's exact shapes, quantization mixture and metadata, and
//! seeded random weights scaled like trained ones. Speed, memory and agreement between engines
//! are as with real weights; the text means nothing, and the file says so.

mod blocks;
mod bpe;
mod recipe;
mod vocab;
mod writer;

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use anyhow::{Context, Result, ensure};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use sha2::{Digest, Sha256};

use self::blocks::{Filler, TensorType};
use self::recipe::{TensorPlan, Weights};
use self::writer::{TensorEntry, Value, padded};
use crate::model::arch::ArchSpec;
use crate::model::gguf::SYNTHETIC_KEY;
use crate::model::quant::Quant;
use crate::units::Bytes;

/// Metadata key of the seed, a `u64`.
pub const SEED_KEY: &str = "llm_bench.seed";
/// Metadata key of the version of the method.
pub const METHOD_KEY: &str = "llm_bench.synth_version";
/// The version of the method: the same seed gives the same bytes within one.
pub const METHOD: u32 = 1;

/// Weights generated and written at a time by one thread: a multiple of every block size.
const CHUNK_WEIGHTS: u64 = 1 << 20;

/// What a synthetic file will be, worked out before anything is written.
struct Layout {
    head: Vec<u8>,
    tensors: Vec<TensorPlan>,
    /// Of each tensor, from the start of the file.
    offsets: Vec<u64>,
    size: u64,
}

/// Writes a synthetic model to `out`, replacing what is there only when the new file is complete.
///
/// The bytes depend on `spec`, `quant` and `seed` alone, not on `threads` (0 takes as many as the
/// process may use). `progress` is told bytes done and bytes in all. A few megabytes of memory
/// for each thread, besides the vocabulary.
///
/// # Errors
/// A shape that the quantization cannot store, too little free disk, or a failed write; the
/// temporary file is removed then.
pub fn synthesize(
    spec: &ArchSpec,
    quant: Quant,
    seed: u64,
    out: &Path,
    threads: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let layout = layout(spec, quant, seed)?;
    let folder = match out.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let name =
        out.file_name().with_context(|| format!("{} does not name a file", out.display()))?;
    // The rename at the end would put the file in the place of a device node.
    ensure!(
        out.metadata().is_ok_and(|m| m.is_file()) || !out.exists(),
        "{}: expected the name of a file, found a folder or a device",
        out.display()
    );
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    check_free_disk(folder, out, layout.size)?;

    let attempt = |progress: &mut dyn FnMut(u64, u64)| -> Result<()> {
        let mut prefix = std::ffi::OsString::from(".");
        prefix.push(name);
        prefix.push(".");
        let temporary = tempfile::Builder::new()
            .prefix(&prefix)
            .suffix(".partial")
            .permissions(std::fs::Permissions::from_mode(0o644))
            .tempfile_in(folder)?;
        let file = temporary.as_file();
        file.set_len(layout.size)?;
        file.write_all_at(&layout.head, 0)?;
        write_tensors(&layout, seed, file, threads, progress)?;
        // Synced here, so that a measurement that follows does not run against the write-back.
        file.sync_data()?;
        temporary.persist(out).map_err(|e| e.error)?;
        Ok(())
    };
    attempt(progress).with_context(|| format!("cannot write {}", out.display()))
}

/// Size of the file that [`synthesize`] would write.
pub fn file_size(spec: &ArchSpec, quant: Quant) -> Result<Bytes> {
    Ok(Bytes(layout(spec, quant, 0)?.size))
}

fn layout(spec: &ArchSpec, quant: Quant, seed: u64) -> Result<Layout> {
    let tensors = recipe::tensors(spec, quant)?;
    let mut entries = Vec::with_capacity(tensors.len());
    let mut end = 0;
    for t in &tensors {
        entries.push(TensorEntry { name: &t.name, dims: &t.dims, ty: t.ty.id(), offset: end });
        end += padded(t.bytes());
    }
    let head = writer::head(&metadata(spec, quant, seed)?, &entries);
    let start = head.len() as u64;
    let offsets = entries.iter().map(|e| start + e.offset).collect();
    Ok(Layout { head, offsets, size: start + end, tensors })
}

/// The metadata that llama.cpp's converter writes for this family, and the marks of a synthetic
/// file.
fn metadata(spec: &ArchSpec, quant: Quant, seed: u64) -> Result<Vec<(String, Value)>> {
    let vocabulary = vocab::build(spec.n_vocab as usize)?;
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
    Ok(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn check_free_disk(folder: &Path, out: &Path, needed: u64) -> Result<()> {
    let stat = rustix::fs::statvfs(folder)
        .with_context(|| format!("cannot read the free disk of {}", folder.display()))?;
    let available = stat.f_bavail * stat.f_frsize;
    ensure!(
        available >= needed,
        "not enough free disk for {}: needs {}, and {} has {}; free some or choose another folder",
        out.display(),
        Bytes(needed),
        folder.display(),
        Bytes(available)
    );
    Ok(())
}

/// A piece of a tensor that one thread makes.
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
        let chunk_bytes = CHUNK_WEIGHTS / t.ty.block_weights() * t.ty.block_bytes();
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

/// Fills the file in chunks; each is made from its own random stream and written to its own
/// place, so it does not matter which thread does which.
fn write_tensors(
    layout: &Layout,
    seed: u64,
    file: &std::fs::File,
    threads: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let threads = match threads {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
        n => n,
    };
    let chunks = chunks(layout);
    let fillers: Fillers = fillers(&layout.tensors);
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let (sender, receiver) = mpsc::channel::<std::io::Result<u64>>();
    let mut done = layout.head.len() as u64;
    progress(done, layout.size);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(chunks.len()) {
            let sender = sender.clone();
            let (chunks, fillers, next, stop) = (&chunks, &fillers, &next, &stop);
            scope.spawn(move || {
                let (mut bytes, mut random) = (Vec::new(), Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) else {
                        break;
                    };
                    let tensor = &layout.tensors[chunk.tensor];
                    fill(tensor, chunk, &fillers[chunk.tensor], seed, &mut bytes, &mut random);
                    let written = file.write_all_at(&bytes, chunk.offset);
                    if sender.send(written.map(|()| bytes.len() as u64)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        for written in receiver {
            match written {
                Ok(_) if crate::interrupt::requested() => {
                    stop.store(true, Ordering::Relaxed);
                    anyhow::bail!("stopped; nothing was kept");
                }
                Ok(bytes) => {
                    done += bytes;
                    progress(done, layout.size);
                }
                Err(e) => {
                    stop.store(true, Ordering::Relaxed);
                    return Err(e.into());
                }
            }
        }
        progress(layout.size, layout.size);
        Ok(())
    })
}

type Fillers = Vec<Option<std::sync::Arc<Filler>>>;

/// The tables of each tensor; those with equal distributions share them.
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
    bytes.resize((chunk.weights / ty.block_weights() * ty.block_bytes()) as usize, 0);
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

/// The random stream of one chunk: keyed by seed and tensor name, numbered by the chunk.
fn stream(seed: u64, name: &str, chunk: u64) -> ChaCha8Rng {
    let mut hash = Sha256::new();
    hash.update(b"llm-bench synth 1\0");
    hash.update(seed.to_le_bytes());
    hash.update(name.as_bytes());
    let mut rng = ChaCha8Rng::from_seed(hash.finalize().into());
    rng.set_stream(chunk);
    rng
}
