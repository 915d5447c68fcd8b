//! SentencePiece as llama.cpp computes it: pairs of neighbours are merged, the one whose token has
//! the highest score first, the leftmost of equals. Characters that no token has become bytes.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::vocabulary::{Kind, Vocabulary};

/// U+2581, which stands for a space.
pub const SPACE: &str = "\u{2581}";

/// The tokens that text can become, by their spelling.
pub struct SentencePiece {
    /// Control tokens are not among them: no text can become one.
    tokens: HashMap<String, (u32, f32)>,
    /// `<0xE2>`, or the token of one byte's character, for each byte.
    bytes: Vec<Option<u32>>,
    unknown: Option<u32>,
}

/// Two neighbours that make a token.
struct Pair {
    left: usize,
    right: usize,
    score: f32,
    /// Bytes of both: a pair of which one has grown is out of date.
    len: usize,
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Pair {}
impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        // No score is NaN.
        let score = self.score.partial_cmp(&other.score).unwrap_or(Ordering::Equal);
        score.then(other.left.cmp(&self.left))
    }
}

/// A stretch of the text, in a chain with its neighbours.
struct Symbol {
    start: usize,
    /// 0 once it was merged into its left neighbour.
    len: usize,
    before: Option<usize>,
    after: Option<usize>,
}

impl SentencePiece {
    pub fn new(vocabulary: &Vocabulary<'_>) -> Self {
        let all = || vocabulary.tokens.iter().zip(0u32..);
        let kind = |id: u32| vocabulary.kinds[id as usize];
        let text = all().filter(|(_, id)| !matches!(kind(*id), Kind::Control | Kind::Unknown));
        let score = |id: u32| vocabulary.scores[id as usize];
        let tokens = text.map(|(t, id)| (t.to_string(), (id, score(id)))).collect();
        let by_name: HashMap<&str, u32> = all().map(|(t, id)| (*t, id)).collect();
        let byte = |b: u8| {
            let spelled = by_name.get(format!("<0x{b:02X}>").as_str());
            let plain = || by_name.get(std::str::from_utf8(&[b]).ok()?);
            spelled.or_else(plain).copied()
        };
        let bytes = (0..=255).map(byte).collect();
        Self { tokens, bytes, unknown: vocabulary.unknown }
    }

    /// Adds the ids of a text in which spaces are [`SPACE`] already. A byte without a token is the
    /// unknown one; where there is none either, nothing.
    pub fn tokenize(&self, text: &str, ids: &mut Vec<u32>) {
        let mut symbols: Vec<Symbol> = Vec::new();
        for (start, c) in text.char_indices() {
            let at = symbols.len();
            if let Some(last) = symbols.last_mut() {
                last.after = Some(at);
            }
            let before = at.checked_sub(1);
            symbols.push(Symbol { start, len: c.len_utf8(), before, after: None });
        }
        let mut pairs = BinaryHeap::new();
        for right in 1..symbols.len() {
            pairs.extend(self.pair(text, &symbols, Some(right - 1), Some(right)));
        }
        while let Some(Pair { left, right, len, .. }) = pairs.pop() {
            let (l, r) = (&symbols[left], &symbols[right]);
            if l.len == 0 || r.len == 0 || l.len + r.len != len {
                continue;
            }
            let after = r.after;
            symbols[left].len = len;
            symbols[left].after = after;
            symbols[right].len = 0;
            if let Some(after) = after {
                symbols[after].before = Some(left);
            }
            let before = symbols[left].before;
            pairs.extend(self.pair(text, &symbols, before, Some(left)));
            pairs.extend(self.pair(text, &symbols, Some(left), after));
        }
        for symbol in symbols.iter().filter(|s| s.len > 0) {
            let piece = &text[symbol.start..symbol.start + symbol.len];
            match self.tokens.get(piece) {
                Some((id, _)) => ids.push(*id),
                None => {
                    let byte = |b: u8| self.bytes[usize::from(b)].or(self.unknown);
                    ids.extend(piece.bytes().filter_map(byte));
                }
            }
        }
    }

    fn pair(
        &self,
        text: &str,
        symbols: &[Symbol],
        left: Option<usize>,
        right: Option<usize>,
    ) -> Option<Pair> {
        let (left, right) = (left?, right?);
        let len = symbols[left].len + symbols[right].len;
        let start = symbols[left].start;
        let (_, score) = self.tokens.get(&text[start..start + len])?;
        Some(Pair { left, right, score: *score, len })
    }
}
