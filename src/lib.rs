//! llm-bench: the reference instrument for local LLM token generation.
//!
//! The map, in the order in which data flows:
//!
//! ```text
//! cli ──> plan ──> session ──> launch: engine × task × sensors ──> record
//!         (Spec,   (prepare,          (worker: the Rust ones, raw    │
//!          points,  measure,           over protocol)     samples    v
//!          order)   keep, finish)                     analysis (on stats) ──> report
//!                                                     history (records over commits)
//! ```
//!
//! Beside it: `device`, `metric`, `number`, `text` and `interrupt` below everything, `cli` and `cmd`
//! on top. What must not know the harness is a crate of its own under `crates/`: `units`, `cpu`,
//! `stats`, `protocol`, `gguf` (which `model` shows) and the candle engines (`worker`).

// `println!` panics when the reader of our output closes the pipe.
#![cfg_attr(not(test), deny(clippy::print_stdout))]

pub mod allowance;
pub mod analysis;
pub mod cli;
pub mod cmd;
pub mod device;
pub mod digest;
pub mod engine;
pub mod environment;
pub mod gate;
pub mod generate;
pub mod git;
pub mod history;
pub mod identity;
pub mod interrupt;
pub mod launch;
pub mod measure;
pub mod metric;
pub mod model;
pub mod number;
pub mod plan;
pub mod processes;
pub mod progress;
pub mod record;
pub mod report;
pub mod secrets;
pub mod sensors;
pub mod session;
pub mod shell;
pub mod spreadsheet;
pub mod task;
pub mod text;
pub mod threads;
pub mod user;
pub mod workload;

pub use llm_bench_candle_engine as worker;
pub use llm_bench_cpu as cpu;
pub use llm_bench_protocol as protocol;
pub use llm_bench_stats as stats;
pub use llm_bench_units as units;
