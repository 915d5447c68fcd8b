//! `verify` on the tiny model: the engines pass, and every likely mistake of an engine fails. The
//! tests make the mistakes in the file: an engine that reads the changed file computes what a wrong
//! engine would compute from the right one. No Python here; tests/agreement.rs compares with
//! PyTorch.

mod support;

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::process::Output;

use half::f16;
use llm_bench::analysis::divergence::{compare, judge, limit_for, sum_up};
use llm_bench::model::gguf::GgufFile;
use llm_bench::model::golden;
use llm_bench::record::{Divergence, Verdict};
use llm_bench::task::score::{Answer, Question};
use support::{done, engine, files, output, repository, text};

const N_VOCAB: u32 = 512;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 32;
const LAYERS: usize = 3;

/// The tiny model's bytes, for changing.
struct Edited {
    bytes: Vec<u8>,
    original: GgufFile,
}

impl Edited {
    fn new() -> Self {
        let path = repository("models/tiny.gguf");
        Self { bytes: std::fs::read(&path).unwrap(), original: GgufFile::open(&path).unwrap() }
    }

    /// The place of a tensor.
    fn range(&self, name: &str) -> std::ops::Range<usize> {
        let (_, _, range) = self.original.tensor(name).unwrap();
        range.start as usize..range.end as usize
    }

    fn tensor(&mut self, name: &str) -> &mut [u8] {
        let range = self.range(name);
        &mut self.bytes[range]
    }

    /// The rows of an F16 matrix of the given width.
    fn rows(&mut self, name: &str, columns: usize) -> Vec<Vec<f32>> {
        let values: Vec<f32> = self
            .tensor(name)
            .chunks_exact(2)
            .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect();
        values.chunks_exact(columns).map(<[f32]>::to_vec).collect()
    }

    fn set_rows(&mut self, name: &str, rows: &[Vec<f32>]) {
        let bytes: Vec<u8> =
            rows.iter().flatten().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
        self.tensor(name).copy_from_slice(&bytes);
    }

    fn swap(&mut self, a: &str, b: &str) {
        let (a, b) = (self.range(a), self.range(b));
        let (old_a, old_b) = (self.bytes[a.clone()].to_vec(), self.bytes[b.clone()].to_vec());
        self.bytes[a].copy_from_slice(&old_b);
        self.bytes[b].copy_from_slice(&old_a);
    }

    fn rope_freqs(&mut self) -> Vec<f32> {
        let word = |b: &[u8]| f32::from_le_bytes(b.try_into().unwrap());
        self.tensor("rope_freqs.weight").chunks_exact(4).map(word).collect()
    }

    fn write(&self, path: &Path) {
        std::fs::write(path, &self.bytes).unwrap();
    }
}

fn answer(engine: &str, model: &Path, logits: &Path) -> Answer {
    let question = engine::question(model, N_VOCAB, golden::scored().unwrap().ids);
    let decode_from = question.decode_from - 32;
    let question = Question { decode_from, free_prompt: 8, free_tokens: 8, ..question };
    engine::answer(engine, &question, logits)
}

/// The verdict on an engine that reads the changed file, against float32 on the right one.
fn verdict_on(engine: &str, change: impl FnOnce(&mut Edited)) -> (Divergence, Verdict, String) {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut edited = Edited::new();
    edited.write(&at("right.gguf"));
    change(&mut edited);
    edited.write(&at("wrong.gguf"));
    let right = answer("candle-f32", &at("right.gguf"), &at("right.f32"));
    let wrong = answer(engine, &at("wrong.gguf"), &at("wrong.f32"));
    assert_eq!((wrong.decoded, right.decoded), (32, 32));
    let open = |name: &str| BufReader::new(File::open(at(name)).unwrap());
    let n = right.positions as usize;
    let positions = compare(open("right.f32"), open("wrong.f32"), N_VOCAB as usize, n).unwrap();
    let positions: Vec<_> = positions.into_iter().map(Result::unwrap).collect();
    let d = sum_up(&positions, wrong.decoded).unwrap();
    let (verdict, reason) = judge(&d, &limit_for(&wrong.precision));
    println!("NMSE {:.2e}, early {:.2e}, late {:.2e}", d.nmse, d.nmse_early, d.nmse_late);
    (d, verdict, reason.unwrap_or_default())
}

fn fails(change: impl FnOnce(&mut Edited), word: &str) {
    fails_in("candle", change, word);
}

fn fails_in(engine: &str, change: impl FnOnce(&mut Edited), word: &str) {
    let (d, verdict, reason) = verdict_on(engine, change);
    println!("{reason}");
    assert_eq!(verdict, Verdict::Fail, "{d:?}");
    assert!(reason.contains(word), "expected {word:?} in {reason:?}");
}

/// Every layer's query matrix, and with `keys` the key matrix.
fn each_projection(keys: bool, mut change: impl FnMut(&str, usize)) {
    for layer in 0..LAYERS {
        change(&format!("blk.{layer}.attn_q.weight"), HEADS);
        if keys {
            change(&format!("blk.{layer}.attn_k.weight"), KV_HEADS);
        }
    }
}

#[test]
fn the_unchanged_file_passes() {
    let (d, verdict, reason) = verdict_on("candle", |_| {});
    assert_eq!((verdict, reason.as_str()), (Verdict::Pass, ""), "{d:?}");
}

#[test]
fn ignoring_rope_freqs_fails() {
    let ones: Vec<u8> = (0..HEAD_DIM / 2).flat_map(|_| 1f32.to_le_bytes()).collect();
    fails(|file| file.tensor("rope_freqs.weight").copy_from_slice(&ones), "attention");
}

#[test]
fn query_and_key_rows_in_the_order_of_another_format_fail() {
    // The other format separates the first and second halves of a head; GGUF interleaves them.
    fails(
        |file| {
            each_projection(true, |name, heads| {
                let rows = file.rows(name, 128);
                let half = HEAD_DIM / 2;
                let order = |r: usize| {
                    let (head, i) = (r / HEAD_DIM, r % HEAD_DIM);
                    head * HEAD_DIM + (i % half) * 2 + i / half
                };
                let moved: Vec<_> = (0..heads * HEAD_DIM).map(|r| rows[order(r)].clone()).collect();
                file.set_rows(name, &moved);
            });
        },
        "attention",
    );
}

#[test]
fn two_layers_in_the_wrong_order_fail() {
    fails(
        |file| {
            for part in ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output"] {
                file.swap(&format!("blk.0.{part}.weight"), &format!("blk.1.{part}.weight"));
            }
            for part in ["ffn_norm", "ffn_gate", "ffn_up", "ffn_down"] {
                file.swap(&format!("blk.0.{part}.weight"), &format!("blk.1.{part}.weight"));
            }
        },
        "position 0",
    );
}

/// Writes another epsilon for the norms into the header; the file has 1e-5.
fn set_epsilon(file: &mut Edited, epsilon: f32) {
    let key = b"llama.attention.layer_norm_rms_epsilon";
    let at = file.bytes.windows(key.len()).position(|w| w == key).unwrap();
    let value = at + key.len() + 4; // after the value's type
    assert_eq!(file.bytes[value..value + 4], 1e-5f32.to_le_bytes());
    file.bytes[value..value + 4].copy_from_slice(&epsilon.to_le_bytes());
}

#[test]
fn an_epsilon_of_another_size_fails() {
    fails(|file| set_epsilon(file, 1e-3), "epsilon");
    // An epsilon ten times too small changes the logits by less than an f16 cache does (NMSE 4e-7
    // with it, 3e-7 without), so only float32 shows it.
    fails_in("candle-f32", |file| set_epsilon(file, 1e-6), "epsilon");
}

#[test]
fn queries_that_stand_one_position_too_far_fail() {
    // Rope is linear, so rotating the query matrix by one position's angle makes the off-by-one.
    fails(
        |file| {
            let freqs = file.rope_freqs();
            each_projection(false, |name, heads| {
                let rows = file.rows(name, 128);
                let mut turned = rows.clone();
                for pair in 0..heads * HEAD_DIM / 2 {
                    let i = pair % (HEAD_DIM / 2);
                    let inverse = 500_000f32.powf(-2.0 * i as f32 / HEAD_DIM as f32);
                    let (sin, cos) = (inverse / freqs[i]).sin_cos();
                    for c in 0..128 {
                        let (a, b) = (rows[2 * pair][c], rows[2 * pair + 1][c]);
                        turned[2 * pair][c] = a * cos - b * sin;
                        turned[2 * pair + 1][c] = a * sin + b * cos;
                    }
                }
                file.set_rows(name, &turned);
            });
        },
        "attention",
    );
}

fn verify(dir: &Path, args: &[&str]) -> Output {
    output(dir, &[&["verify", "--model", "tiny", "--no-install"], args].concat())
}

#[test]
fn without_python_candle_f32_is_the_reference() {
    let dir = tempfile::tempdir().unwrap();
    let shown = done(verify(dir.path(), &["--engine", "candle", "--json"]));
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let candle = &shown[0]["engines"]["candle"];
    assert_eq!(candle["verdict"], "pass");
    assert_eq!(candle["reference"], "candle-f32");
    assert_eq!(candle["divergence"]["positions"], 512);
    assert_eq!(candle["divergence"]["decoded"], 64);
}

#[test]
fn logits_that_a_killed_process_left_behind_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let scratch = dir.path().join("cache/scratch");
    // No process has this number, because the kernel's limit is 2^22.
    let (left, own) = (scratch.join("4194305-abc"), scratch.join("notes"));
    std::fs::create_dir_all(&left).unwrap();
    std::fs::create_dir_all(&own).unwrap();
    std::fs::write(left.join("reference.f32"), [0; 64]).unwrap();
    done(verify(dir.path(), &["--engine", "candle"]));
    assert!(!left.exists(), "only what is known to be left over goes");
    assert_eq!(files(&scratch), [own]);
}

#[test]
fn an_engine_that_was_named_and_fails_gives_exit_code_4_and_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let out = verify(dir.path(), &["--engine", "candle-stock"]);
    assert_eq!(out.status.code(), Some(4), "{}", text(&out.stderr));
    let shown = text(&out.stdout);
    assert!(shown.contains("FAIL") && shown.contains("rope_freqs.weight"), "{shown}");
    // Among all engines its known difference is shown but does not fail the command.
    done(verify(dir.path(), &[]));
}

#[test]
fn a_run_says_whether_its_engines_were_verified_and_remembers_it() {
    let dir = tempfile::tempdir().unwrap();
    let run = |extra: &[&str]| {
        let args = ["run", "--model", "tiny", "--engine", "candle,candle-stock", "-r", "1"];
        let rest = ["-p", "8", "-n", "4", "-o", "md", "--no-install"];
        let out = output(dir.path(), &[&args[..], &rest, extra].concat());
        (done(&out), text(&out.stderr))
    };
    let (table, progress) = run(&[]);
    assert!(table.contains("| Verified |") && table.contains("| pass"), "{table}");
    assert!(table.contains("FAIL") && table.contains("rope"), "{table}");
    assert!(progress.contains("verifying candle"), "{progress}");
    let (again, progress) = run(&[]);
    assert!(again.contains("| Verified |") && !progress.contains("verifying"), "{progress}");
    let (without, _) = run(&["--no-verify"]);
    assert!(!without.contains("Verified"), "{without}");
}
