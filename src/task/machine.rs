//! Metrics that every task has: the peak of memory with its parts, and the card's clock.

use super::Measured;
use crate::metric::{Metric, Values};
use crate::record::{MemoryPart, Part};

/// Sets them from what the sensors reported.
pub(super) fn of_launch(measured: &mut Measured<'_>) {
    let launch = &mut *measured.launch;
    let mut values = Values::new();
    if let Some(peak) = launch.memory.peak_host_bytes {
        values.insert(Metric::PeakHostBytes, peak as f64);
        values.extend(of_memory(&launch.memory.breakdown));
    }
    let gpu_peak = launch.memory.gpu.as_ref().and_then(|gpu| gpu.peak_bytes);
    values.extend(gpu_peak.map(|peak| (Metric::PeakGpuBytes, peak as f64)));
    if let Some(gpu) = &launch.environment.gpu {
        values.extend(gpu.sm_clock_mhz.map(|clock| (Metric::SmClock, clock.median)));
        if gpu.readings > 0 {
            values.insert(Metric::Throttled, gpu.throttled_s.values().sum());
        }
    }
    launch.metrics.extend(values);
}

/// The peak in five parts that add up to it; empty without a breakdown.
fn of_memory(breakdown: &[MemoryPart]) -> Values {
    let mut values = Values::new();
    for MemoryPart { part, bytes, .. } in breakdown {
        let metric = match part {
            Part::WeightsMapped | Part::WeightsPrivate => Metric::MemoryWeights,
            Part::KvCache => Metric::MemoryKv,
            Part::Activations | Part::LoadTemporaries | Part::GenerationTemporaries => {
                Metric::MemoryActivations
            }
            Part::BeforeLoad | Part::Libraries | Part::Compiler | Part::AllocatorFree => {
                Metric::MemoryRuntime
            }
            Part::Unaccounted => Metric::MemoryUnaccounted,
        };
        *values.entry(metric).or_insert(0.0) += *bytes as f64;
    }
    values
}
