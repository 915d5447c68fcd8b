//! Wrong input from a user, a disk or another program, through the real command and under a memory
//! limit: one clear error, exit code 2, no panic, nothing half-written.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{self, PROGRAM, done, limited, not_tested, only_record, repository, text};
use llm_bench::record::Record;

/// The program with at most 3 GB of address space.
fn llm_bench(dir: &Path, args: &[&str]) -> Command {
    limited(dir, "ulimit -v 3000000", args)
}

fn refused(dir: &Path, args: &[&str], words: &[&str]) {
    support::refused(llm_bench(dir, args).output().unwrap(), words);
    assert!(!dir.join("results").exists(), "nothing was measured, so nothing is written");
}

// ---- model files ----

fn small_model() -> Vec<u8> {
    std::fs::read(repository("fuzz/seeds/gguf/small.gguf")).unwrap()
}

fn place_of(bytes: &[u8], name: &str) -> usize {
    bytes.windows(name.len()).position(|w| w == name.as_bytes()).unwrap() + name.len()
}

/// The small model with the value of a key (after its type) overwritten.
fn with_value(key: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = small_model();
    let at = place_of(&bytes, key) + 4;
    bytes[at..at + value.len()].copy_from_slice(value);
    bytes
}

/// The small model with one name replaced by another of the same length.
fn renamed(from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = small_model();
    let end = place_of(&bytes, from);
    bytes[end - from.len()..end].copy_from_slice(to.as_bytes());
    bytes
}

/// `run` and `inspect` must refuse the file, or only `run` if the header is whole.
fn refused_model(bytes: &[u8], whole_header: bool, words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.gguf");
    std::fs::write(&file, bytes).unwrap();
    let words = [&["bad.gguf", "expected", "found"], words].concat();
    refused(dir.path(), &["run", "--model", "./bad.gguf", "--engine", "candle"], &words);
    let inspect = llm_bench(dir.path(), &["models", "inspect", "./bad.gguf"]).output().unwrap();
    match whole_header {
        true => assert!(inspect.status.success(), "{}", text(&inspect.stderr)),
        false => support::refused(&inspect, &words),
    }
    assert_eq!(std::fs::read(&file).unwrap(), bytes, "a model file is never written");
}

#[test]
fn files_that_are_no_gguf_are_refused_with_what_they_are() {
    let whole = small_model();
    refused_model(b"", false, &["truncated"]);
    refused_model(b"\x7fELF\x02\x01\x01\0aaaaaaaaaaaaaaaa", false, &["GGUF"]);
    refused_model(&whole[..20], false, &["tensor count", "file of 20 bytes"]);
    refused_model(&whole[..whole.len() / 2], false, &["truncated"]);
    refused_model(&whole[..whole.len() - 1], false, &["truncated"]);
}

#[test]
fn absurd_counts_lengths_and_offsets_are_refused_without_the_memory_that_they_ask_for() {
    let number = |at: usize, value: u64| {
        let mut bytes = small_model();
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    for count in [u64::MAX, 1 << 40, 1 << 20] {
        refused_model(&number(8, count), false, &["tensor count"]);
        refused_model(&number(16, count), false, &["metadata count"]);
        refused_model(&number(24, count), false, &["metadata key"]);
    }
    // An array's length follows its type and its elements' type.
    let tokens = place_of(&small_model(), "tokenizer.ggml.tokens") + 8;
    for length in [u64::MAX, u64::MAX / 8, 1 << 33] {
        refused_model(&number(tokens, length), false, &["tokenizer.ggml.tokens"]);
    }
    let nested = with_value("tokenizer.ggml.tokens", &9u32.to_le_bytes());
    refused_model(&nested, false, &["nested arrays"]);
    // A tensor's shape follows its rank; its offset follows shape and type.
    let name = place_of(&small_model(), "blk.0.ffn_down.weight");
    refused_model(&number(name + 4, u64::MAX / 2), false, &["ffn_down", "shape"]);
    refused_model(&number(name + 4, 1 << 40), false, &["ffn_down", "truncated"]);
    refused_model(&number(name + 4 + 16 + 4, u64::MAX), false, &["ffn_down", "offset"]);
}

#[test]
fn models_that_cannot_be_computed_are_refused_with_the_key_or_tensor() {
    let (one, zero) = (1u32.to_le_bytes(), 0u32.to_le_bytes());
    let heads = "llama.attention.head_count";
    refused_model(&with_value(heads, &zero), true, &[heads, "found 0"]);
    refused_model(&with_value("llama.attention.head_count_kv", &[9, 0, 0, 0]), true, &["divisor"]);
    let eps = "llama.attention.layer_norm_rms_epsilon";
    for value in [f32::NAN, f32::INFINITY, -1.0, 0.0] {
        refused_model(&with_value(eps, &value.to_le_bytes()), true, &[eps, "finite"]);
        let base = "llama.rope.freq_base";
        refused_model(&with_value(base, &value.to_le_bytes()), true, &[base, "finite"]);
    }
    refused_model(&with_value("llama.block_count", &[2, 0, 0, 0]), true, &["blk.1", "missing"]);
    refused_model(&with_value("llama.feed_forward_length", &one), true, &["ffn_gate", "shape"]);
    // `llama`, four letters in.
    let other = renamed("\x05\0\0\0\0\0\0\0llama", "\x05\0\0\0\0\0\0\0mamba");
    refused_model(&other, true, &["general.architecture", "mamba"]);
    let missing = renamed("blk.0.attn_q.weight", "blk.0.attn_Q.weight");
    refused_model(&missing, true, &["blk.0.attn_q.weight", "missing"]);
    let integer = with_value("llama.rope.freq_bas", &[]);
    let at = place_of(&integer, "llama.rope.freq_base");
    let mut integer = integer;
    integer[at..at + 4].copy_from_slice(&4u32.to_le_bytes());
    refused_model(&integer, true, &["llama.rope.freq_base", "number"]);
    let type_of = place_of(&small_model(), "blk.0.attn_q.weight") + 4 + 16;
    let mut unknown = small_model();
    unknown[type_of..type_of + 4].copy_from_slice(&21u32.to_le_bytes());
    refused_model(&unknown, true, &["blk.0.attn_q.weight", "IQ3_S", "quantization"]);
    let no_tokenizer = renamed("tokenizer.ggml.model", "tokenizer.ggml.mode1");
    refused_model(&no_tokenizer, true, &["tokenizer.ggml.model"]);
}

#[test]
fn a_folder_a_pipe_and_a_device_are_refused_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("folder.gguf")).unwrap();
    let fifo = dir.path().join("pipe.gguf");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for (model, what) in [
        ("./folder.gguf", "folder"),
        ("./pipe.gguf", "pipe"),
        ("/dev/zero", "device"),
        ("./nowhere.gguf", "No such file"),
    ] {
        refused(dir.path(), &["run", "--model", model, "--engine", "candle"], &[model, what]);
        refused(dir.path(), &["models", "inspect", model], &[model, what]);
    }
}

#[test]
fn a_file_without_permission_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret.gguf");
    std::fs::write(&file, small_model()).unwrap();
    let mode = |path: &Path, bits| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(bits);
        std::fs::set_permissions(path, mode).unwrap();
    };
    mode(&file, 0o000);
    mode(dir.path(), 0o777);
    let mut command = llm_bench(dir.path(), &["models", "inspect", "./secret.gguf"]);
    if std::fs::File::open(&file).is_ok() {
        // Root may read everything, so the test continues as nobody, with a copy that nobody may
        // start.
        let program = dir.path().join("llm-bench");
        std::fs::copy(PROGRAM, &program).unwrap();
        let mut version = Command::new(&program);
        if !version.arg("--version").uid(65534).status().is_ok_and(|s| s.success()) {
            not_tested("the program cannot be started as another user here");
            return;
        }
        command = Command::new(&program);
        command.args(["models", "inspect", "./secret.gguf"]).uid(65534).current_dir(dir.path());
        command.env("LLM_BENCH_CACHE", dir.path().join("cache"));
    }
    support::refused(command.output().unwrap(), &["secret.gguf", "Permission denied"]);
}

// ---- the command line ----

#[test]
fn numbers_that_no_run_can_have_are_refused_with_the_flag() {
    let dir = tempfile::tempdir().unwrap();
    for (flags, words) in [
        (&["-p", "0"][..], &["-p 0", "-p 1"][..]),
        (&["-p", "4", "-n", "0"], &["-n 0"]),
        (&["-p", "500", "-n", "13"], &["512", "513 positions"]),
        (&["-p", "4294967295"], &["4294967295", "512"]),
        (&["-p", "4294967296"], &["--prompt-len"]),
        (&["-p=-1"], &["--prompt-len"]),
        (&["-p", "1e3"], &["--prompt-len"]),
        (&["-r", "0"], &["--launches", "1..=1000"]),
        (&["-r", "1000000"], &["--launches", "1..=1000"]),
        (&["-t", "0"], &["--threads"]),
        (&["-t", "99999"], &["--threads"]),
        (&["--warmup", "101"], &["--warmup"]),
        (&["--iterations", "0"], &["--iterations"]),
        (&["--delay", "nan"], &["--delay NaN", "86400"]),
        (&["--delay=-1"], &["--delay -1"]),
        (&["--delay", "inf"], &["--delay inf"]),
        (&["--delay", "1e300"], &["--delay 1e300"]),
        (&["--timeout", "nan"], &["--timeout NaN"]),
        (&["--timeout", "0"], &["--timeout 0"]),
        (&["--timeout", "1e-300"], &["--timeout 1e-300"]),
        (&["--timeout", "inf"], &["--timeout inf"]),
        (&["--seed", "1e99"], &["--seed"]),
        (&["--quant", "q5"], &["unknown quantization", "Q4_K_M"]),
        (&["--device", "tpu"], &["--device", "cpu, cuda", "tpu"]),
        (
            &["--engine", "candle-stock", "--device", "cuda:1"],
            &["--device cuda:1", "candle-stock runs on cpu"],
        ),
        (&["--engine", "candel"], &["did you mean \"candle\""]),
        (&["--engine", ""], &["no engine", "candle-stock"]),
        (&["--prompts", "quik"], &["no prompt set", "quick"]),
        (&["--output-dir", "/dev/null/x"], &["/dev/null/x"]),
    ] {
        let model = ["run", "--model", "tiny"];
        let engine: &[&str] = if flags[0] == "--engine" { &[] } else { &["--engine", "candle"] };
        refused(dir.path(), &[&model, engine, flags].concat(), words);
    }
    refused(dir.path(), &["run", "--model", "tinny"], &["did you mean \"tiny\""]);
    refused(dir.path(), &["run", "--model", ".."], &["no model", "llama3-1b"]);
    refused(dir.path(), &["models", "synth", "../../x"], &["no model"]);
    refused(dir.path(), &["models", "pull", "a\u{1b}[31m"], &["no model"]);
}

#[test]
fn a_prompt_set_that_is_wrong_is_refused_with_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let prompt = |id: &str| {
        format!(
            "[[prompt]]\nid = {id:?}\ncategory = \"c\"\nwhy = \"w\"\nn_gen = 4\ntext = \"Hello\"\n"
        )
    };
    let head = "name = \"mine\"\nsummary = \"s\"\n";
    let long = format!("{head}{}", prompt("a").replace("Hello", &"word ".repeat(2000)));
    for (content, words) in [
        ("name = \"mine\"\nsummary =\n".to_string(), &["mine.toml:2:"][..]),
        (format!("{head}{}{}", prompt("a"), prompt("a")), &["mine.toml:10:", "\"a\" a second"]),
        (format!("{head}{}", prompt("../a")), &["mine.toml:4:", "../a"]),
        (format!("{head}{}", prompt("a").replace("= 4", "= -4")), &["mine.toml:7:"]),
        (format!("{head}{}typo = 1\n", prompt("a")), &["mine.toml:9:", "typo"]),
        (head.to_string(), &["mine.toml", "at least one"]),
        (long, &["prompt a", "positions", "512"]),
    ] {
        std::fs::write(dir.path().join("mine.toml"), content).unwrap();
        let run = ["run", "--model", "tiny", "--engine", "candle", "--prompts", "./mine.toml"];
        refused(dir.path(), &run, words);
    }
    let run = ["run", "--model", "tiny", "--engine", "candle", "--prompts"];
    refused(dir.path(), &[&run[..], &["./no.toml"]].concat(), &["no.toml", "No such file"]);
    refused(dir.path(), &[&run[..], &["/dev/zero"]].concat(), &["/dev/zero", "more than"]);
}

#[test]
fn an_engine_folder_that_is_wrong_is_refused_with_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("mine");
    std::fs::create_dir(&folder).unwrap();
    let head = "name = \"mine\"\nsummary = \"s\"\n";
    for (content, words) in [
        ("name = \"mine\"\nsummary =\n".to_string(), &["line 2"][..]),
        (format!("{head}script = \"a.py\"\nscrpit = 1\n"), &["line 4", "scrpit"]),
        (format!("{head}script = \"../a.py\"\n[variants.mine]\nsummary = \"s\"\n"), &["../a.py"]),
        (format!("{head}script = \"a.py\"\n[variants]\n"), &["at least one"]),
    ] {
        std::fs::write(folder.join("engine.toml"), content).unwrap();
        let mut command = llm_bench(dir.path(), &["run", "--model", "tiny", "--engine", "mine"]);
        let output = command.env("LLM_BENCH_ENGINES", &folder).output().unwrap();
        support::refused(&output, &[&["mine/engine.toml"], words].concat());
    }
}

#[test]
fn a_python_that_is_none_is_named() {
    let engines = repository("tests/engines/fake");
    for python in ["/bin/false", "/bin/cat", "/usr/bin/yes", "/nowhere/python", "/dev/null"] {
        let dir = tempfile::tempdir().unwrap();
        let run = ["run", "--model", "tiny", "--engine", "fake-honest", "-r", "1", "-p", "4"];
        let mut command = llm_bench(dir.path(), &run);
        command.env("LLM_BENCH_ENGINES", &engines).env("LLM_BENCH_PYTHON", python);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let stderr = text(&output.stderr);
        assert!(stderr.contains(&format!("LLM_BENCH_PYTHON={python}, which is no")), "{stderr}");
    }
}

// ---- result files ----

/// A small real record, to be damaged.
fn record() -> serde_json::Value {
    let dir = tempfile::tempdir().unwrap();
    let run = ["run", "--model", "tiny", "--engine", "candle", "-r", "2", "-p", "4", "-n", "2"];
    let shown =
        done(llm_bench(dir.path(), &[&run[..], &["-o", "json"]].concat()).output().unwrap());
    serde_json::from_str(&shown).unwrap()
}

#[test]
fn result_files_of_another_form_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("r.json");
    let mut wrong_type = record();
    wrong_type["arms"][0]["launches"][0]["metrics"]["decode_tps"] = "fast".into();
    let whole = record().to_string();
    let number = |n: &str| whole.replacen("\"seed\":42", &format!("\"seed\":{n}"), 1);
    for (content, word) in [
        (String::new(), "not JSON"),
        (whole[..whole.len() / 2].to_string(), "not JSON"),
        ("[".repeat(100_000), "not JSON"),
        ("{\"schema\":\"llm-bench/9\"}".into(), "llm-bench/9"),
        ("{\"schema\":\"llm-bench/1\"}".into(), "missing field"),
        ("{\"schema\":[\"\\u001b[31m\"]}".into(), "schema"),
        (wrong_type.to_string(), "form of"),
        (number("NaN"), "not JSON"),
        (number("1e999"), "not JSON"),
        (number("-1"), "form of"),
    ] {
        std::fs::write(&file, content).unwrap();
        refused(dir.path(), &["report", "r.json"], &["r.json", word]);
    }
    std::fs::write(&file, b"\xff\xfe{").unwrap();
    refused(dir.path(), &["report", "r.json"], &["r.json", "not JSON"]);
    std::fs::File::create(&file).unwrap().set_len(1 << 40).unwrap();
    refused(dir.path(), &["report", "r.json"], &["r.json", "more than"]);
    refused(dir.path(), &["report", "."], &["directory"]);
}

#[test]
fn a_hostile_result_file_cannot_drive_the_terminal_or_take_the_memory() {
    let dir = tempfile::tempdir().unwrap();
    let mut hostile = record();
    let evil = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{202e}<script>|`\r\n# x";
    hostile["arms"][0]["label"] = evil.into();
    hostile["arms"][0]["notes"] = serde_json::json!([evil]);
    hostile["model"]["name"] = evil.into();
    hostile["host"]["cpu_model"] = "x".repeat(100 << 20).into();
    hostile["workload"]["prompts"][0]["id"] = evil.into();
    hostile["arms"][0]["launches"][1]["metrics"]["decode_tps"] = serde_json::json!(-1e308);
    hostile["arms"][0]["launches"][0]["metrics"]["ttft_s"] = serde_json::json!(1e308);
    hostile["arms"][0]["launches"][0]["metrics"]["\u{1b}[31m"] = serde_json::json!(0);
    std::fs::write(dir.path().join("r.json"), hostile.to_string()).unwrap();
    for format in ["table", "md", "csv"] {
        let report = ["report", "r.json", "-o", format];
        let shown = done(llm_bench(dir.path(), &report).output().unwrap());
        assert!(shown.len() < 1 << 20, "{format}: {} bytes", shown.len());
        let harmful = |c: char| c != '\n' && c.is_control() || c == '\u{202e}';
        assert_eq!(shown.chars().find(|c| harmful(*c)), None, "{format}");
    }
}

// ---- output that cannot be written ----

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    for args in [
        &["models", "list"][..],
        &["engines", "list"],
        &["models", "inspect", "tiny"],
        &["run", "--model", "tiny", "--engine", "candle", "-r", "1", "-p", "4", "-n", "2"],
    ] {
        let mut child = llm_bench(dir.path(), args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    }
    assert!(
        Record::read(&only_record(dir.path())).unwrap().run.complete,
        "the record is written all the same"
    );
}

#[test]
fn a_full_stdout_is_an_error_and_the_record_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    for args in [
        &["models", "list"][..],
        &["engines", "list"],
        &["run", "--model", "tiny", "--engine", "candle", "-r", "1", "-p", "4", "-n", "2"],
    ] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = llm_bench(dir.path(), args).stdout(full).output().unwrap();
        support::refused(&output, &["No space left"]);
    }
    assert!(Record::read(&only_record(dir.path())).unwrap().run.complete);
}

#[test]
fn a_device_is_not_replaced_by_a_model_file() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let args = ["models", "synth", "llama3-1b", "--out", "pipe"];
    refused(dir.path(), &args, &["pipe", "expected the name of a file"]);
    assert!(!std::fs::metadata(&fifo).unwrap().is_file());
}
