//! Pure numbers: samples, intervals, tests. Knows nothing of engines, metrics or records.

#![forbid(unsafe_code)]

mod beta;
mod change_points;
mod effect;
mod margin;
mod multiplicity;
mod noncentral;
mod power;
mod proportion;
mod sample;
mod sequential;
mod sessions;
mod shift;
mod student;
mod trend;
mod welch;

pub use change_points::{ChangePoint, Kind as ChangeKind, Levels, Search, levels};
pub use effect::hedges_g;
pub use margin::{MarginP, MarginTest, margin_of_logs, margin_test};
pub use multiplicity::holm;
pub use power::{Design, launches_needed, minimum_detectable_effect, power};
pub use proportion::{at_least, clopper_pearson, fisher_one_sided, wilson};
pub use sample::{BadSample, Interval, Sample, Summary, describe, mean_interval};
pub use sequential::{pocock, spending_levels};
pub use sessions::{Between, between_sessions, over_sessions, session_spread};
pub use shift::{Layout, ShiftTest, fewest_to_reach, quantile_test, shift_test};
pub use student::normal_quantile;
pub use trend::{autocorrelation, drift};
pub use welch::{Ratio, TTest, Welch, ratio_of_geometric_means, welch};
