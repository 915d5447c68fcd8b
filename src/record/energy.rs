//! Energy of a launch, as the result file states it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Energy over the measured windows of a launch: of a generation, first token to last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Energy {
    /// Which counters were added up: `RAPL package-0`, `NVML energy counter`.
    pub source: String,
    /// Joules in the windows together.
    pub joules: f64,
    /// Seconds of the windows together.
    pub seconds: f64,
    /// How often the counter was seen to move inside them.
    pub steps: u32,
    /// Time between two steps of the counter in seconds, as they were seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolution_s: Option<f64>,
    /// Joules of the measured requests together, from submit to last token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_joules: Option<f64>,
    /// Seconds of those requests together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_seconds: Option<f64>,
}
