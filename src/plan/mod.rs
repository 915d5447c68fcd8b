//! The plan of a session before anything runs: the settings as typed and as the result file keeps
//! them (`spec`), the grid of points that they span (`grid`), the order of launches (`order`), and
//! how many of them a time allows (`fit`), and the load of servers (`serving`). Pure.

pub mod fit;
pub mod grid;
pub mod order;
pub mod serving;
pub mod spec;

pub use grid::{Cell, Named, labels};
pub use order::{Planned, order};
pub use serving::{Level, Serving, Slo, Spacing};
pub use spec::{Encoding, Spec, Target, Workload};
