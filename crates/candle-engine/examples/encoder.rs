//! Times the encoder of the engine `candle` on random weights of MiniLM's shape:
//! `cargo run --release -p llm-bench-candle-engine --example encoder -- q8_0 32x128 8x128`.

use std::io::Write;
use std::time::Instant;

use candle_core::quantized::k_quants::{BlockQ8_0, GgmlType};
use llm_bench_candle_engine::engine;
use llm_bench_gguf::write::{ALIGNMENT, TensorEntry, Value, entry, head};
use llm_bench_protocol::Load;
use rand::{Rng, SeedableRng, rngs::StdRng};

const LAYERS: usize = 6;
const HIDDEN: usize = 384;
const FF: usize = 1536;
const VOCAB: usize = 30522;
const CONTEXT: usize = 512;
const HEADS: usize = 12;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let encoding = arguments.next().unwrap_or("f32".into());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    write(file.path(), &encoding).expect("a file of random weights");
    for shape in arguments {
        let (texts, tokens) = shape.split_once('x').expect("texts x tokens");
        let (texts, tokens): (usize, usize) = (texts.parse().unwrap(), tokens.parse().unwrap());
        let mut candle = engine("candle").expect("an engine");
        let kernels = std::env::var("KERNELS").ok().map(|name| ("kernels".into(), name.into()));
        let loaded = candle
            .load(&Load {
                path: file.path().to_str().unwrap().into(),
                device: "cpu".into(),
                threads: threads as u32,
                n_ctx: tokens as u32,
                batch: texts as u32,
                options: kernels.into_iter().collect(),
            })
            .expect("the file loads");
        let load_ms = (loaded.t_end_ns - loaded.t_begin_ns) as f64 * 1e-6;
        let id = |i: usize| (i * 7919 % VOCAB) as u32;
        let batch: Vec<Vec<u32>> =
            (0..texts).map(|t| (0..tokens).map(|i| id(t * tokens + i)).collect()).collect();
        let mut times = Vec::new();
        let begin = Instant::now();
        while times.len() < 5 || begin.elapsed().as_secs_f64() < 2.0 {
            let begin = Instant::now();
            candle.encode(&batch, false).expect("vectors");
            times.push(begin.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        let median = times[times.len() / 2];
        let macs = LAYERS * texts * tokens * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * FF)
            + LAYERS * texts * 2 * tokens * tokens * HIDDEN;
        println!(
            "{encoding} {shape}, {threads} threads, {}: {:.0} µs (best {:.0}), {:.0} GFLOP/s; \
             load {load_ms:.0} ms; private {:?}, activations {:?}",
            candle.isa(),
            median * 1e6,
            times[0] * 1e6,
            2.0 * macs as f64 / median * 1e-9,
            candle.memory().weights_private_bytes,
            candle.memory().activation_bytes,
        );
    }
}

/// Writes the model with its matrices in this encoding.
fn write(path: &std::path::Path, encoding: &str) -> std::io::Result<()> {
    let mut metadata = Vec::new();
    entry(&mut metadata, "general.architecture", &"bert".into());
    for (key, value) in [
        ("block_count", LAYERS),
        ("embedding_length", HIDDEN),
        ("feed_forward_length", FF),
        ("attention.head_count", HEADS),
        ("context_length", CONTEXT),
        ("pooling_type", 1),
    ] {
        entry(&mut metadata, &format!("bert.{key}"), &Value::U32(value as u32));
    }
    entry(&mut metadata, "bert.attention.layer_norm_epsilon", &Value::F32(1e-12));
    let mut tensors: Vec<(String, Vec<usize>)> = vec![
        ("token_embd.weight".into(), vec![VOCAB, HIDDEN]),
        ("position_embd.weight".into(), vec![CONTEXT, HIDDEN]),
        ("token_types.weight".into(), vec![2, HIDDEN]),
    ];
    let mut affine = |name: String, shape: &[usize]| {
        tensors.push((format!("{name}.weight"), shape.to_vec()));
        tensors.push((format!("{name}.bias"), vec![shape[0]]));
    };
    affine("token_embd_norm".into(), &[HIDDEN]);
    for i in 0..LAYERS {
        for part in ["attn_q", "attn_k", "attn_v", "attn_output"] {
            affine(format!("blk.{i}.{part}"), &[HIDDEN, HIDDEN]);
        }
        affine(format!("blk.{i}.ffn_up"), &[FF, HIDDEN]);
        affine(format!("blk.{i}.ffn_down"), &[HIDDEN, FF]);
        affine(format!("blk.{i}.attn_output_norm"), &[HIDDEN]);
        affine(format!("blk.{i}.layer_output_norm"), &[HIDDEN]);
    }
    let mut rng = StdRng::seed_from_u64(1);
    let (mut at, mut entries, mut data) = (0, Vec::new(), Vec::new());
    for (name, shape) in &tensors {
        let columns = shape[shape.len() - 1];
        let mut values: Vec<f32> =
            (0..shape.iter().product()).map(|_| rng.random_range(-0.05..0.05)).collect();
        if name.ends_with("norm.weight") {
            values.fill(1.0);
        }
        let matrix = shape.len() == 2 && !name.starts_with("pos") && !name.contains("types");
        let (ty, bytes): (u32, Vec<u8>) = match encoding {
            "f16" if matrix => {
                (1, values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect())
            }
            "q8_0" if matrix => {
                let mut blocks = Vec::new();
                blocks.resize_with(values.len() / 32, BlockQ8_0::zeros);
                BlockQ8_0::from_float(&values, &mut blocks);
                // A block is a scale and 32 bytes.
                let n = size_of_val(&blocks[..]);
                // SAFETY: blocks are plain bytes.
                let bytes = unsafe { std::slice::from_raw_parts(blocks.as_ptr().cast(), n) };
                (8, bytes.to_vec())
            }
            _ => (0, values.iter().flat_map(|x| x.to_le_bytes()).collect()),
        };
        let dims: Vec<u64> = shape.iter().rev().map(|n| *n as u64).collect();
        assert_eq!(dims[0], columns as u64);
        entries.push((name, dims, ty, at));
        at += (bytes.len() as u64).next_multiple_of(ALIGNMENT);
        data.push(bytes);
    }
    let entries: Vec<TensorEntry<'_>> = entries
        .iter()
        .map(|(name, dims, ty, offset)| TensorEntry { name, dims, ty: *ty, offset: *offset })
        .collect();
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    file.write_all(&head(8, &metadata, &entries, ALIGNMENT))?;
    for bytes in &data {
        file.write_all(bytes)?;
        let padding = bytes.len().next_multiple_of(ALIGNMENT as usize) - bytes.len();
        file.write_all(&vec![0; padding])?;
    }
    file.flush()
}
