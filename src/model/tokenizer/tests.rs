//! Tests of the tokenizer on a small hand-made vocabulary, and on the real one if it is available.

use std::path::Path;

use super::*;
use crate::model::gguf_fixture::{Fixture, llama};

/// The 256 byte characters, a few words, three control tokens.
fn vocabulary() -> Fixture {
    let mut alphabet: Vec<_> = byte_of_char().into_iter().map(|(c, b)| (b, c)).collect();
    alphabet.sort();
    let mut tokens: Vec<String> = alphabet.iter().map(|(_, c)| c.to_string()).collect();
    // The vocabulary holds "Ġword" as a whole, but no merges lead to it.
    let words = ["he", "ll", "hell", "hello", "Ġw", "Ġword", "12", "123", "'s"];
    tokens.extend(words.map(str::to_owned));
    let mut kinds = vec![1; tokens.len()];
    tokens.extend(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"].map(str::to_owned));
    kinds.extend([3, 3, 3]);
    let bos = tokens.len() as u32 - 3;
    llama()
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "llama-bpe")
        .texts("tokenizer.ggml.tokens", &tokens)
        .texts(
            "tokenizer.ggml.merges",
            &["h e", "l l", "he ll", "hell o", "Ġ w", "1 2", "12 3", "' s"],
        )
        .i32s("tokenizer.ggml.token_type", &kinds)
        .u32("tokenizer.ggml.bos_token_id", bos)
        .u32("tokenizer.ggml.eos_token_id", bos + 1)
        .tensor("token_embd.weight", &[64, tokens.len() as u64], 8)
}

fn build(fixture: &Fixture) -> Result<Tokenizer, GgufError> {
    let folder = tempfile::tempdir().unwrap();
    Tokenizer::from_gguf(&GgufFile::open(&fixture.write(folder.path())).unwrap())
}

fn pieces(tokenizer: &Tokenizer, text: &str, control: ControlTokens) -> Vec<String> {
    let ids = tokenizer.encode_piece(text, control).unwrap();
    ids.iter().map(|id| tokenizer.decode(&[*id])).collect()
}

#[test]
fn text_is_cut_and_merged_as_llama_3_does() {
    let t = build(&vocabulary()).unwrap();
    let p = |text| pieces(&t, text, ControlTokens::AsText);
    assert_eq!(p("hello word"), ["hello", " word"]);
    // Digits form groups of three, from the left.
    assert_eq!(p("12312"), ["123", "12"]);
    // One newline belongs to the piece before it; contractions are split off in either case.
    assert_eq!(p("he's"), ["he", "'s"]);
    assert_eq!(p("he'S"), ["he", "'", "S"]);
    // The last space of a run belongs to the word.
    assert_eq!(p("  word"), [" ", " word"]);
}

#[test]
fn a_prompt_begins_with_begin_of_text_unless_the_file_says_otherwise() {
    let t = build(&vocabulary()).unwrap();
    assert_eq!(t.encode("hello").unwrap()[0], t.bos().unwrap());
    assert_eq!(t.encode("").unwrap(), [t.bos().unwrap()]);
    let without = build(&vocabulary().flag("tokenizer.ggml.add_bos_token", false)).unwrap();
    assert_eq!(without.encode("hello").unwrap().len(), 1);
}

#[test]
fn control_tokens_in_a_text_are_text_unless_asked_for() {
    let t = build(&vocabulary()).unwrap();
    let eot = t.id_of("<|eot_id|>").unwrap();
    let text = "hello<|eot_id|> word";
    let parsed = t.encode_piece(text, ControlTokens::Parse).unwrap();
    assert_eq!(parsed.len(), 3);
    assert_eq!(parsed[1], eot);
    let plain = t.encode_piece(text, ControlTokens::AsText).unwrap();
    assert!(!plain.contains(&eot));
    assert_eq!(t.decode(&plain), text);
    assert_eq!(t.decode(&parsed), text);
    assert!(t.is_control(eot) && !t.is_control(parsed[0]));
    assert!(!t.normal_ids().contains(&eot));
    assert_eq!(t.normal_ids().len(), t.n_vocab() - 3);
}

#[test]
fn any_text_survives_the_way_there_and_back() {
    let t = build(&vocabulary()).unwrap();
    for text in ["", " ", "\n\n \t", "Äpfel 🚀 漢字\u{a0}x\u{ad}", "a\r\nb", "l'été"] {
        assert_eq!(t.decode(&t.encode_piece(text, ControlTokens::AsText).unwrap()), text);
    }
}

#[test]
fn a_stream_holds_characters_back_until_they_are_whole() {
    let t = build(&vocabulary()).unwrap();
    let ids = t.encode_piece("a🚀é", ControlTokens::AsText).unwrap();
    assert_eq!(ids.len(), 7);
    let mut stream = t.stream();
    let parts: Vec<_> = ids.iter().map(|id| stream.push(*id)).collect();
    assert_eq!(parts, ["a", "", "", "", "🚀", "", "é"]);
    assert_eq!(stream.finish(), "");

    let byte = |b: u8| u32::from(b);
    let mut broken = t.stream();
    assert_eq!(broken.push(byte(0xf0)), "");
    assert_eq!(broken.push(byte(b'a')), "\u{fffd}a");
    assert_eq!(broken.push(byte(0xff)), "\u{fffd}");
    assert_eq!(broken.push(byte(0xc3)), "");
    assert_eq!(broken.finish(), "\u{fffd}");
}

#[test]
fn an_unknown_pre_tokenizer_is_refused_by_its_name() {
    let error = build(&vocabulary().text("tokenizer.ggml.pre", "qwen2")).unwrap_err().to_string();
    assert!(error.contains("\"qwen2\"") && error.contains("llama-bpe"), "{error}");
    let error = build(&vocabulary().text("tokenizer.ggml.model", "llama")).unwrap_err();
    assert!(error.to_string().contains("gpt2"), "{error}");
    assert!(build(&vocabulary().without("tokenizer.ggml.pre")).is_err());
}

#[test]
fn hostile_vocabularies_are_refused_and_never_panic() {
    let refused = |fixture: Fixture, part: &str| {
        let error = build(&fixture).unwrap_err().to_string();
        assert!(error.contains(part), "{part} not in {error}");
    };
    refused(vocabulary().texts("tokenizer.ggml.merges", &["abc"]), "merges");
    refused(vocabulary().texts("tokenizer.ggml.merges", &["he "]), "merges");
    let long = format!("{} {}", "a".repeat(500), "b".repeat(500));
    refused(vocabulary().texts("tokenizer.ggml.merges", &[long]), "merges");
    refused(vocabulary().texts("tokenizer.ggml.merges", &["he z"]), "vocabulary");
    refused(vocabulary().i32s("tokenizer.ggml.token_type", &[1, 1]), "token_type");
    refused(vocabulary().u32("tokenizer.ggml.bos_token_id", 9999), "bos_token_id");
    refused(vocabulary().without("tokenizer.ggml.bos_token_id"), "bos_token_id");
    refused(vocabulary().without("tokenizer.ggml.tokens"), "tokens");
    refused(vocabulary().u32("tokenizer.ggml.tokens", 1), "tokens");
}

/// `LLM_BENCH_LLAMA_VOCAB=…/ggml-vocab-llama-bpe.gguf cargo test real_vocabulary -- --ignored`: the
/// vocabulary file of llama.cpp's `models` folder, with its `.inp` and `.out` beside it.
#[test]
#[ignore = "needs llama.cpp's ggml-vocab-llama-bpe.gguf"]
fn the_real_vocabulary_gives_the_ids_of_llama_cpp() {
    let path = std::env::var("LLM_BENCH_LLAMA_VOCAB").expect("the path in LLM_BENCH_LLAMA_VOCAB");
    let begin = std::time::Instant::now();
    let file = GgufFile::open(Path::new(&path)).unwrap();
    let opened = begin.elapsed();
    let begin = std::time::Instant::now();
    let t = Tokenizer::from_gguf(&file).unwrap();
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    println!("open {opened:?}, build {:?}, {} entries", begin.elapsed(), t.n_vocab());
    println!("{}.{:03} s of this thread so far", cpu.tv_sec, cpu.tv_nsec / 1_000_000);
    let texts = std::fs::read_to_string(format!("{path}.inp")).unwrap();
    let ids = std::fs::read_to_string(format!("{path}.out")).unwrap();
    let texts: Vec<_> = texts.split("\n__ggml_vocab_test__\n").collect();
    let mut pairs = 0;
    for (text, line) in texts.iter().zip(ids.lines()) {
        let expected: Vec<u32> = line.split_whitespace().map(|id| id.parse().unwrap()).collect();
        for control in [ControlTokens::AsText, ControlTokens::Parse] {
            assert_eq!(t.encode_piece(text, control).unwrap(), expected, "{text:?}");
        }
        assert_eq!(t.decode(&expected), *text);
        pairs += 1;
    }
    println!("{pairs} pairs");
    assert!(pairs >= 40, "{pairs} pairs");
    assert_eq!(t.encode("Hello world").unwrap(), [128000, 9906, 1917]);
    assert_eq!(t.encode_piece("<|eot_id|>", ControlTokens::Parse).unwrap(), [128009]);
    assert_eq!(t.normal_ids().len(), 128_000);
    for name in crate::workload::PromptSet::names() {
        let set = crate::workload::PromptSet::embedded(&name).unwrap();
        let workload = crate::workload::Workload::from_set(&set, &t, None).unwrap();
        for prompt in &workload.prompts {
            println!("{name} {} {}", prompt.id, prompt.ids.len());
        }
    }
}
