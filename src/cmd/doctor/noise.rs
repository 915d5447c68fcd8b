//! `doctor --noise`: the same kernel and the same launch, again and again.

use anyhow::{Context, Result};

use crate::analysis::noise::{Noise, Spread, of_launches, shares};
use crate::device::Device;
use crate::engine::Registry;
use crate::metric::Metric;
use crate::model::cache::CacheDir;
use crate::model::locate::WeightsPolicy;
use crate::plan::{Spec, Target, Workload};
use crate::progress::say;
use crate::sensors::bandwidth;
use crate::session::verify::scratch;
use crate::session::{Bench, Session, Side, Stop};
use crate::units::Bytes;

/// Passes over memory, and launches.
const TIMES: u32 = 30;
const BUFFER: Bytes = Bytes(512 << 20);
const METRICS: [Metric; 4] =
    [Metric::ModelLoad, Metric::ColdStartTtft, Metric::PrefillTps, Metric::DecodeTps];

/// Takes some seconds.
///
/// # Errors
/// Memory is short, nothing could be launched, or the user stopped it.
pub fn measure(threads: u32) -> Result<Noise> {
    say(&format!("reading memory {TIMES} times"));
    let passes: Vec<f64> = bandwidth::repeated(threads, BUFFER, TIMES)?;
    let kernel = Spread::of("read_bandwidth", "B/s", &passes).context("memory was not read")?;
    let engine = Registry::load()?.find("candle")?.clone();
    let bench = Bench::new(spec(threads), &[Side::from(engine)])?;
    let folder = scratch(&CacheDir::from_env()?)?;
    let session = Session {
        bench: &bench,
        plans: bench.provide(false)?,
        stop: Stop::Fixed { launches: TIMES },
        kind: "noise",
        base: None,
        folder: folder.path(),
        config: None,
        bandwidth: false,
        compilers: false,
        earlier: None,
    };
    let measured = session.measure(&mut |_, _| false)?.finish(|_| "repeat the command".into())?;
    let arm = measured.record.arms.first().context("nothing was launched")?;
    let environments = || arm.launches.iter().map(|launch| &launch.environment);
    Ok(Noise {
        kernel,
        launches: of_launches(arm, &METRICS),
        steal: shares(environments().map(|e| e.steal)),
        busy: shares(environments().map(|e| e.busy_before)),
    })
}

/// A generation on the smallest model: long enough to be timed, short enough to be repeated.
fn spec(threads: u32) -> Spec {
    Spec {
        target: Target {
            model: "tiny".into(),
            quant: Vec::new(),
            device: vec![Device::Cpu],
            threads: vec![threads],
            weights: WeightsPolicy::Auto,
            of_f16: false,
        },
        engine: Vec::new(),
        workload: Workload {
            prompt_len: vec![256],
            gen_len: vec![250],
            ..Workload::repeated(1, 1)
        },
        launches: TIMES,
        max_minutes: None,
        sustained_minutes: None,
        encoding: None,
        serving: None,
        timeout: None,
        profile: false,
    }
}
