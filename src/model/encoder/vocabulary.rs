//! A WordPiece vocabulary: BERT's own spelling (`##ing` continues a word), llama.cpp's spelling in
//! a GGUF file (`▁word` starts one), and the way from one to the other.

use std::collections::HashSet;

use crate::model::gguf::write::Value;

/// What marks the start of a word in a GGUF file.
const START: &str = "\u{2581}";
/// What marks the rest of a word in BERT's vocabulary.
pub const INSIDE: &str = "##";

/// The vocabulary of bert-base-uncased (Apache-2.0), which MiniLM, E5, BGE and DistilBERT share.
/// Its sha256 is the one of `vocab.txt` in their repositories.
const UNCASED: &str = include_str!("../../../models/vocab/bert-uncased.txt");

/// Tokens that no text becomes, with the key of their id in a GGUF file.
const SPECIALS: [(&str, &[&str]); 5] = [
    ("[CLS]", &["tokenizer.ggml.cls_token_id", "tokenizer.ggml.bos_token_id"]),
    // llama.cpp spells it so.
    ("[SEP]", &["tokenizer.ggml.seperator_token_id", "tokenizer.ggml.eos_token_id"]),
    ("[UNK]", &["tokenizer.ggml.unknown_token_id"]),
    ("[PAD]", &["tokenizer.ggml.padding_token_id"]),
    ("[MASK]", &["tokenizer.ggml.mask_token_id"]),
];
/// An encoder works without these two.
const OPTIONAL: [&str; 2] = ["[PAD]", "[MASK]"];

/// Tokens by id, in BERT's spelling; checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WordPieces {
    tokens: Vec<String>,
}

impl WordPieces {
    /// # Errors
    /// A special token is missing, or two tokens are one in a GGUF file.
    pub fn new(tokens: Vec<String>) -> Result<Self, String> {
        for (name, _) in SPECIALS.iter().filter(|(name, _)| !OPTIONAL.contains(name)) {
            if !tokens.iter().any(|t| t == name) {
                return Err(format!("expected the token {name} of a WordPiece vocabulary"));
            }
        }
        let mut seen = HashSet::new();
        for (id, token) in tokens.iter().enumerate() {
            if token.is_empty() || token == INSIDE {
                return Err(format!("token {id}: expected text, found {token:?}"));
            }
            if !seen.insert(written(token)) {
                return Err(format!(
                    "token {id}: {token:?} is there twice in llama.cpp's spelling"
                ));
            }
        }
        Ok(Self { tokens })
    }

    /// The one of bert-base-uncased: 30,522 tokens.
    pub fn uncased() -> Self {
        Self { tokens: UNCASED.lines().map(str::to_owned).collect() }
    }

    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The tokenizer's part of the metadata.
    pub fn metadata(self) -> Vec<(&'static str, Value)> {
        // `llama_token_type`: normal, unknown, control, unused.
        let kind = |token: &String| match token.as_str() {
            "[UNK]" => 2,
            token if is_special(token) => 3,
            token if is_unused(token) => 5,
            _ => 1,
        };
        let kinds = self.tokens.iter().map(kind).collect();
        let mut all = vec![("tokenizer.ggml.model", Value::from("bert"))];
        for (name, keys) in SPECIALS {
            let id = self.tokens.iter().position(|t| t == name);
            all.extend(keys.iter().filter_map(|key| Some((*key, Value::U32(id? as u32)))));
        }
        let tokens = self.tokens.iter().map(|t| written(t)).collect();
        all.push(("tokenizer.ggml.tokens", Value::Strs(tokens)));
        all.push(("tokenizer.ggml.token_type", Value::I32s(kinds)));
        all
    }
}

fn is_special(token: &str) -> bool {
    SPECIALS.iter().any(|(name, _)| *name == token)
}

/// BERT keeps about a thousand free places, `[unused0]` and so on.
fn is_unused(token: &str) -> bool {
    let number = token.strip_prefix("[unused").and_then(|rest| rest.strip_suffix(']'));
    number.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
}

/// A token as a GGUF file has it: llama.cpp's "phantom space" before the start of a word.
fn written(token: &str) -> String {
    match token.strip_prefix(INSIDE) {
        _ if is_special(token) => token.to_owned(),
        Some(rest) => rest.to_owned(),
        None => format!("{START}{token}"),
    }
}

/// The same token in BERT's spelling, from a GGUF file.
pub fn read(written: &str, is_special: bool) -> String {
    match written.strip_prefix(START) {
        _ if is_special => written.to_owned(),
        Some(word) => word.to_owned(),
        None => format!("{INSIDE}{written}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_vocabulary_is_berts_and_survives_the_way_to_a_file_and_back() {
        let pieces = WordPieces::uncased();
        assert_eq!(pieces.len(), 30_522);
        let checked = WordPieces::new(pieces.tokens.clone()).unwrap();
        assert_eq!(checked, pieces);
        for token in &pieces.tokens {
            assert_eq!(read(&written(token), is_special(token)), *token);
        }
        let sha256 = crate::digest::hex(&<sha2::Sha256 as sha2::Digest>::digest(UNCASED));
        assert_eq!(sha256, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3");
    }

    #[test]
    fn ids_of_special_tokens_are_named_as_llama_cpp_names_them() {
        let all = WordPieces::uncased().metadata();
        let number = |key: &str| all.iter().find(|(k, _)| *k == key).map(|(_, v)| v.clone());
        assert_eq!(number("tokenizer.ggml.cls_token_id"), Some(Value::U32(101)));
        assert_eq!(number("tokenizer.ggml.seperator_token_id"), Some(Value::U32(102)));
        assert_eq!(number("tokenizer.ggml.eos_token_id"), Some(Value::U32(102)));
        assert_eq!(number("tokenizer.ggml.padding_token_id"), Some(Value::U32(0)));
    }

    #[test]
    fn a_vocabulary_without_its_special_tokens_or_with_twins_is_refused() {
        let of = |tokens: &[&str]| {
            WordPieces::new(tokens.iter().map(|t| t.to_string()).collect()).unwrap_err()
        };
        assert!(of(&["[UNK]", "[CLS]", "a"]).contains("[SEP]"));
        assert!(of(&["[UNK]", "[CLS]", "[SEP]", "a", "a"]).contains("twice"));
        assert!(of(&["[UNK]", "[CLS]", "[SEP]", "a", "##\u{2581}a"]).contains("twice"));
        assert!(of(&["[UNK]", "[CLS]", "[SEP]", "##"]).contains("\"##\""));
    }
}
