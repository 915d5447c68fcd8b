//! Pure numbers: samples, intervals, tests. Knows nothing of engines, metrics or records.

mod sample;
mod student;
mod trend;
mod welch;

pub use sample::{BadSample, Interval, Sample, Summary, describe, mean_interval};
pub use trend::{autocorrelation, drift};
pub use welch::{Ratio, TTest, Welch, ratio_of_geometric_means, welch};
