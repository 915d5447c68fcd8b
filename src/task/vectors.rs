//! Vectors and hidden states of texts, written to files: the task behind `verify` of encoders.
//! `analysis::vectors` judges them.

use std::path::{Path, PathBuf};

use super::{Measured, Notes, Running, Task, converse};
use crate::device::Device;
use crate::engine::provision::Installed;
use crate::engine::{Deadlines, Engine, EngineSpec, Failure};
use crate::protocol::{Encode, Feature, Load, Precision};
use crate::record::{FailureKind, Launch};

/// The request to every engine.
#[derive(Debug, Clone)]
pub struct Question {
    pub model: PathBuf,
    pub device: Device,
    pub threads: u32,
    /// One batch.
    pub texts: Vec<Vec<u32>>,
    /// Values of a hidden state, and layers.
    pub n_embd: u32,
    pub n_layers: u32,
    /// Whether hidden states are asked for too.
    pub hidden: bool,
    pub deadlines: Deadlines,
}

/// An engine's answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub precision: Precision,
    /// Values of each text's row in the file.
    pub columns: u32,
    /// Whether hidden states lie beside it.
    pub hidden: bool,
}

impl Question {
    /// Tokens of the longest text.
    pub fn n_ctx(&self) -> u32 {
        self.texts.iter().map(Vec::len).max().unwrap_or(0) as u32
    }

    /// Tokens of all texts.
    pub fn tokens(&self) -> usize {
        self.texts.iter().map(Vec::len).sum()
    }
}

/// Where the hidden states go that belong to a file of vectors.
pub fn hidden_beside(vectors: &Path) -> PathBuf {
    vectors.with_extension("hidden")
}

struct Encoding<'a> {
    question: &'a Question,
    vectors: &'a Path,
}

impl Task for Encoding<'_> {
    type Answer = Answer;

    fn needs(&self) -> &[Feature] {
        &[Feature::Encode]
    }

    fn script(&self, launch: &mut Running<'_>) -> Result<Answer, Failure> {
        let q = self.question;
        let hidden = hidden_beside(self.vectors);
        let request = Encode {
            id: launch.engine.next_id(),
            texts: q.texts.clone(),
            vectors_path: Some(super::absolute(self.vectors)),
            hidden_path: q.hidden.then(|| super::absolute(&hidden)),
        };
        let encoded = launch.engine.encode(request)?.value;
        let values = q.texts.len() as u64 * u64::from(encoded.columns);
        expect(launch.engine, self.vectors, "vectors", values)?;
        if q.hidden {
            let values = (u64::from(q.n_layers) + 1) * q.tokens() as u64 * u64::from(q.n_embd);
            expect(launch.engine, &hidden, "hidden states", values)?;
        }
        let precision = launch.loaded.precision.clone();
        Ok(Answer { precision, columns: encoded.columns, hidden: q.hidden })
    }

    /// The task has no metrics: the launch does not judge the vectors.
    fn metrics(&self, _: &mut Measured<'_>) {}
}

/// Fails unless the file has so many f32.
fn expect(engine: &mut Engine, file: &Path, what: &str, values: u64) -> Result<(), Failure> {
    let found = file.metadata().map_or(0, |m| m.len());
    if found == 4 * values {
        return Ok(());
    }
    let message = format!("expected {} bytes of {what}, found {found}", 4 * values);
    Err(engine.fail(FailureKind::Protocol, message))
}

/// Runs one engine; its vectors go to the file `vectors`, hidden states beside it. An engine that
/// cannot show hidden states is asked again, for vectors alone.
pub fn ask(
    engine: &EngineSpec,
    installed: &Installed,
    question: &Question,
    vectors: &Path,
) -> Result<Answer, Failure> {
    match once(engine, installed, question, vectors) {
        Err(Failure::Engine(e)) if e.kind == FailureKind::Unsupported && question.hidden => {
            let alone = Question { hidden: false, ..question.clone() };
            once(engine, installed, &alone, vectors)
        }
        answer => answer,
    }
}

fn once(
    engine: &EngineSpec,
    installed: &Installed,
    question: &Question,
    vectors: &Path,
) -> Result<Answer, Failure> {
    let q = question;
    let load = Load {
        path: q.model.to_string_lossy().into_owned(),
        device: q.device.to_string(),
        threads: q.threads,
        n_ctx: q.n_ctx(),
        batch: q.texts.len() as u32,
        options: engine.options.clone(),
    };
    let open = |load: &Load| Engine::open(installed, load, q.deadlines);
    // Only the answer of the launch is kept.
    let mut notes = Notes::new(Launch::new((0, 0), String::new()));
    converse(&Encoding { question, vectors }, open, load, &mut notes)
}
