//! NEON for 64-bit ARM, and its dot product of bytes (`sdot`) if the CPU has it. Bytes are signed
//! here. GEMV subtracts the weights' offset while it unpacks. GEMM uses a panel's bytes unchanged
//! if they fit, and subtracts the offset times the sum of activations from the result. Q8_0's bytes
//! do not fit, so their sign bit is flipped, which subtracts 128.

use std::arch::aarch64::*;
use std::arch::asm;

use super::activations::Rounded;
use super::amx::TileCpu;
use super::format::{BlockFormat, FloatFormat};
use super::pack::{FloatPanel, Int8Blocks, Int8Panel, Int8Rows, ROWS};
use super::{Cpu, SPAN, attention, gemm, gemv};

/// Proof that this CPU has NEON, and with `DOT` its dot product of bytes.
#[derive(Debug, Clone, Copy)]
pub struct Neon<const DOT: bool>(());

impl<const DOT: bool> Neon<DOT> {
    /// `Some` if the CPU has it.
    pub fn detect() -> Option<Self> {
        let cpu = llm_bench_cpu::features();
        (cpu.neon && (!DOT || cpu.dotprod)).then_some(Self(()))
    }
}

/// Lanes of a register of floats, and registers that are computed at once.
pub const LANES: usize = 4;
pub const WIDTH: usize = 4;

impl<const DOT: bool> TileCpu for Neon<DOT> {}

impl<const DOT: bool> Cpu for Neon<DOT> {
    const FMA: bool = true;

    fn name(self) -> &'static str {
        if DOT { "neon-dotprod" } else { "neon" }
    }

    fn int8_dot<F: BlockFormat, const T: usize>(
        self,
        row: &[u8],
        x: &Rounded,
        t: usize,
    ) -> [f32; T] {
        // SAFETY: `Neon` proves the features.
        unsafe { gemv::neon::int8_dot::<F, DOT, T>(row, &x.rows, t) }
    }

    fn float_dot<F: FloatFormat, const T: usize>(self, row: &[u8], x: [&[f32]; T]) -> [f32; T] {
        gemv::neon::float_dot::<F, T>(row, x)
    }

    fn int8_gemm<F: BlockFormat>(
        self,
        panel: Int8Blocks<'_>,
        first: usize,
        n: usize,
        x: &Int8Rows,
        out: &mut [[f32; ROWS]],
    ) {
        // SAFETY: `Neon` proves the features.
        unsafe { gemm::neon::int8_gemm::<F, DOT>(panel, first, n, x, out) }
    }

    fn float_gemm(
        self,
        panel: &[[f32; ROWS]],
        rows: usize,
        first: usize,
        x: &[f32],
        k: usize,
        out: &mut [[f32; ROWS]],
    ) {
        gemm::neon::float_gemm(panel, rows, first, x, k, out);
    }

    fn scores<const Q: usize>(self, keys: &[f32], queries: [&[f32]; Q]) -> [[f32; SPAN]; Q] {
        attention::neon::scores(keys, queries)
    }

    fn weigh<const Q: usize>(self, values: &[f32], weights: [&[f32]; Q], sums: [&mut [f32]; Q]) {
        attention::neon::weigh(values, weights, sums);
    }

    fn widen(self, halves: &[u16], out: &mut [f32]) {
        attention::neon::widen(halves, out);
    }

    fn narrow(self, values: &[f32], out: &mut [u16]) {
        attention::neon::narrow(values, out);
    }
}

// ---- instructions without an intrinsic in the oldest compiler that this crate takes ----

/// f16 bits as f32.
#[inline(always)]
pub fn widen(halves: uint16x4_t) -> float32x4_t {
    let out;
    // SAFETY: part of every 64-bit ARM; reads and writes registers only.
    unsafe {
        asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) out, in(vreg) halves,
             options(pure, nomem, nostack, preserves_flags));
    }
    out
}

/// f32 as f16 bits, to nearest, ties to even.
#[inline(always)]
pub fn narrow(values: float32x4_t) -> uint16x4_t {
    let out;
    // SAFETY: part of every 64-bit ARM; reads and writes registers only.
    unsafe {
        asm!("fcvtn {0:v}.4h, {1:v}.4s", out(vreg) out, in(vreg) values,
             options(pure, nomem, nostack, preserves_flags));
    }
    out
}

/// `sums[i] += w[4i..4i + 4] · x[4i..4i + 4]`.
///
/// # Safety
/// The CPU has the dot product of bytes if `DOT`.
#[inline(always)]
pub unsafe fn add_dots<const DOT: bool>(
    mut sums: int32x4_t,
    w: int8x16_t,
    x: int8x16_t,
) -> int32x4_t {
    // SAFETY: NEON is part of every 64-bit ARM, and `sdot` there by the caller's promise; reads
    // and writes registers only.
    unsafe {
        if DOT {
            asm!(".arch_extension dotprod", "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
                 inout(vreg) sums, in(vreg) w, in(vreg) x,
                 options(pure, nomem, nostack, preserves_flags));
            return sums;
        }
        // Products of bytes fit into 16 bits; their pairwise sums are computed in 32.
        let first = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x)));
        let second = vpaddlq_s16(vmull_high_s8(w, x));
        vaddq_s32(sums, vpaddq_s32(first, second))
    }
}
