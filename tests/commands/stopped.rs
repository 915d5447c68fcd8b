//! Runs that are cut off: Ctrl-C and SIGTERM in every phase, a full disk, a model file that shrinks
//! during use. Measured launches are kept, nothing half-written stays, and no process is left
//! behind.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::{
    self, PROGRAM, done, files, launches, limited, not_tested, only_record, output, records,
    repository, running, stop, text, wait_until, with_fakes,
};
use llm_bench::record::{FailureKind, Record, Status};
use rustix::process::Signal;

fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn nothing_runs(dir: &Path) {
    wait_until("the end of every process", || running(dir) == 0);
}

// ---- stopped ----

#[test]
fn a_stop_while_an_engine_hangs_in_load_or_generation_keeps_the_record() {
    for (engine, signal) in [
        ("fake-hangs-at-load", Signal::INT),
        ("fake-hangs-at-load", Signal::TERM),
        ("fake-hangs-at-generate", Signal::INT),
        ("fake-hangs-at-generate", Signal::TERM),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let args = ["run", "--model", "tiny", "--engine", engine, "-p", "8", "-n", "4"];
        let child = start(&mut with_fakes(dir.path(), &args));
        // The harness and the engine that it started.
        wait_until("the engine", || running(dir.path()) >= 2 && !records(dir.path()).is_empty());
        stop(child, signal);
        nothing_runs(dir.path());
        let record = Record::read(&only_record(dir.path())).unwrap();
        assert!(!record.run.complete && record.arms[0].launches.is_empty());
        assert_eq!(
            files(&dir.path().join("results")).len(),
            4,
            "json, csv, md, html and nothing else"
        );
    }
}

#[test]
fn a_stop_in_the_middle_of_synthesis_leaves_no_file() {
    for signal in [Signal::INT, Signal::TERM] {
        let dir = tempfile::tempdir().unwrap();
        let models = dir.path().join("models");
        let args = ["models", "synth", "llama3-1b", "--quant", "Q4_0", "--out", "models/m.gguf"];
        let child = start(&mut with_fakes(dir.path(), &args));
        wait_until("the temporary file", || !files(&models).is_empty());
        stop(child, signal);
        assert_eq!(files(&models), Vec::<PathBuf>::new());
        nothing_runs(dir.path());
    }
}

/// A folder with an engine that needs an installation, and a Python that pretends to install: its
/// pip waits silently until the file `go` exists.
fn slow_installation(dir: &Path) -> PathBuf {
    let python = dir.join("python");
    let here = dir.display();
    let script = format!(
        "#!/bin/sh\n\
         case \"$1 $2 $3\" in\n\
         '-I -c '*) echo 3.12 ;;\n\
         '-I -m venv') mkdir -p \"$4/bin\" && cp \"$0\" \"$4/bin/python\" ;;\n\
         '-I -m pip') touch '{here}/pip-runs'; while [ ! -e '{here}/go' ]; do sleep 0.05; done ;;\n\
         esac\n"
    );
    std::fs::write(&python, script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&python, mode).unwrap();
    let engine = dir.join("engine");
    std::fs::create_dir(&engine).unwrap();
    std::fs::write(engine.join("pins.txt"), "nothing==1\n").unwrap();
    std::fs::write(engine.join("e.py"), "").unwrap();
    let manifest = "name = \"slow\"\nsummary = \"s\"\nscript = \"e.py\"\n\
        requirements = \"pins.txt\"\n[variants.slow]\nsummary = \"s\"\n";
    std::fs::write(engine.join("engine.toml"), manifest).unwrap();
    python
}

#[test]
fn a_stop_in_the_middle_of_an_installation_is_heard_and_the_next_one_starts_anew() {
    for signal in [Signal::INT, Signal::TERM] {
        let dir = tempfile::tempdir().unwrap();
        let python = slow_installation(dir.path());
        let install = || {
            let mut command = with_fakes(dir.path(), &["engines", "install", "slow"]);
            command.env("LLM_BENCH_ENGINES", dir.path().join("engine"));
            command.env("LLM_BENCH_PYTHON", &python);
            command
        };
        let child = start(&mut install());
        wait_until("pip", || dir.path().join("pip-runs").exists());
        stop(child, signal);
        nothing_runs(dir.path());
        let mut list = with_fakes(dir.path(), &["engines", "list"]);
        let list = list.env("LLM_BENCH_ENGINES", dir.path().join("engine")).output().unwrap();
        let listed = text(&list.stdout);
        let line = listed.lines().find(|l| l.starts_with("slow")).unwrap().to_string();
        assert!(line.contains("not installed"), "{line}");

        std::fs::write(dir.path().join("go"), "").unwrap();
        assert!(done(install().output().unwrap()).contains("slow: ready"));
    }
}

#[test]
fn a_record_is_whole_whenever_it_is_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let args =
        ["run", "--model", "tiny", "--engine", "fake-honest", "-r", "12", "-p", "8", "-n", "2"];
    let mut child = start(&mut with_fakes(dir.path(), &args));
    let mut looks = 0;
    let mut last = 0;
    while child.try_wait().unwrap().is_none() {
        if let Some(path) = records(dir.path()).first() {
            let now = Record::read(path).unwrap().arms[0].launches.len();
            assert!(now >= last, "launches were lost");
            (looks, last) = (looks + 1, now);
        }
    }
    assert!(looks > 20, "{looks} looks");
}

// ---- a full disk ----

#[test]
fn a_disk_that_fills_up_keeps_what_was_written_and_says_so() {
    // The kernel sends SIGXFSZ to a process that does not ignore it: it means the same.
    for limit in ["trap '' XFSZ; ulimit -f 24", "ulimit -f 24"] {
        fills_up(limit);
    }
}

fn fills_up(limit: &str) {
    let dir = tempfile::tempdir().unwrap();
    unpack_the_shipped_model(dir.path());
    let args =
        ["run", "--model", "tiny", "--engine", "fake-honest", "-r", "40", "-p", "8", "-n", "4"];
    // This process may write files of up to 24 KiB; a longer write fails, as on a full disk.
    let mut command = limited(dir.path(), limit, &args);
    command.env("LLM_BENCH_ENGINES", repository("tests/engines/fake"));
    let output = command.output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("cannot write") && stderr.contains("File too large"), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert!(text(&output.stdout).contains("fake-honest"), "the table is shown all the same");
    // The record from when it still fitted.
    let path = only_record(dir.path());
    let record = Record::read(&path).unwrap();
    assert!(!record.run.complete);
    assert!((1..40).contains(&record.arms[0].launches.len()));
    assert_eq!(files(&dir.path().join("results")).len(), 1, "no temporary file is left");

    // With room again, the run resumes.
    done(with_fakes(dir.path(), &["run", "--resume", path.to_str().unwrap()]).output().unwrap());
    let record = Record::read(&path).unwrap();
    assert!(record.run.complete);
    assert_eq!(record.arms[0].launches.len(), 40);
}

#[test]
fn a_disk_that_is_full_stops_the_run_at_once_and_no_finished_launch_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    unpack_the_shipped_model(dir.path());
    // A disk of 1.5 MB in a namespace of its own, which something else fills after three launches.
    let script = format!(
        "mkdir results && mount -t tmpfs -o size=1536k none results || exit 99\n\
         '{PROGRAM}' run --model tiny --engine fake-slow -r 30 -p 8 -n 4 --no-verify 2>said >shown &\n\
         while ! grep -q '^.3/30' said; do sleep 0.02; done\n\
         cat /dev/zero > results/filler 2>/dev/null\n\
         wait $!; echo \"code $?\"\n\
         grep -c '^.[0-9]*/30' said\n\
         rm results/filler; cp results/*.json stopped.json\n\
         '{PROGRAM}' run --resume results/*.json >/dev/null 2>&1; echo \"code $?\"\n\
         cp results/*.json whole.json; ls -A results"
    );
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "bash", "-c", &script]);
    command.env("LLM_BENCH_CACHE", dir.path().join("cache")).current_dir(dir.path());
    command.env("LLM_BENCH_ENGINES", repository("tests/engines/fake"));
    let output = command.output().unwrap();
    if output.status.code() == Some(99) || text(&output.stderr).contains("unshare") {
        not_tested("no namespaces here");
        return;
    }
    let told = text(&output.stdout);
    let said = std::fs::read_to_string(dir.path().join("said")).unwrap();
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!((lines[0], lines[2]), ("code 2", "code 0"), "{told}\n{said}");
    let measured: usize = lines[1].parse().unwrap();
    assert!(measured < 30, "{said}");
    let kept = launches(&Record::read(&dir.path().join("stopped.json")).unwrap());
    assert_eq!(kept, measured, "{said}");
    assert!(said.contains("no room for another launch") && said.contains("; stopping"), "{said}");
    assert!(said.contains(&format!("{kept} of 30 launches are kept")), "{said}");
    assert_eq!(launches(&Record::read(&dir.path().join("whole.json")).unwrap()), 30);
    assert_eq!(lines[3..].len(), 4, "nothing but the result is left: {told}");
}

/// Puts the shipped model's copy into the cache, which a process limited to small files could not
/// do.
fn unpack_the_shipped_model(dir: &Path) {
    done(output(dir, &["models", "inspect", "tiny"]));
}

#[test]
fn a_synthesis_without_room_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["models", "synth", "llama3-1b", "--quant", "Q4_0", "--out", "models/m.gguf"];
    let mut command = limited(dir.path(), "trap '' XFSZ; ulimit -f 1000", &args);
    support::refused(command.output().unwrap(), &["models/m.gguf", "File too large"]);
    assert_eq!(files(&dir.path().join("models")), Vec::<PathBuf>::new());
}

// ---- a model that shrinks ----

#[test]
fn an_engine_whose_model_is_cut_under_it_fails_with_both_lengths() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("copy.gguf");
    std::fs::copy(repository("models/tiny.gguf"), &model).unwrap();
    let length = model.metadata().unwrap().len();
    let args = ["run", "--model", "./copy.gguf", "--engine", "fake-cuts-its-model,candle"];
    // One launch each; in either order, the harness survives.
    let args = [&args[..], &["-r", "1", "-p", "8"]].concat();
    let stderr = text(&with_fakes(dir.path(), &args).output().unwrap().stderr);
    assert!(!stderr.contains("panicked"), "{stderr}");
    let record = Record::read(&only_record(dir.path())).unwrap();
    assert!(record.run.complete);
    let launch = &record.arms[0].launches[0];
    assert_eq!(launch.status, Status::Failed);
    let error = launch.error.as_ref().unwrap();
    assert_eq!((error.kind, error.phase.as_str()), (FailureKind::Killed, "load"), "{error:?}");
    for part in ["copy.gguf", "shrank", &length.to_string(), "4096", "signal 7"] {
        assert!(error.message.contains(part), "{part} not in {error:?}");
    }
    if let Some(error) = &record.arms[1].launches[0].error {
        assert_eq!(error.kind, FailureKind::BadModel, "{error:?}");
        assert!(error.message.contains("4096"), "{error:?}");
    }
}
