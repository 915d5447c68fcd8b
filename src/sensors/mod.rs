//! Sensors read the machine around a launch, one file each. A sensor begins before the connection
//! opens or once there is a process to observe, receives marks on the shared clock, and writes its
//! readings into the record at the end. Marks come between requests, never inside one: a sensor
//! that must look during a request samples in its own thread and cuts the window out of its samples
//! afterwards.

pub mod bandwidth;
pub mod clocks;
pub mod cpu;
pub mod gpu;
pub mod host_memory;
pub mod nvml;
pub mod page_cache;
pub mod rapl;
pub mod watch;
mod windows;

pub use bandwidth::ReadBandwidth;
pub use clocks::Clocks;
pub use cpu::{Busy, Steal};
pub use gpu::GpuCard;
pub use host_memory::HostMemory;
pub use rapl::Rapl;

use crate::engine::Pid;
use crate::record::Launch;
use crate::units::MonoNs;

/// An event in a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// The engine is ready and has loaded nothing.
    Ready,
    /// Every weight is usable.
    Loaded,
    /// A measured request was sent. Its window follows. Reported with the answer, as the window is.
    Submit,
    /// A measured window began: in a generation, when its first token reached the host. Reported
    /// with the answer, so it lies in the past.
    WindowBegin,
    /// The window ended: the last token reached the host.
    WindowEnd,
    /// The last measured request is over.
    Finished,
}

/// An observer of the machine.
pub trait Sensor {
    /// Called before anything of the launch that follows has started.
    fn begin(&mut self) {}

    /// The engine's process, once it is there.
    fn process(&mut self, _pid: Pid) {}

    /// `at` is when the event happened, not when it was reported; marks come in the order of their
    /// times.
    fn mark(&mut self, _mark: Mark, _at: MonoNs) {}

    /// Called when the launch is over; writes the readings into it.
    fn end(self: Box<Self>, launch: &mut Launch);
}

/// The sensors of one launch. The last to begin are closest to the launch and end first.
#[derive(Default)]
pub struct Sensors(Vec<Box<dyn Sensor>>);

impl Sensors {
    /// Adds a sensor and begins it.
    pub fn add(&mut self, mut sensor: impl Sensor + 'static) {
        sensor.begin();
        self.0.push(Box::new(sensor));
    }

    pub fn process(&mut self, pid: Pid) {
        self.0.iter_mut().for_each(|sensor| sensor.process(pid));
    }

    pub fn mark(&mut self, mark: Mark, at: MonoNs) {
        self.0.iter_mut().for_each(|sensor| sensor.mark(mark, at));
    }

    pub fn end(&mut self, launch: &mut Launch) {
        while let Some(sensor) = self.0.pop() {
            sensor.end(launch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::units::Seconds;

    /// The median of many calls.
    fn cost(mut call: impl FnMut()) -> Seconds {
        let mut costs: Vec<f64> = (0..200)
            .map(|_| {
                let begin = MonoNs::now();
                call();
                MonoNs::now().since(begin).0
            })
            .collect();
        costs.sort_by(f64::total_cmp);
        Seconds(costs[costs.len() / 2])
    }

    #[test]
    #[ignore = "prints what docs/METHODOLOGY.md states"]
    fn the_cost_of_each_reading() {
        let pid = Pid(std::process::id());
        let mut memory = HostMemory::of(pid, "models/tiny.gguf".as_ref(), Device::Cpu);
        for mark in [Mark::Ready, Mark::Loaded, Mark::WindowEnd, Mark::Finished] {
            let at = MonoNs::now();
            println!("host memory at {mark:?}: {}", cost(|| memory.mark(mark, at)));
        }
        println!("clocks: {}", cost(|| Clocks::default().begin()));
        println!("busy and stolen: {}", cost(|| Steal::default().begin()));
        let counter = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(counter.path(), "123456789012\n").unwrap();
        let read = || std::fs::read_to_string(counter.path()).map(|text| text.len());
        println!("a RAPL counter in an ordinary file: {}", cost(|| drop(read())));
    }
}
