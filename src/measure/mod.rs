//! Measuring: the order of launches (`plan`), one launch (`launch`) and the numbers that it
//! gives (`metrics`), what the machine is (`host`, `bandwidth`, `arithmetic`) and in what state it
//! is (`sensors`, `page_cache`, `doctor`), what its memory was for (`memory`), the session that
//! runs it all (`session`), in blocks until enough is known (`gate`), and what `verify` asks of an engine (`verify`).

pub mod arithmetic;
pub mod bandwidth;
pub mod doctor;
pub mod gate;
pub mod host;
pub mod launch;
pub mod memory;
pub mod metrics;
pub mod page_cache;
pub mod plan;
pub mod sensors;
pub mod session;
pub mod verify;
