//! GEMV in plain code: the reference for the hand-written kernels.

use crate::kernels::activations::int8_value;
use crate::kernels::format::{BLOCK, BlockFormat, FloatFormat};
use crate::kernels::pack::Int8Rows;

const LANES: usize = 16;

/// See `Cpu::int8_dot`.
#[inline(always)]
pub fn int8_dot<F: BlockFormat, const T: usize>(row: &[u8], x: &Int8Rows, t: usize) -> [f32; T] {
    let k = row.len() / F::SIZE * F::VALUES;
    let mut out = [0.0; T];
    for b in 0..k / BLOCK {
        let w = F::unpack(row, b);
        for (i, out) in out.iter_mut().enumerate() {
            let token = x.token(t + i);
            let bytes = &token.bytes[b * BLOCK..][..BLOCK];
            *out += token.scales[b] * int8_value::<F>(&w, bytes, token.sums[b]);
        }
    }
    out
}

/// See `Cpu::float_dot`.
#[inline(always)]
pub fn float_dot<F: FloatFormat, const T: usize>(row: &[u8], x: [&[f32]; T]) -> [f32; T] {
    let mut out = [0.0; T];
    for (out, x) in out.iter_mut().zip(x) {
        assert_eq!(row.len(), F::SIZE * x.len());
        let mut sums = [0.0f32; LANES];
        for (w, x) in row.chunks(F::SIZE * LANES).zip(x.chunks(LANES)) {
            for ((sum, w), x) in sums.iter_mut().zip(w.chunks_exact(F::SIZE)).zip(x) {
                *sum += F::get(w) * x;
            }
        }
        *out = sums.iter().sum();
    }
    out
}
