//! A child process of the harness: in a process group of its own, on as many processors as it may
//! have threads, with the end of its log kept, and killed with everything that it started. It ends
//! when the harness does.

use std::collections::VecDeque;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::connection::{Broken, Pid};
use super::conversation::Failure;
use crate::interrupt;
use crate::processes;
use crate::record::{FailureKind, LaunchError};
use crate::threads::start;
use crate::units::MonoNs;

/// How much of a log is kept.
const LOG_KEPT: usize = 16 << 10;

/// A running child. Dropping it kills the process group.
pub struct Child {
    child: std::process::Child,
    log: Arc<Mutex<VecDeque<u8>>>,
    log_readers: Vec<JoinHandle<()>>,
    oom_kills_before: Option<u64>,
    /// Just before it was spawned.
    pub spawned: MonoNs,
}

impl Child {
    /// Starts `command` on as many processors as it may have threads. Its stdin and stdout are pipes,
    /// its stderr is the log.
    pub fn spawn(mut command: Command, threads: u32) -> Result<Self, Failure> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        processes::mark(&mut command);
        confine(&mut command, threads);
        let oom_kills_before = oom_kills();
        let spawned = MonoNs::now();
        let child = command.spawn().map_err(|e| {
            let program = command.get_program().to_string_lossy().into_owned();
            cannot(format!("cannot start {program}: {e}"))
        })?;
        interrupt::guard_group(child.id());
        // Where a thread is refused, dropping it ends the child.
        let (log, log_readers) = Default::default();
        let mut child = Self { child, log, log_readers, oom_kills_before, spawned };
        let stderr = child.child.stderr.take().expect("stderr is piped");
        child.keep(stderr)?;
        Ok(child)
    }

    /// Keeps the end of what this pipe says, as a part of the log.
    pub fn keep(&mut self, pipe: impl Read + Send + 'static) -> Result<(), Failure> {
        let kept = Arc::clone(&self.log);
        let reader = start(move || keep_tail(pipe, &kept)).map_err(|e| cannot(e.to_string()))?;
        self.log_readers.push(reader);
        Ok(())
    }

    /// Its stdin and stdout, once.
    pub fn pipes(&mut self) -> (ChildStdin, ChildStdout) {
        let stdin = self.child.stdin.take().expect("stdin is piped");
        (stdin, self.child.stdout.take().expect("stdout is piped"))
    }

    pub fn pid(&self) -> Pid {
        Pid(self.child.id())
    }

    /// How it ended, if it has.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Finds out how it ended, after a sign that it is about to; `None` if it has not within two
    /// seconds.
    pub fn ended(&mut self) -> Option<Broken> {
        let end = Instant::now() + Duration::from_secs(2);
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(self.exited(status)),
                Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
                _ => return None,
            }
        }
    }

    /// Says what an exit status means.
    pub fn exited(&self, status: ExitStatus) -> Broken {
        let (kind, message) = match status.signal() {
            Some(9) if oom_kills() > self.oom_kills_before => {
                (FailureKind::Oom, "killed by the kernel: out of memory".into())
            }
            Some(signal) => (FailureKind::Killed, format!("killed by signal {signal}")),
            None => {
                let code = status.code().unwrap_or_default();
                (FailureKind::Exited, format!("exited with status {code}"))
            }
        };
        Broken { kind, message }
    }

    /// Kills the group; returns the end of the log, if there is one.
    pub fn kill(&mut self) -> Option<String> {
        interrupt::kill_group(self.child.id());
        let _ = self.child.wait();
        // The group is dead, so its ends of the pipes are closed and the readers finish.
        let end = Instant::now() + Duration::from_secs(1);
        for reader in self.log_readers.drain(..) {
            while !reader.is_finished() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let kept = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let tail: Vec<u8> = kept.iter().copied().collect();
        let tail = from_a_whole_word(&tail);
        let tail = String::from_utf8_lossy(tail).trim().to_string();
        (!tail.is_empty()).then_some(tail)
    }

    /// Ends what it left running; returns the names of those.
    pub fn end_strays(&self) -> Vec<String> {
        processes::end_strays(self.child.id())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // The leader may have exited, but a helper that it started may still run.
        interrupt::kill_group(self.child.id());
        let _ = self.child.wait();
        let strays = processes::end_strays(self.child.id());
        interrupt::release_group(self.child.id());
        for stray in strays {
            tracing::warn!("an engine left {stray} running; ended");
        }
    }
}

/// The failure of a launch that could not begin.
pub fn cannot(message: String) -> Failure {
    let (kind, phase) = (FailureKind::SpawnFailed, "spawn".into());
    Failure::Engine(LaunchError { kind, phase, message, stderr_tail: None })
}

/// What was cut in front may have cut a token in two, of which the rest is not recognized as one.
fn from_a_whole_word(tail: &[u8]) -> &[u8] {
    if tail.len() < LOG_KEPT {
        return tail;
    }
    let gap = tail.iter().position(u8::is_ascii_whitespace);
    &tail[gap.unwrap_or(tail.len())..]
}

fn keep_tail(mut pipe: impl Read, kept: &Mutex<VecDeque<u8>>) {
    let mut chunk = [0u8; 4096];
    while let Ok(n) = pipe.read(&mut chunk) {
        if n == 0 {
            return;
        }
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(&chunk[..n]);
        let over = kept.len().saturating_sub(LOG_KEPT);
        kept.drain(..over);
    }
}

/// Makes the kernel kill the child when the harness ends, however it ends, and keep it on the first
/// `threads` processors that the harness may use: a limit that no library can exceed.
fn confine(command: &mut Command, threads: u32) {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, set_parent_process_death_signal};
        use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
        let mut cpus = CpuSet::new();
        if let Ok(allowed) = sched_getaffinity(None) {
            let allowed = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
            allowed.take(threads as usize).for_each(|cpu| cpus.set(cpu));
        }
        // SAFETY: between fork and exec the closure makes two system calls, which are
        // async-signal-safe, and touches no memory that another thread could hold.
        unsafe {
            command.pre_exec(move || {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                if cpus.count() > 0 {
                    sched_setaffinity(None, &cpus)?;
                }
                Ok(())
            });
        }
    }
}

/// How often the kernel has killed processes for lack of memory since boot.
fn oom_kills() -> Option<u64> {
    let vmstat = std::fs::read_to_string("/proc/vmstat").ok()?;
    vmstat.lines().find_map(|l| l.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_log_begins_with_a_whole_word() {
        assert_eq!(from_a_whole_word(b"hf_short and whole"), b"hf_short and whole");
        let mut long = b"fOfAToken and more ".to_vec();
        long.resize(LOG_KEPT, b'x');
        assert!(from_a_whole_word(&long).starts_with(b" and more "));
        assert_eq!(from_a_whole_word(&vec![b'x'; LOG_KEPT]), b"");
    }
}
