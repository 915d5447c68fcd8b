//! Clocks, temperature and load of the machine, as the kernel reports them just before a launch.

use super::Sensor;
use crate::allowance::Tree;
use crate::record::{Environment, Launch};

/// Takes its readings in `begin`.
#[derive(Default)]
pub struct Clocks {
    load_average_1m: Option<f64>,
    cpu_mhz: Option<f64>,
    temperature_c: Option<f64>,
}

impl Sensor for Clocks {
    fn begin(&mut self) {
        *self = Self {
            load_average_1m: load_average_1m(),
            cpu_mhz: cpu_mhz(),
            temperature_c: temperature_c(),
        };
    }

    fn end(self: Box<Self>, launch: &mut Launch) {
        let Self { load_average_1m, cpu_mhz, temperature_c } = *self;
        let rest = std::mem::take(&mut launch.environment);
        launch.environment = Environment { load_average_1m, cpu_mhz, temperature_c, ..rest };
    }
}

pub fn load_average_1m() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// Mean frequency over processors in MHz, as the kernel reports it.
pub fn cpu_mhz() -> Option<f64> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let mhz: Vec<f64> = info
        .lines()
        .filter_map(|l| l.strip_prefix("cpu MHz")?.split(':').nth(1)?.trim().parse().ok())
        .collect();
    (!mhz.is_empty()).then(|| mhz.iter().sum::<f64>() / mhz.len() as f64)
}

/// How often each core and package has throttled itself since boot, as far as it is counted.
pub fn throttle_counts(tree: &Tree) -> Vec<u64> {
    let of = |cpu: String| {
        ["core_throttle_count", "package_throttle_count"]
            .map(|file| tree.number(&format!("{cpu}/thermal_throttle/{file}")))
    };
    tree.list("/sys/devices/system/cpu", "cpu").into_iter().flat_map(of).flatten().collect()
}

/// All of them together; `None` without a counter.
pub fn throttles() -> Option<u64> {
    let counts = throttle_counts(&Tree::new("/"));
    (!counts.is_empty()).then(|| counts.iter().sum())
}

/// The hottest thermal zone in °C.
pub fn temperature_c() -> Option<f64> {
    let zones = std::fs::read_dir("/sys/class/thermal").ok()?;
    zones
        .flatten()
        .filter_map(|z| std::fs::read_to_string(z.path().join("temp")).ok())
        .filter_map(|t| t.trim().parse::<f64>().ok())
        .map(|milli| milli / 1000.0)
        .filter(|c| (1.0..150.0).contains(c))
        .max_by(f64::total_cmp)
}
