//! What the machine is and how it is configured: processor, frequency control, sibling threads,
//! large pages, clock, guest or host.

use super::{Finding, Tree};
use crate::number::{Form, count, text};
use crate::record::{Build, Host};
use crate::sensors::rapl::POWERCAP;

const CPU: &str = "/sys/devices/system/cpu";
const CPUFREQ: &str = "/sys/devices/system/cpu/cpufreq";

/// Compares the model and its instruction sets with those that this program was built for.
pub fn processor(host: &Host, build: &Build) -> Finding {
    let isa = match host.isa.is_empty() {
        true => "no vector instructions that are looked for".to_string(),
        false => host.isa.join(" "),
    };
    let found = format!("{}, {} threads; {isa}", host.cpu_model, host.threads);
    if build.target_cpu == "generic" {
        let advice = "this build is for any processor, and candle chooses its kernels when it is \
                      compiled: build with RUSTFLAGS=\"-C target-cpu=native\"";
        return Finding::warn("processor", found, advice);
    }
    if build.profile == "debug" {
        let advice = "this is a debug build: measure with `cargo build --release`";
        return Finding::warn("processor", found, advice);
    }
    Finding::ok("processor", found)
}

/// The different values of a file over all frequency policies.
fn over_policies(tree: &Tree, file: &str) -> Vec<String> {
    let policies = tree.list(CPUFREQ, "policy");
    let mut values: Vec<String> =
        policies.iter().filter_map(|p| tree.read(&format!("{p}/{file}"))).collect();
    values.sort();
    values.dedup();
    values
}

pub fn governor(tree: &Tree) -> Finding {
    let governors = over_policies(tree, "scaling_governor");
    let Some(first) = governors.first() else {
        return Finding::unknown("governor", "no frequency control (usual in a virtual machine)");
    };
    let drivers = over_policies(tree, "scaling_driver").join(", ");
    let preferences = over_policies(tree, "energy_performance_preference");
    let mut found = format!("{} ({drivers})", governors.join(", "));
    if !preferences.is_empty() {
        found += &format!(", energy preference {}", preferences.join(", "));
    }
    // A driver that chooses for itself uses these names for both modes; the preference decides.
    let active = drivers.contains("intel_pstate") || drivers.contains("epp");
    let fast = |p: &String| p == "performance" || p == "balance_performance";
    let fine = governors.len() == 1
        && (first == "performance"
            || (active && !preferences.is_empty() && preferences.iter().all(fast)));
    match fine {
        true => Finding::ok("governor", found),
        false => Finding::warn("governor", found, "`sudo cpupower frequency-set -g performance`"),
    }
}

/// Whether the frequency is capped below the processor's maximum.
pub fn frequency_limits(tree: &Tree) -> Finding {
    let ghz = |khz: u64| format!("{} GHz", text(khz as f64 / 1e6, Form::Fixed(2)));
    let policies = tree.list(CPUFREQ, "policy");
    let limits = policies.iter().filter_map(|p| {
        let of = |file: &str| tree.number(&format!("{p}/{file}"));
        Some((of("scaling_min_freq"), of("scaling_max_freq")?, of("cpuinfo_max_freq")?))
    });
    let limits: Vec<_> = limits.collect();
    let Some(&(low, high, _)) = limits.iter().min_by_key(|l| l.1) else {
        return Finding::unknown("frequency limits", "not reported");
    };
    let low = low.map_or("?".into(), ghz);
    let found = format!("{low} to {}", ghz(high));
    match limits.iter().find(|(_, scaling, possible)| scaling < possible) {
        None => Finding::ok("frequency limits", found),
        Some((_, _, possible)) => {
            let found = format!("{found} where the processor can do {}", ghz(*possible));
            let advice = format!("`sudo cpupower frequency-set -u {possible}kHz`");
            Finding::warn("frequency limits", found, advice)
        }
    }
}

/// Turbo is fast, but its clock follows temperature and the neighbours' load.
pub fn boost(tree: &Tree) -> Finding {
    let no_turbo = "/sys/devices/system/cpu/intel_pstate/no_turbo";
    let per_policy = over_policies(tree, "boost");
    let (on, switch) = if let Some(off) = tree.number(no_turbo) {
        (off == 0, format!("echo 1 | sudo tee {no_turbo}"))
    } else if let Some(on) = tree.number("/sys/devices/system/cpu/cpufreq/boost") {
        (on != 0, format!("echo 0 | sudo tee {CPUFREQ}/boost"))
    } else if !per_policy.is_empty() {
        (per_policy != ["0"], format!("echo 0 | sudo tee {CPUFREQ}/policy*/boost"))
    } else {
        return Finding::unknown("boost", "no switch for turbo frequencies");
    };
    match on {
        false => Finding::ok("boost", "off: the clock is steady"),
        true => Finding::ok("boost", "on: the clock follows temperature and load")
            .advice(format!("for figures that are compared over days, switch it off: `{switch}`")),
    }
}

/// Sibling threads share their multiply units.
pub fn sibling_threads(tree: &Tree, threads: u32) -> Finding {
    let cores: std::collections::BTreeSet<String> = tree
        .list(CPU, "cpu")
        .iter()
        .filter_map(|cpu| tree.read(&format!("{cpu}/topology/thread_siblings_list")))
        .collect();
    let paired = match tree.number("/sys/devices/system/cpu/smt/active") {
        Some(active) => active != 0,
        None if cores.is_empty() => return Finding::unknown("sibling threads", "not reported"),
        None => cores.iter().any(|c| c.contains([',', '-'])),
    };
    let cores = cores.len() as u32;
    match paired {
        false => Finding::ok("sibling threads", "none: one thread a core"),
        true if threads > cores && cores > 0 => Finding::warn(
            "sibling threads",
            format!("{threads} threads on {cores} cores"),
            format!("decoding is no faster with two threads a core, and less steady: `-t {cores}`"),
        ),
        true => Finding::ok("sibling threads", format!("two a core, {cores} cores")),
    }
}

pub fn virtualization(tree: &Tree, guest: Option<&str>) -> Finding {
    let container = tree.at("/.dockerenv").exists()
        || tree.at("/run/.containerenv").exists()
        || tree.read("/run/systemd/container").is_some();
    let vendor = tree.read("/sys/class/dmi/id/sys_vendor");
    let inside = if container { ", in a container" } else { "" };
    let Some(kind) = guest else {
        return Finding::ok("virtualization", format!("none{inside}"));
    };
    // Without a vendor we only know that it is a guest.
    let vendor = vendor.filter(|v| !v.is_empty());
    let vendor = vendor.or((kind != "virtual machine").then(|| kind.to_owned()));
    let vendor = vendor.map_or(String::new(), |v| format!(" ({v})"));
    Finding::warn(
        "virtualization",
        format!("a virtual machine{vendor}{inside}"),
        "other guests may share cores, caches and memory: compare only within a session, \
         interleaved, or use a dedicated host",
    )
}

/// Large pages for the weights of engines that copy them.
pub fn huge_pages(tree: &Tree) -> Finding {
    let Some(text) = tree.read("/sys/kernel/mm/transparent_hugepage/enabled") else {
        return Finding::unknown("large pages", "not reported");
    };
    let chosen = text.split('[').nth(1).and_then(|t| t.split(']').next()).unwrap_or(&text);
    let found = format!("transparent huge pages: {chosen}");
    match chosen {
        "always" | "madvise" => Finding::ok("large pages", found),
        _ => Finding::warn(
            "large pages",
            found,
            "reading weights costs more page-table walks: \
             `echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled`",
        ),
    }
}

pub fn clock(tree: &Tree, overhead_ns: Option<f64>) -> Finding {
    let source = tree.read("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let Some(overhead) = overhead_ns else {
        return Finding::unknown("clock", source.unwrap_or_else(|| "not reported".into()));
    };
    let named = source.as_deref().map_or(String::new(), |s| format!("{s}, "));
    let found = format!("{named}{overhead:.0} ns a reading");
    match overhead < 1000.0 {
        true => Finding::ok("clock", found),
        false => Finding::warn(
            "clock",
            found,
            "each reading is a system call: boot with clocksource=tsc if the processor's is stable",
        ),
    }
}

pub fn numa(tree: &Tree) -> Finding {
    let nodes = tree.list("/sys/devices/system/node", "node").len();
    match nodes {
        0 => Finding::unknown("memory nodes", "not reported"),
        1 => Finding::ok("memory nodes", "1"),
        n => {
            let moves = tree.number("/proc/sys/kernel/numa_balancing") == Some(1);
            let balancing = if moves { ", and the kernel moves pages between them" } else { "" };
            Finding::warn(
                "memory nodes",
                format!("{n}{balancing}"),
                "speed depends on where pages lie: `numactl --cpunodebind=0 --membind=0 llm-bench …`",
            )
        }
    }
}

/// Whether the processor's energy can be read.
pub fn energy(tree: &Tree) -> Finding {
    let packages = tree.list(POWERCAP, "intel-rapl:").into_iter();
    let packages = packages.filter(|folder| {
        tree.read(&format!("{folder}/name")).is_some_and(|name| name.starts_with("package"))
    });
    let counters: Vec<String> = packages.map(|folder| format!("{folder}/energy_uj")).collect();
    let hidden: Vec<&str> =
        counters.iter().filter(|c| tree.number(c).is_none()).map(String::as_str).collect();
    match (counters.len(), hidden.len()) {
        (0, _) => Finding::unknown("energy", "no counter (RAPL; usual in a virtual machine)"),
        (n, 0) => Finding::ok("energy", format!("RAPL, {}", count(n, "package"))),
        _ => Finding::unknown("energy", "this user may not read the processor's counter (RAPL)")
            .advice(format!(
                "`sudo chmod a+r {}` until the next boot; it lets every program guess at what \
                 others compute, so only where those are yours",
                hidden.join(" ")
            )),
    }
}
