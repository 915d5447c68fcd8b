//! Replays the fuzzing corpus (fuzz/README.md) through the functions that were fuzzed, and damages
//! a small valid file in every simple way: nothing may panic.

use std::path::{Path, PathBuf};

use llm_bench::model::gguf::GgufFile;
use llm_bench::model::tokenizer::{ControlTokens, Tokenizer};
use llm_bench::worker::candle::examine;

#[path = "../fuzz/entry.rs"]
mod entry;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

/// Every file of the corpus and the seeds of one target.
fn replay(target: &str, run: fn(&[u8])) {
    let mut files = 0;
    for place in ["corpus", "seeds"] {
        for entry in std::fs::read_dir(folder(place).join(target)).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            if std::panic::catch_unwind(|| run(&bytes)).is_err() {
                panic!("{} makes it panic", path.display());
            }
            files += 1;
        }
    }
    assert!(files > 10, "{files} files for {target}: is the corpus there?");
}

#[test]
fn the_corpus_of_model_files_is_read_or_refused() {
    replay("gguf", entry::gguf);
}

#[test]
fn the_corpus_of_protocol_lines_is_read_or_refused() {
    replay("protocol", entry::protocol);
}

fn small_model() -> Vec<u8> {
    std::fs::read(folder("seeds/gguf/small.gguf")).unwrap()
}

#[test]
fn the_small_model_is_whole() {
    let bytes = small_model();
    let file = GgufFile::of_bytes(Path::new("small"), &bytes).unwrap();
    file.llama_config().unwrap();
    let tokenizer = Tokenizer::from_gguf(&file).unwrap();
    let ids = tokenizer.encode_piece("Hello", ControlTokens::AsText).unwrap();
    assert_eq!(tokenizer.decode(&ids), "Hello");
    examine("small", &bytes).unwrap();
}

#[test]
fn every_truncation_of_a_model_is_refused() {
    let bytes = small_model();
    for len in 0..bytes.len() {
        let cut = &bytes[..len];
        assert!(examine("cut", cut).is_err(), "cut at {len}");
        assert!(GgufFile::of_bytes(Path::new("cut"), cut).is_err(), "cut at {len}");
    }
}

#[test]
fn every_damaged_byte_of_a_header_is_survived() {
    let bytes = small_model();
    let header = bytes.windows(2).rposition(|w| w == b".w").unwrap() + 64;
    for at in 0..header.min(bytes.len()) {
        for damage in [0x01, 0x80, 0xff] {
            let mut broken = bytes.clone();
            broken[at] ^= damage;
            entry::gguf(&broken);
        }
    }
}
