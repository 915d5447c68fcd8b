//! Models: which there are, where their files come from, and what is in a file.

pub mod arch;
pub mod cache;
pub mod gguf;
pub mod hub;
pub mod locate;
pub mod quant;
pub mod registry;
pub mod tokenizer;
