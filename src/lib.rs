//! llm-bench: the reference instrument for local LLM token generation.
//!
//! The map, in the order in which data flows:
//!
//! ```text
//! workload, model ──> measure::plan ──> engine process ──> measure::launch ──> record
//!                                       (worker: the Rust      raw samples        │
//!                                        ones, over protocol)                     v
//!                                                       analysis (on stats) ──> report
//!                                                       history (records over commits)
//! ```
//!
//! Beside it: `units`, `cpu`, `device`, `metric` and `interrupt` below everything, `cli` and `cmd` on top.

// `println!` panics when whoever reads our output has seen enough.
#![cfg_attr(not(test), deny(clippy::print_stdout))]

pub mod analysis;
pub mod cli;
pub mod cmd;
pub mod cpu;
pub mod device;
pub mod engine;
pub mod history;
pub mod interrupt;
pub mod measure;
pub mod metric;
pub mod model;
pub mod protocol;
pub mod record;
pub mod report;
pub mod stats;
pub mod units;
pub mod worker;
pub mod workload;
