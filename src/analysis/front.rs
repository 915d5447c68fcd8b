//! The points of a sweep that no other point beats: speed, loss of quality and memory at once (the
//! Pareto front).

use crate::metric::{Better, Metric};
use crate::record::{Arm, Loss};

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

/// Half of the 95 % interval of a mean divergence; absent with one window.
pub fn half_width(loss: &Loss) -> Option<f64> {
    loss.kl_se.map(|se| Z * se)
}

/// Of points by (cost, gain), those that no other one beats in both, from the cheapest on: where a
/// picture draws the edge.
pub fn edge(points: &[(f64, f64)]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|a, b| {
        let (a, b) = (points[*a], points[*b]);
        a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1))
    });
    let mut best = f64::NEG_INFINITY;
    order.retain(|i| {
        let beats = points[*i].1 > best;
        best = best.max(points[*i].1);
        beats
    });
    order
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
            let (mean, half) = (loss.kl.mean, half_width(loss).unwrap_or(f64::INFINITY));
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
    use crate::analysis::testing::judged as point;

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
    fn the_edge_rises_from_the_cheapest_to_the_best() {
        let points = [(0.3, 40.0), (0.0, 10.0), (0.1, 5.0), (0.1, 20.0), (0.4, 40.0)];
        assert_eq!(edge(&points), [1, 3, 0]);
        assert_eq!(edge(&[]), [0usize; 0]);
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
