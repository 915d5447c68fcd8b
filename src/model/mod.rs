//! Models as files: which ones exist (`registry`), where they come from (`locate`, `hub`,
//! `cache`, `synth`, `quantize`), what is in them (`gguf`, `tokenizer`, `arch`, `quant`,
//! `mixture`), whether its weights are numbers (`finite`), how one in several files becomes one
//! (`parts`), how a large one is written (`unfinished`), and the golden values of the shipped one
//! (`golden`). `chat` turns conversations into ids. `encoder` has the shapes of a BERT, and `convert`
//! makes its file from Hugging Face's form.

pub mod arch;
pub mod cache;
pub mod chat;
pub mod convert;
pub mod encoder;
pub mod finite;
pub mod golden;
pub mod hub;
pub mod locate;
pub mod mixture;
pub mod parts;
pub mod quant;
pub mod quantize;
pub mod registry;
pub mod shelf;
pub mod stamp;
pub mod synth;
pub mod tokenizer;
mod unfinished;

pub use llm_bench_gguf as gguf;
pub use unfinished::folder_of;

#[cfg(test)]
#[path = "../../crates/gguf/src/fixture.rs"]
pub mod gguf_fixture;
