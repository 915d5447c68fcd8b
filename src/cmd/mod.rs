//! One file per command: wiring, no logic.

pub mod engines;
pub mod models;
pub mod progress;
pub mod report;
pub mod resume;
pub mod run;
