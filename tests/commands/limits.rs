//! Under limits of the system: too few threads or processes is an error or a failed launch in words,
//! never a panic, and nobody waits forever.

use std::process::{Command, Output};

use crate::support::{PROGRAM, done, output, text};

/// The program as a user who may have `tasks` threads in all; the system's limit does not count
/// for root. None where the tests cannot become another user.
fn with_tasks(dir: &std::path::Path, tasks: u32, args: &[&str]) -> Option<Output> {
    let root = rustix::process::geteuid().is_root();
    let mut command = Command::new(if root { "setpriv" } else { "bash" });
    // A user that nothing else runs as.
    if root {
        command.args(["--reuid=64321", "--regid=64321", "--clear-groups", "bash"]);
    }
    let run = format!("ulimit -u {tasks} && exec \"$0\" \"$@\"");
    command.args(["-c", &run, PROGRAM]).args(args).current_dir(dir);
    command.env("LLM_BENCH_CACHE", dir.join("cache")).env("HOME", dir);
    let output = command.output().ok()?;
    (root && output.status.code() != Some(126)).then_some(output)
}

#[test]
fn a_system_that_starts_no_more_threads_gets_an_error_in_words() {
    let dir = tempfile::tempdir().unwrap();
    done(output(dir.path(), &["models", "inspect", "tiny"]));
    let open = Command::new("chmod").args(["-R", "a+rwX"]).arg(dir.path()).status().unwrap();
    assert!(open.success());
    let run = ["run", "--model", "tiny", "--engine", "candle", "-r", "2", "-p", "8", "-n", "4"];
    let quantize = ["models", "quantize", "tiny", "--to", "q8_0", "--out-dir", "made", "--force"];
    let run = [&run[..], &["-t", "4", "--no-verify"]].concat();
    let mut words = 0;
    for tasks in [1, 2, 3, 4, 6, 8] {
        for args in [&run[..], &quantize] {
            let Some(output) = with_tasks(dir.path(), tasks, args) else {
                eprintln!("not tested: no other user here");
                return;
            };
            let said = text(&output.stderr);
            // An engine that dies of it is a failed launch, and its log may say how.
            assert!(!said.contains("panicked"), "{tasks} {args:?}: {said}");
            assert!(matches!(output.status.code(), Some(0 | 2)), "{tasks} {args:?}: {said}");
            words += usize::from(said.contains("ulimit -u"));
        }
    }
    assert!(words > 2, "the limit was met {words} times");
}
