//! Trains byte-pair encoding on weighted words: the merges of the synthetic vocabulary. The same
//! words give the same merges on every machine.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

/// Hashes a pair of token ids. Its maps are looked up and never iterated, so their order cannot
/// affect the result.
#[derive(Default)]
struct PairHasher(u64);

impl Hasher for PairHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&b| self.write_u32(u32::from(b)));
    }

    fn write_u32(&mut self, x: u32) {
        self.0 = (self.0.rotate_left(5) ^ u64::from(x)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 ^= self.0 >> 29;
    }
}

type Pair = (u32, u32);
type PairMap<V> = HashMap<Pair, V, BuildHasherDefault<PairHasher>>;

struct Word {
    symbols: Vec<u32>,
    weight: u64,
}

/// Tokens and merges so far, and the words to learn the next ones from.
pub struct Trainer {
    tokens: Vec<Vec<u8>>,
    ids: HashMap<Vec<u8>, u32>,
    merges: Vec<Pair>,
    rank: PairMap<u32>,
    words: Vec<Word>,
    weight: PairMap<u64>,
    places: PairMap<Vec<u32>>,
    queue: BinaryHeap<(u64, Reverse<Pair>)>,
}

impl Trainer {
    /// Starts with one token per byte, in this order.
    pub fn new(bytes: &[u8; 256]) -> Self {
        let tokens: Vec<Vec<u8>> = bytes.iter().map(|&b| vec![b]).collect();
        let ids = tokens.iter().cloned().zip(0..).collect();
        Self {
            tokens,
            ids,
            merges: Vec::new(),
            rank: PairMap::default(),
            words: Vec::new(),
            weight: PairMap::default(),
            places: PairMap::default(),
            queue: BinaryHeap::new(),
        }
    }

    /// The tokens by id, as bytes.
    pub fn tokens(&self) -> &[Vec<u8>] {
        &self.tokens
    }

    /// The merges by rank, as pairs of ids. They outnumber the tokens: some tokens have two merges.
    pub fn merges(&self) -> &[Pair] {
        &self.merges
    }

    /// Learns from these weighted words until each is one token or the vocabulary has `limit`
    /// tokens. Keeps earlier merges.
    pub fn learn(&mut self, words: impl IntoIterator<Item = (String, u64)>, limit: usize) {
        if self.tokens.len() >= limit {
            return;
        }
        self.words.clear();
        self.weight.clear();
        self.places.clear();
        self.queue.clear();
        for (text, weight) in words {
            let symbols = self.encode(text.as_bytes());
            if symbols.len() > 1 {
                let index = self.words.len() as u32;
                for pair in symbols.windows(2) {
                    let pair = (pair[0], pair[1]);
                    *self.weight.entry(pair).or_default() += weight;
                    self.places.entry(pair).or_default().push(index);
                }
                self.words.push(Word { symbols, weight });
            }
        }
        self.queue = self.weight.iter().map(|(&p, &w)| (w, Reverse(p))).collect();
        while let Some((weight, Reverse(pair))) = self.queue.pop() {
            // Stale entries stay in the heap when a pair becomes rarer: the map has the current
            // count.
            match self.weight.get(&pair) {
                Some(&w) if w == weight => self.merge(pair),
                Some(&w) if w > 0 && w < weight => self.queue.push((w, Reverse(pair))),
                _ => continue,
            }
            if self.tokens.len() >= limit {
                return;
            }
        }
    }

    fn merge(&mut self, pair: Pair) {
        let mut text = self.tokens[pair.0 as usize].clone();
        text.extend_from_slice(&self.tokens[pair.1 as usize]);
        let new = *self.ids.entry(text.clone()).or_insert_with(|| {
            self.tokens.push(text);
            self.tokens.len() as u32 - 1
        });
        if !self.rank.contains_key(&pair) {
            self.rank.insert(pair, self.merges.len() as u32);
            self.merges.push(pair);
        }

        self.weight.remove(&pair);
        let mut places = self.places.remove(&pair).unwrap_or_default();
        places.dedup();
        let mut raised: Vec<Pair> = Vec::new();
        for place in places {
            let word = &mut self.words[place as usize];
            let old = std::mem::take(&mut word.symbols);
            let mut symbols = Vec::with_capacity(old.len());
            let mut i = 0;
            while i < old.len() {
                if i + 1 == old.len() || (old[i], old[i + 1]) != pair {
                    symbols.push(old[i]);
                    i += 1;
                    continue;
                }
                let before = symbols.last().map(|&s| ((s, pair.0), (s, new)));
                let after = old.get(i + 2).map(|&s| ((pair.1, s), (new, s)));
                for (gone, come) in before.into_iter().chain(after) {
                    if let Some(w) = self.weight.get_mut(&gone) {
                        *w = w.saturating_sub(word.weight);
                    }
                    *self.weight.entry(come).or_default() += word.weight;
                    self.places.entry(come).or_default().push(place);
                    raised.push(come);
                }
                symbols.push(new);
                i += 2;
            }
            word.symbols = symbols;
        }
        raised.sort_unstable();
        raised.dedup();
        for pair in raised {
            let weight = self.weight[&pair];
            if weight > 0 {
                self.queue.push((weight, Reverse(pair)));
            }
        }
    }

    /// Splits a text with the merges so far.
    fn encode(&self, text: &[u8]) -> Vec<u32> {
        let mut symbols: Vec<u32> = text.iter().map(|&b| self.ids[&[b][..]]).collect();
        loop {
            let best = symbols
                .windows(2)
                .filter_map(|p| self.rank.get(&(p[0], p[1])).map(|&r| (r, (p[0], p[1]))))
                .min();
            let Some((rank, pair)) = best else {
                return symbols;
            };
            let (a, b) = self.merges[rank as usize];
            let mut text = self.tokens[a as usize].clone();
            text.extend_from_slice(&self.tokens[b as usize]);
            let new = self.ids[&text];
            let mut merged = Vec::with_capacity(symbols.len());
            let mut i = 0;
            while i < symbols.len() {
                if i + 1 < symbols.len() && (symbols[i], symbols[i + 1]) == pair {
                    merged.push(new);
                    i += 2;
                } else {
                    merged.push(symbols[i]);
                    i += 1;
                }
            }
            symbols = merged;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trained(words: &[(&str, u64)], limit: usize) -> Trainer {
        let bytes = std::array::from_fn(|i| i as u8);
        let mut trainer = Trainer::new(&bytes);
        trainer.learn(words.iter().map(|&(w, n)| (w.to_owned(), n)), limit);
        trainer
    }

    #[test]
    fn every_word_becomes_one_token_when_there_is_room() {
        let words = [("banana", 5), ("bandana", 3), ("aaaaaaa", 2), ("nab", 1)];
        let trainer = trained(&words, 10_000);
        for (word, _) in words {
            assert_eq!(trainer.encode(word.as_bytes()).len(), 1, "{word}");
            assert!(trainer.ids.contains_key(word.as_bytes()));
        }
    }

    #[test]
    fn the_heaviest_pair_is_merged_first() {
        let trainer = trained(&[("ab", 1), ("cd", 2)], 257);
        assert_eq!(trainer.tokens()[256], b"cd");
        assert_eq!(trainer.tokens().len(), 257);
    }

    #[test]
    fn what_was_learned_first_stays_when_more_is_learned() {
        let mut trainer = trained(&[("stone", 1)], 10_000);
        let before = trainer.tokens().to_vec();
        trainer.learn([("stones".to_owned(), 9), ("tonic".to_owned(), 9)], 10_000);
        assert_eq!(trainer.tokens()[..before.len()], before);
        assert_eq!(trainer.encode(b"stone").len(), 1);
        assert_eq!(trainer.encode(b"stones").len(), 1);
    }
}
