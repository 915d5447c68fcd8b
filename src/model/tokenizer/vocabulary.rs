//! What a GGUF file says of its vocabulary: tokens and their kinds, special ids, and which tokens end
//! a generation. Read as llama.cpp reads it, with its defaults and its repairs of common faults.

use candle_core::quantized::gguf_file::Value;

use super::split::PreTokenizer;
use crate::model::gguf::{GgufError, GgufFile};

/// What a token is (`llama_token_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Normal,
    Unknown,
    /// Without text: begin, end, turns.
    Control,
    /// Added by the model's makers: found in any text by its spelling.
    UserDefined,
    /// A byte, spelled `<0xE2>`.
    Byte,
    /// Unused or of no known kind.
    Other,
}

impl Kind {
    fn of(number: i64) -> Self {
        match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            6 => Self::Byte,
            _ => Self::Other,
        }
    }
}

/// How text becomes tokens.
#[derive(Debug, Clone, Copy)]
pub enum Scheme {
    /// Byte-pair encoding of words, which the pre-tokenizer cuts.
    Bpe(&'static PreTokenizer),
    /// SentencePiece, as LLaMA 2, Mistral and TinyLlama have it.
    SentencePiece,
    /// WordPiece, as BERT has it.
    WordPiece,
}

/// The vocabulary of a file.
pub struct Vocabulary<'f> {
    pub scheme: Scheme,
    pub tokens: Vec<&'f str>,
    pub kinds: Vec<Kind>,
    /// Of SentencePiece: the merge with the highest score comes first.
    pub scores: Vec<f32>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unknown: Option<u32>,
    pub padding: Option<u32>,
    pub add_bos: bool,
    pub add_eos: bool,
    /// SentencePiece: a text begins with a space.
    pub add_space: bool,
    /// Special tokens take the white space behind them along.
    pub strips_right: bool,
    /// Ids that end a text or a turn, ascending.
    pub ends: Vec<u32>,
    /// What a user should know: the file leaves out how its text is split.
    pub warning: Option<String>,
}

const TOKENS: &str = "tokenizer.ggml.tokens";
const PRE: &str = "tokenizer.ggml.pre";

impl<'f> Vocabulary<'f> {
    /// Reads it all; refuses a scheme or a pre-tokenizer that is not known, because another one
    /// would give other ids.
    pub fn of(file: &'f GgufFile) -> Result<Self, GgufError> {
        let (scheme, warning) = scheme(file)?;
        let tokens = strings(file, TOKENS)?;
        let mut kinds = kinds(file, tokens.len())?;
        let sentence_piece = matches!(scheme, Scheme::SentencePiece);
        let id = |key: &str, default: Option<u32>| match file.number(&ggml(key)) {
            None => Ok(default.filter(|id| (*id as usize) < tokens.len())),
            Some(id) if id < tokens.len() as u64 => Ok(Some(id as u32)),
            Some(id) => {
                Err(file.unsupported(ggml(key), format!("an id below {}", tokens.len()), id))
            }
        };
        // llama.cpp's defaults for SentencePiece. Those for BPE (11) are an accident of one model.
        let default = |id: u32| sentence_piece.then_some(id);
        let mut bos = id("bos_token_id", default(1))?;
        let mut eos = id("eos_token_id", default(2))?;
        if matches!(scheme, Scheme::WordPiece) {
            bos = id("cls_token_id", bos)?;
            // llama.cpp spells it so.
            eos = id("seperator_token_id", eos)?;
        }
        let (bos_by_default, always) = match scheme {
            Scheme::Bpe(pre) => (pre.add_bos, pre.raw),
            Scheme::SentencePiece => (true, false),
            // [CLS] and [SEP] belong to every text.
            Scheme::WordPiece => (true, true),
        };
        let flag = |key: &str, default| file.flag(&ggml(key)).unwrap_or(default);
        let add_bos = flag("add_bos_token", bos_by_default) || always;
        let add_eos = flag("add_eos_token", false) || matches!(scheme, Scheme::WordPiece);
        for (adds, id, key) in [(add_bos, bos, "bos_token_id"), (add_eos, eos, "eos_token_id")] {
            if adds && id.is_none() {
                return Err(file.unsupported(ggml(key), "an id", "nothing"));
            }
        }
        let mut named = Vec::new();
        for key in [
            "eot_token_id",
            "eom_token_id",
            "fim_pad_token_id",
            "fim_rep_token_id",
            "fim_sep_token_id",
        ] {
            named.push(id(key, None)?);
        }
        let ends = super::ends::find(&tokens, &mut kinds, eos, &named);
        Ok(Self {
            scheme,
            bos,
            eos,
            unknown: id("unknown_token_id", default(0))?,
            padding: id("padding_token_id", None)?,
            add_bos,
            add_eos,
            add_space: flag("add_space_prefix", sentence_piece),
            strips_right: is_phi3(file),
            scores: if sentence_piece { scores(file, tokens.len())? } else { Vec::new() },
            ends,
            warning,
            tokens,
            kinds,
        })
    }
}

fn ggml(key: &str) -> String {
    format!("tokenizer.ggml.{key}")
}

fn scheme(file: &GgufFile) -> Result<(Scheme, Option<String>), GgufError> {
    let model = file.text("tokenizer.ggml.model").unwrap_or("none");
    let pre = match (model, file.text(PRE)) {
        ("llama", _) => return Ok((Scheme::SentencePiece, None)),
        ("bert", _) => return Ok((Scheme::WordPiece, None)),
        ("gemma4", _) => "gemma4",
        ("gpt2", Some(pre)) if !pre.is_empty() => pre,
        ("gpt2", _) => {
            let warning = format!(
                "{}: it does not say how its text is split ({PRE}); llama.cpp's default is taken, \
                 with which answers can be worse. Convert the file again",
                file.path().display()
            );
            return Ok((
                Scheme::Bpe(PreTokenizer::named("default").expect("it is there")),
                Some(warning),
            ));
        }
        _ => {
            let expected = "\"gpt2\" (byte-level BPE), \"llama\" (SentencePiece), \"bert\" (WordPiece) \
                            or \"gemma4\"";
            return Err(file.unsupported("tokenizer.ggml.model", expected, format!("{model:?}")));
        }
    };
    match PreTokenizer::named(pre) {
        Some(pre) => Ok((Scheme::Bpe(pre), None)),
        None => {
            let expected = format!("one of {}", PreTokenizer::names().join(", "));
            Err(file.unsupported(PRE, expected, format!("{pre:?}")))
        }
    }
}

/// llama.cpp goes by the model's name too.
fn is_phi3(file: &GgufFile) -> bool {
    let name = file.text("general.name").unwrap_or_default().to_ascii_lowercase();
    name.contains("phi-3") || name.contains("phi3")
}

/// An array of texts.
pub fn strings<'f>(file: &'f GgufFile, key: &str) -> Result<Vec<&'f str>, GgufError> {
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

fn kinds(file: &GgufFile, n: usize) -> Result<Vec<Kind>, GgufError> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let Some(values) = file.array(KEY) else { return Ok(vec![Kind::Normal; n]) };
    if values.len() != n {
        return Err(file.unsupported(KEY, format!("{n} values, as tokens"), values.len()));
    }
    let number = |value: &Value| match *value {
        Value::I32(v) => Ok(Kind::of(v.into())),
        Value::U32(v) => Ok(Kind::of(v.into())),
        _ => Err(file.unsupported(KEY, "numbers", format!("{:?}", value.value_type()))),
    };
    values.iter().map(number).collect()
}

fn scores(file: &GgufFile, n: usize) -> Result<Vec<f32>, GgufError> {
    const KEY: &str = "tokenizer.ggml.scores";
    let Some(values) = file.array(KEY) else { return Ok(vec![0.0; n]) };
    if values.len() != n {
        return Err(file.unsupported(KEY, format!("{n} values, as tokens"), values.len()));
    }
    let number = |value: &Value| match *value {
        Value::F32(v) if !v.is_nan() => Ok(v),
        Value::I32(v) => Ok(v as f32),
        _ => Err(file.unsupported(KEY, "numbers", format!("{:?}", value.value_type()))),
    };
    values.iter().map(number).collect()
}

/// The ids that random prompts are drawn from. They need no tokenizer: a file whose text nobody can
/// split, or that has no vocabulary at all, has them too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    /// Ordinary text pieces, ascending.
    pub normal: Vec<u32>,
    /// Begin-of-text, where the file names it.
    pub bos: Option<u32>,
    /// End-of-text; of an encoder, the token that ends each text.
    pub eos: Option<u32>,
}

impl Ids {
    /// Of a model whose embedding has `n_vocab` rows.
    pub fn of(file: &GgufFile, n_vocab: u32) -> Self {
        let n = file.array(TOKENS).map_or(n_vocab, |tokens| n_vocab.min(tokens.len() as u32));
        let normal = match kinds(file, n as usize) {
            Ok(kinds) => {
                (0..n).zip(kinds).filter(|(_, k)| *k == Kind::Normal).map(|(id, _)| id).collect()
            }
            Err(_) => (0..n).collect(),
        };
        let bos = file.number("tokenizer.ggml.bos_token_id").filter(|id| *id < u64::from(n));
        let default = (file.text("tokenizer.ggml.model") == Some("llama")).then_some(1);
        let eos = file.number("tokenizer.ggml.eos_token_id").filter(|id| *id < u64::from(n));
        Self {
            normal,
            bos: bos.or(default).map(|id| id as u32).filter(|id| *id < n),
            eos: eos.map(|id| id as u32),
        }
    }
}
