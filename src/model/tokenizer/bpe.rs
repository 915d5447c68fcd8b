//! Byte-pair encoding of words, on the model of the `tokenizers` crate: built from the vocabulary and
//! the merges of a GGUF file.

use std::collections::HashSet;

use tokenizers::Model;
use tokenizers::models::bpe::{BPE, Merges, Vocab};

use super::split::{PreTokenizer, Splitter};
use super::spm::SPACE;
use super::vocabulary::{Kind, Vocabulary, strings};
use crate::model::gguf::{GgufError, GgufFile};

const MERGES: &str = "tokenizer.ggml.merges";

/// Words to ids.
pub struct BytePairs {
    model: BPE,
    splitter: Splitter,
    pre: &'static PreTokenizer,
    /// The spelling of each byte.
    alphabet: [char; 256],
}

impl BytePairs {
    pub fn new(
        file: &GgufFile,
        vocabulary: &Vocabulary<'_>,
        pre: &'static PreTokenizer,
    ) -> Result<Self, GgufError> {
        let merges = merges(file, &vocabulary.tokens)?;
        // No text becomes a control token, not even a word that is spelled like one.
        let made: HashSet<String> = merges.iter().map(|(a, b)| format!("{a}{b}")).collect();
        let is_text = |(token, kind): &(&&str, &Kind)| {
            !matches!(kind, Kind::Control | Kind::Unknown) || made.contains(**token)
        };
        let all = vocabulary.tokens.iter().zip(&vocabulary.kinds).zip(0u32..);
        let text = all.filter(|(token, _)| is_text(token));
        let vocab: Vocab = text.map(|((token, _), id)| (token.to_string(), id)).collect();
        let broken = |e: tokenizers::Error| file.unsupported("the vocabulary", "a BPE", e);
        let model = BPE::builder()
            .vocab_and_merges::<Vocab>(vocab, merges)
            // Some models take a word that is in the vocabulary as it is, whatever the merges say.
            .ignore_merges(pre.whole_words)
            .byte_fallback(pre.raw)
            .build()
            .map_err(broken)?;
        Ok(Self { model, splitter: Splitter::new(pre), pre, alphabet: alphabet() })
    }

    /// Adds the ids of a text.
    pub fn tokenize(&self, text: &str, ids: &mut Vec<u32>) -> tokenizers::Result<()> {
        let escaped;
        let text = match self.pre.raw {
            true => {
                escaped = text.replace(' ', SPACE);
                &escaped
            }
            false => text,
        };
        let mut spelled = String::new();
        for word in self.splitter.split(text) {
            let word = match self.pre.raw {
                true if word.bytes().all(|b| b == b'\n') => {
                    // A run of line ends is a token of its own.
                    if let Some(id) = self.model.token_to_id(word) {
                        ids.push(id);
                        continue;
                    }
                    word
                }
                true => word,
                false => {
                    spelled.clear();
                    spelled.extend(word.bytes().map(|b| self.alphabet[usize::from(b)]));
                    &spelled
                }
            };
            ids.extend(self.model.tokenize(word)?.iter().map(|token| token.id));
        }
        Ok(())
    }
}

fn merges(file: &GgufFile, tokens: &[&str]) -> Result<Merges, GgufError> {
    // The model's builder joins pairs in a buffer of the longest token's size.
    let longest = tokens.iter().map(|t| t.len()).max().unwrap_or(0);
    // Of a pair that comes twice the first one counts.
    let mut seen = HashSet::new();
    let mut merges = Merges::new();
    for merge in strings(file, MERGES)? {
        // A piece may itself begin with a space.
        let first = merge.chars().next().map_or(0, char::len_utf8);
        let pair = merge[first..].find(' ').map(|at| merge.split_at(first + at));
        match pair.map(|(a, b)| (a, &b[1..])) {
            Some((a, b)) if !b.is_empty() && a.len() + b.len() <= longest => {
                if seen.insert(merge) {
                    merges.push((a.to_owned(), b.to_owned()));
                }
            }
            _ => {
                let expected = "two pieces of one token, with a space between";
                return Err(file.unsupported(MERGES, expected, format!("{merge:?}")));
            }
        }
    }
    Ok(merges)
}

/// GPT-2's spelling of bytes: printable ones are themselves, the rest follow from U+0100.
pub fn alphabet() -> [char; 256] {
    let printable = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100;
    let mut spelled = ['\0'; 256];
    for b in 0..=255u8 {
        let code = if printable(b) {
            u32::from(b)
        } else {
            next += 1;
            next - 1
        };
        spelled[usize::from(b)] = char::from_u32(code).unwrap_or_default();
    }
    spelled
}
