//! The harness's side of an engine: which engines exist (`registry`), how their dependencies get
//! installed (`provision`), how one is reached and observed (`connection`; `process` over pipes,
//! `http` over an address; `child` is a process of either), and the checked conversation with it
//! (`conversation`). This module knows neither an engine's inside nor what a task asks of it.

mod child;
pub mod connection;
pub mod conversation;
pub mod http;
pub mod process;
pub mod provision;
pub mod registry;

pub use connection::{Broken, Connection, Observes, Pid};
pub use conversation::{Deadlines, Engine, Failure, Stamped};
pub use registry::{EngineSpec, Launcher, Registry};
