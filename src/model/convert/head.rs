//! A classifier that was trained on the frozen [CLS] states of an encoder and comes with llm-bench:
//! `scripts/train_sentiment.py` writes it. Its first matrix is a multiple of the identity, so that
//! only one row for each label has to be kept.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::model::encoder::EncoderSpec;

/// logits = weight · tanh(scale · h[CLS]) + bias
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// What it was trained on, for readers of the file.
    #[serde(rename = "trained_on")]
    _trained_on: String,
    scale: f32,
    /// One row for each label.
    weight: Vec<Vec<f32>>,
    bias: Vec<f32>,
}

impl Head {
    /// # Errors
    /// The text is no head, or one for other shapes.
    pub fn parse(name: &str, json: &[u8], spec: &EncoderSpec) -> Result<Self> {
        let head: Self = serde_json::from_slice(json).with_context(|| name.to_owned())?;
        let (labels, width) = (spec.labels.len(), spec.n_embd as usize);
        ensure!(
            head.weight.len() == labels
                && head.bias.len() == labels
                && head.weight.iter().all(|row| row.len() == width),
            "{name}: expected a row of {width} weights and a bias for each of {labels} labels, \
             found {} rows and {} biases",
            head.weight.len(),
            head.bias.len()
        );
        let all = head.weight.iter().flatten().chain(&head.bias).chain([&head.scale]);
        ensure!(all.copied().all(f32::is_finite), "{name}: expected finite weights");
        Ok(head)
    }

    /// The values of a tensor of the classifier; `None` for any other tensor.
    pub fn values(&self, tensor: &str) -> Option<Vec<f32>> {
        let width = self.weight.first().map_or(0, Vec::len);
        Some(match tensor {
            "cls.weight" => {
                let mut identity = vec![0.0; width * width];
                identity.iter_mut().step_by(width + 1).for_each(|x| *x = self.scale);
                identity
            }
            "cls.bias" => vec![0.0; width],
            "cls.output.weight" => self.weight.concat(),
            "cls.output.bias" => self.bias.clone(),
            _ => return None,
        })
    }
}
