//! Tests of the doctor on sample trees of kernel files: laptops, servers, guests, containers.

use super::activity::{Watched, busiest, pressure, program};
use super::ceilings::{Measured, rooflines};
use super::*;
use crate::measure::arithmetic::{Format, Peak};
use crate::sensors::cpu::CpuTimes;
use crate::units::{BytesPerSecond, MacsPerSecond};

/// A tree that holds these files.
struct Sample {
    folder: tempfile::TempDir,
}

impl Sample {
    fn of(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{text}\n")).unwrap();
        }
        Self { folder }
    }

    fn tree(&self) -> Tree {
        Tree::new(self.folder.path())
    }
}

const FREQ: &str = "/sys/devices/system/cpu/cpufreq";

fn model(name: &str, gigabytes: f64) -> ModelNeed {
    let bytes = Bytes((gigabytes * 1e9) as u64);
    let format = Format::Int8;
    ModelNeed { name: name.into(), file: bytes, read_per_token: bytes, macs_per_token: 1e9, format }
}

/// State and advice of a finding.
fn state_and_advice(finding: &Finding) -> (State, String) {
    (finding.state, format!("{} {}", finding.found, finding.advice.as_deref().unwrap_or_default()))
}

#[test]
fn an_energy_counter_that_is_hidden_comes_with_the_command_that_shows_it() {
    let folder = "/sys/class/powercap/intel-rapl:0";
    let name = format!("{folder}/name");
    let counter = format!("{folder}/energy_uj");
    let none = Sample::of(&[]);
    assert_eq!(settings::energy(&none.tree()).state, State::Unknown);
    let hidden = Sample::of(&[(&name, "package-0")]);
    let (state, said) = state_and_advice(&settings::energy(&hidden.tree()));
    assert_eq!(state, State::Unknown);
    assert!(said.contains(&format!("`sudo chmod a+r {counter}`")), "{said}");
    let part = format!("{folder}:0/name");
    let files = [(name.as_str(), "package-0"), (counter.as_str(), "123"), (part.as_str(), "core")];
    let readable = settings::energy(&Sample::of(&files).tree());
    assert_eq!((readable.state, readable.found.as_str()), (State::Ok, "RAPL, 1 package"));
}

#[test]
fn a_powersave_governor_is_warned_of_with_the_command_that_changes_it() {
    let policy = |n: u32, file: &str| format!("{FREQ}/policy{n}/{file}");
    let (g0, g1, d0) =
        (policy(0, "scaling_governor"), policy(1, "scaling_governor"), policy(0, "scaling_driver"));
    let mixed = Sample::of(&[(&g0, "performance"), (&g1, "powersave"), (&d0, "acpi-cpufreq")]);
    let (state, text) = state_and_advice(&settings::governor(&mixed.tree()));
    assert!(
        state == State::Warn && text.contains("cpupower") && text.contains("powersave"),
        "{text}"
    );
    let fast = Sample::of(&[(&g0, "performance"), (&g1, "performance"), (&d0, "acpi-cpufreq")]);
    assert_eq!(settings::governor(&fast.tree()).state, State::Ok);
    let none = Sample::of(&[]);
    assert_eq!(settings::governor(&none.tree()).state, State::Unknown);
}

#[test]
fn a_driver_that_chooses_by_itself_is_judged_by_its_energy_preference() {
    let of = |driver: &str, preference: &str| {
        let sample = Sample::of(&[
            (&format!("{FREQ}/policy0/scaling_governor"), "powersave"),
            (&format!("{FREQ}/policy0/scaling_driver"), driver),
            (&format!("{FREQ}/policy0/energy_performance_preference"), preference),
        ]);
        settings::governor(&sample.tree()).state
    };
    assert_eq!(of("intel_pstate", "balance_performance"), State::Ok);
    assert_eq!(of("amd-pstate-epp", "performance"), State::Ok);
    assert_eq!(of("amd-pstate-epp", "balance_power"), State::Warn);
    assert_eq!(of("intel_pstate", "power"), State::Warn);
}

#[test]
fn a_capped_frequency_names_what_the_processor_could_do() {
    let of = |limit: &str| {
        let file = |name: &str| format!("{FREQ}/policy0/{name}");
        let sample = Sample::of(&[
            (&file("scaling_min_freq"), "400000"),
            (&file("scaling_max_freq"), limit),
            (&file("cpuinfo_max_freq"), "4700000"),
        ]);
        state_and_advice(&settings::frequency_limits(&sample.tree()))
    };
    let (state, text) = of("2000000");
    assert!(state == State::Warn && text.contains("4.70 GHz") && text.contains("2.00"), "{text}");
    assert_eq!(of("4700000").0, State::Ok);
}

#[test]
fn boost_is_found_with_each_driver() {
    let of = |path: &str, value: &str| settings::boost(&Sample::of(&[(path, value)]).tree()).found;
    let intel = "/sys/devices/system/cpu/intel_pstate/no_turbo";
    assert!(of(intel, "0").starts_with("on"));
    assert!(of(intel, "1").starts_with("off"));
    assert!(of(&format!("{FREQ}/boost"), "1").starts_with("on"));
    assert!(of(&format!("{FREQ}/policy0/boost"), "0").starts_with("off"));
    assert_eq!(settings::boost(&Sample::of(&[]).tree()).state, State::Unknown);
}

#[test]
fn more_threads_than_cores_are_warned_of() {
    let cpu = |n: u32| format!("/sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list");
    let (c0, c1, c2, c3) = (cpu(0), cpu(1), cpu(2), cpu(3));
    let sample = Sample::of(&[
        ("/sys/devices/system/cpu/smt/active", "1"),
        (&c0, "0,2"),
        (&c1, "1,3"),
        (&c2, "0,2"),
        (&c3, "1,3"),
    ]);
    let (state, text) = state_and_advice(&settings::sibling_threads(&sample.tree(), 4));
    assert!(state == State::Warn && text.contains("-t 2"), "{text}");
    assert_eq!(settings::sibling_threads(&sample.tree(), 2).state, State::Ok);
}

#[test]
fn limits_of_both_versions_of_control_groups_are_read_up_to_the_root() {
    let two = Sample::of(&[
        ("/proc/self/cgroup", "0::/user.slice/bench"),
        ("/sys/fs/cgroup/user.slice/cpu.max", "150000 100000"),
        ("/sys/fs/cgroup/user.slice/bench/cpu.max", "max 100000"),
        ("/sys/fs/cgroup/user.slice/bench/memory.max", "2000000000"),
        ("/sys/fs/cgroup/memory.max", "max"),
        ("/sys/fs/cgroup/user.slice/bench/cpuset.cpus.effective", "0-3"),
    ]);
    assert_eq!(limits::processor_quota(&two.tree()), Some(1.5));
    assert_eq!(limits::memory_limit(&two.tree()), Some(Bytes(2_000_000_000)));
    let (state, text) = state_and_advice(&limits::processors(&two.tree(), 4));
    assert!(state == State::Warn && text.contains("-t 1") && text.contains("0-3"), "{text}");
    let small = [model("small", 1.0)];
    assert_eq!(limits::memory(&two.tree(), &small).state, State::Ok);
    let (state, text) =
        state_and_advice(&limits::memory(&two.tree(), &[model("small", 1.0), model("big", 5.0)]));
    assert!(state == State::Warn && text.contains("big") && !text.contains("small"), "{text}");

    let one = Sample::of(&[
        ("/proc/self/cgroup", "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/"),
        // A container does not mount the host's path; its own root is the group.
        ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "400000"),
        ("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712"),
    ]);
    assert_eq!(limits::processor_quota(&one.tree()), Some(4.0));
    assert_eq!(limits::memory_limit(&one.tree()), None);
    assert_eq!(limits::processors(&one.tree(), 4).state, State::Ok);

    let free = Sample::of(&[
        ("/proc/self/cgroup", "2:cpu:/"),
        ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1"),
        ("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000"),
    ]);
    assert_eq!(limits::processor_quota(&free.tree()), None);
}

#[test]
fn free_memory_is_what_the_closest_limit_leaves() {
    let tree = Sample::of(&[
        ("/proc/self/cgroup", "0::/user.slice/bench"),
        ("/sys/fs/cgroup/user.slice/bench/memory.max", "max"),
        ("/sys/fs/cgroup/user.slice/bench/memory.current", "7"),
        ("/sys/fs/cgroup/user.slice/memory.max", "300000000"),
        ("/sys/fs/cgroup/user.slice/memory.current", "100000000"),
        ("/proc/meminfo", "MemTotal: 24000000 kB\nMemAvailable: 2000000 kB\n"),
    ]);
    assert_eq!(crate::allowance::free_memory(&tree.tree()), Some(Bytes(200_000_000)));
    let plain = Sample::of(&[("/proc/meminfo", "MemAvailable: 2000000 kB\n")]);
    assert_eq!(crate::allowance::free_memory(&plain.tree()), Some(Bytes(2_048_000_000)));
    assert_eq!(crate::allowance::free_memory(&Sample::of(&[]).tree()), None);
}

#[test]
fn memory_and_swap_are_read_from_meminfo() {
    let sample = Sample::of(&[(
        "/proc/meminfo",
        "MemTotal:       24000000 kB\nMemFree: 1 kB\nMemAvailable:    2000000 kB\n\
         SwapTotal:       4000000 kB\nSwapFree:        3000000 kB",
    )]);
    let (state, text) = state_and_advice(&limits::free_memory(&sample.tree(), &[model("m", 2.0)]));
    assert!(state == State::Warn && text.contains("2.05 GB of 24.6 GB"), "{text}");
    let (state, text) = state_and_advice(&activity::swap(&sample.tree()));
    assert!(state == State::Warn && text.contains("1.02 GB of 4.10 GB"), "{text}");
    let none = Sample::of(&[("/proc/meminfo", "SwapTotal: 0 kB\nSwapFree: 0 kB")]);
    assert_eq!(activity::swap(&none.tree()), Finding::ok("swap", "none"));
}

#[test]
fn large_pages_that_are_switched_off_are_warned_of() {
    let of = |text: &str| {
        let sample = Sample::of(&[("/sys/kernel/mm/transparent_hugepage/enabled", text)]);
        settings::huge_pages(&sample.tree())
    };
    assert_eq!(of("always [madvise] never").state, State::Ok);
    assert_eq!(of("[always] madvise never").found, "transparent huge pages: always");
    assert_eq!(of("always madvise [never]").state, State::Warn);
}

#[test]
fn the_hottest_of_all_processor_sensors_is_reported() {
    let sample = Sample::of(&[
        ("/sys/class/thermal/thermal_zone0/temp", "41000"),
        ("/sys/class/hwmon/hwmon2/name", "k10temp"),
        ("/sys/class/hwmon/hwmon2/temp1_input", "88250"),
        ("/sys/class/hwmon/hwmon3/name", "nvme"),
        ("/sys/class/hwmon/hwmon3/temp1_input", "99000"),
    ]);
    let (state, text) = state_and_advice(&activity::temperature(&sample.tree()));
    assert!(state == State::Warn && text.starts_with("88 °C"), "{text}");
    assert_eq!(activity::temperature(&Sample::of(&[]).tree()).state, State::Unknown);
}

#[test]
fn counted_throttling_is_warned_of() {
    let path = "/sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count";
    let of = |n: &str| activity::throttling(&Sample::of(&[(path, n)]).tree()).state;
    assert_eq!((of("0"), of("17")), (State::Ok, State::Warn));
}

#[test]
fn a_program_s_time_is_read_whatever_its_name() {
    let stat = "42 (a (b) c) R 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 100 0 0";
    assert_eq!(program(stat), Some(("a (b) c".into(), 300)));
    assert_eq!(program("42 (short) R 1"), None);
    assert_eq!(pressure("some avg10=96.43 avg60=92.36 total=1\nfull avg10=0.00"), Some(0.9643));
}

#[test]
fn programs_of_one_name_count_together_and_the_doctor_itself_does_not() {
    let ticks = rustix::param::clock_ticks_per_second();
    let reading = |times: [u64; 4]| {
        let names = ["cc", "cc", "doctor", "idle"];
        (1..).zip(names.map(String::from).into_iter().zip(times)).collect()
    };
    let before = reading([0, 7, 0, 9]);
    let after = reading([ticks, 7 + ticks, 5 * ticks, 9]);
    assert_eq!(busiest(&before, &after, 2.0, 3), [("cc".to_string(), 1.0)]);
}

#[test]
fn load_is_judged_by_the_rule_that_marks_a_launch_as_disturbed() {
    let shares = |busy: u64, steal: u64| {
        let idle = 100 - busy - steal;
        let zero = CpuTimes::parse("cpu 0 0 0 0 0 0 0 0").unwrap();
        let then = CpuTimes::parse(&format!("cpu {busy} 0 0 {idle} 0 0 0 {steal}")).unwrap();
        then.shares_since(zero)
    };
    let state = |busy, steal| {
        activity::load(&Watched { shares: shares(busy, steal), ..Watched::default() }).state
    };
    assert_eq!(state(4, 0), State::Ok);
    assert_eq!(state(40, 0), State::Warn);
    assert_eq!(state(0, 8), State::Warn);
    assert_eq!(activity::load(&Watched::default()).state, State::Unknown);
}

#[test]
fn every_check_answers_on_an_empty_tree() {
    let sample = Sample::of(&[]);
    let tree = sample.tree();
    for finding in [
        settings::governor(&tree),
        settings::frequency_limits(&tree),
        settings::boost(&tree),
        settings::sibling_threads(&tree, 2),
        settings::huge_pages(&tree),
        settings::numa(&tree),
        settings::clock(&tree, None),
        limits::free_memory(&tree, &[]),
        activity::swap(&tree),
        activity::temperature(&tree),
        activity::throttling(&tree),
        activity::load(&activity::watch(&tree, Duration::ZERO)),
    ] {
        assert_eq!(finding.state, State::Unknown, "{finding:?}");
        assert!(!finding.found.is_empty(), "{finding:?}");
    }
}

fn measured(bandwidths: &[f64], int8: f64) -> Measured {
    let peak = |format, rate, per_cycle, possible| Peak {
        format,
        instruction: "test",
        rate: MacsPerSecond(rate),
        apart: MacsPerSecond(rate * 1.01),
        per_cycle: Some(per_cycle),
        possible_per_cycle: Some(possible),
    };
    Measured {
        bandwidths: bandwidths.iter().map(|b| BytesPerSecond(*b)).collect(),
        peaks: vec![
            peak(Format::Int8, int8, int8 / 4e9, 128.0),
            peak(Format::F32, 100e9, 25.0, 32.0),
        ],
    }
}

#[test]
fn the_roofline_is_bandwidth_over_bytes_and_arithmetic_over_multiply_adds() {
    let m = measured(&[31e9, 32e9, 30e9], 480e9);
    let mut wide = model("wide", 2.0);
    wide.format = Format::Bf16;
    let roofs = rooflines(&m, &[model("one", 1.0), wide]);
    assert_eq!((roofs[0].decode_tps, roofs[0].prefill_tps), (32.0, 480.0));
    assert_eq!(roofs[0].balance_tokens, 15.0);
    // The processor has no bf16 instruction, so the finding uses f32 and says so.
    assert_eq!((roofs[1].prefill_tps, roofs[1].format), (100.0, Format::F32));
}

#[test]
fn a_bandwidth_that_moves_and_a_peak_that_cannot_be_are_warned_of() {
    let state = |m: &Measured, check: &str| {
        m.findings().into_iter().find(|f| f.check == check).unwrap().state
    };
    let steady = measured(&[30e9, 30.5e9, 31e9], 480e9);
    assert_eq!(state(&steady, "read bandwidth"), State::Ok);
    assert_eq!(state(&steady, "int8 arithmetic"), State::Ok);
    let moving = measured(&[30e9, 36e9, 31e9], 700e9);
    assert_eq!(state(&moving, "read bandwidth"), State::Warn);
    assert_eq!(state(&moving, "int8 arithmetic"), State::Warn);
    let mut shared = measured(&[30e9], 480e9);
    shared.peaks[1].apart = MacsPerSecond(200e9);
    assert_eq!(state(&shared, "f32 arithmetic"), State::Warn);
    assert_eq!(state(&shared, "int8 arithmetic"), State::Ok);
}
