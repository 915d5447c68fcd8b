//! `gate` through the real command, on the shipped tiny model: every verdict and every refusal
//! with its exit code.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::{
    self, PROGRAM, done, edit_json, records, send, text, wait_for_launches, with_fakes,
};
use llm_bench::record::{Record, Status};
use rustix::process::Signal;

/// Exit code, stdout and stderr of `gate`.
fn gate(dir: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        with_fakes(dir, &[&["gate"], args].concat()).output().unwrap();
    let (stdout, stderr) = (text(&stdout), text(&stderr));
    assert!(!stderr.contains("panicked"), "{stderr}");
    (status.code(), stdout, stderr)
}

/// A workload of a second on the tiny model. Debug builds and shared machines are noisy, so only
/// the metrics under test decide.
const TINY: [&str; 10] =
    ["--model", "tiny", "-p", "64", "-n", "64", "-t", "1", "--primary", "decode_tps"];

fn json(stdout: &str) -> serde_json::Value {
    serde_json::from_str(stdout).unwrap_or_else(|e| panic!("{e}: {stdout}"))
}

fn files(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut paths = support::files(&dir.join("results"));
    paths.retain(|p| p.file_name().unwrap().to_str().unwrap().starts_with(prefix));
    paths
}

#[test]
fn a_program_against_itself_does_not_regress_and_the_record_is_an_ordinary_one() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--baseline-bin", PROGRAM, "-r", "4", "--max-launches", "4", "-o", "json"];
    let wide = ["--margin", "60%"];
    let (code, stdout, stderr) = gate(dir.path(), &[&args[..], &TINY, &wide].concat());
    assert!(code == Some(0) || code == Some(3), "{code:?} {stdout} {stderr}");
    let verdict = json(&stdout);
    assert_eq!(verdict["exit_code"].as_i64(), code.map(i64::from));
    assert_ne!(verdict["outcome"], "regressed");
    assert_eq!(verdict["baseline"]["sha256"], verdict["candidate"]["sha256"]);
    assert!(stderr.contains("same program"), "{stderr}");
    let decided_by = &verdict["judgement"]["metrics"][0]["decided_by"];
    assert_eq!(decided_by, "rank_sum_in_blocks", "both sides were interleaved: {verdict:#}");
    assert_eq!(verdict["earlier_sessions"], serde_json::Value::Null, "one session");

    let record = Record::read(&files(dir.path(), "gate_")[0]).unwrap();
    assert!(record.run.complete);
    let labels: Vec<&str> = record.arms.iter().map(|a| a.label.as_str()).collect();
    assert_eq!(labels, ["baseline", "candidate"]);
    let mut places: Vec<(u32, usize)> = Vec::new();
    for (i, arm) in record.arms.iter().enumerate() {
        assert!(arm.launches.iter().all(|l| l.status == Status::Ok));
        places.extend(arm.launches.iter().map(|l| (l.order, i)));
    }
    places.sort_unstable();
    let order: Vec<usize> = places.into_iter().map(|(_, arm)| arm).collect();
    for block in order.chunks(4) {
        assert!(block == [0, 1, 1, 0] || block == [1, 0, 0, 1], "{order:?}");
    }
    // Every other command can read it.
    let path = files(dir.path(), "gate_")[0].display().to_string();
    let report = with_fakes(dir.path(), &["report", &path]).output().unwrap();
    assert!(done(report).contains("candidate"));
}

#[test]
fn a_tail_metric_decides_by_the_values_inside_its_launches() {
    let dir = tempfile::tempdir().unwrap();
    let tail = ["--model", "tiny", "-p", "16", "-n", "128", "-t", "1", "--primary", "itl_p95_s"];
    let few = ["--baseline-bin", PROGRAM, "-r", "6", "--max-launches", "6", "-o", "json"];
    let slow = ["--slow-candidate", "900%"];
    let (code, stdout, stderr) = gate(dir.path(), &[&few[..], &tail, &slow].concat());
    assert_eq!(code, Some(1), "{stdout} {stderr}");
    let verdict = json(&stdout);
    let metrics = verdict["judgement"]["metrics"].as_array().unwrap();
    let of = |name: &str| metrics.iter().find(|m| m["metric"] == name).unwrap();
    assert_eq!(of("itl_p95_s")["decided_by"], "quantile_in_blocks");
    assert_eq!(of("decode_tps")["decided_by"], "rank_sum_in_blocks");
}

#[test]
fn a_candidate_that_is_slowed_down_regresses_and_is_reported_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let slow = ["--slow-candidate", "200%"];
    let args = ["--baseline-bin", PROGRAM, "-r", "6", "--max-launches", "12"];
    let written =
        ["--summary", "summary.md", "--comment", "comment.md", "--verdict", "verdict.json"];
    std::fs::write(dir.path().join("summary.md"), "before\n").unwrap();
    let (code, stdout, stderr) = gate(dir.path(), &[&args[..], &slow, &TINY, &written].concat());
    assert_eq!(code, Some(1), "{stdout} {stderr}");
    assert!(stdout.contains("Regressed: decode_tps changed by -"), "{stdout}");
    assert!(stdout.contains("SLOWED DOWN ON PURPOSE"), "{stdout}");
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    let summary = read("summary.md");
    assert!(summary.starts_with("before\n### Performance gate: regressed\n"), "{summary}");
    assert!(read("comment.md").starts_with("<!-- llm-bench gate: Performance gate -->\n### "));
    assert_eq!(json(&read("verdict.json"))["outcome"], "regressed");
    let record = Record::read(&files(dir.path(), "gate_")[0]).unwrap();
    assert!(record.warnings.iter().any(|w| w.code == "slowed_down"), "{:?}", record.warnings);
    assert!(record.arms[1].notes.iter().any(|n| n.contains("ON PURPOSE")));
}

#[test]
fn a_candidate_that_crashes_is_regressed_and_a_baseline_that_crashes_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("broken");
    let script = "#!/bin/sh\n[ \"$1\" = --version ] && echo llm-bench 0.0.1 && exit\nexit 7\n";
    // Another process writes the file: a file that this process has open for writing cannot be
    // started.
    let write = "printf %s \"$1\" > \"$0\" && chmod +x \"$0\"";
    let made = Command::new("sh").args(["-c", write]).arg(&broken).arg(script).status().unwrap();
    assert!(made.success());
    let broken = broken.to_str().unwrap().to_string();
    let sides = |baseline: &str, candidate: &str| {
        let args = ["--baseline-bin", baseline, "--candidate-bin", candidate];
        gate(dir.path(), &[&args[..], &TINY].concat())
    };
    let (code, stdout, stderr) = sides(PROGRAM, &broken);
    assert_eq!(code, Some(1), "{stdout} {stderr}");
    assert!(stdout.contains("Regressed: the candidate failed in 2 of 2 launches"), "{stdout}");
    let (code, _, stderr) = sides(&broken, PROGRAM);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("the baseline could not be measured"), "{stderr}");
}

#[test]
fn an_inconclusive_gate_exits_with_three_or_as_it_was_set() {
    let dir = tempfile::tempdir().unwrap();
    // Two launches cannot show a change of a thousandth, and at this level not even by chance.
    let few = ["-r", "2", "--max-launches", "2", "--margin", "0.1%", "--alpha", "0.000001"];
    let args = [&["--baseline-bin", PROGRAM][..], &few].concat();
    let with = |extra: &[&str]| gate(dir.path(), &[&args[..], &TINY, extra].concat());
    let (code, stdout, stderr) = with(&[]);
    assert_eq!(code, Some(3), "{stdout} {stderr}");
    assert!(stdout.contains("Inconclusive: decode_tps"), "{stdout}");
    assert_eq!(with(&["--on-inconclusive", "pass"]).0, Some(0));
    let (code, stdout, _) = with(&["--on-inconclusive", "fail"]);
    assert_eq!(code, Some(1));
    // The verdict is wrapped to the width.
    let words = stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("counts as exit code 1 here"), "{stdout}");
}

/// A record of this machine, from `run`.
fn baseline(dir: &Path) -> PathBuf {
    let run = ["run", "--model", "tiny", "-p", "64", "-n", "64", "-t", "1", "--engine", "candle"];
    let run = [&run[..], &["-r", "4", "--no-verify"]].concat();
    done(with_fakes(dir, &run).output().unwrap());
    records(dir).remove(0)
}

#[test]
fn a_stored_baseline_is_gated_against_with_its_own_settings() {
    let dir = tempfile::tempdir().unwrap();
    let file = baseline(dir.path());
    let file = file.to_str().unwrap();
    let few = ["-r", "4", "--max-launches", "6", "--primary", "decode_tps"];
    let args = [&["--baseline", file, "--margin", "60%"][..], &few].concat();
    let (code, stdout, stderr) = gate(dir.path(), &args);
    // Nothing passes without earlier sessions. A machine may be busier by far than it was before.
    assert!(code == Some(3) || code == Some(1), "{code:?} {stdout} {stderr}");
    let words = stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("is of another session; no earlier session"), "{stdout}");
    assert!(words.contains("history add"), "{stdout}");
    let record = Record::read(&files(dir.path(), "gate_")[0]).unwrap();
    assert_eq!(record.workload.prompts[0].n_prompt, 64);
    assert_eq!(record.arms.len(), 1);

    // Ten times as slow: a busy machine alone can make the baseline several times as slow.
    let (code, stdout, stderr) =
        gate(dir.path(), &[&args[..], &["--slow-candidate", "900%"]].concat());
    assert_eq!(code, Some(1), "{stdout} {stderr}");

    // Against itself: the same launches twice are no comparison, and nothing is measured.
    let before = files(dir.path(), "gate_").len();
    let same = ["--baseline", file, "--candidate", file, "--primary", "peak_host_bytes"];
    let (code, stdout, _) = gate(dir.path(), &[&same[..], &["--margin", "60%"]].concat());
    assert_eq!(code, Some(4), "{stdout}");
    assert_eq!(files(dir.path(), "gate_").len(), before);
}

#[test]
fn what_is_not_comparable_ends_with_four_and_forced_it_never_passes() {
    let dir = tempfile::tempdir().unwrap();
    let file = baseline(dir.path());
    let other = dir.path().join("other.json");
    std::fs::copy(&file, &other).unwrap();
    edit_json(&other, |r| r["host"]["cpu_model"] = "Z80".into());
    let (file, other) = (file.to_str().unwrap(), other.to_str().unwrap());
    let few = ["-r", "2", "--max-launches", "2", "--primary", "decode_tps", "--margin", "60%"];
    for args in [&["--baseline", other][..], &["--baseline", other, "--candidate", file]] {
        let (code, stdout, stderr) = gate(dir.path(), &[args, &few].concat());
        assert_eq!(code, Some(4), "{stdout} {stderr}");
        assert!(stdout.contains("Z80"), "{stdout}");
        assert!(
            stdout.contains("Not comparable: baseline and candidate differ in CPU"),
            "{stdout}"
        );
        let forced = [args, &few, &["--force-incomparable", "--on-inconclusive", "pass"]].concat();
        let (code, stdout, stderr) = gate(dir.path(), &forced);
        assert_eq!(code, Some(4), "{stdout} {stderr}");
        assert!(stdout.contains("Z80") && stdout.contains("Decode"), "{stdout}");
    }
}

#[test]
fn a_missing_baseline_ends_with_four_and_one_that_cannot_be_read_with_two() {
    let dir = tempfile::tempdir().unwrap();
    for missing in ["--baseline", "--baseline-bin"] {
        let (code, stdout, stderr) = gate(dir.path(), &[missing, "nowhere"]);
        assert_eq!(code, Some(4), "{stderr}");
        assert!(stderr.contains(missing) && stderr.contains("nowhere"), "{stderr}");
        assert_eq!(stdout, "");
    }
    let newer = dir.path().join("newer.json");
    std::fs::write(&newer, r#"{"schema": "llm-bench/2"}"#).unwrap();
    let torn = dir.path().join("torn.json");
    std::fs::write(&torn, r#"{"schema": "llm-ben"#).unwrap();
    let nan = dir.path().join("nan.json");
    std::fs::write(&nan, r#"{"schema": "llm-bench/1", "run": NaN}"#).unwrap();
    for (file, word) in [(&newer, "llm-bench/2"), (&torn, "not JSON"), (&nan, "not JSON")] {
        let (code, _, stderr) = gate(dir.path(), &["--baseline", file.to_str().unwrap()]);
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains(word) && stderr.contains(file.to_str().unwrap()), "{stderr}");
    }
    assert!(!dir.path().join("results").exists(), "nothing was measured");
}

#[test]
fn odd_values_in_a_record_are_refused_with_the_metric() {
    let dir = tempfile::tempdir().unwrap();
    let file = baseline(dir.path());
    let odd = dir.path().join("odd.json");
    for value in [serde_json::json!(0.0), serde_json::json!(-1.0)] {
        std::fs::copy(&file, &odd).unwrap();
        edit_json(&odd, |r| r["arms"][0]["launches"][1]["metrics"]["decode_tps"] = value.clone());
        let args = ["--baseline", odd.to_str().unwrap(), "--candidate", file.to_str().unwrap()];
        let (code, _, stderr) = gate(dir.path(), &args);
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains("decode_tps"), "{stderr}");
    }
}

#[test]
fn ratios_are_gated_from_a_record_and_in_a_session() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = ["--model", "tiny", "-p", "8", "-n", "4", "-t", "1"];
    let few = ["-r", "4", "--max-launches", "4"];
    let require = |requirement: &str, extra: &[&str]| {
        gate(dir.path(), &[&["--require", requirement][..], extra].concat())
    };
    // Half a second per generation against milliseconds.
    let args = [&tiny[..], &few].concat();
    let (code, stdout, stderr) = require("candle/fake-slow cold_start_ttft_s <= 0.9", &args);
    assert_eq!(code, Some(0), "{stdout} {stderr}");
    assert!(stdout.contains("Passed: TTFT, cold start: the ratio is "), "{stdout}");
    let record = files(dir.path(), "gate_").remove(0);
    let from = ["--candidate", record.to_str().unwrap()];
    let (code, stdout, _) = require("fake-slow/candle cold_start_ttft_s <= 0.9", &from);
    assert_eq!(code, Some(1), "{stdout}");
    let (code, _, stderr) = require("pytorch/candle cold_start_ttft_s <= 0.9", &from);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("\"pytorch\"") && stderr.contains("fake-slow"), "{stderr}");
    let (code, _, stderr) = require("candle/fake-slow decode >= 2", &from);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("no metric is called"), "{stderr}");
    let (code, _, stderr) = require("candle/fake-oom decode_tps >= 2", &args);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("fake-oom could not be measured"), "{stderr}");
}

#[test]
fn a_gate_that_was_killed_is_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let args =
        ["gate", "--baseline-bin", PROGRAM, "-r", "10", "--max-launches", "10", "--delay", "0.2"];
    let mut child = with_fakes(dir.path(), &[&args[..], &TINY, &["--margin", "60%"]].concat())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let path = wait_for_launches(dir.path(), 3);
    let file = path.to_str().unwrap();
    let (code, _, stderr) = gate(dir.path(), &["--resume", file]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("still runs"), "{stderr}");
    send(&child, Signal::KILL);
    child.wait().unwrap();
    let before = Record::read(&path).unwrap();
    assert!(!before.run.complete);

    // Only the command that wrote the file resumes it.
    let run = with_fakes(dir.path(), &["run", "--resume", file]).output().unwrap();
    support::refused(run, &["gate --resume"]);

    let (code, stdout, stderr) = gate(dir.path(), &["--resume", file, "-o", "json"]);
    assert!(code == Some(0) || code == Some(3), "{code:?} {stdout} {stderr}");
    let after = Record::read(&path).unwrap();
    assert!(after.run.complete && after.run.resumed.len() == 1);
    for (old, new) in before.arms.iter().zip(&after.arms) {
        assert_eq!(old.launches, new.launches[..old.launches.len()], "what was there stays");
        assert_eq!(new.launches.len(), 10);
    }
    // The rules in the file apply, not the defaults.
    let margin = json(&stdout)["judgement"]["metrics"][0]["margin"].as_f64();
    assert_eq!(margin, Some(0.6));
    let (code, _, stderr) = gate(dir.path(), &["--resume", file]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("complete"), "{stderr}");
}

#[test]
fn a_folder_that_cannot_be_written_is_reported_before_anything_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    // A file where the folder should be: not even root can write there.
    std::fs::write(dir.path().join("taken"), "").unwrap();
    let args = ["--baseline-bin", PROGRAM, "--output-dir", "taken/results"];
    let (code, stdout, stderr) = gate(dir.path(), &[&args[..], &TINY].concat());
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("taken/results") && stdout.is_empty(), "{stderr}");
}

#[test]
fn a_command_line_that_means_nothing_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    for (args, word) in [
        (&[][..], "expected a baseline: --baseline-rev"),
        (&["--baseline-bin", "/bin/sh", "--model", "tiny"], "expected an llm-bench program"),
        (&["--baseline-bin", PROGRAM, "--engine", "pytorch"], "inside the program"),
        (&["--baseline-bin", PROGRAM, "--extend", "20"], "--extend 20: expected at most 6"),
        (&["--baseline-bin", PROGRAM, "--max-minutes", "nan"], "--max-minutes"),
        (&["--baseline-rev", "main"], "--baseline-rev main"),
        (&["--require", "candle"], "found no >= or <="),
        (&["--self-check", "--slow", "0"], "expected a share above 0"),
    ] {
        let (code, _, stderr) = gate(dir.path(), args);
        assert_eq!(code, Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(word), "{args:?}: {stderr}");
    }
}

#[test]
fn options_stand_in_the_configuration_file() {
    let dir = tempfile::tempdir().unwrap();
    let toml = "[gate]\nmodel = \"tiny\"\nmargin = [\"5%\", \"model_load_s=30%\"]\n\
                require = [\"candle/candle-stock decode_tps >= 0.5\"]\nmax-minutes = 1.5\n";
    std::fs::write(dir.path().join("llm-bench.toml"), toml).unwrap();
    let (code, stdout, stderr) = gate(dir.path(), &["--print-config"]);
    assert_eq!(code, Some(0), "{stderr}");
    for line in [
        "margin = [\"5%\", \"model_load_s=30%\"]",
        "require = [\"candle/candle-stock decode_tps >= 0.5\"]",
        "max-minutes = 1.5",
        "launches = 6",
    ] {
        assert!(stdout.contains(line), "{line} in {stdout}");
    }
}

#[test]
fn the_self_check_counts_its_verdicts_and_finds_a_large_slow_down() {
    let dir = tempfile::tempdir().unwrap();
    let few = ["--self-check", "--runs", "2", "--slow", "300%", "-r", "6", "--max-launches", "6"];
    let (code, stdout, stderr) =
        gate(dir.path(), &[&few[..], &TINY, &["--margin", "20%", "-o", "json"]].concat());
    let check = json(&stdout);
    assert_eq!(check["same"]["gates"], 2, "{stdout}");
    assert_eq!(check["detected"]["of"], 2);
    assert_eq!(code == Some(0), check["passed"] == true, "{stderr}");
    assert!(check["detected"]["ci95"][0].as_f64().unwrap() > 0.0, "{stdout}");
    // Two of two are asked for, which a gate that finds 95 % gives in .95² of checks.
    assert_eq!(check["needed"], 2);
    let power = check["power"][1]["passes"].as_f64().unwrap();
    assert!((power - 0.9025).abs() < 1e-9, "{power}");
    let folder = files(dir.path(), "self_check_").remove(0);
    for name in ["same_001.json", "slowed_002.json"] {
        assert!(Record::read(&folder.join(name)).unwrap().run.complete);
    }
}
