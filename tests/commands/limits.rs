//! Under limits of the system: too few threads or processes is an error or a failed launch in words,
//! never a panic, and nobody waits forever.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use llm_bench::allowance::{Tree, groups};
use llm_bench::record::Record;

use crate::support::{PROGRAM, done, isolate, not_tested, only_record, output, text, wait_until};

/// The program as a user who may have `tasks` threads in all; the system's limit does not count
/// for root. None where the tests cannot become another user.
fn with_tasks(dir: &Path, tasks: u32, args: &[&str]) -> Option<Output> {
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
                not_tested("no other user here");
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

/// A control group with one limit, below the group of this process; removed in the end.
struct Group(PathBuf);

impl Group {
    /// None where this process may make none, or the controller is not there.
    fn new(controller: &str, files: [&str; 2], limit: &str) -> Option<Self> {
        let parents = groups(&Tree::new("/"), controller);
        let name = format!("llm-bench-test-{}-{controller}", std::process::id());
        let folder = Path::new(parents.first()?).join(name);
        std::fs::create_dir(&folder).ok()?;
        let group = Self(folder);
        let file = files.map(|file| group.0.join(file)).into_iter().find(|file| file.exists())?;
        std::fs::write(file, limit).ok()?;
        Some(group)
    }

    /// The program inside the group; None where it cannot be entered.
    fn run(&self, dir: &Path, args: &[&str]) -> Option<Output> {
        let mut command = Command::new("sh");
        let enter = "echo $$ > \"$0/cgroup.procs\" || exit 99; exec \"$@\"";
        command.args(["-c", enter]).arg(&self.0);
        let output = isolate(command.arg(PROGRAM), dir).args(args).output().unwrap();
        (output.status.code() != Some(99)).then_some(output)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        wait_until("an empty group", || std::fs::remove_dir(&self.0).is_ok());
    }
}

const SMALL: [&str; 11] =
    ["run", "--model", "tiny", "--engine", "candle", "-r", "2", "-p", "8", "-n", "4"];

#[test]
fn a_memory_group_smaller_than_the_buffer_of_the_bandwidth_ends_no_run() {
    let dir = tempfile::tempdir().unwrap();
    let files = ["memory.max", "memory.limit_in_bytes"];
    let Some(group) = Group::new("memory", files, "150000000") else {
        return not_tested("no memory group can be made here");
    };
    let run = group.run(dir.path(), &[&SMALL[..], &["--no-verify"]].concat());
    let Some(output) = run else { return not_tested("the memory group cannot be entered") };
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{:?}: {said}", output.status);
    let record = Record::read(&only_record(dir.path())).unwrap();
    assert!(record.host.measured_read_bandwidth_bytes_per_s.is_some(), "{said}");
}

#[test]
fn a_group_of_few_processes_is_an_error_in_words() {
    let dir = tempfile::tempdir().unwrap();
    done(output(dir.path(), &["models", "inspect", "tiny"]));
    for tasks in ["1", "2", "3", "5", "8"] {
        let Some(group) = Group::new("pids", ["pids.max"; 2], tasks) else {
            return not_tested("no group of processes can be made here");
        };
        let args = [&SMALL[..], &["-t", "4", "--no-verify"]].concat();
        let Some(output) = group.run(dir.path(), &args) else {
            return not_tested("the group of processes cannot be entered");
        };
        let said = text(&output.stderr);
        assert!(!said.contains("panicked"), "{tasks}: {said}");
        assert!(matches!(output.status.code(), Some(0 | 2)), "{tasks}: {:?} {said}", output.status);
    }
}
