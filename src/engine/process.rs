//! A process over pipes: spawned in its own process group, on as many processors as it may have
//! threads, and killed with everything that it started. It ends when the harness does.

use std::collections::VecDeque;
use std::io::{BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::connection::{Broken, Connection, Observes, Pid};
use super::conversation::Failure;
use crate::interrupt;
use crate::processes;
use crate::protocol::{CodecError, Reply, Request, read_message, write_message};
use crate::record::{FailureKind, LaunchError};
use crate::threads::start;
use crate::units::MonoNs;

/// How much of an engine's stderr is kept.
const STDERR_KEPT: usize = 16 << 10;

/// Replies that may wait to be read: the engine waits when there are more.
const EVENTS: usize = 256;

enum Event {
    Line(MonoNs, Reply),
    Broken(CodecError),
    End,
}

/// A running engine process. Dropping it kills the process group.
pub struct Process {
    child: Child,
    events: Receiver<Event>,
    to_writer: Option<Sender<Request>>,
    stderr: Arc<Mutex<VecDeque<u8>>>,
    stderr_reader: Option<std::thread::JoinHandle<()>>,
    oom_kills_before: Option<u64>,
    /// The file that it loaded, and its size at that time.
    model: Option<(PathBuf, u64)>,
    spawned: MonoNs,
}

impl Process {
    /// Starts `command` on as many processors as it may have threads, with its stdin, stdout and
    /// stderr connected to this process.
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
        let cannot = |message: String| {
            let (kind, phase) = (FailureKind::SpawnFailed, "spawn".into());
            Failure::Engine(LaunchError { kind, phase, message, stderr_tail: None })
        };
        let mut child = command.spawn().map_err(|e| {
            let program = command.get_program().to_string_lossy().into_owned();
            cannot(format!("cannot start {program}: {e}"))
        })?;
        interrupt::guard_group(child.id());

        let (event_tx, events) = sync_channel(EVENTS);
        let stdout = child.stdout.take().expect("stdout is piped");
        let (to_writer, requests) = channel::<Request>();
        let mut stdin = child.stdin.take().expect("stdin is piped");
        let stderr = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&stderr);
        let pipe = child.stderr.take().expect("stderr is piped");
        // Where a thread is refused, dropping it ends the child.
        let mut process = Self {
            child,
            events,
            to_writer: Some(to_writer),
            stderr,
            stderr_reader: None,
            oom_kills_before,
            model: None,
            spawned,
        };
        let refused = |e: std::io::Error| cannot(e.to_string());
        start(move || read_replies(stdout, event_tx)).map_err(refused)?;
        let write = move || {
            // A closed pipe shows as the end of stdout, which the reader reports.
            while let Ok(request) = requests.recv() {
                if write_message(&mut stdin, &request).is_err() {
                    break;
                }
            }
        };
        start(write).map_err(refused)?;
        process.stderr_reader = Some(start(move || keep_tail(pipe, &kept)).map_err(refused)?);
        Ok(process)
    }

    /// Finds out how the process ended, after the end of its stdout.
    fn ended(&mut self) -> Broken {
        let end = Instant::now() + Duration::from_secs(2);
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return self.exited(status),
                Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
                _ => {
                    let message = "closed its output but did not exit; killed".to_string();
                    return Broken { kind: FailureKind::Protocol, message };
                }
            }
        }
    }

    fn exited(&self, status: ExitStatus) -> Broken {
        let (kind, message) = match status.signal() {
            Some(9) if oom_kills() > self.oom_kills_before => {
                (FailureKind::Oom, "killed by the kernel: out of memory".into())
            }
            Some(signal) => {
                let why = self.shrunk().unwrap_or_default();
                (FailureKind::Killed, format!("killed by signal {signal}{why}"))
            }
            None => {
                let code = status.code().unwrap_or_default();
                (FailureKind::Exited, format!("exited with status {code}"))
            }
        };
        Broken { kind, message }
    }

    /// Explains the death of a process whose mapped model file was truncated.
    fn shrunk(&self) -> Option<String> {
        let (path, before) = self.model.as_ref()?;
        let now = path.metadata().map_or(0, |m| m.len());
        (now < *before).then(|| {
            let path = path.display();
            format!(": {path} shrank from {before} to {now} bytes while the engine used it")
        })
    }
}

impl Connection for Process {
    fn observes(&self) -> Observes {
        let (spawned, pid) = (Some(self.spawned), Some(Pid(self.child.id())));
        Observes { spawned, pid, ids: true, clock: true }
    }

    fn send(&mut self, request: Request) {
        if let Request::Load(load) = &request {
            let path = PathBuf::from(&load.path);
            self.model = path.metadata().ok().map(|m| (path, m.len()));
        }
        if let Some(writer) = &self.to_writer {
            // If the writer has ended, the engine's output ends too.
            let _ = writer.send(request);
        }
    }

    fn next(&mut self, limit: Duration) -> Result<Option<(MonoNs, Reply)>, Broken> {
        match self.events.recv_timeout(limit) {
            Ok(Event::Line(arrived, reply)) => Ok(Some((arrived, reply))),
            Ok(Event::Broken(e)) => {
                Err(Broken { kind: FailureKind::Protocol, message: e.to_string() })
            }
            Ok(Event::End) | Err(RecvTimeoutError::Disconnected) => Err(self.ended()),
            Err(RecvTimeoutError::Timeout) => Ok(None),
        }
    }

    fn abort(&mut self) -> Option<String> {
        interrupt::kill_group(self.child.id());
        let _ = self.child.wait();
        // The group is dead, so its end of the pipe is closed and the reader finishes.
        if let Some(reader) = self.stderr_reader.take() {
            let end = Instant::now() + Duration::from_secs(1);
            while !reader.is_finished() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let kept = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        let tail: Vec<u8> = kept.iter().copied().collect();
        let tail = from_a_whole_word(&tail);
        let tail = String::from_utf8_lossy(tail).trim().to_string();
        (!tail.is_empty()).then_some(tail)
    }

    fn close(&mut self, limit: Duration) -> Result<Vec<String>, Broken> {
        if let Some(writer) = self.to_writer.take() {
            let _ = writer.send(Request::Bye);
        }
        let end = Instant::now() + limit;
        loop {
            // An engine that still writes must not wait for a reader.
            while self.events.try_recv().is_ok() {}
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => {
                    return Ok(processes::end_strays(self.child.id()));
                }
                Ok(Some(status)) => return Err(self.exited(status)),
                Ok(None) if Instant::now() > end => return Err(Broken::late(limit)),
                Ok(None) => std::thread::sleep(Duration::from_millis(2)),
                Err(e) => {
                    return Err(Broken { kind: FailureKind::Internal, message: e.to_string() });
                }
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // After `bye` the leader has exited, but a helper that it started may still run.
        interrupt::kill_group(self.child.id());
        let _ = self.child.wait();
        let strays = processes::end_strays(self.child.id());
        interrupt::release_group(self.child.id());
        for stray in strays {
            tracing::warn!("an engine left {stray} running; ended");
        }
    }
}

fn read_replies(stdout: impl Read, events: SyncSender<Event>) {
    let mut input = BufReader::with_capacity(1 << 16, stdout);
    loop {
        let event = match read_message::<Reply>(&mut input) {
            Ok(Some(reply)) => Event::Line(MonoNs::now(), reply),
            Ok(None) => Event::End,
            Err(e) => Event::Broken(e),
        };
        let last = !matches!(event, Event::Line(..));
        if events.send(event).is_err() || last {
            return;
        }
    }
}

/// What was cut in front may have cut a token in two, of which the rest is not recognized as one.
fn from_a_whole_word(tail: &[u8]) -> &[u8] {
    if tail.len() < STDERR_KEPT {
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
        let over = kept.len().saturating_sub(STDERR_KEPT);
        kept.drain(..over);
    }
}

/// Makes the kernel kill the engine when the harness ends, however it ends, and keep the engine on
/// the first `threads` processors that the harness may use: a limit that no library can exceed.
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
        long.resize(STDERR_KEPT, b'x');
        assert!(from_a_whole_word(&long).starts_with(b" and more "));
        assert_eq!(from_a_whole_word(&vec![b'x'; STDERR_KEPT]), b"");
    }
}
