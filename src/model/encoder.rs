//! The shape of a BERT-family encoder: what the registry states, what a checkpoint is checked
//! against, and which tensors and metadata its GGUF file has. Numbers and names only.

pub mod vocabulary;

use serde::{Deserialize, Serialize};

use self::vocabulary::WordPieces;
use super::gguf::write::Value;
use super::quant::Quant;

/// `general.architecture` of such a file.
pub const ARCHITECTURE: &str = "bert";

/// The types that an encoder's file is made in.
pub const QUANTS: [Quant; 4] = [Quant::F32, Quant::F16, Quant::Q8_0, Quant::Q4_0];

/// Architecture of a BERT or DistilBERT. The keys are those of `[encoder]` in the model registry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderSpec {
    /// The start of `general.name`, such as `all-MiniLM-L6-v2`.
    pub name: String,
    pub n_layers: u32,
    /// Width of the residual stream.
    pub n_embd: u32,
    /// Width of the feed-forward hidden layer.
    pub n_ff: u32,
    pub n_heads: u32,
    pub n_vocab: u32,
    /// Rows of the position embedding: the longest text, special tokens included.
    pub context_length: u32,
    /// Rows of the segment embedding; 0 for DistilBERT, which has none.
    pub n_types: u32,
    pub norm_eps: f32,
    /// How the hidden states of a text become one vector. Absent with a classifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooling: Option<Pooling>,
    /// What each logit means; empty without a classifier.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Between the two matrices of the classifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
    /// Whether the tokenizer makes text lowercase and strips its accents.
    #[serde(default = "uncased")]
    pub lowercase: bool,
}

fn uncased() -> bool {
    true
}

/// How the hidden states of a text become one vector (`bert.pooling_type` in llama.cpp).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The mean over all tokens, special ones included.
    Mean,
    /// The first token.
    Cls,
    /// The last token.
    Last,
}

impl Pooling {
    /// `llama_pooling_type` in llama.cpp's `llama.h`.
    pub fn number(self) -> u32 {
        match self {
            Self::Mean => 1,
            Self::Cls => 2,
            Self::Last => 3,
        }
    }
}

/// The function between the two matrices of a classifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// BERT's pooler.
    Tanh,
    /// DistilBERT.
    Relu,
}

impl Activation {
    pub fn name(self) -> &'static str {
        match self {
            Self::Tanh => "tanh",
            Self::Relu => "relu",
        }
    }
}

/// A tensor that a file has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncoderTensor {
    pub name: String,
    /// Rows first.
    pub shape: Vec<u64>,
}

impl EncoderTensor {
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Row length first, as in GGUF.
    pub fn dims(&self) -> Vec<u64> {
        self.shape.iter().rev().copied().collect()
    }
}

/// No real encoder comes near these; beyond them sizes could overflow.
const MOST: [(&str, u32); 4] =
    [("n_layers", 1 << 10), ("n_embd", 1 << 16), ("n_ff", 1 << 18), ("n_vocab", 1 << 24)];

impl EncoderSpec {
    /// Checks the conditions that every encoder meets.
    ///
    /// # Errors
    /// What is wrong, as a sentence without the model's name.
    pub fn check(&self) -> Result<(), String> {
        let counts = [self.n_layers, self.n_embd, self.n_ff, self.n_vocab];
        for ((key, most), found) in MOST.into_iter().zip(counts) {
            if !(1..=most).contains(&found) {
                return Err(format!("{key}: expected 1 to {most}, found {found}"));
            }
        }
        if !(2..=1 << 20).contains(&self.context_length) {
            let found = self.context_length;
            return Err(format!("context_length: expected 2 to {}, found {found}", 1 << 20));
        }
        if self.n_types > 16 {
            return Err(format!("n_types: expected at most 16, found {}", self.n_types));
        }
        if self.n_heads == 0 || !self.n_embd.is_multiple_of(self.n_heads) {
            let (heads, width) = (self.n_heads, self.n_embd);
            return Err(format!("n_heads: expected a divisor of n_embd {width}, found {heads}"));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps > 0.0) {
            return Err(format!("norm_eps: expected a number above 0, found {}", self.norm_eps));
        }
        match (self.labels.len(), self.activation, self.pooling) {
            (0, None, Some(_)) => {}
            (0, _, None) => return Err("expected pooling, or the labels of a classifier".into()),
            (0, Some(_), _) => return Err("activation: expected the labels too".into()),
            (1, ..) => return Err("labels: expected at least two, found one".into()),
            (_, None, _) => return Err("labels: expected the activation too".into()),
            (_, Some(_), Some(_)) => {
                return Err("pooling: expected none, because a classifier reads [CLS]".into());
            }
            (n, Some(_), None) if n > 10_000 => {
                return Err(format!("labels: expected at most 10000, found {n}"));
            }
            _ => {}
        }
        for (i, label) in self.labels.iter().enumerate() {
            if label.is_empty() || label.chars().any(char::is_control) {
                return Err(format!("labels: expected plain text, found {label:?}"));
            }
            if self.labels[..i].contains(label) {
                return Err(format!("labels: {label:?} is there twice"));
            }
        }
        Ok(())
    }

    /// All tensors, in llama.cpp's names.
    pub fn tensors(&self) -> Vec<EncoderTensor> {
        let (d, ff) = (u64::from(self.n_embd), u64::from(self.n_ff));
        let mut all = Vec::new();
        let mut add = |name: String, shape: &[u64]| {
            all.push(EncoderTensor { name, shape: shape.to_vec() });
        };
        add("token_embd.weight".into(), &[self.n_vocab.into(), d]);
        add("position_embd.weight".into(), &[self.context_length.into(), d]);
        if self.n_types > 0 {
            add("token_types.weight".into(), &[self.n_types.into(), d]);
        }
        add("token_embd_norm.weight".into(), &[d]);
        add("token_embd_norm.bias".into(), &[d]);
        for layer in 0..self.n_layers {
            let matrices = [
                ("attn_q", d, d),
                ("attn_k", d, d),
                ("attn_v", d, d),
                ("attn_output", d, d),
                ("ffn_up", ff, d),
                ("ffn_down", d, ff),
            ];
            for (part, rows, columns) in matrices {
                add(format!("blk.{layer}.{part}.weight"), &[rows, columns]);
                add(format!("blk.{layer}.{part}.bias"), &[rows]);
            }
            for part in ["attn_output_norm", "layer_output_norm"] {
                add(format!("blk.{layer}.{part}.weight"), &[d]);
                add(format!("blk.{layer}.{part}.bias"), &[d]);
            }
        }
        if !self.labels.is_empty() {
            let labels = self.labels.len() as u64;
            for (part, rows) in [("cls", d), ("cls.output", labels)] {
                add(format!("{part}.weight"), &[rows, d]);
                add(format!("{part}.bias"), &[rows]);
            }
        }
        all
    }

    /// Number of weights.
    pub fn n_params(&self) -> u64 {
        self.tensors().iter().map(EncoderTensor::elements).sum()
    }

    /// The metadata of a file: llama.cpp's keys for this architecture, and the two of our own that
    /// its converter does not write. `marks` come behind the general ones.
    pub fn metadata(
        &self,
        name: String,
        quant: Quant,
        vocabulary: WordPieces,
        marks: Vec<(&'static str, Value)>,
    ) -> Vec<(String, Value)> {
        let mut all = vec![
            ("general.architecture", Value::from(ARCHITECTURE)),
            ("general.type", Value::from("model")),
            ("general.name", Value::Str(name)),
            ("general.file_type", Value::U32(quant.file_type())),
            ("general.quantization_version", Value::U32(2)),
        ];
        all.extend(marks);
        all.extend([
            ("bert.block_count", Value::U32(self.n_layers)),
            ("bert.context_length", Value::U32(self.context_length)),
            ("bert.embedding_length", Value::U32(self.n_embd)),
            ("bert.feed_forward_length", Value::U32(self.n_ff)),
            ("bert.attention.head_count", Value::U32(self.n_heads)),
            ("bert.attention.layer_norm_epsilon", Value::F32(self.norm_eps)),
            ("bert.attention.causal", Value::Bool(false)),
        ]);
        if let Some(pooling) = self.pooling {
            all.push(("bert.pooling_type", Value::U32(pooling.number())));
        }
        if let Some(activation) = self.activation {
            all.push(("bert.classifier.output_labels", Value::Strs(self.labels.clone())));
            all.push(("llm_bench.classifier_activation", Value::from(activation.name())));
        }
        all.push(("llm_bench.lowercase", Value::Bool(self.lowercase)));
        let types = u32::max(self.n_types, 1);
        all.push(("tokenizer.ggml.token_type_count", Value::U32(types)));
        all.extend(vocabulary.metadata());
        all.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn minilm() -> EncoderSpec {
        toml::from_str(
            r#"
            name = "all-MiniLM-L6-v2"
            n_layers = 6
            n_embd = 384
            n_ff = 1536
            n_heads = 12
            n_vocab = 30522
            context_length = 512
            n_types = 2
            norm_eps = 1e-12
            pooling = "mean"
            "#,
        )
        .unwrap()
    }

    #[test]
    fn minilm_has_its_published_number_of_weights() {
        // 22,713,216 with the pooler, which an embedding does not use.
        assert_eq!(minilm().n_params(), 22_713_216 - 384 * 384 - 384);
    }

    #[test]
    fn a_classifier_needs_labels_and_its_activation_and_no_pooling() {
        let classifier = EncoderSpec {
            labels: vec!["NEGATIVE".into(), "POSITIVE".into()],
            activation: Some(Activation::Relu),
            pooling: None,
            ..minilm()
        };
        classifier.check().unwrap();
        assert_eq!(classifier.tensors().last().unwrap().shape, [2]);
        let wrong = |spec: EncoderSpec| spec.check().unwrap_err();
        assert!(wrong(EncoderSpec { pooling: None, ..minilm() }).contains("pooling"));
        assert!(
            wrong(EncoderSpec { activation: None, ..classifier.clone() }).contains("activation")
        );
        let pooled = EncoderSpec { pooling: Some(Pooling::Cls), ..classifier.clone() };
        assert!(wrong(pooled).contains("[CLS]"));
        let twice = EncoderSpec { labels: vec!["A".into(), "A".into()], ..classifier };
        assert!(wrong(twice).contains("twice"));
    }

    #[test]
    fn impossible_shapes_are_refused() {
        let wrong = |spec: EncoderSpec| spec.check().unwrap_err();
        assert!(wrong(EncoderSpec { n_heads: 7, ..minilm() }).contains("divisor of n_embd 384"));
        assert!(wrong(EncoderSpec { n_layers: 0, ..minilm() }).contains("n_layers"));
        assert!(wrong(EncoderSpec { n_vocab: u32::MAX, ..minilm() }).contains("n_vocab"));
        assert!(wrong(EncoderSpec { norm_eps: f32::NAN, ..minilm() }).contains("norm_eps"));
    }
}
