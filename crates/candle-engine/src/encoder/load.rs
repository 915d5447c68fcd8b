//! Loads an encoder for the engine `candle`, and says what was loaded.

use std::collections::BTreeMap;
use std::sync::Mutex;

use llm_bench_gguf::BertConfig;
use llm_bench_protocol::{EngineError, Load, Loaded, MemoryBook, Precision};

use super::panels::compute;
use super::weights::Weights;
use super::{Encoder, Limits};
use crate::internal;
use crate::linear::Arithmetic;
use crate::pool::Pool;
use crate::weights::Gguf;

/// Packs the weights of an open file. The answer has neither its stages nor the options' settings.
pub fn load(
    gguf: Gguf,
    config: BertConfig,
    request: &Load,
    arithmetic: Arithmetic,
) -> Result<(Encoder, Loaded), EngineError> {
    let limits = Limits::of(request, &config)?;
    let threads = request.threads as usize;
    let mut pool =
        Pool::new(threads).map_err(|e| internal(format!("cannot start {threads} threads: {e}")))?;
    let weights = Weights::load(&gguf, &config, limits.tokens, arithmetic, &mut pool)?;
    drop(gguf); // the header with its vocabulary; the embedding keeps its mapping
    crate::resident::give_back();
    let mut encoder = Encoder {
        path: request.path.clone(),
        config,
        weights,
        arithmetic,
        pool,
        limits,
        x: Vec::new(),
        qkv: Vec::new(),
        idle: Mutex::new(Vec::new()),
    };
    encoder.reserve();
    let encodings = &encoder.weights.encodings;
    let names: Vec<&str> = encodings.iter().map(|e| e.name()).collect();
    let mut types: Vec<&str> = encodings.iter().map(|&e| compute(arithmetic, e)).collect();
    types.dedup();
    let loaded = Loaded {
        precision: Precision {
            weights: if arithmetic.is_plain_f32() { "f32".into() } else { names.join("+") },
            compute: types.join("+"),
            kv: "none".into(),
        },
        memory: encoder.memory(),
        settings: BTreeMap::from([
            ("kernels".to_string(), arithmetic.name().into()),
            ("threads".to_string(), threads.into()),
            ("pass_tokens".to_string(), encoder.pass_tokens().into()),
        ]),
        notes: encoder.notes(),
        ..Loaded::default()
    };
    Ok((encoder, loaded))
}

impl Limits {
    /// What a request asks for, if the model has as many positions.
    pub fn of(request: &Load, config: &BertConfig) -> Result<Self, EngineError> {
        let limits = Self { tokens: request.n_ctx as usize, texts: request.batch as usize };
        let (found, most) = (limits.tokens, config.context_length);
        if found > most {
            return Err(internal(format!("n_ctx {found}: the model has {most} positions")));
        }
        Ok(limits)
    }
}

impl Encoder {
    fn notes(&self) -> Vec<String> {
        let mut notes = vec![
            "matrices are packed when they are loaded; the embedding is used from the mapped file, \
             and its pages are read on first use"
                .to_string(),
        ];
        let (stored, held) = (self.weights.stored_bytes, self.weights.private_bytes());
        if held > stored + stored / 3 {
            notes.push(format!(
                "packed matrices take {:.1} times their bytes in the file",
                held as f64 / stored as f64
            ));
        }
        notes
    }

    /// What it holds.
    pub fn memory(&self) -> MemoryBook {
        MemoryBook {
            weights_mapped_bytes: Some(self.weights.mapped_bytes() as u64),
            weights_private_bytes: Some(self.weights.private_bytes() as u64),
            kv_bytes: Some(0),
            activation_bytes: Some(self.activation_bytes() as u64),
            activation_resident_bytes: self.activation_bytes_in_memory(),
            ..MemoryBook::default()
        }
    }
}
