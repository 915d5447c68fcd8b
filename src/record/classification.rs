//! What labels an encoder gives to labelled texts: what a record keeps of it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::FreeRunning;

/// The labels that one arm's engine gives to the texts of a file, each text once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Classification {
    /// Name of the file.
    pub data: String,
    /// sha256 of its bytes.
    pub data_sha256: String,
    /// Texts, and how many of them got the label that the file expects.
    #[serde(flatten)]
    pub right: FreeRunning,
    /// Their share.
    pub accuracy: f64,
    /// Wilson's 95 % interval of it.
    pub ci95: [f64; 2],
    /// The same counts for each category.
    pub categories: BTreeMap<String, FreeRunning>,
    /// The texts that got another label, in the order of the file.
    pub misses: Vec<Miss>,
}

/// A text with a label that the file does not expect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Miss {
    /// The text itself.
    pub text: String,
    /// Its category.
    pub category: String,
    /// The label in the file.
    pub expected: String,
    /// The label with the largest logit.
    pub found: String,
}
