//! Measured read bandwidth: the ceiling of decoding on a machine whose weights do not fit in
//! its caches.

use std::hint::black_box;
use std::sync::Barrier;

use anyhow::{Context, Result};
use memmap2::MmapMut;

use crate::units::{Bytes, BytesPerSecond, MonoNs};

/// A reading and how it was taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Bandwidth {
    pub rate: BytesPerSecond,
    pub method: String,
}

const PASSES: usize = 16;

/// In how many places at once a thread reads. One stream leaves a hardware prefetcher waiting at
/// each page border; several keep it busy. Which is best differs between machines, so all are
/// tried.
const STREAMS: [usize; 4] = [1, 2, 4, 8];

/// Bytes that a stream reads before the next one is served.
const LINE: usize = 256;

/// Reads a private buffer of `size` with `threads` threads, many times over, and takes the
/// fastest pass: a ceiling is what the machine can do, and other work only lowers it. Each
/// thread adds up its own part with wide independent sums, so that memory is the limit.
pub fn measure(threads: u32, size: Bytes) -> Result<Bandwidth> {
    let threads = threads.max(1) as usize;
    let unit = LINE * STREAMS[STREAMS.len() - 1];
    let part = (size.0 as usize / threads).max(unit).next_multiple_of(unit);
    let what =
        || format!("cannot allocate {} to measure bandwidth", Bytes((part * threads) as u64));
    let mut buffer = MmapMut::map_anon(part * threads).with_context(what)?;
    // Large pages where they can be had: the ceiling should not be that of the page tables.
    #[cfg(target_os = "linux")]
    let _ = buffer.advise(memmap2::Advice::HugePage);
    // Written once: pages that were never touched would all be the same zero page.
    std::thread::scope(|s| {
        for (i, chunk) in buffer.chunks_mut(part).enumerate() {
            s.spawn(move || chunk.iter_mut().enumerate().for_each(|(j, b)| *b = (i ^ j) as u8));
        }
    });
    let best = STREAMS
        .iter()
        .map(|streams| fastest_pass(&buffer, part, threads, *streams))
        .fold(f64::INFINITY, f64::min);
    let read = buffer.len() as u64;
    Ok(Bandwidth {
        rate: BytesPerSecond(read as f64 / best),
        method: format!(
            "best of {} reads of {} with {threads} threads, in 1 to 8 streams each",
            PASSES * STREAMS.len(),
            Bytes(read)
        ),
    })
}

/// Seconds of the fastest pass over the buffer, `part` bytes a thread.
fn fastest_pass(buffer: &[u8], part: usize, threads: usize, streams: usize) -> f64 {
    // Each reader takes its own times: a thread that only looked on would need a processor too,
    // and on a machine without a spare one it would start its clock late.
    let start = Barrier::new(threads);
    let passes: Vec<Vec<(MonoNs, MonoNs)>> = std::thread::scope(|s| {
        let readers: Vec<_> = buffer
            .chunks(part)
            .map(|chunk| {
                let start = &start;
                let one_pass = move || {
                    start.wait();
                    let begin = MonoNs::now();
                    black_box(sum(black_box(chunk), streams));
                    (begin, MonoNs::now())
                };
                s.spawn(move || (0..PASSES).map(|_| one_pass()).collect())
            })
            .collect();
        readers.into_iter().map(|r| r.join().expect("a reader only reads")).collect()
    });
    (0..PASSES)
        .map(|pass| {
            let begin = passes.iter().map(|p| p[pass].0).min().expect("at least one reader");
            let end = passes.iter().map(|p| p[pass].1).max().expect("at least one reader");
            end.since(begin).0
        })
        .fold(f64::INFINITY, f64::min)
}

/// Adds up all 8-byte words, in `streams` places in turn. Sums that do not wait for each other
/// keep enough loads in flight for any vector width. `bytes` is a multiple of `LINE · streams`.
fn sum(bytes: &[u8], streams: usize) -> u64 {
    let stride = bytes.len() / streams;
    let mut sums = [0u64; LINE / 8];
    for at in (0..stride).step_by(LINE) {
        for stream in 0..streams {
            let line = &bytes[stream * stride + at..][..LINE];
            for (sum, word) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
                *sum = sum.wrapping_add(u64::from_ne_bytes(*word));
            }
        }
    }
    sums.iter().fold(0, |a, b| a.wrapping_add(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_reads_every_word_in_any_number_of_streams() {
        let words: Vec<u64> = (0..8 * LINE as u64).map(|i| i * i).collect();
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        for streams in STREAMS {
            assert_eq!(sum(&bytes, streams), words.iter().sum::<u64>());
        }
    }

    #[test]
    fn a_reading_is_positive_and_says_how_it_was_taken() {
        let b = measure(2, Bytes(1 << 20)).unwrap();
        assert!(b.rate.0 > 0.0 && b.method.contains("2 threads"), "{b:?}");
    }
}
