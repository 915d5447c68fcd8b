//! A LLaMA's hyperparameters, from GGUF metadata, checked once.

use candle_core::quantized::gguf_file::Value;

use super::weights::{Gguf, bad_model};
use crate::protocol::EngineError;

/// The shape of a LLaMA.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub n_layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub ffn: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    /// How many of a head's dimensions rotate.
    pub rope_dim: usize,
    pub rope_base: f32,
    pub norm_eps: f32,
    pub n_vocab: usize,
    /// The context that the model was trained for.
    pub n_ctx_train: usize,
}

impl Config {
    /// Reads and checks `llama.*`. The vocabulary's size is that of `token_embd.weight`.
    pub fn read(gguf: &Gguf) -> Result<Self, EngineError> {
        let bad = |what: String| bad_model(gguf.path(), what);
        match gguf.metadata("general.architecture") {
            Some(Value::String(s)) if s == "llama" => {}
            found => {
                let found = found.map_or("nothing".to_string(), |v| format!("{v:?}"));
                return Err(bad(format!("general.architecture: expected llama, found {found}")));
            }
        }
        let optional = |key: &str| -> Result<Option<usize>, EngineError> {
            match gguf.metadata(key) {
                None => Ok(None),
                Some(value) => whole(value)
                    .filter(|&n| n > 0)
                    .map(Some)
                    .ok_or_else(|| bad(format!("{key}: expected a positive number"))),
            }
        };
        let count = |key: &str| optional(key)?.ok_or_else(|| bad(format!("{key} is missing")));
        let float = |key: &str| match gguf.metadata(key) {
            None => Ok(None),
            Some(Value::F32(x)) if x.is_finite() && *x > 0.0 => Ok(Some(*x)),
            Some(v) => Err(bad(format!("{key}: expected a positive f32, found {v:?}"))),
        };

        if optional_count(gguf, "llama.expert_count") > 1 {
            return Err(bad("llama.expert_count: expected a dense model, found experts".into()));
        }
        if optional_count(gguf, "split.count") > 1 {
            return Err(bad("one part of a split model; merge it with llama-gguf-split".into()));
        }
        if let Some(Value::String(kind)) = gguf.metadata("llama.rope.scaling.type")
            && kind != "none"
        {
            return Err(bad(format!(
                "llama.rope.scaling.type: expected a rope_freqs.weight tensor, found {kind:?}"
            )));
        }

        let (hidden, n_heads) =
            (count("llama.embedding_length")?, count("llama.attention.head_count")?);
        let n_kv_heads = optional("llama.attention.head_count_kv")?.unwrap_or(n_heads);
        if !n_heads.is_multiple_of(n_kv_heads) {
            return Err(bad(format!("{n_heads} heads cannot share {n_kv_heads} key/value heads")));
        }
        let head_dim = match optional("llama.attention.key_length")? {
            Some(n) => n,
            None if hidden.is_multiple_of(n_heads) => hidden / n_heads,
            None => return Err(bad(format!("{hidden} dimensions do not divide by {n_heads}"))),
        };
        if optional("llama.attention.value_length")?.is_some_and(|n| n != head_dim) {
            return Err(bad("llama.attention.value_length differs from the key's".into()));
        }
        let rope_dim = optional("llama.rope.dimension_count")?.unwrap_or(head_dim);
        if rope_dim > head_dim || !rope_dim.is_multiple_of(2) {
            return Err(bad(format!("cannot rotate {rope_dim} of {head_dim} dimensions")));
        }
        let eps = "llama.attention.layer_norm_rms_epsilon";
        Ok(Self {
            n_layers: count("llama.block_count")?,
            hidden,
            ffn: count("llama.feed_forward_length")?,
            n_heads,
            n_kv_heads,
            head_dim,
            rope_dim,
            rope_base: float("llama.rope.freq_base")?.unwrap_or(10_000.0),
            norm_eps: float(eps)?.ok_or_else(|| bad(format!("{eps} is missing")))?,
            n_vocab: gguf.rows("token_embd.weight")?,
            n_ctx_train: count("llama.context_length")?,
        })
    }

    /// Width of all queries of a position.
    pub fn q_dim(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of all keys of a position, and of all values.
    pub fn kv_dim(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }
}

/// Any of GGUF's integer types, where it is not negative.
fn whole(value: &Value) -> Option<usize> {
    match *value {
        Value::I8(n) => n.try_into().ok(),
        Value::I16(n) => n.try_into().ok(),
        Value::I32(n) => n.try_into().ok(),
        Value::I64(n) => n.try_into().ok(),
        Value::Bool(_) => None,
        ref other => other.to_u64().ok()?.try_into().ok(),
    }
}

fn optional_count(gguf: &Gguf, key: &str) -> usize {
    gguf.metadata(key).and_then(whole).unwrap_or(0)
}
