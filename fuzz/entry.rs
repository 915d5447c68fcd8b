//! The functions that the fuzz targets call with their bytes; `tests/fuzz_corpus.rs` replays the
//! corpus through the same functions.

use std::path::Path;

use llm_bench::model::chat::jinja::{Conversation, Outcome, Task, run};
use llm_bench::model::gguf::GgufFile;
use llm_bench::model::tokenizer::{ControlTokens, Ids, Tokenizer};
use llm_bench::protocol::{
    MAX_REPLY, Message, Reply, Request, decode, read_message, write_message,
};

/// Does everything that harness and worker do with a model file before they compute.
pub fn gguf(bytes: &[u8]) {
    let path = Path::new("fuzzed.gguf");
    let header = GgufFile::of_bytes(path, bytes);
    if let Ok(file) = &header {
        let inspection = file.inspect();
        assert!(!inspection.to_string().is_empty());
        serde_json::to_string(&inspection).expect("an inspection is JSON");
        let config = file.llama_config();
        assert!(config.is_err() || file.model_config().is_ok());
        if let Ok(config) = &config {
            assert!(config.kv_values_per_position() > 0 && config.n_heads >= config.n_kv_heads);
        }
        assert!(file.weight_bytes_per_token() <= inspection.tensors.iter().map(|t| t.bytes).sum());
        Ids::of(file, 1 << 20);
        if let Ok(tokenizer) = Tokenizer::from_gguf(file) {
            tokenize(&tokenizer);
        }
    }
    // The worker must refuse what the harness refuses, and more.
    let worker = llm_bench::worker::candle::examine("fuzzed.gguf", bytes);
    assert!(worker.is_err() || header.is_ok_and(|file| file.model_config().is_ok()));
}

fn tokenize(tokenizer: &Tokenizer) {
    for text in ["", "Hello, world!  <|eot_id|>\r\n12345", "\u{0}é\u{10ffff} ’s 漢字 \t\u{301}"]
    {
        for control in [ControlTokens::AsText, ControlTokens::Parse] {
            if let Ok(ids) = tokenizer.encode_piece(text, control) {
                assert!(ids.iter().all(|id| (*id as usize) < tokenizer.n_vocab()));
                tokenizer.decode(&ids);
            }
        }
        if let Ok(ids) = tokenizer.encode(text) {
            let mut stream = tokenizer.stream();
            let mut text: String = ids.iter().map(|id| stream.push(*id)).collect();
            text.push_str(&stream.finish());
            assert_eq!(text, tokenizer.decode(&ids));
        }
    }
    let ids = [0, 1, u32::MAX, tokenizer.n_vocab() as u32];
    tokenizer.decode(&ids);
}

/// Instructions of one rendering: a loop that runs longer says nothing new.
const FUEL: u64 = 100_000;
/// More than any text of the longest input needs, even under the address sanitizer.
const STACK: usize = 1 << 30;

/// Does what the process that renders a chat template does, without that process's limits. Values
/// that refer to themselves need a `namespace`; those limits are there for them.
pub fn template(bytes: &[u8]) {
    let Ok(source) = std::str::from_utf8(bytes) else { return };
    if source.contains("namespace") {
        return;
    }
    let message = |role: &str, text: &str| (role.to_string(), text.to_string());
    let conversation = |messages, opens| Conversation { messages, opens };
    let messages = vec![message("system", "Be \"brief\"."), message("user", "<|im_end|> 1\r\n2")];
    let conversations = vec![conversation(messages, true), conversation(vec![], false)];
    let tokens = vec![message("bos_token", "<s>"), message("eos_token", "</s>")];
    let task = Task { source: source.to_string(), tokens, conversations };
    let thread = std::thread::Builder::new().stack_size(STACK);
    let rendered = thread.spawn(move || run(&task, FUEL)).expect("there is memory for a stack");
    match rendered.join().expect("it may refuse, not panic") {
        Outcome::Broken(why) => assert!(!why.contains('\n'), "one line: {why:?}"),
        Outcome::Rendered(texts) => assert_eq!(texts.len(), 2),
    }
}

/// Does everything that harness and engine do with a line before they act on it.
pub fn protocol(bytes: &[u8]) {
    lines::<Request>(bytes);
    lines::<Reply>(bytes);
}

fn lines<T: Message + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    assert!(bytes.len() <= MAX_REPLY, "no input of this size is asked for");
    let mut rest = bytes;
    let mut lines = bytes.split_inclusive(|b| *b == b'\n');
    loop {
        let read = read_message::<T>(&mut rest);
        let line = lines.next();
        let message = match (read, line) {
            (Ok(None), None) => return,
            // A broken line must not affect the next one.
            (Err(_), Some(line)) => {
                assert!(decode::<T>(line).is_err());
                continue;
            }
            (Ok(Some(message)), Some(_)) => message,
            other => panic!("lines and messages differ: {other:?}"),
        };
        let mut wire = Vec::new();
        write_message(&mut wire, &message).expect("a message can be written to memory");
        assert_eq!(wire.iter().filter(|b| **b == b'\n').count(), 1, "one message is one line");
        let again: T = decode(&wire).expect("what was written can be read");
        assert_eq!(message, again);
    }
}
