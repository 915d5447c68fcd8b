//! Ctrl-C and SIGTERM: the first request asks the run to stop and keep what was measured; the
//! second ends it at once. Neither leaves an engine running. A chat takes Ctrl-C for the end of an
//! answer, and SIGTERM for its own.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

static REQUESTS: AtomicU32 = AtomicU32::new(0);
static TERMINATED: AtomicBool = AtomicBool::new(false);
/// The process groups of the engines that are running: one, or two whose answers are compared.
static GROUPS: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());
/// What SIGTERM does while somebody waits for keys.
static WAITING: Mutex<Option<Box<dyn Fn() + Send>>> = Mutex::new(None);

/// Installs the handler. Call once, from `main`.
pub fn install() {
    // With a handler of its own, a file that grows too large is an error of the write.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
    let listen = || -> std::io::Result<()> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let listener = move || signals.forever().for_each(on_signal);
        std::thread::Builder::new().name("signals".into()).spawn(listener)?;
        Ok(())
    };
    if let Err(e) = listen() {
        tracing::warn!("Ctrl-C will not keep what was measured: {e}");
    }
}

fn on_signal(signal: i32) {
    let before = REQUESTS.fetch_add(1, Ordering::SeqCst);
    if signal != SIGINT {
        TERMINATED.store(true, Ordering::SeqCst);
        let waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(end) = &*waiting {
            end();
            stop_now();
        }
    }
    if before > 0 {
        stop_now();
    }
}

fn stop_now() -> ! {
    groups().into_iter().for_each(kill_group);
    std::process::exit(2);
}

/// Waits for keys, which no signal interrupts: SIGTERM runs `end` and ends the process.
pub fn while_waiting<T>(end: impl Fn() + Send + 'static, wait: impl FnOnce() -> T) -> T {
    let set = |hook| *WAITING.lock().unwrap_or_else(PoisonError::into_inner) = hook;
    set(Some(Box::new(end)));
    let result = wait();
    set(None);
    result
}

/// Whether the user asked to stop.
pub fn requested() -> bool {
    REQUESTS.load(Ordering::SeqCst) > 0
}

/// Whether the request was SIGTERM or SIGHUP, which mean the whole program.
pub fn terminated() -> bool {
    TERMINATED.load(Ordering::SeqCst)
}

/// Whether the user asked to stop; clears the request: a chat ends an answer and continues.
pub fn take() -> bool {
    REQUESTS.swap(0, Ordering::SeqCst) > 0
}

/// Remembers the group, to kill it when this process is stopped.
pub fn guard_group(leader: u32) {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner).insert(leader);
}

/// Forgets the group once it has ended.
pub fn release_group(leader: u32) {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner).remove(&leader);
}

/// The groups that are remembered, by their leaders.
pub fn groups() -> BTreeSet<u32> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Kills every process of the group; nothing happens if there is none.
pub fn kill_group(leader: u32) {
    if let Some(pid) = Pid::from_raw(leader as i32).filter(|_| leader > 1) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
}
