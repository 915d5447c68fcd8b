//! The engines against PyTorch in float32, over the real protocol: on the tiny model with its
//! golden logits, and on LLaMA 3.2 1B's shapes beyond position 512. Needs the PyTorch environment
//! (`llm-bench engines install pytorch`) and 3.5 GB of disk, so these run in the second stage of
//! `scripts/test`.

use std::path::{Path, PathBuf};

use llm_bench::device::Device;
use llm_bench::engine::provision::Provisioner;
use llm_bench::engine::{Deadlines, Registry};
use llm_bench::measure::verify::{Question, ask};
use llm_bench::model::cache::CacheDir;
use llm_bench::model::golden;
use serde_json::Value;

/// `verify`'s exit code and its verdicts by engine.
fn verdicts(args: &[&str]) -> (Option<i32>, Value) {
    let out = assert_cmd::Command::cargo_bin("llm-bench")
        .unwrap()
        .args(["verify", "--json", "--no-install"])
        .args(args)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr);
    let shown: Value = serde_json::from_slice(&out.stdout).expect(&stderr);
    let engines = shown[0]["engines"].clone();
    for (name, v) in engines.as_object().unwrap() {
        println!("{name}: {} {}", v["verdict"], v["divergence"]["nmse"]);
    }
    (out.status.code(), engines)
}

fn all_pass(engines: &Value, names: &[&str]) {
    for name in names {
        assert_eq!(engines[name]["verdict"], "pass", "{name}: {}", engines[name]);
        assert_eq!(engines[name]["reference"], "pytorch-f32");
    }
}

#[test]
#[ignore = "needs PyTorch"]
fn every_engine_agrees_with_pytorch_f32_on_tiny_and_the_stock_one_is_seen_to_differ() {
    let (code, engines) = verdicts(&["--model", "tiny"]);
    assert_eq!(code, Some(0));
    all_pass(&engines, &["candle", "candle-f32", "pytorch", "pytorch-eager"]);
    assert_eq!(engines["candle-stock"]["verdict"], "fail");
    let reason = engines["candle-stock"]["reason"].as_str().unwrap();
    assert!(reason.contains("rope_freqs.weight"), "{reason}");
}

#[test]
#[ignore = "needs PyTorch and LLaMA 3.2 1B"]
fn candle_agrees_with_pytorch_f32_on_llama3_1b_f16_beyond_position_512() {
    let args = ["--model", "llama3-1b", "--quant", "f16", "--engine", "candle"];
    let (code, engines) = verdicts(&[&args[..], &["--positions", "640"]].concat());
    assert_eq!(code, Some(0));
    all_pass(&engines, &["candle"]);
    let sd = engines["candle"]["divergence"]["logit_sd"].as_f64().unwrap();
    assert!((3.0..=5.0).contains(&sd), "logit sd {sd}");
}

#[test]
#[ignore = "needs PyTorch and LLaMA 3.2 1B"]
fn candle_and_pytorch_agree_with_pytorch_f32_on_llama3_1b_q4_0_beyond_position_512() {
    let args = ["--model", "llama3-1b", "--quant", "q4_0", "--engine", "candle,pytorch"];
    let (code, engines) = verdicts(&[&args[..], &["--positions", "640"]].concat());
    assert_eq!(code, Some(0));
    all_pass(&engines, &["candle", "pytorch"]);
}

/// The logits of `tokens`, row by row.
fn logits(engine: &str, model: &Path, tokens: &[u32], n_vocab: u32) -> Vec<Vec<f32>> {
    let registry = Registry::load().unwrap();
    let engine = registry.find(engine).unwrap();
    let mut provisioner = Provisioner::new(CacheDir::from_env().path().into(), false).unwrap();
    provisioner.program = PathBuf::from(env!("CARGO_BIN_EXE_llm-bench"));
    let installed = provisioner.provide(engine, "", &|_| {}).unwrap();
    let question = Question {
        model: model.to_path_buf(),
        n_vocab,
        device: Device::Cpu,
        threads: 1,
        tokens: tokens.to_vec(),
        decode_from: tokens.len() as u32,
        free_prompt: 0,
        free_tokens: 0,
        deadlines: Deadlines::default(),
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("logits.f32");
    ask(engine, &installed, &question, &file).unwrap();
    let bytes = std::fs::read(&file).unwrap();
    let values: Vec<f32> =
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    values.chunks_exact(n_vocab as usize).map(<[f32]>::to_vec).collect()
}

#[test]
#[ignore = "needs PyTorch"]
fn candle_and_pytorch_f32_give_the_golden_logits_on_tiny() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    std::fs::write(&path, include_bytes!("../models/tiny.gguf")).unwrap();
    let golden = golden::scored().unwrap();
    // candle's KV cache is f16: 11 bits of keys and values that are a few units large.
    for (engine, limit) in [("candle", 2e-2), ("candle-f32", 1e-3), ("pytorch-f32", 1e-3)] {
        let rows = logits(engine, &path, &golden.ids, 512);
        for at in &golden.positions {
            let row = &rows[at.position as usize];
            for (got, expected) in row.iter().zip(&at.logits) {
                let far = (got - expected).abs();
                assert!(far < limit, "{engine} at {}: {got}, golden {expected}", at.position);
            }
            let top = (0..row.len()).max_by(|i, j| row[*i].total_cmp(&row[*j])).unwrap();
            assert_eq!(top as u32, at.argmax, "{engine} at {}", at.position);
        }
    }
}
