//! The points of a sweep that no other point beats: speed, loss of quality and memory at once (the
//! Pareto front).

use crate::metric::{Better, Metric};
use crate::record::Arm;

/// A figure of which less is better, with the ends of its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Figure {
    value: f64,
    low: f64,
    high: f64,
}

/// Standard errors on each side of a mean that hold 95 % of a normal distribution.
const Z: f64 = 1.96;

/// Whether each arm is on the front. It is not where another arm is at least as good in every
/// figure that it has, and better beyond the noise in one: their intervals do not overlap. An arm
/// without a decode rate is not on it.
pub fn front(arms: &[Arm]) -> Vec<bool> {
    let figures: Vec<[Option<Figure>; 3]> = arms.iter().map(figures).collect();
    let beats = |a: &[Option<Figure>; 3], b: &[Option<Figure>; 3]| {
        let both = || a.iter().zip(b).filter_map(|(a, b)| Some((*a, (*b)?)));
        both().all(|(a, b)| a.is_some_and(|a| a.value <= b.value))
            && both().any(|(a, b)| a.is_some_and(|a| a.high < b.low))
    };
    let on = |b: &[Option<Figure>; 3]| b[0].is_some() && !figures.iter().any(|a| beats(a, b));
    figures.iter().map(on).collect()
}

/// Decode rate, divergence, and peak of the device's memory.
fn figures(arm: &Arm) -> [Option<Figure>; 3] {
    let peak = match arm.metrics.contains_key(&Metric::PeakGpuBytes) {
        true => Metric::PeakGpuBytes,
        false => Metric::PeakHostBytes,
    };
    let loss = arm.quality.as_ref().map(|quality| match &quality.loss {
        None => Figure { value: 0.0, low: 0.0, high: 0.0 },
        Some(loss) => {
            let (mean, half) = (loss.kl.mean, Z * loss.kl_se.unwrap_or(f64::INFINITY));
            Figure { value: mean, low: mean - half, high: mean + half }
        }
    });
    [metric(arm, Metric::DecodeTps), loss, metric(arm, peak)]
}

fn metric(arm: &Arm, metric: Metric) -> Option<Figure> {
    let summary = arm.metrics.get(&metric)?;
    let [low, high] = summary.ci95.unwrap_or([f64::NEG_INFINITY, f64::INFINITY]);
    Some(match metric.better() {
        Better::Lower => Figure { value: summary.mean, low, high },
        Better::Higher => Figure { value: -summary.mean, low: -high, high: -low },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing;
    use crate::record::{Loss, Quality, Quantiles};

    /// A point with intervals of one percent; `kl` 0 is the reference.
    fn point(decode: f64, kl: f64, peak: f64) -> Arm {
        let mut record = testing::record();
        crate::analysis::summarize(&mut record);
        let mut arm = record.arms.swap_remove(0);
        for (metric, mean) in [(Metric::DecodeTps, decode), (Metric::PeakHostBytes, peak)] {
            let summary = arm.metrics.get_mut(&metric).unwrap();
            summary.mean = mean;
            summary.ci95 = Some([0.99 * mean, 1.01 * mean]);
        }
        let quantiles = Quantiles { mean: kl, median: kl, p90: kl, p99: kl, p999: kl };
        let loss = Loss {
            ln_ppl_ratio: kl,
            ln_ppl_ratio_se: None,
            kl: quantiles,
            kl_se: Some(kl / 100.0),
            kl_by_confidence: Vec::new(),
            top1: 1.0,
            rms_delta_p: 0.0,
        };
        arm.quality = Some(Quality {
            reference: "F16".into(),
            text: "standard".into(),
            text_sha256: String::new(),
            windows: 10,
            window: 512,
            positions: 2550,
            ppl: 10.0,
            ppl_reference: 10.0,
            loss: (kl > 0.0).then_some(loss),
            floor: None,
        });
        arm
    }

    #[test]
    fn a_point_is_beaten_by_one_that_is_better_beyond_the_noise_and_worse_in_nothing() {
        let f16 = point(10.0, 0.0, 2.5e9);
        let q8 = point(20.0, 0.001, 1.3e9);
        let q4 = point(40.0, 0.05, 0.8e9);
        let clumsy = point(30.0, 0.06, 0.9e9);
        let as_good = point(39.9, 0.0501, 0.8e9);
        assert_eq!(front(&[f16, q8, q4, clumsy, as_good]), [true, true, true, false, true]);
    }

    #[test]
    fn a_point_without_quality_beats_none_that_has_it() {
        let mut unknown = point(100.0, 0.01, 0.1e9);
        unknown.quality = None;
        let mut failed = point(10.0, 0.0, 1e9);
        failed.metrics.clear();
        assert_eq!(front(&[unknown, point(10.0, 0.1, 1e9), failed]), [true, true, false]);
    }
}
