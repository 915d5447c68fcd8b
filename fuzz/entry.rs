//! The functions that the fuzz targets call with their bytes; `tests/fuzz_corpus.rs` replays the
//! corpus through the same functions.

use std::path::Path;

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
    assert!(worker.is_err() || header.is_ok_and(|file| file.llama_config().is_ok()));
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
