//! Compares the candle engines with a LLaMA in plain f64 loops, on tiny random GGUF files made
//! here.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use llm_bench::protocol::{EngineError, ErrorKind, Generate, Load, Loaded, Score};
use llm_bench::worker::batch::Together;
use llm_bench::worker::bench::Kernels;
use llm_bench::worker::generate::{self, Generation, Nobody};
use llm_bench::worker::{Engine, engine};
use rand::{Rng, SeedableRng, rngs::StdRng};

// ---- a tiny model ----

#[derive(Clone, Copy)]
struct Shape {
    layers: usize,
    hidden: usize,
    ffn: usize,
    heads: usize,
    kv_heads: usize,
    vocab: usize,
    tied: bool,
    rope_factors: bool,
}

/// Rows of 256 for the K-quants; four query heads per key/value head.
const SHAPE: Shape = Shape {
    layers: 2,
    hidden: 256,
    ffn: 512,
    heads: 8,
    kv_heads: 2,
    vocab: 320,
    tied: true,
    rope_factors: true,
};

/// The tensors of a file as f32, after a round trip through the file's encoding.
type Tensors = HashMap<String, Vec<f32>>;

/// Writes a random model whose matrices are stored as `dtype`; returns the values they represent.
fn write_model(path: &Path, shape: Shape, dtype: GgmlDType) -> Tensors {
    let Shape { hidden, ffn, heads, kv_heads, vocab, .. } = shape;
    let head_dim = hidden / heads;
    let mut rng = StdRng::seed_from_u64(7);
    let mut normal = |n: usize, scale: f32, mean: f32| -> Vec<f32> {
        let mut uniform = || rng.random_range(-1.0f32..1.0);
        (0..n).map(|_| mean + scale * (uniform() + uniform() + uniform())).collect()
    };
    let mut plan: Vec<(String, Vec<usize>, GgmlDType, f32, f32)> = vec![
        ("token_embd.weight".into(), vec![vocab, hidden], dtype, 1.0, 0.0),
        ("output_norm.weight".into(), vec![hidden], GgmlDType::F32, 0.1, 1.0),
    ];
    if !shape.tied {
        plan.push(("output.weight".into(), vec![vocab, hidden], dtype, 0.2, 0.0));
    }
    for i in 0..shape.layers {
        let kv = kv_heads * head_dim;
        for (name, rows, columns) in [
            ("attn_q", hidden, hidden),
            ("attn_k", kv, hidden),
            ("attn_v", kv, hidden),
            ("attn_output", hidden, hidden),
            ("ffn_gate", ffn, hidden),
            ("ffn_up", ffn, hidden),
            ("ffn_down", hidden, ffn),
        ] {
            plan.push((format!("blk.{i}.{name}.weight"), vec![rows, columns], dtype, 0.07, 0.0));
        }
        for name in ["attn_norm", "ffn_norm"] {
            let name = format!("blk.{i}.{name}.weight");
            plan.push((name, vec![hidden], GgmlDType::F32, 0.1, 1.0));
        }
    }
    let mut tensors = Tensors::new();
    let mut stored = Vec::new();
    for (name, dims, dtype, scale, mean) in plan {
        let values = normal(dims.iter().product(), scale, mean);
        let tensor = Tensor::from_vec(values, dims, &Device::Cpu).unwrap();
        let q = QTensor::quantize(&tensor, dtype).unwrap();
        let back = q.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap();
        tensors.insert(name.clone(), back.to_vec1().unwrap());
        stored.push((name, q));
    }
    if shape.rope_factors {
        let factors: Vec<f32> = (0..head_dim / 2).map(|i| 1.0 + i as f32 * 1.7).collect();
        let tensor = Tensor::from_vec(factors.clone(), head_dim / 2, &Device::Cpu).unwrap();
        stored.push((
            "rope_freqs.weight".into(),
            QTensor::quantize(&tensor, GgmlDType::F32).unwrap(),
        ));
        tensors.insert("rope_freqs.weight".into(), factors);
    }
    write_gguf(path, &metadata(shape), &stored);
    tensors
}

fn metadata(shape: Shape) -> Vec<(&'static str, Value)> {
    vec![
        ("general.architecture", Value::String("llama".into())),
        ("llama.block_count", Value::U32(shape.layers as u32)),
        ("llama.context_length", Value::U32(4096)),
        ("llama.embedding_length", Value::U32(shape.hidden as u32)),
        ("llama.feed_forward_length", Value::U32(shape.ffn as u32)),
        ("llama.attention.head_count", Value::U32(shape.heads as u32)),
        ("llama.attention.head_count_kv", Value::U32(shape.kv_heads as u32)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.freq_base", Value::F32(500_000.0)),
        ("llama.rope.dimension_count", Value::U32((shape.hidden / shape.heads) as u32)),
    ]
}

fn write_gguf(path: &Path, metadata: &[(&str, Value)], tensors: &[(String, QTensor)]) {
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(k, v)| (*k, v)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(k, t)| (k.as_str(), t)).collect();
    let mut file = std::fs::File::create(path).unwrap();
    gguf_file::write(&mut file, &metadata, &tensors).unwrap();
}

// ---- the reference ----

/// `w · x` for `w` of `[rows, len of x]`.
fn product(w: &[f32], x: &[f64]) -> Vec<f64> {
    w.chunks_exact(x.len()).map(|w| w.iter().zip(x).map(|(&w, &x)| w as f64 * x).sum()).collect()
}

fn norm(x: &[f64], w: &[f32]) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    let scale = 1.0 / (mean + 1e-5f32 as f64).sqrt();
    x.iter().zip(w).map(|(x, &w)| x * scale * w as f64).collect()
}

/// Logits of every position, by the definition, in f64.
fn reference(shape: Shape, tensors: &Tensors, tokens: &[u32]) -> Vec<Vec<f64>> {
    let (hidden, heads) = (shape.hidden, shape.heads);
    let (dim, group) = (hidden / heads, heads / shape.kv_heads);
    let weight = |layer: usize, name: &str| &tensors[&format!("blk.{layer}.{name}.weight")];
    let rotate = |x: &mut [f64], position: usize| {
        for head in x.chunks_exact_mut(dim) {
            for i in 0..dim / 2 {
                let factor = tensors.get("rope_freqs.weight").map_or(1.0, |f| f[i] as f64);
                let frequency = 500_000f64.powf(-2.0 * i as f64 / dim as f64) / factor;
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                let (a, b) = (head[2 * i], head[2 * i + 1]);
                (head[2 * i], head[2 * i + 1]) = (a * cos - b * sin, a * sin + b * cos);
            }
        }
    };
    let embedding = &tensors["token_embd.weight"];
    let mut cache: Vec<Vec<(Vec<f64>, Vec<f64>)>> = vec![Vec::new(); shape.layers];
    let mut out = Vec::new();
    for (position, &token) in tokens.iter().enumerate() {
        let row = &embedding[token as usize * hidden..][..hidden];
        let mut x: Vec<f64> = row.iter().map(|&x| x as f64).collect();
        for (layer, cache) in cache.iter_mut().enumerate() {
            let h = norm(&x, weight(layer, "attn_norm"));
            let mut q = product(weight(layer, "attn_q"), &h);
            let mut k = product(weight(layer, "attn_k"), &h);
            let v = product(weight(layer, "attn_v"), &h);
            rotate(&mut q, position);
            rotate(&mut k, position);
            cache.push((k, v));
            let mut attended = vec![0.0; hidden];
            for head in 0..heads {
                let (q, kv) = (&q[head * dim..][..dim], head / group * dim);
                let scores: Vec<f64> = cache
                    .iter()
                    .map(|(k, _)| {
                        let dot: f64 = q.iter().zip(&k[kv..]).map(|(q, k)| q * k).sum();
                        dot / (dim as f64).sqrt()
                    })
                    .collect();
                let largest = scores.iter().fold(f64::MIN, |a, &b| a.max(b));
                let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
                for (score, (_, v)) in scores.iter().zip(cache.iter()) {
                    for i in 0..dim {
                        attended[head * dim + i] += (score - largest).exp() / sum * v[kv + i];
                    }
                }
            }
            let o = product(weight(layer, "attn_output"), &attended);
            x.iter_mut().zip(o).for_each(|(x, o)| *x += o);
            let h = norm(&x, weight(layer, "ffn_norm"));
            let gate = product(weight(layer, "ffn_gate"), &h);
            let up = product(weight(layer, "ffn_up"), &h);
            let inner: Vec<f64> =
                gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            let down = product(weight(layer, "ffn_down"), &inner);
            x.iter_mut().zip(down).for_each(|(x, d)| *x += d);
        }
        let head = tensors.get("output.weight").unwrap_or(embedding);
        out.push(product(head, &norm(&x, &tensors["output_norm.weight"])));
    }
    out
}

/// Σ (got − want)² / Σ want² over all positions.
fn nmse(got: &[Vec<f32>], want: &[Vec<f64>]) -> f64 {
    assert_eq!(got.len(), want.len());
    let (mut error, mut size) = (0.0, 0.0);
    for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
        error += (*got as f64 - want).powi(2);
        size += want.powi(2);
    }
    error / size
}

// ---- driving an engine ----

fn load_request(path: &Path, n_ctx: u32) -> Load {
    Load {
        path: path.to_str().unwrap().into(),
        device: "cpu".into(),
        threads: 2,
        n_ctx,
        batch: 1,
        options: Default::default(),
    }
}

fn candle(path: &Path) -> (Box<dyn Engine>, Loaded) {
    let mut engine = engine("candle").unwrap();
    let loaded = engine.load(&load_request(path, 1024)).unwrap();
    (engine, loaded)
}

fn score(engine: &mut dyn Engine, tokens: &[u32], first: u32) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    let request = Score {
        id: 1,
        tokens: tokens.into(),
        logits_path: String::new(),
        first,
        decode_from: None,
    };
    let mut keep = |row: &[f32]| {
        rows.push(row.to_vec());
        Ok(())
    };
    engine.score(&request, &mut keep).unwrap();
    rows
}

fn ask(engine: &mut dyn Engine, prompt: &[u32], n: u32) -> Result<Generation, EngineError> {
    let request = Generate::greedy(1, prompt.into(), n);
    generate::generate(engine.decoder()?, &request, &mut Nobody)
}

fn generate(engine: &mut dyn Engine, prompt: &[u32], n: u32) -> Vec<u32> {
    let timed = ask(engine, prompt, n).unwrap();
    assert_eq!((timed.tokens.len(), timed.at.len()), (n as usize, n as usize));
    assert!(timed.at.first().is_none_or(|&t| timed.prefill_end <= t));
    assert!(timed.at.is_sorted());
    timed.tokens
}

fn tokens(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * i * 31 + i * 7 + 5) % 320).collect()
}

fn in_folder<R>(test: impl FnOnce(&Path) -> R) -> R {
    let folder = tempfile::tempdir().unwrap();
    test(&folder.path().join("tiny.gguf"))
}

// ---- tests ----

#[test]
fn logits_agree_with_the_reference_for_every_encoding() {
    let limits = [
        (GgmlDType::F32, 1e-5),
        (GgmlDType::F16, 1e-5),
        (GgmlDType::BF16, 1e-5),
        (GgmlDType::Q8_0, 1e-3),
        (GgmlDType::Q4_0, 1e-3),
        (GgmlDType::Q4_1, 1e-3),
        (GgmlDType::Q5_0, 1e-3),
        (GgmlDType::Q5_1, 1e-3),
        (GgmlDType::Q2K, 1e-3),
        (GgmlDType::Q3K, 1e-3),
        (GgmlDType::Q4K, 1e-3),
        (GgmlDType::Q5K, 1e-3),
        (GgmlDType::Q6K, 1e-3),
    ];
    for (dtype, limit) in limits {
        in_folder(|path| {
            let tensors = write_model(path, SHAPE, dtype);
            let (mut engine, loaded) = candle(path);
            let tokens = tokens(40);
            let want = reference(SHAPE, &tensors, &tokens);
            let error = nmse(&score(engine.as_mut(), &tokens, 0), &want);
            println!("{dtype:?}: NMSE {error:.2e}, {:?}", loaded.precision);
            assert!(error <= limit, "{dtype:?}: NMSE {error:.2e}");
            // One token at a time is the decode path.
            let mut last = Vec::new();
            for n in [1, 5] {
                last.push(score(engine.as_mut(), &tokens[..n], n as u32 - 1).remove(0));
            }
            let error = nmse(&last, &[want[0].clone(), want[4].clone()]);
            assert!(error <= limit, "{dtype:?}, few tokens: NMSE {error:.2e}");
        });
    }
}

#[test]
fn every_set_of_kernels_agrees_with_the_reference() {
    let limits = [
        (GgmlDType::F16, 1e-5),
        (GgmlDType::BF16, 1e-5),
        (GgmlDType::Q8_0, 1e-3),
        (GgmlDType::Q4_0, 1e-3),
        (GgmlDType::Q4K, 1e-3),
        (GgmlDType::Q6K, 1e-3),
    ];
    for (dtype, limit) in limits {
        in_folder(|path| {
            let tensors = write_model(path, SHAPE, dtype);
            let tokens = tokens(20);
            let want = reference(SHAPE, &tensors, &tokens);
            for kernels in Kernels::names() {
                let mut engine = engine("candle").unwrap();
                let mut request = load_request(path, 64);
                request.options.insert("kernels".into(), kernels.into());
                let loaded = engine.load(&request).unwrap();
                assert_eq!(loaded.settings["kernels"], kernels);
                let error = nmse(&score(engine.as_mut(), &tokens, 0), &want);
                assert!(error <= limit, "{kernels}, {dtype:?}: NMSE {error:.2e}");
                // Few tokens use other kernels.
                for n in [1, 5] {
                    let last = score(engine.as_mut(), &tokens[..n], n as u32 - 1);
                    let error = nmse(&last, &want[n - 1..n]);
                    assert!(error <= limit, "{kernels}, {dtype:?}, {n} tokens: {error:.2e}");
                }
            }
        });
    }
}

#[test]
fn shapes_vary_untied_heads_no_rope_factors_odd_blocks() {
    let shapes = [
        Shape { tied: false, ..SHAPE },
        Shape { rope_factors: false, heads: 4, kv_heads: 4, ..SHAPE },
        // 96 and 160 are not whole groups of 128; all heads share one key/value head.
        Shape { hidden: 96, ffn: 160, heads: 3, kv_heads: 1, vocab: 333, ..SHAPE },
    ];
    for shape in shapes {
        for (dtype, limit) in
            [(GgmlDType::F16, 1e-5), (GgmlDType::Q4_0, 1e-3), (GgmlDType::Q8_0, 1e-3)]
        {
            in_folder(|path| {
                let tensors = write_model(path, shape, dtype);
                let (mut engine, _) = candle(path);
                let tokens = tokens(24);
                let want = reference(shape, &tensors, &tokens);
                let error = nmse(&score(engine.as_mut(), &tokens, 0), &want);
                assert!(error <= limit, "{dtype:?}: NMSE {error:.2e}");
            });
        }
    }
}

#[test]
fn positions_beyond_512_and_beyond_a_batch_agree() {
    in_folder(|path| {
        let shape = Shape { layers: 1, ..SHAPE };
        let tensors = write_model(path, shape, GgmlDType::F16);
        let (mut engine, _) = candle(path);
        let tokens = tokens(700);
        let want = reference(shape, &tensors, &tokens);
        let got = score(engine.as_mut(), &tokens, 500);
        let error = nmse(&got, &want[500..]);
        println!("positions 500..700: NMSE {error:.2e}");
        assert!(error <= 1e-5, "NMSE {error:.2e}");
    });
}

#[test]
fn generation_continues_as_teacher_forcing_would() {
    for dtype in [GgmlDType::F16, GgmlDType::Q4_0, GgmlDType::Q4K, GgmlDType::Q8_0] {
        in_folder(|path| {
            write_model(path, SHAPE, dtype);
            let (mut engine, _) = candle(path);
            let prompt = tokens(37);
            let generated = generate(engine.as_mut(), &prompt, 20);
            assert_eq!(generated, generate(engine.as_mut(), &prompt, 20), "not repeatable");
            let all = [&prompt[..], &generated].concat();
            let rows = score(engine.as_mut(), &all, 0);
            for (i, &token) in generated.iter().enumerate() {
                let row = &rows[prompt.len() - 1 + i];
                // The teacher-forced pass may round differently, which matters if two logits are
                // close.
                let best = row.iter().fold(f32::MIN, |a, &b| a.max(b));
                assert!(best - row[token as usize] <= 0.05 * best.abs(), "{dtype:?}, token {i}");
            }
        });
    }
}

#[test]
fn a_prompt_gives_the_same_logits_in_passes_of_any_length() {
    for dtype in [GgmlDType::F16, GgmlDType::Q4_0, GgmlDType::Q4K] {
        in_folder(|path| {
            write_model(path, SHAPE, dtype);
            let (mut engine, _) = candle(path);
            let tokens = tokens(30);
            let together = score(engine.as_mut(), &tokens, 0);
            for n in [1, 2, 3, 7, 8, 29] {
                let alone = score(engine.as_mut(), &tokens[..n], n as u32 - 1);
                let want: Vec<f64> = together[n - 1].iter().map(|&x| x as f64).collect();
                let error = nmse(&alone, &[want]);
                assert!(error <= 1e-3, "{dtype:?}, {n} tokens: NMSE {error:.2e}");
            }
            // The first generated token follows from the last position's logits.
            let best = together[29].iter().fold(f32::MIN, |a, &b| a.max(b));
            let token = generate(engine.as_mut(), &tokens, 1)[0];
            assert!(best - together[29][token as usize] <= 0.05 * best.abs());
        });
    }
}

/// Logits `[sequence][step]` of sequences that run together: behind their prompts, then behind each
/// of `more` tokens.
fn together(engine: &mut dyn Engine, prompts: &[&[u32]], more: &[Vec<u32>]) -> Vec<Vec<Vec<f32>>> {
    let mut logits = vec![Vec::new(); prompts.len()];
    let decoder = engine.decoder().unwrap().together().unwrap();
    decoder.prefill(prompts).unwrap();
    let mut keep = |decoder: &dyn Together| {
        for (s, logits) in logits.iter_mut().enumerate() {
            logits.push(decoder.logits(s).to_vec());
        }
    };
    keep(&*decoder);
    for (i, tokens) in more.iter().enumerate() {
        let choices = decoder.step(tokens, prompts[0].len() + i).unwrap();
        assert!(choices.iter().all(|choice| choice.finite));
        keep(&*decoder);
    }
    logits
}

#[test]
fn sequences_that_run_together_have_the_logits_of_the_reference() {
    let limits = [
        (GgmlDType::F32, 1e-5),
        (GgmlDType::F16, 1e-5),
        (GgmlDType::BF16, 1e-5),
        (GgmlDType::Q8_0, 1e-3),
        (GgmlDType::Q4_0, 1e-3),
        (GgmlDType::Q5_0, 1e-3),
        (GgmlDType::Q4K, 1e-3),
        (GgmlDType::Q6K, 1e-3),
    ];
    let shape = Shape { layers: 1, ..SHAPE };
    const LENGTH: usize = 11;
    for (dtype, limit) in limits {
        in_folder(|path| {
            let tensors = write_model(path, shape, dtype);
            for (kernels, n) in Kernels::names().into_iter().zip([26, 9, 5, 16, 2].iter().cycle()) {
                // All tokens of all sequences differ, and so do their keys and values.
                let all: Vec<Vec<u32>> = (0..*n as u32)
                    .map(|s| {
                        (0..13).map(|i| (s * s * 17 + s * 41 + i * i * 31 + 5) % 320).collect()
                    })
                    .collect();
                let mut engine = engine("candle").unwrap();
                let mut request = Load { batch: *n as u32, ..load_request(path, 64) };
                request.options.insert("kernels".into(), kernels.into());
                engine.load(&request).unwrap();
                let prompts: Vec<&[u32]> = all.iter().map(|tokens| &tokens[..LENGTH]).collect();
                let more: Vec<Vec<u32>> =
                    (LENGTH..13).map(|i| all.iter().map(|tokens| tokens[i]).collect()).collect();
                let got = together(engine.as_mut(), &prompts, &more);
                for (s, tokens) in all.iter().enumerate() {
                    let want = &reference(shape, &tensors, tokens)[LENGTH - 1..];
                    let error = nmse(&got[s], want);
                    let at = format!("{kernels}, {dtype:?}, sequence {s} of {n}");
                    assert!(error <= limit, "{at}: NMSE {error:.2e}");
                }
            }
        });
    }
}

#[test]
fn many_long_prompts_pass_through_the_layers_in_several_passes() {
    in_folder(|path| {
        let shape = Shape { layers: 1, ..SHAPE };
        let tensors = write_model(path, shape, GgmlDType::F16);
        // 3 · 200 tokens: the second and the third prompt begin within a pass.
        let all: Vec<Vec<u32>> = [3, 77, 150].map(|s| tokens(400)[s..s + 200].to_vec()).into();
        let mut engine = engine("candle").unwrap();
        engine.load(&Load { batch: 3, ..load_request(path, 256) }).unwrap();
        let prompts: Vec<&[u32]> = all.iter().map(Vec::as_slice).collect();
        let got = together(engine.as_mut(), &prompts, &[]);
        for (s, tokens) in all.iter().enumerate() {
            let want = &reference(shape, &tensors, tokens)[199..];
            let error = nmse(&got[s], want);
            assert!(error <= 1e-5, "sequence {s}: NMSE {error:.2e}");
        }
    });
}

#[test]
fn a_batch_has_a_cache_for_each_sequence_and_asks_for_it() {
    in_folder(|path| {
        write_model(path, SHAPE, GgmlDType::Q8_0);
        let kv = |batch| {
            let request = Load { batch, ..load_request(path, 64) };
            engine("candle").unwrap().load(&request).unwrap().memory.kv_bytes.unwrap()
        };
        assert_eq!(kv(8), 8 * kv(1));
        let absurd = Load { batch: 256, ..load_request(path, 1 << 24) };
        let error = error_of("candle", &absurd);
        assert_eq!(error.kind, ErrorKind::Oom);
        assert!(error.message.contains("for each of 256 sequences"), "{error}");
        let error = error_of("candle", &Load { batch: 257, ..load_request(path, 64) });
        assert_eq!(error.kind, ErrorKind::Unsupported);
        let on_a_card = Load { batch: 2, device: "cuda:0".into(), ..load_request(path, 64) };
        let error = error_of("candle", &on_a_card);
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert!(error.message.contains("cuda:0"), "{error}");
    });
}

#[test]
fn the_book_of_memory_follows_from_the_shapes() {
    in_folder(|path| {
        write_model(path, SHAPE, GgmlDType::Q8_0);
        let (_, loaded) = candle(path);
        let kv = 2 * 2 * SHAPE.layers * (SHAPE.hidden / SHAPE.heads * SHAPE.kv_heads) * 1024;
        assert_eq!(loaded.memory.kv_bytes, Some(kv as u64));
        let layer = 2 * 256 * 256 + 2 * 64 * 256 + 3 * 512 * 256;
        let weights = (SHAPE.layers * layer + 320 * 256) / 32 * 34;
        assert_eq!(loaded.memory.weights_mapped_bytes, Some(weights as u64));
        assert_eq!(loaded.precision.weights, "q8_0");
        assert_eq!(loaded.precision.compute, "int8");
        assert_eq!(loaded.precision.kv, "f16");
    });
}

fn error_of(engine_name: &str, request: &Load) -> EngineError {
    engine(engine_name).unwrap().load(request).unwrap_err()
}

#[test]
fn files_that_are_no_model_are_refused_by_name() {
    in_folder(|path| {
        let missing = error_of("candle", &load_request(path, 64));
        assert_eq!(missing.kind, ErrorKind::BadModel);
        assert!(missing.message.contains("tiny.gguf"), "{missing}");

        std::fs::write(path, b"GGUF").unwrap();
        assert_eq!(error_of("candle", &load_request(path, 64)).kind, ErrorKind::BadModel);
        std::fs::write(path, b"").unwrap();
        assert_eq!(error_of("candle", &load_request(path, 64)).kind, ErrorKind::BadModel);

        write_model(path, SHAPE, GgmlDType::Q4_0);
        let whole = std::fs::read(path).unwrap();
        std::fs::write(path, &whole[..whole.len() - 1000]).unwrap();
        let truncated = error_of("candle", &load_request(path, 64));
        assert_eq!(truncated.kind, ErrorKind::BadModel);
        assert!(truncated.message.contains("truncated"), "{truncated}");
    });
}

/// Writes a model of F32 tensors with changes to its metadata and tensors.
fn broken(
    path: &Path,
    change: impl FnOnce(&mut Vec<(&'static str, Value)>, &mut Vec<(String, QTensor)>),
) -> EngineError {
    let tensors = write_model(path, SHAPE, GgmlDType::F32);
    let mut metadata = metadata(SHAPE);
    let mut stored: Vec<(String, QTensor)> = tensors
        .into_iter()
        .map(|(name, values)| {
            let rows = if name.contains("norm") || name.contains("rope") {
                vec![values.len()]
            } else {
                let columns = if name.contains("ffn_down") { SHAPE.ffn } else { SHAPE.hidden };
                vec![values.len() / columns, columns]
            };
            let tensor = Tensor::from_vec(values, rows, &Device::Cpu).unwrap();
            (name, QTensor::quantize(&tensor, GgmlDType::F32).unwrap())
        })
        .collect();
    change(&mut metadata, &mut stored);
    write_gguf(path, &metadata, &stored);
    error_of("candle", &load_request(path, 64))
}

#[test]
fn wrong_models_are_refused_with_what_was_expected() {
    let ones = |n: usize| {
        QTensor::quantize(
            &Tensor::ones(n, candle_core::DType::F32, &Device::Cpu).unwrap(),
            GgmlDType::F32,
        )
        .unwrap()
    };
    in_folder(|path| {
        let error = broken(path, |_, tensors| tensors.retain(|(n, _)| n != "blk.1.ffn_up.weight"));
        assert_eq!(error.kind, ErrorKind::BadModel);
        assert!(error.message.contains("blk.1.ffn_up.weight is missing"), "{error}");

        let error = broken(path, |metadata, _| metadata[4].1 = Value::U32(500));
        assert!(error.message.contains("expected shape [500, 256], found [512, 256]"), "{error}");

        let error = broken(path, |metadata, _| metadata[0].1 = Value::String("qwen2".into()));
        assert!(error.message.contains("expected llama"), "{error}");

        let error = broken(path, |metadata, _| drop(metadata.remove(7)));
        assert!(error.message.contains("rms_epsilon is missing"), "{error}");

        let error = broken(path, |_, tensors| {
            tensors.push(("blk.0.attn_q.bias".into(), ones(256)));
        });
        assert!(error.message.contains("blk.0.attn_q.bias is not part of"), "{error}");

        let error = broken(path, |metadata, _| metadata[6].1 = Value::U32(3));
        assert!(error.message.contains("divisor of the 8 query heads"), "{error}");
    });
}

#[test]
fn an_unknown_quantization_is_named_as_such() {
    in_folder(|path| {
        write_model(path, SHAPE, GgmlDType::Q4_0);
        let mut bytes = std::fs::read(path).unwrap();
        // The type follows name, rank and two dimensions.
        let name = b"token_embd.weight";
        let at = bytes.windows(name.len()).position(|w| w == name).unwrap() + name.len() + 4 + 16;
        bytes[at..at + 4].copy_from_slice(&21u32.to_le_bytes()); // IQ3_S
        std::fs::write(path, bytes).unwrap();
        for name in ["candle", "candle-stock"] {
            let mut request = load_request(path, 64);
            request.threads = candle_core::utils::get_num_threads() as u32;
            assert_eq!(error_of(name, &request).kind, ErrorKind::UnsupportedQuant, "{name}");
        }
    });
}

#[test]
fn requests_that_cannot_be_met_are_refused() {
    in_folder(|path| {
        write_model(path, SHAPE, GgmlDType::Q4_0);
        let absurd = error_of("candle", &load_request(path, u32::MAX));
        assert_eq!(absurd.kind, ErrorKind::Oom, "{absurd}");

        let mut request = load_request(path, 64);
        request.options.insert("speed".into(), 11.into());
        let unknown = error_of("candle", &request);
        assert_eq!(unknown.kind, ErrorKind::Internal);
        assert!(unknown.message.contains("option speed"), "{unknown}");

        let mut request = load_request(path, 64);
        request.options.insert("kernels".into(), "mmx".into());
        let unknown = error_of("candle", &request);
        assert!(unknown.message.contains("kernels mmx: this CPU has "), "{unknown}");
        assert!(unknown.message.contains("portable"), "{unknown}");

        let mut request = load_request(path, 64);
        request.device = "cuda:0".into();
        assert_eq!(error_of("candle", &request).kind, ErrorKind::MissingDependency);

        let mut engine = engine("candle").unwrap();
        assert!(ask(engine.as_mut(), &[1], 1).unwrap_err().message.contains("no model is loaded"));
        engine.load(&load_request(path, 64)).unwrap();
        let mut ask = |prompt: &[u32], n| ask(engine.as_mut(), prompt, n);
        assert!(ask(&[], 1).unwrap_err().message.contains("empty"));
        assert!(ask(&[320], 1).unwrap_err().message.contains("outside the vocabulary"));
        assert!(ask(&[1; 60], 6).unwrap_err().message.contains("n_ctx is 64"));
        assert_eq!(ask(&[1; 60], 5).unwrap().tokens.len(), 5);
    });
}

#[test]
fn candle_stock_agrees_where_no_rope_factors_are_asked_for() {
    let shape = Shape { rope_factors: false, ..SHAPE };
    for (dtype, limit) in [(GgmlDType::F16, 1e-5), (GgmlDType::Q8_0, 1e-3)] {
        in_folder(|path| {
            let tensors = write_model(path, shape, dtype);
            let mut stock = engine("candle-stock").unwrap();
            let mut request = load_request(path, 64);
            request.threads = candle_core::utils::get_num_threads() as u32;
            let loaded = stock.load(&request).unwrap();
            assert!(!loaded.notes.iter().any(|n| n.contains("rope_freqs")));
            let tokens = tokens(20);
            let want = reference(shape, &tensors, &tokens);
            let error = nmse(&score(stock.as_mut(), &tokens, 0), &want);
            assert!(error <= limit, "{dtype:?}: NMSE {error:.2e}");
            // A second request starts from an empty context.
            let once = generate(stock.as_mut(), &tokens, 8);
            assert_eq!(once, generate(stock.as_mut(), &tokens, 8));
        });
    }
}

#[test]
fn candle_stock_says_that_it_ignores_rope_factors_and_does() {
    in_folder(|path| {
        let tensors = write_model(path, SHAPE, GgmlDType::F16);
        let mut stock = engine("candle-stock").unwrap();
        let mut request = load_request(path, 64);
        request.threads = candle_core::utils::get_num_threads() as u32;
        let loaded = stock.load(&request).unwrap();
        assert!(loaded.notes.iter().any(|n| n.contains("rope_freqs.weight is ignored")));
        let tokens = tokens(40);
        let want = reference(SHAPE, &tensors, &tokens);
        let error = nmse(&score(stock.as_mut(), &tokens, 0), &want);
        assert!(error > 1e-4, "an ignored tensor should show: NMSE {error:.2e}");
    });
}
