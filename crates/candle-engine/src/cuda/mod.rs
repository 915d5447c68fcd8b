//! The engine `candle` on NVIDIA cards, and what such a card can do at most.

mod card;
mod ceilings;
mod device;
mod engine;
mod layout;
mod model;
// The processor stands in for a card by switching stacks, in x86-64's assembly.
#[cfg(all(test, target_arch = "x86_64"))]
mod shim;
#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
mod upload;

pub use self::ceilings::{Ceilings, ceilings};
pub use self::engine::{OnAnyDevice, OnCard};
