//! Dot-product kernels for AVX-512 with VNNI: float weights with FMA, block-quantized weights
//! times int8 activations. Each reads the file's blocks as they are.
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

use super::activations::{BLOCK, GROUP, Int8Row, Rounded};
use super::format::{BlockFormat, FloatFormat, FloatKind, Kind};
use super::panel::{FloatPanel, Int8Panel, Int8Rows, ROWS};
use super::tables::{scale_words, words};
use super::{Cpu, SPAN};

mod attention;
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

    fn int8_dot<F: BlockFormat, const R: usize, const T: usize>(
        self,
        rows: [&[u8]; R],
        x: &Rounded,
        t: usize,
    ) -> [[f32; T]; R] {
        let k = rows[0].len() / F::SIZE * F::VALUES;
        let x: [Int8Row<'_>; T] = std::array::from_fn(|i| x.groups.row(t + i, k));
        match F::KIND {
            Kind::Q4_0 => call!(q4_0_dot, rows, x),
            Kind::Q8_0 => call!(q8_0_dot, rows, x),
            Kind::Q4K => call!(q4k_dot, rows, x),
            Kind::Q6K => call!(q6k_dot, rows, x),
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

/// Generates a float kernel from a load of 16 weights and the decoding of one.
macro_rules! float_kernel {
    ($name:ident, $size:literal, $load:ident, $one:expr) => {
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

float_kernel!(f32_dot, 4, load_f32, f32::from_le_bytes);
float_kernel!(f16_dot, 2, load_f16, |b| half::f16::from_le_bytes(b).to_f32());
float_kernel!(bf16_dot, 2, load_bf16, |b| half::bf16::from_le_bytes(b).to_f32());

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

// ---- block-quantized weights ----

/// 128 unsigned weights: the first and second halves of four blocks.
type Step = [__m512i; 2];

/// Four integers times 2^`SHIFT` in the lowest lanes.
///
/// # Safety
/// AVX-512 F is there.
#[inline(always)]
unsafe fn start<const SHIFT: i32>(counts: &[i32; 4]) -> __m512i {
    // SAFETY: the caller's promise; four i32 are 16 readable bytes.
    unsafe {
        let counts = _mm_loadu_si128(counts.as_ptr().cast());
        _mm512_zextsi128_si512(_mm_slli_epi32::<SHIFT>(counts))
    }
}

/// Group `g` of a token: its bytes, and its four scales repeated over the lanes.
///
/// # Safety
/// AVX-512 F is there, and the row has a group `g`.
#[inline(always)]
unsafe fn load_group(x: &Int8Row<'_>, g: usize) -> ([__m512i; 2], __m512) {
    // SAFETY: the caller's promise; a group is 128 bytes long, and has four scales.
    unsafe {
        let bytes = x.groups.as_ptr().add(g).cast::<u8>();
        let scales = _mm_loadu_ps(x.scales.as_ptr().add(g).cast());
        (
            [_mm512_load_si512(bytes.cast()), _mm512_load_si512(bytes.add(64).cast())],
            _mm512_broadcast_f32x4(scales),
        )
    }
}

/// Checks that `rows` are `blocks` blocks of `size` bytes, and that `x` covers them.
fn check<const R: usize, const T: usize>(
    rows: &[&[u8]; R],
    x: &[Int8Row<'_>; T],
    size: usize,
    block: usize,
) -> usize {
    let n = rows[0].len() / size;
    let groups = (n * block).div_ceil(GROUP);
    assert!(rows.iter().all(|row| row.len() == n * size), "rows of unequal length");
    for x in x {
        assert!(x.groups.len() >= groups && x.scales.len() >= groups);
        assert!(x.sums.len() >= groups && x.counts.len() >= groups);
    }
    n
}

/// Generates the kernel of a format with blocks of 32, an f16 scale, and no minimum.
macro_rules! block32_kernel {
    ($name:ident, $size:literal, $unpack:ident, $shift:literal) => {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
        fn $name<const R: usize, const T: usize>(
            rows: [&[u8]; R],
            x: [Int8Row<'_>; T],
        ) -> [[f32; T]; R] {
            let n = check(&rows, &x, $size, BLOCK);
            // The last one to three blocks, beside empty ones with a scale of zero.
            let mut last = [[0u8; 4 * $size]; R];
            if n % 4 != 0 {
                for r in 0..R {
                    last[r][..(n % 4) * $size].copy_from_slice(&rows[r][n / 4 * 4 * $size..]);
                }
            }
            let mut sums = [[_mm512_setzero_ps(); T]; R];
            for g in 0..n.div_ceil(4) {
                // SAFETY: this function has the features; group `g` is inside the rows (or copied
                // to `last`), and inside the activations (see `check`).
                unsafe {
                    let mut steps = [([_mm512_setzero_si512(); 2], _mm512_setzero_ps()); R];
                    for r in 0..R {
                        let blocks = match g < n / 4 {
                            true => rows[r].as_ptr().add(g * 4 * $size),
                            false => last[r].as_ptr(),
                        };
                        steps[r] = $unpack(blocks);
                        if T == 1 {
                            prefetch(blocks);
                        }
                    }
                    for t in 0..T {
                        let start = start::<$shift>(&x[t].counts.get_unchecked(g).blocks);
                        let (halves, x_scale) = load_group(&x[t], g);
                        for r in 0..R {
                            let (w, w_scale) = &steps[r];
                            let scale = _mm512_mul_ps(*w_scale, x_scale);
                            sums[r][t] = add_step(sums[r][t], start, halves, w, scale);
                        }
                    }
                }
            }
            // SAFETY: this function has the features.
            unsafe { reduce(&sums) }
        }
    };
}

block32_kernel!(q4_0_dot, 18, unpack_q4_0, 3); // offset 8
block32_kernel!(q8_0_dot, 34, unpack_q8_0, 7); // offset 128

/// `sum + scale · (start + x · w)`, lane by lane.
///
/// # Safety
/// AVX-512 VNNI is there.
#[inline(always)]
unsafe fn add_step(
    sum: __m512,
    start: __m512i,
    x: [__m512i; 2],
    w: &Step,
    scale: __m512,
) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        let dot = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(start, w[0], x[0]), w[1], x[1]);
        _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, sum)
    }
}

/// # Safety
/// AVX-512 F is there.
#[inline(always)]
unsafe fn table16(table: &'static [i16; 32]) -> __m512i {
    // SAFETY: the caller's promise; 64 readable bytes.
    unsafe { _mm512_loadu_si512(table.as_ptr().cast()) }
}

/// # Safety
/// AVX-512 F is there.
#[inline(always)]
unsafe fn table32(table: &'static [i32; 16]) -> __m512i {
    // SAFETY: the caller's promise; 64 readable bytes.
    unsafe { _mm512_loadu_si512(table.as_ptr().cast()) }
}

/// Four Q4_0 blocks: `{ f16 d; u8 qs[16] }`, weight = d · (nibble − 8), low nibbles first.
///
/// # Safety
/// AVX-512 BW and VNNI are there, and 72 bytes are readable at `p`.
#[inline(always)]
unsafe fn unpack_q4_0(p: *const u8) -> (Step, __m512) {
    static NIBBLES: [i16; 32] = words(9, 1, 2, 32, 4);
    static SCALES: [i16; 32] = scale_words(9, 32, 0);
    // SAFETY: the caller's promise; the second load ends at byte 72.
    unsafe {
        let (a, b) = (_mm512_loadu_si512(p.cast()), _mm512_loadu_si512(p.add(8).cast()));
        let packed = _mm512_permutex2var_epi16(a, table16(&NIBBLES), b);
        let mask = _mm512_set1_epi8(0x0F);
        let low = _mm512_and_si512(packed, mask);
        let high = _mm512_and_si512(_mm512_srli_epi16::<4>(packed), mask);
        let d = _mm512_permutexvar_epi16(table16(&SCALES), a);
        ([low, high], _mm512_cvtph_ps(_mm512_castsi512_si256(d)))
    }
}

/// Four Q8_0 blocks: `{ f16 d; i8 qs[32] }`, weight = d · q.
///
/// # Safety
/// AVX-512 BW and VNNI are there, and 136 bytes are readable at `p`.
#[inline(always)]
unsafe fn unpack_q8_0(p: *const u8) -> (Step, __m512) {
    static FIRST: [i16; 32] = words(17, 1, 2, 32, 32);
    // From sources that begin at words 4 and 36.
    static SECOND: [i16; 32] = words(17, 9 - 4, 2, 32, 32);
    static SCALES: [i16; 32] = scale_words(17, 32, 32);
    // SAFETY: the caller's promise; the last load ends at byte 136.
    unsafe {
        let (a0, a1) = (_mm512_loadu_si512(p.cast()), _mm512_loadu_si512(p.add(64).cast()));
        let (b0, b1) = (_mm512_loadu_si512(p.add(8).cast()), _mm512_loadu_si512(p.add(72).cast()));
        let first = _mm512_permutex2var_epi16(a0, table16(&FIRST), a1);
        let second = _mm512_permutex2var_epi16(b0, table16(&SECOND), b1);
        let d = _mm512_permutex2var_epi16(a0, table16(&SCALES), a1);
        // q + 128 is q with its sign bit turned.
        let sign = _mm512_set1_epi8(-128);
        let step = [_mm512_xor_si512(first, sign), _mm512_xor_si512(second, sign)];
        (step, _mm512_cvtph_ps(_mm512_castsi512_si256(d)))
    }
}

/// Q4_K: `{ f16 d, dmin; u8 scales[12]; u8 qs[128] }`, weight = d·sc·nibble − dmin·m, with 6-bit
/// sc and m for each 32 weights.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
fn q4k_dot<const R: usize, const T: usize>(rows: [&[u8]; R], x: [Int8Row<'_>; T]) -> [[f32; T]; R] {
    const SIZE: usize = 144;
    let n = check(&rows, &x, SIZE, 256);
    let mut sums = [[_mm512_setzero_ps(); T]; R];
    let mut minima = [[_mm_setzero_ps(); T]; R];
    for b in 0..n {
        // SAFETY: this function has the features; block `b` is inside the rows, and its two
        // groups inside the activations (see `check`).
        unsafe {
            let mut scales = [([_mm_setzero_ps(); 2], [_mm_setzero_ps(); 2]); R];
            for r in 0..R {
                scales[r] = q4k_scales(rows[r].as_ptr().add(b * SIZE));
            }
            for half in 0..2 {
                let g = 2 * b + half;
                let mut steps = [([_mm512_setzero_si512(); 2], _mm512_setzero_ps()); R];
                for r in 0..R {
                    let nibbles = rows[r].as_ptr().add(b * SIZE + 16 + 64 * half);
                    let step = unpack_q4k(nibbles);
                    if T == 1 {
                        prefetch(nibbles);
                    }
                    steps[r] = (step, _mm512_broadcast_f32x4(scales[r].0[half]));
                }
                for t in 0..T {
                    let x_sums = _mm_loadu_ps(x[t].sums.as_ptr().add(g).cast());
                    let (halves, x_scale) = load_group(&x[t], g);
                    for r in 0..R {
                        let (w, w_scale) = &steps[r];
                        let scale = _mm512_mul_ps(*w_scale, x_scale);
                        let start = _mm512_setzero_si512();
                        sums[r][t] = add_step(sums[r][t], start, halves, w, scale);
                        minima[r][t] = _mm_fmadd_ps(scales[r].1[half], x_sums, minima[r][t]);
                    }
                }
            }
        }
    }
    for r in 0..R {
        for t in 0..T {
            sums[r][t] = _mm512_sub_ps(sums[r][t], _mm512_zextps128_ps512(minima[r][t]));
        }
    }
    // SAFETY: this function has the features.
    unsafe { reduce(&sums) }
}

/// The scales d·sc and minima dmin·m of a Q4_K block, four and four.
///
/// # Safety
/// F16C and SSE4.1 are there, and 16 bytes are readable at `p`.
#[inline(always)]
unsafe fn q4k_scales(p: *const u8) -> ([__m128; 2], [__m128; 2]) {
    // SAFETY: the caller's promise.
    unsafe {
        let word = |at: usize| p.add(at).cast::<u32>().read_unaligned();
        let (low_sc, low_m, high) = (word(4), word(8), word(12));
        // Blocks 0–3 have their six bits in one byte; 4–7 have four bits in the last word and two
        // at the top of the others'.
        let sc = [low_sc & 0x3F3F3F3F, high & 0x0F0F0F0F | (low_sc >> 2) & 0x30303030];
        let m = [low_m & 0x3F3F3F3F, (high >> 4) & 0x0F0F0F0F | (low_m >> 2) & 0x30303030];
        let both = _mm_cvtph_ps(_mm_cvtsi32_si128(word(0) as i32));
        let d = _mm_shuffle_ps::<0b00_00_00_00>(both, both);
        let dmin = _mm_shuffle_ps::<0b01_01_01_01>(both, both);
        (
            [_mm_mul_ps(d, widen_bytes(sc[0])), _mm_mul_ps(d, widen_bytes(sc[1]))],
            [_mm_mul_ps(dmin, widen_bytes(m[0])), _mm_mul_ps(dmin, widen_bytes(m[1]))],
        )
    }
}

/// Four unsigned bytes as floats.
///
/// # Safety
/// SSE4.1 is there.
#[inline(always)]
unsafe fn widen_bytes(bytes: u32) -> __m128 {
    // SAFETY: the caller's promise.
    unsafe { _mm_cvtepi32_ps(_mm_cvtepu8_epi32(_mm_cvtsi32_si128(bytes as i32))) }
}

/// Four blocks of 32 nibbles: bytes 0–31 hold block 0 (low) and 1 (high), 32–63 blocks 2 and 3.
///
/// # Safety
/// AVX-512 VNNI is there, and 64 bytes are readable at `p`.
#[inline(always)]
unsafe fn unpack_q4k(p: *const u8) -> Step {
    // Dword 4j + i comes from the half that holds block i, its dword j, and for the second
    // register four further on.
    static FIRST: [i32; 16] = [0, 0, 8, 8, 1, 1, 9, 9, 2, 2, 10, 10, 3, 3, 11, 11];
    static SECOND: [i32; 16] = [4, 4, 12, 12, 5, 5, 13, 13, 6, 6, 14, 14, 7, 7, 15, 15];
    static SHIFT: [i32; 16] = [0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4];
    // SAFETY: the caller's promise.
    unsafe {
        let (packed, mask) = (_mm512_loadu_si512(p.cast()), _mm512_set1_epi8(0x0F));
        let first = _mm512_permutexvar_epi32(table32(&FIRST), packed);
        let second = _mm512_permutexvar_epi32(table32(&SECOND), packed);
        let shift = table32(&SHIFT);
        [
            _mm512_and_si512(_mm512_srlv_epi32(first, shift), mask),
            _mm512_and_si512(_mm512_srlv_epi32(second, shift), mask),
        ]
    }
}

/// Q6_K: `{ u8 ql[128], qh[64]; i8 scales[16]; f16 d }`, weight = d·sc·(q − 32), a scale for each
/// 16 weights.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
fn q6k_dot<const R: usize, const T: usize>(rows: [&[u8]; R], x: [Int8Row<'_>; T]) -> [[f32; T]; R] {
    const SIZE: usize = 210;
    // Scale 8·half + 2i + part belongs to lanes 4j + i of register `part`.
    static SCALES: [[i32; 16]; 4] = [
        [0, 2, 4, 6, 0, 2, 4, 6, 0, 2, 4, 6, 0, 2, 4, 6],
        [1, 3, 5, 7, 1, 3, 5, 7, 1, 3, 5, 7, 1, 3, 5, 7],
        [8, 10, 12, 14, 8, 10, 12, 14, 8, 10, 12, 14, 8, 10, 12, 14],
        [9, 11, 13, 15, 9, 11, 13, 15, 9, 11, 13, 15, 9, 11, 13, 15],
    ];
    let n = check(&rows, &x, SIZE, 256);
    let zero = _mm512_setzero_ps();
    let mut sums = [[zero; T]; R];
    for b in 0..n {
        // SAFETY: this function has the features; block `b` is inside the rows, and its two
        // groups inside the activations (see `check`).
        unsafe {
            let mut scales = [zero; R];
            for r in 0..R {
                let p = rows[r].as_ptr().add(b * SIZE + 192);
                let sc = _mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()));
                let bits = p.add(16).cast::<u16>().read_unaligned();
                let d = _mm_cvtph_ps(_mm_cvtsi32_si128(bits as i32));
                scales[r] = _mm512_mul_ps(_mm512_broadcastss_ps(d), _mm512_cvtepi32_ps(sc));
            }
            for half in 0..2 {
                let mut steps = [([_mm512_setzero_si512(); 2], [zero; 2]); R];
                for r in 0..R {
                    if T == 1 {
                        prefetch(rows[r].as_ptr().add(b * SIZE + SIZE / 2 * half));
                    }
                    let first = table32(&SCALES[2 * half]);
                    let second = table32(&SCALES[2 * half + 1]);
                    steps[r] = (
                        unpack_q6k(rows[r].as_ptr().add(b * SIZE), half),
                        [
                            _mm512_permutexvar_ps(first, scales[r]),
                            _mm512_permutexvar_ps(second, scales[r]),
                        ],
                    );
                }
                for t in 0..T {
                    let g = 2 * b + half;
                    let (halves, x_scale) = load_group(&x[t], g);
                    let counts = x[t].counts.get_unchecked(g);
                    // Offset 32.
                    let start = [start::<5>(&counts.halves[0]), start::<5>(&counts.halves[1])];
                    for r in 0..R {
                        let (w, scale) = &steps[r];
                        let first = _mm512_dpbusd_epi32(start[0], w[0], halves[0]);
                        let second = _mm512_dpbusd_epi32(start[1], w[1], halves[1]);
                        let dot = _mm512_mul_ps(_mm512_cvtepi32_ps(first), scale[0]);
                        let dot = _mm512_fmadd_ps(_mm512_cvtepi32_ps(second), scale[1], dot);
                        sums[r][t] = _mm512_fmadd_ps(dot, x_scale, sums[r][t]);
                    }
                }
            }
        }
    }
    // SAFETY: this function has the features.
    unsafe { reduce(&sums) }
}

/// Blocks `4·half..` of a Q6_K block: low four bits in `ql` (blocks 0 and 1 in the low nibbles, 2
/// and 3 in the high ones), high two bits of block i at bit 2i of `qh`.
///
/// # Safety
/// AVX-512 VNNI is there, 210 bytes are readable at `p`, and `half` is 0 or 1.
#[inline(always)]
unsafe fn unpack_q6k(p: *const u8, half: usize) -> Step {
    static LOW: [[i32; 16]; 2] = [
        [0, 8, 0, 8, 1, 9, 1, 9, 2, 10, 2, 10, 3, 11, 3, 11],
        [4, 12, 4, 12, 5, 13, 5, 13, 6, 14, 6, 14, 7, 15, 7, 15],
    ];
    static LOW_SHIFT: [i32; 16] = [0, 0, 4, 4, 0, 0, 4, 4, 0, 0, 4, 4, 0, 0, 4, 4];
    static HIGH: [[i32; 16]; 2] = [
        [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3],
        [4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7],
    ];
    // Rotations that bring bits 2i and 2i + 1 of each byte to bits 4 and 5.
    static HIGH_TURN: [i32; 16] = [4, 2, 0, 30, 4, 2, 0, 30, 4, 2, 0, 30, 4, 2, 0, 30];
    // SAFETY: the caller's promise: ql ends at byte 128, qh at 192.
    unsafe {
        let low = _mm512_loadu_si512(p.add(64 * half).cast());
        let high = _mm512_broadcast_i64x4(_mm256_loadu_si256(p.add(128 + 32 * half).cast()));
        let mut halves = [_mm512_setzero_si512(); 2];
        for part in 0..2 {
            let l = _mm512_permutexvar_epi32(table32(&LOW[part]), low);
            let l = _mm512_srlv_epi32(l, table32(&LOW_SHIFT));
            let h = _mm512_permutexvar_epi32(table32(&HIGH[part]), high);
            let h = _mm512_rolv_epi32(h, table32(&HIGH_TURN));
            // Low four bits from `l`, the others from `h`; of those two count.
            const SELECT: i32 = 0xCA;
            let q = _mm512_ternarylogic_epi32::<SELECT>(_mm512_set1_epi8(0x0F), l, h);
            halves[part] = _mm512_and_si512(q, _mm512_set1_epi8(0x3F));
        }
        halves
    }
}
