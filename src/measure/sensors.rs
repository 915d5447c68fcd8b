//! Readings of the kernel: the memory of a process tree, and whether the machine is idle. Read
//! before and after a launch, never inside a timed region.

use std::collections::BTreeMap;
use std::time::Duration;

/// Memory of a process tree, from /proc/PID/status of each process, summed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TreeMemory {
    /// Sum of the high-water marks (VmHWM).
    pub peak: u64,
    pub resident: u64,
    pub anon: u64,
    pub file: u64,
    pub shmem: u64,
    pub processes: u32,
}

/// Reads the tree below `root`, itself included; `None` when it is gone.
pub fn tree_memory(root: u32) -> Option<TreeMemory> {
    let mut sum = TreeMemory::default();
    for pid in tree(root) {
        let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else {
            continue;
        };
        let field = |name: &str| kib(&status, name).unwrap_or(0);
        sum.peak += field("VmHWM:");
        sum.resident += field("VmRSS:");
        sum.anon += field("RssAnon:");
        sum.file += field("RssFile:");
        sum.shmem += field("RssShmem:");
        sum.processes += 1;
    }
    (sum.peak > 0).then_some(sum)
}

/// High-water mark and resident set of one process: one small file, where a tree takes a scan.
pub fn process_memory(pid: u32) -> Option<(u64, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some((kib(&status, "VmHWM:")?, kib(&status, "VmRSS:")?))
}

fn kib(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// The process and all its descendants.
pub fn tree(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        if let Some(parent) = parent_of(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        found.extend(children.get(&pid).into_iter().flatten());
        next += 1;
    }
    found
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command may hold spaces and brackets: fields are counted from its last bracket.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Processor time since boot in ticks, of all processors together.
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

    pub(super) fn parse(stat: &str) -> Option<Self> {
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

/// What others do on the machine while nothing of ours runs: watches for `window`.
pub fn watch_idle(window: Duration) -> Option<CpuShares> {
    let before = CpuTimes::now()?;
    std::thread::sleep(window);
    CpuTimes::now()?.shares_since(before)
}

pub fn load_average_1m() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// Mean frequency over processors in MHz, as the kernel tells it.
pub fn cpu_mhz() -> Option<f64> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let mhz: Vec<f64> = info
        .lines()
        .filter_map(|l| l.strip_prefix("cpu MHz")?.split(':').nth(1)?.trim().parse().ok())
        .collect();
    (!mhz.is_empty()).then(|| mhz.iter().sum::<f64>() / mhz.len() as f64)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_peak_at_least_as_high_as_what_it_holds() {
        let m = tree_memory(std::process::id()).unwrap();
        assert!(m.peak >= m.resident && m.resident > 0, "{m:?}");
        // The kernel counts the parts in batches of pages per thread.
        let parts = m.anon + m.file + m.shmem;
        assert!(parts.abs_diff(m.resident) < m.resident / 2, "{m:?}");
    }

    #[test]
    fn the_memory_of_a_child_is_counted_with_its_parent() {
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let with = tree(std::process::id());
        assert!(with.contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn processor_shares_come_from_two_readings() {
        let a = CpuTimes::parse("cpu  100 0 100 800 0 0 0 0 0 0\n").unwrap();
        let b = CpuTimes::parse("cpu  150 0 100 840 0 0 0 10 0 0\n").unwrap();
        let s = b.shares_since(a).unwrap();
        assert_eq!((s.busy, s.steal), (0.5, 0.1));
        assert!(a.shares_since(a).is_none());
    }
}
