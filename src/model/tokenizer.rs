//! The tokenizer of a model, built from the vocabulary inside its own GGUF file. The harness turns
//! text into ids here, once; engines receive ids. The ids are llama.cpp's, with one difference: no
//! text becomes a control token unless the caller asks for it.

mod bpe;
mod ends;
mod spelled;
mod split;
mod spm;
mod vocabulary;
mod wordpiece;

use std::collections::HashMap;

use self::bpe::BytePairs;
use self::spelled::{Fragment, Spelled};
use self::spm::{SPACE, SentencePiece};
pub use self::vocabulary::Ids;
use self::vocabulary::{Kind, Scheme, Vocabulary};
use self::wordpiece::WordPieces;
use super::gguf::{GgufError, GgufFile};
use crate::worker::serve::Tokenizers;

/// What the workers of this program turn texts into ids with.
pub const OF_WORKERS: Tokenizers = Tokenizers {
    name: concat!("llm-bench ", env!("CARGO_PKG_VERSION")),
    open: |path| {
        let file = GgufFile::open(path.as_ref()).map_err(|e| e.to_string())?;
        let tokenizer = Tokenizer::from_gguf(&file).map_err(|e| e.to_string())?;
        Ok(Box::new(move |text: &str| tokenizer.encode(text).map_err(|e| e.to_string())))
    },
};

/// How to read text that spells a control token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlTokens {
    /// As ordinary characters: for prompts, which must not be able to end a turn.
    AsText,
    /// As the token: for chat templates.
    Parse,
}

/// Where a text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At the beginning, or behind a control token: SentencePiece puts a space before it.
    Start,
    /// Behind other text.
    Inside,
}

/// Text to ids and back.
pub struct Tokenizer {
    words: Words,
    spelled: Spelled,
    ids: HashMap<String, u32>,
    /// The bytes of each id, in order.
    bytes: Vec<Vec<u8>>,
    kinds: Vec<Kind>,
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    padding: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    add_space: bool,
    /// Ids that end a text or a turn.
    ends: Vec<u32>,
    warning: Option<String>,
}

/// How the text between spelled tokens becomes ids.
enum Words {
    BytePairs(Box<BytePairs>),
    SentencePiece(SentencePiece),
    WordPieces(Box<WordPieces>),
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("n_vocab", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Builds the tokenizer that the file describes, in about a quarter of a second for 128,256
    /// entries. Refuses an unknown pre-tokenizer, because another split would give other ids.
    pub fn from_gguf(file: &GgufFile) -> Result<Self, GgufError> {
        let v = Vocabulary::of(file)?;
        let words = match v.scheme {
            Scheme::Bpe(pre) => Words::BytePairs(Box::new(BytePairs::new(file, &v, pre)?)),
            Scheme::SentencePiece => Words::SentencePiece(SentencePiece::new(&v)),
            Scheme::WordPiece => Words::WordPieces(Box::new(WordPieces::new(file, &v)?)),
        };
        let decode = Spelling::of(v.scheme);
        let bytes = v.tokens.iter().zip(&v.kinds).map(|(token, kind)| decode.bytes(token, *kind));
        Ok(Self {
            bytes: bytes.collect(),
            words,
            spelled: Spelled::new(&v),
            ids: v.tokens.iter().zip(0u32..).map(|(t, id)| (t.to_string(), id)).collect(),
            bos: v.bos,
            eos: v.eos,
            unknown: v.unknown,
            padding: v.padding,
            add_bos: v.add_bos,
            add_eos: v.add_eos,
            add_space: v.add_space,
            ends: v.ends,
            warning: v.warning,
            kinds: v.kinds,
        })
    }

    /// Number of entries.
    pub fn n_vocab(&self) -> usize {
        self.bytes.len()
    }

    /// Begin-of-text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// End-of-text, as named in the file.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The token for what no other one is.
    pub fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    /// What fills batches.
    pub fn padding(&self) -> Option<u32> {
        self.padding
    }

    /// Ids that end a text or a turn: end-of-text, end-of-turn, end-of-message; ascending.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// Whether prompts begin with begin-of-text.
    pub fn adds_bos(&self) -> bool {
        self.add_bos
    }

    /// What a user should know before trusting its ids.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Every control token that has a spelling, as bytes.
    pub fn control_tokens(&self) -> impl Iterator<Item = (u32, &[u8])> {
        let all = (0u32..).zip(&self.bytes);
        all.filter(|(id, _)| self.is_control(*id)).map(|(id, b)| (id, b.as_slice()))
    }

    /// Whether the token has no text.
    pub fn is_control(&self, id: u32) -> bool {
        matches!(self.kinds.get(id as usize), Some(Kind::Control | Kind::Unknown))
    }

    /// True for tokens that are found by their spelling: control tokens and those that the model's
    /// makers added.
    pub fn is_spelled(&self, id: u32) -> bool {
        self.is_control(id) || self.kinds.get(id as usize) == Some(&Kind::UserDefined)
    }

    /// The id of a token by its spelling in the vocabulary, such as `<|eot_id|>`.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    /// The ids of a prompt: begin-of-text if the model expects it, then the text, in which
    /// control tokens are ordinary characters. For an encoder, the text between [CLS] and [SEP].
    pub fn encode(&self, text: &str) -> tokenizers::Result<Vec<u32>> {
        let mut ids: Vec<u32> = self.bos.filter(|_| self.add_bos).into_iter().collect();
        ids.extend(self.encode_piece(text, ControlTokens::AsText)?);
        ids.extend(self.eos.filter(|_| self.add_eos));
        Ok(ids)
    }

    /// The ids of a text, nothing added.
    pub fn encode_piece(&self, text: &str, control: ControlTokens) -> tokenizers::Result<Vec<u32>> {
        self.encode_at(Place::Start, text, control)
    }

    /// The ids of a text that stands at a place of a longer one.
    pub fn encode_at(
        &self,
        place: Place,
        text: &str,
        control: ControlTokens,
    ) -> tokenizers::Result<Vec<u32>> {
        let mut ids = Vec::new();
        let mut place = place;
        for fragment in self.spelled.cut(text, control) {
            let text = match fragment {
                Fragment::Token(id) => {
                    ids.push(id);
                    place = Place::Start;
                    continue;
                }
                Fragment::Text(text) => text,
            };
            match &self.words {
                Words::BytePairs(words) => words.tokenize(text, &mut ids)?,
                Words::WordPieces(words) => words.tokenize(text, &mut ids)?,
                Words::SentencePiece(words) => {
                    let space = if self.add_space && place == Place::Start { SPACE } else { "" };
                    words.tokenize(&format!("{space}{}", text.replace(' ', SPACE)), &mut ids);
                }
            }
            place = Place::Inside;
        }
        Ok(ids)
    }

    /// The text of ids, control tokens spelled out; bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| self.token_bytes(*id)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes of one token; none for an id outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id as usize).map_or(&[], Vec::as_slice)
    }

    /// A decoder for tokens that come one by one.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream { tokenizer: self, pending: Vec::new() }
    }
}

/// Turns a stream of ids into text, holding back bytes until they are whole characters.
#[derive(Debug)]
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    pending: Vec<u8>,
}

impl TextStream<'_> {
    /// Takes one token; returns the text that is certain so far, which may be empty.
    pub fn push(&mut self, id: u32) -> String {
        self.pending.extend_from_slice(self.tokenizer.token_bytes(id));
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.pending) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.pending.clear();
                    return text;
                }
                Err(e) => {
                    let (valid, rest) = self.pending.split_at(e.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    // No length: the rest may still become a character.
                    let Some(bad) = e.error_len() else {
                        self.pending = rest.to_vec();
                        return text;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    self.pending = rest[bad..].to_vec();
                }
            }
        }
    }

    /// What is left when no more tokens come.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

/// The bytes that a token's spelling means.
enum Spelling {
    /// GPT-2's alphabet; a character outside it means itself.
    Alphabet(HashMap<char, u8>),
    /// U+2581 is a space.
    Plain,
}

impl Spelling {
    fn of(scheme: Scheme) -> Self {
        match scheme {
            Scheme::Bpe(pre) if !pre.raw => {
                Self::Alphabet(bpe::alphabet().into_iter().zip(0..=255).collect())
            }
            _ => Self::Plain,
        }
    }

    fn bytes(&self, token: &str, kind: Kind) -> Vec<u8> {
        match (kind, self) {
            (Kind::Control | Kind::Unknown | Kind::UserDefined, _) => token.as_bytes().to_vec(),
            (Kind::Byte, _) => match byte(token) {
                Some(byte) => vec![byte],
                None => token.as_bytes().to_vec(),
            },
            (_, Self::Plain) => token.replace(SPACE, " ").into_bytes(),
            (_, Self::Alphabet(alphabet)) => {
                let mut bytes = Vec::with_capacity(token.len());
                for c in token.chars() {
                    match alphabet.get(&c) {
                        Some(byte) => bytes.push(*byte),
                        None => bytes.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
                    }
                }
                bytes
            }
        }
    }
}

/// The byte that `<0xE2>` spells.
fn byte(token: &str) -> Option<u8> {
    u8::from_str_radix(token.strip_prefix("<0x")?.strip_suffix('>')?, 16).ok()
}

#[cfg(test)]
mod tests;
