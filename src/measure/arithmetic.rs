//! Measures peak arithmetic, the ceiling of prefill. Multiplies and adds each format in registers,
//! with the widest instruction that this processor has for it, on as many threads as the engines
//! get.

#[cfg(target_arch = "x86_64")]
mod x86;

use std::hint::black_box;
use std::io;
use std::sync::Barrier;

use serde::Serialize;

use crate::threads::together;
use crate::units::{MacsPerSecond, MonoNs};

/// The format of the factors; sums are always 32 bits wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Int8,
    Bf16,
    F32,
}

impl Format {
    pub fn name(self) -> &'static str {
        match self {
            Format::Int8 => "int8",
            Format::Bf16 => "bf16",
            Format::F32 => "f32",
        }
    }
}

/// One format's peak.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Peak {
    pub format: Format,
    /// The instruction, or `portable` for plain code as compiled.
    pub instruction: &'static str,
    #[serde(rename = "macs_per_s")]
    pub rate: MacsPerSecond,
    /// The sum of each thread's own best rate. It exceeds `rate` if threads share the units of a
    /// core or were never undisturbed at the same time.
    #[serde(rename = "apart_macs_per_s")]
    pub apart: MacsPerSecond,
    /// Multiply-adds per cycle of one thread; absent if the clock could not be measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_cycle: Option<f64>,
    /// The rate of two such instructions per cycle; no processor has more units.
    pub possible_per_cycle: Option<f64>,
}

/// Multiplies `iterations` times in registers; returns something that depends on every product.
/// # Safety
/// If the kernel uses an instruction set, this processor must have it.
type Kernel = unsafe fn(iterations: u64) -> f32;

/// A way to multiply a format here.
#[derive(Clone, Copy)]
struct Method {
    format: Format,
    instruction: &'static str,
    kernel: Kernel,
    /// Multiply-adds of one iteration.
    macs: u64,
    /// Multiply-adds of one vector instruction; `None` for plain code.
    width: Option<u64>,
}

/// Threads compute in passes of about this length and note the time after each.
const PASS_NS: u64 = 20_000;
/// How long the threads are watched.
const WATCHED_NS: u64 = 400_000_000;
/// The rate is that of the best window of this length. It is shorter than a slice of the scheduler,
/// so that even a busy machine leaves all threads undisturbed in some window.
const WINDOW_NS: u64 = 1_000_000;

/// The peaks of all formats that this processor has an instruction or plain code for, with
/// `threads` threads at once. Takes about two seconds.
///
/// # Errors
/// The system refuses the threads.
pub fn measure(threads: u32) -> io::Result<Vec<Peak>> {
    let threads = threads.max(1) as usize;
    let before = clock_hz(threads);
    let rates = methods().into_iter().map(|m| Ok((m, fastest(m.kernel, threads)?)));
    let rates = rates.collect::<io::Result<Vec<(Method, Rates)>>>()?;
    // Takes the faster clock: one that rose in between would make a peak look impossible.
    let clock = before.zip(clock_hz(threads)).map(|(before, after)| before.max(after));
    let peak = |(m, rates): (Method, Rates)| Peak {
        format: m.format,
        instruction: m.instruction,
        rate: MacsPerSecond(rates.together * m.macs as f64),
        apart: MacsPerSecond(rates.apart * m.macs as f64),
        per_cycle: clock.map(|hz| rates.together * m.macs as f64 / hz / threads as f64),
        possible_per_cycle: m.width.map(|w| 2.0 * w as f64),
    };
    Ok(rates.into_iter().map(peak).collect())
}

/// Cycles per second of a busy thread, from a chain of multiplications that each wait for the
/// previous one; `None` if their latency is not known.
pub fn clock_hz(threads: usize) -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    return Some(
        fastest(x86::multiply_chain, threads).ok()?.apart / threads as f64 * x86::CHAIN_CYCLES,
    );
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = threads;
        None
    }
}

fn methods() -> Vec<Method> {
    #[cfg(target_arch = "x86_64")]
    let found = x86::methods();
    #[cfg(not(target_arch = "x86_64"))]
    let found = Vec::new();
    let mut all: Vec<Method> = found;
    for plain in PORTABLE {
        if !all.iter().any(|m| m.format == plain.format) {
            all.push(plain);
        }
    }
    all
}

const PORTABLE: [Method; 2] = [
    Method {
        format: Format::Int8,
        instruction: "portable",
        kernel: portable_int8,
        macs: (LANES * STEPS) as u64,
        width: None,
    },
    Method {
        format: Format::F32,
        instruction: "portable",
        kernel: portable_f32,
        macs: (LANES * STEPS) as u64,
        width: None,
    },
];

const LANES: usize = 64;
const STEPS: usize = 16;

fn portable_int8(iterations: u64) -> f32 {
    let mut sums = [0i32; LANES];
    let mut a: [i8; LANES] = std::array::from_fn(|i| black_box(i as i8));
    for _ in 0..iterations {
        // Multiplies new values each time, so that the compiler cannot compute the products once.
        a = black_box(a);
        for step in 0..STEPS {
            for i in 0..LANES {
                let b = a[(i + step) % LANES];
                sums[i] = sums[i].wrapping_add(i32::from(a[i]) * i32::from(b));
            }
        }
    }
    sums.iter().fold(0i32, |s, x| s.wrapping_add(*x)) as f32
}

fn portable_f32(iterations: u64) -> f32 {
    let mut sums = [0f32; LANES];
    let a: f32 = black_box(0.999);
    let b: [f32; LANES] = std::array::from_fn(|i| black_box(i as f32));
    for _ in 0..iterations {
        for _ in 0..STEPS {
            for i in 0..LANES {
                sums[i] = sums[i] * a + b[i];
            }
        }
    }
    sums.iter().sum()
}

/// Iterations per second of all threads.
#[derive(Clone, Copy)]
struct Rates {
    /// In the window that is best for all threads together.
    together: f64,
    /// The sum of each thread's own best window.
    apart: f64,
}

/// Runs the kernel on all threads, each on its own processor if there are enough.
fn fastest(kernel: Kernel, threads: usize) -> io::Result<Rates> {
    // SAFETY: every kernel comes from `methods`, which asks the processor first.
    let run = move |iterations: u64| black_box(unsafe { kernel(black_box(iterations)) });
    let iterations = iterations_of_a_pass(&run);
    let start = Barrier::new(threads);
    let processors = processors();
    let one_thread = |i: usize| {
        if let Some(processor) = processors.get(i).filter(|_| threads <= processors.len()) {
            stay_on(*processor);
        }
        start.wait();
        let begin = MonoNs::now();
        let mut times = Vec::with_capacity((2 * WATCHED_NS / PASS_NS) as usize);
        times.push(begin);
        while times[times.len() - 1].0 - begin.0 < WATCHED_NS {
            run(iterations);
            times.push(MonoNs::now());
        }
        times
    };
    let times: Vec<Vec<MonoNs>> = together(threads, one_thread)?;
    let apart: f64 = times.chunks(1).map(best_window).sum();
    let each = iterations as f64;
    Ok(Rates { together: best_window(&times) * each, apart: apart * each })
}

/// The processors that this process may use.
#[cfg(target_os = "linux")]
fn processors() -> Vec<usize> {
    let allowed = rustix::thread::sched_getaffinity(None).ok();
    let is_allowed = |i: &usize| allowed.is_some_and(|set| set.is_set(*i));
    (0..rustix::thread::CpuSet::MAX_CPU).filter(is_allowed).collect()
}

#[cfg(not(target_os = "linux"))]
fn processors() -> Vec<usize> {
    Vec::new()
}

/// Pins the calling thread, because a scheduler may leave two on one processor for long. A thread
/// that cannot be pinned computes where it is.
#[cfg(target_os = "linux")]
fn stay_on(processor: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(processor);
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

#[cfg(not(target_os = "linux"))]
fn stay_on(_: usize) {}

/// Iterations that take about one pass on one thread: the quickest of several tries.
fn iterations_of_a_pass(run: &impl Fn(u64) -> f32) -> u64 {
    let mut iterations = 16;
    loop {
        let took = |_| {
            let begin = MonoNs::now();
            run(iterations);
            MonoNs::now().0 - begin.0
        };
        let took = (0..8).map(took).min().expect("eight tries");
        if took >= PASS_NS / 2 {
            return (iterations * PASS_NS / took).max(1);
        }
        iterations *= 2;
    }
}

/// Passes per second of all threads together, in the window with the most passes. Each thread's
/// list holds its start time and the end of each pass; a pass that crosses the border of a window
/// counts by the part inside.
fn best_window(times: &[Vec<MonoNs>]) -> f64 {
    let first = |list: &Vec<MonoNs>| list[0].0;
    let last = |list: &Vec<MonoNs>| list[list.len() - 1].0;
    let begin = times.iter().map(first).max().unwrap_or(0);
    let end = times.iter().map(last).min().unwrap_or(0);
    let passes_by = |list: &[MonoNs], at: u64| {
        let after = list.partition_point(|t| t.0 <= at).clamp(1, list.len() - 1);
        let (from, to) = (list[after - 1].0, list[after].0);
        let inside = at.saturating_sub(from) as f64 / (to - from).max(1) as f64;
        (after - 1) as f64 + inside.min(1.0)
    };
    let in_window = |at: u64| -> f64 {
        times.iter().map(|list| passes_by(list, at + WINDOW_NS) - passes_by(list, at)).sum()
    };
    let windows = (begin..end.saturating_sub(WINDOW_NS)).step_by(WINDOW_NS as usize / 4);
    windows.map(in_window).fold(0.0, f64::max) / (WINDOW_NS as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_peak_is_above_what_two_instructions_a_cycle_give() {
        let peaks = measure(1).unwrap();
        assert!(peaks.iter().any(|p| p.format == Format::F32), "{peaks:?}");
        assert!(peaks.iter().any(|p| p.format == Format::Int8), "{peaks:?}");
        for peak in &peaks {
            assert!(peak.rate.0 > 1e7, "{peak:?}");
            if let (Some(is), Some(possible)) = (peak.per_cycle, peak.possible_per_cycle) {
                assert!(is < 1.1 * possible, "{peak:?}");
            }
        }
    }

    #[test]
    fn the_best_window_is_the_one_in_which_all_threads_ran() {
        // Passes of 10 µs; each thread pauses for a while, the two at different times.
        let thread = |pause: std::ops::Range<u64>| -> Vec<MonoNs> {
            (0..=1000).map(|i| i * 10_000).filter(|t| !pause.contains(t)).map(MonoNs).collect()
        };
        let all = [thread(1_000_000..4_000_000), thread(5_000_000..9_000_000)];
        let rate = best_window(&all);
        assert!((rate / 200_000.0 - 1.0).abs() < 0.02, "{rate}");
        let one_rests = [thread(0..0), vec![MonoNs(0), MonoNs(10_000_000)]];
        let rate = best_window(&one_rests);
        assert!((rate / 100_000.0 - 1.0).abs() < 0.02, "{rate}");
    }

    #[test]
    fn every_kernel_multiplies_as_often_as_it_is_told() {
        for m in methods().into_iter().chain(PORTABLE) {
            // SAFETY: `methods` asks the processor first; the portable ones need nothing.
            let of = |iterations| unsafe { (m.kernel)(iterations) };
            assert!(
                of(40) != of(41),
                "{:?} {} does not depend on its loop",
                m.format,
                m.instruction
            );
        }
    }
}
