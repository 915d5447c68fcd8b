//! One running engine: spawned in its own process group, spoken to over the protocol with a
//! deadline for each phase, killed when it hangs, and never believed: every time and every token
//! that it claims is checked against what the harness saw.

mod stream;

use std::collections::VecDeque;
use std::io::{BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub use self::stream::{Answer, Step};
use crate::interrupt;
use crate::protocol::{
    CodecError, Context, ContextFilled, ErrorKind, Generate, Generated, Hello, Load, Loaded,
    MemoryBook, PROTOCOL, Ready, Reply, Request, Score, Scored, read_message, write_message,
};
use crate::record::{FailureKind, LaunchError};
use crate::units::MonoNs;

/// How much of an engine's stderr is kept.
const STDERR_KEPT: usize = 16 << 10;

/// How long a phase may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    pub hello: Duration,
    pub ready: Duration,
    pub load: Duration,
    pub generate: Duration,
    pub bye: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let s = Duration::from_secs;
        Self { hello: s(30), ready: s(180), load: s(900), generate: s(1200), bye: s(20) }
    }
}

impl Deadlines {
    /// The same limit for every phase.
    pub fn all(limit: Duration) -> Self {
        Self { hello: limit, ready: limit, load: limit, generate: limit, bye: limit }
    }
}

/// A launch that ended before its time: either the engine failed, or the user stopped the run.
#[derive(Debug)]
pub enum Failure {
    Engine(LaunchError),
    Interrupted,
}

/// An answer with the times at which the harness sent the request and got the answer.
#[derive(Debug, Clone)]
pub struct Stamped<T> {
    pub sent: MonoNs,
    pub arrived: MonoNs,
    pub value: T,
}

enum Event {
    Line(MonoNs, Reply),
    Broken(CodecError),
    End,
}

/// A running engine. Dropping it kills the process group.
pub struct EngineProcess {
    child: Child,
    phase: &'static str,
    events: Receiver<Event>,
    to_writer: Option<Sender<Request>>,
    stderr: Arc<Mutex<VecDeque<u8>>>,
    stderr_reader: Option<std::thread::JoinHandle<()>>,
    deadlines: Deadlines,
    oom_kills_before: Option<u64>,
    /// The file that it loaded, and how long that was.
    model: Option<(PathBuf, u64)>,
    /// Just before the spawn: where a cold start begins.
    pub spawned: MonoNs,
}

impl EngineProcess {
    /// Starts `command` on as many processors as it may have threads. Its stdin, stdout and
    /// stderr are taken over.
    pub fn spawn(
        mut command: Command,
        threads: u32,
        deadlines: Deadlines,
    ) -> Result<Self, Failure> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        confine(&mut command, threads);
        let oom_kills_before = oom_kills();
        let spawned = MonoNs::now();
        let mut child = command.spawn().map_err(|e| {
            let program = command.get_program().to_string_lossy().into_owned();
            Failure::Engine(LaunchError {
                kind: FailureKind::SpawnFailed,
                phase: "spawn".into(),
                message: format!("cannot start {program}: {e}"),
                stderr_tail: None,
            })
        })?;
        interrupt::guard_group(child.id());

        let (event_tx, events) = channel();
        let stdout = child.stdout.take().expect("stdout is piped");
        std::thread::spawn(move || read_replies(stdout, event_tx));

        let (to_writer, requests) = channel::<Request>();
        let mut stdin = child.stdin.take().expect("stdin is piped");
        std::thread::spawn(move || {
            // A closed pipe shows as the end of stdout, which the reader reports.
            while let Ok(request) = requests.recv() {
                if write_message(&mut stdin, &request).is_err() {
                    break;
                }
            }
        });

        let stderr = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&stderr);
        let pipe = child.stderr.take().expect("stderr is piped");
        let stderr_reader = Some(std::thread::spawn(move || keep_tail(pipe, &kept)));

        Ok(Self {
            child,
            phase: "hello",
            events,
            to_writer: Some(to_writer),
            stderr,
            stderr_reader,
            deadlines,
            oom_kills_before,
            model: None,
            spawned,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `hello`, answered before the engine's imports.
    pub fn hello(&mut self) -> Result<Stamped<Hello>, Failure> {
        let hello =
            self.ask("hello", Request::Hello { protocol: PROTOCOL }, self.deadlines.hello, |r| {
                match r {
                    Reply::Hello(h) => Ok(h),
                    other => Err(Box::new(other)),
                }
            })?;
        let h = &hello.value;
        if h.protocol != PROTOCOL {
            let m = format!("expected protocol {PROTOCOL}, the engine speaks {}", h.protocol);
            return Err(self.fail(FailureKind::Protocol, m));
        }
        if h.pid != self.pid() {
            let m = format!("started process {}, the engine says it is {}", self.pid(), h.pid);
            return Err(self.fail(FailureKind::Lied, m));
        }
        let times = [("t_entry_ns", h.t_entry_ns)];
        self.check_times(self.spawned, hello.arrived, &times)?;
        Ok(hello)
    }

    /// Waits for `ready`: the imports are done. `hello` is the answer that came before.
    pub fn ready(&mut self, hello: &Stamped<Hello>) -> Result<Stamped<Ready>, Failure> {
        self.phase = "ready";
        let (arrived, reply) = self.wait(self.deadlines.ready)?;
        let ready = match reply {
            Reply::Ready(r) => r,
            other => return Err(self.unexpected(other)),
        };
        self.check_times(MonoNs(hello.value.t_entry_ns), arrived, &[("t_ns", ready.t_ns)])?;
        Ok(Stamped { sent: hello.sent, arrived, value: ready })
    }

    pub fn load(&mut self, load: Load) -> Result<Stamped<Loaded>, Failure> {
        let path = PathBuf::from(&load.path);
        self.model = path.metadata().ok().map(|m| (path, m.len()));
        let loaded = self.ask("load", Request::Load(load), self.deadlines.load, |r| match r {
            Reply::Loaded(l) => Ok(*l),
            other => Err(Box::new(other)),
        })?;
        let l = &loaded.value;
        let times = [("t_begin_ns", l.t_begin_ns), ("t_end_ns", l.t_end_ns)];
        self.check_times(loaded.sent, loaded.arrived, &times)?;
        Ok(loaded)
    }

    /// Fills the cache, for generations of that depth. What comes after these tokens the engine
    /// does not know yet, so it cannot begin with it.
    pub fn context(&mut self, request: Context) -> Result<Stamped<ContextFilled>, Failure> {
        let (id, n) = (request.id, request.tokens.len());
        let limit = self.deadlines.generate;
        let filled = self.ask("context", Request::Context(request), limit, |r| match r {
            Reply::Context(c) => Ok(c),
            other => Err(Box::new(other)),
        })?;
        let c = &filled.value;
        if c.id != id || c.positions as usize != n {
            let m = format!(
                "asked for a context of {n} positions (id {id}), the engine holds {} (id {})",
                c.positions, c.id
            );
            return Err(self.fail(FailureKind::Lied, m));
        }
        let times = [("t_begin_ns", c.t_begin_ns), ("t_end_ns", c.t_end_ns)];
        self.check_times(filled.sent, filled.arrived, &times)?;
        Ok(filled)
    }

    /// One generation; ids must be below `n_vocab`.
    pub fn generate(
        &mut self,
        request: Generate,
        n_vocab: u32,
    ) -> Result<Stamped<Generated>, Failure> {
        let (id, n, depth) = (request.id, request.n as usize, request.depth);
        let generated = self.ask(
            "generate",
            Request::Generate(request),
            self.deadlines.generate,
            |r| match r {
                Reply::Generated(g) => Ok(g),
                other => Err(Box::new(other)),
            },
        )?;
        if generated.value.tokens.len() != n {
            let m = format!("asked for {n} tokens, got {}", generated.value.tokens.len());
            return Err(self.fail(FailureKind::WrongTokens, m));
        }
        self.check_generated(&generated, id, n, n_vocab)?;
        let found = generated.value.depth.unwrap_or(0);
        if found != depth {
            let m = format!("asked for a generation at depth {depth}, the engine's is at {found}");
            return Err(self.fail(FailureKind::Lied, m));
        }
        self.check_accounted(&generated)?;
        Ok(generated)
    }

    /// What holds for every generation: the id, `n` tokens of the vocabulary, a time for each.
    fn check_generated(
        &mut self,
        generated: &Stamped<Generated>,
        id: u64,
        n: usize,
        n_vocab: u32,
    ) -> Result<(), Failure> {
        let g = &generated.value;
        if g.id != id {
            let m = format!("asked for generation {id}, got {}", g.id);
            return Err(self.fail(FailureKind::Protocol, m));
        }
        if let Some(bad) = g.tokens.iter().find(|t| **t >= n_vocab) {
            let m = format!("token id {bad} is outside the vocabulary of {n_vocab}");
            return Err(self.fail(FailureKind::WrongTokens, m));
        }
        if g.t_tokens_ns.len() != n {
            let m = format!("{n} tokens came with {} times", g.t_tokens_ns.len());
            return Err(self.fail(FailureKind::Lied, m));
        }
        let mut times = vec![("t_begin_ns", g.t_begin_ns)];
        times.extend(g.t_prefill_end_ns.map(|t| ("t_prefill_end_ns", t)));
        times.extend(g.t_tokens_ns.iter().map(|t| ("t_tokens_ns", *t)));
        self.check_times(generated.sent, generated.arrived, &times)?;
        self.check_stages(&generated.value)
    }

    /// Stages follow one another: together they cannot take longer than what they are part of.
    fn check_stages(&mut self, g: &Generated) -> Result<(), Failure> {
        let (Some(profile), [first, .., last]) = (&g.profile, &g.t_tokens_ns[..]) else {
            return Ok(());
        };
        let phases = [
            ("prefill", &profile.prefill_ns, first - g.t_begin_ns),
            ("decode", &profile.decode_ns, last - first),
        ];
        for (name, stages, whole) in phases {
            let sum = stages.values().try_fold(0u64, |sum, ns| sum.checked_add(*ns));
            if sum.is_none_or(|sum| sum > whole) {
                let m = format!("the stages of {name} take longer than its {whole} ns");
                return Err(self.fail(FailureKind::Lied, m));
            }
        }
        Ok(())
    }

    pub fn score(&mut self, request: Score) -> Result<Stamped<Scored>, Failure> {
        self.ask("score", Request::Score(request), self.deadlines.generate, |r| match r {
            Reply::Scored(s) => Ok(s),
            other => Err(Box::new(other)),
        })
    }

    pub fn memory(&mut self) -> Result<MemoryBook, Failure> {
        let book = self.ask("memory", Request::Memory, self.deadlines.hello, |r| match r {
            Reply::Memory(m) => Ok(m),
            other => Err(Box::new(other)),
        })?;
        Ok(book.value)
    }

    /// Says goodbye and waits for the exit.
    pub fn bye(mut self) -> Result<(), Failure> {
        self.phase = "bye";
        if let Some(writer) = self.to_writer.take() {
            let _ = writer.send(Request::Bye);
        }
        let end = Instant::now() + self.deadlines.bye;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(self.exited(status)),
                Ok(None) if Instant::now() > end => return Err(self.timed_out(self.deadlines.bye)),
                Ok(None) => std::thread::sleep(Duration::from_millis(2)),
                Err(e) => return Err(self.fail(FailureKind::Internal, e.to_string())),
            }
        }
    }

    fn ask<T>(
        &mut self,
        phase: &'static str,
        request: Request,
        limit: Duration,
        pick: impl FnOnce(Reply) -> Result<T, Box<Reply>>,
    ) -> Result<Stamped<T>, Failure> {
        self.phase = phase;
        let sent = MonoNs::now();
        self.send(request);
        let (arrived, reply) = self.wait(limit)?;
        match pick(reply) {
            Ok(value) => Ok(Stamped { sent, arrived, value }),
            Err(other) => Err(self.unexpected(*other)),
        }
    }

    fn send(&self, request: Request) {
        if let Some(writer) = &self.to_writer {
            // A writer that is gone shows as the end of the engine's output.
            let _ = writer.send(request);
        }
    }

    fn wait(&mut self, limit: Duration) -> Result<(MonoNs, Reply), Failure> {
        let end = Instant::now() + limit;
        loop {
            if interrupt::requested() {
                self.kill();
                return Err(Failure::Interrupted);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.timed_out(limit));
            }
            match self.events.recv_timeout(left.min(Duration::from_millis(250))) {
                Ok(Event::Line(arrived, reply)) => return Ok((arrived, reply)),
                Ok(Event::Broken(e)) => return Err(self.fail(FailureKind::Protocol, e.to_string())),
                Ok(Event::End) | Err(RecvTimeoutError::Disconnected) => return Err(self.ended()),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Claimed times must rise and lie between `from` and `to`, which the harness saw itself.
    fn check_times(
        &mut self,
        from: MonoNs,
        to: MonoNs,
        times: &[(&str, u64)],
    ) -> Result<(), Failure> {
        let mut last = from.0;
        for (name, t) in times {
            if *t < last || *t > to.0 {
                let m = format!(
                    "{name} is {t}, outside {last}..{} that the harness saw on the same clock",
                    to.0
                );
                return Err(self.fail(FailureKind::Lied, m));
            }
            last = *t;
        }
        Ok(())
    }

    /// Work before the claimed begin or after the last token would flatter the engine.
    fn check_accounted(&mut self, g: &Stamped<Generated>) -> Result<(), Failure> {
        let whole = g.arrived.since(g.sent).0;
        let last = g.value.t_tokens_ns.last().copied().unwrap_or(g.value.t_begin_ns);
        let claimed = MonoNs(last).since(MonoNs(g.value.t_begin_ns)).0;
        let hidden = whole - claimed;
        if hidden > 0.5 && hidden > 0.1 * whole {
            let m = format!(
                "the request took {whole:.3} s, the engine accounts for {claimed:.3} s of it"
            );
            return Err(self.fail(FailureKind::Lied, m));
        }
        Ok(())
    }

    fn unexpected(&mut self, reply: Reply) -> Failure {
        match reply {
            Reply::Error(e) => self.fail(kind_of(e.kind), e.message),
            other => {
                let mut text = serde_json::to_string(&other).unwrap_or_default();
                text.truncate(text.floor_char_boundary(120));
                self.fail(FailureKind::Protocol, format!("unexpected message: {text}"))
            }
        }
    }

    fn timed_out(&mut self, limit: Duration) -> Failure {
        let m = format!("no answer within {} s; killed", limit.as_secs_f64());
        self.fail(FailureKind::Timeout, m)
    }

    /// stdout ended: find out how the process did.
    fn ended(&mut self) -> Failure {
        let end = Instant::now() + Duration::from_secs(2);
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return self.exited(status),
                Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
                _ => {
                    let m = "closed its output but did not exit; killed".to_string();
                    return self.fail(FailureKind::Protocol, m);
                }
            }
        }
    }

    fn exited(&mut self, status: ExitStatus) -> Failure {
        match status.signal() {
            Some(9) if oom_kills() > self.oom_kills_before => {
                self.fail(FailureKind::Oom, "killed by the kernel: out of memory".into())
            }
            Some(signal) => {
                let why = self.shrunk().unwrap_or_default();
                self.fail(FailureKind::Killed, format!("killed by signal {signal}{why}"))
            }
            None => {
                let code = status.code().unwrap_or_default();
                self.fail(FailureKind::Exited, format!("exited with status {code}"))
            }
        }
    }

    /// What a process that has mapped its model dies of, if the file was cut under it.
    fn shrunk(&self) -> Option<String> {
        let (path, before) = self.model.as_ref()?;
        let now = path.metadata().map_or(0, |m| m.len());
        (now < *before).then(|| {
            let path = path.display();
            format!(": {path} shrank from {before} to {now} bytes while the engine used it")
        })
    }

    fn fail(&mut self, kind: FailureKind, message: String) -> Failure {
        self.kill();
        // The group is dead, so its end of the pipe is closed and the reader finishes.
        if let Some(reader) = self.stderr_reader.take() {
            let end = Instant::now() + Duration::from_secs(1);
            while !reader.is_finished() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let tail: Vec<u8> = self.stderr.lock().unwrap().iter().copied().collect();
        let tail = String::from_utf8_lossy(&tail).trim().to_string();
        Failure::Engine(LaunchError {
            kind,
            phase: self.phase.into(),
            message,
            stderr_tail: (!tail.is_empty()).then_some(tail),
        })
    }

    fn kill(&mut self) {
        interrupt::kill_group(self.child.id());
        let _ = self.child.wait();
    }
}

impl Drop for EngineProcess {
    fn drop(&mut self) {
        // After `bye` the leader is gone, but a helper that it left behind may not be.
        interrupt::kill_group(self.child.id());
        interrupt::release_group(self.child.id());
        let _ = self.child.wait();
    }
}

fn read_replies(stdout: impl Read, events: Sender<Event>) {
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

fn keep_tail(mut pipe: impl Read, kept: &Mutex<VecDeque<u8>>) {
    let mut chunk = [0u8; 4096];
    while let Ok(n) = pipe.read(&mut chunk) {
        if n == 0 {
            return;
        }
        let mut kept = kept.lock().unwrap();
        kept.extend(&chunk[..n]);
        let over = kept.len().saturating_sub(STDERR_KEPT);
        kept.drain(..over);
    }
}

/// The kernel kills the engine when the harness is gone, however it went, and keeps it on the
/// first `threads` processors that the harness may use: a limit that no library can overlook.
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

fn kind_of(kind: ErrorKind) -> FailureKind {
    match kind {
        ErrorKind::MissingDependency => FailureKind::MissingDependency,
        ErrorKind::UnsupportedQuant => FailureKind::UnsupportedQuant,
        ErrorKind::CompileFailed => FailureKind::CompileFailed,
        ErrorKind::Oom => FailureKind::Oom,
        ErrorKind::BadModel => FailureKind::BadModel,
        ErrorKind::Internal => FailureKind::Internal,
    }
}

/// How often the kernel has killed for memory since boot.
fn oom_kills() -> Option<u64> {
    let vmstat = std::fs::read_to_string("/proc/vmstat").ok()?;
    vmstat.lines().find_map(|l| l.strip_prefix("oom_kill ")?.trim().parse().ok())
}
