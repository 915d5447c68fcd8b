//! A server that the harness starts itself: `[server]` of an engine's manifest.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::engine::child::{Child, cannot};
use crate::engine::connection::{self, Broken};
use crate::engine::conversation::Failure;

/// A port of this machine that is free now.
///
/// # Errors
/// The system gives none.
pub fn free_port() -> Result<u16, Failure> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr());
    Ok(port.map_err(|e| cannot(format!("no free port on loopback: {e}")))?.port())
}

/// Starts the server on as many processors as it may have threads. What it prints is its log.
pub fn start(command: Command, threads: u32) -> Result<Child, Failure> {
    let mut child = Child::spawn(command, threads)?;
    let (_, stdout) = child.pipes();
    child.keep(stdout)?;
    Ok(child)
}

/// Asks the server to end, and waits up to `limit`. Returns the processes that it left running,
/// which were ended.
///
/// # Errors
/// It did not end.
pub fn stop(child: &mut Child, limit: Duration) -> Result<Vec<String>, Broken> {
    let connection::Pid(pid) = child.pid();
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(pid, Signal::TERM);
    }
    let end = Instant::now() + limit;
    loop {
        match child.status() {
            Some(_) => return Ok(child.end_strays()),
            None if Instant::now() > end => return Err(Broken::late(limit)),
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}
