//! Encoders of random weights against a plain reference in f64.

mod reference;

use llm_bench_gguf::Pooling;
use llm_bench_protocol::{ErrorKind, Load, Score};

use super::Vectors;
use crate::Engine;
use crate::candle::Candle;
use crate::candle_stock::CandleStock;
use crate::kernels::Isa;
use crate::weights::f32_bytes;
use reference::{Output, Shape, nmse};

/// Heads of 32, partial panels, and more blocks than a panel has.
const SMALL: Shape = Shape { layers: 2, hidden: 96, ff: 544, heads: 3, vocab: 50, context: 70 };
/// Heads wider than a panel, and more columns than one.
const WIDE: Shape = Shape { layers: 1, hidden: 160, ff: 224, heads: 2, vocab: 50, context: 130 };

/// Between our f32 and f64.
const FLOAT: f64 = 1e-10;
/// With activations rounded to int8: each product adds about 2e-5.
const INT8: f64 = 5e-4;

fn load(path: &str, context: usize, threads: u32, options: serde_json::Value) -> Candle {
    let mut engine = Candle::default();
    engine.load(&request(path, context, threads, options)).unwrap();
    engine
}

fn request(path: &str, context: usize, threads: u32, options: serde_json::Value) -> Load {
    let serde_json::Value::Object(options) = options else { panic!("{options}") };
    let (path, device) = (path.to_string(), "cpu".to_string());
    Load { path, device, threads, n_ctx: context as u32, batch: 32, options }
}

/// Texts of these lengths.
fn texts(lengths: &[usize], vocab: usize) -> Vec<Vec<u32>> {
    let id = |i: usize, t: usize| ((i * 31 + t * t * 7 + t * 3) % vocab) as u32;
    lengths.iter().enumerate().map(|(i, &n)| (0..n).map(|t| id(i, t)).collect()).collect()
}

fn vectors(engine: &mut Candle, texts: &[Vec<u32>]) -> Vectors {
    engine.encode(texts, true).unwrap()
}

/// Checks one file on every instruction set: few tokens, which the threads share, and many, in
/// blocks.
fn check(shape: Shape, dtype: u32, types: bool, output: Output, bound: f64) {
    let file = reference::write(shape, dtype, types, output);
    let path = file.path().to_str().unwrap();
    let model = reference::Model::read(path, shape, types, output);
    let n = shape.context;
    let few = texts(&[1, 5, 20], shape.vocab);
    let many = texts(&[n, 1, 33, 64, 2, n - 1, 48, 17], shape.vocab);
    for texts in [few, many] {
        let (want, want_hidden) = model.encode(&texts);
        for isa in Isa::all() {
            for threads in [1, 2] {
                for float32 in [false, true] {
                    let options = serde_json::json!({"kernels": isa.name(), "float32": float32});
                    let got = vectors(&mut load(path, n, threads, options), &texts);
                    let bound = if float32 { FLOAT } else { bound };
                    let errors =
                        [nmse(&got.values, &want), nmse(&got.hidden.unwrap(), &want_hidden)];
                    assert!(
                        errors.iter().all(|e| *e < bound),
                        "{} {dtype} {output:?} {threads} {float32}: {errors:?}",
                        isa.name()
                    );
                }
            }
        }
    }
}

#[test]
fn f32_weights_give_the_reference_with_every_pooling() {
    check(SMALL, 0, true, Output::Vector(Pooling::Mean), FLOAT);
    check(WIDE, 0, false, Output::Vector(Pooling::Cls), FLOAT);
    check(SMALL, 0, false, Output::Vector(Pooling::Last), FLOAT);
}

#[test]
fn sixteen_bit_weights_are_widened_and_nothing_is_rounded() {
    check(SMALL, 1, true, Output::Vector(Pooling::Mean), FLOAT);
    check(WIDE, 30, true, Output::Vector(Pooling::Mean), FLOAT);
}

#[test]
fn blocks_give_the_reference_but_for_activations_in_int8() {
    check(SMALL, 8, true, Output::Vector(Pooling::Mean), INT8);
    check(WIDE, 8, false, Output::Vector(Pooling::Cls), INT8);
    check(SMALL, 2, true, Output::Vector(Pooling::Mean), INT8);
}

#[test]
fn a_classifier_gives_the_logits_of_the_reference() {
    check(SMALL, 0, false, Output::Classes("relu"), FLOAT);
    check(SMALL, 8, true, Output::Classes("tanh"), INT8);
}

#[test]
fn candles_own_bert_gives_the_reference() {
    let kinds = [
        (0, true, Output::Vector(Pooling::Mean)),
        (1, false, Output::Vector(Pooling::Last)),
        (8, true, Output::Vector(Pooling::Cls)),
        (8, false, Output::Classes("relu")),
    ];
    let threads = candle_core::utils::get_num_threads() as u32;
    for (dtype, types, output) in kinds {
        let file = reference::write(SMALL, dtype, types, output);
        let path = file.path().to_str().unwrap();
        let texts = texts(&[70, 1, 20], SMALL.vocab);
        let (want, _) = reference::Model::read(path, SMALL, types, output).encode(&texts);
        let mut engine = CandleStock::default();
        engine.load(&request(path, 70, threads, serde_json::json!({}))).unwrap();
        let got = engine.encode(&texts, false).unwrap();
        let error = nmse(&got.values, &want);
        assert!(error < FLOAT, "{dtype} {output:?}: {error}");
        assert!(engine.encode(&texts, true).is_err() && engine.decoder().is_err());
    }
}

#[test]
fn a_text_in_a_batch_gives_exactly_what_it_gives_alone() {
    for dtype in [0, 1, 8] {
        let file = reference::write(SMALL, dtype, true, Output::Vector(Pooling::Mean));
        let path = file.path().to_str().unwrap();
        for isa in Isa::all() {
            let options = serde_json::json!({"kernels": isa.name()});
            let mut engine = load(path, SMALL.context, 1, options);
            // More than a pass.
            let lengths: Vec<usize> = (0..32).map(|i| 1 + i * 37 % SMALL.context).collect();
            let texts = texts(&lengths, SMALL.vocab);
            assert!(lengths.iter().sum::<usize>() > super::PASS_TOKENS);
            let together = vectors(&mut engine, &texts);
            for (text, row) in texts.iter().zip(together.values.chunks(together.columns)).step_by(5)
            {
                let alone = vectors(&mut engine, std::slice::from_ref(text));
                assert_eq!(f32_bytes(&alone.values), f32_bytes(row), "{} {dtype}", isa.name());
            }
        }
    }
}

#[test]
fn what_is_no_batch_of_texts_is_refused() {
    let file = reference::write(SMALL, 0, true, Output::Vector(Pooling::Mean));
    let path = file.path().to_str().unwrap();
    let mut engine = load(path, 40, 2, serde_json::json!({}));
    let mut refused = |texts: &[Vec<u32>], part: &str| {
        let error = engine.encode(texts, false).map(|_| ()).unwrap_err();
        assert!(error.message.contains(part), "{part} not in {}", error.message);
    };
    refused(&[], "1 to 32 texts (batch), found 0");
    refused(&vec![vec![1]; 33], "found 33");
    refused(&[vec![1], vec![]], "text 1: expected 1 to 40 tokens");
    refused(&[vec![1; 41]], "found 41");
    refused(&[vec![49, 50]], "token 50 is outside the vocabulary of 50");
    let error = engine.decoder().map(|_| ()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    let score =
        Score { id: 1, tokens: vec![1], logits_path: String::new(), first: 0, decode_from: None };
    let error = engine.score(&score, &mut |_| Ok(())).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    let long = request(path, SMALL.context + 1, 1, serde_json::json!({}));
    assert!(engine.load(&long).unwrap_err().message.contains("70 positions"));

    let llama = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny.gguf");
    let mut engine = load(llama, 40, 1, serde_json::json!({}));
    let error = engine.encode(&[vec![1]], false).map(|_| ()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    let error = Candle::default().encode(&[vec![1]], false).map(|_| ()).unwrap_err();
    assert!(error.message.contains("no model is loaded"));
}

#[test]
fn a_load_says_what_it_holds() {
    let file = reference::write(SMALL, 8, true, Output::Vector(Pooling::Mean));
    let path = file.path().to_str().unwrap();
    let mut engine = Candle::default();
    let loaded = engine.load(&request(path, 70, 2, serde_json::json!({}))).unwrap();
    let p = &loaded.precision;
    assert_eq!([&p.weights, &p.compute, &p.kv], ["q8_0", "int8", "none"]);
    assert_eq!(loaded.memory.weights_mapped_bytes, Some((50 * 96 / 32 * 34) as u64));
    vectors(&mut engine, &texts(&[70; 4], SMALL.vocab));
    assert!(engine.memory().activation_bytes.unwrap() >= 4 * 70 * 96 * 4 * 4);
    let reference = load(path, 70, 1, serde_json::json!({"float32": true}));
    assert!(reference.memory().weights_private_bytes > loaded.memory.weights_private_bytes);
}

#[test]
fn a_weight_that_is_no_number_is_found() {
    let file = reference::write(SMALL, 0, true, Output::Vector(Pooling::Mean));
    let mut bytes = std::fs::read(file.path()).unwrap();
    let header = llm_bench_gguf::GgufFile::open(file.path()).unwrap();
    let at = header.tensor("blk.1.ffn_up.weight").unwrap().2.start as usize + 4 * 100;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(file.path(), bytes).unwrap();
    let mut engine = load(file.path().to_str().unwrap(), 70, 1, serde_json::json!({}));
    let error = engine.encode(&[vec![1, 2]], false).map(|_| ()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::BadModel);
    assert!(error.message.contains("blk.1.ffn_up.weight") && error.message.contains("index 100"));
}
