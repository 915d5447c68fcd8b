//! The measured windows of a launch, and the energy that a growing counter saw in them.

use super::Mark;
use crate::units::MonoNs;

/// From, to.
pub(super) type Window = (MonoNs, MonoNs);

/// Collected from the marks of a launch.
#[derive(Debug, Default)]
pub(super) struct Windows {
    /// Of a generation: first token to last.
    pub measured: Vec<Window>,
    /// Submit to last token.
    pub requests: Vec<Window>,
    pub submitted: Option<MonoNs>,
}

impl Windows {
    pub fn mark(&mut self, mark: Mark, at: MonoNs) {
        match mark {
            Mark::Submit => self.submitted = Some(at),
            Mark::WindowBegin => self.measured.push((at, at)),
            Mark::WindowEnd => {
                self.measured.last_mut().into_iter().for_each(|w| w.1 = at);
                self.requests.extend(self.submitted.take().map(|from| (from, at)));
            }
            Mark::Ready | Mark::Loaded | Mark::Finished => {}
        }
    }

    /// Seconds of all of them.
    pub fn seconds(windows: &[Window]) -> f64 {
        windows.iter().map(|(from, to)| to.since(*from).0).sum()
    }
}

/// Joules so far, at each of a series of times.
#[derive(Debug)]
pub(super) struct Curve(pub Vec<(MonoNs, f64)>);

impl Curve {
    /// Joules of all windows; `None` where one of them lies outside the series.
    pub fn joules(&self, windows: &[Window]) -> Option<f64> {
        windows.iter().map(|(from, to)| Some(self.until(*to)? - self.until(*from)?)).sum()
    }

    /// How often it rose inside a window.
    pub fn steps(&self, (from, to): Window) -> u32 {
        let rose =
            |pair: &&[(MonoNs, f64)]| (from..=to).contains(&pair[1].0) && pair[1].1 > pair[0].1;
        self.0.windows(2).filter(rose).count() as u32
    }

    /// Joules until `at`, linear between two points.
    fn until(&self, at: MonoNs) -> Option<f64> {
        let next = self.0.partition_point(|point| point.0 < at);
        let after = self.0.get(next)?;
        let Some(before) = next.checked_sub(1).map(|i| self.0[i]) else {
            return (after.0 == at).then_some(after.1);
        };
        let share = at.since(before.0).0 / after.0.since(before.0).0;
        Some(before.1 + share * (after.1 - before.1))
    }
}
