//! Could any machine of this kind have been so fast? An engine stamps its own tokens, and one that
//! computes nothing can stamp them at will.

use crate::device::DeviceKind;
use crate::record::{Model, PromptRun, Role};
use crate::task::Measured;
use crate::units::{BytesPerSecond, three_digits};

/// Multiply-adds per second that no core reaches: AMX makes 1024 of int8 in a cycle, at less than
/// 6 GHz.
const MACS_OF_A_CORE: f64 = 1024.0 * 6e9;
/// The same of an accelerator: ten times a current one's 4-bit rate.
const MACS_OF_AN_ACCELERATOR: f64 = 1e17;
/// A reading of the bandwidth may be low by more than half beside other work.
const OF_BANDWIDTH: f64 = 3.0;
/// Weights of fewer times the last-level cache may be read from it.
const CACHES: u64 = 2;
/// Tokens from which a rate of decoding is judged: an engine may compute a few at once.
const TOKENS: usize = 8;

/// Why the times of a launch cannot be true; `None` where they can.
pub fn doubt(measured: &Measured<'_>, model: &Model) -> Option<String> {
    let runs = measured.launch.prompts.iter();
    let mut runs = runs.filter(|run| matches!(run.role, Role::Cold | Role::Measured));
    runs.find_map(|run| arithmetic(run, measured, model).or_else(|| memory(run, measured, model)))
}

/// Each token passes through most weights: half of them, for a model whose embedding is large.
fn arithmetic(run: &PromptRun, measured: &Measured<'_>, model: &Model) -> Option<String> {
    let (first, last) = (run.begin_ns?, *run.token_ns.last()?);
    let positions = f64::from(run.n_prompt) + run.token_ns.len() as f64 - 1.0;
    let macs = positions * 0.5 * model.n_params as f64;
    let rate = macs / (last.saturating_sub(first).max(1) as f64 / 1e9);
    let most = match measured.device.kind() {
        DeviceKind::Cpu => f64::from(measured.threads) * MACS_OF_A_CORE,
        _ => MACS_OF_AN_ACCELERATOR,
    };
    (rate > most).then(|| {
        format!(
            "{}: {positions} tokens in {} ms are at least {rate:.0e} multiply-adds a second; {} \
             cannot make {most:.0e}",
            run.id,
            three_digits(last.saturating_sub(first) as f64 / 1e6),
            whereabouts(measured)
        )
    })
}

/// Each decoded token reads all weights that do not fit into a cache.
fn memory(run: &PromptRun, measured: &Measured<'_>, model: &Model) -> Option<String> {
    let bytes = measured.loaded.weight_bytes_per_token.or(model.weight_bytes_per_token)?;
    let (BytesPerSecond(bandwidth), cache) = (measured.bandwidth?, measured.last_level_cache?);
    let (first, last) = (*run.token_ns.first()?, *run.token_ns.last()?);
    if run.token_ns.len() < TOKENS || bytes < CACHES * cache {
        return None;
    }
    let seconds = last.saturating_sub(first).max(1) as f64 / 1e9;
    let read = (run.token_ns.len() - 1) as f64 * bytes as f64 / seconds;
    (read > OF_BANDWIDTH * bandwidth).then(|| {
        format!(
            "{}: decoding would have read {} of weights; {} delivers {}",
            run.id,
            BytesPerSecond(read),
            whereabouts(measured),
            BytesPerSecond(bandwidth)
        )
    })
}

fn whereabouts(measured: &Measured<'_>) -> String {
    format!("{} with {} threads", measured.device, measured.threads)
}
