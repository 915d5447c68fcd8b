//! The golden values of the shipped tiny model: greedy continuations and teacher-forced logits,
//! computed in PyTorch float32 by `scripts/train_tiny.py --golden`. Every engine must match them.

use anyhow::{Context, Result};
use serde::Deserialize;

/// The context that the golden values were computed with.
pub const N_CTX: u32 = 512;

const JSON: &str = include_str!("../../models/tiny.golden.json");

/// A prompt and its greedy continuation.
#[derive(Debug, Clone, Deserialize)]
pub struct Case {
    pub id: String,
    #[serde(rename = "prompt_ids")]
    pub prompt: Vec<u32>,
    #[serde(rename = "ids")]
    pub tokens: Vec<u32>,
}

/// Teacher-forced ids and the model's output at some positions.
#[derive(Debug, Clone, Deserialize)]
pub struct Scored {
    pub ids: Vec<u32>,
    pub positions: Vec<At>,
}

/// The logits after one position has been read.
#[derive(Debug, Clone, Deserialize)]
pub struct At {
    pub position: u32,
    pub argmax: u32,
    /// The first few logits of the row.
    pub logits: Vec<f32>,
}

#[derive(Deserialize)]
struct Golden {
    sha256: String,
    generations: Vec<Case>,
    score: Scored,
}

fn golden() -> Result<Golden> {
    serde_json::from_str(JSON).context("models/tiny.golden.json")
}

/// Greedy continuations.
pub fn cases() -> Result<Vec<Case>> {
    Ok(golden()?.generations)
}

/// Teacher-forced logits over the whole context.
pub fn scored() -> Result<Scored> {
    Ok(golden()?.score)
}

/// sha256 of the file that the values belong to, in hex.
pub fn sha256() -> Result<String> {
    Ok(golden()?.sha256)
}
