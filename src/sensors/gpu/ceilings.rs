//! What a card delivers, measured by kernels of ours in a process of its own: this program, started
//! again, so that the harness holds nothing of the card.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::environment::{self, Purpose};
use crate::processes;
use crate::record::Gpu;
use crate::worker::cuda::{self, Ceilings};

/// The hidden command that [`serve`] is.
pub const COMMAND: &str = "cuda-ceilings";
/// How long it may take: the first use of a card compiles its kernels.
const DEADLINE: Duration = Duration::from_secs(120);

/// Of `cuda:index`, measured once in the life of this process.
pub fn of(index: u32) -> Result<Ceilings, String> {
    static KNOWN: Mutex<BTreeMap<u32, Result<Ceilings, String>>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.entry(index).or_insert_with(|| ask(index)).clone()
}

fn ask(index: u32) -> Result<Ceilings, String> {
    let failed = |e: std::io::Error| format!("the process that measures cuda:{index}: {e}");
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = environment::command(program, Purpose::Run);
    command.args([COMMAND, &index.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    processes::mark(&mut command);
    let mut child = command.spawn().map_err(failed)?;
    let began = Instant::now();
    // It writes one line, which fits into a pipe that nobody reads yet.
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break status,
            None if began.elapsed() > DEADLINE => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("cuda:{index}: not measured within {} s", DEADLINE.as_secs()));
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let (mut answer, mut words) = (String::new(), String::new());
    if let (Some(mut out), Some(mut err)) = (child.stdout.take(), child.stderr.take()) {
        let _ = out.read_to_string(&mut answer);
        let _ = err.read_to_string(&mut words);
    }
    let last = words.lines().last().unwrap_or("it said nothing");
    serde_json::from_str(&answer)
        .unwrap_or_else(|_| Err(format!("cuda:{index}: measuring it ended with {status}: {last}")))
}

/// Measures the card and writes the answer to stdout.
pub fn serve(index: u32) -> anyhow::Result<()> {
    let measured = cuda::ceilings(index);
    std::io::stdout().write_all(&serde_json::to_vec(&measured)?)?;
    Ok(())
}

/// Puts the ceilings of `cuda:index` into the record of its card; a card that the management
/// library does not list gets an entry.
pub fn note(index: u32, measured: Result<Ceilings, String>, gpus: &mut Vec<Gpu>) {
    let known = gpus.iter().position(|gpu| gpu.index == Some(index));
    let at = known.unwrap_or_else(|| {
        let name = format!("cuda:{index}");
        gpus.push(Gpu { name, index: Some(index), ..Gpu::default() });
        gpus.len() - 1
    });
    let gpu = &mut gpus[at];
    match measured {
        Ok(c) => {
            let positive = |rate: f64| Some(rate).filter(|rate| rate.is_finite() && *rate > 0.0);
            gpu.measured_read_bandwidth_bytes_per_s = positive(c.read_bytes_per_s);
            gpu.measured_copy_bandwidth_bytes_per_s = positive(c.copy_bytes_per_s);
            gpu.measured_upload_bandwidth_bytes_per_s = positive(c.upload_bytes_per_s);
            gpu.measured_f16_flops = positive(c.f16_flops);
            gpu.measured_int8_ops = positive(c.int8_ops);
        }
        Err(why) => gpu.unmeasured = Some(why),
    }
}
