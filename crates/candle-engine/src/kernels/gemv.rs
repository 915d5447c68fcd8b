//! GEMV: rows of a matrix times one token, or a few. Decoding is limited by memory, so these
//! kernels read the stored blocks directly.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use std::ops::Range;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::{
    activations::int8_value,
    format::{BLOCK, BlockFormat},
    pack::Int8Token,
};

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
#[cfg(target_arch = "aarch64")]
pub mod neon;
pub mod portable;

/// `out[i] +=` blocks `blocks` of `row` · token `i`, in plain code, for blocks that do not fill a
/// register.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
fn add_blocks<F: BlockFormat, const T: usize>(
    row: &[u8],
    blocks: Range<usize>,
    x: &[Int8Token<'_>; T],
    out: &mut [f32; T],
) {
    for b in blocks {
        let w = F::unpack(row, b);
        for (out, x) in out.iter_mut().zip(x) {
            let bytes = &x.bytes[b * BLOCK..][..BLOCK];
            *out += x.scales[b] * int8_value::<F>(&w, bytes, x.sums[b]);
        }
    }
}
