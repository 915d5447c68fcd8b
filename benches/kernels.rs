//! Measures the candle engine's kernels against the machine's ceilings: GB/s of one token's
//! products with the share of the read bandwidth, and GMAC/s of many tokens' products with the
//! share of the peak arithmetic. Every figure is the median of rounds in which ceiling and kernels
//! take turns.
//!
//!     cargo bench --bench kernels                      everything, some minutes
//!     cargo bench --bench kernels -- decode q4_0       what matches both words
//!     cargo bench --bench kernels -- batch q4_0        a few tokens at once: both figures
//!     THREADS=1 ROUNDS=5 cargo bench --bench kernels
//!     ISA=avx2 cargo bench --bench kernels             other kernels than the best
//!     MIB=1 cargo bench --bench kernels -- decode      matrices that stay in the cache: what the
//!                                                      kernels could do with a faster memory

use std::time::Instant;

use llm_bench::measure::arithmetic;
use llm_bench::sensors::bandwidth::Reader;
use llm_bench::units::Bytes;
use llm_bench::worker::bench::{Attention, Kernels, Products};

/// Larger than the last-level caches of the machines that this is meant for.
const WEIGHTS: usize = 256 << 20;
const COLUMNS: usize = 2048;
const ROWS: usize = 2048;
/// The least that one timing of a decode product reads.
const READ: usize = 3 * WEIGHTS;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let number = |name: &str, default: usize| {
        std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
    };
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let (threads, rounds) = (number("THREADS", cores), number("ROUNDS", 9));
    let weights = number("MIB", WEIGHTS >> 20) << 20;
    let wanted = |name: &str| words.iter().all(|word| name.contains(word.as_str()));
    let isa = std::env::var("ISA").ok();
    let kernels = match Kernels::named(isa.as_deref()) {
        Ok(kernels) => kernels,
        Err(message) => {
            eprintln!("ISA: {message}");
            std::process::exit(2);
        }
    };
    println!("kernels {} · {threads} threads · median of {rounds} rounds", kernels.name());

    let encodings = ["q4_0", "q4_k", "q6_k", "q8_0", "f16", "bf16"];
    for encoding in encodings {
        let name = format!("decode {encoding}");
        if wanted(&name) {
            let row = Products::new(kernels, encoding, [1, COLUMNS], 1, 1, 1).bytes();
            let rows = (weights / row).min(ROWS);
            let n = (weights / row / rows).max(1);
            let mut all = Products::new(kernels, encoding, [rows, COLUMNS], n, 1, threads);
            memory(&name, threads, rounds, all.bytes(), || all.run());
        }
    }
    for depth in [512, 2048, 8192] {
        let name = format!("decode attention {depth}");
        if wanted(&name) {
            let mut attention = Attention::new(kernels, depth, 1, threads);
            memory(&name, threads, rounds, attention.bytes(), || attention.run());
        }
    }
    for encoding in encodings {
        for tokens in [2, 4, 8, 12, 16, 32] {
            let name = format!("batch {encoding} {tokens}");
            if wanted(&name) {
                let row = Products::new(kernels, encoding, [1, COLUMNS], 1, 1, 1).bytes();
                let n = (weights / row / ROWS).max(1);
                let mut all = Products::new(kernels, encoding, [ROWS, COLUMNS], n, tokens, threads);
                all.run();
                let times = (0..rounds).map(|_| seconds(|| all.run())).collect();
                let (time, bytes, macs) = (median(times), all.bytes() as f64, all.macs() as f64);
                let (memory, arithmetic) = (bytes / time * 1e-9, macs / time * 1e-9);
                println!("{name:24} {memory:7.1} GB/s    {arithmetic:7.0} GMAC/s");
            }
        }
    }
    let prefill: Vec<(String, &str, usize)> = encodings
        .iter()
        .flat_map(|&e| [16, 512].map(|m| (format!("prefill {e} {m}"), e, m)))
        .filter(|(name, ..)| wanted(name))
        .collect();
    let attention: Vec<usize> = [0, 2048]
        .into_iter()
        .filter(|depth| wanted(&format!("prefill attention {depth}")))
        .collect();
    if prefill.is_empty() && attention.is_empty() {
        return;
    }
    let peaks = arithmetic::measure(threads as u32).expect("as many threads");
    let peak = |format: &str| {
        let found = peaks.iter().find(|p| p.format.name() == format);
        found.map_or(f64::NAN, |p| p.rate.0)
    };
    for (name, encoding, tokens) in prefill {
        let mut products = Products::new(kernels, encoding, [2048, COLUMNS], 4, tokens, threads);
        let format = if encoding.ends_with("16") { "f32" } else { "int8" };
        arithmetic_share(&name, rounds, products.macs(), format, peak(format), || products.run());
    }
    for depth in attention {
        let mut attention = Attention::new(kernels, depth, 256, threads);
        let name = format!("prefill attention {depth}");
        arithmetic_share(&name, rounds, attention.macs(), "f32", peak("f32"), || attention.run());
    }
}

fn seconds(mut work: impl FnMut()) -> f64 {
    let begin = Instant::now();
    work();
    begin.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints GB/s and the share of the plain reading rate in the same rounds.
fn memory(name: &str, threads: usize, rounds: usize, bytes: usize, mut work: impl FnMut()) {
    let reader = Reader::new(threads as u32, Bytes(WEIGHTS as u64)).expect("memory to read");
    let times = READ.div_ceil(bytes).max(3);
    work();
    let (rates, shares): (Vec<f64>, Vec<f64>) = (0..rounds)
        .map(|_| {
            let plain = || reader.sustained(3).expect("as many threads").0;
            let before = plain();
            let rate = (times * bytes) as f64 / seconds(|| (0..times).for_each(|_| work()));
            (rate, rate / (0.5 * (before + plain())))
        })
        .unzip();
    let (rate, share) = (median(rates) * 1e-9, median(shares) * 100.0);
    println!("{name:24} {rate:7.1} GB/s    {share:5.1} % of the read bandwidth");
}

/// Prints GMAC/s and the share of the peak.
fn arithmetic_share(
    name: &str,
    rounds: usize,
    macs: usize,
    format: &str,
    peak: f64,
    mut work: impl FnMut(),
) {
    work();
    let rates: Vec<f64> = (0..rounds).map(|_| macs as f64 / seconds(&mut work)).collect();
    let rate = median(rates);
    let (rate, share) = (rate * 1e-9, rate / peak * 100.0);
    println!("{name:24} {rate:7.0} GMAC/s  {share:5.1} % of the {format} peak");
}
