//! Measuring: the order of launches (`plan`), one launch (`launch`) and the numbers that it
//! gives (`metrics`), what the machine is (`host`, `bandwidth`) and in what state it is
//! (`sensors`, `page_cache`), what its memory
//! was for (`memory`), and the session that runs it all (`session`).

pub mod bandwidth;
pub mod host;
pub mod launch;
pub mod memory;
pub mod metrics;
pub mod page_cache;
pub mod plan;
pub mod sensors;
pub mod session;
