//! An engine over pipes: a child process that speaks the protocol on its stdin and stdout.

use std::io::{BufReader, Read};
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use super::child::{Child, cannot};
use super::connection::{Broken, Connection, Observes};
use super::conversation::Failure;
use crate::protocol::{CodecError, Reply, Request, read_message, write_message};
use crate::record::FailureKind;
use crate::threads::start;
use crate::units::MonoNs;

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
    /// The file that it loaded, and its size at that time.
    model: Option<(PathBuf, u64)>,
}

impl Process {
    /// Starts `command` on as many processors as it may have threads.
    pub fn spawn(command: Command, threads: u32) -> Result<Self, Failure> {
        let mut child = Child::spawn(command, threads)?;
        let (mut stdin, stdout) = child.pipes();
        let (event_tx, events) = sync_channel(EVENTS);
        let (to_writer, requests) = channel::<Request>();
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
        Ok(Self { child, events, to_writer: Some(to_writer), model: None })
    }

    /// Finds out how the process ended, after the end of its stdout.
    fn ended(&mut self) -> Broken {
        let Some(mut broken) = self.child.ended() else {
            let message = "closed its output but did not exit; killed".to_string();
            return Broken { kind: FailureKind::Protocol, message };
        };
        if broken.kind == FailureKind::Killed {
            broken.message += &self.shrunk().unwrap_or_default();
        }
        broken
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
        let (spawned, pid) = (Some(self.child.spawned), Some(self.child.pid()));
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
        self.child.kill()
    }

    fn close(&mut self, limit: Duration) -> Result<Vec<String>, Broken> {
        if let Some(writer) = self.to_writer.take() {
            let _ = writer.send(Request::Bye);
        }
        let end = Instant::now() + limit;
        loop {
            // An engine that still writes must not wait for a reader.
            while self.events.try_recv().is_ok() {}
            match self.child.status() {
                Some(status) if status.success() => return Ok(self.child.end_strays()),
                Some(status) => return Err(self.child.exited(status)),
                None if Instant::now() > end => return Err(Broken::late(limit)),
                None => std::thread::sleep(Duration::from_millis(2)),
            }
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
