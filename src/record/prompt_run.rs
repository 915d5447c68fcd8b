//! One request of a launch, or several of one kind: what it was for, its times, its tokens.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{LoadRun, is_zero};
use crate::metric::Values;
use crate::protocol::Profile;

/// One generation. Times are nanoseconds after the request was sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PromptRun {
    /// The prompt, by its id in the workload.
    pub id: String,
    /// What it was for.
    pub role: Role,
    /// Number within its role, from 0.
    pub iteration: u32,
    /// Tokens in.
    pub n_prompt: u32,
    /// Tokens asked for; absent for a request that generates none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub n_gen: u32,
    /// Positions that the context held before the prompt.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub depth: u32,
    /// Sequences that were generated together, each from a prompt of `n_prompt` tokens; absent for
    /// one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<u32>,
    /// The engine cannot hold a context and got it as a part of the prompt: its times up to the
    /// first token include the context.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub context_in_request: bool,
    /// When the engine had decoded the request, by its own clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begin_ns: Option<u64>,
    /// When the forward pass of the prompt was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefill_end_ns: Option<u64>,
    /// When the id of each token was on the host; in a batch, those of all sequences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub token_ns: Vec<u64>,
    /// How long each request took, where this stands for several of one kind: an encoder's, each
    /// from the ids on the host to the results on the host, or a tokenizer's, from texts to ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub request_ns: Vec<u64>,
    /// Tokens of all those requests together.
    #[serde(default, skip_serializing_if = "is_zero_u64")]
    pub request_tokens: u64,
    /// Bytes of their texts in UTF-8, where they were texts.
    #[serde(default, skip_serializing_if = "is_zero_u64")]
    pub request_text_bytes: u64,
    /// Compilation within this generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compile_ns: Option<u64>,
    /// First 16 hex digits of the sha256 of the ids of all sequences, where they can be seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_hash: Option<String>,
    /// The ids themselves, once per prompt and launch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Vec<u32>>,
    /// Those of the other sequences of a batch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_tokens: Vec<Vec<u32>>,
    /// The requests of a load, where this stands for one level of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<LoadRun>,
    /// Time of each stage, where it was profiled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// Metrics of this generation alone, where it was measured.
    #[serde(default)]
    pub metrics: Values,
}

impl PromptRun {
    /// A request of which nothing is known yet.
    pub fn new(role: Role) -> Self {
        Self {
            id: String::new(),
            role,
            iteration: 0,
            n_prompt: 0,
            n_gen: 0,
            depth: 0,
            batch: None,
            context_in_request: false,
            begin_ns: None,
            prefill_end_ns: None,
            token_ns: Vec::new(),
            request_ns: Vec::new(),
            request_tokens: 0,
            request_text_bytes: 0,
            compile_ns: None,
            tokens_hash: None,
            tokens: None,
            other_tokens: Vec::new(),
            load: None,
            profile: None,
            metrics: Values::new(),
        }
    }
}

/// What a generation was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The first of the process, nothing warmed up.
    Cold,
    /// Not measured.
    Warmup,
    Measured,
    /// With the time of each stage taken; not measured.
    Profiled,
}

fn is_zero_u64(n: &u64) -> bool {
    *n == 0
}
