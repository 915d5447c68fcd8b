//! The requests that every engine gets: prompts as token ids, made once in the harness, and how
//! many tokens to generate after each. Texts come from a prompt set, or ids from a seed.

mod cut;
pub mod labelled;
pub mod prompt_set;
pub mod shape;
pub mod text;
mod texts;

use sha2::{Digest, Sha256};

use crate::model::tokenizer::{Ids, Tokenizer};
use crate::record;
pub use labelled::{LabelledError, LabelledSet, LabelledText};
pub use prompt_set::{PromptSet, PromptSetError, PromptText};
pub use shape::Shape;
pub use text::QualityText;

/// One request: the same ids for every engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    pub id: String,
    pub category: Option<String>,
    /// What this prompt is meant to show.
    pub why: Option<String>,
    /// Tokens to generate; 0 for the texts of an encoder.
    pub n_gen: u32,
    /// Put into the cache before the prompt, unmeasured; empty for none.
    pub context: Vec<u32>,
    /// Begin-of-text first, where there is no context.
    pub ids: Vec<u32>,
    /// What else is generated beside it in a batch: see [`Workload::accompany`]. The further texts
    /// of an encoder.
    pub others: Vec<Vec<u32>>,
    /// What the ids of a pool of texts are made of, for tokenizers; empty for every other task,
    /// whose engines get ids.
    pub texts: Vec<String>,
}

impl Prompt {
    /// Positions that the context holds before the prompt.
    pub fn depth(&self) -> u32 {
        self.context.len() as u32
    }
}

/// All requests of a run, in order; the first one is the cold start's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Of the prompt set, or `random` for fixed shapes.
    pub name: String,
    pub prompts: Vec<Prompt>,
    /// Hex, of the ids and lengths: two runs with the same one did the same work.
    pub sha256: String,
}

/// Why a workload cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    #[error("prompt {id}: {reason}")]
    Tokenize { id: String, reason: String },
    #[error(
        "prompt {id}: {}{n_prompt} prompt tokens and {n_gen} to generate need {} positions, the \
         model has {context_length}. Use smaller {}`-p` and `-n`, or another prompt set",
        if *depth > 0 { format!("a context of {depth}, ") } else { String::new() },
        u64::from(*depth) + u64::from(*n_prompt) + u64::from(*n_gen),
        if *depth > 0 { "`-d`, " } else { "" },
    )]
    TooLong { id: String, depth: u32, n_prompt: u32, n_gen: u32, context_length: u32 },
    #[error("{0}")]
    Shape(String),
}

/// The first `n` ids of a fixed text, begin-of-text first: the shipped `standard` prompts one
/// after the other, repeated as needed. For teacher-forced comparisons.
pub fn fixed_text(tokenizer: &Tokenizer, n: usize) -> Result<Vec<u32>, WorkloadError> {
    let set = PromptSet::embedded("standard").map_err(|e| WorkloadError::Shape(e.to_string()))?;
    let texts: Vec<&str> = set.prompts.iter().map(|p| p.text.as_str()).collect();
    let ids = tokenizer
        .encode(&texts.join("\n\n"))
        .map_err(|e| WorkloadError::Tokenize { id: set.name.clone(), reason: e.to_string() })?;
    Ok(ids.into_iter().cycle().take(n).collect())
}

/// `n` random ids of the vocabulary, the same for a model at all times: what stands in for
/// [`fixed_text`] where nobody can split a text.
pub fn fixed_ids(ids: &Ids, n: usize) -> Result<Vec<u32>, WorkloadError> {
    let shape = Shape { n_prompt: n as u32, n_gen: 1, depth: 0 };
    let prompt = shape.prompt(&ids.normal, ids.bos, 0).map_err(WorkloadError::Shape)?;
    Ok(prompt.ids)
}

impl Workload {
    /// The texts of a set as the ids of a model. `n_gen` overrides the set's counts.
    pub fn from_set(
        set: &PromptSet,
        tokenizer: &Tokenizer,
        n_gen: Option<u32>,
    ) -> Result<Self, WorkloadError> {
        if n_gen == Some(0) {
            return Err(WorkloadError::Shape(shape::NO_TOKENS.into()));
        }
        let prompts = set.prompts.iter().map(|text| {
            let ids = tokenizer.encode(&text.text).map_err(|e| WorkloadError::Tokenize {
                id: text.id.clone(),
                reason: e.to_string(),
            })?;
            Ok(Prompt {
                id: text.id.clone(),
                category: Some(text.category.clone()),
                why: Some(text.why.clone()),
                n_gen: n_gen.unwrap_or(text.n_gen),
                context: Vec::new(),
                ids,
                others: Vec::new(),
                texts: Vec::new(),
            })
        });
        Ok(Self::new(&set.name, prompts.collect::<Result<_, WorkloadError>>()?))
    }

    /// Random ids of fixed lengths; see [`Shape`]. One that exceeds the model's context is
    /// refused before its ids are drawn.
    pub fn from_shapes(
        shapes: &[Shape],
        ids: &Ids,
        context_length: u32,
        seed: u64,
    ) -> Result<Self, WorkloadError> {
        for shape in shapes {
            fits(&shape.id(), *shape, context_length)?;
        }
        let prompts = shapes.iter().map(|s| s.prompt(&ids.normal, ids.bos, seed));
        let prompts = prompts.collect::<Result<_, _>>().map_err(WorkloadError::Shape)?;
        Ok(Self::new("random", prompts))
    }

    /// A workload of ready prompts.
    pub fn new(name: &str, prompts: Vec<Prompt>) -> Self {
        let mut sha = Sha256::new();
        for prompt in &prompts {
            sha.update((prompt.ids.len() as u32).to_le_bytes());
            sha.update(prompt.n_gen.to_le_bytes());
            for id in &prompt.ids {
                sha.update(id.to_le_bytes());
            }
            // Nothing for an empty context: the hash of a workload without depths stays the same.
            if !prompt.context.is_empty() {
                sha.update(b"context");
                sha.update(prompt.depth().to_le_bytes());
                prompt.context.iter().for_each(|id| sha.update(id.to_le_bytes()));
            }
            for other in &prompt.others {
                sha.update((other.len() as u32).to_le_bytes());
                other.iter().for_each(|id| sha.update(id.to_le_bytes()));
            }
            for text in &prompt.texts {
                sha.update(b"text");
                sha.update((text.len() as u64).to_le_bytes());
                sha.update(text);
            }
        }
        let sha256 = crate::digest::hex(&sha.finalize());
        Self { name: name.to_owned(), prompts, sha256 }
    }

    /// Gives each prompt `n` others of its length (with its context), for sequences that are
    /// generated beside it in a batch: random ids, other ones for each sequence, so that no work on
    /// one sequence can serve another. They follow from the prompt and the vocabulary alone, and so
    /// does what `sha256` says.
    pub fn accompany(&mut self, n: u32, normal: &[u32]) -> Result<(), WorkloadError> {
        for prompt in &mut self.prompts {
            prompt.others = shape::others(&prompt.context, &prompt.ids, n, normal)
                .map_err(WorkloadError::Shape)?;
        }
        Ok(())
    }

    /// Makes the hash that of this work done in this way.
    pub fn vary(&mut self, way: &str) {
        let mut sha = Sha256::new();
        sha.update(&self.sha256);
        sha.update(way);
        self.sha256 = crate::digest::hex(&sha.finalize());
    }

    /// Fails if a prompt and what follows it exceed the model's context.
    pub fn check_context(&self, context_length: u32) -> Result<(), WorkloadError> {
        for p in &self.prompts {
            let shape = Shape { n_prompt: p.ids.len() as u32, n_gen: p.n_gen, depth: p.depth() };
            fits(&p.id, shape, context_length)?;
        }
        Ok(())
    }

    /// Positions that the longest request needs.
    pub fn n_ctx(&self) -> u32 {
        let longest = |p: &Prompt| {
            let others = p.others.iter().map(Vec::len);
            others.fold(p.context.len() + p.ids.len(), usize::max) as u32 + p.n_gen
        };
        self.prompts.iter().map(longest).max().unwrap_or(0)
    }

    /// As the result file states it.
    pub fn record(&self) -> record::Workload {
        let prompts = self.prompts.iter().map(|p| record::WorkloadPrompt {
            id: p.id.clone(),
            category: p.category.clone(),
            n_prompt: p.ids.len() as u32,
            n_gen: p.n_gen,
            depth: p.depth(),
        });
        record::Workload {
            prompt_set: self.name.clone(),
            sha256: self.sha256.clone(),
            prompts: prompts.collect(),
        }
    }
}

fn fits(id: &str, shape: Shape, context_length: u32) -> Result<(), WorkloadError> {
    let Shape { n_prompt, n_gen, depth } = shape;
    let positions = u64::from(depth) + u64::from(n_prompt) + u64::from(n_gen);
    if positions <= u64::from(context_length) {
        return Ok(());
    }
    Err(WorkloadError::TooLong { id: id.to_owned(), depth, n_prompt, n_gen, context_length })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(id: &str, n_gen: u32, ids: &[u32]) -> Prompt {
        let (category, why, context) = (None, None, Vec::new());
        let (others, texts) = (Vec::new(), Vec::new());
        Prompt { id: id.into(), category, why, n_gen, context, ids: ids.into(), others, texts }
    }

    #[test]
    fn the_hash_is_of_ids_and_lengths_alone() {
        let base = Workload::new("a", vec![prompt("x", 8, &[1, 2, 3]), prompt("y", 8, &[1])]);
        let renamed = Workload::new("b", vec![prompt("p", 8, &[1, 2, 3]), prompt("q", 8, &[1])]);
        assert_eq!(base.sha256, renamed.sha256);
        for other in [
            vec![prompt("x", 9, &[1, 2, 3]), prompt("y", 8, &[1])],
            vec![prompt("x", 8, &[1, 2, 4]), prompt("y", 8, &[1])],
            vec![prompt("x", 8, &[1, 2]), prompt("y", 8, &[3, 1])],
            vec![prompt("y", 8, &[1]), prompt("x", 8, &[1, 2, 3])],
        ] {
            assert_ne!(base.sha256, Workload::new("a", other).sha256);
        }
    }

    #[test]
    fn a_request_longer_than_the_context_is_refused_with_its_numbers() {
        let workload = Workload::new("a", vec![prompt("x", 8, &[1; 10])]);
        assert!(workload.check_context(18).is_ok());
        assert_eq!(workload.n_ctx(), 18);
        let error = workload.check_context(17).unwrap_err().to_string();
        assert!(
            error.starts_with("prompt x: 10 prompt tokens and 8 to generate need 18"),
            "{error}"
        );
    }

    #[test]
    fn a_context_counts_among_the_positions_and_in_the_hash() {
        let deep = |context: &[u32]| {
            let prompt = Prompt { context: context.into(), ..prompt("x", 8, &[1; 10]) };
            Workload::new("a", vec![prompt])
        };
        assert_eq!((deep(&[3; 20]).n_ctx(), deep(&[3; 20]).record().prompts[0].depth), (38, 20));
        assert!(deep(&[3; 20]).check_context(38).is_ok());
        let error = deep(&[3; 20]).check_context(37).unwrap_err().to_string();
        let expected = "prompt x: a context of 20, 10 prompt tokens and 8 to generate need 38";
        assert!(error.starts_with(expected) && error.contains("`-d`"), "{error}");
        assert_ne!(deep(&[3; 20]).sha256, deep(&[]).sha256);
        assert_ne!(deep(&[3; 20]).sha256, deep(&[4; 20]).sha256);
    }

    #[test]
    fn the_result_file_gets_lengths_not_ids() {
        let record = Workload::new("a", vec![prompt("x", 8, &[1; 10])]).record();
        assert_eq!((record.prompts[0].n_prompt, record.prompts[0].n_gen), (10, 8));
    }
}
