//! Teacher-forced logits and greedy text: the task behind `verify`. `analysis` judges the logits.

use std::path::{Path, PathBuf};

use super::{Measured, Notes, Running, Task, converse};
use crate::device::Device;
use crate::engine::provision::Installed;
use crate::engine::{Deadlines, Engine, EngineSpec, Failure, Stamped};
use crate::protocol::{Feature, Generate, Load, Precision, Reply, Request, Score, Scored};
use crate::record::{FailureKind, Launch};

/// The request to every engine.
#[derive(Debug, Clone)]
pub struct Question {
    pub model: PathBuf,
    pub n_vocab: u32,
    pub device: Device,
    pub threads: u32,
    /// Teacher-forced: position i gives the logits after `tokens[..=i]`.
    pub tokens: Vec<u32>,
    /// From this position on, tokens go through the model one by one.
    pub decode_from: u32,
    /// The greedy text continues the first `free_prompt` tokens.
    pub free_prompt: u32,
    pub free_tokens: u32,
    pub deadlines: Deadlines,
}

/// An engine's answer.
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
    /// Positions that the engine must be able to hold.
    pub fn n_ctx(&self) -> u32 {
        (self.tokens.len() as u32).max(self.free_prompt + self.free_tokens)
    }
}

/// Writes teacher-forced logits `[positions, n_vocab]`, f32, to a file; then asks for the greedy
/// text.
struct Scoring<'a> {
    question: &'a Question,
    logits: &'a Path,
}

impl Task for Scoring<'_> {
    type Answer = Answer;

    fn needs(&self) -> &[Feature] {
        &[Feature::Score]
    }

    fn script(&self, launch: &mut Running<'_>) -> Result<Answer, Failure> {
        let q = self.question;
        let request = Score {
            id: launch.engine.next_id(),
            tokens: q.tokens.clone(),
            logits_path: super::absolute(self.logits),
            first: 0,
            decode_from: Some(q.decode_from),
        };
        let scored = self.score(launch.engine, request)?;
        let text = match q.free_tokens {
            0 => Vec::new(),
            n => {
                let prompt = q.tokens[..q.free_prompt as usize].to_vec();
                let request = Generate::greedy(launch.engine.next_id(), prompt, n);
                launch.engine.generate(request, Some(q.n_vocab))?.value.tokens
            }
        };
        Ok(Answer {
            precision: launch.loaded.precision.clone(),
            positions: scored.positions,
            decoded: scored.decoded,
            text,
        })
    }

    /// The task has no metrics: the launch does not judge the logits.
    fn metrics(&self, _: &mut Measured<'_>) {}
}

impl Scoring<'_> {
    /// Sends the request and checks that the file has one row of logits per position.
    fn score(&self, engine: &mut Engine, request: Score) -> Result<Scored, Failure> {
        let q = self.question;
        let scored = engine.score(request)?.value;
        let Scored { positions, vocab, .. } = scored;
        let expected = q.tokens.len() as u64 * u64::from(q.n_vocab) * 4;
        let found = self.logits.metadata().map_or(0, |m| m.len());
        if positions as usize != q.tokens.len() || vocab != q.n_vocab || found != expected {
            let message = format!(
                "expected {} rows of {} logits ({expected} bytes), found {positions} rows of \
                 {vocab} ({found} bytes)",
                q.tokens.len(),
                q.n_vocab,
            );
            return Err(engine.fail(FailureKind::Protocol, message));
        }
        Ok(scored)
    }
}

impl Engine {
    pub fn score(&mut self, request: Score) -> Result<Stamped<Scored>, Failure> {
        self.ask("score", Request::Score(request), self.limit(), |r| match r {
            Reply::Scored(s) => Ok(s),
            other => Err(Box::new(other)),
        })
    }
}

/// Runs one engine; its logits go to the file `logits`.
pub fn ask(
    engine: &EngineSpec,
    installed: &Installed,
    question: &Question,
    logits: &Path,
) -> Result<Answer, Failure> {
    let q = question;
    let load = Load {
        path: q.model.to_string_lossy().into_owned(),
        device: q.device.to_string(),
        threads: q.threads,
        n_ctx: q.n_ctx(),
        batch: 1,
        options: engine.options.clone(),
    };
    let open = |load: &Load| Engine::open(installed, load, q.deadlines);
    // Only the answer of the launch is kept.
    let mut notes = Notes::new(Launch::new((0, 0), String::new()));
    converse(&Scoring { question, logits }, open, load, &mut notes)
}
