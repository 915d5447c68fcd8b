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
use std::sync::atomic::{AtomicBool, Ordering};

use super::activations::{Int8Row, Rounded};
use super::format::{BlockFormat, FloatFormat, FloatKind, Kind};
use super::panel::{FloatPanel, Int8Panel, Int8Rows, ROWS};
use super::{Cpu, SPAN, STREAMS};

mod attention;
mod blocks;
mod panels;
mod tiles;

/// Proof that this CPU has what the kernels use; with `TILES`, AMX's tiles of bfloat16 too.
#[derive(Debug, Clone, Copy)]
pub struct Avx512<const TILES: bool>(());

impl<const TILES: bool> Avx512<TILES> {
    /// `Some` where the CPU has AVX-512 F, BW, DQ, VL and VNNI, F16C and FMA.
    pub fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("fma")
            && (!TILES || tiles::detect());
        choose_prefetch();
        has.then_some(Self(()))
    }
}

/// Calls a kernel of these files.
macro_rules! call {
    ($function:path, $($argument:expr),*) => {
        // SAFETY: `Avx512` proves the features.
        unsafe { $function($($argument),*) }
    };
}

use call;

impl<const TILES: bool> Cpu for Avx512<TILES> {
    const FMA: bool = true;
    const GROUPED: bool = true;

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

    fn int8_rows<F: BlockFormat>(
        self,
        rows: [&[u8]; STREAMS],
        x: &Rounded,
        out: &mut [[f32; STREAMS]],
    ) {
        let k = rows[0].len() / out.len().max(1) / F::SIZE * F::VALUES;
        let x = x.groups.row(0, k);
        match F::KIND {
            Kind::Q4_0 => call!(blocks::q4_0_rows, rows, x, out),
            Kind::Q8_0 => call!(blocks::q8_0_rows, rows, x, out),
            Kind::Q4K => call!(blocks::q4k_rows, rows, x, out),
            Kind::Q6K => call!(blocks::q6k_rows, rows, x, out),
        }
    }

    fn float_rows<F: FloatFormat>(
        self,
        rows: [&[u8]; STREAMS],
        x: &[f32],
        out: &mut [[f32; STREAMS]],
    ) {
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

/// How far ahead of a decode step its weights are prefetched in each of the `STREAMS`, in bytes:
/// the hardware's own prefetchers stop at each page. 1 to 2 KiB reached what plain reading does on
/// Granite Rapids; half as much left a tenth of it.
const AHEAD: usize = 1536;

/// Whether weights are best prefetched past the other caches (`NTA`), since each is used once. So
/// it was on Zen 5. On Intel's processors it costs half of the bandwidth: such a fetch has only
/// the few line buffers of the first cache, where others go through the second one's.
static PAST_CACHES: AtomicBool = AtomicBool::new(false);

/// Finds which way of prefetching is this processor's.
fn choose_prefetch() {
    let id = __cpuid(0);
    let amd = [id.ebx, id.edx, id.ecx] == [*b"Auth", *b"enti", *b"cAMD"].map(u32::from_le_bytes);
    PAST_CACHES.store(amd, Ordering::Relaxed);
}

/// Asks for the `BYTES` that lie `AHEAD` of `p`. Rows follow each other in the file, so the end of
/// one row fetches the next; the address need not be valid.
///
/// # Safety
/// SSE is there.
#[inline(always)]
unsafe fn prefetch<const BYTES: usize>(p: *const u8) {
    // SAFETY: the caller's promise.
    unsafe { prefetch_at::<BYTES>(p.wrapping_add(AHEAD)) }
}

/// Asks for the `BYTES` at `p`, which need not be valid. Calls with every `BYTES` of a stretch
/// leave out none of its cache lines.
///
/// # Safety
/// SSE is there.
#[inline(always)]
unsafe fn prefetch_at<const BYTES: usize>(p: *const u8) {
    const LINE: usize = 64;
    for line in 0..BYTES.div_ceil(LINE) {
        let p = p.wrapping_add(line * LINE).cast();
        // SAFETY: the caller's promise; a prefetch of any address is harmless.
        unsafe {
            match PAST_CACHES.load(Ordering::Relaxed) {
                true => _mm_prefetch::<_MM_HINT_NTA>(p),
                false => _mm_prefetch::<_MM_HINT_T0>(p),
            }
        }
    }
}

// ---- float weights ----

/// Generates a float kernel from a load of 16 weights and the decoding of one.
macro_rules! float_kernel {
    ($name:ident, $rows:ident, $size:literal, $load:ident, $one:expr) => {
        /// See `Cpu::float_rows`.
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
        fn $rows(rows: [&[u8]; STREAMS], x: &[f32], out: &mut [[f32; STREAMS]]) {
            let bytes = x.len() * $size;
            assert!(rows.iter().all(|rows| rows.len() == bytes * out.len()));
            for (r, out) in out.iter_mut().enumerate() {
                let rows = rows.map(|rows| &rows[r * bytes..][..bytes]);
                *out = $name(rows, [x]).map(|[value]| value);
            }
        }

        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
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
                        unsafe { prefetch::<128>(rows[r].as_ptr().wrapping_add(i * $size)) };
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
    let (fours, rest) = sums.as_flattened().as_chunks::<4>();
    let (out_fours, out_rest) = out.as_flattened_mut().as_chunks_mut::<4>();
    // SAFETY: the caller's promise; four floats are as long as a register.
    unsafe {
        for ([a, b, c, d], out) in fours.iter().zip(out_fours) {
            // Twice pairs of neighbours; then each 128 bits hold a sum of each vector.
            let ab = _mm512_add_ps(_mm512_unpacklo_ps(*a, *b), _mm512_unpackhi_ps(*a, *b));
            let cd = _mm512_add_ps(_mm512_unpacklo_ps(*c, *d), _mm512_unpackhi_ps(*c, *d));
            let low = _mm512_shuffle_ps::<0b01_00_01_00>(ab, cd);
            let high = _mm512_shuffle_ps::<0b11_10_11_10>(ab, cd);
            let all = _mm512_add_ps(low, high);
            let half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps::<1>(all));
            let sums = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half));
            _mm_storeu_ps(out.as_mut_ptr(), sums);
        }
        for (sum, out) in rest.iter().zip(out_rest) {
            *out = _mm512_reduce_add_ps(*sum);
        }
    }
    out
}
