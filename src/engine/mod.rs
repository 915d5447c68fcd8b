//! The harness's side of an engine: which engines there are (`registry`), how their
//! dependencies get installed (`provision`), and one running process with its deadlines
//! (`process`). What is inside an engine is not known here.

pub mod process;
pub mod provision;
pub mod registry;

pub use process::{Answer, Deadlines, EngineProcess, Failure, Stamped, Step};
pub use registry::{EngineSpec, Launcher, Registry};
