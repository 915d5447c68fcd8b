//! Engines that are killed, hang, are missing or lie, over the real protocol and through the real
//! command: each becomes a failed launch with its reason, and the other engines continue.

use std::path::Path;
use std::process::{Child, Output, Stdio};

use crate::support::{
    done, first_launch, only_record, repository, running, stop, text, wait_for_launches,
    wait_until, with_fakes,
};
use llm_bench::metric::Metric;
use llm_bench::record::{FailureKind, Record, Role, Status, Verdict};
use rustix::process::Signal;

/// Runs engines on the tiny model and returns the written record.
fn run(engines: &str, extra: &[&str]) -> (Record, Output) {
    let dir = tempfile::tempdir().unwrap();
    let (record, output) = run_in(dir.path(), engines, extra);
    // A kill takes time on a busy machine; a process that was never killed stays for an hour.
    wait_until("the end of every process of the engine", || running(dir.path()) == 0);
    (record, output)
}

fn run_in(dir: &Path, engines: &str, extra: &[&str]) -> (Record, Output) {
    let mut command = with_fakes(dir, &["run", "--model", "tiny", "--engine", engines]);
    command.args(["-p", "8", "-n", "4", "--no-install", "--no-verify"]).args(extra);
    let output = command.output().unwrap();
    (Record::read(&only_record(dir)).unwrap(), output)
}

/// The broken engine fails for this reason in this phase, and candle beside it is measured.
fn fails(engine: &str, kind: FailureKind, phase: &str, word: &str) {
    fails_with(&[], engine, kind, phase, word);
}

fn fails_with(extra: &[&str], engine: &str, kind: FailureKind, phase: &str, word: &str) {
    let extra = [&["-r", "1", "--timeout", "4"], extra].concat();
    let (record, output) = run(&format!("{engine},candle"), &extra);
    let broken = first_launch(&record, engine);
    assert_eq!(broken.status, Status::Failed, "{broken:?}");
    let error = broken.error.as_ref().unwrap();
    assert_eq!((error.kind, error.phase.as_str()), (kind, phase), "{error:?}");
    let said = format!("{} {}", error.message, error.stderr_tail.as_deref().unwrap_or_default());
    assert!(said.contains(word), "expected {word:?} in {said:?}");
    assert!(broken.metrics.is_empty(), "a failed launch has no values");
    assert_eq!(first_launch(&record, "candle").status, Status::Ok);
    assert!(record.run.complete);
    assert_eq!(output.status.code(), Some(0), "something was measured");
    let table = text(&output.stdout);
    assert!(table.contains("failed"), "{table}");
}

#[test]
fn an_honest_engine_is_measured() {
    let (record, output) = run("fake-honest", &["-r", "2"]);
    assert_eq!(output.status.code(), Some(0));
    let arm = &record.arms[0];
    assert!(arm.launches.iter().all(|l| l.status == Status::Ok));
    use Metric::{ColdStartTtft, DecodeTps, FirstGenerateTtft, ModelLoad, Ttft};
    for metric in [ModelLoad, ColdStartTtft, FirstGenerateTtft, Ttft] {
        assert_eq!(arm.metrics[&metric].n, 2, "{metric}");
    }
    let decode = arm.metrics[&DecodeTps].median;
    assert!(decode > 10.0 && decode < 500.0, "2 ms a token: {decode}");
}

#[test]
fn stray_prints_do_not_corrupt_the_stream() {
    let (record, _) = run("fake-stray-prints", &["-r", "1"]);
    assert_eq!(first_launch(&record, "fake-stray-prints").status, Status::Ok);
}

#[test]
fn a_wrong_token_count_is_caught() {
    fails("fake-short-count", FailureKind::WrongTokens, "generate", "asked for 4 tokens, got 3");
}

#[test]
fn a_token_outside_the_vocabulary_is_caught() {
    fails("fake-foreign-token", FailureKind::WrongTokens, "generate", "10000000");
}

#[test]
fn a_time_before_the_request_is_caught() {
    fails("fake-time-travel", FailureKind::Lied, "generate", "t_begin_ns");
}

#[test]
fn a_time_after_the_answer_is_caught() {
    fails("fake-future", FailureKind::Lied, "generate", "t_tokens_ns");
}

#[test]
fn falling_times_are_caught() {
    fails("fake-falling-times", FailureKind::Lied, "generate", "outside");
}

#[test]
fn work_outside_the_claimed_interval_is_caught() {
    fails("fake-hidden-work", FailureKind::Lied, "generate", "accounts for");
}

#[test]
fn a_context_that_lacks_positions_is_caught() {
    let (d, lied) = (&["-d", "16"], FailureKind::Lied);
    fails_with(d, "fake-context-short", lied, "context", "context of 16 positions (id 2)");
}

#[test]
fn a_context_that_is_filled_after_the_answer_is_caught() {
    let (d, lied) = (&["-d", "16"], FailureKind::Lied);
    fails_with(d, "fake-context-future", lied, "context", "t_end_ns");
}

#[test]
fn a_generation_at_another_depth_is_caught() {
    let (d, lied) = (&["-d", "16"], FailureKind::Lied);
    fails_with(d, "fake-context-shallow", lied, "generate", "depth 16, the engine's is at 0");
}

#[test]
fn an_engine_that_holds_its_context_is_measured_at_its_depth() {
    let (record, _) =
        run("fake-context,fake-honest", &["-r", "1", "-d", "16", "--iterations", "2"]);
    for (label, apart) in [("fake-context", true), ("fake-honest", false)] {
        let launch = first_launch(&record, label);
        let measured = launch.prompts.iter().filter(|run| run.role == Role::Measured);
        let runs: Vec<_> =
            measured.map(|r| (r.depth, r.n_prompt, r.context_in_request, r.n_gen)).collect();
        assert_eq!(runs, [(16, 8, !apart, 4); 2]);
        for metric in [Metric::Ttft, Metric::PrefillTps, Metric::E2eTps] {
            assert_eq!(launch.metrics.contains_key(&metric), apart, "{label} {metric}");
        }
        assert!(launch.metrics.contains_key(&Metric::DecodeTps), "{label}");
    }
}

#[test]
fn a_batch_that_an_engine_does_not_offer_is_not_asked_for() {
    let (b, word) = (&["-b", "2"], "it does not name `batch` among its features");
    fails_with(b, "fake-honest", FailureKind::Unsupported, "ready", word);
}

#[test]
fn tokens_that_a_batch_lacks_are_caught() {
    let (b, wrong) = (&["-b", "3"], FailureKind::WrongTokens);
    let word = "asked for the tokens of 3 sequences, got those of 2";
    fails_with(b, "fake-batch-lacks-one", wrong, "generate", word);
    let word = "sequence 2: asked for 4 tokens, got 3";
    fails_with(b, "fake-batch-short", wrong, "generate", word);
    fails_with(b, "fake-batch-foreign", wrong, "generate", "sequence 2: token id 10000000");
    let (record, _) = run("fake-batch", &["-r", "1", "-b", "3"]);
    assert_eq!(first_launch(&record, "fake-batch").status, Status::Ok);
}

#[test]
fn a_wrong_pid_is_caught() {
    fails("fake-wrong-pid", FailureKind::Lied, "hello", "the engine says it is 1");
}

#[test]
fn an_engine_that_never_answers_is_killed_at_the_deadline() {
    fails("fake-hangs-at-hello", FailureKind::Timeout, "hello", "no answer within 4 s");
}

#[test]
fn an_engine_that_hangs_while_loading_is_killed_at_the_deadline() {
    fails("fake-hangs-at-load", FailureKind::Timeout, "load", "killed");
}

#[test]
fn an_engine_that_hangs_in_a_generation_is_killed_at_the_deadline() {
    fails("fake-hangs-at-generate", FailureKind::Timeout, "generate", "killed");
}

#[test]
fn an_engine_that_does_not_exit_is_killed_at_the_deadline() {
    fails("fake-ignores-bye", FailureKind::Timeout, "bye", "killed");
}

#[test]
fn the_signal_that_killed_an_engine_is_reported() {
    fails("fake-dies-at-load", FailureKind::Killed, "load", "signal 9");
}

#[test]
fn an_engine_that_exits_leaves_its_last_words() {
    fails("fake-exits-at-generate", FailureKind::Exited, "generate", "the last word");
}

#[test]
fn what_is_no_message_is_refused() {
    fails("fake-garbage", FailureKind::Protocol, "generate", "just kidding");
}

#[test]
fn an_engine_may_state_its_own_failure() {
    fails("fake-oom", FailureKind::Oom, "load", "expected 5 GB");
}

#[test]
fn a_missing_engine_fails_and_the_others_go_on() {
    fails("pytorch", FailureKind::MissingDependency, "install", "engines install pytorch");
}

#[test]
fn when_nothing_was_measured_the_exit_code_is_two() {
    let (record, output) = run("fake-oom", &["-r", "1"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(first_launch(&record, "fake-oom").status, Status::Failed);
    assert!(text(&output.stderr).contains("nothing was measured"));
}

#[test]
fn children_of_an_engine_do_not_outlive_it() {
    let (record, _) = run("fake-orphan", &["-r", "1"]); // `run` looks for survivors
    assert_eq!(first_launch(&record, "fake-orphan").status, Status::Ok);
}

#[test]
fn a_daemon_of_an_engine_is_counted_ended_and_reported() {
    let (record, _) = run("fake-daemon", &["-r", "1"]); // `run` looks for survivors
    let launch = first_launch(&record, "fake-daemon");
    assert_eq!(launch.status, Status::Ok, "{launch:?}");
    let peak = launch.metrics[&Metric::PeakHostBytes];
    assert!(peak > 200e6, "the daemon's 200 MB are missing: {peak}");
    let notes = record.arms[0].notes.join(" ");
    assert!(notes.contains("left processes running"), "{notes}");
}

#[test]
fn times_that_no_processor_reaches_are_refused() {
    fails("fake-instant", FailureKind::Implausible, "bye", "multiply-adds a second");
}

#[test]
fn a_book_of_memory_beyond_the_process_is_refused() {
    fails("fake-fantastic-book", FailureKind::Implausible, "bye", "never held more than");
    fails("fake-negative-book", FailureKind::Protocol, "memory", "-1");
}

#[test]
fn thousands_of_notes_are_refused_and_lines_after_the_end_are_dropped() {
    fails("fake-many-notes", FailureKind::Protocol, "load", "notes: expected at most 256");
    let (record, _) = run("fake-chatters-after-bye", &["-r", "1"]);
    assert_eq!(first_launch(&record, "fake-chatters-after-bye").status, Status::Ok);
}

#[test]
fn a_model_that_is_replaced_during_the_run_ends_the_arm() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model.gguf");
    std::fs::copy(repository("models/tiny.gguf"), &model).unwrap();
    let model = model.to_str().unwrap();
    let engines = "fake-honest,fake-swaps-its-model";
    let run = ["run", "--model", model, "--engine", engines, "-r", "3", "-p", "8", "-n", "4"];
    let output = with_fakes(dir.path(), &run).arg("--no-verify").output().unwrap();
    let record = Record::read(&only_record(dir.path())).unwrap();
    let last = |label: &str| {
        let arm = record.arms.iter().find(|a| a.label == label).unwrap();
        let last = arm.launches.last().unwrap();
        (last.status, last.error.as_ref().map_or("", |e| &e.message).to_string())
    };
    for engine in engines.split(',') {
        let (status, why) = last(engine);
        assert_eq!(status, Status::Failed, "{engine}: {}", text(&output.stderr));
        assert!(why.contains("was replaced by another file"), "{engine}: {why}");
    }
}

/// Starts a long run of the slow engine.
fn start_slow_run(dir: &Path) -> Child {
    start_run(dir, "fake-slow")
}

fn start_run(dir: &Path, engine: &str) -> Child {
    let run = ["run", "--model", "tiny", "--engine", engine, "-r", "50", "-p", "8", "-n", "4"];
    with_fakes(dir, &run).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn ctrl_c_keeps_what_was_measured() {
    let dir = tempfile::tempdir().unwrap();
    let child = start_slow_run(dir.path());
    wait_for_launches(dir.path(), 1);
    let stderr = text(&stop(child, Signal::INT).stderr);
    assert!(stderr.contains("are kept in"), "{stderr}");
    let record = Record::read(&only_record(dir.path())).unwrap();
    assert!(!record.run.complete && !record.arms[0].launches.is_empty());
    assert!(record.arms[0].metrics.contains_key(&Metric::DecodeTps), "summaries are there too");
}

#[test]
fn when_the_harness_is_killed_its_engine_dies_and_the_record_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = start_slow_run(dir.path());
    wait_for_launches(dir.path(), 1);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("the end of the engine", || running(dir.path()) == 0);
    let record = Record::read(&only_record(dir.path())).unwrap();
    assert!(!record.run.complete && !record.arms[0].launches.is_empty());
}

/// Daemons of this test's engines: Python that knows its folder from the command line alone.
fn daemons(dir: &Path) -> usize {
    let is_ours = |command: &str| {
        command.contains("python")
            && command.contains(&format!("# {}", dir.join("cache").display()))
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let commands = processes.filter_map(|p| std::fs::read(p.path().join("cmdline")).ok());
    commands.filter(|c| is_ours(&String::from_utf8_lossy(c).replace('\0', " "))).count()
}

#[test]
fn when_the_harness_is_killed_no_daemon_of_an_engine_survives() {
    for engine in ["fake-daemon-slow", "fake-daemon-bare-slow"] {
        let dir = tempfile::tempdir().unwrap();
        let mut child = start_run(dir.path(), engine);
        wait_for_launches(dir.path(), 1);
        wait_until("a daemon", || daemons(dir.path()) > 0);
        child.kill().unwrap();
        child.wait().unwrap();
        wait_until("the end of the engine and its daemon", || {
            running(dir.path()) + daemons(dir.path()) == 0
        });
    }
}

#[test]
fn an_engine_without_teacher_forced_logits_is_measured_and_has_no_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let run = ["run", "--model", "tiny", "--engine", "fake-honest,candle", "-r", "1"];
    let mut command = with_fakes(dir.path(), &run);
    done(command.args(["-p", "8", "-n", "4", "--no-install"]).output().unwrap());
    let record = Record::read(&only_record(dir.path())).unwrap();
    assert_eq!(first_launch(&record, "fake-honest").status, Status::Ok);
    let verdict = |label: &str| {
        let arm = record.arms.iter().find(|a| a.label == label).unwrap();
        arm.verification.as_ref().unwrap().verdict
    };
    assert_eq!(verdict("fake-honest"), Verdict::Unanswered);
    assert_eq!(verdict("candle"), Verdict::Pass);
    assert!(record.warnings.iter().all(|w| w.code != "other_function"), "{:?}", record.warnings);
}
