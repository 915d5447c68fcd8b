//! Helpers of the integration tests: the program in a test's own folder, what it printed, the
//! records it left, and processes to wait for and to stop. `engine` drives engines directly, `gguf`
//! makes model files, `mock` is a server.

// Each test binary uses a part of it.
#![allow(dead_code)]

pub mod engine;
pub mod gguf;
#[path = "../mock/server.rs"]
pub mod mock;

use std::borrow::Borrow;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use llm_bench::record::{Launch, Record};
use rustix::process::{Pid, Signal, kill_process};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_llm-bench");

/// How long a test waits for an event that must happen; it judges no speed.
const STUCK: Duration = Duration::from_secs(300);

/// A file of this repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Says that a test could not be made here, past the capture of a test's output.
pub fn not_tested(why: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_string();
    let _ = writeln!(std::io::stderr(), "NOT TESTED {name}: {why}");
}

// ---- the program ----

/// The program in a test's own folder, with its cache there and no input.
pub fn llm_bench(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    isolate(&mut command, dir).args(args);
    command
}

/// The program with the engines of `tests/engines/fake` beside its own.
pub fn with_fakes(dir: &Path, args: &[&str]) -> Command {
    let mut command = llm_bench(dir, args);
    command.env("LLM_BENCH_ENGINES", repository("tests/engines/fake"));
    command
}

/// The program under limits set by a shell, such as `ulimit -v 3000000`.
pub fn limited(dir: &Path, limits: &str, args: &[&str]) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", &format!("{limits}; exec \"$0\" \"$@\""), PROGRAM]);
    isolate(&mut command, dir).args(args);
    command
}

pub fn isolate<'a>(command: &'a mut Command, dir: &Path) -> &'a mut Command {
    command
        .env("LLM_BENCH_CACHE", dir.join("cache"))
        .env_remove("LLM_BENCH_ENGINES")
        .stdin(Stdio::null())
        .current_dir(dir)
}

/// Runs the program (`llm_bench`) to its end.
pub fn output(dir: &Path, args: &[&str]) -> Output {
    llm_bench(dir, args).output().unwrap()
}

/// Runs the program to its end with `input` on stdin. A refusal may come before it is read.
pub fn output_of_input(dir: &Path, args: &[&str], input: &[u8]) -> Output {
    let mut command = llm_bench(dir, args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

// ---- what it printed ----

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The stdout of a command that succeeded.
pub fn done(output: impl Borrow<Output>) -> String {
    let output = output.borrow();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// The command was refused: exit code 2, nothing on stdout, and one error that contains each of
/// `words`, without a panic and without control characters.
pub fn refused(output: impl Borrow<Output>, words: &[&str]) {
    let output = output.borrow();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{words:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    for word in words {
        assert!(stderr.contains(word), "expected {word:?} in {stderr:?}");
    }
    assert_eq!(stderr.lines().filter(|l| l.starts_with("error")).count(), 1, "{stderr}");
    assert!(!stderr.contains("panicked") && !stderr.contains("memory allocation"), "{stderr}");
    let harmless = |c: char| c == '\n' || c == '\t' || !c.is_control();
    assert!(stderr.chars().all(harmless), "control characters reach the terminal: {stderr:?}");
}

// ---- what it left ----

/// The sorted contents of a folder; empty if the folder does not exist.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    paths.sort();
    paths
}

/// The result files of the runs in the folder of a test.
pub fn records(dir: &Path) -> Vec<PathBuf> {
    let mut paths = files(&dir.join("results"));
    paths.retain(|p| p.extension().is_some_and(|x| x == "json"));
    paths
}

/// The result file of the only run in the folder of a test.
pub fn only_record(dir: &Path) -> PathBuf {
    let found = records(dir);
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap()
}

/// How many launches a record holds, over all arms.
pub fn launches(record: &Record) -> usize {
    record.arms.iter().map(|a| a.launches.len()).sum()
}

/// The first launch of an arm.
pub fn first_launch<'a>(record: &'a Record, label: &str) -> &'a Launch {
    &record.arms.iter().find(|a| a.label == label).unwrap().launches[0]
}

/// Changes a JSON file in place.
pub fn edit_json(path: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let mut value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

// ---- processes ----

/// Waits until `seen` returns true; `what` names the event if it never comes.
pub fn wait_until(what: &str, mut seen: impl FnMut() -> bool) {
    let give_up = Instant::now() + STUCK;
    while !seen() {
        assert!(Instant::now() < give_up, "never seen: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until the result file of a run in this folder holds `n` launches.
pub fn wait_for_launches(dir: &Path, n: usize) -> PathBuf {
    let mut found = None;
    wait_until(&format!("{n} launches"), || {
        let holds = |p: &PathBuf| Record::read(p).is_ok_and(|r| launches(&r) >= n);
        found = records(dir).into_iter().find(holds);
        found.is_some()
    });
    found.unwrap()
}

pub fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(child.id() as i32).unwrap(), signal).unwrap();
}

/// Stops a running command, which must end with exit code 2 and report that it was stopped.
pub fn stop(child: Child, signal: Signal) -> Output {
    send(&child, signal);
    let output = child.wait_with_output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("stopped") && !stderr.contains("panicked"), "{stderr}");
    output
}

/// How many processes belong to this test: those with its folder's cache in their environment.
pub fn running(dir: &Path) -> usize {
    let cache = dir.join("cache");
    let mark = format!("LLM_BENCH_CACHE={}", cache.display());
    let has_mark = |e: &std::fs::DirEntry| {
        let environ = std::fs::read(e.path().join("environ")).unwrap_or_default();
        environ.split(|b| *b == 0).any(|v| v == mark.as_bytes())
    };
    std::fs::read_dir("/proc").unwrap().flatten().filter(has_mark).count()
}
