//! Whether an engine computed the same function as the reference: what a record, and `verify`,
//! keep of it.

use serde::{Deserialize, Serialize};

/// One engine against the float32 reference on the same file and tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verification {
    /// The engine whose logits were taken as right.
    pub reference: String,
    pub verdict: Verdict,
    /// Absent for the reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
    /// Why it failed, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Absent where the engine could not be compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
    /// Greedy text after the same prompt: information, not part of the verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_running: Option<FreeRunning>,
    pub checked_at: String,
}

/// How far an engine may be from the reference, by the coarsest arithmetic that it states.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    pub nmse: f64,
    /// What set the limit.
    pub of: String,
}

/// The outcome for one engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreeRunning {
    pub agree: u32,
    pub of: u32,
}

/// The distance of an engine's teacher-forced logits from the reference's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    pub positions: u32,
    /// How many of them, the last ones, came from the engine's decode steps.
    pub decoded: u32,
    /// Σ(engine − reference)² ÷ Σ reference², over all logits.
    pub nmse: f64,
    /// The same over the decoded positions alone, and over as many before them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nmse_decoded: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nmse_before_decoded: Option<f64>,
    /// Of position 0 alone, where neither rope nor other positions play a part.
    pub nmse_at_0: f64,
    /// Of the first and of the last 64 positions.
    pub nmse_early: f64,
    pub nmse_late: f64,
    /// Largest |Δ| of a logit.
    pub max_abs: f64,
    /// Kullback–Leibler divergence of the engine's distribution from the reference's in nats:
    /// mean and 99.9 % quantile over positions.
    pub kl_mean: f64,
    pub kl_p999: f64,
    /// Share of positions with the same argmax, 0 to 1.
    pub top1: f64,
    /// Mean overlap of the two sets of the five largest logits, 0 to 1.
    pub top5: f64,
    /// Positions where the reference's best logit leads by more than four RMS errors, and how
    /// many of them have another argmax.
    pub decided: u32,
    pub flipped: u32,
    /// Standard deviation of the reference's logits.
    pub logit_sd: f64,
}
