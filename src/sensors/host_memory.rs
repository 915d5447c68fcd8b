//! Memory of the engine's process tree: peaks and resident sets from the kernel, read between
//! requests, and their use (`breakdown`).

mod breakdown;
mod excess;

use std::path::{Path, PathBuf};

use self::breakdown::{breakdown, mapped_pages};
pub use self::excess::excess;
use super::{Mark, Sensor};
use crate::device::Device;
use crate::engine::Pid;
use crate::processes::tree;
use crate::record::{Launch, Memory, MemoryBook};
use crate::units::MonoNs;

/// Reads at `ready`, after the load, and after the measured requests.
pub struct HostMemory {
    root: u32,
    model: PathBuf,
    device: Device,
    memory: Memory,
}

impl HostMemory {
    /// Observes the process, its descendants, and those that left it. The sensor needs a process that is known to be the
    /// engine's.
    pub fn of(pid: Pid, model: &Path, device: Device) -> Self {
        Self { root: pid.0, model: model.into(), device, memory: Memory::default() }
    }
}

impl Sensor for HostMemory {
    fn mark(&mut self, mark: Mark, _: MonoNs) {
        let memory = &mut self.memory;
        match mark {
            Mark::Ready => {
                if let Some(tree) = tree_memory(self.root) {
                    memory.before_load_bytes = Some(tree.resident);
                    memory.before_load_file_bytes = Some(tree.file);
                }
            }
            Mark::Loaded => {
                if let Some((peak, resident)) = process_memory(self.root) {
                    memory.peak_after_load_bytes = Some(peak);
                    memory.after_load_bytes = Some(resident);
                }
            }
            Mark::Finished => {
                if let Some(tree) = tree_memory(self.root) {
                    memory.peak_host_bytes = Some(tree.peak);
                    memory.rss_anon_bytes = Some(tree.anon);
                    memory.rss_file_bytes = Some(tree.file);
                    memory.rss_shmem_bytes = Some(tree.shmem);
                }
                let pids = tree(self.root).into_iter();
                memory.model_file_bytes = pids.map(|pid| mapped_pages(pid, &self.model)).sum();
            }
            Mark::Submit | Mark::WindowBegin | Mark::WindowEnd => {}
        }
    }

    fn end(self: Box<Self>, launch: &mut Launch) {
        let book = std::mem::take(&mut launch.memory.book);
        launch.memory = Memory { book, ..self.memory };
        launch.memory.breakdown = match self.device {
            Device::Cpu => breakdown(&launch.memory),
            // What the engine accounts for lies on the card, and is no part of the host's peak.
            Device::Cuda(_) | Device::Metal => {
                let book = MemoryBook {
                    weights_mapped_bytes: launch.memory.book.weights_mapped_bytes,
                    compiler_bytes: launch.memory.book.compiler_bytes,
                    allocator_free_bytes: launch.memory.book.allocator_free_bytes,
                    ..MemoryBook::default()
                };
                breakdown(&Memory { book, ..launch.memory.clone() })
            }
        };
    }
}

/// Memory of a process tree, from /proc/PID/status of each process, summed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TreeMemory {
    /// Sum of the high-water marks (VmHWM).
    pub peak: u64,
    pub resident: u64,
    pub anon: u64,
    pub file: u64,
    pub shmem: u64,
    pub processes: u32,
}

/// Reads the tree below `root`, itself included; `None` when it is gone.
pub fn tree_memory(root: u32) -> Option<TreeMemory> {
    let mut sum = TreeMemory::default();
    for pid in tree(root) {
        let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else {
            continue;
        };
        let field = |name: &str| kib(&status, name).unwrap_or(0);
        sum.peak += field("VmHWM:");
        sum.resident += field("VmRSS:");
        sum.anon += field("RssAnon:");
        sum.file += field("RssFile:");
        sum.shmem += field("RssShmem:");
        sum.processes += 1;
    }
    (sum.peak > 0).then_some(sum)
}

/// High-water mark and resident set of one process. Reads one small file, while a tree takes a
/// scan.
pub fn process_memory(pid: u32) -> Option<(u64, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some((kib(&status, "VmHWM:")?, kib(&status, "VmRSS:")?))
}

fn kib(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_peak_at_least_as_high_as_what_it_holds() {
        let m = tree_memory(std::process::id()).unwrap();
        assert!(m.peak >= m.resident && m.resident > 0, "{m:?}");
        // The kernel counts the parts in batches of pages per thread, so the sum may be off.
        let parts = m.anon + m.file + m.shmem;
        assert!(parts.abs_diff(m.resident) < m.resident / 2, "{m:?}");
    }

    #[test]
    fn the_memory_of_a_child_is_counted_with_its_parent() {
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let with = tree(std::process::id());
        assert!(with.contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
