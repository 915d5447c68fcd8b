//! The harness's side of an engine: which engines there are (`registry`), how their dependencies
//! get installed (`provision`), how one is reached and what can be seen of it (`connection`;
//! `process` over pipes), and the checked conversation with it (`conversation`). What is inside an
//! engine is not known here, nor what a task asks of it.

pub mod connection;
pub mod conversation;
pub mod process;
pub mod provision;
pub mod registry;

pub use connection::{Broken, Connection, Observes, Pid};
pub use conversation::{Deadlines, Engine, Failure, Stamped};
pub use registry::{EngineSpec, Launcher, Registry};
