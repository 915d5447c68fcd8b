//! What memory an engine used, as the result file states it: readings of the kernel, the engine's
//! own book, and the parts that add up to the peak.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::gpu::GpuMemory;
use crate::protocol::MemoryBook;

/// Memory of the process tree at its high-water mark, as the kernel reports it, and of the engine, as
/// it reports it itself. Bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Memory {
    /// High-water mark (VmHWM) of the process tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_host_bytes: Option<u64>,
    /// Anonymous pages at the end of the launch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rss_anon_bytes: Option<u64>,
    /// File-backed pages at the end of the launch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rss_file_bytes: Option<u64>,
    /// Shared memory at the end of the launch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rss_shmem_bytes: Option<u64>,
    /// Resident before the load: interpreter, imports, libraries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_load_bytes: Option<u64>,
    /// As the engine reports it.
    #[serde(default)]
    pub book: MemoryBook,
    /// High-water mark of the engine's process right after the load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_after_load_bytes: Option<u64>,
    /// Resident memory of the engine's process right after the load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_load_bytes: Option<u64>,
    /// Pages of the model file that are mapped and resident at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_file_bytes: Option<u64>,
    /// File-backed pages before the load: libraries and the program itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_load_file_bytes: Option<u64>,
    /// Memory of the card that the launch ran on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuMemory>,
    /// Parts that add up to the peak exactly; empty where the peak is not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub breakdown: Vec<MemoryPart>,
}

/// One part of the peak.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemoryPart {
    /// What it is held for.
    pub part: Part,
    /// Negative where parts overlap or pages were given back.
    pub bytes: i64,
    /// How it is known.
    pub how: How,
}

/// What memory is held for; METHODOLOGY.md defines each.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Pages of the model file that are mapped.
    WeightsMapped,
    /// Weights in the engine's own memory.
    WeightsPrivate,
    /// Keys and values.
    KvCache,
    /// Buffers that stay.
    Activations,
    /// Held at the peak and freed since, where the peak was in the load.
    LoadTemporaries,
    /// Held at the peak and freed since, where the peak was in a generation.
    GenerationTemporaries,
    /// Held at `ready`: program, interpreter, imports.
    BeforeLoad,
    /// Pages of programs and libraries that were mapped after `ready`.
    Libraries,
    /// Imports after `ready` and just-in-time compilation.
    Compiler,
    /// Freed by its user, kept by the allocator.
    AllocatorFree,
    /// What no reading explains.
    Unaccounted,
}

/// How a number is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum How {
    Measured,
    /// From shapes and types.
    Computed,
    /// What is left of the peak.
    Remainder,
}
