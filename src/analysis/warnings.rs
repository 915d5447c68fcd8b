//! Finds what a reader of a record must know before quoting a number. The limits are here; the
//! words are in `finding`.

use std::collections::{BTreeMap, BTreeSet};

use super::finding::{Finding, Seen};
use super::timing::steady;
use super::{gpu, is_tokenizing, kind_name, ok_launches, tokens};
use crate::identity::asked_for_cold_cache;
use crate::metric::Metric;
use crate::record::{
    Arm, Environment, FailureKind, Launch, Record, Status, Verdict, Warning, WeightsSource,
};

/// Decode varies too much between launches above this.
const HIGH_CV: f64 = 0.10;
/// Fewer launches than this give no useful interval.
const FEW_LAUNCHES: u32 = 3;
/// Load per processor at the start; used if the share of other programs is unknown.
const LOADED: f64 = 0.25;
/// Bytes per second over the read bandwidth around the launch.
const MBU_LIMIT: f64 = 1.10;
/// Share of the model file in the page cache.
const RESIDENT: f64 = 0.99;

/// The warnings of a record, in the form that it holds. Looks at launches and summaries.
pub fn warnings(record: &Record) -> Vec<Warning> {
    findings(record).iter().map(Finding::to_warning).collect()
}

/// All findings of a record: the whole run first, then arm by arm.
fn findings(record: &Record) -> Vec<Finding> {
    let mut found = of_the_run(record);
    for arm in &record.arms {
        found.extend(failures(arm));
    }
    found.extend(few_launches(record));
    for arm in &record.arms {
        found.extend(of_the_arm(arm));
        let cards = gpu::findings(record, arm).into_iter();
        found.extend(cards.map(|of| Finding::Card { arm: arm.label.clone(), of }));
    }
    found.extend(unequal_precision(record));
    for agreement in tokens::agreements(record) {
        let (differing, prompts) = (agreement.divergences.len(), agreement.prompts);
        let (arm, reference) = (agreement.arm, agreement.reference);
        found.extend(agreement.divergences.into_iter().next().map(|first| {
            let tokens::Divergence { agree, of, prompt } = first;
            Finding::TokensDiffer { arm, reference, prompt, agree, of, differing, prompts }
        }));
    }
    found
}

fn of_the_run(record: &Record) -> Vec<Finding> {
    let mut found = Vec::new();
    let launches: Vec<&Launch> = record.arms.iter().flat_map(|a| &a.launches).collect();
    if record.models().iter().any(|m| m.weights == WeightsSource::Synthetic) {
        found.push(Finding::SyntheticWeights);
    }
    if record.build.profile != "release" {
        found.push(Finding::DebugBuild { profile: record.build.profile.clone() });
    }
    let threads = record.arms.iter().filter_map(|arm| arm.point.threads).max();
    if let (Some(quota), Some(threads)) = (record.host.processor_quota, threads)
        && quota < f64::from(threads)
    {
        found.push(Finding::ProcessorQuota { quota, threads });
    }
    if !record.run.complete {
        found.push(Finding::Incomplete { launches: launches.len() });
    }
    let names = unknown_metrics(&launches);
    if !names.is_empty() {
        found.push(Finding::UnknownMetrics { names });
    }
    if let Some(last) = record.run.resumed.last() {
        let times = record.run.resumed.len();
        found.push(Finding::Resumed { times, last: last.at.clone() });
    }
    let busy = |l: &&Launch| l.environment.busy_before;
    found.extend(
        seen(&launches, busy, |x| x > Environment::BUSY_LIMIT, f64::max)
            .map(|seen| Finding::BusyMachine { seen }),
    );
    // The load average includes our own launches, so it counts only if nothing better is known.
    if let Some(load) = record.host.load_average_1m
        && launches.iter().all(|l| l.environment.busy_before.is_none())
        && load > LOADED * f64::from(record.host.threads.max(1))
    {
        found.push(Finding::LoadedMachine { load, threads: record.host.threads });
    }
    let disturbed = launches.iter().filter(|l| l.environment.disturbed).count();
    if disturbed > 0 {
        found.push(Finding::Disturbed { launches: disturbed, of: launches.len() });
    }
    let steal = |l: &&Launch| l.environment.steal;
    found.extend(
        seen(&launches, steal, |x| x > Environment::STEAL_LIMIT, f64::max)
            .map(|seen| Finding::Steal { seen }),
    );
    if !asked_for_cold_cache(record) {
        let resident = |l: &&Launch| l.environment.page_cache_resident;
        found.extend(
            seen(&launches, resident, |x| x < RESIDENT, f64::min)
                .map(|seen| Finding::PageCacheCold { seen }),
        );
    }
    found
}

fn unknown_metrics(launches: &[&Launch]) -> Vec<String> {
    let of = |l: &&Launch| {
        let own = std::iter::once(&l.metrics);
        let all = own.chain(l.prompts.iter().map(|run| &run.metrics));
        all.flat_map(|values| values.unknown()).map(str::to_string).collect::<Vec<_>>()
    };
    launches.iter().flat_map(of).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Counts the items for which a value is known and bad, and keeps the worst.
fn seen<T>(
    items: &[T],
    value: impl Fn(&T) -> Option<f64>,
    bad: impl Fn(f64) -> bool,
    worse: impl Fn(f64, f64) -> f64,
) -> Option<Seen> {
    let bad: Vec<f64> = items.iter().filter_map(value).filter(|x| bad(*x)).collect();
    let worst = bad.iter().copied().reduce(worse)?;
    Some(Seen { launches: bad.len(), of: items.len(), worst })
}

fn failures(arm: &Arm) -> Vec<Finding> {
    let mut reasons: BTreeMap<(String, String), (FailureKind, usize)> = BTreeMap::new();
    for launch in arm.launches.iter().filter(|l| l.status == Status::Failed) {
        let (kind, message) = match &launch.error {
            Some(error) => (error.kind, error.message.as_str()),
            None => (FailureKind::Internal, "no reason was recorded"),
        };
        let line = message.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or("");
        reasons.entry((kind_name(kind), line.to_string())).or_insert((kind, 0)).1 += 1;
    }
    let of = arm.launches.len();
    let finding = |((_, line), (kind, failed))| Finding::Failed {
        arm: arm.label.clone(),
        failed,
        of,
        kind,
        line,
    };
    reasons.into_iter().map(finding).collect()
}

fn few_launches(record: &Record) -> Vec<Finding> {
    let counts: Vec<(&Arm, u32)> = record
        .arms
        .iter()
        .map(|arm| (arm, ok_launches(arm).count() as u32))
        .filter(|(_, n)| *n > 0)
        .collect();
    let Some((_, n)) = counts.first().copied() else { return Vec::new() };
    if counts.iter().all(|(_, other)| *other == n) {
        return Vec::from_iter((n < FEW_LAUNCHES).then_some(Finding::FewLaunches { arm: None, n }));
    }
    let few = counts.iter().filter(|(_, n)| *n < FEW_LAUNCHES);
    few.map(|(arm, n)| Finding::FewLaunches { arm: Some(arm.label.clone()), n: *n }).collect()
}

fn of_the_arm(arm: &Arm) -> Vec<Finding> {
    let mut found = Vec::new();
    let label = || arm.label.clone();
    if let Some(factor) = arm.settings.get("slow_down").and_then(|f| f.as_f64()) {
        found.push(Finding::SlowedDown { arm: label(), factor });
    }
    if let Some(decode) = arm.metrics.get(&Metric::DecodeTps)
        && let Some(cv) = decode.cv.filter(|cv| *cv > HIGH_CV)
    {
        found.push(Finding::HighVariance { arm: label(), cv, n: decode.n });
    }
    let launches: Vec<&Launch> = ok_launches(arm).collect();
    let larger = |a: f64, b: f64| if b.abs() > a.abs() { b } else { a };
    found.extend(
        seen(&launches, |l| unsteady(l), |_| true, larger)
            .map(|seen| Finding::NotSteady { arm: label(), seen }),
    );
    if let Some(mbu) = arm.metrics.get(&Metric::Mbu).map(|s| s.max).filter(|mbu| *mbu > MBU_LIMIT) {
        found.push(Finding::BandwidthExceeded { arm: label(), mbu });
    }
    for (metric, value) in launches.iter().flat_map(|l| &l.metrics) {
        let finding = Finding::NotANumber { arm: label(), metric: *metric };
        if !value.is_finite() && !found.contains(&finding) {
            found.push(finding);
        }
    }
    if let Some(v) = arm.verification.as_ref().filter(|v| v.verdict == Verdict::Fail) {
        found.push(Finding::OtherFunction {
            arm: label(),
            reference: v.reference.clone(),
            reason: v.reason.clone().unwrap_or_else(|| "no reason was recorded".into()),
        });
    }
    let prompts = tokens::unstable_prompts(arm);
    if !prompts.is_empty() {
        found.push(Finding::Nondeterministic { arm: label(), prompts });
    }
    found
}

/// The drift of a launch that did not reach a steady state.
fn unsteady(launch: &Launch) -> Option<f64> {
    let steady = steady(launch);
    steady.drift.filter(|_| steady.reached() == Some(false))
}

fn unequal_precision(record: &Record) -> Option<Finding> {
    if is_tokenizing(record) {
        return None; // nothing is multiplied
    }
    let baseline = record.comparisons.first()?.baseline.clone();
    let mut arms: Vec<String> = Vec::new();
    for comparison in record.comparisons.iter().filter(|c| !c.equal_precision) {
        if !arms.contains(&comparison.arm) {
            arms.push(comparison.arm.clone());
        }
    }
    (!arms.is_empty()).then_some(Finding::UnequalPrecision { baseline, arms })
}
