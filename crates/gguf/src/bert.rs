//! The hyper-parameters of a BERT encoder in a GGUF file, validated once: llama.cpp's architecture
//! `bert`, with or without a classifier behind it.

use candle_core::quantized::gguf_file::Value;
use serde::Serialize;

use super::config::{Reader, check_names, check_tensor, check_types, vocabulary};
use super::{EMBEDDING, GgufError, GgufFile, shown};

/// Shapes and constants that an engine needs. The file contains every tensor that they imply, with
/// the implied shape.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BertConfig {
    pub n_layers: usize,
    pub n_embd: usize,
    pub n_ff: usize,
    pub n_heads: usize,
    pub head_dim: usize,
    pub n_vocab: usize,
    pub context_length: usize,
    pub norm_eps: f64,
    /// Rows of `token_types.weight`; `None` without one (DistilBERT).
    pub n_types: Option<usize>,
    pub output: BertOutput,
}

/// What an encoder makes of the hidden states of a text.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BertOutput {
    /// One vector of length 1.
    Vector(Pooling),
    /// The logits of a classifier over the first token.
    Classes(Classifier),
}

/// Which hidden states become the vector of a text; the numbers are llama.cpp's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    Mean = 1,
    /// The first token's.
    Cls = 2,
    /// The last token's.
    Last = 3,
}

/// Two matrices: hidden × hidden with an activation, then labels × hidden.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Classifier {
    pub n_labels: usize,
    /// Names of the labels; empty if the file has none.
    pub labels: Vec<String>,
    pub activation: Activation,
}

/// What a classifier applies between its matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    Tanh,
    Relu,
}

/// The tensors of a layer, each with a weight and a bias.
const PARTS: [&str; 8] = [
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_output",
    "attn_output_norm",
    "ffn_up",
    "ffn_down",
    "layer_output_norm",
];

const TYPES: &str = "token_types.weight";
const POSITIONS: &str = "position_embd.weight";
const CLASSES: &str = "cls.output.weight";

impl BertConfig {
    pub(super) fn of(file: &GgufFile) -> Result<Self, GgufError> {
        let metadata = file.metadata();
        if file.text("general.architecture") != Some("bert") {
            let found = metadata.get("general.architecture").map_or("nothing".into(), shown);
            return Err(file.unsupported("general.architecture", "bert", found));
        }
        let read = Reader(file);
        let n_layers = read.positive("bert.block_count", 1 << 12)?;
        let n_embd = read.positive("bert.embedding_length", 1 << 20)?;
        let n_ff = read.positive("bert.feed_forward_length", 1 << 24)?;
        let n_heads = read.positive("bert.attention.head_count", 1 << 14)?;
        if n_embd % n_heads != 0 {
            let expected = format!("a divisor of the embedding length {n_embd}");
            return Err(file.unsupported("bert.attention.head_count", expected, n_heads));
        }
        let head_dim = n_embd / n_heads;
        for (key, same) in [
            ("bert.attention.head_count_kv", n_heads),
            ("bert.attention.key_length", head_dim),
            ("bert.attention.value_length", head_dim),
        ] {
            if let Some(n) = read.optional(key, 1 << 14)?.filter(|n| *n != same) {
                return Err(file.unsupported(key, same, n));
            }
        }
        let causal = "bert.attention.causal";
        if let Some(value) = metadata.get(causal).filter(|v| !matches!(v, Value::Bool(false))) {
            return Err(file.unsupported(causal, "none, or false", shown(value)));
        }
        check_types(file)?;
        let context_length = read.positive("bert.context_length", 1 << 24)?;
        super::keys::check(file, "bert.", head_dim, context_length)?;
        let eps = "bert.attention.layer_norm_epsilon";
        let norm_eps = read.finite(eps)?.ok_or_else(|| read.missing(eps))?;
        let n_vocab = vocabulary(file)?;
        let config = Self {
            n_layers,
            n_embd,
            n_ff,
            n_heads,
            head_dim,
            n_vocab,
            context_length,
            norm_eps,
            n_types: Self::types(file)?,
            output: Self::output(file)?,
        };
        config.check_tensors(file)?;
        Ok(config)
    }

    /// Rows of the token types, if the file has them; 0 rows cannot be in a file.
    fn types(file: &GgufFile) -> Result<Option<usize>, GgufError> {
        let key = "tokenizer.ggml.token_type_count";
        let Some(info) = file.tensors().get(TYPES) else { return Ok(None) };
        let rows = info.shape.first().copied().unwrap_or(0);
        match file.metadata().get(key) {
            Some(value) if file.number(key) != Some(rows as u64) => {
                Err(file.unsupported(key, format!("the {rows} rows of {TYPES}"), shown(value)))
            }
            _ => Ok(Some(rows)),
        }
    }

    fn output(file: &GgufFile) -> Result<BertOutput, GgufError> {
        let key = "bert.pooling_type";
        let pooling = file.metadata().get(key);
        let Some(info) = file.tensors().get(CLASSES) else {
            let pooling = match file.number(key) {
                Some(1) => Pooling::Mean,
                Some(2) => Pooling::Cls,
                Some(3) => Pooling::Last,
                _ => {
                    let expected = "1 (mean), 2 (CLS) or 3 (last), or a classifier";
                    let found = pooling.map_or("nothing".into(), shown);
                    return Err(file.unsupported(key, expected, found));
                }
            };
            return Ok(BertOutput::Vector(pooling));
        };
        // A classifier reads the first token; 4 is llama.cpp's number for that.
        if let Some(value) = pooling.filter(|_| !matches!(file.number(key), Some(2 | 4))) {
            let expected = "none, 2 or 4, because the file has a classifier";
            return Err(file.unsupported(key, expected, shown(value)));
        }
        let n_labels = info.shape.first().copied().unwrap_or(0);
        let key = "llm_bench.classifier_activation";
        let activation = match file.text(key) {
            Some("tanh") => Activation::Tanh,
            Some("relu") => Activation::Relu,
            _ => {
                let found = file.metadata().get(key).map_or("nothing".into(), shown);
                return Err(file.unsupported(key, "\"tanh\" or \"relu\"", found));
            }
        };
        let key = "bert.classifier.output_labels";
        let text = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            _ => None,
        };
        let labels = match file.metadata().get(key) {
            None => Some(Vec::new()),
            Some(_) => file.array(key).and_then(|a| a.iter().map(text).collect()),
        };
        match labels {
            Some(labels) if labels.is_empty() || labels.len() == n_labels => {
                Ok(BertOutput::Classes(Classifier { n_labels, labels, activation }))
            }
            _ => {
                let expected = format!("{n_labels} names, one for each row of {CLASSES}");
                let found = file.metadata().get(key).map_or("nothing".into(), shown);
                Err(file.unsupported(key, expected, found))
            }
        }
    }

    /// Values of one result: of the vector, or one for each label.
    pub fn n_out(&self) -> usize {
        match &self.output {
            BertOutput::Vector(_) => self.n_embd,
            BertOutput::Classes(classes) => classes.n_labels,
        }
    }

    /// Every tensor of the model and its shape, rows first.
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let (d, ff) = (self.n_embd, self.n_ff);
        let mut all = vec![
            (EMBEDDING.to_string(), vec![self.n_vocab, d]),
            (POSITIONS.to_string(), vec![self.context_length, d]),
        ];
        all.extend(self.n_types.map(|n| (TYPES.to_string(), vec![n, d])));
        let mut affine = |name: &str, rows: usize, columns: Option<usize>| {
            let weight = [Some(rows), columns].into_iter().flatten().collect();
            all.push((format!("{name}.weight"), weight));
            all.push((format!("{name}.bias"), vec![rows]));
        };
        affine("token_embd_norm", d, None);
        for layer in 0..self.n_layers {
            for part in PARTS {
                let (rows, columns) = match part {
                    "ffn_up" => (ff, Some(d)),
                    "ffn_down" => (d, Some(ff)),
                    part if part.ends_with("norm") => (d, None),
                    _ => (d, Some(d)),
                };
                affine(&format!("blk.{layer}.{part}"), rows, columns);
            }
        }
        if let BertOutput::Classes(classes) = &self.output {
            affine("cls", d, Some(d));
            affine("cls.output", classes.n_labels, Some(d));
        }
        all
    }

    fn check_tensors(&self, file: &GgufFile) -> Result<(), GgufError> {
        let shapes = self.shapes();
        for (name, shape) in &shapes {
            check_tensor(file, name, shape)?;
        }
        let (layers, known) = (self.n_layers, shapes.len());
        check_names(file, "a BERT encoder", layers, known, |name| self.has_tensor(name))
    }

    /// Whether a model of this shape has a tensor of this name.
    fn has_tensor(&self, name: &str) -> bool {
        if [EMBEDDING, TYPES, POSITIONS].contains(&name) {
            return true;
        }
        let stem = name.strip_suffix(".weight").or_else(|| name.strip_suffix(".bias"));
        let Some(stem) = stem else { return false };
        let layer = stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        let classes = matches!(self.output, BertOutput::Classes(_));
        stem == "token_embd_norm"
            || classes && matches!(stem, "cls" | "cls.output")
            || layer.is_some_and(|(i, part)| {
                PARTS.contains(&part)
                    && i.parse::<usize>().is_ok_and(|n| n < self.n_layers && n.to_string() == i)
            })
    }
}

#[cfg(test)]
mod tests;
