//! The processes of a session. This process adopts what leaves an engine's process group, so that a
//! daemon's memory is counted and it ends with its launch. A guard, a process of its own, ends what
//! is left when this process is killed.
//!
//! The guard knows engines and their descendants by a mark that a process can neither lose by
//! leaving its group and session nor by clearing its environment and closing its files: a limit that
//! children inherit. `RLIMIT_RTTIME` bounds the processor time of real-time threads between two
//! system calls; the mark is a bound of thousands of years.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::interrupt;
use anyhow::{Context, Result};
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitOptions, getrlimit, setrlimit};

/// In the environment of the guard: the mark of the processes that it ends.
const MARK: &str = "LLM_BENCH_GUARD";
/// The limit that carries the mark, as `/proc/PID/limits` calls it.
const LIMIT: &str = "Max realtime timeout";
/// How long a helper may outlive its engine: Python's own ones end when they see it gone.
const GRACE: Duration = Duration::from_millis(500);

static GUARD: OnceLock<Guard> = OnceLock::new();

struct Guard {
    /// Microseconds of `RLIMIT_RTTIME`.
    mark: u64,
    /// It ends when the pipe to it closes.
    process: Child,
}

/// A process as the kernel lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listed {
    pid: u32,
    parent: u32,
    group: u32,
    zombie: bool,
}

/// Adopts what engines leave behind, and starts the guard. Without both an engine still ends with
/// its process group.
///
/// # Errors
/// The guard cannot be started.
pub fn adopt() -> Result<()> {
    let own = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(own)).context("cannot adopt engines' processes")?;
    let time = crate::units::MonoNs::now().0;
    let mark = 1 << 60 | u64::from(std::process::id()) << 32 | time & u64::from(u32::MAX);
    let process = Command::new(std::env::current_exe().context("cannot find this program")?)
        .arg("guard")
        .env_clear()
        .env(MARK, mark.to_string())
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("cannot start the guard of engine processes")?;
    // A second call keeps the first guard, and the second one ends at once.
    let _ = GUARD.set(Guard { mark, process });
    Ok(())
}

/// Marks an engine, so that the guard recognizes it and its descendants. Where this process may not
/// set the limit the engine starts without a mark and ends with its process group.
pub fn mark(command: &mut Command) {
    let Some(mark) = GUARD.get().map(|guard| guard.mark) else { return };
    // SAFETY: between fork and exec the closure makes two system calls, which are
    // async-signal-safe, and touches no memory that another thread could hold.
    unsafe {
        command.pre_exec(move || {
            let maximum = getrlimit(Resource::Rttime).maximum;
            let _ = setrlimit(Resource::Rttime, Rlimit { current: Some(mark), maximum });
            Ok(())
        });
    }
}

/// The guard: waits until the process that started it is gone, then ends every marked process.
///
/// # Errors
/// It was not started by llm-bench.
pub fn guard() -> Result<()> {
    let mark = std::env::var(MARK).context("guard is started by llm-bench itself")?;
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    // Twice without any: one may have forked while the first pass ran.
    let mut quiet = 0;
    while quiet < 2 {
        let marked: Vec<u32> = listed().map(|p| p.pid).filter(|p| is_marked(*p, &mark)).collect();
        marked.iter().for_each(|pid| kill(*pid));
        match marked.is_empty() {
            true => quiet += 1,
            false => quiet = 0,
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn is_marked(pid: u32, mark: &str) -> bool {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let limit = limits.lines().find_map(|line| line.strip_prefix(LIMIT));
    limit.and_then(|line| line.split_whitespace().next()) == Some(mark)
}

/// The process, its descendants, and those that left it: adopted by this process.
pub fn tree(root: u32) -> Vec<u32> {
    let all: Vec<Listed> = listed().collect();
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    all.iter().for_each(|p| children.entry(p.parent).or_default().push(p.pid));
    let mut found = vec![root];
    found.extend(adopted(&all, root).map(|p| p.pid).filter(|pid| *pid != root));
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        found.extend(children.get(&pid).into_iter().flatten());
        next += 1;
    }
    found
}

/// Ends what an engine that is gone left running; the names of those that did not end by
/// themselves. `leader` was the engine's process.
pub fn end_strays(leader: u32) -> Vec<String> {
    if GUARD.get().is_none() {
        return Vec::new();
    }
    let (began, mut ended) = (Instant::now(), Vec::new());
    loop {
        let all: Vec<Listed> = listed().collect();
        let left: Vec<Listed> = adopted(&all, leader).collect();
        for zombie in left.iter().filter(|p| p.zombie) {
            reap(zombie.pid);
        }
        let running: Vec<u32> = left.iter().filter(|p| !p.zombie).map(|p| p.pid).collect();
        if running.is_empty() {
            return ended;
        }
        if began.elapsed() > GRACE {
            for pid in running {
                ended.push(format!("{} ({pid})", name_of(pid)));
                kill(pid);
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Children of this process that it did not start itself: they are in process groups of engines or
/// of their own. The engine `leader` is among them while it runs; another engine that runs beside it
/// is not, nor is its group.
fn adopted(all: &[Listed], leader: u32) -> impl Iterator<Item = Listed> {
    let mut others = interrupt::groups();
    others.remove(&leader);
    let own = std::process::id();
    let group = all.iter().find(|p| p.pid == own).map_or(0, |p| p.group);
    let guard = GUARD.get().map(|guard| guard.process.id());
    let is_adopted = move |p: &&Listed| {
        guard.is_some()
            && p.parent == own
            && p.group != group
            && Some(p.pid) != guard
            && !others.contains(&p.group)
    };
    all.iter().filter(is_adopted).copied()
}

fn listed() -> impl Iterator<Item = Listed> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may contain spaces and brackets, so fields are counted from its last bracket.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let zombie = fields.next()? == "Z";
        let mut number = || fields.next()?.parse::<u32>().ok();
        Some(Listed { pid, parent: number()?, group: number()?, zombie })
    })
}

fn name_of(pid: u32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim().to_string()
}

fn kill(pid: u32) {
    if let Some(pid) = Pid::from_raw(pid as i32).filter(|_| pid > 1) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

fn reap(pid: u32) {
    let _ = rustix::process::waitpid(Pid::from_raw(pid as i32), WaitOptions::NOHANG);
}
