//! Could any machine of this kind have been so fast? An engine stamps its own tokens, and one that
//! computes nothing can stamp them at will.

use crate::record::{Model, PromptRun, Role};
use crate::task::Measured;
use crate::units::{BytesPerSecond, three_digits};

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
    let each = f64::from(run.n_prompt) + run.token_ns.len() as f64 - 1.0;
    let positions = each * f64::from(run.batch.unwrap_or(1));
    let macs = positions * 0.5 * model.n_params as f64;
    let rate = macs / (last.saturating_sub(first).max(1) as f64 / 1e9);
    let most = measured.most_macs();
    (rate > most).then(|| {
        format!(
            "{}: {positions} tokens in {} ms are at least {rate:.0e} multiply-adds a second; {} \
             cannot make {most:.0e}",
            run.id,
            three_digits(last.saturating_sub(first) as f64 / 1e6),
            measured.whereabouts()
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
            measured.whereabouts(),
            BytesPerSecond(bandwidth)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing;
    use crate::device::Device;
    use crate::protocol::Loaded;
    use crate::record::Launch;

    const GB: u64 = 1_000_000_000;

    /// What is said of 16 tokens, each `gap_ns` after the one before, that read a model of 1 GB on
    /// a machine that delivers 50 GB/s.
    fn said(gap_ns: u64, last_level_cache: Option<u64>) -> Option<String> {
        let mut launch = Launch::new((0, 0), String::new());
        launch.prompts.push(PromptRun {
            id: "p".into(),
            n_prompt: 1,
            begin_ns: Some(GB),
            token_ns: (1..=16).map(|i| GB + i * gap_ns).collect(),
            ..PromptRun::new(Role::Measured)
        });
        let model =
            Model { n_params: 2 * GB, weight_bytes_per_token: Some(GB), ..testing::record().model };
        let measured = Measured {
            launch: &mut launch,
            loaded: &Loaded::default(),
            bandwidth: Some(BytesPerSecond(50e9)),
            macs: &Default::default(),
            device: Device::default(),
            threads: 2,
            last_level_cache,
        };
        doubt(&measured, &model)
    }

    #[test]
    fn tokens_faster_than_the_memory_delivers_their_weights_are_doubted() {
        let cache = Some(GB / 30);
        assert_eq!(said(20_000_000, cache), None, "at 50 GB/s");
        assert_eq!(said(8_000_000, cache), None, "at 125 GB/s: a reading that was low");
        let said_of = said(5_000_000, cache).unwrap();
        for word in ["p: decoding", "200 GB/s", "50.0 GB/s", "cpu with 2 threads"] {
            assert!(said_of.contains(word), "{word} in {said_of}");
        }
        assert_eq!(said(5_000_000, Some(GB)), None, "a cache may hold the weights");
        assert_eq!(said(5_000_000, None), None, "it is not known what a cache holds");
    }

    #[test]
    fn tokens_faster_than_any_arithmetic_are_doubted() {
        let said = said(5, None).unwrap();
        assert!(said.contains("multiply-adds a second"), "{said}");
    }
}
