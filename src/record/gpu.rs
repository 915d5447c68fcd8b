//! Graphics processors, as the result file states them: the card, what it did during a launch, and
//! the memory that the engine took of it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Host;
use crate::device::Device;

/// A graphics processor.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Gpu {
    /// Name by its driver.
    pub name: String,
    /// Its memory in bytes; absent where it has none of its own, or the driver does not say.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub memory_bytes: u64,
    /// Version of the driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// The N of `--device cuda:N`; absent for a card that CUDA_VISIBLE_DEVICES hides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    /// The driver's name for this one card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Whether the card is split into instances (MIG).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig: Option<bool>,
    /// Plain reading of its memory, measured before the session, in bytes per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_read_bandwidth_bytes_per_s: Option<f64>,
    /// Copying within its memory: bytes read and bytes written, together per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_copy_bandwidth_bytes_per_s: Option<f64>,
    /// Copying from pinned memory of the host, in bytes per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_upload_bandwidth_bytes_per_s: Option<f64>,
    /// Floating-point operations per second on f16, multiply and add counted apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_f16_flops: Option<f64>,
    /// Operations per second on int8, multiply and add counted apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_int8_ops: Option<f64>,
    /// Why those were not measured, for a card that was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmeasured: Option<String>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Host {
    /// The card that is `device`.
    pub fn gpu_of(&self, device: Device) -> Option<&Gpu> {
        let Device::Cuda(index) = device else { return None };
        self.gpu.iter().find(|gpu| gpu.index == Some(index))
    }

    /// The read bandwidth of the device's memory, measured before the session.
    pub fn read_bandwidth(&self, device: Device) -> Option<f64> {
        match device {
            Device::Cpu => self.measured_read_bandwidth_bytes_per_s,
            Device::Cuda(_) => self.gpu_of(device)?.measured_read_bandwidth_bytes_per_s,
            Device::Metal => None,
        }
    }
}

/// Least, middle and greatest of the readings in a launch's measured windows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Spread {
    /// Least value.
    pub min: f64,
    /// Middle value.
    pub median: f64,
    /// Greatest value.
    pub max: f64,
}

/// The card around one launch, as NVML reports it. Readings are those of the measured windows,
/// except where it says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GpuState {
    /// The driver's name for this one card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// How many readings of all this lie in the measured windows; the energy is read more often.
    #[serde(default)]
    pub readings: u32,
    /// What one reading of all this takes, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reading_s: Option<f64>,
    /// Clock of the multiprocessors in MHz.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sm_clock_mhz: Option<Spread>,
    /// Clock of the memory in MHz.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_clock_mhz: Option<Spread>,
    /// Temperature in °C.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_c: Option<Spread>,
    /// Power in watts. The driver averages it over up to a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_w: Option<Spread>,
    /// Share of the time in which a kernel ran, 0 to 1, over the driver's own period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilization: Option<Spread>,
    /// Seconds of the windows with each reason for a lowered clock: power_cap, hw_slowdown,
    /// sync_boost, sw_thermal, hw_thermal, hw_power_brake, display_clock.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub throttled_s: BTreeMap<String, f64>,
    /// Power before the launch in watts. It is in no figure and subtracted from none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_power_w: Option<f64>,
    /// Programs of others that held the card before the launch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_processes: Option<u32>,
    /// Seconds that the launch waited until the card no longer slowed itself down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waited_s: Option<f64>,
    /// Whether the card is split into instances (MIG); its readings are then of the whole card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig: Option<bool>,
    /// What could not be read, by name, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unread: BTreeMap<String, String>,
}

/// Memory of the card over a launch, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GpuMemory {
    /// The most that the engine held, by `how`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
    /// How that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub how: Option<GpuMemoryHow>,
    /// Used on the whole card before the launch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_before_bytes: Option<u64>,
    /// The most used on the whole card during the launch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_peak_bytes: Option<u64>,
}

/// How the engine's share of the card's memory is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GpuMemoryHow {
    /// The driver's figure for the engine's processes.
    Process,
    /// The card's use less its use before the launch: the driver gives no figure by process, or
    /// numbers processes otherwise (containers, virtual machines).
    Device,
}
