//! AVX-512 with VNNI, and AMX if the CPU has it.
//!
//! The int8 GEMV takes 128 weights per step as two registers of unsigned bytes in the order of
//! `activations::Group`: `vpdpbusd` multiplies unsigned with signed bytes. If a format's weights
//! are the stored bytes less an offset, the integer sum starts from −offset · Σ activations.
//!
//! The helpers are `#[inline(always)]` without the features of their callers, because the two
//! attributes exclude each other. Each must be called from a function that has the features.

use std::arch::x86_64::*;

use super::activations::{Int8Row, Rounded};
use super::format::{BlockFormat, FloatFormat, FloatKind, Kind};
use super::pack::{FloatPanel, Int8Blocks, Int8Panel, Int8Rows, ROWS};
use super::{Cpu, MOST_GEMM_TOKENS, SPAN, STREAMS, attention, gemm, gemv, pack, prefetch};

/// Proof that this CPU has the features that the kernels use; with `TILES`, also AMX's tiles of
/// bfloat16.
#[derive(Debug, Clone, Copy)]
pub struct Avx512<const TILES: bool>(());

impl<const TILES: bool> Avx512<TILES> {
    /// `Some` if the CPU has AVX-512 F, BW, DQ, VL and VNNI, F16C and FMA (and for `TILES` bfloat16
    /// in AVX-512 and AMX).
    pub fn detect() -> Option<Self> {
        let cpu = llm_bench_cpu::features();
        let has = cpu.avx512f
            && cpu.avx512bw
            && cpu.avx512vl
            && cpu.avx512dq
            && cpu.avx512vnni
            && cpu.f16c
            && cpu.fma
            && (!TILES || cpu.avx512bf16 && cpu.amx_bf16);
        prefetch::choose();
        has.then_some(Self(()))
    }
}

/// Calls a kernel for this instruction set.
macro_rules! call {
    ($function:path, $($argument:expr),*) => {
        // SAFETY: `Avx512` proves the features.
        unsafe { $function($($argument),*) }
    };
}
pub(super) use call;

impl<const TILES: bool> Cpu for Avx512<TILES> {
    const FMA: bool = true;
    const GROUPED: bool = true;
    // Tiles take over earlier.
    const GEMM_TOKENS: usize = if TILES { 8 } else { MOST_GEMM_TOKENS };

    fn name(self) -> &'static str {
        if TILES { "amx-bf16" } else { "avx512vnni" }
    }

    #[inline]
    fn run<R>(self, work: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
        fn with_features<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        call!(with_features, work)
    }

    fn round(self, x: &[f32], bytes: &mut [i8], scales: &mut [f32], sums: &mut [[i32; 2]]) {
        call!(pack::avx512::round, x, bytes, scales, sums)
    }

    fn int8_dot<F: BlockFormat, const T: usize>(
        self,
        row: &[u8],
        x: &Rounded,
        t: usize,
    ) -> [f32; T] {
        let k = row.len() / F::SIZE * F::VALUES;
        let x: [Int8Row<'_>; T] = std::array::from_fn(|i| x.groups.row(t + i, k));
        match F::KIND {
            Kind::Q4_0 => call!(gemv::avx512::q4_0_dot, row, x),
            Kind::Q5_0 => call!(gemv::avx512::q5_0_dot, row, x),
            Kind::Q8_0 => call!(gemv::avx512::q8_0_dot, row, x),
            Kind::Q4K => call!(gemv::avx512::q4k_dot, row, x),
            Kind::Q6K => call!(gemv::avx512::q6k_dot, row, x),
        }
    }

    fn float_dot<F: FloatFormat, const T: usize>(self, row: &[u8], x: [&[f32]; T]) -> [f32; T] {
        let [out] = match F::KIND {
            FloatKind::F32 => call!(gemv::avx512::f32_dot, [row], x),
            FloatKind::F16 => call!(gemv::avx512::f16_dot, [row], x),
            FloatKind::Bf16 => call!(gemv::avx512::bf16_dot, [row], x),
        };
        out
    }

    fn int8_gemv<F: BlockFormat, const T: usize>(
        self,
        rows: [&[u8]; STREAMS],
        x: &Rounded,
        t: usize,
        out: &mut [[[f32; T]; STREAMS]],
    ) {
        let k = rows[0].len() / out.len().max(1) / F::SIZE * F::VALUES;
        let x: [Int8Row<'_>; T] = std::array::from_fn(|i| x.groups.row(t + i, k));
        match F::KIND {
            Kind::Q4_0 => call!(gemv::avx512::q4_0_gemv, rows, x, out),
            Kind::Q5_0 => call!(gemv::avx512::q5_0_gemv, rows, x, out),
            Kind::Q8_0 => call!(gemv::avx512::q8_0_gemv, rows, x, out),
            Kind::Q4K => call!(gemv::avx512::q4k_gemv, rows, x, out),
            Kind::Q6K => call!(gemv::avx512::q6k_gemv, rows, x, out),
        }
    }

    fn float_gemv<F: FloatFormat, const T: usize>(
        self,
        rows: [&[u8]; STREAMS],
        x: [&[f32]; T],
        out: &mut [[[f32; T]; STREAMS]],
    ) {
        match F::KIND {
            FloatKind::F32 => call!(gemv::avx512::f32_gemv, rows, x, out),
            FloatKind::F16 => call!(gemv::avx512::f16_gemv, rows, x, out),
            FloatKind::Bf16 => call!(gemv::avx512::bf16_gemv, rows, x, out),
        }
    }

    fn pack_int8<F: BlockFormat>(
        self,
        panel: &mut Int8Panel,
        rows: &[&[u8]],
        first: usize,
        n: usize,
    ) {
        call!(pack::avx512::pack_int8::<F>, panel, rows, first, n)
    }

    fn pack_float<F: FloatFormat>(
        self,
        panel: &mut FloatPanel,
        rows: &[&[u8]],
        first: usize,
        n: usize,
    ) {
        call!(pack::avx512::pack_float::<F>, panel, rows, first, n)
    }

    fn int8_gemm<F: BlockFormat>(
        self,
        panel: Int8Blocks<'_>,
        first: usize,
        n: usize,
        x: &Int8Rows,
        out: &mut [[f32; ROWS]],
    ) {
        call!(gemm::avx512::int8_gemm::<F>, panel, first, n, x, out)
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
        call!(gemm::avx512::float_gemm, panel, rows, first, x, k, out)
    }

    fn scores<const Q: usize>(self, keys: &[f32], queries: [&[f32]; Q]) -> [[f32; SPAN]; Q] {
        call!(attention::avx512::scores, keys, queries)
    }

    fn weigh<const Q: usize>(self, values: &[f32], weights: [&[f32]; Q], sums: [&mut [f32]; Q]) {
        call!(attention::avx512::weigh, values, weights, sums)
    }

    fn widen(self, halves: &[u16], out: &mut [f32]) {
        call!(attention::avx512::widen, halves, out)
    }

    fn narrow(self, values: &[f32], out: &mut [u16]) {
        call!(attention::avx512::narrow, values, out)
    }
}

/// # Safety
/// The CPU has AVX-512 F, and 64 bytes are readable at `p`.
#[inline(always)]
pub unsafe fn load_f32(p: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_loadu_ps(p.cast()) }
}

/// # Safety
/// The CPU has AVX-512 F, and 32 bytes are readable at `p`.
#[inline(always)]
pub unsafe fn load_f16(p: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
}

/// # Safety
/// The CPU has AVX-512 F, and 32 bytes are readable at `p`.
#[inline(always)]
pub unsafe fn load_bf16(p: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        let halves = _mm256_loadu_si256(p.cast());
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
    }
}
