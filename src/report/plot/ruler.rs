//! Scales: from values to places in a picture, and the round values at which an axis is marked.

use super::{Axis, Steps};

/// A linear axis spans at least this share of its level, so that a line that hardly moves is not
/// blown up.
const LEAST_SPAN: f64 = 0.05;
/// Of the span, beyond the outermost values.
const ROOM: f64 = 0.06;
/// Of a logarithmic axis, for values that are not above zero.
const ZERO_SLOT: f64 = 0.11;
/// With more counts, an axis is marked at round values.
const MOST_COUNTS: usize = 10;
/// A log axis spans at least this factor.
const LEAST_FACTOR: f64 = 1.6;

/// One axis of a picture.
#[derive(Debug, Clone)]
pub struct Ruler {
    kind: Kind,
    /// Places of the first and the last value; the first may be the larger number.
    from: f64,
    to: f64,
    factor: f64,
    /// Counts: no marks between whole numbers.
    whole: bool,
    /// A few counts are marked where they are: 1, 2, 4, 8.
    counts: Vec<f64>,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Linear {
        low: f64,
        high: f64,
    },
    /// Logarithms to base ten. With a slot before them for values that are not above zero.
    Log {
        low: f64,
        high: f64,
        slot: bool,
    },
    /// Evenly spaced places.
    Named {
        places: usize,
    },
}

/// A mark on an axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Tick {
    pub at: f64,
    pub label: String,
}

impl Ruler {
    /// For values whose reaches, if any, are to be seen as far as that flattens nothing.
    pub fn new(
        axis: &Axis,
        values: &[f64],
        reaches: impl Iterator<Item = f64>,
        [from, to]: [f64; 2],
    ) -> Self {
        let finite = || values.iter().copied().filter(|x| x.is_finite());
        let least = finite().fold(f64::INFINITY, f64::min);
        let most = finite().fold(f64::NEG_INFINITY, f64::max);
        let (least, most) = if least <= most { (least, most) } else { (0.0, 1.0) };
        let reaches = reaches.filter(|x| x.is_finite());
        let kind = match &axis.steps {
            Steps::Named(places) => Kind::Named { places: places.len() },
            Steps::Log => {
                let above = || finite().filter(|x| *x > 0.0);
                let slot = finite().any(|x| x <= 0.0);
                let low = above().fold(f64::INFINITY, f64::min);
                let high = if most > 0.0 { most } else { 1.0 };
                let (low, high) = (low.min(high), high);
                // An interval may reach below zero, or far beyond: it ends at the edge.
                let (low, high) = reaches.fold((low, high), |(a, b), x| match x > 0.0 {
                    true => (a.min(x.max(low / 2.0)), b.max(x.min(high * 2.0))),
                    false => (a, b),
                });
                let (mut low, mut high) = (low.log10(), high.log10());
                let short = (LEAST_FACTOR.log10() - (high - low)).max(0.0) / 2.0;
                let room = ROOM * (high - low + 2.0 * short);
                low -= short + room;
                high += short + room;
                Kind::Log { low, high, slot }
            }
            Steps::FromZero => {
                let span = most.max(-least).max(f64::MIN_POSITIVE);
                let high = reaches.fold(most, |a, x| a.max(x.min(most + span * 0.4)));
                let low = least.min(0.0);
                let high = if high > low { high } else { low + 1.0 };
                Kind::Linear { low: low * 1.04, high: high + 0.04 * (high - low) }
            }
            Steps::Linear => {
                // The interval of two launches may be twenty times their difference. It may leave
                // the plot, but must not flatten everything else.
                let span = (most - least).max(LEAST_SPAN * most.abs().max(least.abs()));
                let span = if span > 0.0 { span } else { 1.0 };
                let (low, high) = reaches.fold((least, most), |(a, b), x| {
                    (a.min(x.max(least - span)), b.max(x.min(most + span)))
                });
                let short = (span - (high - low)).max(0.0) / 2.0;
                let room = ROOM * (high - low + 2.0 * short);
                Kind::Linear { low: low - short - room, high: high + short + room }
            }
        };
        let whole = axis.scale.digits == Some(0);
        let mut counts: Vec<f64> = if whole { finite().collect() } else { Vec::new() };
        counts.sort_by(f64::total_cmp);
        counts.dedup();
        if counts.len() > MOST_COUNTS || matches!(kind, Kind::Named { .. }) {
            counts.clear();
        }
        Self { kind, from, to, factor: axis.scale.factor, whole, counts }
    }

    /// Where a value lies; a value beyond the axis lies at its end.
    pub fn place(&self, value: f64) -> f64 {
        let share = match self.kind {
            Kind::Linear { low, high } => (value - low) / (high - low),
            Kind::Log { slot: true, .. } if value <= 0.0 => ZERO_SLOT * 0.4,
            Kind::Log { low, high, slot } => {
                let start = if slot { ZERO_SLOT } else { 0.0 };
                let share = (value.max(f64::MIN_POSITIVE).log10() - low) / (high - low);
                start + share.clamp(0.0, 1.0) * (1.0 - start)
            }
            Kind::Named { places: 0 | 1 } => 0.5,
            Kind::Named { places } => value / (places - 1) as f64,
        };
        let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
        self.from + share * (self.to - self.from)
    }

    /// Where the axis is interrupted between zero and its first decade.
    pub fn gap(&self) -> Option<f64> {
        let slot = matches!(self.kind, Kind::Log { slot: true, .. });
        slot.then_some(self.from + 0.8 * ZERO_SLOT * (self.to - self.from))
    }

    /// Marks at round values, at least `apart` from each other.
    pub fn ticks(&self, apart: f64) -> Vec<Tick> {
        let length = (self.to - self.from).abs();
        let most = (length / apart).max(2.0);
        if !self.counts.is_empty() {
            let mut ticks: Vec<Tick> = Vec::new();
            for count in &self.counts {
                let at = self.place(*count);
                if ticks.last().is_none_or(|last| (at - last.at).abs() >= apart / 2.0) {
                    ticks.push(Tick { at, label: format!("{count}") });
                }
            }
            return ticks;
        }
        match self.kind {
            Kind::Named { .. } => Vec::new(),
            Kind::Linear { low, high } => {
                let (low, high) = (low * self.factor, high * self.factor);
                let least = if self.whole { 1.0 } else { 0.0 };
                let step = round_step(((high - low) / most).max(least));
                let digits = (-step.log10().floor()).clamp(0.0, 12.0) as usize;
                let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
                let tick = |i: i64| {
                    let value = i as f64 * step;
                    Tick { at: self.place(value / self.factor), label: format!("{value:.digits$}") }
                };
                (first..=last.min(first.saturating_add(40))).map(tick).collect()
            }
            Kind::Log { low, high, slot } => {
                let shift = self.factor.log10();
                let values = decades(low + shift, high + shift, most);
                let tick = |(times, power): (f64, i32)| {
                    let value = times * 10f64.powi(power);
                    Tick { at: self.place(value / self.factor), label: plain(times, power) }
                };
                let zero = slot.then(|| Tick { at: self.place(0.0), label: "0".into() });
                zero.into_iter().chain(values.into_iter().map(tick)).collect()
            }
        }
    }
}

/// Round values between two logarithms, at most about `most`: 1, 2 and 5 of each decade, decades
/// alone, or every other one.
fn decades(low: f64, high: f64, most: f64) -> Vec<(f64, i32)> {
    let (first, last) = (low.floor() as i32, high.ceil() as i32);
    let within = |times: &[f64], stride: i32| -> Vec<(f64, i32)> {
        let all = (first..=last).filter(|power| power.rem_euclid(stride) == 0);
        all.flat_map(|power| times.iter().map(move |t| (*t, power)))
            .filter(|(t, power)| {
                let place = t.log10() + f64::from(*power);
                (low - 1e-9..=high + 1e-9).contains(&place)
            })
            .collect()
    };
    let mut chosen = within(&[1.0, 2.0, 5.0], 1);
    for (times, stride) in [(&[1.0, 3.0][..], 1), (&[1.0][..], 1), (&[1.0][..], 2), (&[1.0][..], 4)]
    {
        if chosen.len() as f64 > most {
            chosen = within(times, stride);
        }
    }
    // A short stretch may hold no such value.
    if chosen.len() < 2 {
        chosen = within(&[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0], 1);
    }
    chosen
}

/// `200`, `0.05`, `2e-5`.
fn plain(times: f64, power: i32) -> String {
    if (-3..=5).contains(&power) {
        let value = times * 10f64.powi(power);
        let digits = (-power + i32::from(times.fract() > 0.0)).max(0) as usize;
        return format!("{value:.digits$}");
    }
    format!("{times}e{power}")
}

/// 1, 2 or 5 times a power of ten, at least `least`.
fn round_step(least: f64) -> f64 {
    if !(least.is_finite() && least > 0.0) {
        return 1.0;
    }
    let power = 10f64.powf(least.log10().floor());
    let times = [1.0, 2.0, 5.0, 10.0].into_iter().find(|t| t * power >= least);
    times.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::Scale;
    use crate::report::plot::Axis;
    use proptest::prelude::*;

    fn ruler(steps: Steps, values: &[f64]) -> Ruler {
        let axis = Axis::new("x", Scale { unit: "", factor: 1.0, digits: None }, steps);
        Ruler::new(&axis, values, std::iter::empty(), [0.0, 400.0])
    }

    fn labels(ruler: &Ruler) -> Vec<String> {
        ruler.ticks(70.0).into_iter().map(|t| t.label).collect()
    }

    #[test]
    fn axes_are_marked_at_round_values() {
        assert_eq!(labels(&ruler(Steps::FromZero, &[54.0])), ["0", "10", "20", "30", "40", "50"]);
        assert_eq!(labels(&ruler(Steps::Linear, &[0.51, 0.58])), ["0.52", "0.54", "0.56", "0.58"]);
        assert_eq!(labels(&ruler(Steps::Log, &[1.0, 1000.0])), ["1", "10", "100", "1000"]);
        assert_eq!(labels(&ruler(Steps::Log, &[0.0, 1e-5, 0.3]))[..3], ["0", "1e-5", "1e-4"]);
        assert_eq!(labels(&ruler(Steps::Log, &[100.0, 120.0])).len(), 2);
        let scale = Scale { unit: "", factor: 1.0, digits: Some(0) };
        let count = Axis::new("threads", scale, Steps::FromZero);
        let few = Ruler::new(&count, &[1.0, 8.0, 2.0, 8.0], std::iter::empty(), [0.0, 400.0]);
        assert_eq!(labels(&few), ["1", "2", "8"]);
        let many: Vec<f64> = (2..33).map(f64::from).collect();
        let many = Ruler::new(&count, &many, std::iter::empty(), [0.0, 400.0]);
        assert_eq!(labels(&many), ["0", "10", "20", "30"]);
        assert_eq!(plain(2.0, -5), "2e-5");
        assert_eq!(plain(1.0, 5), "100000");
        assert_eq!(plain(1.5, -1), "0.15");
    }

    #[test]
    fn a_line_that_hardly_moves_is_not_blown_up_and_zero_has_its_place_before_the_decades() {
        let flat = ruler(Steps::Linear, &[100.0, 100.1]);
        assert!((flat.place(100.0) - flat.place(100.1)).abs() < 20.0);
        let log = ruler(Steps::Log, &[0.0, 0.001, 1.0]);
        assert!(log.place(0.0) < log.gap().unwrap() && log.gap().unwrap() < log.place(0.001));
        assert_eq!(ruler(Steps::Log, &[0.1, 1.0]).gap(), None);
    }

    #[test]
    fn an_interval_flattens_nothing() {
        let axis = Axis::new("x", Scale { unit: "", factor: 1.0, digits: None }, Steps::Linear);
        let values = [10.0, 11.0];
        let ruler = Ruler::new(&axis, &values, [-90.0, 110.0].into_iter(), [0.0, 300.0]);
        assert!(ruler.place(11.0) - ruler.place(10.0) > 80.0);
        assert_eq!(ruler.place(110.0), 300.0);
    }

    proptest! {
        #[test]
        fn every_value_has_its_place_and_order_is_kept(
            values in proptest::collection::vec(-1e12f64..1e12, 1..9),
            which in 0usize..3,
        ) {
            let steps = [Steps::Linear, Steps::FromZero, Steps::Log][which].clone();
            let ruler = ruler(steps, &values);
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            let places: Vec<f64> = sorted.iter().map(|x| ruler.place(*x)).collect();
            prop_assert!(places.iter().all(|p| (0.0..=400.0).contains(p)));
            prop_assert!(places.windows(2).all(|w| w[0] <= w[1]));
            prop_assert!(ruler.ticks(50.0).iter().all(|t| t.at.is_finite()));
        }
    }
}
