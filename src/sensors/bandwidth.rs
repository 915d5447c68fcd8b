//! Measures read bandwidth, the ceiling of decoding on a machine whose caches cannot hold the
//! weights.

use std::hint::black_box;
use std::sync::{Barrier, Mutex, PoisonError};

use anyhow::{Context, Result};
use memmap2::MmapMut;

use super::Sensor;
use crate::allowance;
use crate::device::Device;
use crate::record::{Host, Launch};
use crate::threads::together;
use crate::units::{Bytes, BytesPerSecond, MonoNs};

/// Reads the memory's bandwidth before and after a launch.
pub struct ReadBandwidth {
    device: Device,
    threads: u32,
    before: Option<BytesPerSecond>,
}

impl ReadBandwidth {
    /// Reads the device's memory with as many threads as the engine gets.
    pub fn of(device: Device, threads: u32) -> Self {
        Self { device, threads, before: None }
    }

    fn read(&self) -> Option<BytesPerSecond> {
        sustained(self.device, self.threads).ok().flatten()
    }
}

impl Sensor for ReadBandwidth {
    fn begin(&mut self) {
        self.before = self.read();
    }

    fn end(self: Box<Self>, launch: &mut Launch) {
        launch.environment.read_bandwidth_bytes_per_s =
            self.before.and_then(|before| Some([before.0, self.read()?.0]));
    }
}

/// A reading and how it was taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Bandwidth {
    pub rate: BytesPerSecond,
    pub method: String,
}

const PASSES: usize = 16;

/// The number of places that a thread reads at once. One stream leaves a hardware prefetcher
/// waiting at each page border; several keep it busy. The best number differs between machines, so
/// all are tried.
const STREAMS: [usize; 4] = [1, 2, 4, 8];

/// Bytes that a stream reads before the next stream's turn.
const LINE: usize = 256;

/// Reads a private buffer of `size` with `threads` threads many times and takes the fastest pass: a
/// ceiling is what the machine can do, and other work only lowers it. Each thread adds up its own
/// part with wide independent sums, so that memory is the limit.
pub fn measure(threads: u32, size: Bytes) -> Result<Bandwidth> {
    let reader = Reader::new(threads, affordable(size))?;
    let mut fastest = f64::INFINITY;
    for streams in STREAMS {
        fastest = reader.passes(streams, PASSES)?.into_iter().fold(fastest, f64::min);
    }
    Ok(Bandwidth {
        rate: reader.rate(fastest),
        method: format!(
            "best of {} reads of {} with {threads} threads, in 1 to 8 streams each",
            PASSES * STREAMS.len(),
            reader.size()
        ),
    })
}

/// Bytes per second of each of `n` readings of a private buffer of `size`, each with the number of
/// streams that was fastest in it.
pub fn repeated(threads: u32, size: Bytes, n: u32) -> Result<Vec<f64>> {
    let reader = Reader::new(threads, affordable(size))?;
    (0..n).map(|_| Ok(reader.sustained(1)?.0)).collect()
}

/// The bandwidth that memory sustains now, for as long as a generation takes and not only in its
/// best moment. It is read around each launch, because on a shared machine it moves by half within
/// minutes. A reading takes a tenth of a second, or a few tenths with a very large cache.
///
/// The buffer is kept for the next reading. Freeing it before a launch disturbed that launch on a
/// virtual machine: the first tokens, 26 ms apart, had gaps of up to 63 ms, which ended once the
/// buffer was kept. Presumably the host then works on the free memory that the machine reports.
///
/// Returns `None` for a device whose memory it cannot read: another memory's rate is no ceiling.
pub fn sustained(device: Device, threads: u32) -> Result<Option<BytesPerSecond>> {
    if device != Device::Cpu {
        return Ok(None);
    }
    const ENOUGH: u64 = 128 << 20;
    static KEPT: Mutex<Option<Reader>> = Mutex::new(None);
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    // A cyclic read of a buffer twice the size of the cache never hits the cache.
    let size = last_level_cache().map_or(ENOUGH, |cache| ENOUGH.max(2 * cache));
    let size = if kept.is_some() { Bytes(size) } else { affordable(Bytes(size)) };
    let reader = kept_or_new(kept.take(), threads, size)?;
    Ok(Some(kept.insert(reader).sustained(5)?))
}

/// As much of `size` as leaves three quarters of the free memory to others: where memory is short,
/// the kernel ends a process that takes it all.
fn affordable(size: Bytes) -> Bytes {
    let free = allowance::free_memory(&allowance::Tree::new("/"));
    free.map_or(size, |free| Bytes(size.0.min(free.0 / 4)))
}

/// The bandwidth of the device's memory in the record, read once per session.
pub fn of_session(host: &Host, device: Device) -> Option<BytesPerSecond> {
    host.read_bandwidth(device).map(BytesPerSecond)
}

/// The previous buffer, divided among the threads that read now. Launches with different numbers of
/// threads share it, so that no buffer is freed between them.
fn kept_or_new(kept: Option<Reader>, threads: u32, size: Bytes) -> Result<Reader> {
    /// Parts are rounded up, so this leaves room for any number of threads.
    const ROOM: Bytes = Bytes(2 << 20);
    let (threads, part) = divided(threads, size);
    let reader = match kept {
        Some(reader) if reader.buffer.len() >= part * threads => reader,
        _ => Reader::new(threads as u32, Bytes(size.0 + ROOM.0))?,
    };
    Ok(Reader { part, threads, ..reader })
}

/// The number of threads, and how many bytes each of them reads.
fn divided(threads: u32, size: Bytes) -> (usize, usize) {
    let threads = threads.max(1) as usize;
    let unit = LINE * STREAMS[STREAMS.len() - 1];
    (threads, (size.0 as usize / threads).max(unit).next_multiple_of(unit))
}

/// Size of the largest cache of the first processor, if the system reports it.
pub fn last_level_cache() -> Option<u64> {
    let size = |index: u32| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
        let text = std::fs::read_to_string(path).ok()?;
        Some(text.trim().strip_suffix('K')?.parse::<u64>().ok()? << 10)
    };
    (0..8).filter_map(size).max()
}

/// A buffer and the threads that read it.
pub struct Reader {
    buffer: MmapMut,
    part: usize,
    threads: usize,
}

impl Reader {
    /// A buffer of at least `size`, in memory.
    pub fn new(threads: u32, size: Bytes) -> Result<Self> {
        let (threads, part) = divided(threads, size);
        let what =
            || format!("cannot allocate {} to measure bandwidth", Bytes((part * threads) as u64));
        let mut buffer = MmapMut::map_anon(part * threads).with_context(what)?;
        // Asks for large pages, so that the page tables do not limit the ceiling.
        #[cfg(target_os = "linux")]
        let _ = buffer.advise(memmap2::Advice::HugePage);
        // Writes every page once: untouched pages would all map to the same zero page.
        // By the thread that will read it, so that it lies on that one's memory.
        let chunks: Vec<_> = buffer.chunks_mut(part).map(Mutex::new).collect();
        together(threads, |i| {
            let mut chunk = chunks[i].lock().unwrap_or_else(PoisonError::into_inner);
            chunk.iter_mut().enumerate().for_each(|(j, b)| *b = (i ^ j) as u8);
        })?;
        drop(chunks);
        Ok(Self { buffer, part, threads })
    }

    /// Bytes of a pass.
    pub fn size(&self) -> Bytes {
        Bytes((self.part * self.threads) as u64)
    }

    fn rate(&self, seconds: f64) -> BytesPerSecond {
        BytesPerSecond(self.size().0 as f64 / seconds)
    }

    /// The median rate of `passes`, with the number of streams that is fastest.
    pub fn sustained(&self, passes: usize) -> Result<BytesPerSecond> {
        let mut fastest = f64::INFINITY;
        for streams in STREAMS {
            let mut seconds = self.passes(streams, passes)?;
            seconds.sort_by(f64::total_cmp);
            fastest = fastest.min(seconds[seconds.len() / 2]);
        }
        Ok(self.rate(fastest))
    }

    /// Seconds of each of `n` passes over the buffer.
    fn passes(&self, streams: usize, n: usize) -> Result<Vec<f64>> {
        // Each reader takes its own times. A thread that only watched would need a processor too,
        // and without a spare one it would start its clock late.
        let start = Barrier::new(self.threads);
        let chunks: Vec<&[u8]> =
            self.buffer[..self.part * self.threads].chunks(self.part).collect();
        let one_pass = |chunk: &[u8]| {
            start.wait();
            let begin = MonoNs::now();
            black_box(sum(black_box(chunk), streams));
            (begin, MonoNs::now())
        };
        let passes: Vec<Vec<(MonoNs, MonoNs)>> =
            together(self.threads, |i| (0..n).map(|_| one_pass(chunks[i])).collect())?;
        Ok((0..n)
            .map(|pass| {
                let begin = passes.iter().map(|p| p[pass].0).min().expect("at least one reader");
                let end = passes.iter().map(|p| p[pass].1).max().expect("at least one reader");
                end.since(begin).0
            })
            .collect())
    }
}

/// Adds up all 8-byte words, taking `streams` places in turn. Sums that do not wait for each other
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
    use crate::record::Gpu;

    #[test]
    fn the_sum_reads_every_word_in_any_number_of_streams() {
        let words: Vec<u64> = (0..8 * LINE as u64).map(|i| i * i).collect();
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        for streams in STREAMS {
            assert_eq!(sum(&bytes, streams), words.iter().sum::<u64>());
        }
    }

    #[test]
    fn launches_with_different_numbers_of_threads_share_one_buffer() {
        let size = Bytes(1 << 16);
        let mut reader = kept_or_new(None, 2, size).unwrap();
        let at = reader.buffer.as_ptr();
        for threads in [1, 3, 2, 7] {
            reader = kept_or_new(Some(reader), threads, size).unwrap();
            assert_eq!(reader.buffer.as_ptr(), at);
            assert_eq!(reader.threads, threads as usize);
            assert!(reader.size().0 >= size.0 && reader.size().0 < size.0 + (1 << 15));
            assert!(reader.sustained(1).unwrap().0 > 0.0);
        }
        let larger = kept_or_new(Some(reader), 2, Bytes(1 << 23)).unwrap();
        assert!(larger.size().0 >= 1 << 23);
    }

    #[test]
    fn the_memory_of_the_host_is_no_ceiling_of_another_device() {
        let card = |index, rate| Gpu {
            index: Some(index),
            measured_read_bandwidth_bytes_per_s: rate,
            ..Gpu::default()
        };
        let host = Host {
            measured_read_bandwidth_bytes_per_s: Some(1e9),
            gpu: vec![card(0, None), card(1, Some(3e12))],
            ..Host::default()
        };
        assert_eq!(of_session(&host, Device::Cpu), Some(BytesPerSecond(1e9)));
        assert_eq!(of_session(&host, Device::Cuda(1)), Some(BytesPerSecond(3e12)));
        for device in [Device::Cuda(0), Device::Cuda(2), Device::Metal] {
            assert_eq!(of_session(&host, device), None);
            assert_eq!(sustained(device, 1).unwrap(), None);
        }
    }

    #[test]
    fn a_reading_is_positive_and_says_how_it_was_taken() {
        let b = measure(2, Bytes(1 << 20)).unwrap();
        assert!(b.rate.0 > 0.0 && b.method.contains("2 threads"), "{b:?}");
    }
}
