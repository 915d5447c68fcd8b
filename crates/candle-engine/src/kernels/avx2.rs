//! AVX2 with FMA and F16C, and AVX-VNNI if the CPU has it: float weights with FMA, block-quantized
//! weights times int8 activations in their natural order.
//!
//! The int8 kernels take 128 weights per step as four registers of unsigned bytes. AVX-VNNI
//! multiplies them with signed bytes and adds up in 32 bits. Without it, `vpmaddubsw` adds pairs of
//! products in 16 bits, with saturation. That is exact if two of the format's largest codes times
//! 127 fit (`fits`). If they do not (Q8_0), bytes become magnitudes and the signs move to the other
//! factor, so that the largest pair is 2 · 128 · 127 = 32512.
//!
//! The helpers are `#[inline(always)]` without the features of their callers, because the two
//! attributes exclude each other. Each must be called from a function that has the features, and
//! not through the standard library (`array::from_fn`), which has none and therefore inlines none.

use std::arch::x86_64::*;

use super::activations::Rounded;
use super::amx::TileCpu;
use super::format::{BlockFormat, FloatFormat, FloatKind, Kind};
use super::pack::{FloatPanel, Int8Blocks, Int8Panel, Int8Rows, ROWS};
use super::{Cpu, SPAN, STREAMS, attention, gemm, gemv, pack, prefetch};

/// Proof that this CPU has the features that the kernels use; with `VNNI`, also AVX-VNNI.
#[derive(Debug, Clone, Copy)]
pub struct Avx2<const VNNI: bool>(());

impl<const VNNI: bool> Avx2<VNNI> {
    /// `Some` if the CPU has AVX2, F16C and FMA (and AVX-VNNI).
    pub fn detect() -> Option<Self> {
        let cpu = llm_bench_cpu::features();
        let has = cpu.avx2 && cpu.f16c && cpu.fma && (!VNNI || cpu.avxvnni);
        prefetch::choose();
        has.then_some(Self(()))
    }
}

/// Calls a kernel for this instruction set.
macro_rules! call {
    ($function:path, $($argument:expr),*) => {
        // SAFETY: `Avx2` proves the features.
        unsafe { $function($($argument),*) }
    };
}

impl<const VNNI: bool> TileCpu for Avx2<VNNI> {}

impl<const VNNI: bool> Cpu for Avx2<VNNI> {
    const FMA: bool = true;

    fn name(self) -> &'static str {
        if VNNI { "avxvnni" } else { "avx2" }
    }

    #[inline]
    fn run<R>(self, work: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx2,f16c,fma")]
        fn with_features<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        call!(with_features, work)
    }

    fn round(self, x: &[f32], bytes: &mut [i8], scales: &mut [f32], sums: &mut [[i32; 2]]) {
        call!(pack::avx2::round, x, bytes, scales, sums)
    }

    fn int8_dot<F: BlockFormat, const T: usize>(
        self,
        row: &[u8],
        x: &Rounded,
        t: usize,
    ) -> [f32; T] {
        match VNNI {
            true => call!(gemv::avx2::vnni_dot::<F, T>, row, &x.rows, t),
            false => call!(gemv::avx2::avx2_dot::<F, T>, row, &x.rows, t),
        }
    }

    fn float_dot<F: FloatFormat, const T: usize>(self, row: &[u8], x: [&[f32]; T]) -> [f32; T] {
        call!(gemv::avx2::float_dot::<F, T>, row, x)
    }

    fn int8_gemv<F: BlockFormat, const T: usize>(
        self,
        rows: [&[u8]; STREAMS],
        x: &Rounded,
        t: usize,
        out: &mut [[[f32; T]; STREAMS]],
    ) {
        match VNNI {
            true => call!(gemv::avx2::vnni_gemv::<F, T>, rows, &x.rows, t, out),
            false => call!(gemv::avx2::avx2_gemv::<F, T>, rows, &x.rows, t, out),
        }
    }

    fn float_gemv<F: FloatFormat, const T: usize>(
        self,
        rows: [&[u8]; STREAMS],
        x: [&[f32]; T],
        out: &mut [[[f32; T]; STREAMS]],
    ) {
        call!(gemv::avx2::float_gemv::<F, T>, rows, x, out)
    }

    fn pack_int8<F: BlockFormat>(
        self,
        panel: &mut Int8Panel,
        rows: &[&[u8]],
        first: usize,
        n: usize,
    ) {
        call!(pack::avx2::pack_int8::<F>, panel, rows, first, n)
    }

    fn pack_float<F: FloatFormat>(
        self,
        panel: &mut FloatPanel,
        rows: &[&[u8]],
        first: usize,
        n: usize,
    ) {
        call!(pack::avx2::pack_float::<F>, panel, rows, first, n)
    }

    fn int8_gemm<F: BlockFormat>(
        self,
        panel: Int8Blocks<'_>,
        first: usize,
        n: usize,
        x: &Int8Rows,
        out: &mut [[f32; ROWS]],
    ) {
        match VNNI {
            true => call!(gemm::avx2::vnni_gemm::<F>, panel, first, n, x, out),
            false => call!(gemm::avx2::avx2_gemm::<F>, panel, first, n, x, out),
        }
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
        call!(gemm::avx2::float_gemm, panel, rows, first, x, k, out)
    }

    fn scores<const Q: usize>(self, keys: &[f32], queries: [&[f32]; Q]) -> [[f32; SPAN]; Q] {
        call!(attention::avx2::scores, keys, queries)
    }

    fn weigh<const Q: usize>(self, values: &[f32], weights: [&[f32]; Q], sums: [&mut [f32]; Q]) {
        call!(attention::avx2::weigh, values, weights, sums)
    }

    fn widen(self, halves: &[u16], out: &mut [f32]) {
        call!(attention::avx2::widen, halves, out)
    }

    fn narrow(self, values: &[f32], out: &mut [u16]) {
        call!(attention::avx2::narrow, values, out)
    }
}

/// Eight weights as f32.
///
/// # Safety
/// The CPU has AVX2 and F16C, and eight weights are readable at `p`.
#[inline(always)]
pub unsafe fn load<F: FloatFormat>(p: *const u8) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe {
        match F::KIND {
            FloatKind::F32 => _mm256_loadu_ps(p.cast()),
            FloatKind::F16 => _mm256_cvtph_ps(_mm_loadu_si128(p.cast())),
            FloatKind::Bf16 => {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            }
        }
    }
}

/// How many sums of two products of a code and an activation fit together into 16 bits.
pub const fn fits(kind: Kind) -> usize {
    let largest = match kind {
        Kind::Q4_0 | Kind::Q4K => 15,
        Kind::Q5_0 => 31,
        Kind::Q6K => 63,
        Kind::Q8_0 => 255,
    };
    // Rounding gives −128 only together with a NaN scale.
    i16::MAX as usize / (2 * largest * 127)
}

/// Whether a kernel must subtract the weights' offset from its sum of products.
pub const fn has_start<F: BlockFormat, const VNNI: bool>() -> bool {
    F::SHIFT.is_some() && (VNNI || fits(F::KIND) > 0)
}

/// Sums of pairs of products in 16 bits, none of which saturates: weights times activations or, if
/// that would be too large, weights less their offset of 128 times activations.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
pub unsafe fn products<F: BlockFormat>(w: __m256i, x: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        if fits(F::KIND) > 0 {
            return _mm256_maddubs_epi16(w, x);
        }
        let w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
        _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
    }
}
