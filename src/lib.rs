//! llm-bench: the reference instrument for local LLM token generation.
//!
//! The map, in the order in which data flows:

pub mod analysis;
pub mod metric;
pub mod protocol;
pub mod record;
pub mod report;
pub mod stats;
pub mod units;
pub mod worker;
