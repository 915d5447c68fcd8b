//! Serves the engine protocol for the engines written in Rust (`candle`, `candle-stock`). A worker
//! is a fresh process, and this crate does not know the harness.

mod attention;
pub mod batch;
#[doc(hidden)]
pub mod bench;
pub mod candle;
pub mod candle_stock;
mod config;
pub mod cuda;
mod encoder;
pub mod generate;
mod iq4_nl;
mod kernels;
pub mod layers;
mod linear;
mod math;
mod model;
mod pool;
mod resident;
mod rope;
pub mod sampling;
pub mod serve;
mod spans;
mod weights;

pub use encoder::Vectors;
use llm_bench_protocol::{EngineError, ErrorKind, Feature, Load, Loaded, MemoryBook, Score};

/// A Rust engine; `serve` makes it speak the protocol.
pub trait Engine {
    /// Library versions, for `ready`.
    fn versions(&self) -> Vec<(String, String)>;

    /// The instruction set that the kernels use, for `ready`.
    fn isa(&self) -> &'static str;

    /// Opens the file, makes every weight usable, and times the load.
    fn load(&mut self, request: &Load) -> Result<Loaded, EngineError>;

    /// What the engine can do beyond a measured generation.
    fn features(&self) -> Vec<Feature>;

    /// The part that the token loop drives; see `generate`.
    fn decoder(&mut self) -> Result<&mut dyn generate::Decoder, EngineError>;

    /// Runs a teacher-forced pass and passes the logits (`[n_vocab]`, f32) of positions `first`..
    /// to `row` in order.
    fn score(
        &mut self,
        request: &Score,
        row: &mut dyn FnMut(&[f32]) -> std::io::Result<()>,
    ) -> Result<(), EngineError>;

    /// Encodes a batch of texts; `hidden` also asks for their hidden states.
    fn encode(&mut self, texts: &[Vec<u32>], hidden: bool) -> Result<Vectors, EngineError> {
        let _ = (texts, hidden);
        let message = "this engine has no encoder for this model";
        Err(EngineError::new(ErrorKind::Unsupported, message))
    }

    /// The memory that the engine holds now, by its own account.
    fn memory(&self) -> MemoryBook;
}

/// The version of the candle crates, which are pinned together.
const CANDLE_VERSION: &str = "0.11.1";

/// Makes the engine of this name; `None` if there is none.
pub fn engine(name: &str) -> Option<Box<dyn Engine>> {
    match name {
        "candle" | "candle-f32" => Some(Box::<cuda::OnAnyDevice>::default()),
        "candle-stock" => Some(Box::<candle_stock::CandleStock>::default()),
        _ => None,
    }
}

pub(crate) fn internal(message: impl Into<String>) -> EngineError {
    EngineError::new(ErrorKind::Internal, message)
}

/// Refuses tokens outside the vocabulary, an empty prompt, and a request that exceeds the context.
pub(crate) fn check_tokens(
    tokens: &[u32],
    n_generate: usize,
    n_ctx: usize,
    n_vocab: usize,
) -> Result<(), EngineError> {
    if tokens.is_empty() {
        return Err(internal("the prompt is empty: expected at least one token"));
    }
    if let Some(token) = tokens.iter().find(|&&t| t as usize >= n_vocab) {
        return Err(internal(format!("token {token} is outside the vocabulary of {n_vocab}")));
    }
    // The last generated token is never fed back.
    let positions = tokens.len() + n_generate.saturating_sub(1);
    if positions > n_ctx {
        return Err(internal(format!(
            "{} tokens and {n_generate} generated ones need {positions} positions; n_ctx is {n_ctx}",
            tokens.len()
        )));
    }
    Ok(())
}
