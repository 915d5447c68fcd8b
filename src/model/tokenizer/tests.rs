//! Tests of the tokenizer on a small hand-made vocabulary, and on the real one where it is at hand.

use super::*;
use crate::model::gguf_fixture::{Fixture, llama};

/// The 256 byte characters, a few words, three control tokens.
fn vocabulary() -> Fixture {
    let mut tokens: Vec<String> = bpe::alphabet().map(String::from).to_vec();
    // "Ġword" is whole in the vocabulary without merges that lead to it.
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
    // Digits in groups of three, from the left.
    assert_eq!(p("12312"), ["123", "12"]);
    // One newline belongs to the piece before it; contractions are cut off, whatever the case.
    assert_eq!(p("he's"), ["he", "'s"]);
    assert_eq!(p("he'S"), ["he", "'", "S"]);
    // The last space of a run goes with the word.
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
    let error = build(&vocabulary().text("tokenizer.ggml.pre", "kimi-k2")).unwrap_err().to_string();
    assert!(error.contains("\"kimi-k2\"") && error.contains("llama-bpe"), "{error}");
    let error = build(&vocabulary().text("tokenizer.ggml.model", "t5")).unwrap_err().to_string();
    assert!(error.contains("\"t5\"") && error.contains("gpt2"), "{error}");
}

#[test]
fn a_file_that_does_not_say_how_text_is_split_gets_llama_cpps_default_and_a_warning() {
    for file in
        [vocabulary().without("tokenizer.ggml.pre"), vocabulary().text("tokenizer.ggml.pre", "")]
    {
        let t = build(&file).unwrap();
        assert!(t.warning().unwrap().contains("tokenizer.ggml.pre"));
        assert!(!t.adds_bos(), "only the names say that prompts begin with begin-of-text");
        // Its words follow the merges, and digits come in threes.
        assert_eq!(pieces(&t, " word12", ControlTokens::AsText), [" w", "o", "r", "d", "12"]);
    }
    assert_eq!(build(&vocabulary()).unwrap().warning(), None);
}

/// A vocabulary of SentencePiece, with the bytes and some pieces.
fn sentence_piece() -> Fixture {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    let mut kinds = vec![2, 3, 3];
    tokens.extend((0..=255u8).map(|b| format!("<0x{b:02X}>")));
    kinds.extend([6; 256]);
    let pieces = [
        "\u{2581}",
        "h",
        "e",
        "l",
        "o",
        "he",
        "ll",
        "hell",
        "hello",
        "\u{2581}hello",
        "s",
        "<",
        ">",
        "<s",
    ];
    tokens.extend(pieces.map(String::from));
    kinds.extend([1; 14]);
    tokens.push("<think>".into());
    kinds.push(4);
    let n = tokens.len();
    llama()
        .text("tokenizer.ggml.model", "llama")
        .texts("tokenizer.ggml.tokens", &tokens)
        .i32s("tokenizer.ggml.token_type", &kinds)
        .tensor("token_embd.weight", &[64, n as u64], 8)
}

#[test]
fn sentence_piece_merges_the_best_pair_first_and_spells_the_rest_in_bytes() {
    let t = build(&sentence_piece()).unwrap();
    let p = |text| pieces(&t, text, ControlTokens::AsText);
    assert_eq!(p("hello"), [" hello"]);
    assert_eq!(p(""), [] as [&str; 0]);
    assert_eq!(t.encode_piece("é", ControlTokens::AsText).unwrap(), [259, 3 + 0xc3, 3 + 0xa9]);
    assert_eq!(t.encode("hello").unwrap()[0], 1, "begin-of-text by default");
    // No space behind other text; one behind a token.
    let inside = t.encode_at(Place::Inside, "hello", ControlTokens::AsText).unwrap();
    assert_eq!(inside, [t.id_of("hello").unwrap()]);
    assert_eq!(p("hello<think>hello"), [" hello", "<think>", " hello"]);
    assert_eq!(t.ends(), [2]);
    assert_eq!(t.decode(&[1, 268, 3 + 0xc3, 3 + 0xa9]), "<s> helloé");
}

#[test]
fn no_text_merges_into_a_control_token() {
    let t = build(&sentence_piece()).unwrap();
    let ids = t.encode_piece("<s>", ControlTokens::AsText).unwrap();
    assert!(!ids.contains(&1), "{ids:?}");
    assert_eq!(t.encode_piece("<s>", ControlTokens::Parse).unwrap(), [1]);
    // A control token that is spelled like a word.
    let named = vocabulary().texts("tokenizer.ggml.merges", &["h e"]);
    let mut kinds = vec![1; 256 + 9];
    kinds.extend([3, 3, 3]);
    kinds[256 + 3] = 3;
    let t = build(&named.i32s("tokenizer.ggml.token_type", &kinds)).unwrap();
    let hello = t.id_of("hello").unwrap();
    assert!(!t.encode_piece("hello", ControlTokens::AsText).unwrap().contains(&hello));
    assert_eq!(t.encode_piece("hello", ControlTokens::Parse).unwrap(), [hello]);
}

#[test]
fn user_defined_tokens_are_found_in_any_text_the_longest_first() {
    let mut kinds = vec![1; 256 + 9];
    kinds.extend([3, 3, 3]);
    (kinds[256], kinds[256 + 2]) = (4, 4); // "he" and "hell"
    let t = build(&vocabulary().i32s("tokenizer.ggml.token_type", &kinds)).unwrap();
    assert_eq!(pieces(&t, "xhellox he", ControlTokens::AsText), ["x", "hell", "o", "x", " ", "he"]);
}

#[test]
fn ids_need_no_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let ids =
        |fixture: &Fixture| Ids::of(&GgufFile::open(&fixture.write(folder.path())).unwrap(), 268);
    let all = ids(&vocabulary());
    assert_eq!((all.normal.len(), all.bos), (265, Some(265)));
    assert_eq!(ids(&vocabulary().text("tokenizer.ggml.pre", "never-heard-of")), all);
    assert_eq!(ids(&vocabulary().text("tokenizer.ggml.model", "rwkv")), all);
    let none = ids(&llama());
    assert_eq!((none.normal.len(), none.bos), (268, None));
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

/// ggml's vocabularies with their texts and ids: `LLM_BENCH_GGML_VOCABS=FOLDER cargo test
/// real_vocabularies -- --ignored`, where the folder is `models` of llama.cpp's sources.
#[test]
#[ignore = "needs llama.cpp's folder of vocabularies"]
fn the_real_vocabularies_give_the_ids_of_llama_cpp() {
    let folder =
        std::env::var("LLM_BENCH_GGML_VOCABS").expect("the folder in LLM_BENCH_GGML_VOCABS");
    let (mut files, mut pairs) = (0, 0);
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let text = |end: &str| std::fs::read_to_string(format!("{}{end}", path.display())).ok();
        let is_gguf = path.extension().is_some_and(|e| e == "gguf");
        let (true, Some(texts), Some(ids)) = (is_gguf, text(".inp"), text(".out")) else {
            continue;
        };
        let file = GgufFile::open(&path).unwrap();
        if file.text("tokenizer.ggml.model") == Some("bert") {
            continue; // WordPiece has Hugging Face's ids: see `wordpiece`
        }
        let t = Tokenizer::from_gguf(&file).unwrap();
        for (text, line) in texts.split("\n__ggml_vocab_test__\n").zip(ids.lines()) {
            let expected: Vec<u32> =
                line.split_whitespace().map(|id| id.parse().unwrap()).collect();
            for control in [ControlTokens::AsText, ControlTokens::Parse] {
                let got = t.encode_piece(text, control).unwrap();
                assert_eq!(got, expected, "{}: {text:?}", path.display());
            }
            pairs += 1;
        }
        files += 1;
    }
    println!("{pairs} pairs of {files} vocabularies");
    assert!(files >= 12 && pairs >= 12 * 40, "{pairs} pairs of {files} vocabularies");
}
