//! A LLaMA's hyper-parameters in the form that the engine computes with. `llm-bench-gguf` reads and
//! checks the file's.

use llm_bench_gguf::LlamaConfig;

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
    pub rope_base: f32,
    pub norm_eps: f32,
    pub n_vocab: usize,
    /// The context that the model was trained for.
    pub n_ctx_train: usize,
}

impl From<LlamaConfig> for Config {
    fn from(c: LlamaConfig) -> Self {
        Self {
            n_layers: c.n_layers,
            hidden: c.n_embd,
            ffn: c.n_ff,
            n_heads: c.n_heads,
            n_kv_heads: c.n_kv_heads,
            head_dim: c.head_dim,
            rope_base: c.rope_base as f32,
            norm_eps: c.rms_eps as f32,
            n_vocab: c.n_vocab,
            n_ctx_train: c.context_length,
        }
    }
}

impl Config {
    /// Width of all queries of a position.
    pub fn q_dim(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of all keys of a position, and of all values.
    pub fn kv_dim(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }
}
