//! Energy of the measured windows from the card's counter, or, on a card without one, from its
//! power.
//!
//! The counter moves in steps, on data center cards ten times a second, and is read more often. So
//! only its steps are points of the curve, and a window is cut out between them. At each edge the
//! step's energy is spread evenly over it. If the power changes by as much as itself there, that
//! is wrong by at most a quarter of a step's energy, so five steps in a window bound the error of
//! both edges to a tenth of the window's energy. A window with fewer has no energy.

use crate::record::Energy;
use crate::sensors::nvml::Reading;
use crate::sensors::windows::{Curve, Windows};
use crate::units::{MonoNs, Seconds};

/// Steps of the counter that each window must hold.
const LEAST_STEPS: u32 = 5;

/// The driver averages power over up to a second, so a window must be longer than that.
const LEAST_OF_POWER: Seconds = Seconds(2.0);

/// The energy of all windows, or why there is none.
pub(super) fn of(readings: &[Reading], windows: &Windows) -> Result<Energy, String> {
    let Some(shortest) = shortest(windows) else {
        return Err("no window was measured".into());
    };
    let counter = steps(readings);
    if counter.0.len() >= 2 {
        let resolution = resolution(&counter);
        let fewest = windows.measured.iter().map(|window| counter.steps(*window)).min();
        if fewest.unwrap_or(0) < LEAST_STEPS {
            let needed = Seconds(resolution.0 * f64::from(LEAST_STEPS));
            return Err(format!(
                "the counter moves every {resolution} and the shortest of the measured windows \
                 takes {shortest}: each must take {needed} or more (a longer -n)"
            ));
        }
        return cut(&counter, windows, "NVML energy counter", resolution);
    }
    let power = integral(readings);
    if power.0.len() < 2 {
        return Err("the card has neither an energy counter that moves nor a power reading".into());
    }
    if shortest < LEAST_OF_POWER {
        return Err(format!(
            "the card has no energy counter, its power is an average over up to a second, and the \
             shortest of the measured windows takes {shortest}: each must take {LEAST_OF_POWER} \
             or more (a longer -n)"
        ));
    }
    cut(&power, windows, "NVML power readings, integrated", resolution(&power))
}

fn cut(curve: &Curve, windows: &Windows, source: &str, step: Seconds) -> Result<Energy, String> {
    let Some(joules) = curve.joules(&windows.measured) else {
        return Err("a measured window lies outside the readings".into());
    };
    let request_joules = curve.joules(&windows.requests).filter(|_| !windows.requests.is_empty());
    Ok(Energy {
        source: source.into(),
        joules,
        seconds: Windows::seconds(&windows.measured),
        steps: windows.measured.iter().map(|window| curve.steps(*window)).sum(),
        resolution_s: Some(step.0),
        request_joules,
        request_seconds: request_joules.map(|_| Windows::seconds(&windows.requests)),
    })
}

fn shortest(windows: &Windows) -> Option<Seconds> {
    let lengths = windows.measured.iter().map(|(from, to)| to.since(*from).0);
    lengths.min_by(f64::total_cmp).map(Seconds)
}

/// Where the counter moved: halfway between the last reading of the old value and the first of the
/// new one. The first value has no known beginning and is left out.
fn steps(readings: &[Reading]) -> Curve {
    let counter: Vec<(MonoNs, u64)> = readings.iter().filter_map(|r| r.energy).collect();
    let first = counter.first().map_or(0, |first| first.1);
    let moved = counter.windows(2).filter(|pair| pair[1].1 > pair[0].1);
    let point = |pair: &[(MonoNs, u64)]| {
        let at = MonoNs(pair[0].0.0.midpoint(pair[1].0.0));
        (at, (pair[1].1 - first) as f64 / 1e3)
    };
    Curve(moved.map(point).collect())
}

/// The median time between two points.
fn resolution(curve: &Curve) -> Seconds {
    let mut gaps: Vec<f64> = curve.0.windows(2).map(|pair| pair[1].0.since(pair[0].0).0).collect();
    gaps.sort_by(f64::total_cmp);
    Seconds(gaps.get(gaps.len() / 2).copied().unwrap_or(0.0))
}

/// Power summed up, linear between two readings.
fn integral(readings: &[Reading]) -> Curve {
    let mut sum = 0.0;
    let mut last: Option<(MonoNs, f64)> = None;
    let power = readings.iter().filter_map(|r| Some((r.at, f64::from(r.power_mw?) / 1e3)));
    let point = |(at, watts): (MonoNs, f64)| {
        sum += last.map_or(0.0, |(then, before)| at.since(then).0 * watts.midpoint(before));
        last = Some((at, watts));
        (at, sum)
    };
    Curve(power.map(point).collect())
}
