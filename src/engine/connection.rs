//! How the harness reaches an engine, and what it can observe that way. A connection carries
//! messages without interpreting them. What it cannot observe is absent, so that nothing can be
//! computed from it.

use std::time::Duration;

use crate::protocol::{Reply, Request};
use crate::record::FailureKind;
use crate::units::MonoNs;

/// A way to reach one engine.
pub trait Connection: Send {
    fn observes(&self) -> Observes;

    /// Passes a request on without waiting. If it cannot be delivered, the answers simply end.
    fn send(&mut self, request: Request);

    /// The next message and when it arrived; `None` if none arrives within `limit`.
    ///
    /// # Errors
    /// No further message will come.
    fn next(&mut self, limit: Duration) -> Result<Option<(MonoNs, Reply)>, Broken>;

    /// Ends the engine at once; returns the end of its log, if it has one.
    fn abort(&mut self) -> Option<String>;

    /// Says goodbye and waits up to `limit` for the engine to end. Returns the processes that it
    /// left running, which were ended.
    ///
    /// # Errors
    /// The engine did not end, or failed.
    fn close(&mut self, limit: Duration) -> Result<Vec<String>, Broken>;
}

/// What a connection can observe of its engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Observes {
    /// The time just before the process of this launch was spawned, where a cold start begins.
    pub spawned: Option<MonoNs>,
    /// The process that computes, on this machine.
    pub pid: Option<Pid>,
    /// Whether answers carry token ids.
    pub ids: bool,
    /// Whether answers carry times that the engine took on the shared clock. Otherwise only the
    /// arrival times are known.
    pub clock: bool,
}

/// A process that a connection knows to be its engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pid(pub u32);

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub kind: FailureKind,
    pub message: String,
}

impl Broken {
    pub fn late(limit: Duration) -> Self {
        let message = format!("no answer within {} s; killed", limit.as_secs_f64());
        Self { kind: FailureKind::Timeout, message }
    }
}
