//! The vocabulary of synthetic files, used like an engine would: a tokenizer built from the file's
//! metadata alone.

use candle_core::quantized::gguf_file::{Content, Value};
use llm_bench::model::arch::ArchSpec;
use llm_bench::model::quant::Quant;
use llm_bench::model::synth::synthesize;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{SplitDelimiterBehavior, Tokenizer};

/// LLaMA 3's split pattern.
const PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn content(n_vocab: u32) -> Content {
    let spec = ArchSpec {
        name: "Vocabulary only".into(),
        n_layers: 1,
        n_embd: 2,
        n_ff: 2,
        n_heads: 1,
        n_kv_heads: 1,
        head_dim: 2,
        n_vocab,
        context_length: 128,
        rope_base: 10_000.0,
        rms_eps: 1e-5,
        rope_scaling: None,
        tied: true,
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.gguf");
    synthesize(&spec, Quant::F16, 0, &path, 1, &mut |_, _| {}).unwrap();
    Content::read(&mut std::io::Cursor::new(std::fs::read(path).unwrap())).unwrap()
}

fn strings(content: &Content, key: &str) -> Vec<String> {
    let all = content.metadata[key].to_vec().unwrap();
    all.iter().map(|v| v.to_string().unwrap().clone()).collect()
}

fn tokenizer(content: &Content, ignore_merges: bool) -> Tokenizer {
    let tokens = strings(content, "tokenizer.ggml.tokens");
    let merges = strings(content, "tokenizer.ggml.merges");
    let merges = merges
        .iter()
        .map(|m| m.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap())
        .collect();
    // The builder looks up both halves of each merge and refuses those outside the vocabulary.
    let bpe = BPE::builder()
        .vocab_and_merges(tokens.into_iter().zip(0..).collect::<Vocab>(), merges)
        .ignore_merges(ignore_merges)
        .build()
        .unwrap();
    let split =
        Split::new(SplitPattern::Regex(PATTERN.into()), SplitDelimiterBehavior::Isolated, false);
    let mut tokenizer = Tokenizer::new(bpe);
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
        split.unwrap().into(),
        ByteLevel::new(false, false, false).into(),
    ])));
    tokenizer.with_decoder(Some(ByteLevel::new(false, false, false)));
    tokenizer
}

fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, false).unwrap().get_ids().to_vec()
}

const PROSE: &str = "When the ferry came back in the evening, the captain told everyone that the \
    weather would change before the morning. Nobody wanted to believe him, because the sky was \
    clear and the sea was calm. They carried their boxes to the kitchen, made tea, and talked \
    about the price of bread. At ten o'clock the wind began to rise, and by midnight the old \
    house was shaking.";

const SOURCE: &str = r#"
def largest(values: list[int], limit: int = 100) -> int | None:
    """Return the largest value that is below the limit."""
    best = None
    for i, value in enumerate(values):
        if value < limit and (best is None or value > best):
            best = value
    return best
"#;

#[test]
fn a_full_vocabulary_has_llama_3_s_sizes_ids_and_special_tokens() {
    let content = content(128_256);
    let tokens = strings(&content, "tokenizer.ggml.tokens");
    assert_eq!(tokens.len(), 128_256);
    assert_eq!(tokens[128_000], "<|begin_of_text|>");
    assert_eq!(tokens[128_001], "<|end_of_text|>");
    assert_eq!(tokens[128_002], "<|reserved_special_token_0|>");
    assert_eq!(tokens[128_006], "<|start_header_id|>");
    assert_eq!(tokens[128_007], "<|end_header_id|>");
    assert_eq!(tokens[128_008], "<|eom_id|>");
    assert_eq!(tokens[128_009], "<|eot_id|>");
    assert_eq!(tokens[128_010], "<|python_tag|>");
    assert_eq!(tokens[128_011], "<|reserved_special_token_3|>");
    assert_eq!(tokens[128_255], "<|reserved_special_token_247|>");
    let distinct: std::collections::HashSet<_> = tokens.iter().collect();
    assert_eq!(distinct.len(), tokens.len());
    let meta = &content.metadata;
    assert_eq!(meta["tokenizer.ggml.bos_token_id"].to_u32().unwrap(), 128_000);
    assert_eq!(meta["tokenizer.ggml.eos_token_id"].to_u32().unwrap(), 128_009);
    let Value::Array(types) = &meta["tokenizer.ggml.token_type"] else {
        panic!("token_type is no array");
    };
    let control = types.iter().map(|t| t.to_i32().unwrap() == 3);
    assert!(control.enumerate().all(|(id, c)| c == (id >= 128_000)));
}

#[test]
fn prose_and_code_have_natural_token_counts_and_come_back_unchanged() {
    let content = content(128_256);
    let tokenizer = tokenizer(&content, true);
    let per_token = |text: &str| text.chars().count() as f64 / ids(&tokenizer, text).len() as f64;
    let (prose, source) = (per_token(PROSE), per_token(SOURCE));
    assert!((4.0..5.0).contains(&prose), "prose: {prose:.2} characters per token");
    assert!((2.5..4.2).contains(&source), "code: {source:.2} characters per token");
    let odd = "Ünïcödé: Straße, поезд, 日本語, 한국어, हिन्दी, 🦀\r\n\t\t1234567  end   \n\n";
    for text in [PROSE, SOURCE, odd] {
        assert_eq!(tokenizer.decode(&ids(&tokenizer, text), false).unwrap(), text);
    }
    assert_eq!(ids(&tokenizer, "1234567").len(), 3, "digits go in groups of three");
}

#[test]
fn every_shipped_word_is_one_token_with_and_without_a_leading_space() {
    let content = content(128_256);
    let tokenizer = tokenizer(&content, true);
    for list in
        [include_str!("../models/vocab/english.txt"), include_str!("../models/vocab/code.txt")]
    {
        let words = list.lines().filter(|l| !l.starts_with("# "));
        for word in words.flat_map(str::split_whitespace) {
            assert_eq!(ids(&tokenizer, word).len(), 1, "{word:?}");
            assert_eq!(ids(&tokenizer, &format!(" {word}")).len(), 1, "\" {word}\"");
        }
    }
}

#[test]
fn merges_alone_cut_prose_as_ignore_merges_does() {
    let content = content(128_256);
    let (with, without) = (tokenizer(&content, true), tokenizer(&content, false));
    assert_eq!(ids(&with, PROSE), ids(&without, PROSE));
}

#[test]
fn a_small_vocabulary_still_encodes_every_text() {
    for n_vocab in [272, 512, 1024] {
        let content = content(n_vocab);
        assert_eq!(strings(&content, "tokenizer.ggml.tokens").len(), n_vocab as usize);
        let tokenizer = tokenizer(&content, true);
        let text = format!("{PROSE}{SOURCE}日本\u{0}");
        let ids = ids(&tokenizer, &text);
        assert!(ids.iter().all(|&id| id < n_vocab - 16));
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    }
}
