//! candle-transformers' `bert` as published, with the padding and the mask that its examples use.

use std::collections::HashMap;
use std::fs::File;

use candle_core::quantized::gguf_file::Content;
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{Linear, Module, VarBuilder};
use candle_transformers::models::bert::{BertModel, Config, HiddenAct};
use llm_bench_gguf::{Activation, BertConfig, BertOutput, Pooling};
use llm_bench_protocol::Precision;

use crate::Vectors;

/// A BERT with its weights as f32.
pub struct StockEncoder {
    model: BertModel,
    /// The two matrices of a classifier.
    classifier: Option<[Linear; 2]>,
    pub config: BertConfig,
    /// Bytes of all weights.
    pub weight_bytes: u64,
}

/// The names of candle-transformers, and those of the file.
fn names(config: &BertConfig) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = [
        ("word_embeddings", "token_embd"),
        ("position_embeddings", "position_embd"),
        ("token_type_embeddings", "token_types"),
    ]
    .map(|(theirs, ours)| (format!("embeddings.{theirs}.weight"), format!("{ours}.weight")))
    .to_vec();
    let mut affine = |theirs: &str, ours: &str| {
        for part in ["weight", "bias"] {
            all.push((format!("{theirs}.{part}"), format!("{ours}.{part}")));
        }
    };
    affine("embeddings.LayerNorm", "token_embd_norm");
    for i in 0..config.n_layers {
        for (theirs, ours) in [
            ("attention.self.query", "attn_q"),
            ("attention.self.key", "attn_k"),
            ("attention.self.value", "attn_v"),
            ("attention.output.dense", "attn_output"),
            ("attention.output.LayerNorm", "attn_output_norm"),
            ("intermediate.dense", "ffn_up"),
            ("output.dense", "ffn_down"),
            ("output.LayerNorm", "layer_output_norm"),
        ] {
            affine(&format!("encoder.layer.{i}.{theirs}"), &format!("blk.{i}.{ours}"));
        }
    }
    all
}

impl StockEncoder {
    /// Widens every tensor of the file to f32.
    pub fn load(content: &Content, file: &mut File, config: BertConfig) -> Result<Self> {
        let device = Device::Cpu;
        let mut weight_bytes = 0;
        let mut tensor = |name: &str| -> Result<Tensor> {
            let tensor = content.tensor(file, name, &device)?.dequantize(&device)?;
            weight_bytes += (tensor.elem_count() * size_of::<f32>()) as u64;
            Ok(tensor)
        };
        let mut tensors = HashMap::new();
        for (theirs, ours) in names(&config) {
            let value = match (&*ours, config.n_types) {
                // Adds nothing.
                ("token_types.weight", None) => {
                    Tensor::zeros((1, config.n_embd), DType::F32, &device)?
                }
                _ => tensor(&ours)?,
            };
            tensors.insert(theirs, value);
        }
        let classifier = match config.output {
            BertOutput::Vector(_) => None,
            BertOutput::Classes(_) => {
                let mut linear = |name: &str| -> Result<Linear> {
                    let weight = tensor(&format!("{name}.weight"))?;
                    Ok(Linear::new(weight, Some(tensor(&format!("{name}.bias"))?)))
                };
                Some([linear("cls")?, linear("cls.output")?])
            }
        };
        let theirs = Config {
            vocab_size: config.n_vocab,
            hidden_size: config.n_embd,
            num_hidden_layers: config.n_layers,
            num_attention_heads: config.n_heads,
            intermediate_size: config.n_ff,
            hidden_act: HiddenAct::Gelu,
            max_position_embeddings: config.context_length,
            type_vocab_size: config.n_types.unwrap_or(1),
            layer_norm_eps: config.norm_eps,
            ..Config::default()
        };
        let variables = VarBuilder::from_tensors(tensors, DType::F32, &device);
        let model = BertModel::load(variables, &theirs)?;
        Ok(Self { model, classifier, config, weight_bytes })
    }

    /// Everything is f32, whatever the file holds.
    pub fn precision() -> Precision {
        Precision { weights: "f32".into(), compute: "f32".into(), kv: "none".into() }
    }

    /// The results of texts that have been checked.
    pub fn encode(&self, texts: &[Vec<u32>]) -> Result<Vectors> {
        let device = &Device::Cpu;
        let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
        let shape = (texts.len(), longest);
        let padded = |f: &dyn Fn(Option<&u32>) -> u32| {
            let row = |text: &Vec<u32>| (0..longest).map(|t| f(text.get(t))).collect::<Vec<_>>();
            Tensor::from_vec(texts.iter().flat_map(row).collect(), shape, device)
        };
        let ids = padded(&|id| id.copied().unwrap_or(0))?;
        let mask = padded(&|id| id.is_some().into())?;
        let hidden = self.model.forward(&ids, &ids.zeros_like()?, Some(&mask))?;
        let first = hidden.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?;
        let out = match (&self.config.output, &self.classifier) {
            (BertOutput::Classes(classes), Some([inner, outer])) => {
                let inner = inner.forward(&first)?;
                let inner = match classes.activation {
                    Activation::Tanh => inner.tanh()?,
                    Activation::Relu => inner.relu()?,
                };
                outer.forward(&inner)?
            }
            (output, _) => {
                let vectors = match output {
                    BertOutput::Vector(Pooling::Mean) => {
                        let mask = mask.to_dtype(DType::F32)?.unsqueeze(2)?;
                        let sums = hidden.broadcast_mul(&mask)?.sum(1)?;
                        sums.broadcast_div(&mask.sum(1)?)?
                    }
                    BertOutput::Vector(Pooling::Last) => {
                        let row =
                            |(i, text): (usize, &Vec<u32>)| hidden.get(i)?.get(text.len() - 1);
                        let rows = texts.iter().enumerate().map(row).collect::<Result<Vec<_>>>()?;
                        Tensor::stack(&rows, 0)?
                    }
                    _ => first,
                };
                let lengths = vectors.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(1e-12)?;
                vectors.broadcast_div(&lengths)?
            }
        };
        let columns = self.config.n_out();
        Ok(Vectors { columns, values: out.flatten_all()?.to_vec1()?, hidden: None })
    }
}
