//! The hyper-parameters of a LLaMA in a GGUF file, as a type that cannot be wrong.

use serde::Serialize;

use super::{EMBEDDING, GgufError, GgufFile};

/// Shapes and constants that an engine needs. Every tensor that they imply is in the file, with
/// the implied shape.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LlamaConfig {
    pub n_layers: usize,
    pub n_embd: usize,
    pub n_ff: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    pub n_vocab: usize,
    pub context_length: usize,
    pub rope_base: f64,
    pub rms_eps: f64,
    /// No `output.weight`: the embedding serves as the output matrix.
    pub tied: bool,
    /// `rope_freqs.weight` divides the inverse frequencies (LLaMA 3 rope scaling).
    pub has_rope_freqs: bool,
}

impl LlamaConfig {
    pub(super) fn of(file: &GgufFile) -> Result<Self, GgufError> {
        let architecture = file.text("general.architecture").unwrap_or("none");
        if architecture != "llama" {
            return Err(file.unsupported("general.architecture", "\"llama\"", architecture));
        }
        let positive = |key: &str, most: u64| match file.number(key) {
            Some(n) if (1..=most).contains(&n) => Ok(n as usize),
            Some(n) => Err(file.unsupported(key, format!("1 to {most}"), n)),
            None => Err(file.unsupported(key, "a positive number", "nothing")),
        };
        let finite = |key: &str| match file.float(key) {
            Some(x) if x.is_finite() && x > 0.0 => Ok(Some(x)),
            Some(x) => Err(file.unsupported(key, "a positive finite number", x)),
            None => Ok(None),
        };
        let n_layers = positive("llama.block_count", 1 << 12)?;
        let n_embd = positive("llama.embedding_length", 1 << 20)?;
        let n_ff = positive("llama.feed_forward_length", 1 << 24)?;
        let n_heads = positive("llama.attention.head_count", 1 << 14)?;
        let n_kv_heads = match file.number("llama.attention.head_count_kv") {
            Some(_) => positive("llama.attention.head_count_kv", 1 << 14)?,
            None => n_heads,
        };
        if n_heads % n_kv_heads != 0 {
            let expected = format!("a divisor of the {n_heads} query heads");
            return Err(file.unsupported("llama.attention.head_count_kv", expected, n_kv_heads));
        }
        let head_dim = match file.number("llama.attention.key_length") {
            Some(_) => positive("llama.attention.key_length", 1 << 14)?,
            None if n_embd % n_heads == 0 => n_embd / n_heads,
            None => {
                let expected = format!("a divisor of the embedding length {n_embd}");
                return Err(file.unsupported("llama.attention.head_count", expected, n_heads));
            }
        };
        for key in ["llama.attention.value_length", "llama.rope.dimension_count"] {
            if let Some(n) = file.number(key).filter(|n| *n != head_dim as u64) {
                return Err(file.unsupported(key, format!("the head size {head_dim}"), n));
            }
        }
        if head_dim % 2 != 0 {
            return Err(file.unsupported("the head size", "an even number", head_dim));
        }
        if let Some(n) = file.number("llama.expert_count").filter(|n| *n > 0) {
            return Err(file.unsupported("llama.expert_count", "a model without experts", n));
        }
        let rms_eps = finite("llama.attention.layer_norm_rms_epsilon")?.ok_or_else(|| {
            file.unsupported("llama.attention.layer_norm_rms_epsilon", "a number", "nothing")
        })?;
        let tensors = &file.content().tensor_infos;
        let n_vocab = match tensors.get(EMBEDDING).map(|i| i.shape.dims()) {
            Some(&[rows, _]) => rows,
            Some(other) => return Err(file.unsupported(EMBEDDING, "2 dimensions", shown(other))),
            None => return Err(file.unsupported(EMBEDDING, "the tensor", "nothing")),
        };
        if let Some(tokens) = file.array("tokenizer.ggml.tokens").filter(|t| t.len() > n_vocab) {
            let expected = format!("at most the {n_vocab} rows of {EMBEDDING}");
            return Err(file.unsupported("tokenizer.ggml.tokens", expected, tokens.len()));
        }
        let config = Self {
            n_layers,
            n_embd,
            n_ff,
            n_heads,
            n_kv_heads,
            head_dim,
            n_vocab,
            context_length: positive("llama.context_length", 1 << 30)?,
            // The default of llama.cpp for files that do not say.
            rope_base: finite("llama.rope.freq_base")?.unwrap_or(10_000.0),
            rms_eps,
            tied: !tensors.contains_key("output.weight"),
            has_rope_freqs: tensors.contains_key("rope_freqs.weight"),
        };
        config.check_tensors(file)?;
        Ok(config)
    }

    /// Values that one position holds in the KV cache.
    pub fn kv_values_per_position(&self) -> u64 {
        2 * (self.n_layers * self.n_kv_heads * self.head_dim) as u64
    }

    fn check_tensors(&self, file: &GgufFile) -> Result<(), GgufError> {
        let (q, kv) = (self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim);
        let (d, ff) = (self.n_embd, self.n_ff);
        let check = |name: &str, shape: &[usize]| {
            let found = file.content().tensor_infos.get(name).map(|i| i.shape.dims());
            if found == Some(shape) {
                return Ok(());
            }
            let found = found.map_or_else(|| "nothing".into(), shown);
            Err(file.unsupported(format!("tensor {name}"), shown(shape), found))
        };
        for layer in 0..self.n_layers {
            let blk = |part: &str| format!("blk.{layer}.{part}.weight");
            check(&blk("attn_norm"), &[d])?;
            check(&blk("attn_q"), &[q, d])?;
            check(&blk("attn_k"), &[kv, d])?;
            check(&blk("attn_v"), &[kv, d])?;
            check(&blk("attn_output"), &[d, q])?;
            check(&blk("ffn_norm"), &[d])?;
            check(&blk("ffn_gate"), &[ff, d])?;
            check(&blk("ffn_up"), &[ff, d])?;
            check(&blk("ffn_down"), &[d, ff])?;
        }
        check("output_norm.weight", &[d])?;
        check(EMBEDDING, &[self.n_vocab, d])?;
        if !self.tied {
            check("output.weight", &[self.n_vocab, d])?;
        }
        if self.has_rope_freqs {
            check("rope_freqs.weight", &[self.head_dim / 2])?;
        }
        Ok(())
    }
}

/// `[rows, columns]`, outermost first.
fn shown(shape: &[usize]) -> String {
    format!("{shape:?}")
}
