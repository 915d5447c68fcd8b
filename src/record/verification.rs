//! Whether an engine computed the same function as the reference: what a record, and `verify`,
//! keep of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One engine against the float32 reference on the same file and tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Verification {
    /// The engine whose logits are taken as right.
    pub reference: String,
    /// The outcome.
    pub verdict: Verdict,
    /// What it was held to; absent for the reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
    /// Why it failed, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Absent where the engine could not be compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
    /// The same of an encoder, in place of `divergence`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vectors: Option<Vectors>,
    /// Greedy text after the same prompt: information, not part of the verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_running: Option<FreeRunning>,
    /// When it was checked: RFC 3339, with the zone.
    pub checked_at: String,
}

/// How far an engine may be from the reference, by the coarsest arithmetic that it states.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Limit {
    /// Largest NMSE that passes.
    pub nmse: f64,
    /// The arithmetic that set it.
    pub of: String,
}

/// The outcome for one engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is the reference.
    Reference,
    Pass,
    Fail,
    /// It did not answer, for whatever reason; `reason` has it.
    Unanswered,
}

/// The first `agree` of `of` greedy tokens are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FreeRunning {
    /// How many greedy tokens from the first on are the same.
    pub agree: u32,
    /// Out of so many.
    pub of: u32,
}

/// The distance of an engine's teacher-forced logits from the reference's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Divergence {
    /// Positions compared.
    pub positions: u32,
    /// How many of them, the last ones, came from the engine's decode steps.
    pub decoded: u32,
    /// Σ(engine − reference)² ÷ Σ reference², over all logits.
    pub nmse: f64,
    /// The same over the decoded positions alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nmse_decoded: Option<f64>,
    /// The same over as many positions before those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nmse_before_decoded: Option<f64>,
    /// Of position 0 alone, where neither rope nor other positions play a part.
    pub nmse_at_0: f64,
    /// Of the first 64 positions.
    pub nmse_early: f64,
    /// Of the last 64 positions.
    pub nmse_late: f64,
    /// Largest |Δ| of a logit.
    pub max_abs: f64,
    /// Kullback–Leibler divergence of the engine's distribution from the reference's in nats, mean
    /// over positions.
    pub kl_mean: f64,
    /// The same, 99.9 % quantile over positions.
    pub kl_p999: f64,
    /// Share of positions with the same argmax, 0 to 1.
    pub top1: f64,
    /// Mean overlap of the two sets of the five largest logits, 0 to 1.
    pub top5: f64,
    /// Positions where the reference's best logit leads by more than four RMS errors.
    pub decided: u32,
    /// How many of those have another argmax.
    pub flipped: u32,
    /// Standard deviation of the reference's logits.
    pub logit_sd: f64,
}

/// The distance of an encoder's results from the reference's, over one batch of texts of many
/// lengths.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Vectors {
    /// Texts compared.
    pub texts: u32,
    /// Values of each: of a vector of length 1, or logits.
    pub columns: u32,
    /// Of the results.
    #[serde(flatten)]
    pub distance: Distance,
    /// Texts that a classifier gives the same label; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<FreeRunning>,
    /// Of the hidden states behind the embeddings, then behind each layer; empty for an engine that
    /// does not show them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Distance>,
}

/// How far values are from a reference's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Distance {
    /// Σ(engine − reference)² ÷ Σ reference².
    pub nmse: f64,
    /// Largest |Δ|.
    pub max_abs: f64,
    /// The least cosine between two rows.
    pub cosine_min: f64,
}
