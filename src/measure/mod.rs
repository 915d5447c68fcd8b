//! Measuring: one launch (`launch`) and the numbers that it gives (`metrics`), what the machine is
//! (`host`, `bandwidth`, `arithmetic`) and in what state (`sensors`, `page_cache`, `doctor`), what
//! memory was used for (`memory`), and what `verify` asks of an engine (`verify`).

pub mod arithmetic;
pub mod bandwidth;
pub mod doctor;
pub mod host;
pub mod launch;
pub mod memory;
pub mod metrics;
pub mod page_cache;
pub mod sensors;
pub mod verify;
