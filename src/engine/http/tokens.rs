//! From the chunks of a stream to tokens with times. A server sends chunks; an engine makes tokens.
//! A chunk of several tokens stands for equal steps since the chunk before it: their sum is what
//! was seen, and no gap is shorter than any that could be.

use super::dialect::Dialect;
use crate::engine::Broken;
use crate::record::FailureKind;
use crate::units::MonoNs;

/// What one event says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chunk {
    /// Bytes of text, reasoning and calls included.
    pub bytes: usize,
    pub ids: Vec<u32>,
    /// Tokens so far, as the server counts.
    pub total: Option<u32>,
    /// Tokens of the prompt, as the server counts.
    pub prompt: Option<u32>,
    /// Those of them that it did not have to compute.
    pub cached: Option<u32>,
    /// Why the generation ended, in the event that says so.
    pub end: Option<String>,
}

/// A chunk that carried tokens.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    at: MonoNs,
    /// How many, if the server counts as it goes.
    tokens: Option<u32>,
    bytes: usize,
}

/// A finished stream.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Streamed {
    /// When each token arrived, in order.
    pub times: Vec<MonoNs>,
    /// The ids, if the server told every one.
    pub ids: Option<Vec<u32>>,
    /// Chunks with more than one token.
    pub merged: u32,
    /// Whether the server ended before the length that was asked for.
    pub early: bool,
    pub prompt: Option<u32>,
    pub cached: Option<u32>,
}

/// Collects the chunks of one stream and believes none of them.
#[derive(Debug)]
pub struct Tokens<'a> {
    dialect: &'a Dialect,
    /// Tokens that were asked for.
    asked: u32,
    begin: MonoNs,
    arrivals: Vec<Arrival>,
    /// Tokens that the server has counted as it went.
    counted: u32,
    ids: Vec<u32>,
    usage: Option<u32>,
    prompt: Option<u32>,
    cached: Option<u32>,
    end: Option<String>,
}

impl<'a> Tokens<'a> {
    /// For a request of `asked` tokens that began at `begin`.
    pub fn new(dialect: &'a Dialect, asked: u32, begin: MonoNs) -> Self {
        let (arrivals, ids) = (Vec::new(), Vec::new());
        let (usage, prompt, cached, end) = (None, None, None, None);
        Self { dialect, asked, begin, arrivals, counted: 0, ids, usage, prompt, cached, end }
    }

    /// Takes a chunk that arrived at `at`.
    ///
    /// # Errors
    /// More tokens than were asked for, or counts that contradict one another.
    pub fn take(&mut self, at: MonoNs, chunk: Chunk) -> Result<(), Broken> {
        self.prompt = chunk.prompt.or(self.prompt);
        self.cached = chunk.cached.or(self.cached);
        let n_ids = chunk.ids.len() as u32;
        let tokens = match chunk.total.filter(|_| self.dialect.counts_as_it_goes()) {
            Some(total) if total < self.counted => {
                let m = format!("its count of tokens fell from {} to {total}", self.counted);
                return Err(lied(m));
            }
            Some(total) => Some(total - self.counted),
            None => (n_ids > 0).then_some(n_ids),
        };
        // The text of a token may follow with the next one, where a character needs both; a last
        // event may repeat nothing but the count.
        let carries = tokens.map_or(chunk.bytes > 0, |tokens| tokens > 0);
        if tokens.is_some_and(|tokens| n_ids > tokens) && carries {
            return Err(lied(format!(
                "a chunk has {n_ids} ids, its count says {}",
                tokens.unwrap_or_default()
            )));
        }
        if carries {
            if self.end.is_some() {
                return Err(lied("tokens came behind the end of the generation".into()));
            }
            self.arrivals.push(Arrival { at, tokens, bytes: chunk.bytes });
            self.counted += tokens.unwrap_or(1);
            self.ids.extend(chunk.ids);
        }
        if !self.dialect.counts_as_it_goes() {
            self.usage = chunk.total.or(self.usage);
        }
        self.end = chunk.end.or(self.end.take());
        if self.counted > self.asked {
            let m = format!("asked for {} tokens, it sends more", self.asked);
            return Err(Broken { kind: FailureKind::WrongTokens, message: m });
        }
        Ok(())
    }

    /// The tokens of the whole stream.
    ///
    /// # Errors
    /// The stream ended without an end, with too few tokens, or with a count that its chunks
    /// contradict.
    pub fn finish(self) -> Result<Streamed, Broken> {
        let Some(end) = &self.end else {
            let m = format!("the stream was cut after {} of {} tokens", self.counted, self.asked);
            return Err(Broken { kind: FailureKind::Protocol, message: m });
        };
        let chunks = self.arrivals.len() as u32;
        let total = match self.usage {
            Some(usage) if usage < self.counted => {
                return Err(lied(format!(
                    "its usage says {usage} tokens, {} came in {chunks} chunks",
                    self.counted
                )));
            }
            Some(usage) => usage,
            None => self.counted,
        };
        if total > self.asked {
            let m = format!("asked for {} tokens, its usage says {total}", self.asked);
            return Err(lied(m));
        }
        // A server that knows no other way may end where the text does.
        let early = total < self.asked;
        if total == 0 || early && (self.dialect.ignores_end() || end != "stop") {
            let m = format!("asked for {} tokens, got {total}; it says {end:?}", self.asked);
            return Err(Broken { kind: FailureKind::WrongTokens, message: m });
        }
        let counts = self.counts(total);
        let (mut times, mut last) = (Vec::with_capacity(total as usize), self.begin);
        for (i, (arrival, n)) in self.arrivals.iter().zip(&counts).enumerate() {
            let whole = arrival.at.0.saturating_sub(last.0);
            // Before the first chunk lies the prompt, so its tokens arrived with it.
            let step = |k: u32| match i {
                0 => arrival.at,
                _ => MonoNs(last.0 + whole * u64::from(k) / u64::from(*n)),
            };
            times.extend((1..=*n).map(step));
            last = arrival.at;
        }
        Ok(Streamed {
            times,
            merged: counts.iter().filter(|n| **n > 1).count() as u32,
            ids: Some(self.ids).filter(|ids| ids.len() as u32 == total),
            early,
            prompt: self.prompt,
            cached: self.cached,
        })
    }

    /// The tokens of each chunk. Where the server gives their sum alone, each has one and the rest is
    /// shared by bytes of text.
    fn counts(&self, total: u32) -> Vec<u32> {
        let mut counts: Vec<u32> = self.arrivals.iter().map(|a| a.tokens.unwrap_or(1)).collect();
        let rest = u64::from(total - counts.iter().sum::<u32>());
        let bytes: u64 = self.arrivals.iter().map(|a| a.bytes as u64).sum();
        let (mut seen, mut given) = (0, 0);
        for (count, arrival) in counts.iter_mut().zip(&self.arrivals) {
            seen += arrival.bytes as u64;
            // Of running sums, so that every one of the rest has a place.
            let due = (rest * seen).checked_div(bytes).unwrap_or(rest);
            *count += (due - given) as u32;
            given = due;
        }
        counts
    }
}

fn lied(message: String) -> Broken {
    Broken { kind: FailureKind::Lied, message }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::dialect::{Api, Kind};
    use super::*;

    fn dialect(kind: Kind) -> Dialect {
        Dialect { kind, api: Api::Completions, model: "m".into(), ids: true }
    }

    /// A stream of chunks that arrive 100 ns apart, the first at 1000.
    fn streamed(kind: Kind, asked: u32, chunks: Vec<Chunk>) -> Result<Streamed, Broken> {
        let dialect = dialect(kind);
        let mut tokens = Tokens::new(&dialect, asked, MonoNs(0));
        for (i, chunk) in chunks.into_iter().enumerate() {
            tokens.take(MonoNs(1000 + 100 * i as u64), chunk)?;
        }
        tokens.finish()
    }

    fn text(bytes: usize) -> Chunk {
        Chunk { bytes, ..Chunk::default() }
    }

    fn count(total: u32, ids: &[u32]) -> Chunk {
        Chunk { bytes: 1, ids: ids.to_vec(), total: Some(total), ..Chunk::default() }
    }

    fn end(chunk: Chunk, why: &str) -> Chunk {
        Chunk { end: Some(why.into()), ..chunk }
    }

    fn times(streamed: &Streamed) -> Vec<u64> {
        streamed.times.iter().map(|t| t.0).collect()
    }

    #[test]
    fn a_chunk_of_several_tokens_stands_for_equal_steps() {
        let chunks = vec![count(1, &[5]), count(3, &[6, 7]), end(count(4, &[8]), "length")];
        let s = streamed(Kind::Vllm, 4, chunks).unwrap();
        assert_eq!(times(&s), [1000, 1050, 1100, 1200]);
        assert_eq!((s.merged, s.ids.as_deref()), (1, Some(&[5, 6, 7, 8][..])));
    }

    #[test]
    fn a_first_chunk_of_several_tokens_arrived_at_once() {
        let s = streamed(Kind::Vllm, 3, vec![count(2, &[1, 2]), end(count(3, &[3]), "length")]);
        assert_eq!(times(&s.unwrap()), [1000, 1000, 1100]);
    }

    #[test]
    fn a_sum_alone_is_shared_by_bytes() {
        let usage = end(Chunk { total: Some(6), ..Chunk::default() }, "length");
        let s = streamed(Kind::Other, 6, vec![text(2), text(2), text(8), usage]).unwrap();
        assert_eq!(times(&s), [1000, 1050, 1100, 1133, 1166, 1200]);
        assert!(s.ids.is_none() && s.merged == 2);
    }

    #[test]
    fn an_id_that_was_held_back_leaves_times_and_no_ids() {
        let chunks = vec![count(1, &[5]), count(3, &[7]), end(count(3, &[]), "limit")];
        let s = streamed(Kind::LlamaServer, 3, chunks).unwrap();
        assert_eq!((times(&s), s.ids), (vec![1000, 1050, 1100], None));
    }

    #[test]
    fn each_lie_is_named() {
        let says = |kind, asked, chunks| streamed(kind, asked, chunks).unwrap_err();
        let usage = |n| end(Chunk { total: Some(n), ..Chunk::default() }, "length");
        let few = says(Kind::Vllm, 3, vec![count(1, &[]), end(count(2, &[]), "stop")]);
        assert_eq!(few.kind, FailureKind::WrongTokens);
        let many = says(Kind::Vllm, 1, vec![count(1, &[]), count(2, &[])]);
        assert_eq!(many.kind, FailureKind::WrongTokens);
        let less = says(Kind::Other, 3, vec![text(1), text(1), text(1), usage(2)]);
        assert_eq!(less.kind, FailureKind::Lied, "{less:?}");
        let more = says(Kind::Other, 3, vec![text(1), text(1), text(1), usage(4)]);
        assert_eq!(more.kind, FailureKind::Lied);
        let fell = says(Kind::Vllm, 3, vec![count(2, &[]), count(1, &[])]);
        assert!(fell.message.contains("fell from 2 to 1"), "{fell:?}");
        let ids = says(Kind::Vllm, 3, vec![count(1, &[4, 5])]);
        assert!(ids.message.contains("2 ids"), "{ids:?}");
        let cut = says(Kind::Other, 3, vec![text(1), text(1)]);
        assert!(cut.message.contains("cut after 2 of 3"), "{cut:?}");
        let behind = says(Kind::Other, 9, vec![end(text(1), "length"), text(1)]);
        assert!(behind.message.contains("behind the end"), "{behind:?}");
    }

    #[test]
    fn a_server_that_knows_no_length_may_end_with_the_text() {
        let chunks = || vec![text(1), end(Chunk { total: Some(1), ..Chunk::default() }, "stop")];
        let s = streamed(Kind::Other, 4, chunks()).unwrap();
        assert!(s.early && s.times.len() == 1);
        let none = end(Chunk { total: Some(0), ..Chunk::default() }, "stop");
        assert!(streamed(Kind::Other, 4, vec![none]).is_err());
    }

    proptest! {
        #[test]
        fn every_token_has_a_time_and_times_rise(
            chunks in proptest::collection::vec((0usize..50, 0u32..4), 1..40),
            whole: bool,
        ) {
            let kind = if whole { Kind::Vllm } else { Kind::Other };
            let mut total = 0;
            let mut list = Vec::new();
            for (bytes, tokens) in chunks {
                total += if whole { tokens } else { u32::from(bytes > 0) * tokens.max(1) };
                list.push(Chunk {
                    bytes,
                    total: whole.then_some(total),
                    ..Chunk::default()
                });
            }
            list.push(end(Chunk { total: Some(total), ..Chunk::default() }, "length"));
            if let Ok(s) = streamed(kind, total, list) {
                prop_assert_eq!(s.times.len(), total as usize);
                prop_assert!(s.times.is_sorted());
            } else {
                prop_assert_eq!(total, 0);
            }
        }
    }
}
