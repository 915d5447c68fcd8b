//! A load on a server as a record holds it: what was asked for, and every request.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The requests of one level of load. Times are nanoseconds from the beginning of the load.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LoadRun {
    /// Users of a closed loop, each of whom waits for the answer before the next request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<u32>,
    /// Requests a second of an open loop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_per_s: Option<f64>,
    /// From where to where requests count: before it the load rises, after it falls.
    pub window_ns: [u64; 2],
    /// Share of the machine's processors that the client used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cpu_share: Option<f64>,
    pub requests: Vec<LoadRequest>,
}

/// One request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LoadRequest {
    /// When it was to be sent; its times count from here.
    pub due_ns: u64,
    /// When it was sent.
    pub sent_ns: u64,
    /// Tokens of its prompt.
    pub n_prompt: u32,
    /// When its first token was here; absent where it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_ns: Option<u64>,
    /// The gaps between its tokens, in microseconds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps_us: Vec<u32>,
    /// Why it failed, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl LoadRequest {
    /// Tokens that came.
    pub fn tokens(&self) -> usize {
        self.first_ns.map_or(0, |_| 1 + self.gaps_us.len())
    }

    /// When its last token was here.
    pub fn last_ns(&self) -> Option<u64> {
        let gaps: u64 = self.gaps_us.iter().map(|us| u64::from(*us) * 1000).sum();
        Some(self.first_ns? + gaps)
    }
}
