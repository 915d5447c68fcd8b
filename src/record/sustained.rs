//! A generation repeated for minutes, and the machine beside it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What `run --sustained` saw.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sustained {
    /// The time that was asked for.
    pub minutes: f64,
    /// One after the other, each over some whole generations.
    pub moments: Vec<Moment>,
}

/// Some generations in a row, and readings of the machine just after them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Moment {
    /// When it ended, in seconds after the first one began.
    pub at_s: f64,
    /// Tokens that were decoded, the first of each generation not counted.
    pub tokens: u64,
    /// The time between the first and the last token of each generation, added together.
    pub decode_s: f64,
    /// Clock of the processor in MHz, mean over its cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_mhz: Option<f64>,
    /// The hottest thermal zone in °C.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_c: Option<f64>,
    /// How often the processor's cores have throttled since the first moment began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttles: Option<u64>,
    /// Power of the processor packages over this moment, in watts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watts: Option<f64>,
    /// Share of the processors' time that the hypervisor took over this moment, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steal: Option<f64>,
    /// Clock of the card's multiprocessors in MHz.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sm_mhz: Option<f64>,
    /// Temperature of the card in °C.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_temperature_c: Option<f64>,
    /// Power of the card in watts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_watts: Option<f64>,
    /// Why the card lowers its clock.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpu_throttle: Vec<String>,
}
