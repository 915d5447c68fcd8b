//! Results over commits, in one SQLite file: one row per session, metric, commit and identity.
//! Sessions of different identities never share a line.

mod earlier;
mod exchange;
mod file;
mod filter;
mod foreign;
mod schema;
mod series;
mod session;
mod store;

pub use crate::identity::LineIdentity as Identity;
pub use earlier::{PLACE, add_earlier, earlier};
pub use exchange::{Form, import, write_out};
pub use file::of_file;
pub use filter::{BadSince, Filter, since};
pub use series::{Course, Group, Point, Revision, Series, courses_of};
pub use session::{Session, sessions};
pub use store::{Added, Line, Store};
