//! Where the time of the profiled generations went: time per token by stage for each arm.

use std::collections::BTreeMap;

use super::{ok_launches, summary};
use crate::metric::{Better, Unit};
use crate::record::{Arm, Launch, MetricSummary, Profile, PromptRun, Role};
use crate::units::{BytesPerSecond, Seconds};

/// The time that no stage claims.
pub const OTHER: &str = "other";

/// Stages in the order of a forward pass. `layers` is everything between embedding and head, for
/// engines that cannot split it. Other names follow in alphabetical order.
pub const STAGES: [&str; 8] =
    ["embedding", "norm", "projections", "attention", "mlp", "layers", "head", "sampling"];

/// The part of a generation that a time belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// From the start of the request to the first token; per prompt token.
    Prefill,
    /// From the first token to the last; per token after the first.
    Decode,
}

/// One stage of one arm.
#[derive(Debug, Clone, PartialEq)]
pub struct StageTime {
    pub stage: String,
    /// One value per launch, each the sum over its prompts ÷ their tokens.
    pub per_token: Vec<Seconds>,
    pub mean: Seconds,
    /// Share of the phase's whole time, 0 to 1.
    pub share: f64,
    /// Weight bytes of the stage ÷ its time. Decode only, and only if the engine reports the bytes.
    pub rate: Option<BytesPerSecond>,
}

/// The stages of a phase; their times add up to the phase's. Empty if nothing was profiled.
pub fn stages(arm: &Arm, phase: Phase) -> Vec<StageTime> {
    let launches: Vec<BTreeMap<String, f64>> =
        ok_launches(arm).filter_map(|l| per_token(l, phase)).collect();
    if launches.is_empty() {
        return Vec::new();
    }
    let mut names: Vec<&String> = launches.iter().flat_map(|l| l.keys()).collect();
    names.sort_by_key(|name| (rank(name), name.as_str()));
    names.dedup();
    let n = launches.len() as f64;
    let whole = launches.iter().flat_map(|l| l.values()).sum::<f64>() / n;
    names
        .into_iter()
        .map(|name| {
            let values: Vec<f64> =
                launches.iter().map(|l| l.get(name).copied().unwrap_or(0.0)).collect();
            let mean = values.iter().sum::<f64>() / n;
            let bytes = (phase == Phase::Decode).then(|| weight_bytes(arm, name)).flatten();
            StageTime {
                stage: name.clone(),
                per_token: values.into_iter().map(Seconds).collect(),
                mean: Seconds(mean),
                share: if whole > 0.0 { mean / whole } else { 0.0 },
                rate: bytes.filter(|_| mean > 0.0).map(|b| BytesPerSecond(b as f64 / mean)),
            }
        })
        .collect()
}

/// The stages of both phases as metrics over launches, in seconds per token:
/// `profile_decode_mlp_s`.
pub fn stage_metrics(arm: &Arm) -> Vec<(String, MetricSummary)> {
    let of = |(name, phase): (&'static str, Phase)| {
        stages(arm, phase).into_iter().filter_map(move |s| {
            let values = s.per_token.iter().map(|v| v.0).collect();
            let summary = summary::of_values(Unit::Seconds, Better::Lower, values)?;
            Some((format!("profile_{name}_{}_s", s.stage), summary))
        })
    };
    [("prefill", Phase::Prefill), ("decode", Phase::Decode)].into_iter().flat_map(of).collect()
}

/// How much longer a decoded token took in the profiled generations than in the measured ones of
/// the same launches, as a share: the geometric mean over prompts and launches. It contains the
/// cost of the clocks and chance.
pub fn profiling_cost(arm: &Arm) -> Option<f64> {
    // Each prompt is compared with itself, because tokens of a long prompt take longer.
    let per_token = |launch: &Launch, id: &str, role: Role| {
        let runs = || launch.prompts.iter().filter(|run| run.role == role && run.id == id);
        let ns: u64 = runs().filter_map(decode_ns).sum();
        let steps: u32 = runs().map(|run| run.n_gen.saturating_sub(1)).sum();
        (ns > 0 && steps > 0).then(|| ns as f64 / f64::from(steps))
    };
    let ratios = ok_launches(arm).flat_map(|launch| {
        profiled(launch).filter_map(move |(run, _)| {
            let with = per_token(launch, &run.id, Role::Profiled)?;
            Some((with / per_token(launch, &run.id, Role::Measured)?).ln())
        })
    });
    let logs: Vec<f64> = ratios.collect();
    let n = logs.len() as f64;
    (n > 0.0).then(|| (logs.iter().sum::<f64>() / n).exp() - 1.0)
}

fn rank(stage: &str) -> usize {
    let known = STAGES.iter().position(|s| *s == stage);
    known.unwrap_or(STAGES.len() + usize::from(stage == OTHER))
}

/// Seconds per token by stage over the profiled generations of a launch; `None` without any.
fn per_token(launch: &Launch, phase: Phase) -> Option<BTreeMap<String, f64>> {
    let (mut tokens, mut sums) = (0.0, BTreeMap::<String, f64>::new());
    for (run, profile) in profiled(launch) {
        let (stages, whole, n) = match phase {
            Phase::Prefill => (&profile.prefill_ns, prefill_ns(run)?, run.n_prompt),
            Phase::Decode => (&profile.decode_ns, decode_ns(run)?, run.n_gen.saturating_sub(1)),
        };
        tokens += f64::from(n);
        for (stage, ns) in stages {
            *sums.entry(stage.clone()).or_default() += *ns as f64 / 1e9;
        }
        let claimed: u64 = stages.values().sum();
        *sums.entry(OTHER.into()).or_default() += (whole as f64 - claimed as f64) / 1e9;
    }
    sums.values_mut().for_each(|s| *s /= tokens);
    (tokens > 0.0).then_some(sums)
}

fn profiled(launch: &Launch) -> impl Iterator<Item = (&PromptRun, &Profile)> {
    let runs = launch.prompts.iter().filter(|run| run.role == Role::Profiled);
    runs.filter_map(|run| Some((run, run.profile.as_ref()?)))
}

fn prefill_ns(run: &PromptRun) -> Option<u64> {
    run.token_ns.first()?.checked_sub(run.begin_ns?)
}

fn decode_ns(run: &PromptRun) -> Option<u64> {
    run.token_ns.last()?.checked_sub(*run.token_ns.first()?)
}

fn weight_bytes(arm: &Arm, stage: &str) -> Option<u64> {
    let mut profiles = ok_launches(arm).flat_map(profiled).map(|(_, profile)| profile);
    profiles.find_map(|p| p.decode_weight_bytes.get(stage).copied())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing;

    /// Candle's arm with a profiled generation in each launch: 10 prompt tokens in 1 s, then 4
    /// steps of 0.1 s.
    fn profiled_arm() -> Arm {
        let mut arm = testing::arm(&testing::CANDLE, 2);
        for launch in &mut arm.launches {
            let mut run = launch.prompts[0].clone();
            run.role = Role::Profiled;
            (run.n_prompt, run.n_gen, run.begin_ns) = (10, 5, Some(0));
            run.token_ns = (0..5).map(|i| 1_000_000_000 + i * 100_000_000).collect();
            run.profile = Some(Profile {
                prefill_ns: [("mlp".to_string(), 700_000_000)].into(),
                decode_ns: [("mlp", 200_000_000u64), ("head", 100_000_000)]
                    .map(|(s, ns)| (s.to_string(), ns))
                    .into(),
                decode_weight_bytes: [("mlp".to_string(), 500_000_000)].into(),
            });
            launch.prompts.push(run);
        }
        arm
    }

    #[test]
    fn stages_and_the_rest_add_up_to_the_time_of_the_phase() {
        let arm = profiled_arm();
        let decode = stages(&arm, Phase::Decode);
        let names: Vec<&str> = decode.iter().map(|s| s.stage.as_str()).collect();
        assert_eq!(names, ["mlp", "head", OTHER]);
        let sum: f64 = decode.iter().map(|s| s.mean.0).sum();
        assert!((sum - 0.1).abs() < 1e-12);
        assert!((decode[0].share - 0.5).abs() < 1e-12);
        // 0.5 GB in 50 ms.
        assert!((decode[0].rate.unwrap().0 - 10e9).abs() < 1.0);
        assert_eq!(decode[1].rate, None);
        let prefill = stages(&arm, Phase::Prefill);
        assert!((prefill[0].mean.0 - 0.07).abs() < 1e-12);
        assert!((prefill[1].mean.0 - 0.03).abs() < 1e-12);
    }

    #[test]
    fn the_cost_of_profiling_is_measured_against_the_measured_generations() {
        let mut arm = profiled_arm();
        for launch in &mut arm.launches {
            launch.prompts.retain(|run| run.role == Role::Profiled);
            let mut measured = launch.prompts[0].clone();
            measured.role = Role::Measured;
            measured.token_ns = (0..5).map(|i| 1_000_000_000 + i * 80_000_000).collect();
            launch.prompts.push(measured);
        }
        assert!((profiling_cost(&arm).unwrap() - 0.25).abs() < 1e-12);
        assert_eq!(profiling_cost(&testing::arm(&testing::CANDLE, 1)), None);
    }

    #[test]
    fn an_arm_that_was_not_profiled_has_no_stages() {
        assert!(stages(&testing::arm(&testing::CANDLE, 2), Phase::Decode).is_empty());
    }
}
