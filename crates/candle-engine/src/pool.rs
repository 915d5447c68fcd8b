//! A pool of exactly the threads that the harness granted, for jobs of a few microseconds. A decode
//! step has about eighty of them, so workers spin a little before they sleep. candle's own
//! `barrier_pool` takes its size from the environment and would exist beside rayon's.
//!
//! Each thread works through its own part in order and then helps the others. Memory delivers a
//! contiguous part fastest, and a thread that loses its core delays the job by no more than its
//! current piece.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

/// Polls before a waiting thread gives its time slice away, and yields before it sleeps.
const SPINS: u32 = 4_000;
const YIELDS: u32 = 400;

/// A job, borrowed from the stack of `Pool::run`.
struct Job<'a> {
    body: &'a (dyn Fn(Range<usize>) + Sync),
    chunk: usize,
    panicked: AtomicBool,
}

/// A thread's part of a job, on its own cache line.
#[repr(align(64))]
#[derive(Default)]
struct Part {
    next: AtomicUsize,
    end: AtomicUsize,
}

impl Job<'_> {
    /// Takes chunks until none is left: first from part `own`, then from the next parts.
    fn work(&self, parts: &[Part], own: usize) {
        for part in parts[own..].iter().chain(&parts[..own]) {
            let end = part.end.load(Ordering::Relaxed);
            loop {
                // Reads first, so that a finished part is not written to.
                if part.next.load(Ordering::Relaxed) >= end {
                    break;
                }
                let start = part.next.fetch_add(self.chunk, Ordering::Relaxed);
                if start >= end {
                    break;
                }
                let range = start..end.min(start + self.chunk);
                if catch_unwind(AssertUnwindSafe(|| (self.body)(range))).is_err() {
                    self.panicked.store(true, Ordering::Relaxed);
                }
            }
        }
    }
}

struct Shared {
    /// Counts jobs; a change is the signal to start.
    epoch: AtomicU64,
    job: AtomicPtr<Job<'static>>,
    /// One per thread, the caller's first.
    parts: Box<[Part]>,
    /// Workers that have not finished the current job.
    busy: AtomicUsize,
    stop: AtomicBool,
    asleep: Box<[AtomicBool]>,
}

/// The caller and `threads - 1` workers.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts `threads - 1` workers; the caller of `run` is the last thread.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let n_workers = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            epoch: AtomicU64::new(0),
            job: AtomicPtr::new(std::ptr::null_mut()),
            parts: (0..=n_workers).map(|_| Part::default()).collect(),
            busy: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            asleep: (0..n_workers).map(|_| AtomicBool::new(false)).collect(),
        });
        let mut pool = Self { shared, workers: Vec::with_capacity(n_workers) };
        for id in 0..n_workers {
            let shared = pool.shared.clone();
            let worker = thread::Builder::new().name(format!("candle-{id}"));
            pool.workers.push(worker.spawn(move || shared.serve(id))?);
        }
        Ok(pool)
    }

    /// Threads that a job runs on.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `body` on all threads with ranges of at most `chunk` items that together cover
    /// `0..n_items` once; returns when the last is done. Propagates a panic in `body`.
    ///
    /// Takes `&mut self`, because only one job may run at a time.
    pub fn run(&mut self, n_items: usize, chunk: usize, body: impl Fn(Range<usize>) + Sync) {
        let chunk = chunk.max(1);
        if self.workers.is_empty() || n_items <= chunk {
            for start in (0..n_items).step_by(chunk) {
                body(start..n_items.min(start + chunk));
            }
            return;
        }
        let mut job = Job { body: &body, chunk, panicked: AtomicBool::new(false) };
        let shared = &*self.shared;
        let (n_chunks, threads) = (n_items.div_ceil(chunk), self.threads());
        for (i, part) in shared.parts.iter().enumerate() {
            let start = n_chunks * i / threads * chunk;
            part.next.store(start, Ordering::Relaxed);
            part.end.store(n_items.min(n_chunks * (i + 1) / threads * chunk), Ordering::Relaxed);
        }
        shared.busy.store(self.workers.len(), Ordering::Relaxed);
        // The pointer claims a longer lifetime than the job has. Workers use it only between the
        // new epoch and their decrement of `busy`, and the code below waits for both. Nothing
        // between here and that wait can unwind: `Job::work` catches panics.
        shared.job.store((&raw mut job).cast(), Ordering::Relaxed);
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        for (worker, asleep) in self.workers.iter().zip(&shared.asleep) {
            if asleep.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        job.work(&shared.parts, 0);
        let mut waited = 0;
        while shared.busy.load(Ordering::Acquire) > 0 {
            pause(&mut waited);
        }
        assert!(!job.panicked.load(Ordering::Relaxed), "a worker thread panicked");
    }
}

impl Shared {
    /// The loop of a worker.
    fn serve(&self, id: usize) {
        let mut seen = 0;
        loop {
            let mut waited = 0;
            while self.epoch.load(Ordering::Acquire) == seen {
                if waited < SPINS + YIELDS {
                    pause(&mut waited);
                } else {
                    self.sleep(id, seen);
                }
            }
            seen += 1;
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            // SAFETY: `Pool::run` published the job before the epoch that was just seen, and
            // keeps it alive until `busy` is zero, which needs this worker's decrement.
            unsafe { &*self.job.load(Ordering::Relaxed) }.work(&self.parts, id + 1);
            self.busy.fetch_sub(1, Ordering::Release);
        }
    }

    /// Parks until a new epoch. `asleep` is set before the epoch is read again, and `run` reads
    /// `asleep` after writing the epoch, both SeqCst, so one of the two sees the other.
    fn sleep(&self, id: usize, seen: u64) {
        self.asleep[id].store(true, Ordering::SeqCst);
        while self.epoch.load(Ordering::SeqCst) == seen {
            thread::park();
        }
        self.asleep[id].store(false, Ordering::SeqCst);
    }
}

/// Waits a moment: first with a spin hint, later with a yield, so that a thread that lost its core
/// can return.
fn pause(waited: &mut u32) {
    if *waited < SPINS {
        *waited += 1;
        std::hint::spin_loop();
    } else {
        *waited = waited.saturating_add(1);
        thread::yield_now();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            let _ = worker.join();
        }
    }
}

/// A slice that several threads write, each in its own elements.
pub struct Scatter<'a, T> {
    start: *mut T,
    len: usize,
    _slice: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: the only accesses are `get`, whose contract excludes overlapping use.
unsafe impl<T: Send> Sync for Scatter<'_, T> {}

impl<'a, T> Scatter<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), _slice: std::marker::PhantomData }
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// No other thread uses an element of `range` while the result lives.
    ///
    /// # Panics
    /// If `range` is not inside the slice.
    #[allow(clippy::mut_from_ref)] // what this type is for
    pub unsafe fn get(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: inside the slice (checked above); disjoint by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_visited_once_whatever_the_chunks() {
        for threads in [1, 2, 3, 8] {
            let mut pool = Pool::new(threads).unwrap();
            for (n, chunk) in [(0, 4), (1, 1), (7, 3), (1000, 1), (1000, 64), (5, 100)] {
                let mut seen = vec![0.0f32; n];
                let out = Scatter::new(&mut seen);
                pool.run(n, chunk, |range| {
                    assert!(range.len() <= chunk && range.start % chunk == 0);
                    // SAFETY: the pool's ranges do not overlap.
                    for x in unsafe { out.get(range) } {
                        *x += 1.0;
                    }
                });
                assert!(seen.iter().all(|&x| x == 1.0), "{threads} threads, {n} items by {chunk}");
            }
        }
    }

    #[test]
    fn sleeping_workers_wake_up() {
        let mut pool = Pool::new(2).unwrap();
        for _ in 0..3 {
            thread::sleep(std::time::Duration::from_millis(30));
            let count = AtomicUsize::new(0);
            pool.run(64, 1, |r| {
                count.fetch_add(r.len(), Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 64);
        }
    }

    #[test]
    #[should_panic(expected = "worker thread panicked")]
    fn a_panic_in_a_job_comes_out_of_run() {
        Pool::new(2).unwrap().run(8, 1, |r| assert!(r.start != 5));
    }
}
