//! Tests of quantization: the bytes of `llama-quantize`, the error of every block type, refusals.
//!
//! The digests are SHA-256 of files that llama.cpp's `llama-quantize` (v0.5.0-dev) wrote from the
//! same source, without an importance matrix.

use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;
use crate::model::gguf_fixture::{Fixture, llama};

fn tiny() -> GgufFile {
    GgufFile::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny.gguf")).unwrap()
}

fn digest(bytes: &[u8]) -> String {
    crate::digest::hex(&Sha256::digest(bytes))
}

/// The file that quantization produces.
fn made(source: &GgufFile, quant: Quant, threads: usize) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf");
    let targets = [Target { quant, out: out.clone() }];
    let sizes = quantize(source, &targets, threads, false, &mut |_, _| {}).unwrap();
    let bytes = std::fs::read(&out).unwrap();
    assert_eq!(sizes, [Bytes(bytes.len() as u64)]);
    bytes
}

fn refusal(source: &GgufFile, quant: Quant) -> String {
    let folder = tempfile::tempdir().unwrap();
    let targets = [Target { quant, out: folder.path().join("out.gguf") }];
    let error = quantize(source, &targets, 2, false, &mut |_, _| {}).unwrap_err();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "something was left");
    format!("{error:#}")
}

/// A LLaMA with rows of 256. `weight` gives each weight by its index in the tensor.
struct Made {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Made {
    fn open(&self) -> GgufFile {
        GgufFile::open(&self.path).unwrap()
    }
}

fn llama_of(fixture: Fixture, weight: impl Fn(&str, u64) -> f32) -> Made {
    let folder = tempfile::tempdir().unwrap();
    let (d, ff, kv, vocab) = (256, 512, 128, 96);
    let mut fixture = fixture
        .u32("general.file_type", 0)
        .u32("llama.embedding_length", 256)
        .u32("llama.feed_forward_length", 512)
        .u32("llama.rope.dimension_count", 64)
        .tensor("token_embd.weight", &[d, vocab], 0)
        .tensor("output_norm.weight", &[d], 0)
        .tensor("rope_freqs.weight", &[32], 0);
    for layer in 0..2 {
        for (part, dims) in [
            ("attn_norm", &[d][..]),
            ("attn_q", &[d, d]),
            ("attn_k", &[d, kv]),
            ("attn_v", &[d, kv]),
            ("attn_output", &[d, d]),
            ("ffn_norm", &[d]),
            ("ffn_gate", &[d, ff]),
            ("ffn_up", &[d, ff]),
            ("ffn_down", &[ff, d]),
        ] {
            fixture = fixture.tensor(&format!("blk.{layer}.{part}.weight"), dims, 0);
        }
    }
    let path = fixture.write(folder.path());
    let file = GgufFile::open(&path).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    for t in source_tensors(&file, false).unwrap() {
        for i in 0..t.weights {
            let at = (t.offset + 4 * i) as usize;
            bytes[at..at + 4].copy_from_slice(&weight(&t.name, i).to_le_bytes());
        }
    }
    std::fs::write(&path, bytes).unwrap();
    Made { _folder: folder, path }
}

/// Spread evenly over −1 to 1, the same on every machine.
fn noise(i: u64) -> f32 {
    let mut x = i.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 29;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (x >> 40) as f32 / (1u32 << 23) as f32 - 1.0
}

/// Blocks that no trained model has, a different kind in each 256 weights. Leaves out denormal
/// weights: their blocks decode to zeros whatever the quants, and llama.cpp's come from converting
/// an infinity to an integer.
fn awkward(_: &str, i: u64) -> f32 {
    let x = noise(i);
    let first = i.is_multiple_of(32);
    match i / 256 % 13 {
        0 => 0.0,
        1 => 0.375,
        2 => -0.375,
        3 => 1.0 + x.abs(),
        4 => -1.0 - x.abs(),
        5 => {
            if first {
                20_000.0
            } else {
                x
            }
        }
        6 => {
            if i.is_multiple_of(256) {
                -30_000.0
            } else {
                x * 1e-3
            }
        }
        7 => x * 1e-12,
        8 => x * 1e-20,
        9 => x * 1e-30,
        10 => {
            if i & 1 == 0 {
                1.0
            } else {
                -1.0
            }
        }
        11 => {
            if first {
                x
            } else {
                0.0
            }
        }
        _ => x * x * x,
    }
}

#[test]
fn the_shipped_model_becomes_the_files_of_llama_quantize() {
    for (quant, expected) in [
        (Quant::Q8_0, "83248e5e5eeff3f83344c0f5799b61fb94d57de912a0c88454bf21fcc4e59e48"),
        (Quant::Q4_0, "d9b047206fce5ffab33a136836c512b8fcbbb843a0e9ddd57d6c92eecaf7cc7e"),
        (Quant::Q4_K_M, "511593d57d1529222942a48ea37613f9f596495bc842d1fa31a67148b5d389b9"),
        (Quant::BF16, "7ab3d456ec548d29739f95216d3b5b1978446bb41b5846cbff152f1fbab2c9f8"),
        (Quant::F32, "eded9829098c6963123944150e82f6772d1cfda6e4fb42d75a15f47662698f8f"),
    ] {
        assert_eq!(digest(&made(&tiny(), quant, 2)), expected, "{quant}");
    }
}

#[test]
fn awkward_weights_become_the_bytes_of_llama_quantize() {
    let source = llama_of(llama(), awkward);
    assert_eq!(
        digest(&std::fs::read(&source.path).unwrap()),
        "84497b9ae14d9b6312fb4f7b58e05f0d1481141cbce151b5593ce6be3a146c5d",
        "the source itself is another one"
    );
    for (quant, expected) in [
        (Quant::Q8_0, "6c08817e7be6ef3dd7146a16b92338cf6aeb1380343ee188799c87f1dc417402"),
        (Quant::Q4_0, "8153989cccedcbf8cb341429cec1525b0c0c8d23a20c1705a01fcf333408e160"),
        (Quant::Q4_K_M, "17337235af44f487324e0fe379ab760cacc946e782aa71784eaaea57021a6a60"),
        (Quant::F16, "1417167b6d35029194191ad8e7d03661887276f71a5e447a43bf370986a0103c"),
    ] {
        assert_eq!(digest(&made(&source.open(), quant, 3)), expected, "{quant}");
    }
}

#[test]
fn types_that_only_some_shapes_get_have_the_bytes_of_llama_quantize() {
    // Tensors of the shipped model in `llama-quantize`'s Q5_K_M and Q5_1 files.
    let source = tiny();
    let all = std::fs::read(source.path()).unwrap();
    for (name, ty, expected) in [
        (
            "blk.0.ffn_down.weight",
            TensorType::Q5_K,
            "3c5c96e796f5733f97cba4c73109d44914abf36bbce23f5577d526037ba622be",
        ),
        (
            "blk.0.ffn_down.weight",
            TensorType::Q5_1,
            "79070c677a7bb33c898fa00325a45d68070c724a26d15e59fca524a2e5732ae3",
        ),
    ] {
        let mut weights = Vec::new();
        let (_, _, at) = source.tensor(name).unwrap();
        let bytes = &all[at.start as usize..at.end as usize];
        blocks::widen(StoredType::Candle(GgmlDType::F16), bytes, &mut weights).unwrap();
        let mut out = Vec::new();
        blocks::store(ty, &weights, &mut out).unwrap();
        assert_eq!(digest(&out), expected, "{ty:?}");
    }
}

#[test]
fn several_targets_in_one_pass_are_the_same_as_each_alone() {
    let folder = tempfile::tempdir().unwrap();
    let quants = [Quant::Q8_0, Quant::Q4_0, Quant::F16];
    let targets =
        quants.map(|quant| Target { quant, out: default_out(&tiny(), quant, folder.path()) });
    let mut seen = Vec::new();
    quantize(&tiny(), &targets, 1, false, &mut |done, total| seen.push((done, total))).unwrap();
    for target in &targets {
        let alone = made(&tiny(), target.quant, 3);
        assert!(std::fs::read(&target.out).unwrap() == alone, "{}", target.quant);
    }
    let (done, total) = *seen.last().unwrap();
    assert!(done == total && seen.is_sorted(), "{seen:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "something else was left");
}

#[test]
fn all_metadata_but_the_type_stays_byte_for_byte_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf");
    let fixture = llama()
        .flag(crate::model::gguf::SYNTHETIC_KEY, true)
        .text("tokenizer.chat_template", "{{ ünïcode }}")
        .i32s("tokenizer.ggml.token_type", &[1, 2, -3]);
    let source = llama_of(fixture, |_, i| noise(i));
    let source = source.open();
    quantize(&source, &[Target { quant: Quant::Q4_0, out: out.clone() }], 1, false, &mut |_, _| {})
        .unwrap();
    let made = GgufFile::open(&out).unwrap();
    let kept = |file: &GgufFile| -> Vec<Vec<u8>> {
        let changed = ["general.file_type", "general.quantization_version"];
        let entries = file.raw_metadata().unwrap().into_iter();
        entries.filter(|(key, _)| !changed.contains(key)).map(|(_, bytes)| bytes).collect()
    };
    assert_eq!(kept(&made), kept(&source));
    assert_eq!(made.number("general.file_type"), Some(2));
    assert_eq!(made.number("general.quantization_version"), Some(2));
    assert!(made.is_synthetic() && made.llama_config().is_ok());
    assert_eq!(made.quant_label(), "Q4_0");
}

#[test]
fn a_weight_that_is_not_a_number_is_refused_with_its_tensor_and_place() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let source = llama_of(llama(), |name, i| match (name, i) {
            ("blk.1.ffn_up.weight", 77) => bad,
            _ => noise(i),
        });
        let text = refusal(&source.open(), Quant::Q4_0);
        assert!(text.contains("blk.1.ffn_up.weight") && text.contains("index 77"), "{text}");
        assert!(text.contains("expected finite"), "{text}");
    }
}

#[test]
fn weights_too_large_for_a_type_are_refused_with_the_tensor_s_name() {
    let source = llama_of(llama(), |name, i| match (name, i) {
        ("blk.0.ffn_down.weight", 300) => -1e9,
        _ => noise(i),
    });
    for quant in [Quant::Q8_0, Quant::Q4_0, Quant::Q4_K_M, Quant::F16] {
        let text = refusal(&source.open(), quant);
        assert!(text.contains("blk.0.ffn_down.weight") && text.contains("1e9"), "{quant}: {text}");
    }
    assert!(!made(&source.open(), Quant::BF16, 1).is_empty());
}

#[test]
fn a_quantized_source_is_refused_with_what_to_take_instead() {
    let folder = tempfile::tempdir().unwrap();
    let source = GgufFile::open(&llama().write(folder.path())).unwrap();
    let text = refusal(&source, Quant::Q8_0);
    for part in ["is Q", "already", "F16", "model.gguf"] {
        assert!(text.contains(part), "expected {part:?} in {text}");
    }
}

#[test]
fn one_part_of_a_split_file_is_refused() {
    let source = llama_of(llama().u32("split.count", 3), |_, i| noise(i));
    let text = refusal(&source.open(), Quant::Q8_0);
    assert!(text.contains("one of 3 parts") && text.contains("llama-gguf-split"), "{text}");
}

#[test]
fn the_source_is_not_a_target_by_any_name() {
    let source = llama_of(llama(), |_, i| noise(i));
    let link = source.path.with_file_name("link.gguf");
    std::os::unix::fs::symlink(&source.path, &link).unwrap();
    let before = std::fs::read(&source.path).unwrap();
    for out in [source.path.clone(), link] {
        let target = Target { quant: Quant::Q8_0, out };
        let error = quantize(&source.open(), &[target], 1, false, &mut |_, _| {}).unwrap_err();
        assert!(error.to_string().contains("the source itself"), "{error}");
    }
    assert!(std::fs::read(&source.path).unwrap() == before);
}

#[test]
fn new_files_are_named_after_the_source() {
    let named = |file: &str| {
        let source = llama_of(llama(), |_, _| 0.5);
        let path = source.path.with_file_name(file);
        std::fs::rename(&source.path, &path).unwrap();
        let out = default_out(&GgufFile::open(&path).unwrap(), Quant::Q4_K_M, Path::new("d"));
        out.display().to_string()
    };
    assert_eq!(named("Llama-3.2-1B-f32.gguf"), "d/Llama-3.2-1B-Q4_K_M.gguf");
    assert_eq!(named("llama3-1b-F32-synthetic-v1.gguf"), "d/llama3-1b-Q4_K_M-synthetic-v1.gguf");
    assert_eq!(named("tiny.gguf"), "d/tiny-Q4_K_M.gguf");
    assert_eq!(named("buf32x.gguf"), "d/buf32x-Q4_K_M.gguf");
}

const QUANTIZED: [(TensorType, GgmlDType); 7] = [
    (TensorType::Q4_0, GgmlDType::Q4_0),
    (TensorType::Q5_0, GgmlDType::Q5_0),
    (TensorType::Q5_1, GgmlDType::Q5_1),
    (TensorType::Q8_0, GgmlDType::Q8_0),
    (TensorType::Q4_K, GgmlDType::Q4K),
    (TensorType::Q5_K, GgmlDType::Q5K),
    (TensorType::Q6_K, GgmlDType::Q6K),
];

/// Stores weights in a type and lets candle read them back.
fn round_trip((ty, dtype): (TensorType, GgmlDType), weights: &[f32]) -> Vec<f32> {
    let mut bytes = Vec::new();
    blocks::store(ty, weights, &mut bytes).unwrap();
    assert!(blocks::scales_are_finite(ty, &bytes));
    let storage = QStorage::from_data(bytes.into(), &Device::Cpu, dtype).unwrap();
    let tensor = QTensor::new(storage, weights.len()).unwrap();
    tensor.dequantize(&Device::Cpu).unwrap().to_vec1().unwrap()
}

/// Root mean square of the differences.
fn rmse(a: &[f32], b: &[f32]) -> f64 {
    let square: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    (square / a.len() as f64).sqrt()
}

#[test]
fn k_types_fit_no_worse_than_candle_s_own() {
    // A sum of twelve uniform values is close to Gaussian, like trained weights.
    let weights: Vec<f32> =
        (0..256 * 256).map(|i| (0..12).map(|j| noise(12 * i + j)).sum::<f32>() * 0.01).collect();
    let tensor = candle_core::Tensor::from_slice(&weights, weights.len(), &Device::Cpu).unwrap();
    for (ty, dtype) in &QUANTIZED[4..] {
        let ours = rmse(&round_trip((*ty, *dtype), &weights), &weights);
        let candle = QTensor::quantize(&tensor, *dtype).unwrap();
        let candle = candle.dequantize(&Device::Cpu).unwrap().to_vec1::<f32>().unwrap();
        let candle = rmse(&candle, &weights);
        assert!(ours <= candle, "{ty:?}: {ours} against {candle}");
    }
}

fn any_weights() -> impl Strategy<Value = Vec<f32>> {
    let scale =
        prop_oneof![Just(0.0f32), Just(1.0), Just(1e4), Just(1e-3), Just(1e-12), Just(1e-42)];
    let group = (scale, prop::collection::vec(-1.0f32..=1.0, 32), prop::bool::ANY);
    prop::collection::vec(group, 8).prop_map(|groups| {
        let values = |(scale, group, positive): (f32, Vec<f32>, bool)| {
            let sign = move |x: f32| if positive { x.abs() } else { x };
            group.into_iter().map(move |x| sign(x) * scale).collect::<Vec<_>>()
        };
        groups.into_iter().flat_map(values).collect()
    })
}

proptest! {
    /// A weight is off by at most one step of its block, where a step is the block's span over the
    /// levels of its type. Sixteenths of a step allow for the rounding of scales to f16 and six
    /// bits.
    #[test]
    fn every_weight_comes_back_within_a_step_of_its_block(weights in any_weights()) {
        for (ty, dtype) in QUANTIZED {
            let back = round_trip((ty, dtype), &weights);
            let levels = match ty {
                TensorType::Q4_0 | TensorType::Q4_K => 15.0,
                TensorType::Q5_0 | TensorType::Q5_1 | TensorType::Q5_K => 31.0,
                TensorType::Q6_K => 63.0,
                _ => 255.0,
            };
            for (i, block) in weights.chunks(ty.block_weights() as usize).enumerate() {
                let at = i * block.len();
                let largest = block.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                // f16 has no step smaller than 2⁻²⁴.
                let step = 2.0 * largest / levels * 1.2 + levels * 6e-8 * 64.0;
                for (a, b) in block.iter().zip(&back[at..]) {
                    prop_assert!(b.is_finite());
                    prop_assert!((a - b).abs() <= step, "{:?}: {} became {}, step {}", ty, a, b, step);
                }
            }
        }
    }
}
