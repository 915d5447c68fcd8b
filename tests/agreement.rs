//! Do the engines compute the same function? Teacher-forced logits of candle against PyTorch in
//! float32 over the same file, each in its own process and over the protocol. Needs the PyTorch
//! environment (`llm-bench engines install pytorch`) and, for LLaMA 3.2 1B, 3.5 GB of disk, so
//! these run in the second stage of `scripts/test`.

use std::path::{Path, PathBuf};

use llm_bench::engine::provision::Provisioner;
use llm_bench::engine::{Deadlines, EngineProcess, Registry};
use llm_bench::model::cache::CacheDir;
use llm_bench::model::golden;
use llm_bench::protocol::{Load, Score};

/// Rows of logits, one for each position.
struct Logits {
    vocab: usize,
    values: Vec<f32>,
}

impl Logits {
    fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.vocab)
    }
}

/// Runs `tokens` through an engine in a fresh process.
fn score(engine: &str, model: &Path, tokens: &[u32], first: u32) -> Logits {
    let registry = Registry::load().unwrap();
    let engine = registry.find(engine).unwrap();
    let mut provisioner = Provisioner::new(CacheDir::from_env().path().into(), false).unwrap();
    provisioner.program = PathBuf::from(env!("CARGO_BIN_EXE_llm-bench"));
    let installed = provisioner.provide(engine, "", &|_| {}).unwrap();
    let threads = std::thread::available_parallelism().unwrap().get() as u32;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("logits.f32");

    let mut process =
        EngineProcess::spawn(installed.command(threads), threads, Deadlines::default()).unwrap();
    let hello = process.hello().unwrap();
    process.ready(&hello).unwrap();
    let load = Load {
        path: model.to_str().unwrap().into(),
        device: "cpu".into(),
        threads,
        n_ctx: tokens.len() as u32,
        options: engine.options.clone(),
    };
    process.load(load).unwrap();
    let request =
        Score { id: 1, tokens: tokens.to_vec(), logits_path: file.to_str().unwrap().into(), first };
    let scored = process.score(request).unwrap().value;
    process.bye().unwrap();
    assert_eq!(scored.positions, tokens.len() as u32 - first);

    let bytes = std::fs::read(&file).unwrap();
    let values: Vec<f32> =
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(values.len(), (scored.positions * scored.vocab) as usize);
    Logits { vocab: scored.vocab as usize, values }
}

/// How far `got` is from `reference`: NMSE, max |Δ|, share of equal argmax, sd of the reference.
fn compare(got: &Logits, reference: &Logits) -> (f64, f32, f64, f64) {
    assert_eq!(got.values.len(), reference.values.len());
    let (mut error, mut power, mut worst, mut sum) = (0f64, 0f64, 0f32, 0f64);
    for (a, b) in got.values.iter().zip(&reference.values) {
        error += f64::from(a - b).powi(2);
        power += f64::from(*b).powi(2);
        sum += f64::from(*b);
        worst = worst.max((a - b).abs());
    }
    let n = reference.values.len() as f64;
    let sd = (power / n - (sum / n).powi(2)).sqrt();
    let argmax = |row: &[f32]| (0..row.len()).max_by(|i, j| row[*i].total_cmp(&row[*j]));
    let rows = reference.values.len() / reference.vocab;
    let same = got.rows().zip(reference.rows()).filter(|(a, b)| argmax(a) == argmax(b)).count();
    (error / power, worst, same as f64 / rows as f64, sd)
}

/// Positions 512 to 639 of seeded ids: rope errors show beyond the first few hundred.
fn agree_on_llama3_1b(quant: &str, limit: f64) {
    let path = synthetic_1b(quant);
    let tokens: Vec<u32> =
        std::iter::once(128_000).chain((1..640u32).map(|i| (i * 7919) % 100_000)).collect();
    let candle = score("candle", &path, &tokens, 512);
    let pytorch = score("pytorch-f32", &path, &tokens, 512);
    let (nmse, worst, top1, sd) = compare(&candle, &pytorch);
    println!(
        "llama3-1b {quant}, positions 512-639: candle against pytorch-f32: NMSE {nmse:.2e} \
         (limit {limit:.0e}), max |Δ| {worst:.4}, top-1 {:.1} %, logit sd {sd:.2}",
        top1 * 100.0
    );
    assert!(nmse <= limit, "NMSE {nmse:e} is above {limit:e}");
    assert!((3.0..=5.0).contains(&sd), "logit sd {sd}");
}

fn synthetic_1b(quant: &str) -> PathBuf {
    let out = assert_cmd::Command::cargo_bin("llm-bench")
        .unwrap()
        .args(["models", "synth", "llama3-1b", "--quant", quant])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    PathBuf::from(String::from_utf8(out.stdout).unwrap().trim())
}

#[test]
#[ignore = "needs PyTorch"]
fn candle_and_pytorch_f32_give_the_golden_logits_on_tiny() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    std::fs::write(&path, include_bytes!("../models/tiny.gguf")).unwrap();
    let golden = golden::scored().unwrap();
    // candle's KV cache is f16: 11 bits of keys and values that are a few units large.
    for (engine, limit) in [("candle", 2e-2), ("pytorch-f32", 1e-3)] {
        let logits = score(engine, &path, &golden.ids, 0);
        for at in &golden.positions {
            let row = logits.rows().nth(at.position as usize).unwrap();
            for (got, expected) in row.iter().zip(&at.logits) {
                let far = (got - expected).abs();
                assert!(far < limit, "{engine} at {}: {got}, golden {expected}", at.position);
            }
            let top = (0..row.len()).max_by(|i, j| row[*i].total_cmp(&row[*j])).unwrap();
            assert_eq!(top as u32, at.argmax, "{engine} at {}", at.position);
        }
    }
}

#[test]
#[ignore = "needs PyTorch and LLaMA 3.2 1B"]
fn candle_agrees_with_pytorch_f32_on_llama3_1b_f16_beyond_position_512() {
    agree_on_llama3_1b("F16", 1e-5);
}

#[test]
#[ignore = "needs PyTorch and LLaMA 3.2 1B"]
fn candle_agrees_with_pytorch_f32_on_llama3_1b_q4_0_beyond_position_512() {
    agree_on_llama3_1b("Q4_0", 1e-3);
}

#[test]
#[ignore = "needs PyTorch"]
fn a_model_that_ignores_rope_freqs_is_seen_on_tiny() {
    // The control: candle-stock is known to ignore the tensor, and the comparison must show it.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    std::fs::write(&path, include_bytes!("../models/tiny.gguf")).unwrap();
    let ids = golden::scored().unwrap().ids;
    let reference = score("pytorch-f32", &path, &ids, 128);
    let (wrong, ..) = compare(&score("candle-stock", &path, &ids, 128), &reference);
    let (right, ..) = compare(&score("candle", &path, &ids, 128), &reference);
    assert!(wrong > 1e-3 && right < 1e-5, "candle-stock {wrong:e}, candle {right:e}");
}
