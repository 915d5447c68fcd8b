//! The sensor on a fake library: what each kind of card and driver leaves in a launch's record.

use super::fake::Fake;
use super::*;
use crate::record::{Energy, GpuMemoryHow};
use crate::sensors::nvml::Library;

fn ms(ms: u64) -> MonoNs {
    MonoNs(ms * 1_000_000)
}

/// A launch with one window of `window`, during which this process holds the card; its number is
/// `pid` for the driver.
fn launched(fake: &Fake, pid: u32, window: Duration) -> Launch {
    let mut sensor = GpuCard::over(Ok(fake.card()), Duration::from_millis(2));
    sensor.patience = Duration::from_millis(200);
    sensor.begin();
    sensor.process(Pid(std::process::id()));
    fake.held_by(pid);
    sensor.mark(Mark::Loaded, MonoNs::now());
    std::thread::sleep(Duration::from_millis(30));
    let submit = MonoNs::now();
    std::thread::sleep(Duration::from_millis(20));
    let begin = MonoNs::now();
    std::thread::sleep(window);
    let end = MonoNs::now();
    sensor.mark(Mark::Submit, submit);
    sensor.mark(Mark::WindowBegin, begin);
    sensor.mark(Mark::WindowEnd, end);
    sensor.mark(Mark::Finished, MonoNs::now());
    let mut launch = Launch::new((0, 0), String::new());
    Box::new(sensor).end(&mut launch);
    launch
}

fn of_this_process(state: &[&str], window_ms: u64) -> Launch {
    launched(&Fake::of(state), std::process::id(), Duration::from_millis(window_ms))
}

fn state(launch: &Launch) -> &GpuState {
    launch.environment.gpu.as_ref().unwrap()
}

#[test]
fn a_card_that_reports_everything_is_read_over_exactly_the_window() {
    let launch = of_this_process(&[], 150);
    let Energy { joules, seconds, request_joules, request_seconds, .. } =
        *launch.gpu_energy.as_ref().unwrap_or_else(|| panic!("{:?}", state(&launch)));
    // 100 W. A step of 1 J may be seen late at either edge.
    assert!((joules - 100.0 * seconds).abs() < 2.0, "{:?}", launch.gpu_energy);
    let (joules, seconds) = (request_joules.unwrap(), request_seconds.unwrap());
    assert!((joules - 100.0 * seconds).abs() < 2.0, "{:?}", launch.gpu_energy);
    assert_eq!(launch.energy, None, "the processor's energy is apart");

    let memory = launch.memory.gpu.as_ref().unwrap();
    assert_eq!((memory.peak_bytes, memory.how), (Some(2_000_000_000), Some(GpuMemoryHow::Process)));
    assert_eq!(memory.device_before_bytes, Some(1_000_000_000));
    assert_eq!(memory.device_peak_bytes, Some(3_000_000_000));

    let gpu = state(&launch);
    assert!(gpu.readings > 5 && gpu.reading_s.unwrap() > 0.0, "{gpu:?}");
    let median = |spread: Option<crate::record::Spread>| spread.unwrap().median;
    assert_eq!(median(gpu.sm_clock_mhz), 1980.0);
    assert_eq!(median(gpu.memory_clock_mhz), 2619.0);
    assert_eq!(median(gpu.temperature_c), 41.0);
    assert_eq!(median(gpu.power_w), 100.0);
    assert_eq!(median(gpu.utilization), 0.97);
    assert_eq!((gpu.idle_power_w, gpu.other_processes), (Some(100.0), Some(0)));
    assert_eq!((gpu.mig, gpu.waited_s), (Some(false), None));
    assert!(gpu.throttled_s.is_empty() && gpu.unread.is_empty(), "{gpu:?}");
}

#[test]
fn without_memory_by_process_the_rise_of_the_whole_card_stands_for_it() {
    let rise = (Some(2_000_000_000), Some(GpuMemoryHow::Device));
    for state in ["PROCESS_MEMORY=0", "PROCESSES=3", "PROCESSES=4"] {
        let launch = of_this_process(&[state], 10);
        let memory = launch.memory.gpu.as_ref().unwrap();
        assert_eq!((memory.peak_bytes, memory.how), rise, "{state}");
        let said = self::state(&launch).unread.contains_key("memory by process");
        assert_eq!(said, state != "PROCESS_MEMORY=0", "{state}");
    }
    // In a container the driver numbers processes otherwise.
    let launch = launched(&Fake::of(&[]), 1, Duration::from_millis(10));
    let memory = launch.memory.gpu.as_ref().unwrap();
    assert_eq!((memory.peak_bytes, memory.how), rise);
}

#[test]
fn what_others_hold_of_the_card_is_not_the_engines() {
    let launch = of_this_process(&["OTHER=1"], 10);
    assert_eq!(state(&launch).other_processes, Some(1));
    assert_eq!(launch.memory.gpu.unwrap().peak_bytes, Some(2_000_000_000));
}

#[test]
fn a_card_without_an_energy_counter_says_so() {
    let launch = of_this_process(&["ENERGY=3"], 20);
    assert_eq!(launch.gpu_energy, None);
    assert!(state(&launch).unread["energy"].contains("not available"), "{launch:?}");
    assert_eq!(state(&launch).power_w.unwrap().median, 100.0, "the rest is read");
}

#[test]
fn a_split_card_is_marked() {
    assert_eq!(state(&of_this_process(&["MIG=1"], 10)).mig, Some(true));
}

#[test]
fn without_permission_every_quantity_is_absent_with_its_reason() {
    let launch = of_this_process(&["ALL=4"], 10);
    let gpu = state(&launch);
    for name in ["energy", "power", "SM clock", "temperature", "utilization", "throttle reasons"] {
        assert!(gpu.unread[name].contains("permission"), "{name}: {gpu:?}");
    }
    assert_eq!((gpu.sm_clock_mhz, gpu.power_w, gpu.idle_power_w), (None, None, None));
    assert_eq!(launch.gpu_energy, None);
}

#[test]
fn a_throttled_card_is_waited_for_and_its_seconds_are_counted_by_reason() {
    // A hardware slowdown that passes, beside a power cap that resting does not end.
    let launch = of_this_process(&["THROTTLE=0x4|0x8", "THROTTLE_MS=50"], 10);
    assert!(state(&launch).waited_s.unwrap() > 0.0, "{launch:?}");
    assert!(state(&launch).throttled_s.is_empty());

    let launch = of_this_process(&["THROTTLE=0x4"], 50);
    let gpu = state(&launch);
    assert_eq!(gpu.waited_s, None, "a power cap does not pass by waiting");
    let window = launch.gpu_energy.as_ref().map_or(0.05, |e| e.seconds);
    let capped = gpu.throttled_s["power_cap"];
    assert!(capped > 0.0 && capped <= window * 1.5, "{gpu:?}");
    assert_eq!(gpu.throttled_s.len(), 1);

    // At 41 °C: far from its limit, or its limit is no temperature.
    for limit in ["SLOWDOWN=90", "SLOWDOWN=2", "SLOWDOWN=0"] {
        assert_eq!(state(&of_this_process(&[limit], 5)).waited_s, None, "{limit}");
    }
    let hot = of_this_process(&["SLOWDOWN=60", "TEMPERATURE=52"], 5);
    assert!(state(&hot).waited_s.is_some());

    // It lasts, so the wait ends by its bound.
    let launch = of_this_process(&["THROTTLE=0x40"], 50);
    let gpu = state(&launch);
    assert!(gpu.waited_s.unwrap() >= 0.2 && gpu.throttled_s.contains_key("hw_thermal"), "{gpu:?}");
}

#[test]
fn a_card_that_is_not_there_is_named_with_those_that_are() {
    let card = |fake: &Fake, index| fake.library().unwrap().card(index).err().unwrap().to_string();
    let two = card(&Fake::of(&["COUNT=2"]), 2);
    assert!(two.contains("cuda:0 NVIDIA FAKE100, cuda:1 NVIDIA FAKE100"), "{two}");
    assert!(card(&Fake::of(&["COUNT=0"]), 0).contains("the driver lists none"));
    let init = |state| Fake::of(&[state]).library().err().unwrap();
    assert_eq!(init("INIT=9"), Missing::Driver);
    assert!(matches!(init("INIT=4"), Missing::Answer(why) if why.contains("permission")));
    let absent = Library::open(Some("/no/such/libnvidia-ml.so".as_ref())).err().unwrap();
    assert!(matches!(absent, Missing::Library(_)));

    let sensor = GpuCard::over(Err("no such card".into()), PERIOD);
    let mut launch = Launch::new((0, 0), String::new());
    Box::new(sensor).end(&mut launch);
    assert_eq!(state(&launch).unread["card"], "no such card");
}

/// Readings every 20 ms of a counter that moves every `step` ms: 100 W until one second, then
/// 300 W. The power is read too.
fn readings(step: u64, counter: bool) -> Vec<Reading> {
    let energy = |t: u64| {
        let t = t / step * step;
        100 * t.min(1000) + 300 * t.saturating_sub(1000)
    };
    let one = |t: u64| Reading {
        whole: true,
        energy: counter.then(|| (ms(t), energy(t))),
        power_mw: Some(if t <= 1000 { 100_000 } else { 300_000 }),
        ..Reading::nothing(ms(t))
    };
    (0..500).map(|i| one(7 + 20 * i)).collect()
}

fn windows(measured: &[(u64, u64)]) -> Windows {
    let measured = measured.iter().map(|(from, to)| (ms(*from), ms(*to))).collect();
    Windows { measured, ..Windows::default() }
}

#[test]
fn a_window_with_five_steps_of_a_slow_counter_has_its_energy_within_a_tenth() {
    let readings = readings(100, true);
    // One that begins where the power changes, and its neighbours by the phase of the counter.
    for from in (1000..1100).step_by(7) {
        let energy = energy::of(&readings, &windows(&[(from, from + 520)])).unwrap();
        assert!((energy.joules / (0.52 * 300.0) - 1.0).abs() < 0.1, "{from}: {energy:?}");
        assert!(energy.steps >= 5 && (energy.resolution_s.unwrap() - 0.1).abs() < 0.01);
    }
    let steady = energy::of(&readings, &windows(&[(1500, 3500), (4000, 6000)])).unwrap();
    assert!((steady.joules / 1200.0 - 1.0).abs() < 0.01 && steady.steps == 40, "{steady:?}");
}

#[test]
fn a_window_with_fewer_steps_has_no_energy_and_the_reason_says_how_long_it_must_be() {
    let readings = readings(100, true);
    for measured in [&[(1500, 1900)][..], &[(1500, 3500), (4000, 4300)]] {
        let why = energy::of(&readings, &windows(measured)).unwrap_err();
        assert!(why.contains("every 100 ms") && why.contains("500 ms or more"), "{why}");
    }
    assert!(energy::of(&readings, &windows(&[(9000, 20_000)])).is_err(), "beyond the readings");
    assert!(energy::of(&readings, &windows(&[])).is_err());
    assert!(energy::of(&[], &windows(&[(0, 1000)])).is_err());
}

#[test]
fn without_a_counter_power_is_summed_up_over_windows_of_seconds_only() {
    let readings = readings(100, false);
    let energy = energy::of(&readings, &windows(&[(500, 3500)])).unwrap();
    assert!((energy.joules / (50.0 + 750.0) - 1.0).abs() < 0.01, "{energy:?}");
    assert!(energy.source.contains("power readings"), "{energy:?}");
    let why = energy::of(&readings, &windows(&[(500, 2400)])).unwrap_err();
    assert!(why.contains("no energy counter") && why.contains("2.00 s or more"), "{why}");
}
