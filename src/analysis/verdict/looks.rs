//! Ending a comparison early, or going on once, without spending more than alpha.

use crate::stats;

/// Which look at the data a decision is made at. One extension is planned before the first
/// launch, and at most doubles the launches; "repeat until it passes" is not a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// No extension is planned.
    Only,
    /// An extension is planned, and this is the look before it.
    First,
    /// The look after the extension.
    Second,
}

impl Look {
    /// The level of each test at this look, so that both together spend at most `alpha`: Pocock
    /// (1977) for two looks, .0294 of .05. Half of `alpha` where that has no answer, which is
    /// always safe.
    pub fn alpha(self, alpha: f64) -> f64 {
        match self {
            Look::Only => alpha,
            Look::First | Look::Second => stats::pocock(alpha).unwrap_or(alpha / 2.0),
        }
    }
}

/// Whether an estimate is precise enough for the decision to be final: the half-width of its 90 %
/// interval on the log scale is less than half of theta. It looks at the spread and never at the
/// change itself.
pub fn precision_reached(half_width: f64, theta: f64) -> bool {
    half_width < theta / 2.0
}
