//! Many requests, some of them at the same time: the message `serve`.

use serde::{Deserialize, Serialize};

/// Generate after many prompts as users send them. Each is a measured generation of its own: greedy,
/// `n` tokens, from an empty context.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Serve {
    pub id: u64,
    /// In the order in which they are sent.
    pub prompts: Vec<Vec<u32>>,
    /// Tokens to generate after each.
    pub n: Vec<u32>,
    pub arrivals: Arrivals,
    /// No request begins later than this, in nanoseconds from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_ns: Option<u64>,
}

/// When requests are sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    /// A closed loop: this many users, each of whom sends the next request when the last is
    /// answered.
    Users(u32),
    /// An open loop: at these times, in nanoseconds from the beginning, whatever has been answered.
    At(Vec<u64>),
}

/// Every request was answered, or failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Served {
    pub id: u64,
    pub t_begin_ns: u64,
    pub t_end_ns: u64,
    /// Those that were sent, in the order of the prompts.
    pub requests: Vec<ServedRequest>,
    /// Processor time that sending and receiving took, of all threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cpu_ns: Option<u64>,
}

/// One request. Times are nanoseconds from the beginning.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ServedRequest {
    /// When it was to be sent.
    pub due_ns: u64,
    /// When it was.
    pub sent_ns: u64,
    /// When each token was here; empty where it failed.
    pub token_ns: Vec<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<RequestError>,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestError {
    /// In one word, such as `timeout`.
    pub kind: String,
    pub message: String,
}
