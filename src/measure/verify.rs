//! Asks an engine for its teacher-forced logits and its greedy text, in a process of its own.
//! What the logits say is `analysis`'s business.

use std::path::{Path, PathBuf};

use crate::device::Device;
use crate::engine::provision::Installed;
use crate::engine::{Deadlines, EngineProcess, EngineSpec, Failure};
use crate::protocol::{Feature, Generate, Load, Precision, Score};
use crate::record::{FailureKind, LaunchError};

/// What every engine is asked.
#[derive(Debug, Clone)]
pub struct Question {
    pub model: PathBuf,
    pub n_vocab: u32,
    pub device: Device,
    pub threads: u32,
    /// Teacher-forced: position i gives the logits after `tokens[..=i]`.
    pub tokens: Vec<u32>,
    /// Positions from here on go through the model one by one.
    pub decode_from: u32,
    /// Greedy text after the first `free_prompt` tokens.
    pub free_prompt: u32,
    pub free_tokens: u32,
    pub deadlines: Deadlines,
}

/// What an engine answered.
#[derive(Debug, Clone)]
pub struct Answer {
    pub precision: Precision,
    /// Rows in the file of logits.
    pub positions: u32,
    pub decoded: u32,
    /// The greedy text.
    pub text: Vec<u32>,
}

impl Question {
    /// Positions that the engine must hold.
    pub fn n_ctx(&self) -> u32 {
        (self.tokens.len() as u32).max(self.free_prompt + self.free_tokens)
    }
}

/// Runs one engine; the logits `[positions, n_vocab]`, f32, go to the file `logits`.
pub fn ask(
    engine: &EngineSpec,
    installed: &Installed,
    question: &Question,
    logits: &Path,
) -> Result<Answer, Failure> {
    let q = question;
    let mut process = EngineProcess::spawn(installed.command(q.threads), q.threads, q.deadlines)?;
    let hello = process.hello()?;
    let ready = process.ready(&hello)?;
    if !ready.value.features.contains(&Feature::Score) {
        let message = "it does not name `score` among its features";
        return Err(refused("ready", message.into()));
    }
    let loaded = process.load(Load {
        path: q.model.to_string_lossy().into_owned(),
        device: q.device.to_string(),
        threads: q.threads,
        n_ctx: q.n_ctx(),
        options: engine.options.clone(),
    })?;
    let scored = process.score(Score {
        id: 1,
        tokens: q.tokens.clone(),
        logits_path: logits.to_string_lossy().into_owned(),
        first: 0,
        decode_from: Some(q.decode_from),
    })?;
    let text = match q.free_tokens {
        0 => Vec::new(),
        n => {
            let prompt = q.tokens[..q.free_prompt as usize].to_vec();
            let request = Generate::greedy(2, prompt, n);
            process.generate(request, q.n_vocab)?.value.tokens
        }
    };
    process.bye()?;
    let scored = scored.value;
    let expected = q.tokens.len() as u64 * u64::from(q.n_vocab) * 4;
    let found = logits.metadata().map_or(0, |m| m.len());
    if scored.positions as usize != q.tokens.len() || scored.vocab != q.n_vocab || found != expected
    {
        return Err(refused(
            "score",
            format!(
                "expected {} rows of {} logits ({expected} bytes), found {} rows of {} ({found} \
                 bytes)",
                q.tokens.len(),
                q.n_vocab,
                scored.positions,
                scored.vocab
            ),
        ));
    }
    Ok(Answer {
        precision: loaded.value.precision,
        positions: scored.positions,
        decoded: scored.decoded,
        text,
    })
}

fn refused(phase: &str, message: String) -> Failure {
    let (kind, phase) = (FailureKind::Protocol, phase.into());
    Failure::Engine(LaunchError { kind, phase, message, stderr_tail: None })
}
