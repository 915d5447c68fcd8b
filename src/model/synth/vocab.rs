//! The vocabulary of a synthetic file: byte-level BPE in LLaMA 3's form, learned from word lists
//! that llm-bench ships, so that texts have natural token counts without any tokenizer file. Its
//! tokens are not LLaMA's; its special tokens have LLaMA 3's names and ids.

use anyhow::{Result, ensure};

use super::bpe::Trainer;

const ENGLISH: &str = include_str!("../../../models/vocab/english.txt");
const CODE: &str = include_str!("../../../models/vocab/code.txt");
const OTHER: &str = include_str!("../../../models/vocab/other.txt");
const SYMBOLS: &str = include_str!("../../../models/vocab/symbols.txt");

/// Special tokens of a full vocabulary; a small one for tests has fewer.
const SPECIALS: usize = 256;
const SPECIALS_SMALL: usize = 16;
/// Vocabularies from this size on have all special tokens.
const FULL_FROM: usize = 4096;

/// Lays out a chat in LLaMA 3's header form, without tools and dates.
pub const CHAT_TEMPLATE: &str = "{{- bos_token }}\
{%- for message in messages %}\
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}\
{{- message['content'] | trim + '<|eot_id|>' }}\
{%- endfor %}\
{%- if add_generation_prompt %}\
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\
{%- endif %}";

/// Tokens and merges in the form that a GGUF file holds.
#[derive(Clone)]
pub struct Vocabulary {
    /// Indexed by id; bytes are written as GPT-2's printable characters.
    pub tokens: Vec<String>,
    /// `left right`, in order of rank.
    pub merges: Vec<String>,
    /// The special tokens come last, from this id on.
    pub first_special: u32,
}

impl Vocabulary {
    /// `<|begin_of_text|>`
    pub fn bos(&self) -> u32 {
        self.first_special
    }

    /// `<|eot_id|>`, which ends a turn of the instruct models.
    pub fn eot(&self) -> u32 {
        self.first_special + 9
    }

    /// `tokenizer.ggml.token_type`: 1 is normal, 3 control.
    pub fn token_types(&self) -> Vec<i32> {
        let first = self.first_special as usize;
        (0..self.tokens.len()).map(|id| if id < first { 1 } else { 3 }).collect()
    }
}

/// Builds a vocabulary of exactly `n_vocab` tokens. 128256 gives LLaMA 3's sizes and ids. Small
/// ones (at least 272) have the 256 bytes, the most common merges and sixteen special tokens.
pub fn build(n_vocab: usize) -> Result<Vocabulary> {
    let specials = if n_vocab >= FULL_FROM { SPECIALS } else { SPECIALS_SMALL };
    ensure!(
        n_vocab >= 256 + specials,
        "a vocabulary of {n_vocab} has no room for 256 bytes and {specials} special tokens; n_vocab must be at least {}",
        256 + specials
    );
    let limit = n_vocab - specials;
    let bytes = byte_order();
    let mut trainer = Trainer::new(&bytes);
    trainer.learn(lexicon(), limit);
    trainer.learn(derived_words(), limit);
    trainer.learn(characters(), limit);
    ensure!(
        trainer.tokens().len() == limit,
        "the word lists give {} tokens, fewer than the {limit} that n_vocab {n_vocab} needs",
        trainer.tokens().len()
    );
    let stand_in = stand_ins();
    let printable =
        |token: &[u8]| -> String { token.iter().map(|&b| stand_in[usize::from(b)]).collect() };
    let mut tokens: Vec<String> = trainer.tokens().iter().map(|t| printable(t)).collect();
    let merges = trainer
        .merges()
        .iter()
        .map(|&(a, b)| format!("{} {}", tokens[a as usize], tokens[b as usize]))
        .collect();
    tokens.extend((0..specials).map(special_name));
    Ok(Vocabulary { tokens, merges, first_special: limit as u32 })
}

/// LLaMA 3.1's name of the special token at this place.
fn special_name(place: usize) -> String {
    let named = match place {
        0 => "begin_of_text",
        1 => "end_of_text",
        4 => "finetune_right_pad_id",
        6 => "start_header_id",
        7 => "end_header_id",
        8 => "eom_id",
        9 => "eot_id",
        10 => "python_tag",
        _ => "",
    };
    match place {
        2 | 3 => format!("<|reserved_special_token_{}|>", place - 2),
        5 => "<|reserved_special_token_2|>".to_owned(),
        11.. => format!("<|reserved_special_token_{}|>", place - 8),
        _ => format!("<|{named}|>"),
    }
}

/// The words of a list, without its comment lines.
fn words(list: &'static str) -> impl Iterator<Item = &'static str> {
    list.lines().filter(|line| !line.starts_with("# ")).flat_map(str::split_whitespace)
}

/// The forms of the shipped words that become single tokens, with Zipf's weights. No piece crosses
/// a boundary of LLaMA 3's split pattern.
pub(super) fn lexicon() -> Vec<(String, u64)> {
    let mut all: Vec<(String, u64)> = Vec::with_capacity(150_000);
    for (rank, word) in words(ENGLISH).enumerate() {
        let w = zipf(rank, 2_000_000_000);
        let title = title_case(word);
        all.push((format!(" {word}"), w));
        all.push((word.to_owned(), w / 4));
        if title != word {
            all.push((format!(" {title}"), w / 6));
            all.push((title, w / 6));
        }
    }
    for suffix in ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"] {
        all.push((suffix.to_owned(), zipf(20, 2_000_000_000)));
    }
    for (rank, word) in words(CODE).enumerate() {
        let w = zipf(rank, 600_000_000);
        all.push((word.to_owned(), w));
        all.push((format!(" {word}"), w));
        if rank < 5000 {
            all.push((format!("_{word}"), w / 2));
        }
        if rank < 4000 {
            all.push((format!(".{word}"), w / 2));
        }
        if rank < 1500 {
            all.push((format!("({word}"), w / 4));
        }
    }
    for (rank, word) in words(OTHER).enumerate() {
        let w = zipf(rank, 300_000_000);
        all.push((word.to_owned(), w / 2));
        // Japanese and Chinese have no spaces between words.
        if !word.chars().any(|c| ('\u{3000}'..'\u{a000}').contains(&c)) {
            all.push((format!(" {word}"), w));
            let title = title_case(word);
            if title != word {
                all.push((format!(" {title}"), w / 8));
            }
        }
    }
    symbols(&mut all);
    for n in 0..1000u32 {
        let w = zipf(n as usize, 300_000_000);
        all.push((format!("{n}"), w));
        if n < 100 {
            all.push((format!("{n:02}"), w));
        }
        all.push((format!("{n:03}"), w));
    }
    for letter in letters() {
        all.push((letter.to_string(), 2_000));
    }
    all
}

/// Punctuation alone, after a space and before line ends; runs of blanks and line ends.
fn symbols(all: &mut Vec<(String, u64)>) {
    for (rank, symbol) in words(SYMBOLS).enumerate() {
        let w = zipf(rank, 600_000_000);
        all.push((symbol.to_owned(), w));
        all.push((format!(" {symbol}"), w / 2));
        if symbol.is_ascii() {
            all.push((format!("{symbol}\n"), w / 4));
            all.push((format!("{symbol}\n\n"), w / 8));
        }
        if symbol.is_ascii() && rank < 100 {
            all.push((format!(" {symbol}\n"), w / 8));
        }
    }
    for n in 1..=80usize {
        let w = zipf(n, 900_000_000);
        all.push((" ".repeat(n), w));
        if n <= 16 {
            all.push(("\t".repeat(n), w / 2));
            all.push(("\n".repeat(n), w / 2));
            all.push((format!("{}\n", " ".repeat(n)), w / 8));
            all.push((format!("\n{}\n", " ".repeat(n)), w / 8));
            all.push((format!("{}\n", "\t".repeat(n)), w / 16));
        }
        if n <= 4 {
            all.push(("\r\n".repeat(n), w / 4));
        }
    }
}

/// Letters of many scripts, so that none costs more than one token.
fn letters() -> impl Iterator<Item = char> {
    [
        0xc0..=0x17f,    // Latin with accents
        0x391..=0x3ce,   // Greek
        0x400..=0x491,   // Cyrillic
        0x5d0..=0x5ea,   // Hebrew
        0x621..=0x64a,   // Arabic
        0x901..=0x94d,   // Devanagari
        0xe01..=0xe4d,   // Thai
        0x1ea0..=0x1ef9, // Vietnamese
        0x3041..=0x3096, // Hiragana
        0x30a1..=0x30fc, // Katakana
    ]
    .into_iter()
    .flatten()
    .filter_map(char::from_u32)
}

/// English words with endings: many are real words, and all are plausible pieces.
fn derived_words() -> Vec<(String, u64)> {
    let mut all = Vec::with_capacity(300_000);
    for (rank, word) in words(ENGLISH).enumerate() {
        if word.len() < 3 || !word.bytes().all(|b| b.is_ascii_lowercase()) {
            continue;
        }
        let w = zipf(rank, 2_000_000_000);
        let (stem, last) = word.split_at(word.len() - 1);
        let forms = match last {
            "e" => ["s", "d", "r"]
                .map(|end| format!("{word}{end}"))
                .into_iter()
                .chain([format!("{stem}ing")])
                .collect(),
            "y" => ["ies", "ied", "ier", "ily"].map(|end| format!("{stem}{end}")).to_vec(),
            "s" | "x" | "z" => vec![format!("{word}es"), format!("{word}ed")],
            _ if word.ends_with("ing") || word.ends_with("ed") || word.ends_with("ly") => vec![],
            _ => ["s", "ed", "ing", "er", "ly"].map(|end| format!("{word}{end}")).to_vec(),
        };
        for form in forms {
            all.push((format!(" {form}"), w / 8));
            all.push((form, w / 32));
        }
    }
    all
}

/// Chinese characters and Korean syllables, which fill the rest of the vocabulary.
fn characters() -> Vec<(String, u64)> {
    (0x4e00..=0x9fff)
        .chain(0xac00..=0xd7a3)
        .filter_map(char::from_u32)
        .map(|c| (c.to_string(), 1))
        .collect()
}

/// Weight of the word at this rank, from 0.
fn zipf(rank: usize, first: u64) -> u64 {
    10 * first / (rank as u64 + 10)
}

fn title_case(word: &str) -> String {
    let mut chars = word.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// GPT-2's order of the 256 bytes: the printable ones first. LLaMA 3 keeps it.
fn byte_order() -> [u8; 256] {
    let printable = |b: &u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let mut order: Vec<u8> = (0..=255).filter(printable).collect();
    order.extend((0..=255u8).filter(|b| !printable(b)));
    order.try_into().expect("every byte occurs once")
}

/// GPT-2's printable character for each byte: itself, or the next free one from U+0100 on.
fn stand_ins() -> [char; 256] {
    let mut table = ['\0'; 256];
    let mut next = 0x100;
    for (place, b) in byte_order().into_iter().enumerate() {
        table[usize::from(b)] = if place < 188 {
            char::from(b)
        } else {
            next += 1;
            char::from_u32(next - 1).expect("a Latin letter")
        };
    }
    table
}
