//! `run --resume` through the real command: it completes an interrupted run, and refuses what would
//! make the new launches differ from the old ones.

use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use crate::support::{
    self, done, edit_json, launches, only_record, send, stop, text, wait_for_launches, with_fakes,
};
use llm_bench::metric::Metric;
use llm_bench::record::{Record, Status};
use rustix::process::Signal;

/// Eight launches of two engines, one of them slow enough to be caught in the middle.
const RUN: [&str; 15] = [
    "run",
    "--model",
    "tiny",
    "--engine",
    "fake-slow,candle",
    "-r",
    "4",
    "-p",
    "8",
    "-n",
    "4",
    "-t",
    "1",
    "--seed",
    "7",
];

fn start(dir: &Path) -> Child {
    with_fakes(dir, &RUN).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A run that `signal` stopped after `n` launches: its folder and its record.
fn interrupted(signal: Signal, n: usize) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let child = start(dir.path());
    let path = wait_for_launches(dir.path(), n);
    if signal == Signal::KILL {
        send(&child, signal);
        assert!(!child.wait_with_output().unwrap().status.success());
    } else {
        let stderr = text(&stop(child, signal).stderr);
        assert!(stderr.contains("--resume") && stderr.contains("are kept in"), "{stderr}");
    }
    assert!(!Record::read(&path).unwrap().run.complete);
    (dir, path)
}

fn resume(dir: &Path, file: &Path, extra: &[&str]) -> Output {
    let file = file.to_str().unwrap();
    with_fakes(dir, &[&["run", "--resume", file], extra].concat()).output().unwrap()
}

/// Refused with an error that names all of `words`; the file is unchanged.
fn refused(dir: &Path, file: &Path, extra: &[&str], words: &[&str]) {
    let before = std::fs::read(file).unwrap();
    support::refused(resume(dir, file, extra), words);
    assert_eq!(std::fs::read(file).unwrap(), before, "a refused file is left alone");
}

/// Every launch of the plan occurs once, in its place, and in the summaries.
fn is_whole(record: &Record) {
    assert!(record.run.complete);
    let mut places: Vec<u32> =
        record.arms.iter().flat_map(|a| &a.launches).map(|l| l.order).collect();
    places.sort_unstable();
    assert_eq!(places, (0..8).collect::<Vec<u32>>());
    for arm in &record.arms {
        let indices: Vec<u32> = arm.launches.iter().map(|l| l.index).collect();
        assert_eq!(indices, [0, 1, 2, 3], "{}", arm.label);
        assert!(arm.launches.iter().all(|l| l.status == Status::Ok));
        assert_eq!(arm.metrics[&Metric::DecodeTps].n, 4, "{}", arm.label);
    }
}

fn resumes_after(signal: Signal) {
    let (dir, path) = interrupted(signal, 2);
    let before = Record::read(&path).unwrap();
    let had = launches(&before);
    assert!((2..8).contains(&had), "{had} launches");

    let table = done(resume(dir.path(), &path, &[]));
    assert!(table.contains("fake-slow"), "the table is shown");
    assert_eq!(only_record(dir.path()), path, "no second file");
    let after = Record::read(&path).unwrap();
    is_whole(&after);
    assert_eq!(after.run.resumed.len(), 1);
    assert_eq!(after.run.resumed[0].launches_before as usize, had);
    assert!(after.warnings.iter().any(|w| w.code == "resumed"));
    // The existing launches are unchanged.
    for (old, new) in before.arms.iter().zip(&after.arms) {
        assert_eq!(old.launches, new.launches[..old.launches.len()]);
    }
    assert_eq!((&before.run.id, &before.run.command), (&after.run.id, &after.run.command));
    for extension in ["csv", "md", "html"] {
        assert!(path.with_extension(extension).exists());
    }
    refused(dir.path(), &path, &[], &["complete", path.to_str().unwrap()]);
}

#[test]
fn a_run_stopped_by_ctrl_c_is_resumed() {
    resumes_after(Signal::INT);
}

#[test]
fn a_run_stopped_by_sigterm_is_resumed() {
    resumes_after(Signal::TERM);
}

#[test]
fn a_run_that_was_killed_is_resumed() {
    resumes_after(Signal::KILL);
}

#[test]
fn a_resumed_run_can_be_interrupted_and_resumed_again() {
    let (dir, path) = interrupted(Signal::INT, 1);
    let file = path.to_str().unwrap();
    let mut command = with_fakes(dir.path(), &["run", "--resume", file]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_launches(dir.path(), launches(&Record::read(&path).unwrap()) + 1);
    stop(child, Signal::TERM);
    done(resume(dir.path(), &path, &[]));
    let record = Record::read(&path).unwrap();
    is_whole(&record);
    assert_eq!(record.run.resumed.len(), 2);
}

#[test]
fn a_run_that_still_goes_on_is_not_resumed_beside_itself() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = start(dir.path());
    let path = wait_for_launches(dir.path(), 1);
    support::refused(resume(dir.path(), &path, &[]), &["still runs"]);
    assert!(child.wait().unwrap().success());
    is_whole(&Record::read(&path).unwrap());
}

#[test]
fn what_would_be_another_measurement_is_refused() {
    let (dir, path) = interrupted(Signal::INT, 1);
    let original = std::fs::read_to_string(&path).unwrap();
    let change = |edit: &dyn Fn(&mut serde_json::Value), words: &[&str]| {
        std::fs::write(&path, &original).unwrap();
        edit_json(&path, edit);
        refused(dir.path(), &path, &[], &[&[path.to_str().unwrap()], words].concat());
    };
    change(&|r| r["model"]["sha256"] = "00".into(), &["model.sha256", "\"00\""]);
    change(&|r| r["host"]["cpu_model"] = "Z80".into(), &["host.cpu_model", "Z80"]);
    change(&|r| r["host"]["kernel"] = "2.4".into(), &["host.kernel"]);
    let build = |field: &'static str, value: serde_json::Value| {
        move |r: &mut serde_json::Value| {
            r["build"]["executable_sha256"] = "00".into();
            r["build"]["git_dirty"] = false.into();
            r["build"][field] = value.clone();
        }
    };
    change(&build("git_commit", "00".into()), &["build"]);
    change(&build("git_dirty", true.into()), &["build", "program file"]);
    change(&|r| r["workload"]["sha256"] = "00".into(), &["workload.sha256"]);
    change(&|r| r["run"]["seed"] = 8.into(), &["workload.sha256"]);
    change(&|r| r["run"]["config"]["launches"] = 0.into(), &["launches", "found 0"]);
    change(&|r| r["run"]["config"]["launches"] = 4_000_000_000u32.into(), &["launches"]);
    change(&|r| r["run"]["config"]["launches"] = (-1).into(), &["run.config"]);
    change(&|r| r["run"]["config"]["delay_s"] = 1e300.into(), &["--delay"]);
    change(&|r| r["run"]["config"]["page_cache"] = "tepid".into(), &["page_cache", "tepid"]);
    change(&|r| r["run"]["config"] = serde_json::Value::Null, &["run.config"]);
    change(&|r| r["arms"][0]["engine"] = "candle".into(), &["candle", "again"]);
    change(&|r| r["arms"][0]["engine"] = "candel".into(), &["did you mean"]);
    let twice = |r: &mut serde_json::Value| {
        let arm = usize::from(r["arms"][0]["launches"].as_array().unwrap().is_empty());
        let launches = r["arms"][arm]["launches"].as_array_mut().unwrap();
        launches.push(launches[0].clone());
    };
    change(&twice, &["the file was changed"]);
    let elsewhere = |r: &mut serde_json::Value| {
        for arm in [0, 1] {
            for launch in r["arms"][arm]["launches"].as_array_mut().unwrap() {
                launch["order"] = 4_000_000_000u32.into();
            }
        }
    };
    change(&elsewhere, &["place 4000000000", "seed 7"]);
    let version = |r: &mut serde_json::Value| {
        for arm in [0, 1] {
            r["arms"][arm]["version"] = serde_json::json!({"fake": "0"});
        }
    };
    change(&version, &["version of", "fake 0"]);

    std::fs::write(&path, &original).unwrap();
    for flag in [&["-r", "5"][..], &["--model", "tiny"], &["--seed", "7"], &["-n", "4"]] {
        refused(dir.path(), &path, flag, &["--resume", "cannot be used with"]);
    }
    // The unchanged file can still be resumed.
    done(resume(dir.path(), &path, &[]));
    is_whole(&Record::read(&path).unwrap());
}

#[test]
fn what_is_no_interrupted_run_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("not_a_run.json");
    for (content, word) in [("", "not JSON"), ("{}", "schema"), ("[1", "not JSON")] {
        std::fs::write(&file, content).unwrap();
        refused(dir.path(), &file, &[], &["not_a_run.json", word]);
    }
    support::refused(resume(dir.path(), Path::new("nowhere.json"), &[]), &["nowhere.json"]);
}
