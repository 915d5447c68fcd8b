//! How an engine is reached, and what can be seen of it that way. A connection carries messages
//! and knows nothing of what they mean; what it cannot observe is absent, so that nothing can be
//! computed from it.

use std::time::Duration;

use crate::protocol::{Reply, Request};
use crate::record::FailureKind;
use crate::units::MonoNs;

/// One way to one engine.
pub trait Connection: Send {
    fn observes(&self) -> Observes;

    /// Passes a request on without waiting. A request that cannot be delivered shows as the end of
    /// the answers.
    fn send(&mut self, request: Request);

    /// The next message and when it arrived; none within `limit`.
    ///
    /// # Errors
    /// There will be no further message.
    fn next(&mut self, limit: Duration) -> Result<Option<(MonoNs, Reply)>, Broken>;

    /// Ends it at once; the end of the engine's log, if it has one.
    fn abort(&mut self) -> Option<String>;

    /// Says goodbye and waits for the end, `limit` at most.
    ///
    /// # Errors
    /// It did not end, or not well.
    fn close(&mut self, limit: Duration) -> Result<(), Broken>;
}

/// What a connection can see of its engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Observes {
    /// Just before the spawn of a process for this launch alone: where a cold start begins.
    pub spawned: Option<MonoNs>,
    /// The process that computes, on this machine.
    pub pid: Option<Pid>,
    /// Whether answers carry token ids.
    pub ids: bool,
    /// Whether answers carry times that the engine took on the shared clock. Without them there
    /// is only the time at which something arrived.
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
