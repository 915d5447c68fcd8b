//! Threads where the system may refuse one (`ulimit -u`, `pids.max`): an error in words, and nobody
//! waits for a thread that never came.

use std::io;
use std::sync::{Condvar, Mutex, Once, PoisonError};
use std::thread::{self, Builder, JoinHandle};

/// Starts one thread.
///
/// # Errors
/// The system refuses it.
pub fn start<T: Send + 'static>(
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().spawn(body).map_err(|e| refused(&e, 0, 1))
}

/// Runs `body` on `threads` threads, none of which begins before all are there.
///
/// # Errors
/// The system refuses one of them; `body` did not run.
pub fn together<T: Send>(threads: usize, body: impl Fn(usize) -> T + Sync) -> io::Result<Vec<T>> {
    // Whether all came, once that is known.
    let (all_came, known) = (Mutex::new(None), Condvar::new());
    let wait = || {
        let guard = all_came.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.wait_while(guard, |all| all.is_none());
        known.unwrap_or_else(PoisonError::into_inner).unwrap_or(false)
    };
    let run = |i: usize| wait().then(|| body(i));
    thread::scope(|scope| {
        let run = &run;
        let (mut workers, mut error) = (Vec::with_capacity(threads), None);
        for i in 0..threads {
            match Builder::new().spawn_scoped(scope, move || run(i)) {
                Ok(worker) => workers.push(worker),
                Err(e) => {
                    error = Some(refused(&e, i, threads));
                    break;
                }
            }
        }
        *all_came.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.is_none());
        known.notify_all();
        let results = workers.into_iter().map(|worker| match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        let results: Vec<T> = results.flatten().collect();
        error.map_or(Ok(results), Err)
    })
}

fn refused(error: &io::Error, came: usize, wanted: usize) -> io::Error {
    io::Error::new(
        error.kind(),
        format!(
            "the system started {came} of {wanted} threads: {error}; raise the limit (`ulimit -u`, \
             `pids.max` of the control group), end other programs, or ask for fewer with -t"
        ),
    )
}

/// Before the first use of rayon: where the system refuses its threads, it gets none, because it
/// would panic.
pub fn prepare_rayon() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let wanted = thread::available_parallelism().map_or(1, |n| n.get());
        let pool = match together(wanted, |_| ()) {
            Ok(_) => rayon::ThreadPoolBuilder::new(),
            Err(_) => rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread(),
        };
        // It may have been used before, and then it has its threads.
        let _ = pool.build_global();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_run_together_and_each_result_has_its_place() {
        let barrier = std::sync::Barrier::new(4);
        let squares = together(4, |i| {
            barrier.wait();
            i * i
        });
        assert_eq!(squares.unwrap(), [0, 1, 4, 9]);
        assert_eq!(start(|| 7).unwrap().join().unwrap(), 7);
        let e = refused(&io::Error::from_raw_os_error(11), 2, 8).to_string();
        assert!(e.contains("2 of 8 threads") && e.contains("ulimit -u"), "{e}");
    }
}
