//! What a quantization costs in quality: what a record keeps of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::metric::Better;

/// The next-token distributions of one arm, teacher-forced over a text, against those of
/// the reference: the same engine on the model's F16 file or the best that there is, unless the engine quantizes the weights itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Quality {
    /// Quantization of the reference file.
    pub reference: String,
    /// The engine that computed the reference, where it is another one: this one quantizes the
    /// weights itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference_engine: Option<String>,
    /// The text: its name, or the file it came from.
    pub text: String,
    /// sha256 of the text.
    pub text_sha256: String,
    /// Windows of the text, each with an empty cache at its start.
    pub windows: u32,
    /// Tokens of a window; those of its second half are judged.
    pub window: u32,
    /// Positions judged.
    pub positions: u32,
    /// Perplexity of this arm.
    pub ppl: f64,
    /// Perplexity of the reference on the same tokens.
    pub ppl_reference: f64,
    /// Absent for the reference itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss>,
    /// The same of the reference against itself, perturbed by its own rounding: smaller differences
    /// mean nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<Loss>,
}

/// A figure of quality: its name, its unit, which direction is better, its value.
pub type Figure = (&'static str, &'static str, Better, f64);

impl Quality {
    /// Every figure, for rows that programs read.
    pub fn figures(&self) -> Vec<Figure> {
        use Better::{Higher, Lower};
        let mut figures = vec![("ppl", "1", Lower, self.ppl)];
        let Some(loss) = &self.loss else { return figures };
        let kl = &loss.kl;
        figures.extend([
            ("ln_ppl_ratio", "1", Lower, loss.ln_ppl_ratio),
            ("kl_mean", "nat", Lower, kl.mean),
            ("kl_median", "nat", Lower, kl.median),
            ("kl_p90", "nat", Lower, kl.p90),
            ("kl_p99", "nat", Lower, kl.p99),
            ("kl_p999", "nat", Lower, kl.p999),
            ("top1", "1", Higher, loss.top1),
            ("rms_delta_p", "1", Lower, loss.rms_delta_p),
        ]);
        figures
    }
}

/// The distance from the reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Loss {
    /// ln(PPL of this arm ÷ PPL of the reference), paired position by position.
    pub ln_ppl_ratio: f64,
    /// Its standard error over the windows; absent with one window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ln_ppl_ratio_se: Option<f64>,
    /// KL(reference ‖ arm) of the next token's distribution in nats, over positions.
    pub kl: Quantiles,
    /// Standard error of its mean over the windows; absent with one window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl_se: Option<f64>,
    /// The same mean by how sure the reference was.
    pub kl_by_confidence: Vec<Bucket>,
    /// Share of positions with the same most probable token, 0 to 1.
    pub top1: f64,
    /// Root of the mean square of the change in the probability of the token that follows.
    pub rms_delta_p: f64,
}

/// A distribution over positions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Quantiles {
    pub mean: f64,
    pub median: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
}

/// Positions at which the largest probability of the reference lies in a range.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Bucket {
    /// The range: from this probability on, up to that of the next bucket.
    pub from: f64,
    /// Positions in it.
    pub positions: u32,
    /// Mean divergence there in nats; absent without positions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
}
