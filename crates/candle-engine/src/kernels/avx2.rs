//! Dot-product kernels for AVX2 with FMA and F16C, and with AVX-VNNI where a CPU has that too:
//! float weights with FMA, block-quantized weights times int8 activations in their natural order.
//!
//! The int8 kernels take 128 weights per step as four registers of unsigned bytes. AVX-VNNI
//! multiplies them with signed bytes and adds up in 32 bits. Without it `vpmaddubsw` adds pairs of
//! products in 16 bits, with saturation: exact where two of the format's largest codes times 127
//! fit (`FITS`); where they do not (Q8_0), bytes become magnitudes and the signs change sides, so
//! that the largest pair is 2 · 128 · 127 = 32512.
//!
//! The helpers are `#[inline(always)]` without the features of their callers, because the two
//! attributes exclude each other: each must be called from a function that has the features, and
//! not through the standard library (`array::from_fn`), which has none and so inlines none.

// Tiles are small constant loops over several arrays at once.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::activations::{Rounded, int8_value};
use super::format::{BLOCK, BlockFormat, FloatFormat, FloatKind, Kind};
use super::panel::{FloatPanel, Int8Panel, Int8Rows, Int8Token, ROWS};
use super::tiles::TileCpu;
use super::{Cpu, SPAN};

mod attention;
mod panels;

/// Proof that this CPU has what the kernels use; with `VNNI`, AVX-VNNI too.
#[derive(Debug, Clone, Copy)]
pub struct Avx2<const VNNI: bool>(());

impl<const VNNI: bool> Avx2<VNNI> {
    /// `Some` where the CPU has AVX2, F16C and FMA (and AVX-VNNI).
    pub fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("fma")
            && (!VNNI || is_x86_feature_detected!("avxvnni"));
        has.then_some(Self(()))
    }
}

/// Calls a kernel of this file.
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
        call!(panels::round, x, bytes, scales, sums)
    }

    fn int8_dot<F: BlockFormat, const R: usize, const T: usize>(
        self,
        rows: [&[u8]; R],
        x: &Rounded,
        t: usize,
    ) -> [[f32; T]; R] {
        match VNNI {
            true => call!(vnni_dot::<F, R, T>, rows, &x.rows, t),
            false => call!(avx2_dot::<F, R, T>, rows, &x.rows, t),
        }
    }

    fn float_dot<F: FloatFormat, const R: usize, const T: usize>(
        self,
        rows: [&[u8]; R],
        x: [&[f32]; T],
    ) -> [[f32; T]; R] {
        call!(float_dot::<F, R, T>, rows, x)
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
        match VNNI {
            true => call!(vnni_tiles::<F>, panel, first, n, x, out),
            false => call!(avx2_tiles::<F>, panel, first, n, x, out),
        }
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

/// The int8 kernels, compiled for a set of features.
macro_rules! int8_kernels {
    ($features:literal, $vnni:literal, $tokens:literal, $dot:ident, $tiles:ident) => {
        #[target_feature(enable = $features)]
        fn $dot<F: BlockFormat, const R: usize, const T: usize>(
            rows: [&[u8]; R],
            x: &Int8Rows,
            t: usize,
        ) -> [[f32; T]; R] {
            // SAFETY: this function has the features.
            unsafe { int8_dot::<F, $vnni, R, T>(rows, x, t) }
        }

        #[target_feature(enable = $features)]
        fn $tiles<F: BlockFormat>(
            panel: &Int8Panel,
            first: usize,
            n: usize,
            x: &Int8Rows,
            out: &mut [[f32; ROWS]],
        ) {
            // SAFETY: this function has the features.
            unsafe { panels::int8_tiles::<F, $vnni, $tokens>(panel, first, n, x, out) }
        }
    };
}

int8_kernels!("avx2,f16c,fma", false, 2, avx2_dot, avx2_tiles);
int8_kernels!("avx2,f16c,fma,avxvnni", true, 3, vnni_dot, vnni_tiles);

/// How far ahead of a decode step its weights are prefetched, in bytes. The hardware's own
/// prefetcher stops at each 4 KiB page of a mapped file.
const AHEAD: usize = 8192;

/// Asks for the 128 bytes that lie `AHEAD` of `p`. Rows follow each other in the file, so the end
/// of one row fetches the next; the address need not be valid.
///
/// # Safety
/// SSE is there.
#[inline(always)]
unsafe fn prefetch(p: *const u8) {
    // SAFETY: the caller's promise; a prefetch of any address is harmless.
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(AHEAD).cast());
        _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(AHEAD + 64).cast());
    }
}

// ---- float weights ----

/// See `Cpu::float_dot`.
#[target_feature(enable = "avx2,f16c,fma")]
fn float_dot<F: FloatFormat, const R: usize, const T: usize>(
    rows: [&[u8]; R],
    x: [&[f32]; T],
) -> [[f32; T]; R] {
    /// Values of a register.
    const LANES: usize = 8;
    let k = rows[0].len() / F::SIZE;
    assert!(rows.iter().all(|row| row.len() == k * F::SIZE));
    assert!(x.iter().all(|x| x.len() == k));
    // Additions that wait for each other: enough chains of them to keep the units busy.
    let chains = if R * T == 1 { 4 } else { 2 };
    let mut sums = [[[_mm256_setzero_ps(); 4]; T]; R];
    let whole = k / (LANES * chains) * (LANES * chains);
    for start in (0..whole).step_by(LANES * chains) {
        if T == 1 {
            for r in 0..R {
                // SAFETY: this function has the features.
                unsafe { prefetch(rows[r].as_ptr().wrapping_add(start * F::SIZE)) };
            }
        }
        for c in 0..chains {
            let i = start + LANES * c;
            for t in 0..T {
                // SAFETY: i + 8 <= whole <= k, and every slice was checked to hold k values.
                let x = unsafe { _mm256_loadu_ps(x[t].as_ptr().add(i)) };
                for r in 0..R {
                    // SAFETY: as above.
                    let w = unsafe { load::<F>(rows[r].as_ptr().add(i * F::SIZE)) };
                    sums[r][t][c] = _mm256_fmadd_ps(w, x, sums[r][t][c]);
                }
            }
        }
    }
    let mut out = [[0.0; T]; R];
    for r in 0..R {
        for t in 0..T {
            let [a, b, c, d] = sums[r][t];
            let sum = _mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d));
            // SAFETY: this function has the features.
            out[r][t] = unsafe { reduce(sum) };
            for i in whole..k {
                out[r][t] += F::get(&rows[r][i * F::SIZE..][..F::SIZE]) * x[t][i];
            }
        }
    }
    out
}

/// Eight weights as f32.
///
/// # Safety
/// AVX2 and F16C are there, and eight weights are readable at `p`.
#[inline(always)]
unsafe fn load<F: FloatFormat>(p: *const u8) -> __m256 {
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

/// The sum of the lanes.
///
/// # Safety
/// AVX is there.
#[inline(always)]
unsafe fn reduce(sum: __m256) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        let sum = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
        let sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
        _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)))
    }
}

// ---- block-quantized weights ----

/// Sums of two products of a code and an activation that fit together into 16 bits.
const fn fits(kind: Kind) -> usize {
    let largest = match kind {
        Kind::Q4_0 | Kind::Q4K => 15,
        Kind::Q6K => 63,
        Kind::Q8_0 => 255,
    };
    // Rounding leaves −128 only beside a scale that is no number.
    i16::MAX as usize / (2 * largest * 127)
}

/// Whether a kernel subtracts the offset of weights from its sum of products.
const fn has_start<F: BlockFormat, const VNNI: bool>() -> bool {
    F::SHIFT.is_some() && (VNNI || fits(F::KIND) > 0)
}

/// Groups of four blocks in what `unpack` reads from.
const fn parts<F: BlockFormat>() -> usize {
    F::VALUES.div_ceil(4 * BLOCK)
}

/// Four blocks of weights.
#[derive(Clone, Copy)]
struct Four {
    /// Unsigned bytes in their natural order, a register for each block.
    weights: [__m256i; 4],
    /// Of the first halves of the four blocks, then of the second.
    scales: __m256,
    /// The same twice, where the format has them.
    minima: __m256,
}

impl Four {
    /// # Safety
    /// AVX is there.
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let (bytes, floats) = (_mm256_setzero_si256(), _mm256_setzero_ps());
            Self { weights: [bytes; 4], scales: floats, minima: floats }
        }
    }
}

/// See `Cpu::int8_dot`.
///
/// # Safety
/// AVX2, F16C and FMA are there, and AVX-VNNI if so.
#[inline(always)]
unsafe fn int8_dot<F: BlockFormat, const VNNI: bool, const R: usize, const T: usize>(
    rows: [&[u8]; R],
    x: &Int8Rows,
    t: usize,
) -> [[f32; T]; R] {
    let k = rows[0].len() / F::SIZE * F::VALUES;
    let x: [Int8Token<'_>; T] = std::array::from_fn(|i| x.token(t + i));
    assert!(rows.iter().all(|row| row.len() == rows[0].len()), "rows of unequal length");
    for x in &x {
        assert!(x.bytes.len() >= k && x.scales.len() >= k / BLOCK && x.sums.len() >= k / BLOCK);
    }
    let stride = parts::<F>() * 4 * BLOCK / F::VALUES * F::SIZE;
    let steps = rows[0].len() / stride;
    let mut out = [[0.0; T]; R];
    // SAFETY: the caller has the features. Step `step` is inside the rows, and its groups inside
    // the tokens (checked above).
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); T]; R];
        for step in 0..steps {
            for part in 0..parts::<F>() {
                let g = step * parts::<F>() + part;
                let mut w = [Four::zero(); R];
                for r in 0..R {
                    let p = rows[r].as_ptr().add(step * stride);
                    if T == 1 {
                        prefetch(p.add(stride / parts::<F>() * part));
                    }
                    w[r] = unpack::<F>(p, part);
                }
                for i in 0..T {
                    let bytes = x[i].bytes.as_ptr().add(4 * BLOCK * g);
                    let scale = _mm_loadu_ps(x[i].scales.as_ptr().add(4 * g));
                    let scale = _mm256_set_m128(scale, scale);
                    let halves = _mm256_loadu_si256(x[i].sums.as_ptr().add(4 * g).cast());
                    let halves = first_then_second(halves);
                    for r in 0..R {
                        let w = &w[r];
                        let mut dots = dots::<F, VNNI>(&w.weights, bytes);
                        if let Some(shift) = F::SHIFT
                            && has_start::<F, VNNI>()
                        {
                            let count = _mm_cvtsi32_si128(shift as i32);
                            dots = _mm256_sub_epi32(dots, _mm256_sll_epi32(halves, count));
                        }
                        let both = _mm256_mul_ps(w.scales, scale);
                        sums[r][i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), both, sums[r][i]);
                        if F::MINIMA {
                            let sum = _mm256_mul_ps(_mm256_cvtepi32_ps(halves), scale);
                            sums[r][i] = _mm256_fnmadd_ps(w.minima, sum, sums[r][i]);
                        }
                    }
                }
            }
        }
        for r in 0..R {
            for i in 0..T {
                out[r][i] = reduce(sums[r][i]);
            }
        }
    }
    // One to three blocks may be left.
    for b in steps * stride / F::SIZE * F::VALUES / BLOCK..k / BLOCK {
        for r in 0..R {
            let w = F::unpack(rows[r], b);
            for i in 0..T {
                let bytes = &x[i].bytes[b * BLOCK..][..BLOCK];
                out[r][i] += x[i].scales[b] * int8_value::<F>(&w, bytes, x[i].sums[b]);
            }
        }
    }
    out
}

/// Pairs `[a0, b0, a1, b1, …]` as `[a0, a1, …, b0, b1, …]`.
///
/// # Safety
/// AVX2 is there.
#[inline(always)]
unsafe fn first_then_second(pairs: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_permutevar8x32_epi32(pairs, _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7)) }
}

/// Sums of weights times 128 activations: of the first halves of the four blocks, then of the
/// second. Weights count as they are stored, with their offset, if `has_start`.
///
/// # Safety
/// AVX2 is there, AVX-VNNI if so, and 128 bytes are readable at `x`.
#[inline(always)]
unsafe fn dots<F: BlockFormat, const VNNI: bool>(w: &[__m256i; 4], x: *const i8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut d = [_mm256_setzero_si256(); 4];
        for i in 0..4 {
            let x = _mm256_loadu_si256(x.add(BLOCK * i).cast());
            d[i] = match () {
                _ if VNNI => _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), w[i], x),
                _ if fits(F::KIND) >= 4 => _mm256_maddubs_epi16(w[i], x),
                _ => _mm256_madd_epi16(products::<F>(w[i], x), ones),
            };
        }
        if !VNNI && fits(F::KIND) >= 4 {
            let (a, b) = (_mm256_hadd_epi16(d[0], d[1]), _mm256_hadd_epi16(d[2], d[3]));
            return _mm256_madd_epi16(_mm256_hadd_epi16(a, b), ones);
        }
        _mm256_hadd_epi32(_mm256_hadd_epi32(d[0], d[1]), _mm256_hadd_epi32(d[2], d[3]))
    }
}

/// Sums of pairs of products in 16 bits, none of which saturates: weights times activations, or,
/// where that would be too large, weights less their offset of 128 times activations.
///
/// # Safety
/// AVX2 is there.
#[inline(always)]
unsafe fn products<F: BlockFormat>(w: __m256i, x: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        if fits(F::KIND) > 0 {
            return _mm256_maddubs_epi16(w, x);
        }
        let w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
        _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
    }
}

/// Group `part` of the blocks at `p`: of four blocks (part 0), or of a block of 256.
///
/// # Safety
/// AVX2 and F16C are there, the blocks are readable at `p`, and `part` is less than `parts`.
#[inline(always)]
unsafe fn unpack<F: BlockFormat>(p: *const u8, part: usize) -> Four {
    // SAFETY: the caller's promise; no load reaches beyond its block.
    unsafe {
        let nibble = _mm256_set1_epi8(0x0F);
        let load = |at: usize| _mm256_loadu_si256(p.add(at).cast());
        let low = |bytes| _mm256_and_si256(bytes, nibble);
        let high = |bytes| _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), nibble);
        let mut weights = [_mm256_setzero_si256(); 4];
        let scales;
        let mut minima = _mm256_setzero_ps();
        match F::KIND {
            Kind::Q4_0 => {
                // The second half of a block are the high nibbles of the same bytes.
                let shift = _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4);
                for i in 0..4 {
                    let packed = _mm_loadu_si128(p.add(18 * i + 2).cast());
                    let packed = _mm256_broadcastsi128_si256(packed);
                    weights[i] = low(_mm256_srlv_epi32(packed, shift));
                }
                scales = half_scales(p, 18);
            }
            Kind::Q8_0 => {
                for i in 0..4 {
                    weights[i] = _mm256_xor_si256(load(34 * i + 2), _mm256_set1_epi8(-128));
                }
                scales = half_scales(p, 34);
            }
            Kind::Q4K => {
                let (a, b) = (load(16 + 64 * part), load(16 + 64 * part + 32));
                weights = [low(a), high(a), low(b), high(b)];
                (scales, minima) = q4k_scales(p, part);
            }
            Kind::Q6K => {
                let (a, b) = (load(64 * part), load(64 * part + 32));
                let tops = load(128 + 32 * part);
                let two = _mm256_set1_epi8(0x30);
                let top = |bits| _mm256_and_si256(bits, two);
                weights = [
                    _mm256_or_si256(low(a), top(_mm256_slli_epi16::<4>(tops))),
                    _mm256_or_si256(low(b), top(_mm256_slli_epi16::<2>(tops))),
                    _mm256_or_si256(high(a), top(tops)),
                    _mm256_or_si256(high(b), top(_mm256_srli_epi16::<2>(tops))),
                ];
                let sc = _mm_loadl_epi64(p.add(192 + 8 * part).cast());
                let sc = first_then_second(_mm256_cvtepi8_epi32(sc));
                let bits = p.add(208).cast::<u16>().read_unaligned();
                let d = _mm_cvtph_ps(_mm_cvtsi32_si128(bits as i32));
                scales = _mm256_mul_ps(_mm256_cvtepi32_ps(sc), _mm256_broadcastss_ps(d));
            }
        }
        Four { weights, scales, minima }
    }
}

/// The f16 numbers at the beginning of four blocks of `size` bytes, twice.
///
/// # Safety
/// AVX and F16C are there, and four blocks are readable at `p`.
#[inline(always)]
unsafe fn half_scales(p: *const u8, size: usize) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe {
        let mut bits = 0;
        for i in 0..4 {
            bits |= (p.add(size * i).cast::<u16>().read_unaligned() as u64) << (16 * i);
        }
        let d = _mm_cvtph_ps(_mm_cvtsi64_si128(bits as i64));
        _mm256_set_m128(d, d)
    }
}

/// The scales d·sc and the minima dmin·m of blocks `4·part..` of a Q4_K block, each twice.
///
/// # Safety
/// AVX2 and F16C are there, and 16 bytes are readable at `p`.
#[inline(always)]
unsafe fn q4k_scales(p: *const u8, part: usize) -> (__m256, __m256) {
    // SAFETY: the caller's promise.
    unsafe {
        let word = |at: usize| p.add(at).cast::<u32>().read_unaligned();
        let (low_sc, low_m, high) = (word(4), word(8), word(12));
        // Blocks 0–3 have their six bits in one byte; 4–7 have four bits in the last word and two
        // at the top of the others'.
        let (sc, m) = match part {
            0 => (low_sc & 0x3F3F3F3F, low_m & 0x3F3F3F3F),
            _ => (
                high & 0x0F0F0F0F | (low_sc >> 2) & 0x30303030,
                (high >> 4) & 0x0F0F0F0F | (low_m >> 2) & 0x30303030,
            ),
        };
        let both = _mm_cvtph_ps(_mm_cvtsi32_si128(word(0) as i32));
        let times = |d, bytes: u32| {
            let bytes = _mm_cvtepu8_epi32(_mm_cvtsi32_si128(bytes as i32));
            let product = _mm_mul_ps(d, _mm_cvtepi32_ps(bytes));
            _mm256_set_m128(product, product)
        };
        (
            times(_mm_shuffle_ps::<0x00>(both, both), sc),
            times(_mm_shuffle_ps::<0x55>(both, both), m),
        )
    }
}
