//! The contents of a synthetic file: every tensor with its name, shape, storage type and the
//! distribution of its weights. `blocks` makes the bytes.
//!
//! The weights are scaled so that the model behaves like a trained one in ways that a careless
//! random one does not:
//!
//! - the residual stream grows like a random walk and ends far from the token embedding, so that a
//!   tied output head does not simply repeat the input token;
//! - attention is neither uniform nor on one position;
//! - logits have a standard deviation of four, so that the best token is rarely a tie;
//! - norm weights vary around means other than one, so that a forgotten norm weight shows.

use anyhow::{Result, ensure};

use crate::model::arch::ArchSpec;
use crate::model::mixture::{Mixture, TensorType, file_order};
use crate::model::quant::Quant;

/// One tensor of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorPlan {
    pub name: String,
    /// The innermost dimension (row length) comes first, as in GGUF.
    pub dims: Vec<u64>,
    pub ty: TensorType,
    pub weights: Weights,
}

/// The source of a tensor's values.
#[derive(Debug, Clone, PartialEq)]
pub enum Weights {
    /// Gaussian with this mean and standard deviation.
    Gaussian { mean: f64, sigma: f64 },
    /// Exactly these values.
    Exact(Vec<f32>),
}

impl TensorPlan {
    pub fn n_weights(&self) -> u64 {
        self.dims.iter().product()
    }

    /// Size in the file, without padding.
    pub fn bytes(&self) -> u64 {
        self.ty.bytes_of(self.n_weights())
    }
}

/// Standard deviation of the token embedding, as in trained models of this family.
const EMBEDDING_SIGMA: f64 = 0.02;
/// Standard deviation of the logits over the vocabulary.
const LOGIT_SIGMA: f64 = 4.0;
/// Standard deviation of the attention scores over the positions, before the softmax.
const SCORE_SIGMA: f64 = 1.5;
/// Mean of the norm weights inside the layers; their standard deviation is a seventh of the mean.
const NORM_MEAN: f64 = 0.5;
const NORM_SPREAD: f64 = 1.0 / 7.0;
/// Size of the input token's own logit, in standard deviations of the logits.
const SELF_LOGIT: f64 = 0.5;
/// The factor by which averaging over positions shrinks values, at lengths of tens to hundreds.
const AVERAGING: f64 = 0.5;
/// Attention output relative to feed-forward output. With a larger share the positions become alike
/// with depth, because averaging keeps what they share, and the text falls into a loop of one
/// token.
const ATTENTION_SHARE: f64 = 0.5;
/// Share of the last residual's variance that the first layer's feed-forward writes, where tokens
/// still differ from each other. It makes the later layers robust against rounding, as large early
/// activations do in trained models.
const FIRST_LAYER_SHARE: f64 = 0.7;
/// Root mean square of `silu(g) · u` for independent standard Gaussians.
const SWIGLU_RMS: f64 = 0.596;

/// The tensors in the order in which llama.cpp's `llama-quantize` writes them.
pub fn tensors(spec: &ArchSpec, quant: Quant) -> Result<Vec<TensorPlan>> {
    check(spec)?;
    let mixture = Mixture {
        quant,
        n_layers: spec.n_layers,
        grouped: spec.n_heads != spec.n_kv_heads,
        tied: spec.tied,
    };
    let d = u64::from(spec.n_embd);
    let (q, kv) = (u64::from(spec.q_width()), u64::from(spec.kv_width()));
    let (ff, vocab) = (u64::from(spec.n_ff), u64::from(spec.n_vocab));
    let layers = f64::from(spec.n_layers);

    // rms of the norm weights over their mean
    let norm_rms = (1.0 + NORM_SPREAD * NORM_SPREAD).sqrt();
    let root_d = (d as f64).sqrt();
    // Scales the residual stream, through a norm, to unit variance.
    let unit = 1.0 / (root_d * NORM_MEAN * norm_rms);
    // The last residual: the embedding's own logit is root_d · embedding / residual deviations.
    let residual = root_d * EMBEDDING_SIGMA / SELF_LOGIT;
    let share = ATTENTION_SHARE * ATTENTION_SHARE;
    let ffn_out = residual * ((1.0 - FIRST_LAYER_SHARE) / (layers * (1.0 + share))).sqrt();
    let first_ffn_out = (ffn_out.powi(2) + FIRST_LAYER_SHARE * residual.powi(2)).sqrt();
    let attention_out = ffn_out * ATTENTION_SHARE;
    let norm = |mean: f64| Weights::Gaussian { mean, sigma: mean * NORM_SPREAD };
    let matrix = |sigma: f64| Weights::Gaussian { mean: 0.0, sigma };

    let mut plan = Vec::new();
    let mut add = |name: String, dims: &[u64], ty: TensorType, weights: Weights| {
        plan.push(TensorPlan { name, dims: dims.to_vec(), ty, weights });
    };
    if !spec.tied {
        let ty = stored_as(&mixture, "output.weight", d)?;
        add("output.weight".into(), &[d, vocab], ty, matrix(EMBEDDING_SIGMA));
    }
    let last_norm = LOGIT_SIGMA / (EMBEDDING_SIGMA * root_d * norm_rms);
    add("output_norm.weight".into(), &[d], TensorType::F32, norm(last_norm));
    if let Some(factors) = spec.rope_factors() {
        let dims = [factors.len() as u64];
        add("rope_freqs.weight".into(), &dims, TensorType::F32, Weights::Exact(factors));
    }
    let embedding = stored_as(&mixture, "token_embd.weight", d)?;
    add("token_embd.weight".into(), &[d, vocab], embedding, matrix(EMBEDDING_SIGMA));

    for layer in 0..spec.n_layers {
        let mut matrix_of = |part: &str, rows: u64, columns: u64, sigma: f64| -> Result<()> {
            let name = format!("blk.{layer}.{part}.weight");
            let ty = stored_as(&mixture, &name, columns)?;
            add(name, &[columns, rows], ty, matrix(sigma));
            Ok(())
        };
        let ffn_out = if layer == 0 { first_ffn_out } else { ffn_out };
        let query_key = unit * SCORE_SIGMA.sqrt();
        matrix_of("attn_k", kv, d, query_key)?;
        matrix_of("attn_output", d, q, attention_out / (AVERAGING * (q as f64).sqrt()))?;
        matrix_of("attn_q", q, d, query_key)?;
        matrix_of("attn_v", kv, d, unit)?;
        matrix_of("ffn_down", d, ff, ffn_out / (SWIGLU_RMS * (ff as f64).sqrt()))?;
        matrix_of("ffn_gate", ff, d, unit)?;
        matrix_of("ffn_up", ff, d, unit)?;
        for part in ["attn_norm", "ffn_norm"] {
            let name = format!("blk.{layer}.{part}.weight");
            add(name, &[d], TensorType::F32, norm(NORM_MEAN));
        }
    }
    plan.sort_by_cached_key(|t| file_order(&t.name));
    Ok(plan)
}

/// Refuses impossible shapes.
fn check(spec: &ArchSpec) -> Result<()> {
    let positive = [
        ("n_layers", spec.n_layers),
        ("n_embd", spec.n_embd),
        ("n_ff", spec.n_ff),
        ("n_heads", spec.n_heads),
        ("n_kv_heads", spec.n_kv_heads),
        ("head_dim", spec.head_dim),
        ("n_vocab", spec.n_vocab),
        ("context_length", spec.context_length),
    ];
    for (key, value) in positive {
        ensure!(value > 0, "{}: {key} is 0; it must be at least 1", spec.name);
    }
    ensure!(
        spec.n_heads.is_multiple_of(spec.n_kv_heads),
        "{}: n_heads is {}, not a multiple of n_kv_heads, which is {}",
        spec.name,
        spec.n_heads,
        spec.n_kv_heads
    );
    ensure!(
        spec.head_dim.is_multiple_of(2),
        "{}: head_dim is {}; rotary embedding needs an even number",
        spec.name,
        spec.head_dim
    );
    Ok(())
}

/// The type itself, or Q8_0 if a row is not a whole number of larger blocks.
pub(super) fn stored_as(mixture: &Mixture, name: &str, row: u64) -> Result<TensorType> {
    let (wanted, fitting) = (mixture.wanted(name), mixture.fitting(name, row));
    ensure!(
        fitting == wanted || fitting == TensorType::Q8_0,
        "{name}: rows of {row} weights cannot be stored as {wanted:?}, which needs a multiple of {}; choose F16 or another shape",
        wanted.block_weights()
    );
    Ok(fitting)
}
