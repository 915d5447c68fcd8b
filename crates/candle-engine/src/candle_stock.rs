//! The engine `candle-stock`: candle-transformers' `quantized_llama` and `bert` as published, driven
//! like candle's own examples. It is the baseline of the engine `candle`.

mod encoder;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use candle_core::quantized::gguf_file::Content;
use candle_core::{DType, Device, Tensor};
use candle_transformers::models::quantized_llama::{MAX_SEQ_LEN, ModelWeights};
use llm_bench_gguf::{BertConfig, GgufFile, LlamaConfig, ModelConfig, StoredType};
use llm_bench_protocol::{
    EngineError, ErrorKind, Feature, Load, Loaded, MemoryBook, Precision, Score,
};
use llm_bench_units::MonoNs;

use crate::encoder::{Limits, check_texts};
use crate::generate::Decoder;
use crate::weights::refused;
use crate::{Engine, Vectors, check_tokens, internal};
use encoder::StockEncoder;

/// The engine; empty until `load`.
#[derive(Default)]
pub struct CandleStock {
    loaded: Option<Stock>,
    /// In place of `loaded`, if the file holds an encoder.
    encoder: Option<(StockEncoder, Limits)>,
}

struct Stock {
    model: ModelWeights,
    n_ctx: usize,
    n_vocab: usize,
    /// Bytes of keys and values that one position adds to the cache.
    kv_bytes_per_position: u64,
    /// Bytes of all weights in candle's form.
    weight_bytes: u64,
    /// Positions in the cache after the last request.
    filled: usize,
    /// The logits of the latest `Decoder::forward`.
    logits: Vec<f32>,
    /// Always empty: candle's cache only grows, and it accepts several tokens only at position 0.
    held: Vec<u32>,
}

impl Engine for CandleStock {
    fn versions(&self) -> Vec<(String, String)> {
        ["candle-core", "candle-nn", "candle-transformers"]
            .map(|name| (name.to_string(), crate::CANDLE_VERSION.to_string()))
            .to_vec()
    }

    fn isa(&self) -> &'static str {
        // candle chooses its kernels at compile time.
        match () {
            _ if cfg!(target_feature = "avx2") => "avx2",
            _ if cfg!(target_feature = "neon") => "neon",
            _ => "baseline",
        }
    }

    fn load(&mut self, request: &Load) -> Result<Loaded, EngineError> {
        let begin = MonoNs::now();
        if let Some(key) = request.options.keys().next() {
            return Err(internal(format!("option {key}: the engine candle-stock has no options")));
        }
        if request.device != "cpu" {
            let message = format!("device {}: this build of candle-stock has cpu", request.device);
            return Err(EngineError::new(ErrorKind::MissingDependency, message));
        }
        claim_threads(request.threads)?;
        (self.loaded, self.encoder) = (None, None);

        let path = &request.path;
        let bad_model = |e: &dyn std::fmt::Display| {
            EngineError::new(ErrorKind::BadModel, format!("{path}: {e}"))
        };
        let header = GgufFile::open(Path::new(path)).map_err(refused)?;
        let config = match header.model_config().map_err(refused)? {
            ModelConfig::Llama(config) => config,
            ModelConfig::Bert(config) => return self.load_encoder(header, config, request, begin),
        };
        if request.n_ctx as usize > MAX_SEQ_LEN {
            return Err(internal(format!(
                "n_ctx {}: candle-transformers' quantized_llama ends at {MAX_SEQ_LEN} positions",
                request.n_ctx
            )));
        }
        if config.head_dim * config.n_heads != config.n_embd {
            return Err(bad_model(&format_args!(
                "llama.attention.key_length: candle-transformers' quantized_llama expects {} / {}, \
                 found {}",
                config.n_embd, config.n_heads, config.head_dim
            )));
        }
        let content = header.into_content().map_err(refused)?;
        let facts = Facts::of(&content, &config);
        let parsed = MonoNs::now();
        let mut file = File::open(path).map_err(|e| bad_model(&e))?;
        let model =
            ModelWeights::from_gguf(content, &mut file, &Device::Cpu).map_err(|e| bad_model(&e))?;
        let end = MonoNs::now();

        self.loaded = Some(Stock {
            model,
            n_ctx: request.n_ctx as usize,
            n_vocab: facts.n_vocab,
            kv_bytes_per_position: facts.kv_bytes_per_position,
            weight_bytes: facts.weight_bytes,
            filled: 0,
            logits: Vec::new(),
            held: Vec::new(),
        });
        let mut notes = Vec::new();
        if facts.has_rope_factors {
            notes.push(
                "rope_freqs.weight is ignored (candle-transformers 0.11.1): LLaMA 3's rope scaling \
                 is missing, so outputs drift from the reference as positions grow"
                    .to_string(),
            );
        }
        if facts.float_weights {
            notes.push("16-bit weights are widened to f32 for every product".to_string());
        }
        Ok(Loaded {
            t_begin_ns: begin.0,
            t_end_ns: end.0,
            stages: BTreeMap::from([
                ("parse".to_string(), parsed.0 - begin.0),
                ("weights".to_string(), end.0 - parsed.0),
            ]),
            precision: facts.precision,
            memory: self.memory(),
            weight_bytes_per_token: facts.weight_bytes_per_token,
            settings: BTreeMap::from([("threads".to_string(), request.threads.into())]),
            notes,
        })
    }

    fn features(&self) -> Vec<Feature> {
        use Feature::*;
        vec![Stream, Stop, Sampling, Cancel, Score, Encode]
    }

    fn decoder(&mut self) -> Result<&mut dyn Decoder, EngineError> {
        Ok(self.stock()?)
    }

    fn score(
        &mut self,
        request: &Score,
        row: &mut dyn FnMut(&[f32]) -> std::io::Result<()>,
    ) -> Result<(), EngineError> {
        let stock = self.stock()?;
        check_tokens(&request.tokens, 0, stock.n_ctx, stock.n_vocab)?;
        // The model returns the logits of the last position only, so this runs token by token: slow
        // but right.
        for (position, &token) in request.tokens.iter().enumerate() {
            stock.forward(&[token], position)?;
            if position >= request.first as usize {
                row(&stock.logits)
                    .map_err(|e| internal(format!("cannot hand over logits: {e}")))?;
            }
        }
        Ok(())
    }

    fn encode(&mut self, texts: &[Vec<u32>], hidden: bool) -> Result<Vectors, EngineError> {
        let Some((encoder, limits)) = &self.encoder else {
            self.stock()?;
            return Err(unsupported("a LLaMA generates and scores, it encodes no texts"));
        };
        if hidden {
            return Err(unsupported("candle-transformers' bert shows no hidden states"));
        }
        check_texts(texts, *limits, encoder.config.n_vocab)?;
        let vectors = encoder.encode(texts).map_err(|e| internal(format!("candle: {e}")))?;
        match vectors.values.iter().all(|x| x.is_finite()) {
            true => Ok(vectors),
            false => Err(internal("a result is not finite: a weight is not, or values overflow")),
        }
    }

    fn memory(&self) -> MemoryBook {
        if let Some((encoder, _)) = &self.encoder {
            let weights_private_bytes = Some(encoder.weight_bytes);
            return MemoryBook { weights_private_bytes, kv_bytes: Some(0), ..Default::default() };
        }
        // candle keeps no account of its memory; weights and cache follow from the shapes.
        MemoryBook {
            weights_private_bytes: self.loaded.as_ref().map(|s| s.weight_bytes),
            kv_bytes: self.loaded.as_ref().map(|s| s.kv_bytes_per_position * s.filled as u64),
            ..MemoryBook::default()
        }
    }
}

impl CandleStock {
    fn load_encoder(
        &mut self,
        header: GgufFile,
        config: BertConfig,
        request: &Load,
        begin: MonoNs,
    ) -> Result<Loaded, EngineError> {
        let limits = Limits::of(request, &config)?;
        let path = &request.path;
        let content = header.into_content().map_err(refused)?;
        let parsed = MonoNs::now();
        let load = |mut file| StockEncoder::load(&content, &mut file, config);
        let encoder = File::open(path).map_err(Into::into).and_then(load);
        let encoder =
            encoder.map_err(|e| EngineError::new(ErrorKind::BadModel, format!("{path}: {e}")))?;
        let end = MonoNs::now();
        let mut notes = vec![
            "texts are padded to the longest of a batch; all weights are widened to f32"
                .to_string(),
        ];
        if encoder.config.n_types.is_none() {
            notes.push(
                "candle-transformers' distilbert has GELU with tanh: its bert is used, which has the                  model's GELU, with a token type of zeros"
                    .to_string(),
            );
        }
        self.encoder = Some((encoder, limits));
        Ok(Loaded {
            t_begin_ns: begin.0,
            t_end_ns: end.0,
            stages: BTreeMap::from([
                ("parse".to_string(), parsed.0 - begin.0),
                ("weights".to_string(), end.0 - parsed.0),
            ]),
            precision: StockEncoder::precision(),
            memory: self.memory(),
            weight_bytes_per_token: None,
            settings: BTreeMap::from([("threads".to_string(), request.threads.into())]),
            notes,
        })
    }

    fn stock(&mut self) -> Result<&mut Stock, EngineError> {
        if self.encoder.is_some() {
            return Err(unsupported("an encoder encodes texts, it generates none"));
        }
        self.loaded.as_mut().ok_or_else(|| internal("no model is loaded"))
    }
}

fn unsupported(message: &str) -> EngineError {
    EngineError::new(ErrorKind::Unsupported, message)
}

impl Decoder for Stock {
    fn shape(&self) -> (usize, usize) {
        (self.n_ctx, self.n_vocab)
    }

    fn batch(&self) -> usize {
        self.n_ctx
    }

    fn held(&mut self) -> &mut Vec<u32> {
        self.held.clear();
        &mut self.held
    }

    fn forward(&mut self, tokens: &[u32], first: usize) -> Result<(), EngineError> {
        // Position 0 empties the cache.
        let mut run = || -> candle_core::Result<Vec<f32>> {
            let input = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
            self.model.forward(&input, first)?.squeeze(0)?.to_dtype(DType::F32)?.to_vec1()
        };
        self.logits = run().map_err(|e| internal(format!("candle: {e}")))?;
        self.filled = first + tokens.len();
        Ok(())
    }

    fn head(&mut self) -> Result<(), EngineError> {
        // candle computes the logits in its forward pass.
        Ok(())
    }

    fn logits(&mut self) -> Result<&[f32], EngineError> {
        Ok(&self.logits)
    }
}

/// The facts in the header about the model, read before candle consumes it.
struct Facts {
    n_vocab: usize,
    kv_bytes_per_position: u64,
    /// In the form that candle holds: it always widens the embedding to f32 for lookups, and also
    /// vectors and float matrices; quantized matrices stay as they are. candle's repacked copies
    /// are not included.
    weight_bytes: u64,
    has_rope_factors: bool,
    float_weights: bool,
    /// For a file of 16-bit weights, which candle reads as f32; absent if it reads weights as
    /// stored.
    weight_bytes_per_token: Option<u64>,
    precision: Precision,
}

impl Facts {
    fn of(content: &Content, config: &LlamaConfig) -> Self {
        // The matrices that a decoded token is multiplied with.
        let multiplied = |name: &str| {
            name.starts_with("blk.")
                || name == "output.weight"
                || (config.tied && name == "token_embd.weight")
        };
        let mut types: BTreeMap<String, usize> = BTreeMap::new();
        let mut widened_bytes = 0;
        for (name, info) in &content.tensor_infos {
            if multiplied(name) && info.shape.rank() == 2 {
                let dtype = StoredType::Candle(info.ggml_dtype).label().to_lowercase();
                *types.entry(dtype).or_default() += info.shape.elem_count();
                widened_bytes += size_of::<f32>() as u64 * info.shape.elem_count() as u64;
            }
        }
        let wide = |elements: usize| (size_of::<f32>() * elements) as u64;
        let mut weight_bytes = wide(config.n_vocab * config.n_embd);
        for (name, info) in &content.tensor_infos {
            let elements = info.shape.elem_count();
            let stays = info.shape.rank() == 2 && info.ggml_dtype.block_size() > 1;
            if multiplied(name) || name == "output_norm.weight" {
                let blocks = elements / info.ggml_dtype.block_size();
                let stored = (blocks * info.ggml_dtype.type_size()) as u64;
                weight_bytes += if stays { stored } else { wide(elements) };
            }
        }
        let mut types: Vec<(String, usize)> = types.into_iter().collect();
        types.sort_by_key(|&(_, elements)| std::cmp::Reverse(elements));
        let is_float = |dtype: &str| matches!(dtype, "f32" | "f16" | "bf16");
        let float_weights = types.iter().any(|(dtype, _)| dtype == "f16" || dtype == "bf16");
        let mut compute: Vec<&str> =
            types.iter().map(|(dtype, _)| if is_float(dtype) { "f32" } else { "int8" }).collect();
        compute.dedup();
        // In the form used for products: candle widens 16-bit weights to f32 when it loads them.
        let mut weights: Vec<&str> =
            types.iter().map(|(t, _)| if is_float(t) { "f32" } else { t }).collect();
        weights.dedup();
        Self {
            n_vocab: config.n_vocab,
            kv_bytes_per_position: size_of::<f32>() as u64 * config.kv_values_per_position(),
            has_rope_factors: config.has_rope_freqs,
            weight_bytes,
            float_weights,
            weight_bytes_per_token: types
                .iter()
                .all(|(dtype, _)| is_float(dtype))
                .then_some(widened_bytes),
            precision: Precision {
                weights: weights.join("+"),
                compute: compute.join("+"),
                kv: "f32".into(),
            },
        }
    }
}

/// Makes candle and rayon use `threads` threads. Both read RAYON_NUM_THREADS when they first need
/// it, and the harness sets it for this process. If it did not, the variable can still be set while
/// no other thread exists.
fn claim_threads(threads: u32) -> Result<(), EngineError> {
    let wanted = threads.to_string();
    if alone() {
        // SAFETY: no other thread exists that could read the environment meanwhile.
        unsafe { std::env::set_var("RAYON_NUM_THREADS", &wanted) };
    }
    let overruled = std::env::var("CANDLE_NUM_THREADS").is_ok_and(|n| n != wanted);
    let found = candle_core::utils::get_num_threads();
    if overruled || found != threads as usize {
        return Err(internal(format!(
            "expected {wanted} threads, candle would use {found}: start the worker with \
             RAYON_NUM_THREADS={wanted} and without CANDLE_NUM_THREADS"
        )));
    }
    Ok(())
}

/// Whether this is the process's only thread.
fn alone() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1)
}
