//! What else runs on the machine: load, other programs, the hypervisor's share, swapping, heat.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Finding, Tree};
use crate::number::{Form, text};
use crate::sensors::clocks::throttle_counts;
use crate::sensors::cpu::{CpuShares, CpuTimes};
use crate::units::Bytes;

/// Readings from a time when nothing of ours ran.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Watched {
    pub load_1m: Option<f64>,
    pub shares: Option<CpuShares>,
    /// Share of the last ten seconds in which some program waited for a processor, 0 to 1.
    pub waiting: Option<f64>,
    /// Programs and how many processors' worth of time each took, the busiest first.
    pub programs: Vec<(String, f64)>,
}

/// By process id: a program's name and the processor time it has used so far, in clock ticks.
type Used = BTreeMap<u32, (String, u64)>;

/// Watches for `window` while this process sleeps.
pub fn watch(tree: &Tree, window: Duration) -> Watched {
    let times = || CpuTimes::parse(&tree.read("/proc/stat")?);
    let (before, used, begin) = (times(), used(tree), Instant::now());
    std::thread::sleep(window);
    let seconds = begin.elapsed().as_secs_f64();
    let after = times();
    let shares = before.zip(after).and_then(|(before, after)| after.shares_since(before));
    Watched {
        load_1m: tree
            .read("/proc/loadavg")
            .and_then(|text| text.split_whitespace().next()?.parse().ok()),
        shares,
        waiting: tree.read("/proc/pressure/cpu").and_then(|text| pressure(&text)),
        programs: busiest(&used, &self::used(tree), seconds, std::process::id()),
    }
}

/// `some avg10=…` of a pressure file, as a share.
pub fn pressure(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|l| l.strip_prefix("some "))?;
    let percent = line.split_whitespace().find_map(|f| f.strip_prefix("avg10="))?;
    Some(percent.parse::<f64>().ok()? / 100.0)
}

fn used(tree: &Tree) -> Used {
    let processes = tree.list("/proc", "").into_iter().filter_map(|folder| {
        let pid: u32 = folder.rsplit('/').next()?.parse().ok()?;
        Some((pid, program(&tree.read(&format!("{folder}/stat"))?)?))
    });
    processes.collect()
}

/// Name and used time from /proc/PID/stat. The name may contain spaces and brackets.
pub fn program(stat: &str) -> Option<(String, u64)> {
    let (before, after) = stat.rsplit_once(')')?;
    let name = before.split_once('(')?.1;
    let mut fields = after.split_whitespace().skip(11).map_while(|f| f.parse::<u64>().ok());
    Some((name.to_owned(), fields.next()? + fields.next()?))
}

/// Time that each program took between two readings, in processors; same names are added together.
pub fn busiest(before: &Used, after: &Used, seconds: f64, own: u32) -> Vec<(String, f64)> {
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
    for (pid, (name, now)) in after.iter().filter(|(pid, _)| **pid != own) {
        let then = before.get(pid).map_or(*now, |(_, then)| *then);
        *sums.entry(name).or_default() += now.saturating_sub(then) as f64 / ticks / seconds;
    }
    let mut all: Vec<(String, f64)> =
        sums.into_iter().filter(|s| s.1 > 0.0).map(|(n, s)| (n.to_owned(), s)).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all
}

fn percent(share: f64) -> String {
    text(share, Form::Percent(0))
}

/// Uses the limits that mark a launch as disturbed.
pub fn load(watched: &Watched) -> Finding {
    let Some(shares) = watched.shares else {
        return Finding::unknown("other load", "not reported");
    };
    let mut found = format!("{} of the processors busy", percent(shares.busy));
    if shares.steal > 0.005 {
        found += &format!(", {} taken by the hypervisor", percent(shares.steal));
    }
    if let Some(load) = watched.load_1m {
        found += &format!(", load average {load}");
    }
    if let Some(waiting) = watched.waiting.filter(|w| *w > 0.005) {
        found += &format!("; programs waited for a processor {} of the time", percent(waiting));
    }
    if shares.steal > 0.05 {
        let advice = "other guests use these processors: wait, or use a dedicated host";
        return Finding::warn("other load", found, advice);
    }
    match shares.busy > 0.1 {
        true => Finding::warn(
            "other load",
            found,
            "close other programs; launches would be marked disturbed",
        ),
        false => Finding::ok("other load", found),
    }
}

pub fn processes(watched: &Watched) -> Finding {
    let heavy: Vec<String> = watched
        .programs
        .iter()
        .filter(|(_, share)| *share >= 0.1)
        .take(5)
        .map(|(name, share)| format!("{name} {}", percent(*share)))
        .collect();
    match heavy.is_empty() {
        true => Finding::ok("heavy programs", "none above 10 % of a processor"),
        false => Finding::warn("heavy programs", heavy.join(", "), "stop them while you measure"),
    }
}

pub fn swap(tree: &Tree) -> Finding {
    let (Some(all), Some(free)) = (tree.memory("SwapTotal"), tree.memory("SwapFree")) else {
        return Finding::unknown("swap", "not reported");
    };
    let used = Bytes(all.0.saturating_sub(free.0));
    match (all.0, used.0) {
        (0, _) => Finding::ok("swap", "none"),
        (_, 0) => Finding::ok("swap", format!("{all}, unused")),
        _ => Finding::warn(
            "swap",
            format!("{used} of {all} in use"),
            "memory was short: close programs, then `sudo swapoff -a && sudo swapon -a`",
        ),
    }
}

/// The hottest sensor of a processor, in °C.
pub fn temperature(tree: &Tree) -> Finding {
    let zones = tree.list("/sys/class/thermal", "thermal_zone").into_iter().map(|z| z + "/temp");
    let chips = tree.list("/sys/class/hwmon", "hwmon").into_iter().filter(|chip| {
        let name = tree.read(&format!("{chip}/name")).unwrap_or_default();
        ["coretemp", "k10temp", "zenpower", "cpu_thermal"].contains(&name.as_str())
    });
    let inputs = chips.flat_map(|chip| tree.list(&chip, "temp"));
    let files = zones.chain(inputs.filter(|file| file.ends_with("_input")));
    let hottest = files
        .filter_map(|file| Some(tree.read(&file)?.parse::<f64>().ok()? / 1000.0))
        .filter(|c| (1.0..150.0).contains(c))
        .max_by(f64::total_cmp);
    match hottest {
        None => Finding::unknown("temperature", "no sensor"),
        Some(c) if c >= 85.0 => Finding::warn(
            "temperature",
            format!("{c:.0} °C before anything runs"),
            "let it cool down, and look at its fans: it will throttle under load",
        ),
        Some(c) => Finding::ok("temperature", format!("{c:.0} °C")),
    }
}

/// How often the processor has throttled itself since boot.
pub fn throttling(tree: &Tree) -> Finding {
    match throttle_counts(tree).iter().max() {
        None => Finding::unknown("throttling", "no counter"),
        Some(0) => Finding::ok("throttling", "never since boot"),
        Some(n) => Finding::warn(
            "throttling",
            format!("{n} times since boot"),
            "run the doctor again after a measurement: if the count grows, the machine is too hot",
        ),
    }
}
