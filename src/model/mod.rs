//! Models and their weights.

pub mod arch;
pub mod quant;
pub mod synth;
