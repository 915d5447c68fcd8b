//! What a launch's record holds of the readings: memory, and the card's state in the windows.

use std::collections::BTreeMap;

use super::Readings;
use crate::record::{GpuMemory, GpuMemoryHow, GpuState, Spread};
use crate::sensors::nvml::{Card, Reading};
use crate::sensors::windows::Windows;

/// The engine's share by the driver's figure for its processes, and where there is none by the
/// rise of the whole card's use.
pub(super) fn memory(before: &[Reading], readings: &Readings) -> GpuMemory {
    let used = |readings: &[Reading]| readings.iter().filter_map(|r| r.used).collect::<Vec<_>>();
    let device_before_bytes = used(before).into_iter().min();
    let device_peak_bytes = used(&readings.all).into_iter().max();
    let rise = device_peak_bytes.zip(device_before_bytes);
    let rise = rise.map(|(peak, before)| peak.saturating_sub(before));
    let (peak_bytes, how) = match readings.own_peak {
        Some(own) => (Some(own), Some(GpuMemoryHow::Process)),
        None => (rise, rise.map(|_| GpuMemoryHow::Device)),
    };
    GpuMemory { peak_bytes, how, device_before_bytes, device_peak_bytes }
}

/// The card in the measured windows. Where they are shorter than the time between two readings,
/// the nearest reading before their end stands for them.
pub(super) fn state(
    card: &Card,
    before: &[Reading],
    readings: &[Reading],
    windows: &Windows,
) -> GpuState {
    let whole = || readings.iter().filter(|r| r.whole);
    let within = |r: &&Reading| windows.measured.iter().any(|w| (w.0..=w.1).contains(&r.at));
    let mut inside: Vec<&Reading> = whole().filter(within).collect();
    if inside.is_empty()
        && let Some((_, end)) = windows.measured.last()
    {
        inside.extend(whole().rfind(|r| r.at <= *end));
    }
    let spread = |value: fn(&Reading) -> Option<u32>, unit: f64| {
        spread(inside.iter().filter_map(|r| Some(f64::from(value(r)?) / unit)).collect())
    };
    let facts = card.facts().unwrap_or_default();
    GpuState {
        uuid: facts.uuid,
        mig: facts.mig,
        readings: inside.len() as u32,
        reading_s: self::spread(whole().map(|r| r.took.0).collect()).map(|s| s.median),
        sm_clock_mhz: spread(|r| r.sm_clock_mhz, 1.0),
        memory_clock_mhz: spread(|r| r.memory_clock_mhz, 1.0),
        temperature_c: spread(|r| r.temperature_c, 1.0),
        power_w: spread(|r| r.power_mw, 1e3),
        utilization: spread(|r| r.utilization, 1e2),
        throttled_s: throttled(readings, windows),
        idle_power_w: self::spread(
            before.iter().filter_map(|r| Some(f64::from(r.power_mw?) / 1e3)).collect(),
        )
        .map(|s| s.median),
        ..GpuState::default()
    }
}

/// Seconds of the windows by reason: a reading stands for the time since the one before it.
fn throttled(readings: &[Reading], windows: &Windows) -> BTreeMap<String, f64> {
    let mut seconds: BTreeMap<String, f64> = BTreeMap::new();
    let whole: Vec<&Reading> = readings.iter().filter(|r| r.whole).collect();
    for pair in whole.windows(2) {
        let overlap = |(from, to): &(crate::units::MonoNs, crate::units::MonoNs)| {
            pair[1].at.min(*to).since(pair[0].at.max(*from)).0
        };
        let within: f64 = windows.measured.iter().map(overlap).sum();
        for reason in pair[1].throttle.iter().filter(|_| within > 0.0) {
            *seconds.entry((*reason).into()).or_default() += within;
        }
    }
    seconds
}

fn spread(mut values: Vec<f64>) -> Option<Spread> {
    values.sort_by(f64::total_cmp);
    let (min, max) = (*values.first()?, *values.last()?);
    Some(Spread { min, median: values[values.len() / 2], max })
}
