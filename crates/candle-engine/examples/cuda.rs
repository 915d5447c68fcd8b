//! Times the engine `candle` on a card without the harness: load, prompts, steps by stage. For work on
//! the kernels; figures for others come from `llm-bench run`.
//!
//! `cargo run --release -p llm-bench-candle-engine --example cuda -- FILE.gguf [RING...]`, with
//! the lengths of prompts in PROMPTS.

use llm_bench_candle_engine::cuda::{OnCard, ceilings};
use llm_bench_candle_engine::generate::{Decoder, Nobody, generate};
use llm_bench_protocol::{EngineError, Generate, Load};
use llm_bench_units::MonoNs;

fn main() -> Result<(), EngineError> {
    let mut args = std::env::args().skip(1);
    let Some(path) = args.next() else {
        match ceilings(0) {
            Ok(c) => println!("{c:?}"),
            Err(e) => println!("no ceilings: {e}"),
        }
        return Ok(());
    };
    let rings: Vec<String> = args.collect();
    for ring in rings.iter().map(Some).chain(rings.is_empty().then_some(None)) {
        let mut options = serde_json::Map::new();
        if let Some(bytes) = ring {
            options.insert("ring".into(), bytes.parse::<u32>().unwrap_or(0).into());
        }
        let json = serde_json::json!({
            "path": path, "device": "cuda:0", "threads": 8, "n_ctx": 4096, "options": options
        });
        let load: Load = serde_json::from_value(json).expect("a load");
        let (mut engine, loaded) = OnCard::load(&load, 0)?;
        let ms = (loaded.t_end_ns - loaded.t_begin_ns) as f64 / 1e6;
        println!("{path} ring {ring:?}: load {ms:.0} ms {:?} {:?}", loaded.stages, loaded.settings);
        let n_vocab = engine.shape().1 as u32;
        let lengths = std::env::var("PROMPTS").unwrap_or_else(|_| "16,128,512,2048".into());
        for n in lengths.split(',').filter_map(|n| n.parse::<u32>().ok()) {
            let prompt: Vec<u32> = (0..n).map(|i| (i * 7919 + 13) % n_vocab).collect();
            let mut best = (f64::INFINITY, f64::INFINITY);
            for _ in 0..3 {
                let begin = MonoNs::now();
                let done =
                    generate(&mut engine, &Generate::greedy(1, prompt.clone(), 129), &mut Nobody)?;
                let first = done.at[0].0 - begin.0;
                let step = (done.at[128].0 - done.at[0].0) as f64 / 128e3;
                best = (best.0.min(first as f64 / 1e3), best.1.min(step));
            }
            let rate = f64::from(n) / best.0 * 1e6;
            println!(
                "  prompt {n}: first token {:.0} us ({rate:.0} tok/s), then {:.1} us a token ({:.0} tok/s)",
                best.0,
                best.1,
                1e6 / best.1
            );
        }
        for s in engine.trace(100)? {
            println!("  {:>10}: {:>8} cycles of work, {:>8} of waiting", s.stage, s.work, s.wait);
        }
    }
    Ok(())
}
