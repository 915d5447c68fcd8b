//! llm-bench: the reference instrument for local LLM token generation.
//!
//! The map, in the order in which data flows:
//!
//! ```text
//! workload, model ──> measure::plan ──> engine process ──> measure::launch ──> record
//!                                       (worker: the Rust      raw samples        │
//!                                        ones, over protocol)                     v
//!                                                       analysis (on stats) ──> report
//! ```

pub mod units;
pub mod metric;
pub mod model;
pub mod protocol;
pub mod record;
pub mod interrupt;

pub mod model;
pub mod workload;
pub mod engine;
pub mod worker;
pub mod measure;

pub mod stats;
pub mod analysis;
pub mod report;

pub mod cli;
pub mod cmd;
