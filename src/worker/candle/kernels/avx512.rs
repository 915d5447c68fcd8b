//! Kernels for AVX-512 with VNNI: float weights with FMA here, block-quantized ones times int8
//! activations in `blocks`, panels for many tokens in `panels`.
//!
//! The int8 kernels take 128 weights per step as two registers of unsigned bytes in the order of
//! `activations::Group`: `vpdpbusd` multiplies unsigned with signed. Where a format's weights are
//! the stored bytes less an offset, the integer sum starts from −offset · Σ activations.
//!
//! The helpers are `#[inline(always)]` without the features of their callers, because the two
//! attributes exclude each other: each must be called from a function that has the features.

// Tiles are small constant loops over several arrays at once.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::activations::{Int8Row, Rounded};
use super::format::{BlockFormat, FloatFormat, FloatKind, Kind};
use super::panel::{FloatPanel, Int8Panel, Int8Rows, ROWS};
use super::{Cpu, SPAN};

mod attention;
mod blocks;
mod panels;

/// Proof that this CPU has what the kernels use.
#[derive(Debug, Clone, Copy)]
pub struct Avx512(());

impl Avx512 {
    /// `Some` where the CPU has AVX-512 F, BW, VL, VNNI, F16C and FMA.
    pub fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("fma");
        has.then_some(Self(()))
    }
}

/// Calls a kernel of this file.
macro_rules! call {
    ($function:path, $($argument:expr),*) => {
        // SAFETY: `Avx512` proves the features.
        unsafe { $function($($argument),*) }
    };
}

impl Cpu for Avx512 {
    const FMA: bool = true;
    const GROUPED: bool = true;

    fn name(self) -> &'static str {
        "avx512vnni"
    }

    #[inline]
    fn run<R>(self, work: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c,fma")]
        fn with_features<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        call!(with_features, work)
    }

    fn round(self, x: &[f32], bytes: &mut [i8], scales: &mut [f32], sums: &mut [[i32; 2]]) {
        call!(panels::round, x, bytes, scales, sums)
    }

    fn int8_dot<F: BlockFormat, const R: usize, const T: usize>(
        self,
        rows: [&[u8]; R],
        x: &Rounded,
        t: usize,
    ) -> [[f32; T]; R] {
        let k = rows[0].len() / F::SIZE * F::VALUES;
        let x: [Int8Row<'_>; T] = std::array::from_fn(|i| x.groups.row(t + i, k));
        match F::KIND {
            Kind::Q4_0 => call!(blocks::q4_0_dot, rows, x),
            Kind::Q8_0 => call!(blocks::q8_0_dot, rows, x),
            Kind::Q4K => call!(blocks::q4k_dot, rows, x),
            Kind::Q6K => call!(blocks::q6k_dot, rows, x),
        }
    }

    fn int8_rows<F: BlockFormat>(self, rows: &[u8], x: &Rounded, out: &mut [f32]) {
        let k = rows.len() / out.len().max(1) / F::SIZE * F::VALUES;
        let x = x.groups.row(0, k);
        match F::KIND {
            Kind::Q4_0 => call!(blocks::q4_0_rows, rows, x, out),
            Kind::Q8_0 => call!(blocks::q8_0_rows, rows, x, out),
            Kind::Q4K => call!(blocks::q4k_rows, rows, x, out),
            Kind::Q6K => call!(blocks::q6k_rows, rows, x, out),
        }
    }

    fn float_rows<F: FloatFormat>(self, rows: &[u8], x: &[f32], out: &mut [f32]) {
        match F::KIND {
            FloatKind::F32 => call!(f32_rows, rows, x, out),
            FloatKind::F16 => call!(f16_rows, rows, x, out),
            FloatKind::Bf16 => call!(bf16_rows, rows, x, out),
        }
    }

    fn float_dot<F: FloatFormat, const R: usize, const T: usize>(
        self,
        rows: [&[u8]; R],
        x: [&[f32]; T],
    ) -> [[f32; T]; R] {
        match F::KIND {
            FloatKind::F32 => call!(f32_dot, rows, x),
            FloatKind::F16 => call!(f16_dot, rows, x),
            FloatKind::Bf16 => call!(bf16_dot, rows, x),
        }
    }

    fn pack_int8<F: BlockFormat>(
        self,
        panel: &mut Int8Panel,
        rows: &[&[u8]],
        first: usize,
        n: usize,
    ) {
        call!(panels::pack_int8::<F>, panel, rows, first, n)
    }

    fn pack_float<F: FloatFormat>(
        self,
        panel: &mut FloatPanel,
        rows: &[&[u8]],
        first: usize,
        n: usize,
    ) {
        call!(panels::pack_float::<F>, panel, rows, first, n)
    }

    fn int8_tiles<F: BlockFormat>(
        self,
        panel: &Int8Panel,
        first: usize,
        n: usize,
        x: &Int8Rows,
        out: &mut [[f32; ROWS]],
    ) {
        call!(panels::int8_tiles::<F>, panel, first, n, x, out)
    }

    fn float_tiles(
        self,
        panel: &FloatPanel,
        first: usize,
        n: usize,
        x: &[f32],
        k: usize,
        out: &mut [[f32; ROWS]],
    ) {
        call!(panels::float_tiles, panel, first, n, x, k, out)
    }

    fn scores<const Q: usize>(self, keys: &[f32], queries: [&[f32]; Q]) -> [[f32; SPAN]; Q] {
        call!(attention::scores, keys, queries)
    }

    fn weigh<const Q: usize>(self, values: &[f32], weights: [&[f32]; Q], sums: [&mut [f32]; Q]) {
        call!(attention::weigh, values, weights, sums)
    }

    fn widen(self, halves: &[u16], out: &mut [f32]) {
        call!(attention::widen, halves, out)
    }

    fn narrow(self, values: &[f32], out: &mut [u16]) {
        call!(attention::narrow, values, out)
    }
}

/// How far ahead of a decode step its weights are prefetched, in bytes. The hardware's own
/// prefetcher stops at each 4 KiB page of a mapped file. Where the memory is the limit, 4 to 9 KiB
/// past the other caches (`NTA`: each weight is used once) reached what plain reading does; twice
/// that, or four rows at a time, a sixth less.
const AHEAD: usize = 6144;

/// Asks for the 128 bytes that lie `AHEAD` of `p`. Rows follow each other in the file, so the end
/// of one row fetches the next; the address need not be valid.
///
/// # Safety
/// SSE is there.
#[inline(always)]
unsafe fn prefetch(p: *const u8) {
    // SAFETY: the caller's promise; a prefetch of any address is harmless.
    unsafe {
        _mm_prefetch::<_MM_HINT_NTA>(p.wrapping_add(AHEAD).cast());
        _mm_prefetch::<_MM_HINT_NTA>(p.wrapping_add(AHEAD + 64).cast());
    }
}

// ---- float weights ----

/// Generates a float kernel from a load of 16 weights and the decoding of one.
macro_rules! float_kernel {
    ($name:ident, $rows:ident, $size:literal, $load:ident, $one:expr) => {
        /// See `Cpu::float_rows`: four sums, so that none waits for itself.
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
        fn $rows(rows: &[u8], x: &[f32], out: &mut [f32]) {
            const SUMS: usize = 4;
            const STEP: usize = 16 * SUMS;
            assert_eq!(rows.len(), out.len() * x.len() * $size);
            for (row, out) in rows.chunks_exact((x.len() * $size).max(1)).zip(out) {
                let mut sums = [_mm512_setzero_ps(); SUMS];
                for i in (0..x.len() / STEP * STEP).step_by(STEP) {
                    for part in 0..SUMS {
                        // SAFETY: i + STEP values are inside the row and `x`; this function has
                        // the features.
                        unsafe {
                            let p = row.as_ptr().add((i + 16 * part) * $size);
                            if 16 * part * $size % 128 == 0 {
                                prefetch(p);
                            }
                            let x = _mm512_loadu_ps(x.as_ptr().add(i + 16 * part));
                            sums[part] = _mm512_fmadd_ps($load(p), x, sums[part]);
                        }
                    }
                }
                let [a, b, c, d] = sums;
                let sum = _mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d));
                *out = _mm512_reduce_add_ps(sum);
                let rest = x.len() / STEP * STEP;
                if rest < x.len() {
                    let [[rest]] = $name([&row[rest * $size..]], [&x[rest..]]);
                    *out += rest;
                }
            }
        }

        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
        fn $name<const R: usize, const T: usize>(
            rows: [&[u8]; R],
            x: [&[f32]; T],
        ) -> [[f32; T]; R] {
            let k = rows[0].len() / $size;
            assert!(rows.iter().all(|row| row.len() == k * $size));
            assert!(x.iter().all(|x| x.len() == k));
            let mut sums = [[_mm512_setzero_ps(); T]; R];
            for i in (0..k / 16 * 16).step_by(16) {
                let mut w = [_mm512_setzero_ps(); R];
                for r in 0..R {
                    // SAFETY: i + 16 <= k, and every slice was checked to hold k values.
                    w[r] = unsafe { $load(rows[r].as_ptr().add(i * $size)) };
                    if T == 1 && i * $size % 128 == 0 {
                        // SAFETY: this function has the features.
                        unsafe { prefetch(rows[r].as_ptr().wrapping_add(i * $size)) };
                    }
                }
                for t in 0..T {
                    // SAFETY: as above.
                    let x = unsafe { _mm512_loadu_ps(x[t].as_ptr().add(i)) };
                    for r in 0..R {
                        sums[r][t] = _mm512_fmadd_ps(w[r], x, sums[r][t]);
                    }
                }
            }
            // SAFETY: this function has the features.
            let mut out = unsafe { reduce(&sums) };
            for i in k / 16 * 16..k {
                for r in 0..R {
                    let bytes = rows[r][i * $size..][..$size].try_into().expect("one weight");
                    let w: f32 = $one(bytes);
                    for t in 0..T {
                        out[r][t] += w * x[t][i];
                    }
                }
            }
            out
        }
    };
}

float_kernel!(f32_dot, f32_rows, 4, load_f32, f32::from_le_bytes);
float_kernel!(f16_dot, f16_rows, 2, load_f16, |b| half::f16::from_le_bytes(b).to_f32());
float_kernel!(bf16_dot, bf16_rows, 2, load_bf16, |b| half::bf16::from_le_bytes(b).to_f32());

/// # Safety
/// AVX-512 F is there, and 64 bytes are readable at `p`.
#[inline(always)]
unsafe fn load_f32(p: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_loadu_ps(p.cast()) }
}

/// # Safety
/// AVX-512 F is there, and 32 bytes are readable at `p`.
#[inline(always)]
unsafe fn load_f16(p: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
}

/// # Safety
/// AVX-512 F is there, and 32 bytes are readable at `p`.
#[inline(always)]
unsafe fn load_bf16(p: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        let halves = _mm256_loadu_si256(p.cast());
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
    }
}

/// The sum of the lanes of each vector.
///
/// # Safety
/// AVX-512 F is there.
#[inline(always)]
unsafe fn reduce<const R: usize, const T: usize>(sums: &[[__m512; T]; R]) -> [[f32; T]; R] {
    let mut out = [[0.0; T]; R];
    for r in 0..R {
        for t in 0..T {
            // SAFETY: the caller's promise.
            out[r][t] = unsafe { _mm512_reduce_add_ps(sums[r][t]) };
        }
    }
    out
}
