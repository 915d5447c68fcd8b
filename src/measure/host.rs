//! Identifies the machine and the build, which a number needs to be comparable.

use std::time::Instant;

use crate::allowance;
use crate::record::{Build, Gpu, Host};
use crate::sensors::nvml::Library;
use crate::units::Bytes;

/// Reads the machine. Bandwidth is measured separately (`bandwidth`).
pub fn host() -> Host {
    let ram = sysinfo::System::new().map(|mut system| {
        system.refresh_memory();
        system.total_memory()
    });
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|l| l.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_string())
    };
    let threads = available_threads();
    Host {
        os: sysinfo::System::long_os_version().unwrap_or_else(|_| std::env::consts::OS.into()),
        kernel: sysinfo::System::kernel_version().unwrap_or_default(),
        cpu_model: field("model name").unwrap_or_else(|| std::env::consts::ARCH.into()),
        cpu_id: cpu_id(&field),
        cpu_caches: cpu_caches(),
        cores: sysinfo::System::physical_core_count().map_or(threads, |n| n as u32),
        threads,
        isa: crate::cpu::features().names().into_iter().map(str::to_string).collect(),
        ram_bytes: ram.unwrap_or_default(),
        governor: std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
            .ok()
            .map(|g| g.trim().to_string()),
        virtualization: field("flags")
            .filter(|flags| flags.split_whitespace().any(|f| f == "hypervisor"))
            .map(|_| field("hypervisor").unwrap_or_else(|| "virtual machine".into())),
        processor_quota: allowance::processor_quota(&allowance::Tree::new("/")),
        gpu: gpus(),
        load_average_1m: crate::sensors::clocks::load_average_1m(),
        timer_overhead_ns: Some(timer_overhead_ns()),
        ..Host::default()
    }
}

/// Vendor, family, model and stepping, as /proc/cpuinfo names them.
fn cpu_id(field: &impl Fn(&str) -> Option<String>) -> Option<String> {
    let vendor = field("vendor_id").or_else(|| field("CPU implementer"))?;
    let first = |names: [&str; 2]| names.into_iter().find_map(field);
    let family = first(["cpu family", "CPU architecture"])?;
    let model = first(["model\t\t:", "CPU part"])?;
    let stepping = first(["stepping", "CPU revision"])?;
    Some(format!("{vendor} family {family} model {model} stepping {stepping}"))
}

/// Data and unified caches of the first processor, by level.
fn cpu_caches() -> Option<String> {
    let mut caches = Vec::new();
    for index in 0..8 {
        let read = |name: &str| {
            let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{name}");
            std::fs::read_to_string(path).ok().map(|text| text.trim().to_string())
        };
        let (Some(kind), Some(level), Some(size)) = (read("type"), read("level"), read("size"))
        else {
            continue;
        };
        match kind.as_str() {
            "Data" => caches.push(format!("L{level}d {size}")),
            "Unified" => caches.push(format!("L{level} {size}")),
            _ => {}
        }
    }
    (!caches.is_empty()).then(|| caches.join(", "))
}

/// Processors that this process may use.
pub fn available_threads() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as u32)
}

/// Memory available without swapping; `None` if the system does not report it.
pub fn available_memory() -> Option<Bytes> {
    let mut system = sysinfo::System::new().ok()?;
    system.refresh_memory();
    Some(Bytes(system.available_memory())).filter(|b| b.0 > 0)
}

/// The sources and settings of this build.
pub fn build() -> Build {
    let flag = |v: Option<&str>| v.map(|v| v == "true");
    Build {
        version: env!("CARGO_PKG_VERSION").into(),
        git_commit: option_env!("LLM_BENCH_GIT_COMMIT").map(str::to_string),
        git_dirty: flag(option_env!("LLM_BENCH_GIT_DIRTY")),
        executable_sha256: None,
        features: Vec::new(),
        target_cpu: env!("LLM_BENCH_TARGET_CPU").into(),
        profile: env!("LLM_BENCH_PROFILE").into(),
    }
}

/// GPUs as NVML reports them; none without its library.
fn gpus() -> Vec<Gpu> {
    Library::for_a_look().map_or_else(|_| Vec::new(), |library| library.cards())
}

/// Median cost of reading the clock, in nanoseconds.
fn timer_overhead_ns() -> f64 {
    let mut costs: Vec<f64> = (0..200)
        .map(|_| {
            let t = Instant::now();
            for _ in 0..10 {
                std::hint::black_box(crate::units::MonoNs::now());
            }
            t.elapsed().as_nanos() as f64 / 10.0
        })
        .collect();
    costs.sort_by(f64::total_cmp);
    costs[costs.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_has_a_processor_memory_and_a_clock() {
        let h = host();
        assert!(h.threads >= 1 && h.ram_bytes > 1 << 20 && !h.cpu_model.is_empty(), "{h:?}");
        assert!(h.timer_overhead_ns.unwrap() < 1e6);
    }

    #[test]
    fn the_build_knows_its_processor_target() {
        assert!(!build().target_cpu.is_empty());
    }
}
