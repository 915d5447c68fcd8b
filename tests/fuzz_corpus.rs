//! Replays the fuzzing corpus (fuzz/README.md) through the fuzzed functions, and damages a small
//! valid file in every simple way: nothing may panic.

mod support;

use std::path::Path;
use std::process::Command;

use llm_bench::model::gguf::GgufFile;
use llm_bench::model::tokenizer::{ControlTokens, Tokenizer};
use llm_bench::worker::candle::examine;
use support::{files, repository};

#[path = "../fuzz/entry.rs"]
mod entry;

/// The files of a pack: length (4 bytes, little-endian) and bytes of each.
fn unpacked(mut pack: &[u8]) -> Vec<&[u8]> {
    let mut contents = Vec::new();
    while let Some((length, rest)) = pack.split_first_chunk::<4>() {
        let (content, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
        contents.push(content);
        pack = rest;
    }
    assert!(pack.is_empty(), "the pack ends inside a length");
    contents
}

/// Every file of the corpus and the seeds of one target.
fn replay(target: &str, run: fn(&[u8])) {
    let pack = std::fs::read(repository(&format!("fuzz/corpus/{target}.pack"))).unwrap();
    let corpus = unpacked(&pack);
    assert!(corpus.len() > 10, "{} files for {target}: is the corpus there?", corpus.len());
    for (i, content) in corpus.iter().enumerate() {
        let survived = std::panic::catch_unwind(|| run(content)).is_ok();
        assert!(survived, "file {i} of {target}.pack makes it panic");
    }
    for path in files(&repository(&format!("fuzz/seeds/{target}"))) {
        let content = std::fs::read(&path).unwrap();
        let survived = std::panic::catch_unwind(|| run(&content)).is_ok();
        assert!(survived, "{} makes it panic", path.display());
    }
}

#[test]
fn the_corpus_of_model_files_is_read_or_refused() {
    replay("gguf", entry::gguf);
}

#[test]
fn the_corpus_of_protocol_lines_is_read_or_refused() {
    replay("protocol", entry::protocol);
}

#[test]
fn the_corpus_of_chat_templates_is_rendered_or_refused() {
    replay("template", entry::template);
}

/// Runs `scripts/fuzz` in a copy of its repository that holds only the packs.
#[test]
fn a_corpus_that_is_unpacked_and_packed_again_is_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["scripts", "fuzz/corpus"] {
        std::fs::create_dir_all(dir.path().join(folder)).unwrap();
    }
    let script = dir.path().join("scripts/fuzz");
    std::fs::copy(repository("scripts/fuzz"), &script).unwrap();
    for target in ["gguf", "protocol", "template"] {
        let name = format!("fuzz/corpus/{target}.pack");
        let (pack, copy) = (std::fs::read(repository(&name)).unwrap(), dir.path().join(&name));
        std::fs::write(&copy, &pack).unwrap();
        let run = |command| {
            let mut python = Command::new("python3");
            assert!(python.arg(&script).args([command, target]).status().unwrap().success());
        };
        run("unpack");
        let unpacked = files(&copy.with_extension(""));
        assert_eq!(unpacked.len(), self::unpacked(&pack).len());
        std::fs::remove_file(&copy).unwrap();
        run("pack");
        assert_eq!(std::fs::read(&copy).unwrap(), pack, "{target}");
    }
}

fn small_model() -> Vec<u8> {
    std::fs::read(repository("fuzz/seeds/gguf/small.gguf")).unwrap()
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
