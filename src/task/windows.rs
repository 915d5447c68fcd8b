//! Logits of a text, window by window, read while they are computed: the task behind the quality
//! columns of `sweep`. `analysis::quality` judges them.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Scope, ScopedJoinHandle};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, mkfifoat};

use super::{Measured, Notes, Running, Task, converse};
use crate::device::Device;
use crate::engine::provision::Installed;
use crate::engine::{Deadlines, Engine, EngineSpec, Failure};
use crate::protocol::{Feature, Load, Score};
use crate::record::{FailureKind, Launch};

/// The windows of a text, each scored with an empty cache at its start.
#[derive(Debug, Clone)]
pub struct Windows {
    /// Token ids, all windows of one length.
    pub tokens: Vec<Vec<u32>>,
    /// Rows are given from this position on.
    pub first: u32,
    pub n_vocab: u32,
}

impl Windows {
    /// Rows of logits of each window.
    pub fn rows(&self) -> usize {
        self.tokens.first().map_or(0, |w| w.len() - self.first as usize)
    }

    /// Bytes of one row.
    fn row_bytes(&self) -> usize {
        4 * self.n_vocab as usize
    }
}

/// An engine and the file that it scores.
#[derive(Debug, Clone)]
pub struct Scored {
    pub engine: EngineSpec,
    pub installed: Installed,
    pub model: PathBuf,
    pub device: Device,
    pub threads: u32,
    pub deadlines: Deadlines,
}

/// Scores the windows that it is told to, until nobody tells it any more.
struct Script<'a> {
    windows: &'a Windows,
    pipe: &'a Path,
    wanted: Receiver<usize>,
    done: Sender<()>,
}

impl Task for Script<'_> {
    type Answer = ();

    fn needs(&self) -> &[Feature] {
        &[Feature::Score]
    }

    fn script(&self, launch: &mut Running<'_>) -> Result<(), Failure> {
        let windows = self.windows;
        while let Ok(i) = self.wanted.recv() {
            let request = Score {
                id: launch.engine.next_id(),
                tokens: windows.tokens[i].clone(),
                logits_path: self.pipe.to_string_lossy().into_owned(),
                first: windows.first,
                decode_from: None,
            };
            let scored = launch.engine.score(request)?.value;
            if (scored.positions as usize, scored.vocab) != (windows.rows(), windows.n_vocab) {
                let message = format!(
                    "expected {} rows of {} logits, found {} rows of {}",
                    windows.rows(),
                    windows.n_vocab,
                    scored.positions,
                    scored.vocab
                );
                return Err(launch.engine.fail(FailureKind::Protocol, message));
            }
            if self.done.send(()).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// The task has no metrics: the launch does not judge the logits.
    fn metrics(&self, _: &mut Measured<'_>) {}
}

/// An engine in a process of its own, whose rows arrive through a named pipe.
pub struct Scorer<'scope> {
    pub name: String,
    windows: &'scope Windows,
    pipe: File,
    wanted: Sender<usize>,
    done: Receiver<()>,
    thread: ScopedJoinHandle<'scope, Result<(), Failure>>,
}

/// How long a read waits before it looks whether the engine is still there.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

impl<'scope> Scorer<'scope> {
    /// Starts the engine; its pipe is made in `folder` under the name `name`.
    pub fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        name: &str,
        scored: &'scope Scored,
        windows: &'scope Windows,
        folder: &'scope Path,
    ) -> Result<Self> {
        let path = folder.join(name);
        let made = || -> std::io::Result<File> {
            mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR)?;
            // Held open for writing too, so that a read waits for an engine that has not opened it.
            let flags = OFlags::NONBLOCK.bits() as i32;
            File::options().read(true).write(true).custom_flags(flags).open(&path)
        };
        let pipe = made().with_context(|| format!("cannot make a pipe at {}", path.display()))?;
        let (wanted, requests) = channel();
        let (finished, done) = channel();
        let thread = scope.spawn(move || {
            let s = scored;
            let n_ctx = windows.tokens.first().map_or(0, Vec::len) as u32;
            let load = Load {
                path: s.model.to_string_lossy().into_owned(),
                device: s.device.to_string(),
                threads: s.threads,
                n_ctx,
                batch: 1,
                options: s.engine.options.clone(),
            };
            let script = Script { windows, pipe: &path, wanted: requests, done: finished };
            let open = |load: &Load| Engine::open(&s.installed, load, s.deadlines);
            // Nothing of the launch is kept.
            let mut notes = Notes::new(Launch::new((0, 0), String::new()));
            converse(&script, open, load, &mut notes)
        });
        let name = name.to_string();
        Ok(Self { name, windows, pipe, wanted, done, thread })
    }

    /// Scores window `i`: `take` gets the rows in order, `at_once` of them at a time as
    /// little-endian f32, and the number of the first of them. None where the engine has failed;
    /// [`Scorer::end`] says why.
    pub fn window(
        &mut self,
        i: usize,
        at_once: usize,
        mut take: impl FnMut(usize, &[u8]),
    ) -> std::io::Result<Option<()>> {
        let (rows, size) = (self.windows.rows(), self.windows.row_bytes());
        if self.wanted.send(i).is_err() {
            return Ok(None);
        }
        let mut buffer = vec![0u8; at_once.min(rows) * size];
        let mut first = 0;
        while first < rows {
            let some = &mut buffer[..at_once.min(rows - first) * size];
            if self.fill(some)?.is_none() {
                return Ok(None);
            }
            take(first, some);
            first += some.len() / size;
        }
        Ok(self.done.recv().ok())
    }

    fn fill(&mut self, mut rest: &mut [u8]) -> std::io::Result<Option<()>> {
        while !rest.is_empty() {
            match self.pipe.read(rest) {
                Ok(n) => rest = &mut rest[n..],
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    if self.thread.is_finished() {
                        return Ok(None);
                    }
                    match poll(&mut [PollFd::new(&self.pipe, PollFlags::IN)], Some(&LOOK)) {
                        Ok(_) | Err(rustix::io::Errno::INTR) => {}
                        Err(e) => return Err(e.into()),
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Ok(Some(()))
    }

    /// Ends the engine.
    ///
    /// # Errors
    /// Why it failed, if it did.
    pub fn end(self) -> Result<(), Failure> {
        drop((self.wanted, self.done));
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
