//! Load on a server: many requests, each on a thread of its own with a connection of its own. The
//! kernel wakes a thread without the ticks of a runtime's timer, and a few hundred of them sleep most
//! of the time.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::{Builder, Scope};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::Asking;
use crate::engine::Broken;
use crate::protocol::{Arrivals, RequestError, Serve, Served, ServedRequest};
use crate::record::FailureKind;
use crate::units::MonoNs;

/// A thread parses a stream and little else.
const STACK: usize = 256 << 10;

/// Requests that may be under way at once. A server that falls behind an open loop collects them.
pub const MOST: usize = 4096;

/// The longest sleep after which a thread looks whether anybody still waits.
const LOOK: Duration = Duration::from_millis(100);

/// Sends all requests and waits for their answers.
///
/// # Errors
/// The system refuses a thread, or nobody waits for the answer any more.
pub fn run(asking: &Asking, serve: &Serve, over: &AtomicBool) -> Result<Served, Broken> {
    let cpu = cpu_ns();
    let load = Load {
        asking,
        serve,
        over,
        begin: MonoNs::now(),
        next: AtomicUsize::new(0),
        under_way: AtomicUsize::new(0),
        done: Mutex::new(Vec::with_capacity(serve.prompts.len())),
    };
    let refused = |e: std::io::Error| Broken {
        kind: FailureKind::Internal,
        message: format!("the system refused a thread for a request: {e}; ask for fewer at once"),
    };
    std::thread::scope(|scope| match &serve.arrivals {
        Arrivals::Users(users) => {
            for _ in 0..*users {
                spawn(scope, || load.user()).map_err(refused)?;
            }
            Ok(())
        }
        Arrivals::At(times) => load.open(scope, times).map_err(refused),
    })?;
    if over.load(Relaxed) {
        let message = "stopped".to_string();
        return Err(Broken { kind: FailureKind::Internal, message });
    }
    let mut done = load.done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(i, _)| *i);
    Ok(Served {
        id: serve.id,
        t_begin_ns: load.begin.0,
        t_end_ns: MonoNs::now().0,
        requests: done.into_iter().map(|(_, request)| request).collect(),
        client_cpu_ns: cpu_ns().checked_sub(cpu),
    })
}

fn spawn<'s, 'e>(scope: &'s Scope<'s, 'e>, body: impl FnOnce() + Send + 's) -> std::io::Result<()> {
    Builder::new().stack_size(STACK).spawn_scoped(scope, body).map(drop)
}

struct Load<'a> {
    asking: &'a Asking,
    serve: &'a Serve,
    over: &'a AtomicBool,
    begin: MonoNs,
    next: AtomicUsize,
    under_way: AtomicUsize,
    done: Mutex<Vec<(usize, ServedRequest)>>,
}

impl Load<'_> {
    fn elapsed(&self) -> u64 {
        MonoNs::now().0 - self.begin.0
    }

    /// Sends one request after the other.
    fn user(&self) {
        loop {
            let i = self.next.fetch_add(1, Relaxed);
            let now = self.elapsed();
            let late = self.serve.for_ns.is_some_and(|limit| now >= limit);
            if i >= self.serve.prompts.len() || late || self.over.load(Relaxed) {
                return;
            }
            self.one(i, now);
        }
    }

    /// Sends each request at its time.
    fn open<'s>(&'s self, scope: &'s Scope<'s, '_>, times: &[u64]) -> std::io::Result<()> {
        for (i, due) in times.iter().copied().enumerate().take(self.serve.prompts.len()) {
            if self.serve.for_ns.is_some_and(|limit| due >= limit) {
                break;
            }
            while self.elapsed() < due && !self.over.load(Relaxed) {
                std::thread::sleep(Duration::from_nanos(due - self.elapsed().min(due)).min(LOOK));
            }
            if self.over.load(Relaxed) {
                break;
            }
            if self.under_way.fetch_add(1, Relaxed) >= MOST {
                self.under_way.fetch_sub(1, Relaxed);
                let message = format!("{MOST} requests wait already: the server falls behind");
                let error = Some(RequestError { kind: "behind".into(), message });
                self.keep(
                    i,
                    ServedRequest { due_ns: due, sent_ns: due, error, ..Default::default() },
                );
                continue;
            }
            spawn(scope, move || {
                self.one(i, due);
                self.under_way.fetch_sub(1, Relaxed);
            })?;
        }
        Ok(())
    }

    /// Sends request `i`, which was due at `due_ns`, and keeps what came.
    fn one(&self, i: usize, due_ns: u64) {
        let n = self.serve.n.get(i).copied().unwrap_or(1);
        let from = |t: MonoNs| t.0.saturating_sub(self.begin.0);
        let request = match self.asking.stream(&self.serve.prompts[i], n) {
            Ok((begin, streamed)) => ServedRequest {
                due_ns,
                sent_ns: from(begin),
                token_ns: streamed.times.into_iter().map(from).collect(),
                error: None,
            },
            Err(broken) => ServedRequest {
                due_ns,
                sent_ns: due_ns,
                token_ns: Vec::new(),
                error: Some(RequestError { kind: broken.kind.name(), message: broken.message }),
            },
        };
        self.keep(i, request);
    }

    fn keep(&self, i: usize, request: ServedRequest) {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).push((i, request));
    }
}

/// Processor time of this process.
fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
