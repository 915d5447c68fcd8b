//! CUDA, opened at run time: what a card delivers.

/// What a card was measured to deliver.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ceilings {
    /// Plain reading of its memory.
    pub read_bytes_per_s: f64,
    /// Copying within its memory: bytes read and bytes written, together per second.
    pub copy_bytes_per_s: f64,
    /// Copying from pinned memory of the host.
    pub upload_bytes_per_s: f64,
    /// Multiply and add counted apart.
    pub f16_flops: f64,
    pub int8_ops: f64,
}

/// Measures `cuda:index`.
///
/// # Errors
/// There is no driver, or no such card.
pub fn ceilings(index: u32) -> Result<Ceilings, String> {
    Err(format!("cuda:{index}: this build has no code for CUDA"))
}
