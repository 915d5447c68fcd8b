//! A running engine, however it is reached. The harness speaks the protocol with a deadline for
//! each phase and believes nothing: it checks every time that the engine claims against its own
//! observations. Each task knows what its requests mean.

use std::time::{Duration, Instant};

use super::connection::{Broken, Connection, Observes, Pid};
use super::http::{self, Endpoint, Http, free_port};
use super::process::Process;
use super::provision::{Installed, Reach, UsersEnvironment};
use crate::interrupt;
use crate::protocol::{
    ErrorKind, Feature, Load, Loaded, MemoryBook, PROTOCOL, Ready, Reply, Request,
};
use crate::record::{FailureKind, LaunchError};
use crate::secrets;
use crate::units::{MonoNs, Seconds};

/// Time limits of the phases.
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

/// Why a launch ended early: the engine failed, or the user stopped the run.
#[derive(Debug)]
pub enum Failure {
    Engine(LaunchError),
    Interrupted,
}

/// An answer, with the times at which the harness sent the request and received the answer.
#[derive(Debug, Clone)]
pub struct Stamped<T> {
    pub sent: MonoNs,
    pub arrived: MonoNs,
    pub value: T,
}

/// An engine that is ready to load. Dropping it ends the engine.
pub struct Engine {
    connection: Box<dyn Connection>,
    phase: &'static str,
    deadlines: Deadlines,
    last_id: u64,
    users_environment: Option<UsersEnvironment>,
    /// What the engine reported after its imports.
    pub ready: Ready,
    /// When its process executed its first code, on the shared clock.
    pub entered: Option<MonoNs>,
}

impl Engine {
    /// Reaches an installed engine and waits until it is ready for `load`, which a server of ours
    /// gets with its command.
    pub fn open(installed: &Installed, load: &Load, deadlines: Deadlines) -> Result<Self, Failure> {
        let connection = match &installed.reach {
            Reach::Pipes => return Self::over_pipes(installed, load.threads, deadlines),
            Reach::Address(endpoint) => Http::to(endpoint, &deadlines)?,
            Reach::Server(server) => {
                let port = free_port()?;
                let command = installed.server_command(server, load, port);
                let endpoint = Endpoint::on_loopback(&server.name, port);
                Http::serve(command, load.threads, &endpoint, &server.recipe.health, &deadlines)?
            }
        };
        Ok(Self::over(Box::new(connection), deadlines, http::ready()))
    }

    /// Starts an engine that speaks the protocol, in its own process.
    pub fn over_pipes(
        installed: &Installed,
        threads: u32,
        deadlines: Deadlines,
    ) -> Result<Self, Failure> {
        let process = Process::spawn(installed.command(threads), threads)?;
        let mut engine = Self::over(Box::new(process), deadlines, Ready::default());
        engine.greet()?;
        if let Some(environment) = &installed.users_environment {
            for (name, version) in &environment.versions {
                engine.ready.versions.entry(name.clone()).or_insert_with(|| version.clone());
            }
        }
        engine.users_environment.clone_from(&installed.users_environment);
        Ok(engine)
    }

    /// Wraps an engine that is already ready, over any connection.
    pub fn over(connection: Box<dyn Connection>, deadlines: Deadlines, ready: Ready) -> Self {
        let users_environment = None;
        Self {
            connection,
            phase: "hello",
            deadlines,
            last_id: 0,
            users_environment,
            ready,
            entered: None,
        }
    }

    /// Exchanges `hello`, which the engine answers before its imports, and `ready`, which follows
    /// them.
    fn greet(&mut self) -> Result<(), Failure> {
        let Observes { spawned, pid, .. } = self.observes();
        let request = Request::Hello { protocol: PROTOCOL };
        let hello = self.ask("hello", request, self.deadlines.hello, |r| match r {
            Reply::Hello(h) => Ok(h),
            other => Err(Box::new(other)),
        })?;
        let h = &hello.value;
        if h.protocol != PROTOCOL {
            let m = format!("expected protocol {PROTOCOL}, the engine speaks {}", h.protocol);
            return Err(self.fail(FailureKind::Protocol, m));
        }
        if let Some(Pid(pid)) = pid.filter(|pid| pid.0 != h.pid) {
            let m = format!("started process {pid}, the engine says it is {}", h.pid);
            return Err(self.fail(FailureKind::Lied, m));
        }
        let entered = MonoNs(h.t_entry_ns);
        let from = spawned.unwrap_or(hello.sent);
        self.check_times(from, hello.arrived, &[("t_entry_ns", entered.0)])?;

        self.phase = "ready";
        let (arrived, reply) = self.wait(self.deadlines.ready)?;
        self.ready = match reply {
            Reply::Ready(ready) => of_ready(ready),
            other => return Err(self.unexpected(other)),
        };
        self.check_times(entered, arrived, &[("t_ns", self.ready.t_ns)])?;
        self.entered = Some(entered);
        Ok(())
    }

    /// What the connection can observe of the engine.
    pub fn observes(&self) -> Observes {
        self.connection.observes()
    }

    pub fn has(&self, feature: Feature) -> bool {
        self.ready.features.contains(&feature)
    }

    /// Fails unless the engine declares each of `features`.
    pub fn require(&mut self, features: &[Feature]) -> Result<(), Failure> {
        match features.iter().find(|feature| !self.has(**feature)) {
            None => Ok(()),
            Some(missing) => {
                let name = serde_json::to_value(missing).unwrap_or_default();
                let name = name.as_str().unwrap_or_default();
                let m = format!("it does not name `{name}` among its features");
                Err(self.fail(FailureKind::Unsupported, m))
            }
        }
    }

    /// An id that no earlier request used.
    pub fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub fn load(&mut self, load: Load) -> Result<Stamped<Loaded>, Failure> {
        // The engine's working folder is not ours.
        let path = std::path::absolute(&load.path).map(|p| p.to_string_lossy().into_owned());
        let load = Load { path: path.unwrap_or_else(|_| load.path.clone()), ..load };
        let mut loaded =
            self.ask("load", Request::Load(load), self.deadlines.load, |r| match r {
                Reply::Loaded(l) => Ok(of_loaded(*l)),
                other => Err(Box::new(other)),
            })?;
        let l = &loaded.value;
        let times = [("t_begin_ns", l.t_begin_ns), ("t_end_ns", l.t_end_ns)];
        self.check_times(loaded.sent, loaded.arrived, &times)?;
        let note = self.users_environment.iter().map(|environment| environment.note.clone());
        loaded.value.notes.extend(note);
        Ok(loaded)
    }

    /// The memory that the engine holds by its own account.
    pub fn memory(&mut self) -> Result<MemoryBook, Failure> {
        let book = self.ask("memory", Request::Memory, self.deadlines.hello, |r| match r {
            Reply::Memory(m) => Ok(m),
            other => Err(Box::new(other)),
        })?;
        Ok(book.value)
    }

    /// Says goodbye and waits for the engine to end. Returns the processes that it left running,
    /// which were ended.
    pub fn bye(mut self) -> Result<Vec<String>, Failure> {
        self.phase = "bye";
        self.connection.close(self.deadlines.bye).map_err(|broken| self.broken(broken))
    }

    /// Time limit for a request of a task.
    pub(crate) fn limit(&self) -> Duration {
        self.deadlines.generate
    }

    /// Begins a phase, which a failure will name.
    pub(crate) fn begin(&mut self, phase: &'static str) {
        self.phase = phase;
    }

    /// Sends a request and waits for the reply that `pick` accepts.
    pub(crate) fn ask<T>(
        &mut self,
        phase: &'static str,
        request: Request,
        limit: Duration,
        pick: impl FnOnce(Reply) -> Result<T, Box<Reply>>,
    ) -> Result<Stamped<T>, Failure> {
        self.begin(phase);
        let sent = self.send(request);
        let (arrived, reply) = self.wait(limit)?;
        match pick(reply) {
            Ok(value) => Ok(Stamped { sent, arrived, value }),
            Err(other) => Err(self.unexpected(*other)),
        }
    }

    /// Sends without waiting; returns when.
    pub(crate) fn send(&mut self, request: Request) -> MonoNs {
        let sent = MonoNs::now();
        self.connection.send(request);
        sent
    }

    /// The next message, if one arrives within `limit`.
    pub(crate) fn poll(&mut self, limit: Duration) -> Result<Option<(MonoNs, Reply)>, Failure> {
        self.connection.next(limit).map_err(|broken| self.broken(broken))
    }

    fn wait(&mut self, limit: Duration) -> Result<(MonoNs, Reply), Failure> {
        let end = Instant::now() + limit;
        loop {
            if interrupt::requested() {
                return Err(self.stop());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.broken(Broken::late(limit)));
            }
            if let Some(message) = self.poll(left.min(Duration::from_millis(250)))? {
                return Ok(message);
            }
        }
    }

    /// Checks that claimed times rise and lie between `from` and `to`, which the harness observed
    /// itself.
    pub(crate) fn check_times(
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

    /// Fails where a request took half a second and a tenth longer than the engine claims: work
    /// outside the claimed time would flatter it.
    pub(crate) fn check_claim(&mut self, whole: Seconds, claimed: Seconds) -> Result<(), Failure> {
        let (whole, claimed) = (whole.0, claimed.0);
        let hidden = whole - claimed;
        if hidden > 0.5 && hidden > 0.1 * whole {
            let m = format!(
                "the request took {whole:.3} s, the engine accounts for {claimed:.3} s of it"
            );
            return Err(self.fail(FailureKind::Lied, m));
        }
        Ok(())
    }

    /// The failure for a reply that was not requested: the engine's own error, or a protocol error.
    pub(crate) fn unexpected(&mut self, reply: Reply) -> Failure {
        match reply {
            Reply::Error(e) => self.fail(kind_of(e.kind), e.message),
            other => {
                let mut text = serde_json::to_string(&other).unwrap_or_default();
                text.truncate(text.floor_char_boundary(120));
                self.fail(FailureKind::Protocol, format!("unexpected message: {text}"))
            }
        }
    }

    pub(crate) fn broken(&mut self, Broken { kind, message }: Broken) -> Failure {
        self.fail(kind, message)
    }

    /// Ends the engine. The failure names the phase and contains the end of the engine's log.
    pub(crate) fn fail(&mut self, kind: FailureKind, message: String) -> Failure {
        let mask = |text: &str| secrets::mask(text).into_owned();
        let stderr_tail = self.connection.abort().map(|tail| mask(&tail));
        let message = mask(&message);
        Failure::Engine(LaunchError { kind, phase: self.phase.into(), message, stderr_tail })
    }

    /// Ends the engine because the user wants to stop.
    pub(crate) fn stop(&mut self) -> Failure {
        self.connection.abort();
        Failure::Interrupted
    }
}

/// What an engine says of itself goes into records: it may say what it read elsewhere.
fn of_ready(mut ready: Ready) -> Ready {
    for text in ready.versions.values_mut().chain(&mut ready.isa) {
        *text = secrets::mask(text).into_owned();
    }
    ready
}

fn of_loaded(mut loaded: Loaded) -> Loaded {
    let precision = &mut loaded.precision;
    let texts = [&mut precision.weights, &mut precision.compute, &mut precision.kv];
    for text in texts.into_iter().chain(&mut loaded.notes) {
        *text = secrets::mask(text).into_owned();
    }
    loaded.settings.values_mut().for_each(secrets::mask_value);
    loaded
}

fn kind_of(kind: ErrorKind) -> FailureKind {
    match kind {
        ErrorKind::MissingDependency => FailureKind::MissingDependency,
        ErrorKind::UnsupportedQuant => FailureKind::UnsupportedQuant,
        ErrorKind::Unsupported => FailureKind::Unsupported,
        ErrorKind::CompileFailed => FailureKind::CompileFailed,
        ErrorKind::Oom => FailureKind::Oom,
        ErrorKind::BadModel => FailureKind::BadModel,
        ErrorKind::Internal => FailureKind::Internal,
    }
}
