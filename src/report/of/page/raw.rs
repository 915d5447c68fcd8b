//! The result files inside the page: compressed, as links that save them.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::record::Record;
use crate::report::document::{Block, Document, Download, Level};
use crate::text::escaped_json;
use crate::units::Bytes;

/// Compressed bytes that all files of a page may take together, so that a page stays below one
/// megabyte: base64 makes four bytes of three.
const MOST: usize = 480_000;

pub fn add(document: &mut Document, records: &[Record]) {
    document.push(Block::Heading(Level::Part, "Raw data".into()));
    let whole: Vec<Vec<u8>> = records.iter().map(packed).collect();
    let size: usize = whole.iter().map(Vec::len).sum();
    let (files, bare) = match size <= MOST {
        true => (whole, false),
        false => (records.iter().map(|r| packed(&without_samples(r))).collect(), true),
    };
    let noun = if records.len() == 1 { "the result file" } else { "the result files" };
    document.push(Block::Text(format!(
        "This page holds {noun}, from which all of it was made: gunzip gives JSON that llm-bench \
         report, compare and reproduce read."
    )));
    if bare {
        document.push(Block::Text(format!(
            "The time of each token is left out of {}, so that this page stays small: with it they \
             would take {}. Every other value is there; the result file itself has all.",
            if records.len() == 1 { "it" } else { "them" },
            Bytes(size as u64)
        )));
    }
    for (record, bytes) in records.iter().zip(files) {
        let file = format!("llm-bench-{}.json.gz", plain(&record.run.id));
        document.push(Block::Download(Download { file, media_type: "application/gzip", bytes }));
    }
}

fn packed(record: &Record) -> Vec<u8> {
    let json = serde_json::to_string(record).expect("a value of ours is valid JSON");
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(escaped_json(&json).as_bytes()).expect("memory does not fail");
    encoder.finish().expect("memory does not fail")
}

fn without_samples(record: &Record) -> Record {
    let mut record = record.clone();
    for run in record.arms.iter_mut().flat_map(|a| &mut a.launches).flat_map(|l| &mut l.prompts) {
        run.token_ns.clear();
        run.tokens = None;
    }
    record
}

/// What may be in a file's name everywhere.
fn plain(id: &str) -> String {
    let fit = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    id.chars().filter(fit).take(60).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::analysis::testing;
    use crate::report::of::run::summarized;

    fn unpacked(bytes: &[u8]) -> Record {
        let mut json = String::new();
        flate2::read::GzDecoder::new(bytes).read_to_string(&mut json).unwrap();
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn the_embedded_file_is_the_record() {
        let record = summarized(&testing::record());
        assert_eq!(unpacked(&packed(&record)), record);
    }

    #[test]
    fn samples_that_are_left_out_are_said_to_be() {
        let mut record = testing::record();
        let run = &mut record.arms[0].launches[0].prompts[0];
        // Nothing that compresses.
        let mut x = 1u64;
        run.token_ns = std::iter::repeat_with(|| {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            x >> 1
        })
        .take(120_000)
        .collect();
        let mut document = Document::default();
        add(&mut document, &[record.clone()]);
        let said = document.blocks.iter().any(
            |b| matches!(b, Block::Text(text) if text.starts_with("The time of each token is left out")),
        );
        let bytes = document.blocks.iter().find_map(|b| match b {
            Block::Download(download) => Some(&download.bytes),
            _ => None,
        });
        let bytes = bytes.unwrap();
        assert!(said && bytes.len() < MOST);
        assert!(unpacked(bytes).arms[0].launches[0].prompts[0].token_ns.is_empty());
        assert_eq!(plain("../a b<c>"), "..abc");
    }
}
