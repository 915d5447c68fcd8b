//! A generation that someone reads while it comes: streamed, sampled, stopped, on top of what
//! the cache holds. Measured generations do not pass here; they are `Engine::generate`.

use llm_bench_protocol::{EngineError, Generate};
use llm_bench_units::MonoNs;

use crate::math::argmax;
use crate::sampling::Sampler;
use crate::{Timed, check_tokens, internal};

/// What `answer` needs of an engine.
pub trait Decoder {
    /// Positions of the cache, and entries of the vocabulary.
    fn shape(&self) -> (usize, usize);

    /// The most tokens that `forward` takes at once.
    fn batch(&self) -> usize;

    /// The tokens whose keys and values the cache holds, from position 0. An engine that cannot
    /// go back to a prefix of them leaves this empty.
    fn held(&mut self) -> &mut Vec<u32>;

    /// Runs tokens at positions `first..`; what the cache held from there on is overwritten.
    fn forward(&mut self, tokens: &[u32], first: usize) -> Result<(), EngineError>;

    /// Computes the logits of the last token of the last `forward`.
    fn head(&mut self);

    /// What `head` computed: `[n_vocab]`.
    fn logits(&self) -> &[f32];
}

/// Whoever reads the answer.
pub trait Reader {
    /// A token is there.
    fn token(&mut self, token: u32, at: MonoNs) -> std::io::Result<()>;

    /// Whether the rest is not wanted any more.
    fn cancelled(&self) -> bool;
}

/// A generation, and how many positions of its prompt were in the cache already.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub timed: Timed,
    pub reused: u32,
}

/// Generates as the request says. A cancelled generation has the tokens up to there.
pub fn answer(
    decoder: &mut dyn Decoder,
    request: &Generate,
    reader: &mut dyn Reader,
) -> Result<Answer, EngineError> {
    let n = request.n as usize;
    let (n_ctx, n_vocab) = decoder.shape();
    check_tokens(&request.prompt, n, n_ctx, n_vocab)?;
    let mut sampler = request.sampling.map(Sampler::new).transpose()?;

    let reused = if request.reuse { shared_prefix(decoder.held(), &request.prompt) } else { 0 };
    decoder.held().truncate(reused);
    let mut position = reused;
    for batch in request.prompt[reused..].chunks(decoder.batch()) {
        if reader.cancelled() {
            break;
        }
        decoder.forward(batch, position)?;
        decoder.held().extend(batch);
        position += batch.len();
    }
    let mut timed =
        Timed { tokens: Vec::new(), prefill_end: MonoNs::now(), at: Vec::new(), profile: None };
    if position == request.prompt.len() {
        decoder.head();
        timed.prefill_end = MonoNs::now();
    }
    while timed.tokens.len() < n && !reader.cancelled() {
        if let Some(&token) = timed.tokens.last() {
            decoder.forward(&[token], position)?;
            decoder.held().push(token);
            decoder.head();
            position += 1;
        }
        let step = timed.tokens.len() as u64;
        let logits = decoder.logits();
        let token = match &mut sampler {
            Some(sampler) => sampler.draw(logits, step),
            None => argmax(logits) as u32,
        };
        let at = MonoNs::now();
        timed.tokens.push(token);
        timed.at.push(at);
        if request.stream {
            reader
                .token(token, at)
                .map_err(|e| internal(format!("cannot hand over a token: {e}")))?;
        }
        if request.stop.contains(&token) {
            break;
        }
    }
    Ok(Answer { timed, reused: reused as u32 })
}

/// How much of `prompt` is held. The last token always runs again: its logits are needed.
fn shared_prefix(held: &[u32], prompt: &[u32]) -> usize {
    let same = held.iter().zip(prompt).take_while(|(a, b)| a == b).count();
    same.min(prompt.len().saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_bench_protocol::Sampling;

    /// The next token is the sum of all before it; the prompt's rows are counted.
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
        fn head(&mut self) {
            let next = (self.cache.iter().sum::<u32>() + 1) as usize % 10;
            self.logits = (0..10).map(|i| if i == next { 9.0 } else { 0.0 }).collect();
        }
        fn logits(&self) -> &[f32] {
            &self.logits
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

    fn ask(sums: &mut Sums, request: &Generate) -> Answer {
        answer(sums, request, &mut Seen::default()).unwrap()
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
            assert_eq!(got.timed.tokens, cold.timed.tokens);
            let new = prompt.len() - got.reused as usize + 2;
            assert_eq!(warm.forwarded - before, new);
            // Two of three generated tokens were fed back.
            assert_eq!(got.reused as usize, if turn == 0 { 0 } else { prompt.len() - 3 });
            prompt.extend(got.timed.tokens);
            prompt.extend([7, 7]);
        }
        // Another prompt goes back to where the two part; the same one runs its last token.
        let other = Generate { reuse: true, ..Generate::greedy(1, vec![1, 2, 9], 2) };
        assert_eq!(ask(&mut warm, &other).reused, 2);
        let cold = ask(&mut Sums::new(), &Generate::greedy(1, vec![1, 2, 9], 2));
        let again = ask(&mut warm, &other);
        assert_eq!((again.reused, again.timed.tokens), (2, cold.timed.tokens));
    }

    #[test]
    fn a_stop_id_is_the_last_token() {
        let free = ask(&mut Sums::new(), &Generate::greedy(1, vec![1], 6)).timed.tokens;
        let request = Generate { stop: vec![free[2], 99], ..Generate::greedy(1, vec![1], 6) };
        let first = free.iter().position(|t| *t == free[2]).unwrap();
        assert_eq!(ask(&mut Sums::new(), &request).timed.tokens, free[..=first]);
    }

    #[test]
    fn a_stream_is_the_final_list_and_ends_where_it_is_cancelled() {
        let request = Generate { stream: true, ..Generate::greedy(1, vec![1, 2], 8) };
        let mut seen = Seen::default();
        let whole = answer(&mut Sums::new(), &request, &mut seen).unwrap();
        assert_eq!(seen.tokens, whole.timed.tokens);
        let mut seen = Seen { cancel_after: Some(3), ..Seen::default() };
        let cut = answer(&mut Sums::new(), &request, &mut seen).unwrap();
        assert_eq!(cut.timed.tokens, whole.timed.tokens[..3]);
        let mut gone = Seen { cancel_after: Some(0), ..Seen::default() };
        let mut sums = Sums::new();
        assert!(answer(&mut sums, &request, &mut gone).unwrap().timed.tokens.is_empty());
        assert_eq!(sums.forwarded, 0);
    }

    #[test]
    fn a_sampler_that_cannot_be_is_refused_before_anything_runs() {
        let sampling = Some(Sampling { temperature: -1.0, top_p: 1.0, seed: 0 });
        let request = Generate { sampling, ..Generate::greedy(1, vec![1], 2) };
        let mut sums = Sums::new();
        let refused = answer(&mut sums, &request, &mut Seen::default()).unwrap_err();
        assert!(refused.message.contains("temperature -1"), "{refused}");
        assert_eq!(sums.forwarded, 0);
    }
}
