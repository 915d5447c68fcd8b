//! Compares what this process may use (control groups version 2 and 1, memory, disk) with what the
//! harness would ask for.

use std::path::Path;

use super::{Finding, ModelNeed, Tree};
use crate::allowance::{free_disk, groups};
pub use crate::allowance::{memory_limit, processor_quota};
use crate::units::{Bytes, three_digits};

pub fn processors(tree: &Tree, threads: u32) -> Finding {
    let set = groups(tree, "cpuset").into_iter().find_map(|folder| {
        let files = ["cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"];
        let read = |file: &&str| tree.read(&format!("{folder}/{file}")).filter(|s| !s.is_empty());
        files.iter().find_map(read)
    });
    let set = set.map_or(String::new(), |s| format!("; processors {s}"));
    match processor_quota(tree) {
        Some(quota) if quota < f64::from(threads) => Finding::warn(
            "processor limit",
            format!("{} processors of time for {threads} threads{set}", three_digits(quota)),
            format!(
                "the kernel stops threads that have used their share: `-t {}`, or raise the limit",
                (quota.floor() as u32).max(1)
            ),
        ),
        Some(quota) => {
            Finding::ok("processor limit", format!("{} processors{set}", three_digits(quota)))
        }
        None => Finding::ok("processor limit", format!("none{set}")),
    }
}

/// The models that do not fit into `most` bytes: the file, and a fifth more for the KV cache and
/// the engine.
fn too_large(models: &[ModelNeed], most: Bytes) -> Vec<&str> {
    let needs = |m: &ModelNeed| m.file.0 + m.file.0 / 5;
    models.iter().filter(|m| needs(m) > most.0).map(|m| m.name.as_str()).collect()
}

pub fn memory(tree: &Tree, models: &[ModelNeed]) -> Finding {
    let Some(limit) = memory_limit(tree) else {
        return Finding::ok("memory limit", "none");
    };
    let too_large = too_large(models, limit);
    match too_large.is_empty() {
        true => Finding::ok("memory limit", limit.to_string()),
        false => Finding::warn(
            "memory limit",
            limit.to_string(),
            format!("too little for {}: raise it, or choose others", too_large.join(", ")),
        ),
    }
}

pub fn free_memory(tree: &Tree, models: &[ModelNeed]) -> Finding {
    let (Some(all), Some(free)) = (tree.memory("MemTotal"), tree.memory("MemAvailable")) else {
        return Finding::unknown("free memory", "not reported");
    };
    let found = format!("{free} of {all}");
    let too_large = too_large(models, free);
    match too_large.is_empty() {
        true => Finding::ok("free memory", found),
        false => Finding::warn(
            "free memory",
            found,
            format!(
                "too little for {}: close other programs, or choose others",
                too_large.join(", ")
            ),
        ),
    }
}

/// Free disk space where models are kept. The folder may not exist yet.
pub fn disk(cache: &Path, models: &[ModelNeed]) -> Finding {
    let Some(free) = free_disk(cache) else {
        return Finding::unknown("free disk", format!("{} cannot be asked", cache.display()));
    };
    let needed = Bytes(models.iter().map(|m| m.file.0).sum());
    let found = format!("{free} in {}", cache.display());
    match free >= needed {
        true => Finding::ok("free disk", found),
        false => {
            let names: Vec<&str> = models.iter().map(|m| m.name.as_str()).collect();
            Finding::warn(
                "free disk",
                found,
                format!(
                    "{} together need {needed}: free some, or set LLM_BENCH_CACHE to another disk",
                    names.join(", ")
                ),
            )
        }
    }
}
