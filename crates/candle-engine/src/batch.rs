//! The token loop of a batch: several sequences of equal length are prefilled and decoded together,
//! greedily. What `generate` does for one sequence.

use llm_bench_protocol::{EngineError, ErrorKind, Generate, Profile};
use llm_bench_units::MonoNs;

use crate::generate::Decoder;
use crate::{check_tokens, internal};

/// The part of an engine that the loop drives. Sequences are numbered from 0.
pub trait Together {
    /// Sequences that the cache has room for; all of them run.
    fn sequences(&self) -> usize;

    /// Runs one prompt for each sequence from position 0 on, and chooses the token after each.
    fn prefill(&mut self, prompts: &[&[u32]]) -> Result<Vec<Choice>, EngineError>;

    /// Runs one token of each sequence at `position`, and chooses the next ones.
    fn step(&mut self, tokens: &[u32], position: usize) -> Result<Vec<Choice>, EngineError>;

    /// The logits from which the latest token of a sequence was chosen: `[n_vocab]`.
    fn logits(&self, sequence: usize) -> &[f32];
}

/// The likeliest token of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    pub token: u32,
    /// Whether its logit is a finite number.
    pub finite: bool,
}

/// The tokens of all sequences, and when each step's were on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Generations {
    /// `[sequence][step]`.
    pub tokens: Vec<Vec<u32>>,
    pub prefill_end: MonoNs,
    pub at: Vec<MonoNs>,
    pub profile: Option<Profile>,
}

/// Generates what a request for several sequences asks for.
pub fn generate(decoder: &mut dyn Decoder, request: &Generate) -> Result<Generations, EngineError> {
    if request.depth > 0 || !request.is_greedy_only() {
        return Err(internal("a batch is for measured generations without `depth`"));
    }
    let n = request.n as usize;
    let (n_ctx, n_vocab) = decoder.shape();
    let all = std::iter::once(&request.prompt).chain(&request.others);
    let prompts: Vec<&[u32]> = all.map(Vec::as_slice).collect();
    let length = request.prompt.len();
    for prompt in &prompts {
        check_tokens(prompt, n, n_ctx, n_vocab)?;
        if prompt.len() != length {
            let found = prompt.len();
            return Err(internal(format!("prompts of {length} and {found} tokens in one batch")));
        }
    }
    decoder.held().clear();
    let mut profile = None;
    if let Some(spans) = decoder.spans() {
        spans.begin(request.profile);
        profile = request.profile.then(Profile::default);
    }
    let together = decoder.together().ok_or_else(|| {
        let message = "this engine has no feature `batch` here: expected a batch of 1";
        EngineError::new(ErrorKind::Unsupported, message)
    })?;
    let room = together.sequences();
    if prompts.len() != request.batch as usize || prompts.len() != room {
        let (batch, found) = (request.batch, prompts.len());
        return Err(internal(format!(
            "a batch of {batch} with {found} prompts: the model was loaded for {room} sequences"
        )));
    }

    let (mut tokens, mut at) = (vec![Vec::with_capacity(n); room], Vec::with_capacity(n));
    let mut last = MonoNs::now();
    let mut choices = together.prefill(&prompts)?;
    decoder.slow_down(last);
    let prefill_end = MonoNs::now();
    last = prefill_end;
    for step in 0..n {
        if step > 0 {
            let fed: Vec<u32> = choices.iter().map(|choice| choice.token).collect();
            choices = again(decoder)?.step(&fed, length + step - 1)?;
        }
        if let Some(bad) = choices.iter().position(|choice| !choice.finite) {
            let position = length + step - 1;
            return Err(EngineError::new(
                ErrorKind::BadModel,
                format!(
                    "the logits of sequence {bad} at position {position} are not finite numbers; a \
                     batch of 1 says why"
                ),
            ));
        }
        if let (0, Some(profile), Some(spans)) = (step, &mut profile, decoder.spans()) {
            profile.prefill_ns = spans.take();
        }
        decoder.slow_down(last);
        last = MonoNs::now();
        at.push(last);
        tokens.iter_mut().zip(&choices).for_each(|(tokens, choice)| tokens.push(choice.token));
    }
    if let (Some(profile), Some(spans)) = (&mut profile, decoder.spans()) {
        profile.decode_ns = spans.take();
        spans.begin(false);
        profile.decode_weight_bytes = decoder.weight_bytes_by_stage();
    }
    Ok(Generations { tokens, prefill_end, at, profile })
}

fn again(decoder: &mut dyn Decoder) -> Result<&mut dyn Together, EngineError> {
    decoder.together().ok_or_else(|| internal("no model is loaded"))
}
