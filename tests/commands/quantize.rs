//! `models quantize` as a user types it: what it writes, how it refuses, what it leaves behind, and
//! how much memory it takes.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use crate::support::{
    self, done, files, llm_bench, output, repository, send, stop, text, wait_until,
};
use llm_bench::model::arch::ArchSpec;
use llm_bench::model::quant::Quant;
use llm_bench::model::synth::synthesize;
use rustix::process::Signal;

/// The command is refused with an error that names all of `words`.
fn refused(dir: &Path, args: &[&str], words: &[&str]) {
    support::refused(output(dir, args), words);
}

/// Names in a folder, sorted.
fn names(dir: &Path) -> Vec<String> {
    let name = |p: &PathBuf| p.file_name().unwrap().to_str().unwrap().to_string();
    files(dir).iter().map(name).collect()
}

fn tiny() -> String {
    repository("models/tiny.gguf").to_str().unwrap().to_string()
}

/// A synthetic F16 model of about 130 MB.
fn large(dir: &Path) -> PathBuf {
    let spec = ArchSpec {
        name: "Large".into(),
        n_layers: 2,
        n_embd: 2048,
        n_ff: 4096,
        n_heads: 16,
        n_kv_heads: 4,
        head_dim: 128,
        n_vocab: 512,
        context_length: 4096,
        rope_base: 500_000.0,
        rms_eps: 1e-5,
        rope_scaling: None,
        tied: true,
    };
    let path = dir.join("large-F16.gguf");
    synthesize(&spec, Quant::F16, 1, &path, 2, &mut |_, _| {}).unwrap();
    path
}

#[test]
fn one_command_makes_several_files_that_inspect_names_and_the_engine_runs() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["models", "quantize", "tiny", "--to", "q8_0,Q4_0", "--out-dir", "made"];
    assert_eq!(done(output(dir.path(), &args)), "made/tiny-Q8_0.gguf\nmade/tiny-Q4_0.gguf\n");
    assert_eq!(names(&dir.path().join("made")), ["tiny-Q4_0.gguf", "tiny-Q8_0.gguf"]);
    for quant in ["Q8_0", "Q4_0"] {
        let file = format!("made/tiny-{quant}.gguf");
        let shown = done(output(dir.path(), &["models", "inspect", &file, "--json"]));
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown["quant"], quant);
        let run = ["run", "-m", &file, "--engine", "candle", "-r", "1", "-p", "8", "-n", "8"];
        let out = done(output(dir.path(), &[&run[..], &["-o", "json"]].concat()));
        let record: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(record["model"]["quant"], quant);
        assert_eq!(record["arms"][0]["launches"][0]["status"], "ok", "{record}");
    }
}

#[test]
fn a_quantized_file_of_synthetic_weights_is_still_called_synthetic() {
    let dir = tempfile::tempdir().unwrap();
    let source = large(dir.path());
    let args = ["models", "quantize", source.to_str().unwrap(), "--to", "q4_0"];
    done(output(dir.path(), &[&args[..], &["--out", "q.gguf"]].concat()));
    let shown = done(output(dir.path(), &["models", "inspect", "q.gguf"]));
    assert!(shown.contains("synthetic weights: the text means nothing"), "{shown}");
}

#[test]
fn what_cannot_be_meant_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, tiny) = (dir.path(), tiny());
    let quantize = |rest: &[&str], words: &[&str]| {
        refused(dir, &[&["models", "quantize", &tiny], rest].concat(), words);
    };
    quantize(&[], &["--to"]);
    quantize(&["--to", "q4_1"], &["\"q4_1\"", "Q8_0", "Q4_K_M"]);
    quantize(&["--to", "q4_0,Q4_0"], &["Q4_0 twice"]);
    quantize(&["--to", "q4_0,q8_0", "--out", "x.gguf"], &["--out", "--out-dir"]);
    quantize(&["--to", "q4_0", "--out", &tiny, "--force"], &["the source itself"]);
    refused(dir, &["models", "quantize", "nothing.gguf", "--to", "q4_0"], &["nothing.gguf"]);
    assert!(names(dir).is_empty(), "{:?}", names(dir));
}

#[test]
fn an_existing_file_is_replaced_only_with_force_and_a_quantized_one_is_no_source() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, tiny) = (dir.path(), tiny());
    let args = ["models", "quantize", tiny.as_str(), "--to", "q8_0"];
    std::fs::write(dir.join("tiny-Q8_0.gguf"), "mine").unwrap();
    refused(dir, &args, &["tiny-Q8_0.gguf exists", "--force"]);
    assert_eq!(std::fs::read(dir.join("tiny-Q8_0.gguf")).unwrap(), b"mine");
    done(output(dir, &[&args[..], &["--force"]].concat()));
    let again = ["models", "quantize", "tiny-Q8_0.gguf", "--to", "q4_0"];
    refused(dir, &again, &["tiny-Q8_0.gguf", "Q8_0 already", "expected F32, F16 or BF16"]);
    assert_eq!(names(dir), ["tiny-Q8_0.gguf"]);
}

#[test]
fn a_quantized_file_is_a_source_where_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let quantize = |source: &str, to: &str, out: &str| {
        let args = ["models", "quantize", source, "--to", to, "--out", out, "--allow-requantize"];
        done(output(dir.path(), &args));
        std::fs::read(dir.path().join(out)).unwrap()
    };
    let tiny = tiny();
    let once = quantize(&tiny, "q8_0", "once.gguf");
    // The largest weight of a block is 127 steps, so the step is found again; f16 holds each product.
    let wide = quantize("once.gguf", "f32", "wide.gguf");
    assert!(wide.len() > 3 * once.len());
    assert!(quantize("wide.gguf", "q8_0", "again.gguf") == once);
    assert!(quantize("once.gguf", "q8_0", "twice.gguf") == once);
}

#[test]
fn a_folder_that_cannot_be_made_or_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let tiny = tiny();
    for folder in ["file", "file/below", "/proc/none"] {
        let args = ["models", "quantize", &tiny, "--to", "q8_0", "--out-dir", folder];
        refused(dir.path(), &args, &["error: ", folder]);
    }
}

#[test]
fn a_disk_that_cannot_hold_all_targets_is_refused_with_both_sizes() {
    let dir = tempfile::tempdir().unwrap();
    let source = large(dir.path());
    // The vocabulary grows, in a hole of 8 TB behind the other tensors; the file stays small.
    let bytes = std::fs::read(&source).unwrap();
    let huge = 1u64 << 31;
    let name = b"token_embd.weight";
    let at = bytes.windows(name.len()).rposition(|w| w == name).unwrap() + name.len() + 4 + 8;
    let mut bytes = bytes;
    bytes[at..at + 8].copy_from_slice(&huge.to_le_bytes());
    // Behind the shape: the type, then the offset.
    bytes[at + 12..at + 20].copy_from_slice(&(1u64 << 30).to_le_bytes());
    let file = std::fs::File::create(&source).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes[..1 << 20], 0).unwrap();
    file.set_len(huge * 2048 * 2 + (2 << 30)).unwrap();
    let args = ["models", "quantize", source.to_str().unwrap(), "--to", "q8_0,q4_0"];
    refused(dir.path(), &args, &["not enough free disk", "needs ", " has ", "Q8_0.gguf"]);
    assert_eq!(names(dir.path()), ["large-F16.gguf"]);
}

/// The high-water mark of a process, while it lives.
fn peak(child: &Child) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[test]
#[cfg(target_os = "linux")]
fn memory_does_not_grow_with_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let source = large(dir.path());
    let size = source.metadata().unwrap().len();
    assert!(size > 120_000_000, "{size}");
    let args = ["models", "quantize", source.to_str().unwrap(), "--to", "q8_0,q4_0", "-t", "2"];
    let mut child = llm_bench(dir.path(), &args).stdout(Stdio::null()).spawn().unwrap();
    let mut highest = 0;
    let status = loop {
        highest = highest.max(peak(&child).unwrap_or(0));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    };
    assert!(status.success());
    assert!(highest > 1 << 20, "no reading was taken");
    assert!(highest < size / 2, "{highest} bytes for a file of {size}");
}

#[test]
fn what_a_killed_process_left_is_removed_by_the_next_and_what_another_still_writes_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let source = large(dir.path());
    let out = dir.path().join("out");
    let args = ["models", "quantize", source.to_str().unwrap(), "--out-dir", "out", "-t", "1"];
    let quantize = |to: &str| llm_bench(dir.path(), &[&args[..], &["--to", to]].concat());
    // It waits for SIGCONT in the middle of its work.
    let start = |to: &str, files: &[&str]| {
        let mut child = quantize(to).stderr(Stdio::null()).spawn().unwrap();
        wait_until("files", || {
            assert!(child.try_wait().unwrap().is_none(), "it ended before it could be stopped");
            let names = names(&out);
            files.iter().all(|file| names.iter().any(|n| n.starts_with(file)))
        });
        send(&child, Signal::STOP);
        child
    };
    let mut killed = start("q4_k_m,q8_0", &[".large-Q4_K_M.gguf.", ".large-Q8_0.gguf."]);
    send(&killed, Signal::KILL);
    killed.wait().unwrap();
    let left = names(&out);
    assert_eq!(left.len(), 2, "{left:?}");
    // Others' files of such a name: a link, a pipe, another ending.
    std::fs::write(dir.path().join("mine"), "mine").unwrap();
    std::os::unix::fs::symlink("../mine", out.join(".x.gguf.abcdef.partial")).unwrap();
    std::fs::write(out.join("x.gguf.abcdef.partial"), "").unwrap();
    std::fs::write(out.join(".notes.partial"), "").unwrap();

    let mut writing = start("q4_0", &[".large-Q4_0.gguf."]);
    assert!(names(&out).iter().all(|n| !left.contains(n)), "{:?}", names(&out));
    let output = quantize("q8_0").output().unwrap();
    assert!(done(&output).contains("large-Q8_0.gguf"));
    assert!(!text(&output.stderr).contains("removed"), "{}", text(&output.stderr));
    send(&writing, Signal::CONT);
    assert!(writing.wait().unwrap().success());
    let kept = [
        ".notes.partial",
        ".x.gguf.abcdef.partial",
        "large-Q4_0.gguf",
        "large-Q8_0.gguf",
        "x.gguf.abcdef.partial",
    ];
    assert_eq!(names(&out), kept);
}

#[test]
fn ctrl_c_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let source = large(dir.path());
    let out = dir.path().join("out");
    let args = ["models", "quantize", source.to_str().unwrap(), "--to", "q4_k_m", "-t", "1"];
    let mut command = llm_bench(dir.path(), &[&args[..], &["--out-dir", "out"]].concat());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    wait_until("a file", || {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be stopped");
        !names(&out).is_empty()
    });
    let stderr = text(&stop(child, Signal::INT).stderr);
    assert!(stderr.contains("stopped; nothing was kept"), "{stderr}");
    assert!(names(&out).is_empty(), "{:?}", names(&out));
}
