//! The same for an encoder: BERT's shapes and real vocabulary, random weights.
//!
//! Each layer ends in a norm, so the residual stream keeps its size by itself. What is scaled here:
//! attention looks at some positions more than at others, what attention and feed-forward add has
//! about the size of what they are added to, and norm weights, biases and positions are large
//! enough that a forgotten one shows.

use std::path::Path;

use anyhow::{Result, ensure};

use super::recipe::{TensorPlan, Weights};
use super::{Layout, METHOD, METHOD_KEY, SEED_KEY};
use crate::model::encoder::EncoderSpec;
use crate::model::encoder::vocabulary::WordPieces;
use crate::model::gguf::SYNTHETIC_KEY;
use crate::model::gguf::write::Value;
use crate::model::mixture::{Mixture, TensorType, file_order, is_matrix};
use crate::model::quant::Quant;
use crate::units::Bytes;

/// Standard deviation of the token embedding; the positions have half of it.
const EMBEDDING_SIGMA: f64 = 0.04;
/// Standard deviation of the attention scores, before the softmax.
const SCORE_SIGMA: f64 = 1.5;
/// Standard deviation of norm weights, around one, and of all biases.
const NORM_SPREAD: f64 = 1.0 / 7.0;
const BIAS_SIGMA: f64 = 0.05;
/// Root mean square of a standard Gaussian behind GELU.
const GELU_RMS: f64 = 0.652;
/// The factor by which averaging over positions shrinks values.
const AVERAGING: f64 = 0.5;
/// What a half of a layer adds, relative to the stream.
const ADDED: f64 = 0.7;
/// Standard deviation of the logits of a classifier.
const LOGIT_SIGMA: f64 = 2.0;

/// Writes a synthetic encoder to `out`, as [`super::synthesize`] does for a decoder.
///
/// # Errors
/// A shape is impossible or cannot be stored, there is too little free disk, or a write fails.
pub fn synthesize(
    spec: &EncoderSpec,
    quant: Quant,
    seed: u64,
    out: &Path,
    threads: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    super::write(&layout(spec, quant, seed)?, seed, out, threads, progress)
}

/// Size of the file that [`synthesize`] would write.
pub fn file_size(spec: &EncoderSpec, quant: Quant) -> Result<Bytes> {
    Ok(Bytes(layout(spec, quant, 0)?.size))
}

fn layout(spec: &EncoderSpec, quant: Quant, seed: u64) -> Result<Layout> {
    spec.check().map_err(|e| anyhow::anyhow!("{}: {e}", spec.name))?;
    let vocabulary = WordPieces::uncased();
    ensure!(
        spec.n_vocab as usize == vocabulary.len(),
        "{}: n_vocab is {}; synthesis has the vocabulary of bert-base-uncased, {} tokens",
        spec.name,
        spec.n_vocab,
        vocabulary.len()
    );
    let marks = vec![
        (
            "general.description",
            Value::from(
                "Random weights in the shapes of the named model, made by llm-bench for measuring speed. The vectors mean nothing.",
            ),
        ),
        (SYNTHETIC_KEY, Value::Bool(true)),
        (SEED_KEY, Value::U64(seed)),
        (METHOD_KEY, Value::U32(METHOD)),
    ];
    let name = format!("{} (synthetic weights)", spec.name);
    Ok(Layout::new(tensors(spec, quant)?, &spec.metadata(name, quant, vocabulary, marks)))
}

fn tensors(spec: &EncoderSpec, quant: Quant) -> Result<Vec<TensorPlan>> {
    let mixture = Mixture::of_encoder(quant, spec.n_layers);
    let plan = |tensor: crate::model::encoder::EncoderTensor| -> Result<TensorPlan> {
        let (dims, weights) =
            (tensor.dims(), weights(&tensor.name, *tensor.shape.last().unwrap_or(&1)));
        let ty = match is_matrix(&tensor.name, &dims) {
            true => super::recipe::stored_as(&mixture, &tensor.name, dims[0])?,
            false => TensorType::F32,
        };
        Ok(TensorPlan { name: tensor.name, dims, ty, weights })
    };
    let mut all = spec.tensors().into_iter().map(plan).collect::<Result<Vec<_>>>()?;
    all.sort_by_cached_key(|t| file_order(&t.name));
    Ok(all)
}

/// The distribution of a tensor whose rows have `row` weights.
fn weights(name: &str, row: u64) -> Weights {
    let unit = 1.0 / (row as f64).sqrt();
    let (mean, sigma) = match name.rsplit_once('.').unwrap_or((name, "")) {
        (_, "bias") => (0.0, BIAS_SIGMA),
        (part, _) if part.ends_with("_norm") => (1.0, NORM_SPREAD),
        ("token_embd", _) => (0.0, EMBEDDING_SIGMA),
        ("position_embd" | "token_types", _) => (0.0, EMBEDDING_SIGMA / 2.0),
        ("cls", _) => (0.0, unit),
        ("cls.output", _) => (0.0, LOGIT_SIGMA * unit),
        (part, _) => match part.rsplit('.').next().unwrap_or_default() {
            "attn_q" | "attn_k" => (0.0, SCORE_SIGMA.sqrt() * unit),
            "attn_output" => (0.0, ADDED / AVERAGING * unit),
            "ffn_down" => (0.0, ADDED / GELU_RMS * unit),
            _ => (0.0, unit),
        },
    };
    Weights::Gaussian { mean, sigma }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::encoder::tests::minilm;
    use crate::model::gguf::GgufFile;
    use crate::model::tokenizer::Tokenizer;

    #[test]
    fn a_synthetic_encoder_has_its_shapes_its_types_and_a_tokenizer() {
        let folder = tempfile::tempdir().unwrap();
        let spec = EncoderSpec { n_layers: 1, n_embd: 64, n_ff: 128, n_heads: 2, ..minilm() };
        for quant in crate::model::encoder::QUANTS {
            let path = folder.path().join("a.gguf");
            synthesize(&spec, quant, 1, &path, 1, &mut |_, _| {}).unwrap();
            assert_eq!(path.metadata().unwrap().len(), file_size(&spec, quant).unwrap().0);
            let file = GgufFile::open(&path).unwrap();
            assert!(file.is_synthetic());
            assert_eq!(file.n_params(), spec.n_params());
            assert_eq!(file.recipe(), quant.to_string());
            for tensor in spec.tensors() {
                let shape: Vec<u64> =
                    file.tensors()[&tensor.name].shape.iter().map(|&n| n as u64).collect();
                assert_eq!(shape, tensor.shape, "{}", tensor.name);
            }
            let label = |name: &str| file.tensors()[name].dtype.label().into_owned();
            for kept in ["position_embd.weight", "token_types.weight", "blk.0.attn_q.bias"] {
                assert_eq!(label(kept), "F32", "{kept} of {quant}");
            }
            assert_eq!(label("blk.0.attn_q.weight"), quant.to_string());
            let tokenizer = Tokenizer::from_gguf(&file).unwrap();
            assert_eq!(
                tokenizer.encode("Hello, world!").unwrap(),
                [101, 7592, 1010, 2088, 999, 102]
            );
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let spec = EncoderSpec { n_layers: 1, n_embd: 64, n_ff: 128, n_heads: 2, ..minilm() };
        let make = |seed, threads| {
            let path = folder.path().join("a.gguf");
            synthesize(&spec, Quant::Q8_0, seed, &path, threads, &mut |_, _| {}).unwrap();
            std::fs::read(path).unwrap()
        };
        let one = make(1, 1);
        assert!(one == make(1, 2) && one != make(2, 1));
    }
}
