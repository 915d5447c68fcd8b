//! The token loop of every engine in this crate. It runs measured generations, and those that
//! somebody reads while they are produced: streamed, sampled, stopped, on top of the cache's
//! contents.

use std::collections::BTreeMap;

use llm_bench_protocol::{EngineError, ErrorKind, Generate, Profile};
use llm_bench_units::MonoNs;

use crate::batch::Together;
use crate::math::{all_finite, argmax};
use crate::sampling::Sampler;
use crate::spans::{Spans, Stage};
use crate::{check_tokens, internal};

/// The parts of an engine that the loop drives.
pub trait Decoder {
    /// Positions of the cache, and entries of the vocabulary.
    fn shape(&self) -> (usize, usize);

    /// The most tokens that `forward` accepts at once.
    fn batch(&self) -> usize;

    /// The tokens whose keys and values the cache holds, from position 0. Stays empty in an engine
    /// that cannot go back to a prefix of them.
    fn held(&mut self) -> &mut Vec<u32>;

    /// Runs tokens at positions `first..`, overwriting what the cache held from there on.
    fn forward(&mut self, tokens: &[u32], first: usize) -> Result<(), EngineError>;

    /// Computes the logits of the last token of the latest `forward`.
    fn head(&mut self) -> Result<(), EngineError>;

    /// The result of `head`: `[n_vocab]`.
    fn logits(&mut self) -> Result<&[f32], EngineError>;

    /// The likeliest token of `head`, and whether every logit is a finite number, from an engine that
    /// chooses where it computes; others leave it to `logits`.
    fn choice(&mut self) -> Result<Option<(u32, bool)>, EngineError> {
        Ok(None)
    }

    /// Says that `choice` will be asked for next, and its token run at `position`, so that an engine
    /// may start with that while the choice is on its way to the host.
    fn will_continue(&mut self, position: usize) -> Result<(), EngineError> {
        let _ = position;
        Ok(())
    }

    /// The engine's side of generating several sequences together; `None` if it cannot.
    fn together(&mut self) -> Option<&mut dyn Together> {
        None
    }

    /// The clock of the model's stages; `None` if the engine cannot profile itself.
    fn spans(&mut self) -> Option<&mut Spans> {
        None
    }

    /// Bytes of weights that one decode step reads, by stage; empty if unknown.
    fn weight_bytes_by_stage(&self) -> BTreeMap<String, u64> {
        BTreeMap::new()
    }

    /// Why the logits are no finite numbers, after `tokens` ran at positions `first`..; runs them
    /// again if it must.
    fn why_not_finite(&mut self, tokens: &[u32], first: usize) -> EngineError {
        let at = first + tokens.len() - 1;
        EngineError::new(
            ErrorKind::BadModel,
            format!("the logits of position {at} are not finite numbers"),
        )
    }

    /// Prolongs the step that began at `begin`, if the engine was asked to.
    fn slow_down(&self, begin: MonoNs) {
        let _ = begin;
    }
}

/// The reader of a generation.
pub trait Reader {
    /// Called for each token as soon as it exists.
    fn token(&mut self, token: u32, at: MonoNs) -> std::io::Result<()>;

    /// Whether the reader no longer wants the rest.
    fn cancelled(&self) -> bool;
}

/// A measured generation, which nobody reads before its end.
pub struct Nobody;

impl Reader for Nobody {
    fn token(&mut self, _: u32, _: MonoNs) -> std::io::Result<()> {
        Ok(())
    }

    fn cancelled(&self) -> bool {
        false
    }
}

/// The tokens of one generation, and when each was on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    pub tokens: Vec<u32>,
    pub prefill_end: MonoNs,
    pub at: Vec<MonoNs>,
    /// Positions of the prompt that were already in the cache.
    pub reused: u32,
    /// Where the time went, if requested and supported.
    pub profile: Option<Profile>,
}

/// Generates what the request asks for, after the `request.depth` positions that the cache holds. A
/// cancelled generation has the tokens so far.
pub fn generate(
    decoder: &mut dyn Decoder,
    request: &Generate,
    reader: &mut dyn Reader,
) -> Result<Generation, EngineError> {
    let (n, depth) = (request.n as usize, request.depth as usize);
    let (n_ctx, n_vocab) = decoder.shape();
    let held = decoder.held();
    if depth > 0 && depth != held.len() {
        let held = held.len();
        return Err(internal(format!("depth {depth}: the context holds {held} positions")));
    }
    check_tokens(&request.prompt, n, n_ctx - depth, n_vocab)?;
    let mut sampler = request.sampling.map(Sampler::new).transpose()?;
    let reused = if request.reuse { shared_prefix(held, &request.prompt) } else { 0 };
    held.truncate(depth + reused);
    held.reserve(request.prompt.len() + n);
    let (mut tokens, mut at) = (Vec::with_capacity(n), Vec::with_capacity(n));
    let mut profile = None;
    if let Some(spans) = decoder.spans() {
        spans.begin(request.profile);
        profile = request.profile.then(Profile::default);
    }

    let mut last = MonoNs::now();
    let mut position = prefill(decoder, &request.prompt[reused..], depth + reused, reader)?;
    if position == depth + request.prompt.len() {
        decoder.head()?;
        decoder.slow_down(last);
    }
    last = MonoNs::now();
    let prefill_end = last;
    while tokens.len() < n && !reader.cancelled() {
        if let Some(&token) = tokens.last() {
            decoder.forward(&[token], position)?;
            decoder.held().push(token);
            decoder.head()?;
            position += 1;
        }
        if let Some(spans) = decoder.spans() {
            spans.resume();
        }
        let step = tokens.len() as u64;
        if sampler.is_none() && tokens.len() + 1 < n && request.stop.is_empty() {
            decoder.will_continue(position)?;
        }
        let (token, finite) = pick(decoder, sampler.as_mut(), step)?;
        if !finite {
            return Err(why_not_finite(decoder, request, &tokens, depth));
        }
        if let Some(spans) = decoder.spans() {
            spans.end(Stage::Sampling);
            if let Some(profile) = profile.as_mut().filter(|_| step == 0) {
                profile.prefill_ns = spans.take();
            }
        }
        decoder.slow_down(last);
        last = MonoNs::now();
        tokens.push(token);
        at.push(last);
        if request.stream {
            reader
                .token(token, last)
                .map_err(|e| internal(format!("cannot hand over a token: {e}")))?;
        }
        if request.stop.contains(&token) {
            break;
        }
    }
    if let (Some(profile), Some(spans)) = (&mut profile, decoder.spans()) {
        profile.decode_ns = spans.take();
        spans.begin(false);
        profile.decode_weight_bytes = decoder.weight_bytes_by_stage();
    }
    if request.is_greedy_only() {
        // The next generation builds on the same context, or on none.
        decoder.held().truncate(depth);
    }
    Ok(Generation { tokens, prefill_end, at, reused: reused as u32, profile })
}

/// The token of a step, and whether the logits are finite numbers: all of the first step's, later the
/// one that counts, which is NaN with them where the model itself went wrong.
fn pick(
    decoder: &mut dyn Decoder,
    sampler: Option<&mut Sampler>,
    step: u64,
) -> Result<(u32, bool), EngineError> {
    if sampler.is_none()
        && let Some(choice) = decoder.choice()?
    {
        return Ok(choice);
    }
    let logits = decoder.logits()?;
    Ok(match sampler {
        _ if step == 0 && !all_finite(logits) => (0, false),
        Some(_) if !all_finite(logits) => (0, false),
        Some(sampler) => (sampler.draw(logits, step), true),
        None => {
            let best = argmax(logits);
            (best as u32, logits.get(best).is_some_and(|x| x.is_finite()))
        }
    })
}

/// The fault behind logits that are no finite numbers, found by running the last tokens again.
fn why_not_finite(
    decoder: &mut dyn Decoder,
    request: &Generate,
    generated: &[u32],
    depth: usize,
) -> EngineError {
    let prompt = request.prompt.len();
    let (last, first) = match generated.last() {
        Some(token) => (std::slice::from_ref(token), depth + prompt + generated.len() - 1),
        None => {
            let batch = decoder.batch().min(prompt);
            (&request.prompt[prompt - batch..], depth + prompt - batch)
        }
    };
    let why = decoder.why_not_finite(last, first);
    decoder.held().clear();
    why
}

/// Runs `tokens` at positions `first..` in batches. Returns the position after the last one that
/// ran, because a cancelled prompt ends early.
pub fn prefill(
    decoder: &mut dyn Decoder,
    tokens: &[u32],
    first: usize,
    reader: &dyn Reader,
) -> Result<usize, EngineError> {
    let mut position = first;
    for batch in tokens.chunks(decoder.batch()) {
        if reader.cancelled() {
            break;
        }
        decoder.forward(batch, position)?;
        decoder.held().extend(batch);
        position += batch.len();
    }
    Ok(position)
}

/// How much of `prompt` the cache holds. The last token always runs again, because its logits are
/// needed.
fn shared_prefix(held: &[u32], prompt: &[u32]) -> usize {
    let same = held.iter().zip(prompt).take_while(|(a, b)| a == b).count();
    same.min(prompt.len().saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_bench_protocol::Sampling;

    /// Predicts the sum of all previous tokens, and counts the rows that it runs.
    struct Sums {
        held: Vec<u32>,
        cache: Vec<u32>,
        forwarded: usize,
        logits: Vec<f32>,
    }

    impl Sums {
        fn new() -> Self {
            Self { held: Vec::new(), cache: Vec::new(), forwarded: 0, logits: vec![0.0; 10] }
        }
    }

    impl Decoder for Sums {
        fn shape(&self) -> (usize, usize) {
            (64, 10)
        }
        fn batch(&self) -> usize {
            4
        }
        fn held(&mut self) -> &mut Vec<u32> {
            &mut self.held
        }
        fn forward(&mut self, tokens: &[u32], first: usize) -> Result<(), EngineError> {
            assert!(first <= self.cache.len(), "a hole in the cache");
            self.cache.truncate(first);
            self.cache.extend(tokens);
            self.forwarded += tokens.len();
            Ok(())
        }
        fn head(&mut self) -> Result<(), EngineError> {
            let next = (self.cache.iter().sum::<u32>() + 1) as usize % 10;
            self.logits = (0..10).map(|i| if i == next { 9.0 } else { 0.0 }).collect();
            Ok(())
        }
        fn logits(&mut self) -> Result<&[f32], EngineError> {
            Ok(&self.logits)
        }
    }

    #[derive(Default)]
    struct Seen {
        tokens: Vec<u32>,
        cancel_after: Option<usize>,
    }

    impl Reader for Seen {
        fn token(&mut self, token: u32, _: MonoNs) -> std::io::Result<()> {
            self.tokens.push(token);
            Ok(())
        }
        fn cancelled(&self) -> bool {
            self.cancel_after.is_some_and(|n| self.tokens.len() >= n)
        }
    }

    fn ask(sums: &mut Sums, request: &Generate) -> Generation {
        generate(sums, request, &mut Seen::default()).unwrap()
    }

    #[test]
    fn reuse_runs_only_what_is_new_and_changes_no_token() {
        let mut warm = Sums::new();
        let mut prompt = vec![1, 2, 3, 4, 5];
        for turn in 0..4 {
            let request = Generate { reuse: true, ..Generate::greedy(1, prompt.clone(), 3) };
            let before = warm.forwarded;
            let got = ask(&mut warm, &request);
            let cold = ask(&mut Sums::new(), &Generate::greedy(1, prompt.clone(), 3));
            assert_eq!(got.tokens, cold.tokens);
            let new = prompt.len() - got.reused as usize + 2;
            assert_eq!(warm.forwarded - before, new);
            // Two of three generated tokens were fed back.
            assert_eq!(got.reused as usize, if turn == 0 { 0 } else { prompt.len() - 3 });
            prompt.extend(got.tokens);
            prompt.extend([7, 7]);
        }
        // Another prompt goes back to where the two diverge; the same one runs its last token.
        let other = Generate { reuse: true, ..Generate::greedy(1, vec![1, 2, 9], 2) };
        assert_eq!(ask(&mut warm, &other).reused, 2);
        let cold = ask(&mut Sums::new(), &Generate::greedy(1, vec![1, 2, 9], 2));
        let again = ask(&mut warm, &other);
        assert_eq!((again.reused, again.tokens), (2, cold.tokens));
    }

    #[test]
    fn a_stop_id_is_the_last_token() {
        let free = ask(&mut Sums::new(), &Generate::greedy(1, vec![1], 6)).tokens;
        let request = Generate { stop: vec![free[2], 99], ..Generate::greedy(1, vec![1], 6) };
        let first = free.iter().position(|t| *t == free[2]).unwrap();
        assert_eq!(ask(&mut Sums::new(), &request).tokens, free[..=first]);
    }

    #[test]
    fn a_stream_is_the_final_list_and_ends_where_it_is_cancelled() {
        let request = Generate { stream: true, ..Generate::greedy(1, vec![1, 2], 8) };
        let mut seen = Seen::default();
        let whole = generate(&mut Sums::new(), &request, &mut seen).unwrap();
        assert_eq!(seen.tokens, whole.tokens);
        let mut seen = Seen { cancel_after: Some(3), ..Seen::default() };
        let cut = generate(&mut Sums::new(), &request, &mut seen).unwrap();
        assert_eq!(cut.tokens, whole.tokens[..3]);
        let mut gone = Seen { cancel_after: Some(0), ..Seen::default() };
        let mut sums = Sums::new();
        assert!(generate(&mut sums, &request, &mut gone).unwrap().tokens.is_empty());
        assert_eq!(sums.forwarded, 0);
    }

    #[test]
    fn a_sampler_that_cannot_be_is_refused_before_anything_runs() {
        let sampling = Some(Sampling { temperature: -1.0, top_p: 1.0, seed: 0 });
        let request = Generate { sampling, ..Generate::greedy(1, vec![1], 2) };
        let mut sums = Sums::new();
        let refused = generate(&mut sums, &request, &mut Seen::default()).unwrap_err();
        assert!(refused.message.contains("temperature -1"), "{refused}");
        assert_eq!(sums.forwarded, 0);
    }
}
