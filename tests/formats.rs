//! Tests every block format in which a GGUF file may store its matrices: the engine `candle` passes
//! `verify` on a file of that format, and float32 on that file equals float32 on the values it
//! represents.

mod support;

use std::path::Path;

use candle_core::quantized::gguf_file::{self, Content, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use half::f16;
use llm_bench::model::gguf::GgufFile;
use llm_bench::task::score::Question;
use rand::{Rng, SeedableRng, rngs::StdRng};
use support::{engine, output, text};

const TINY: &[u8] = include_bytes!("../models/tiny.gguf");

/// Rows of 256, as the K-quants need; the vocabulary of the tiny model.
const HIDDEN: usize = 256;
const FFN: usize = 512;
const HEADS: usize = 8;
const KV_HEADS: usize = 2;
const LAYERS: usize = 2;
const VOCAB: usize = 512;

/// How the matrices are stored.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Format {
    Candle(GgmlDType),
    Iq4Nl,
}

/// Each format with its name in `inspect`.
const FORMATS: [(Format, &str); 14] = [
    (Format::Candle(GgmlDType::F32), "F32"),
    (Format::Candle(GgmlDType::F16), "F16"),
    (Format::Candle(GgmlDType::BF16), "BF16"),
    (Format::Candle(GgmlDType::Q8_0), "Q8_0"),
    (Format::Candle(GgmlDType::Q4_0), "Q4_0"),
    (Format::Candle(GgmlDType::Q4_1), "Q4_1"),
    (Format::Candle(GgmlDType::Q5_0), "Q5_0"),
    (Format::Candle(GgmlDType::Q5_1), "Q5_1"),
    (Format::Candle(GgmlDType::Q2K), "Q2_K"),
    (Format::Candle(GgmlDType::Q3K), "Q3_K"),
    (Format::Candle(GgmlDType::Q4K), "Q4_K"),
    (Format::Candle(GgmlDType::Q5K), "Q5_K"),
    (Format::Candle(GgmlDType::Q6K), "Q6_K"),
    (Format::Iq4Nl, "IQ4_NL"),
];

/// Name and shape (rows first) of each tensor, and mean and spread of its values. A wider spread
/// would amplify the rounding of int8 activations beyond that of any trained model.
fn plan() -> Vec<(String, Vec<usize>, f32, f32)> {
    let kv = HIDDEN / HEADS * KV_HEADS;
    let mut plan = vec![
        ("token_embd.weight".into(), vec![VOCAB, HIDDEN], 0.3, 0.0),
        ("output_norm.weight".into(), vec![HIDDEN], 0.1, 1.0),
        ("rope_freqs.weight".into(), vec![HIDDEN / HEADS / 2], 0.5, 2.0),
    ];
    for layer in 0..LAYERS {
        for (part, rows, columns) in [
            ("attn_q", HIDDEN, HIDDEN),
            ("attn_k", kv, HIDDEN),
            ("attn_v", kv, HIDDEN),
            ("attn_output", HIDDEN, HIDDEN),
            ("ffn_gate", FFN, HIDDEN),
            ("ffn_up", FFN, HIDDEN),
            ("ffn_down", HIDDEN, FFN),
        ] {
            plan.push((format!("blk.{layer}.{part}.weight"), vec![rows, columns], 0.07, 0.0));
        }
        for part in ["attn_norm", "ffn_norm"] {
            plan.push((format!("blk.{layer}.{part}.weight"), vec![HIDDEN], 0.1, 1.0));
        }
    }
    plan
}

/// Writes a random LLaMA in a format to `stored`, and the values that it represents, as float32, to
/// `plain`.
fn write(format: Format, stored: &Path, plain: &Path) {
    let mut rng = StdRng::seed_from_u64(11);
    let quantize = |values: Vec<f32>, shape: &[usize], dtype| {
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        QTensor::quantize(&tensor, dtype).unwrap()
    };
    let (mut quantized, mut widened, mut blocks) = (Vec::new(), Vec::new(), Vec::new());
    for (name, shape, spread, mean) in plan() {
        let n = shape.iter().product();
        let value = |_| mean + spread * rng.random_range(-1.7f32..1.7);
        let values: Vec<f32> = (0..n).map(value).collect();
        let (tensor, values) = match format {
            _ if shape.len() == 1 => (quantize(values.clone(), &shape, GgmlDType::F32), values),
            Format::Candle(dtype) => {
                let tensor = quantize(values, &shape, dtype);
                let back = tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap();
                (tensor, back.to_vec1().unwrap())
            }
            Format::Iq4Nl => {
                // Blocks of the same size hold its place.
                let (bytes, back) = iq4_nl(&values);
                blocks.push((name.clone(), shape.clone(), bytes));
                (quantize(values, &shape, GgmlDType::Q4_0), back)
            }
        };
        widened.push((name.clone(), quantize(values, &shape, GgmlDType::F32)));
        quantized.push((name, tensor));
    }
    let metadata = metadata();
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
    for (path, tensors) in [(stored, quantized), (plain, widened)] {
        let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(k, t)| (k.as_str(), t)).collect();
        let mut file = std::fs::File::create(path).unwrap();
        gguf_file::write(&mut file, &metadata, &tensors).unwrap();
    }
    let mut bytes = std::fs::read(stored).unwrap();
    let file = GgufFile::open(stored).unwrap();
    for (name, shape, blocks) in blocks {
        let range = file.tensor(&name).unwrap().2;
        bytes[range.start as usize..range.end as usize].copy_from_slice(&blocks);
        // A directory entry: length of the name, name, number of dimensions, dimensions, type.
        let entry = [&(name.len() as u64).to_le_bytes()[..], name.as_bytes()].concat();
        let at = bytes.windows(entry.len()).position(|w| w == entry).unwrap();
        let dtype = at + entry.len() + 4 + 8 * shape.len();
        assert_eq!(bytes[dtype..][..4], 2u32.to_le_bytes());
        bytes[dtype..][..4].copy_from_slice(&20u32.to_le_bytes());
    }
    std::fs::write(stored, bytes).unwrap();
}

/// The shape, and the tiny model's tokenizer.
fn metadata() -> Vec<(String, Value)> {
    let tiny = Content::read(&mut std::io::Cursor::new(TINY)).unwrap();
    let tokenizer = tiny.metadata.into_iter().filter(|(key, _)| key.starts_with("tokenizer."));
    let number = |key: &str, n: usize| (format!("llama.{key}"), Value::U32(n as u32));
    let mut metadata = vec![
        ("general.architecture".to_string(), Value::String("llama".into())),
        number("block_count", LAYERS),
        number("context_length", 512),
        number("embedding_length", HIDDEN),
        number("feed_forward_length", FFN),
        number("attention.head_count", HEADS),
        number("attention.head_count_kv", KV_HEADS),
        number("rope.dimension_count", HIDDEN / HEADS),
        ("llama.attention.layer_norm_rms_epsilon".into(), Value::F32(1e-5)),
        ("llama.rope.freq_base".into(), Value::F32(500_000.0)),
    ];
    metadata.extend(tokenizer);
    metadata
}

/// The blocks of 32 nearest to the values, by definition, and the values that they represent.
fn iq4_nl(values: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let table = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
        .map(|v| v as f32);
    let (mut bytes, mut back) = (Vec::new(), Vec::new());
    for block in values.as_chunks::<32>().0 {
        let scale = f16::from_f32(block.iter().fold(0f32, |a, x| a.max(x.abs())) / 113.0);
        let nearest = |x: f32| {
            let distance = |i: &usize| (table[*i] * scale.to_f32() - x).abs();
            (0..16).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap()
        };
        let places = block.map(nearest);
        bytes.extend(scale.to_le_bytes());
        bytes.extend((0..16).map(|i| (places[i] | places[16 + i] << 4) as u8));
        back.extend(places.map(|i| table[i] * scale.to_f32()));
    }
    (bytes, back)
}

/// The JSON that a command prints.
fn json(dir: &Path, args: &[&str]) -> serde_json::Value {
    let out = output(dir, args);
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&out.stderr)))
}

#[test]
fn candle_passes_verify_on_a_file_of_every_format() {
    for (format, label) in FORMATS {
        let dir = tempfile::tempdir().unwrap();
        let stored = dir.path().join("stored.gguf");
        write(format, &stored, &dir.path().join("plain.gguf"));
        let file = stored.to_str().unwrap();
        let shown = json(dir.path(), &["models", "inspect", file, "--json"]);
        let types: Vec<_> = shown["tensors"].as_array().unwrap().iter().collect();
        assert!(types.iter().any(|t| t["type"] == label), "{label} in {types:?}");
        assert_eq!(shown["quant"], label);
        let args = ["verify", "--model", file, "--engine", "candle", "--reference", "candle-f32"];
        let rest = ["--positions", "96", "--decode", "24", "--no-install", "--json"];
        let verdict = &json(dir.path(), &[&args[..], &rest].concat())[0]["engines"]["candle"];
        assert_eq!(verdict["verdict"], "pass", "{format:?}: {verdict}");
        assert_eq!(verdict["divergence"]["decoded"], 24, "{verdict}");
        println!("{label}: NMSE {}", verdict["divergence"]["nmse"]);
    }
}

/// The logits of a fixed text in float32, with decode steps at its end.
fn logits(model: &Path) -> Vec<f32> {
    let tokens = (0..40).map(|i| i * 37 % VOCAB as u32).collect();
    let question = engine::question(model, VOCAB as u32, tokens);
    engine::logits("candle-f32", &Question { decode_from: 32, ..question }).concat()
}

#[test]
fn float32_on_a_file_is_float32_on_the_values_that_it_stands_for() {
    for (format, _) in FORMATS {
        let dir = tempfile::tempdir().unwrap();
        let (stored, plain) = (dir.path().join("stored.gguf"), dir.path().join("plain.gguf"));
        write(format, &stored, &plain);
        let (got, want) = (logits(&stored), logits(&plain));
        assert_eq!(got.len(), 40 * VOCAB);
        let error: f64 = got.iter().zip(&want).map(|(g, w)| f64::from(g - w).powi(2)).sum();
        let size: f64 = want.iter().map(|w| f64::from(*w).powi(2)).sum();
        assert!(error <= 1e-11 * size, "{format:?}: NMSE {:.1e}", error / size);
    }
}

#[test]
fn candle_stock_refuses_iq4_nl_with_the_tensor() {
    use llm_bench::protocol::{ErrorKind, Load};
    let dir = tempfile::tempdir().unwrap();
    let stored = dir.path().join("stored.gguf");
    write(Format::Iq4Nl, &stored, &dir.path().join("plain.gguf"));
    let (path, options) = (stored.to_str().unwrap().into(), Default::default());
    let load = Load { path, device: "cpu".into(), threads: 1, n_ctx: 64, batch: 1, options };
    let mut engine = llm_bench::worker::engine("candle-stock").unwrap();
    // The load must ask for the thread count that candle uses in this process.
    let threads = candle_core::utils::get_num_threads() as u32;
    let error = engine.load(&Load { threads, ..load }).unwrap_err();
    assert_eq!(error.kind, ErrorKind::UnsupportedQuant, "{error:?}");
    assert!(error.message.contains("blk.0.attn_k.weight is IQ4_NL"), "{error:?}");
}
