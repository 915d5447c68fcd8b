//! The machine at one moment after another: clock, heat, power, what the hypervisor takes. Unlike a
//! sensor of a launch it is asked between requests and answers at once.

use super::cpu::CpuTimes;
use super::nvml::{Card, Unread};
use super::rapl::{Meter, POWERCAP};
use super::{clocks, nvml};
use crate::device::Device;
use crate::record::Moment;
use crate::units::MonoNs;

/// Keeps what differences are taken from.
pub struct Watch {
    times: Option<CpuTimes>,
    throttles: Option<u64>,
    meter: Option<Meter>,
    joules: f64,
    card: Option<Card>,
    unread: Unread,
    at: MonoNs,
}

impl Watch {
    pub fn begin(device: Device) -> Self {
        let card = match device {
            Device::Cuda(index) => Card::of(index).ok(),
            Device::Cpu | Device::Metal => None,
        };
        Self {
            times: CpuTimes::now(),
            throttles: clocks::throttles(),
            meter: Meter::open(POWERCAP.as_ref()),
            joules: 0.0,
            card,
            unread: nvml::Unread::new(),
            at: MonoNs::now(),
        }
    }

    /// What the machine does now, and did since the last call.
    pub fn look(&mut self) -> Moment {
        let now = MonoNs::now();
        let seconds = now.since(self.at).0;
        let times = CpuTimes::now();
        let shares = times.zip(self.times).and_then(|(now, then)| now.shares_since(then));
        let joules = self.meter.as_mut().and_then(Meter::joules);
        let watts = joules.map(|joules| (joules - self.joules) / seconds);
        self.joules = joules.unwrap_or(self.joules);
        (self.times, self.at) = (times, now);
        let since = clocks::throttles().zip(self.throttles);
        let card = self.card.as_ref().map(|card| card.read(&mut self.unread));
        let number = |x: Option<u32>| x.map(f64::from);
        Moment {
            cpu_mhz: clocks::cpu_mhz(),
            temperature_c: clocks::temperature_c(),
            throttles: since.map(|(now, then)| now.saturating_sub(then)),
            watts: watts.filter(|w| w.is_finite()),
            steal: shares.map(|s| s.steal),
            sm_mhz: card.as_ref().and_then(|r| number(r.sm_clock_mhz)),
            gpu_temperature_c: card.as_ref().and_then(|r| number(r.temperature_c)),
            gpu_watts: card.as_ref().and_then(|r| number(r.power_mw)).map(|mw| mw / 1e3),
            gpu_throttle: card
                .map(|r| r.throttle.into_iter().map(String::from).collect())
                .unwrap_or_default(),
            ..Moment::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_reads_what_this_machine_reports_and_leaves_out_the_rest() {
        let mut watch = Watch::begin(Device::Cpu);
        std::thread::sleep(std::time::Duration::from_millis(50));
        let seen = watch.look();
        assert!(seen.steal.is_some_and(|s| (0.0..=1.0).contains(&s)), "{seen:?}");
        assert!(seen.watts.is_none_or(|w| w >= 0.0) && seen.sm_mhz.is_none(), "{seen:?}");
    }
}
