//! Ctrl-C and SIGTERM: the first asks the run to stop and keep what was measured, the second
//! ends it at once. In both cases no engine is left running.

use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, kill_process_group};

static REQUESTS: AtomicU32 = AtomicU32::new(0);
/// The process group of the running engine; 0 for none. Engines run one at a time.
static GROUP: AtomicU32 = AtomicU32::new(0);

/// Installs the handler. Call once, from `main`.
pub fn install() {
    let handler = || {
        if REQUESTS.fetch_add(1, Ordering::SeqCst) > 0 {
            kill_group(GROUP.load(Ordering::SeqCst));
            std::process::exit(2);
        }
    };
    if let Err(e) = ctrlc::set_handler(handler) {
        tracing::warn!("Ctrl-C will not keep what was measured: {e}");
    }
}

/// Whether the user asked to stop.
pub fn requested() -> bool {
    REQUESTS.load(Ordering::SeqCst) > 0
}

/// Whether the user asked to stop. Clears the request, so that a chat ends an answer and continues.
pub fn take() -> bool {
    REQUESTS.swap(0, Ordering::SeqCst) > 0
}

/// Remembers the group to kill with this process.
pub fn guard_group(leader: u32) {
    GROUP.store(leader, Ordering::SeqCst);
}

/// Forgets the group, which has ended.
pub fn release_group(leader: u32) {
    let _ = GROUP.compare_exchange(leader, 0, Ordering::SeqCst, Ordering::SeqCst);
}

/// Kills every process of the group; nothing happens if there is none.
pub fn kill_group(leader: u32) {
    if let Some(pid) = Pid::from_raw(leader as i32).filter(|_| leader > 1) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
}
