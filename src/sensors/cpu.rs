//! Whether the engine has the processors to itself: what others use before a launch, and what the
//! hypervisor takes during it.

use std::time::Duration;

use super::Sensor;
use crate::record::Launch;

/// Watches other programs before anything of the launch runs.
pub struct Busy {
    window: Duration,
    busy: Option<f64>,
}

impl Busy {
    pub fn over(window: Duration) -> Self {
        Self { window, busy: None }
    }
}

impl Sensor for Busy {
    fn begin(&mut self) {
        self.busy = watch_idle(self.window).map(|shares| shares.busy);
    }

    fn end(self: Box<Self>, launch: &mut Launch) {
        launch.environment.busy_before = self.busy;
        launch.environment.disturbed |= launch.environment.is_disturbed();
    }
}

/// Measures the hypervisor's share from begin to end.
#[derive(Default)]
pub struct Steal(Option<CpuTimes>);

impl Sensor for Steal {
    fn begin(&mut self) {
        self.0 = CpuTimes::now();
    }

    fn end(self: Box<Self>, launch: &mut Launch) {
        let shares = self.0.and_then(|before| CpuTimes::now()?.shares_since(before));
        launch.environment.steal = shares.map(|shares| shares.steal);
        launch.environment.disturbed |= launch.environment.is_disturbed();
    }
}

/// Processor time since boot in ticks, summed over all processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuTimes {
    busy: u64,
    steal: u64,
    all: u64,
}

/// Shares of all processors' time between two readings, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CpuShares {
    pub busy: f64,
    pub steal: f64,
}

impl CpuTimes {
    pub fn now() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    pub(crate) fn parse(stat: &str) -> Option<Self> {
        let fields: Vec<u64> = stat
            .lines()
            .next()?
            .strip_prefix("cpu ")?
            .split_whitespace()
            .map_while(|f| f.parse().ok())
            .collect();
        // user nice system idle iowait irq softirq steal; guest time is inside user.
        let [user, nice, system, idle, iowait, irq, softirq, steal, ..] = fields[..] else {
            return None;
        };
        let busy = user + nice + system + irq + softirq;
        Some(Self { busy, steal, all: busy + idle + iowait + steal })
    }

    pub fn shares_since(self, earlier: Self) -> Option<CpuShares> {
        let all = self.all.checked_sub(earlier.all).filter(|d| *d > 0)? as f64;
        let share = |now: u64, then: u64| now.saturating_sub(then) as f64 / all;
        Some(CpuShares {
            busy: share(self.busy, earlier.busy),
            steal: share(self.steal, earlier.steal),
        })
    }
}

/// Watches for `window` what others do while nothing of ours runs.
pub fn watch_idle(window: Duration) -> Option<CpuShares> {
    let before = CpuTimes::now()?;
    std::thread::sleep(window);
    CpuTimes::now()?.shares_since(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_shares_come_from_two_readings() {
        let a = CpuTimes::parse("cpu  100 0 100 800 0 0 0 0 0 0\n").unwrap();
        let b = CpuTimes::parse("cpu  150 0 100 840 0 0 0 10 0 0\n").unwrap();
        let s = b.shares_since(a).unwrap();
        assert_eq!((s.busy, s.steal), (0.5, 0.1));
        assert!(a.shares_since(a).is_none());
    }
}
