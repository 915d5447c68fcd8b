//! Weights and logits that are no finite numbers: an error with the tensor or the layer, from every
//! command, and never a measurement or a text.

use std::path::Path;

use crate::support::gguf::Edited;
use crate::support::{engine, llm_bench, output, records, refused};

/// The tiny model with one value of a tensor overwritten, on each of its rows if it is a matrix.
fn spoilt(tensor: &str, index: usize, value: &[u8]) -> Edited {
    let mut file = Edited::tiny();
    let bytes = &mut file.tensor(tensor).bytes;
    bytes[index * value.len()..][..value.len()].copy_from_slice(value);
    file
}

const F16_NAN: [u8; 2] = [0x00, 0x7e];
const F16_INFINITY: [u8; 2] = [0x00, 0x7c];

#[test]
fn no_command_takes_a_file_with_a_weight_that_is_no_number() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        (
            "blk.0.attn_norm.weight",
            spoilt("blk.0.attn_norm.weight", 3, &f32::NAN.to_le_bytes()),
            "NaN at index 3",
        ),
        (
            "output_norm.weight",
            spoilt("output_norm.weight", 0, &f32::INFINITY.to_le_bytes()),
            "inf at index 0",
        ),
        ("blk.1.ffn_up.weight", spoilt("blk.1.ffn_up.weight", 777, &F16_NAN), "NaN at index 777"),
        (
            "token_embd.weight",
            spoilt("token_embd.weight", 60_000, &F16_INFINITY),
            "inf at index 60000",
        ),
    ];
    for (tensor, file, found) in cases {
        let path = file.write(dir.path(), tensor);
        for args in [
            &["run", "--engine", "candle", "-p", "8", "-n", "2", "-r", "1"][..],
            &["verify", "--engine", "candle"],
            &["generate", "--prompt", "Hello"],
            &["gate", "--self-check", "-r", "2"],
        ] {
            let args = [args, &["--model", &path]].concat();
            refused(output(dir.path(), &args), &[tensor, found, "finite", ".gguf"]);
        }
    }
    assert!(records(dir.path()).is_empty(), "nothing was measured");
}

/// What the harness looks for first is found by the engine too.
#[test]
fn the_engine_names_the_tensor_itself() {
    let dir = tempfile::tempdir().unwrap();
    let fault = |file: &Edited, name: &str| -> String {
        let path = file.write(dir.path(), name);
        engine::fault_of(Path::new(&path), "candle")
    };
    let said = fault(&spoilt("blk.0.ffn_norm.weight", 9, &f32::NAN.to_le_bytes()), "norm");
    assert!(said.contains("blk.0.ffn_norm.weight") && said.contains("index 9"), "{said}");
    let said = fault(&spoilt("blk.1.attn_output.weight", 5, &F16_NAN), "matrix");
    assert!(said.contains("blk.1.attn_output.weight") && said.contains("index 5"), "{said}");
}

/// Finite weights whose products are not: no file check finds them.
#[test]
fn values_that_overflow_are_an_error_with_the_layer() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = Edited::tiny();
    let norm = file.tensor("blk.1.ffn_norm.weight");
    norm.bytes = [f32::MAX.to_le_bytes(); 128].concat();
    let path = file.write(dir.path(), "overflow");
    let said = engine::fault_of(Path::new(&path), "candle");
    assert!(said.contains("behind layer 1") && said.contains("overflow"), "{said}");
    let args = ["run", "--engine", "candle", "-p", "8", "-n", "2", "-r", "1", "--model", &path];
    let run = output(dir.path(), &args);
    assert_eq!(run.status.code(), Some(2), "a run in which every launch fails");
    let verify = llm_bench(dir.path(), &["verify", "--engine", "candle", "--model", &path]);
    refused({ verify }.output().unwrap(), &["reference", "finite"]);
}
