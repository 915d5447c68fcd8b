//! Engines without the harness: started on a model, or asked for their logits.

use std::path::{Path, PathBuf};

use llm_bench::device::Device;
use llm_bench::engine::provision::{Installed, Provisioner};
use llm_bench::engine::{Deadlines, Engine, EngineSpec, Failure, Registry};
use llm_bench::model::cache::CacheDir;
use llm_bench::protocol::{Generate, Load};
use llm_bench::task::score::{Answer, Question, ask};

/// An engine that is built in or installed in the user's cache.
fn installed(name: &str) -> (EngineSpec, Installed) {
    let spec = Registry::load().unwrap().find(name).unwrap().clone();
    let mut provisioner =
        Provisioner::new(CacheDir::from_env().unwrap().path().into(), false).unwrap();
    provisioner.program = PathBuf::from(super::PROGRAM);
    let installed = provisioner.provide(&spec, "", &|_| {}).unwrap();
    (spec, installed)
}

/// A process of an engine with the tiny model loaded.
pub fn with_tiny_loaded(
    name: &str,
    threads: u32,
    n_ctx: u32,
    options: serde_json::Value,
) -> Engine {
    with_tiny_loaded_for(1, name, threads, n_ctx, options).unwrap()
}

/// The same for some sequences at once.
pub fn with_tiny_loaded_for(
    batch: u32,
    name: &str,
    threads: u32,
    n_ctx: u32,
    options: serde_json::Value,
) -> Result<Engine, Failure> {
    let (mut spec, installed) = installed(name);
    let mut process = Engine::over_pipes(&installed, threads, Deadlines::default()).unwrap();
    spec.options.extend(options.as_object().unwrap().clone());
    let path = super::repository("models/tiny.gguf").to_str().unwrap().to_string();
    let options = spec.options;
    process.load(Load { path, device: "cpu".into(), threads, n_ctx, batch, options })?;
    Ok(process)
}

/// What an engine says that cannot load a model, or not generate from it.
pub fn fault_of(model: &Path, name: &str) -> String {
    let (spec, installed) = installed(name);
    let mut process = Engine::over_pipes(&installed, 1, Deadlines::default()).unwrap();
    let path = model.to_str().unwrap().to_string();
    let (device, options) = ("cpu".into(), spec.options);
    let load = Load { path, device, threads: 1, n_ctx: 64, batch: 1, options };
    let id = process.next_id();
    let generated = process
        .load(load)
        .and_then(|_| process.generate(Generate::greedy(id, vec![1, 2, 3], 4), None).map(drop));
    match generated {
        Err(Failure::Engine(error)) => error.message,
        other => panic!("{other:?}"),
    }
}

/// A question for the logits of `tokens` alone, on one thread.
pub fn question(model: &Path, n_vocab: u32, tokens: Vec<u32>) -> Question {
    Question {
        model: model.to_path_buf(),
        n_vocab,
        device: Device::Cpu,
        threads: 1,
        decode_from: tokens.len() as u32,
        tokens,
        free_prompt: 0,
        free_tokens: 0,
        deadlines: Deadlines::default(),
    }
}

/// The answer of an engine; its logits go to the file `logits`.
pub fn answer(engine: &str, question: &Question, logits: &Path) -> Answer {
    let (spec, installed) = installed(engine);
    ask(&spec, &installed, question, logits).unwrap()
}

/// The logits that an engine answers with, row by row.
pub fn logits(engine: &str, question: &Question) -> Vec<Vec<f32>> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("logits.f32");
    answer(engine, question, &file);
    read_logits(&file, question.n_vocab)
}

/// A file of logits, row by row.
pub fn read_logits(file: &Path, n_vocab: u32) -> Vec<Vec<f32>> {
    let bytes = std::fs::read(file).unwrap();
    let values: Vec<f32> =
        bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    values.chunks_exact(n_vocab as usize).map(<[f32]>::to_vec).collect()
}
