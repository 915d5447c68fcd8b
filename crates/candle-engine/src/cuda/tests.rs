//! Runs the CUDA kernels on the processor against the engine on the processor and against plain sums.

use std::path::{Path, PathBuf};

use llm_bench_protocol::{Generate, Load, Score};
use llm_bench_units::MonoNs;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::engine::OnCard;
use super::shim::Shim;
use crate::candle::Candle;
use crate::generate::{Nobody, generate};
use crate::{Engine, candle};

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny.gguf")
}

fn request(path: &Path, n_ctx: u32) -> Load {
    let json = serde_json::json!({
        "path": path, "device": "cpu", "threads": 2, "n_ctx": n_ctx, "options": {}
    });
    serde_json::from_value(json).unwrap()
}

fn card(path: &Path, n_ctx: u32, processors: u32) -> OnCard<Shim> {
    OnCard::on(Shim::new(processors), &request(path, n_ctx), MonoNs::now()).unwrap().0
}

fn scores(tokens: &[u32], decode_from: Option<u32>) -> Score {
    let json = serde_json::json!({
        "id": 1, "tokens": tokens, "first": 0, "decode_from": decode_from, "logits_path": ""
    });
    serde_json::from_value(json).unwrap()
}

/// Σ(a − b)² ÷ Σ b² over mean-free rows.
fn nmse(a: &[f32], b: &[f32]) -> f64 {
    let (mut error, mut size) = (0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        assert!(a.is_finite());
        error += (f64::from(*a) - f64::from(*b)).powi(2);
        size += f64::from(*b).powi(2);
    }
    error / size
}

#[test]
fn steps_and_prompts_give_the_logits_of_the_engine_on_the_processor() {
    let mut rng = StdRng::seed_from_u64(3);
    let mut reference = Candle::default();
    let mut plain = request(&tiny(), 64);
    plain.options.insert("float32".into(), true.into());
    reference.load(&plain).unwrap();
    let n_vocab = reference.decoder().unwrap().shape().1 as u32;
    let tokens: Vec<u32> = (0..24).map(|_| rng.random_range(0..n_vocab)).collect();
    let mut wanted = Vec::new();
    reference.score(&scores(&tokens, None), &mut |row| {
        wanted.push(row.to_vec());
        Ok(())
    }).unwrap();
    let mut engine = card(&tiny(), 64, 3);
    for decode_from in [None, Some(0), Some(9)] {
        let mut position = 0;
        engine.score(&scores(&tokens, decode_from), &mut |row| {
            let error = nmse(row, &wanted[position]);
            assert!(error < 1e-3, "{decode_from:?}, position {position}: {error}");
            position += 1;
            Ok(())
        }).unwrap();
        assert_eq!(position, tokens.len());
    }
}

#[test]
fn greedy_generation_is_the_same_with_and_without_early_starts() {
    let mut engine = card(&tiny(), 64, 2);
    let request = Generate::greedy(1, vec![5, 17, 99, 3], 12);
    let early = generate(&mut engine, &request, &mut Nobody).unwrap().tokens;
    let again = generate(&mut engine, &request, &mut Nobody).unwrap().tokens;
    let stopping = Generate { stop: vec![u32::MAX], ..request.clone() };
    let late = generate(&mut engine, &stopping, &mut Nobody).unwrap().tokens;
    let mut cpu = Candle::default();
    cpu.load(&self::request(&tiny(), 64)).unwrap();
    let wanted = generate(cpu.decoder().unwrap(), &request, &mut Nobody).unwrap().tokens;
    assert_eq!((&early, &again, &late), (&wanted, &wanted, &wanted));
    let _ = candle::examine;
}
