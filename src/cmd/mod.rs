//! One file per command: wiring, no logic.

pub mod engines;
pub mod generate;
pub mod models;
pub mod progress;
pub mod report;
pub mod run;
