//! What the kernel lets this process use: time of processors and memory, by its control groups
//! (version 2 and 1), and the room on a disk.

use std::path::{Path, PathBuf};

use crate::units::Bytes;

/// A controller's folders for this process, the closest first and its parents after it. A limit in
/// any of them binds.
pub fn groups(tree: &Tree, controller: &str) -> Vec<String> {
    let Some(text) = tree.read("/proc/self/cgroup") else {
        return Vec::new();
    };
    // `0::/path` is version 2; `4:memory:/path` version 1, for a list of controllers.
    let line = |wanted: &dyn Fn(&str) -> bool| {
        text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            wanted(controllers).then(|| path.to_owned())
        })
    };
    let first = line(&|list| list.split(',').any(|c| c == controller));
    let (mount, path) = match first {
        Some(path) => (format!("/sys/fs/cgroup/{controller}"), path),
        None => match line(&|list| list.is_empty()) {
            Some(path) => ("/sys/fs/cgroup".to_owned(), path),
            None => return Vec::new(),
        },
    };
    // Inside a container the path may be the host's, which is not mounted here.
    let mut parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let mut folders = Vec::new();
    loop {
        folders.push([&[mount.as_str()], &parts[..]].concat().join("/"));
        if parts.pop().is_none() {
            return folders;
        }
    }
}

/// Processors' worth of time that this process may use; `None` without a limit.
pub fn processor_quota(tree: &Tree) -> Option<f64> {
    let limit = |folder: String| -> Option<f64> {
        if let Some(text) = tree.read(&format!("{folder}/cpu.max")) {
            let (quota, period) = text.split_once(' ')?;
            return Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?);
        }
        let quota = tree.read(&format!("{folder}/cpu.cfs_quota_us"))?.parse::<f64>().ok()?;
        let period = tree.read(&format!("{folder}/cpu.cfs_period_us"))?.parse::<f64>().ok()?;
        (quota > 0.0).then(|| quota / period)
    };
    groups(tree, "cpu").into_iter().filter_map(limit).min_by(f64::total_cmp)
}

/// Memory that this process may use; `None` without a limit.
pub fn memory_limit(tree: &Tree) -> Option<Bytes> {
    let limit = |folder: String| {
        let two = tree.number(&format!("{folder}/memory.max"));
        two.or_else(|| tree.number(&format!("{folder}/memory.limit_in_bytes")))
    };
    // Version 1 writes "none" as a number near 2⁶³.
    groups(tree, "memory").into_iter().filter_map(limit).filter(|&b| b < 1 << 60).min().map(Bytes)
}

/// Memory that this process could take now: what the machine and each of its control groups have
/// left. `None` where neither is reported.
pub fn free_memory(tree: &Tree) -> Option<Bytes> {
    let left = |folder: String| {
        let read = |files: [&str; 2]| {
            files.into_iter().find_map(|file| tree.number(&format!("{folder}/{file}")))
        };
        let limit = read(["memory.max", "memory.limit_in_bytes"])?;
        Some(limit.saturating_sub(read(["memory.current", "memory.usage_in_bytes"])?))
    };
    let groups = groups(tree, "memory").into_iter().filter_map(left);
    groups.chain(tree.memory("MemAvailable").map(|b| b.0)).min().map(Bytes)
}

/// Free bytes on the disk of a folder that may not exist yet; `None` if it cannot be asked.
pub fn free_disk(folder: &Path) -> Option<Bytes> {
    let there = folder.ancestors().find(|p| p.exists()).unwrap_or(Path::new("."));
    let stat = rustix::fs::statvfs(there).ok()?;
    Some(Bytes(stat.f_bavail.saturating_mul(stat.f_frsize)))
}

/// The kernel's files below a root, so that tests can supply their own.
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The location of `path`, written from `/`, in this tree.
    pub fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A file's text without white space around it; `None` if it cannot be read.
    pub fn read(&self, path: &str) -> Option<String> {
        Some(std::fs::read_to_string(self.at(path)).ok()?.trim().to_owned())
    }

    pub fn number(&self, path: &str) -> Option<u64> {
        self.read(path)?.parse().ok()
    }

    /// Names in a folder that begin with `prefix`, as paths from `/`, sorted.
    pub fn list(&self, folder: &str, prefix: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.at(folder)) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .filter(|name| name.starts_with(prefix))
            .map(|name| format!("{folder}/{name}"))
            .collect();
        names.sort();
        names
    }

    /// A field of /proc/meminfo.
    pub fn memory(&self, field: &str) -> Option<Bytes> {
        let text = self.read("/proc/meminfo")?;
        let value = text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'))?;
        Some(Bytes(value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024))
    }
}
