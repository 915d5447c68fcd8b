//! WordPiece as BERT has it, on the model, the normalizer and the pre-tokenizer of the `tokenizers`
//! crate: text is cleaned, made lowercase without accents, cut at spaces and punctuation, and each
//! word becomes the longest pieces from the left.

use tokenizers::models::bpe::Vocab;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{
    Model, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer,
};

use super::vocabulary::{Kind, Vocabulary};
use crate::model::encoder::vocabulary::read;
use crate::model::gguf::{GgufError, GgufFile};

/// A word of more characters is the unknown token, as in every BERT.
const MAX_WORD: usize = 100;

/// Words to ids.
pub struct WordPieces {
    model: WordPiece,
    normalizer: BertNormalizer,
}

impl WordPieces {
    pub fn new(file: &GgufFile, vocabulary: &Vocabulary<'_>) -> Result<Self, GgufError> {
        const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
        let unknown =
            vocabulary.unknown.ok_or_else(|| file.unsupported(UNKNOWN, "an id", "nothing"))?;
        let mut pieces = Vocab::new();
        let mut unk_token = String::new();
        for ((token, kind), id) in vocabulary.tokens.iter().zip(&vocabulary.kinds).zip(0u32..) {
            let special = matches!(kind, Kind::Control | Kind::Unknown);
            let piece = read(token, special);
            if id == unknown {
                unk_token.clone_from(&piece);
            } else if special {
                // No text becomes a control token.
                continue;
            }
            pieces.entry(piece).or_insert(id);
        }
        let model = WordPiece::builder()
            .vocab(pieces)
            .unk_token(unk_token)
            .max_input_chars_per_word(MAX_WORD)
            .build()
            .map_err(|e| file.unsupported("the vocabulary", "WordPiece", e))?;
        let lowercase = file.flag("llm_bench.lowercase").unwrap_or(true);
        Ok(Self { model, normalizer: BertNormalizer::new(true, true, None, lowercase) })
    }

    /// Adds the ids of a text.
    pub fn tokenize(&self, text: &str, ids: &mut Vec<u32>) -> tokenizers::Result<()> {
        let mut normalized = NormalizedString::from(text);
        self.normalizer.normalize(&mut normalized)?;
        let mut words = PreTokenizedString::from(normalized);
        BertPreTokenizer.pre_tokenize(&mut words)?;
        for (word, _, _) in words.get_splits(OffsetReferential::Original, OffsetType::None) {
            ids.extend(self.model.tokenize(word)?.iter().map(|token| token.id));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use crate::model::encoder::EncoderSpec;
    use crate::model::encoder::tests::minilm;
    use crate::model::gguf::GgufFile;
    use crate::model::quant::Quant;
    use crate::model::synth::encoder::synthesize;
    use crate::model::tokenizer::{ControlTokens, Tokenizer};

    /// Written by `scripts/wordpiece_golden.py` with Hugging Face's tokenizers.
    const GOLDEN: &str = include_str!("../../../tests/data/wordpiece.jsonl");

    #[derive(Deserialize)]
    struct Case {
        text: String,
        ids: Vec<u32>,
    }

    /// The tokenizer of bert-base-uncased.
    fn uncased() -> Tokenizer {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        let spec = EncoderSpec { n_layers: 1, n_embd: 32, n_ff: 32, n_heads: 1, ..minilm() };
        synthesize(&spec, Quant::Q8_0, 1, &path, 1, &mut |_, _| {}).unwrap();
        Tokenizer::from_gguf(&GgufFile::open(&path).unwrap()).unwrap()
    }

    /// The number of texts, all of which must have their ids.
    fn check(lines: &str) -> usize {
        let tokenizer = uncased();
        let (cls, sep) = (tokenizer.bos().unwrap(), tokenizer.eos().unwrap());
        for line in lines.lines() {
            let Case { text, ids } = serde_json::from_str(line).unwrap();
            let mut found = vec![cls];
            found.extend(tokenizer.encode_piece(&text, ControlTokens::Parse).unwrap());
            found.push(sep);
            assert_eq!(found, ids, "{text:?}");
        }
        lines.lines().count()
    }

    #[test]
    fn ids_are_those_of_hugging_face() {
        assert!(check(GOLDEN) >= 300);
    }

    /// As many texts as a file has: see `scripts/wordpiece_golden.py`.
    #[test]
    #[ignore = "LLM_BENCH_WORDPIECE names a file of texts and ids"]
    fn ids_of_many_wordpiece_texts_are_those_of_hugging_face() {
        let path = std::env::var("LLM_BENCH_WORDPIECE").expect("LLM_BENCH_WORDPIECE names a file");
        println!("{} texts", check(&std::fs::read_to_string(path).unwrap()));
    }

    #[test]
    fn a_text_stands_between_cls_and_sep_and_spells_neither() {
        let tokenizer = uncased();
        let ids = tokenizer.encode("Is it [SEP] or [CLS]?").unwrap();
        let special = |id: u32| ids.iter().filter(|found| **found == id).count();
        assert_eq!((ids[0], ids[ids.len() - 1]), (101, 102));
        assert_eq!((special(101), special(102)), (1, 1));
        assert_eq!(tokenizer.encode("").unwrap(), [101, 102]);
        assert_eq!(
            tokenizer.decode(&tokenizer.encode("Playing fair").unwrap()[1..3]),
            " playing fair"
        );
    }
}
