//! The hyper-parameters of a model in a GGUF file, validated once: of a LLaMA here, of an encoder in
//! `bert`. The harness and the engines take them from here.

use candle_core::quantized::gguf_file::Value;
use serde::Serialize;

use super::bert::BertConfig;
use super::{EMBEDDING, GgufError, GgufFile};

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ModelConfig {
    /// Generates tokens.
    Llama(LlamaConfig),
    /// Encodes whole texts.
    Bert(BertConfig),
}

impl ModelConfig {
    pub(super) fn of(file: &GgufFile) -> Result<Self, GgufError> {
        match file.metadata().get("general.architecture") {
            Some(Value::String(name)) if name == "llama" => LlamaConfig::of(file).map(Self::Llama),
            Some(Value::String(name)) if name == "bert" => BertConfig::of(file).map(Self::Bert),
            found => {
                let found = found.map_or_else(|| "nothing".into(), super::shown);
                Err(file.unsupported("general.architecture", "llama or bert", found))
            }
        }
    }
}

/// Shapes and constants that an engine needs. The file contains every tensor that they imply, with
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
    /// The file has no `output.weight`: the embedding is also the output matrix.
    pub tied: bool,
    /// `rope_freqs.weight` divides the inverse frequencies (LLaMA 3 rope scaling).
    pub has_rope_freqs: bool,
}

/// The tensors of a layer.
const PARTS: [&str; 9] = [
    "attn_norm",
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_output",
    "ffn_norm",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
];

impl LlamaConfig {
    pub(super) fn of(file: &GgufFile) -> Result<Self, GgufError> {
        let metadata = file.metadata();
        match metadata.get("general.architecture") {
            Some(Value::String(name)) if name == "llama" => {}
            found => {
                let found = found.map_or_else(|| "nothing".into(), super::shown);
                return Err(file.unsupported("general.architecture", "llama", found));
            }
        }
        let read = Reader(file);
        let n_layers = read.positive("llama.block_count", 1 << 12)?;
        let n_embd = read.positive("llama.embedding_length", 1 << 20)?;
        let n_ff = read.positive("llama.feed_forward_length", 1 << 24)?;
        let n_heads = read.positive("llama.attention.head_count", 1 << 14)?;
        let n_kv_heads =
            read.optional("llama.attention.head_count_kv", 1 << 14)?.unwrap_or(n_heads);
        if n_heads % n_kv_heads != 0 {
            let expected = format!("a divisor of the {n_heads} query heads");
            return Err(file.unsupported("llama.attention.head_count_kv", expected, n_kv_heads));
        }
        let head_dim = match read.optional("llama.attention.key_length", 1 << 14)? {
            Some(n) => n,
            None if n_embd % n_heads == 0 => n_embd / n_heads,
            None => {
                let expected = format!("a divisor of the embedding length {n_embd}");
                return Err(file.unsupported("llama.attention.head_count", expected, n_heads));
            }
        };
        for key in ["llama.attention.value_length", "llama.rope.dimension_count"] {
            if let Some(n) = read.optional(key, 1 << 14)?.filter(|n| *n != head_dim) {
                return Err(file.unsupported(key, format!("the head size {head_dim}"), n));
            }
        }
        if head_dim % 2 != 0 {
            return Err(file.unsupported("the head size", "an even number", head_dim));
        }
        if let Some(n) = file.number("llama.expert_count").filter(|n| *n > 0) {
            return Err(file.unsupported("llama.expert_count", "a model without experts", n));
        }
        check_types(file)?;
        if let Some(kind) = file.text("llama.rope.scaling.type").filter(|kind| *kind != "none") {
            let expected = "none, or scaling as a rope_freqs.weight tensor";
            return Err(file.unsupported("llama.rope.scaling.type", expected, kind));
        }
        let context_length = read.positive("llama.context_length", 1 << 30)?;
        super::keys::check(file, "llama.", head_dim, context_length)?;
        let eps = "llama.attention.layer_norm_rms_epsilon";
        let rms_eps = read.finite(eps)?.ok_or_else(|| read.missing(eps))?;
        let tensors = file.tensors();
        let n_vocab = vocabulary(file)?;
        let config = Self {
            n_layers,
            n_embd,
            n_ff,
            n_heads,
            n_kv_heads,
            head_dim,
            n_vocab,
            context_length,
            // llama.cpp's default for files that do not state it.
            rope_base: read.finite("llama.rope.freq_base")?.unwrap_or(10_000.0),
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
        let check = |name: &str, shape: &[usize]| check_tensor(file, name, shape);
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
        let known =
            9 * self.n_layers + 2 + usize::from(!self.tied) + usize::from(self.has_rope_freqs);
        check_names(file, "a LLaMA", self.n_layers, known, |name| self.has_tensor(name))
    }

    /// Whether a model of this shape has a tensor of this name.
    fn has_tensor(&self, name: &str) -> bool {
        let Some(name) = name.strip_suffix(".weight") else { return false };
        let layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        matches!(name, "token_embd" | "output_norm" | "output" | "rope_freqs")
            || layer.is_some_and(|(i, part)| {
                PARTS.contains(&part)
                    && i.parse::<usize>().is_ok_and(|n| n < self.n_layers && n.to_string() == i)
            })
    }
}

/// `[rows, columns]`, outermost first.
fn shown(shape: &[usize]) -> String {
    format!("{shape:?}")
}

/// Reads numbers of the metadata within bounds.
pub(super) struct Reader<'a>(pub &'a GgufFile);

impl Reader<'_> {
    pub fn optional(&self, key: &str, most: u64) -> Result<Option<usize>, GgufError> {
        match (self.0.metadata().get(key), self.0.number(key)) {
            (None, _) => Ok(None),
            (_, Some(n)) if (1..=most).contains(&n) => Ok(Some(n as usize)),
            (Some(value), _) => {
                let expected = format!("a whole number from 1 to {most}");
                Err(self.0.unsupported(key, expected, super::shown(value)))
            }
        }
    }

    pub fn missing(&self, key: &str) -> GgufError {
        self.0.unsupported(format!("{key} is missing"), "a number", "nothing")
    }

    pub fn positive(&self, key: &str, most: u64) -> Result<usize, GgufError> {
        self.optional(key, most)?.ok_or_else(|| self.missing(key))
    }

    /// Engines compute in f32, where the value must be neither infinite nor zero.
    pub fn finite(&self, key: &str) -> Result<Option<f64>, GgufError> {
        match (self.0.metadata().get(key), self.0.float(key)) {
            (None, _) => Ok(None),
            (_, Some(x)) if (x as f32).is_finite() && x as f32 > 0.0 => Ok(Some(x)),
            (Some(value), _) => {
                Err(self.0.unsupported(key, "a positive finite number", super::shown(value)))
            }
        }
    }
}

/// Refuses types that no engine computes, and a part of a split model.
pub(super) fn check_types(file: &GgufFile) -> Result<(), GgufError> {
    let types = file.tensors().iter().filter(|(_, info)| !info.dtype.is_computed());
    if let Some((tensor, info)) = types.min_by_key(|(name, _)| *name) {
        return Err(GgufError::UnknownType {
            path: file.path().to_owned(),
            tensor: tensor.escape_debug().to_string(),
            found: info.dtype.label().into_owned(),
        });
    }
    if let Some(n) = file.number("split.count").filter(|n| *n > 1) {
        let expected = "a whole model: all parts in one folder under the names that \
                        llama-gguf-split gave them, or merged by it";
        return Err(file.unsupported("split.count", expected, format!("one of {n} parts")));
    }
    Ok(())
}

/// The rows of the embedding, which the vocabulary does not exceed.
pub(super) fn vocabulary(file: &GgufFile) -> Result<usize, GgufError> {
    let n_vocab = match file.tensors().get(EMBEDDING).map(|i| &i.shape[..]) {
        Some(&[rows, _]) => rows,
        Some(other) => return Err(file.unsupported(EMBEDDING, "2 dimensions", shown(other))),
        None => return Err(file.unsupported(EMBEDDING, "the tensor", "nothing")),
    };
    if let Some(tokens) = file.array("tokenizer.ggml.tokens").filter(|t| t.len() > n_vocab) {
        let expected = format!("at most the {n_vocab} rows of {EMBEDDING}");
        return Err(file.unsupported("tokenizer.ggml.tokens", expected, tokens.len()));
    }
    Ok(n_vocab)
}

/// Refuses a file without the tensor `name` of this shape.
pub(super) fn check_tensor(file: &GgufFile, name: &str, shape: &[usize]) -> Result<(), GgufError> {
    let expected = format!("shape {shape:?}");
    match file.tensors().get(name).map(|i| &i.shape[..]) {
        Some(found) if found == shape => Ok(()),
        Some(found) => Err(file.unsupported(format!("tensor {name}"), expected, shown(found))),
        None => Err(file.unsupported(format!("tensor {name} is missing"), expected, "nothing")),
    }
}

/// Refuses a tensor beyond the `known` ones of `model`: silently leaving out a bias or an adapter
/// would compute a different function.
pub(super) fn check_names(
    file: &GgufFile,
    model: &str,
    layers: usize,
    known: usize,
    is_known: impl Fn(&str) -> bool,
) -> Result<(), GgufError> {
    let names = file.tensors().keys();
    if names.len() > known
        && let Some(name) = names.filter(|name| !is_known(name)).min()
    {
        let what = format!("tensor {} is not part of {model}", name.escape_debug());
        let expected = format!("the {known} tensors of {layers} layers");
        return Err(file.unsupported(what, expected, file.tensors().len()));
    }
    Ok(())
}
