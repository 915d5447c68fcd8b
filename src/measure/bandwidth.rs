//! Measured read bandwidth: the ceiling of decoding on a machine whose weights do not fit in
//! its caches.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

use crate::units::{Bytes, BytesPerSecond};

/// A reading and how it was taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Bandwidth {
    pub rate: BytesPerSecond,
    pub method: String,
}

const PASSES: usize = 12;

/// Reads a private buffer of `size` with `threads` threads, several times over, and takes the
/// fastest pass: a ceiling is what the machine can do, and other work only lowers it. Each
/// thread adds up its own part with wide independent sums, so that memory is the limit.
pub fn measure(threads: u32, size: Bytes) -> Bandwidth {
    let threads = threads.max(1) as usize;
    let words = (size.0 as usize / 8 / threads).max(64) * threads;
    // Written once: pages that were never touched would all be the same zero page.
    let mut buffer = vec![0u64; words];
    let part = words / threads;
    std::thread::scope(|s| {
        for (i, chunk) in buffer.chunks_mut(part).enumerate() {
            s.spawn(move || chunk.iter_mut().enumerate().for_each(|(j, w)| *w = (i ^ j) as u64));
        }
    });

    let (start, end) = (Barrier::new(threads + 1), Barrier::new(threads + 1));
    let mut best = f64::INFINITY;
    std::thread::scope(|s| {
        for chunk in buffer.chunks(part) {
            let (start, end) = (&start, &end);
            s.spawn(move || {
                for _ in 0..PASSES {
                    start.wait();
                    black_box(sum(black_box(chunk)));
                    end.wait();
                }
            });
        }
        for _ in 0..PASSES {
            start.wait();
            let t = Instant::now();
            end.wait();
            best = best.min(t.elapsed().as_secs_f64());
        }
    });
    let read = (words * 8) as u64;
    Bandwidth {
        rate: BytesPerSecond(read as f64 / best),
        method: format!("best of {PASSES} reads of {} with {threads} threads", Bytes(read)),
    }
}

/// 64 independent sums: enough loads in flight for any vector width.
fn sum(words: &[u64]) -> u64 {
    let mut sums = [0u64; 64];
    let chunks = words.chunks_exact(64);
    let rest: u64 = chunks.remainder().iter().fold(0, |a, b| a.wrapping_add(*b));
    for chunk in chunks {
        for (s, w) in sums.iter_mut().zip(chunk) {
            *s = s.wrapping_add(*w);
        }
    }
    sums.iter().fold(rest, |a, b| a.wrapping_add(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_reads_every_word() {
        let words: Vec<u64> = (0..1000).collect();
        assert_eq!(sum(&words), 999 * 500);
    }

    #[test]
    fn a_reading_is_positive_and_says_how_it_was_taken() {
        let b = measure(2, Bytes(1 << 20));
        assert!(b.rate.0 > 0.0 && b.method.contains("2 threads"), "{b:?}");
    }
}
