//! GEMM: packed rows of a matrix times many tokens. A prompt is limited by arithmetic, so 64 rows
//! are unpacked once (see `pack`) and multiplied with all tokens.

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
#[cfg(target_arch = "aarch64")]
pub mod neon;
pub mod portable;
