//! The tokenizer of a model, built from the vocabulary inside its own GGUF file. The harness turns
//! text into ids here, once; engines receive ids.

use candle_core::quantized::gguf_file::Value;
use tokenizers::models::bpe::{BPE, Merges};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    AddedToken, Model, OffsetType, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior,
};

use super::gguf::{GgufError, GgufFile};

/// How LLaMA 3 splits text before byte-pair encoding.
const LLAMA3_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The names of that split in GGUF files.
const LLAMA3_NAMES: [&str; 3] = ["llama-bpe", "llama-v3", "llama3"];

const NORMAL: i64 = 1;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// How to read text that spells a control token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlTokens {
    /// As ordinary characters: for prompts, which must not be able to end a turn.
    AsText,
    /// As the token: for chat templates.
    Parse,
}

/// Text to ids and back.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The bytes of each id, in order.
    bytes: Vec<Vec<u8>>,
    kinds: Vec<i64>,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    /// Ids that end a text or a turn.
    ends: Vec<u32>,
}

/// The control tokens of LLaMA 3 that end a text, a turn or a message.
const LLAMA3_ENDS: [&str; 3] = ["<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"];

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("n_vocab", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Builds the tokenizer that the file describes, in about a quarter of a second for 128,256
    /// entries. Refuses an unknown pre-tokenizer, because another split would give other ids.
    pub fn from_gguf(file: &GgufFile) -> Result<Self, GgufError> {
        let model = file.text("tokenizer.ggml.model").unwrap_or("none");
        if model != "gpt2" {
            return Err(file.unsupported(
                "tokenizer.ggml.model",
                "\"gpt2\" (byte-level BPE)",
                model,
            ));
        }
        let pre = file.text("tokenizer.ggml.pre").unwrap_or("none");
        if !LLAMA3_NAMES.contains(&pre) {
            let expected = format!("one of {LLAMA3_NAMES:?}");
            return Err(file.unsupported("tokenizer.ggml.pre", expected, format!("{pre:?}")));
        }
        let tokens = strings(file, "tokenizer.ggml.tokens")?;
        let merges = merges(file, &strings(file, "tokenizer.ggml.merges")?, &tokens)?;
        let kinds = kinds(file, tokens.len())?;
        let special = |key: &str| match file.number(key) {
            None => Ok(None),
            Some(id) if id < tokens.len() as u64 => Ok(Some(id as u32)),
            Some(id) => Err(file.unsupported(key, format!("an id below {}", tokens.len()), id)),
        };
        let bos = special("tokenizer.ggml.bos_token_id")?;
        let eos = special("tokenizer.ggml.eos_token_id")?;
        let add_bos = file.flag("tokenizer.ggml.add_bos_token").unwrap_or(true);
        if add_bos && bos.is_none() {
            return Err(file.unsupported("tokenizer.ggml.bos_token_id", "an id", "nothing"));
        }

        let broken = |e: tokenizers::Error| file.unsupported("the vocabulary", "a BPE", e);
        let vocab = tokens.iter().zip(0u32..).map(|(t, id)| ((*t).to_owned(), id)).collect();
        let bpe = BPE::builder().vocab_and_merges::<tokenizers::models::bpe::Vocab>(vocab, merges);
        // LLaMA 3: a word in the vocabulary is that token, whatever the merges say.
        let bpe = bpe.ignore_merges(true).build().map_err(broken)?;
        let mut inner = tokenizers::Tokenizer::new(bpe);
        let split = SplitPattern::Regex(LLAMA3_SPLIT.into());
        let split = Split::new(split, SplitDelimiterBehavior::Isolated, false).map_err(broken)?;
        inner.with_pre_tokenizer(Some(Sequence::new(vec![
            split.into(),
            ByteLevel::new(false, true, false).into(),
        ])));
        let added = tokens.iter().zip(&kinds).filter_map(|(token, kind)| match *kind {
            CONTROL => Some(AddedToken::from(*token, true)),
            USER_DEFINED => Some(AddedToken::from(*token, false)),
            _ => None,
        });
        inner.add_special_tokens(added.collect::<Vec<_>>()).map_err(broken)?;

        let mut ends: Vec<u32> = eos.into_iter().collect();
        for key in ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"] {
            ends.extend(special(key)?);
        }
        let is_end = |token: &&str| LLAMA3_ENDS.contains(token);
        ends.extend((0u32..).zip(&tokens).filter(|(_, t)| is_end(t)).map(|(id, _)| id));
        ends.retain(|id| kinds[*id as usize] == CONTROL || Some(*id) == eos);
        ends.sort_unstable();
        ends.dedup();

        let decode = byte_of_char();
        let bytes = tokens.iter().zip(&kinds).map(|(token, kind)| match *kind {
            CONTROL | USER_DEFINED => token.as_bytes().to_vec(),
            _ => token.chars().flat_map(|c| spelled(c, &decode)).collect(),
        });
        Ok(Self { bytes: bytes.collect(), inner, kinds, bos, eos, add_bos, ends })
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

    /// Ids that end a text or a turn: end-of-text, end-of-turn, end-of-message; ascending.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// Whether prompts begin with begin-of-text.
    pub fn adds_bos(&self) -> bool {
        self.add_bos
    }

    /// Every token that is recognized by its spelling in `ControlTokens::Parse`, as bytes.
    pub fn spelled_tokens(&self) -> impl Iterator<Item = (u32, &[u8])> {
        let is_spelled = |kind: i64| kind == CONTROL || kind == USER_DEFINED;
        let all = (0u32..).zip(&self.bytes).zip(&self.kinds);
        all.filter(move |(_, kind)| is_spelled(**kind)).map(|((id, b), _)| (id, b.as_slice()))
    }

    /// Whether the token has no text.
    pub fn is_control(&self, id: u32) -> bool {
        self.kinds.get(id as usize) == Some(&CONTROL)
    }

    /// The id of a token by its spelling in the vocabulary, such as `<|eot_id|>`.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The ids of ordinary text pieces, in order. Random prompts are drawn from them.
    pub fn normal_ids(&self) -> Vec<u32> {
        (0u32..).zip(&self.kinds).filter(|(_, k)| **k == NORMAL).map(|(id, _)| id).collect()
    }

    /// The ids of a prompt: begin-of-text if the model expects it, then the text, in which control
    /// tokens are ordinary characters.
    pub fn encode(&self, text: &str) -> tokenizers::Result<Vec<u32>> {
        let mut ids: Vec<u32> = self.bos.filter(|_| self.add_bos).into_iter().collect();
        ids.extend(self.encode_piece(text, ControlTokens::AsText)?);
        Ok(ids)
    }

    /// The ids of a text, with nothing added.
    pub fn encode_piece(&self, text: &str, control: ControlTokens) -> tokenizers::Result<Vec<u32>> {
        let encoding = match control {
            ControlTokens::Parse => self.inner.encode_fast(text, false)?,
            // Runs the same stages without the search for added tokens.
            ControlTokens::AsText => {
                let mut pieces = PreTokenizedString::from(text);
                if let Some(pre) = self.inner.get_pre_tokenizer() {
                    pre.pre_tokenize(&mut pieces)?;
                }
                pieces.tokenize(|piece| self.inner.get_model().tokenize(piece.get()))?;
                pieces.into_encoding(None, 0, OffsetType::None)?
            }
        };
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of ids, with control tokens spelled out. Bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| self.token_bytes(*id)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes of one token; empty for an id outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id as usize).map_or(&[], Vec::as_slice)
    }

    /// A decoder for tokens that arrive one by one.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream { tokenizer: self, pending: Vec::new() }
    }
}

/// Turns a stream of ids into text and holds back bytes until they form whole characters.
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
                    // Without a length, the rest may still become a character.
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

    /// The bytes still held back, once no more tokens come.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

fn strings<'f>(file: &'f GgufFile, key: &str) -> Result<Vec<&'f str>, GgufError> {
    let values =
        file.array(key).ok_or_else(|| file.unsupported(key, "an array of strings", "nothing"))?;
    values
        .iter()
        .map(|value| match value {
            Value::String(text) => Ok(text.as_str()),
            other => {
                let found = format!("{:?}", other.value_type());
                Err(file.unsupported(key, "an array of strings", found))
            }
        })
        .collect()
}

fn merges(file: &GgufFile, merges: &[&str], tokens: &[&str]) -> Result<Merges, GgufError> {
    // The model's builder joins pairs in a buffer as large as the longest token.
    let longest = tokens.iter().map(|t| t.len()).max().unwrap_or(0);
    merges
        .iter()
        .map(|merge| match merge.split_once(' ') {
            Some((a, b)) if !a.is_empty() && !b.is_empty() && a.len() + b.len() <= longest => {
                Ok((a.to_owned(), b.to_owned()))
            }
            _ => {
                let expected = "two pieces of one token, with a space between";
                Err(file.unsupported("tokenizer.ggml.merges", expected, format!("{merge:?}")))
            }
        })
        .collect()
}

fn kinds(file: &GgufFile, n: usize) -> Result<Vec<i64>, GgufError> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let Some(values) = file.array(KEY) else { return Ok(vec![NORMAL; n]) };
    if values.len() != n {
        return Err(file.unsupported(KEY, format!("{n} values, as tokens"), values.len()));
    }
    let number = |value: &Value| match *value {
        Value::I32(v) => Ok(v.into()),
        Value::U32(v) => Ok(v.into()),
        _ => Err(file.unsupported(KEY, "numbers", format!("{:?}", value.value_type()))),
    };
    values.iter().map(number).collect()
}

/// GPT-2's spelling of bytes: printable ones are themselves, the rest follow from U+0100.
fn byte_of_char() -> std::collections::HashMap<char, u8> {
    let printable = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100;
    (0..=255u8)
        .map(|b| {
            let code = if printable(b) {
                u32::from(b)
            } else {
                next += 1;
                next - 1
            };
            (char::from_u32(code).unwrap_or_default(), b)
        })
        .collect()
}

/// The bytes that a character of a token means; a character outside the alphabet means itself.
fn spelled(c: char, decode: &std::collections::HashMap<char, u8>) -> Vec<u8> {
    match decode.get(&c) {
        Some(byte) => vec![*byte],
        None => c.to_string().into_bytes(),
    }
}

#[cfg(test)]
mod tests;
