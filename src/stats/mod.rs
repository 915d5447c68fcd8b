//! Pure numbers: samples, intervals, tests. Knows nothing of engines, metrics or records.

mod effect;
mod margin;
mod multiplicity;
mod noncentral;
mod power;
mod sample;
mod student;
mod trend;
mod welch;

pub use effect::hedges_g;
pub use margin::{MarginP, MarginTest, margin_test};
pub use multiplicity::{benjamini_hochberg, holm};
pub use power::{Design, launches_needed, minimum_detectable_effect, power};
pub use sample::{BadSample, Interval, Sample, Summary, describe};
pub use trend::{autocorrelation, drift};
pub use welch::{Ratio, TTest, Welch, ratio_of_geometric_means, welch};
