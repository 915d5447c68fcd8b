//! The engine `candle` on NVIDIA cards, and what such a card can do at most.

mod card;
mod ceilings;
mod device;
mod engine;
mod layout;
mod model;
#[cfg(test)]
mod shim;
#[cfg(test)]
mod tests;
mod upload;

pub use self::ceilings::{Ceilings, ceilings};
pub use self::engine::{OnAnyDevice, OnCard};
