//! Renders a chat template in a process of its own, with limits on its stack, its memory and its time:
//! this program, started again. A template is a stranger's program, and some forms of it overflow the
//! stack or fill the memory of whoever renders them, in ways that no check of its text finds.

use std::io::{Read, Write};
use std::process::Stdio;

use rustix::process::{Resource, Rlimit, setrlimit};

use super::jinja::{FUEL, Outcome, Task, run};
use crate::environment::{self, Purpose};

/// The hidden command that [`serve`] is.
pub const COMMAND: &str = "render-chat-template";
/// Stack of the thread that renders.
const STACK: usize = 256 << 20;
/// What it may allocate beside its stack.
const MEMORY: u64 = 512 << 20;
/// Seconds of a processor.
const TIME: u64 = 5;
/// Bytes of an answer: several conversations with every character escaped.
const ANSWER: u64 = 256 << 20;

/// Has a process render; an error says why there is no answer.
pub fn ask(task: &Task) -> Result<Outcome, String> {
    let failed = |e: std::io::Error| format!("the process that renders it: {e}");
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = environment::command(program, Purpose::Run);
    command.arg(COMMAND).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let request = serde_json::to_vec(task).map_err(|e| e.to_string())?;
    // One that died before it read everything says so by its status.
    let _ = child.stdin.take().map(|mut input| input.write_all(&request));
    let (mut answer, mut words) = (Vec::new(), String::new());
    if let Some(out) = child.stdout.take() {
        out.take(ANSWER).read_to_end(&mut answer).map_err(failed)?;
    }
    if let Some(err) = child.stderr.take() {
        let _ = err.take(4096).read_to_string(&mut words);
    }
    let status = child.wait().map_err(failed)?;
    match serde_json::from_slice(&answer) {
        Ok(outcome) if status.success() => Ok(outcome),
        _ if words.contains("stack overflow") || words.contains("overflowed its stack") => {
            Err("it nests too deeply, or refers to itself without end".into())
        }
        _ if words.contains("memory allocation") => {
            Err(format!("it needs more than {} MiB of memory", MEMORY >> 20))
        }
        _ => Err(format!("it takes more than {TIME} s of a processor, or breaks ({status})")),
    }
}

/// Renders what stdin asks for, on stdout. The limits hold for this process from here on.
pub fn serve() -> anyhow::Result<()> {
    let limit = |resource, most: u64| {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
    };
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let now = pages * rustix::param::page_size() as u64;
    limit(Resource::Core, 0)?;
    limit(Resource::Cpu, TIME)?;
    limit(Resource::As, now + STACK as u64 + MEMORY)?;
    let mut request = Vec::new();
    std::io::stdin().read_to_end(&mut request)?;
    let task: Task = serde_json::from_slice(&request)?;
    let thread = std::thread::Builder::new().stack_size(STACK);
    let rendered = thread.spawn(move || serde_json::to_vec(&run(&task, FUEL)))?;
    let answer = rendered.join().map_err(|_| anyhow::anyhow!("the renderer panicked"))??;
    std::io::stdout().write_all(&answer)?;
    Ok(())
}
