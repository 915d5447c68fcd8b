//! How long a speed lasts: the moments of a sustained run in stretches, and whether it slowed down.

use crate::record::{Moment, Sustained};
use crate::stats::Sample;

/// A stretch is slow below this share of the fastest of the first two.
pub const SLOW: f64 = 0.95;
/// A clock is lower below this share of the one in the fastest of the first two.
const LOWER: f64 = 0.97;
/// From so many minutes on a stretch is one minute; a shorter run has five stretches.
const IN_MINUTES: f64 = 5.0;

/// Consecutive moments.
#[derive(Debug, Clone, PartialEq)]
pub struct Stretch {
    pub from_s: f64,
    pub to_s: f64,
    /// Tokens over the time between the first and last token of each generation.
    pub decode_tps: f64,
    /// Medians.
    pub cpu_mhz: Option<f64>,
    pub sm_mhz: Option<f64>,
    /// Maxima.
    pub temperature_c: Option<f64>,
    pub gpu_temperature_c: Option<f64>,
    /// Means.
    pub watts: Option<f64>,
    pub gpu_watts: Option<f64>,
    pub steal: Option<f64>,
    /// How often the processor's cores throttled.
    pub throttles: Option<u64>,
    pub gpu_throttle: Vec<String>,
}

/// What became of the speed.
#[derive(Debug, Clone, PartialEq)]
pub enum Course {
    /// The slowest stretch as a share of the fastest of the first two.
    Steady { slowest: f64 },
    /// From `from_s` on every stretch was slow, and the reasons show.
    Throttled { from_s: f64, share: f64, why: Vec<String> },
    /// The same, and nothing that the machine reports says why.
    Slower { from_s: f64, share: f64 },
    /// Too short to have two stretches.
    Unknown,
}

/// The stretches, without empty ones.
pub fn stretches(run: &Sustained) -> Vec<Stretch> {
    let whole = run.moments.last().map_or(0.0, |m| m.at_s);
    let length = if run.minutes >= IN_MINUTES { 60.0 } else { (whole / 5.0).max(1e-9) };
    let mut found = Vec::new();
    let (mut from_s, mut throttled_before) = (0.0, 0);
    let mut rest = &run.moments[..];
    while !rest.is_empty() {
        // A moment belongs to the stretch in which it ends; the last one ends with the run.
        let until = from_s + length * (1.0 + 1e-9);
        let n = rest.iter().take_while(|m| m.at_s <= until).count();
        let (mine, others) = rest.split_at(n);
        if let (Some(last), Some(stretch)) =
            (mine.last(), stretch(mine, (from_s, from_s + length), throttled_before))
        {
            throttled_before = last.throttles.unwrap_or(throttled_before);
            found.push(stretch);
        }
        rest = others;
        from_s += length;
    }
    found
}

fn stretch(moments: &[Moment], (from_s, to_s): (f64, f64), throttled: u64) -> Option<Stretch> {
    let tokens: u64 = moments.iter().map(|m| m.tokens).sum();
    let seconds: f64 = moments.iter().map(|m| m.decode_s).sum();
    let all = |of: fn(&Moment) -> Option<f64>| moments.iter().filter_map(of).collect::<Vec<_>>();
    let median = |of| Sample::new(&all(of)).ok().map(|s| s.median());
    let most = |of| all(of).into_iter().reduce(f64::max);
    let mean = |of| Sample::new(&all(of)).ok().map(|s| s.mean());
    let mut reasons: Vec<String> = moments.iter().flat_map(|m| m.gpu_throttle.clone()).collect();
    reasons.sort();
    reasons.dedup();
    let throttles = moments.last()?.throttles.map(|n| n.saturating_sub(throttled));
    (seconds > 0.0).then(|| Stretch {
        from_s,
        to_s,
        decode_tps: tokens as f64 / seconds,
        cpu_mhz: median(|m| m.cpu_mhz),
        sm_mhz: median(|m| m.sm_mhz),
        temperature_c: most(|m| m.temperature_c),
        gpu_temperature_c: most(|m| m.gpu_temperature_c),
        watts: mean(|m| m.watts),
        gpu_watts: mean(|m| m.gpu_watts),
        steal: mean(|m| m.steal),
        throttles,
        gpu_throttle: reasons,
    })
}

/// The reference is the faster of the first two stretches: the first may hold a clock that still
/// rises. Only a slow-down that lasts to the end counts.
pub fn course(stretches: &[Stretch]) -> Course {
    let Some(first) = stretches
        .get(..2)
        .and_then(|two| two.iter().max_by(|a, b| a.decode_tps.total_cmp(&b.decode_tps)))
    else {
        return Course::Unknown;
    };
    let share = |s: &Stretch| s.decode_tps / first.decode_tps;
    let slow = stretches.iter().rev().take_while(|s| share(s) < SLOW).count();
    let tail = &stretches[stretches.len() - slow..];
    let slowest = |of: &[Stretch]| of.iter().map(share).fold(f64::INFINITY, f64::min);
    let Some(begin) = tail.first() else {
        return Course::Steady { slowest: slowest(stretches) };
    };
    let (from_s, share) = (begin.from_s, slowest(tail));
    let lower = |of: fn(&Stretch) -> Option<f64>| {
        let before = of(first)?;
        let now = tail.iter().filter_map(of).reduce(f64::min)?;
        (now < LOWER * before).then_some((before, now))
    };
    let mut why = Vec::new();
    for (name, of) in [
        ("the processor's clock", (|s| s.cpu_mhz) as fn(&Stretch) -> Option<f64>),
        ("the card's clock", |s| s.sm_mhz),
    ] {
        if let Some((before, now)) = lower(of) {
            why.push(format!("{name} fell from {before:.0} to {now:.0} MHz"));
        }
    }
    let throttles: u64 = tail.iter().filter_map(|s| s.throttles).sum();
    if throttles > 0 {
        why.push(format!("cores throttled {throttles} times"));
    }
    let mut reasons: Vec<&str> =
        tail.iter().flat_map(|s| &s.gpu_throttle).map(String::as_str).collect();
    reasons.sort_unstable();
    reasons.dedup();
    if !reasons.is_empty() {
        why.push(format!("the card says {}", reasons.join(", ")));
    }
    match why.is_empty() {
        true => Course::Slower { from_s, share },
        false => Course::Throttled { from_s, share, why },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One moment a second over ten minutes: speed and clock by the minute.
    fn run(minutes: u32, at: impl Fn(u32) -> (u64, f64)) -> Sustained {
        let moment = |second: u32| {
            let (tokens, mhz) = at((second - 1) / 60);
            Moment {
                at_s: f64::from(second),
                tokens,
                decode_s: 0.9,
                cpu_mhz: Some(mhz),
                ..Moment::default()
            }
        };
        Sustained { minutes: f64::from(minutes), moments: (1..=60 * minutes).map(moment).collect() }
    }

    #[test]
    fn a_machine_that_lowers_its_clock_from_the_fourth_minute_on_is_throttled() {
        let hot = run(10, |minute| if minute < 3 { (90, 4000.0) } else { (72, 3200.0) });
        let stretches = stretches(&hot);
        assert_eq!((stretches.len(), stretches[3].from_s), (10, 180.0));
        assert!((stretches[0].decode_tps - 100.0).abs() < 1e-9);
        let Course::Throttled { from_s, share, why } = course(&stretches) else { panic!() };
        assert_eq!((from_s, why.len()), (180.0, 1));
        assert!((share - 0.8).abs() < 1e-9 && why[0].contains("4000 to 3200 MHz"), "{why:?}");
    }

    #[test]
    fn a_dip_that_ends_is_steady_and_a_slow_end_without_a_reason_is_only_slower() {
        let dip = run(10, |minute| if minute == 5 { (60, 4000.0) } else { (90, 4000.0) });
        let Course::Steady { slowest } = course(&stretches(&dip)) else { panic!() };
        assert!((slowest - 60.0 / 90.0).abs() < 1e-9);
        let slow = run(10, |minute| if minute > 7 { (60, 4000.0) } else { (90, 4000.0) });
        assert!(matches!(course(&stretches(&slow)), Course::Slower { from_s: 480.0, .. }));
    }

    #[test]
    fn a_short_run_has_five_stretches_and_an_empty_one_none() {
        assert_eq!(stretches(&run(1, |_| (90, 4000.0))).len(), 5);
        assert_eq!(course(&stretches(&Sustained::default())), Course::Unknown);
    }
}
