//! GEMV for AVX-512 with VNNI. Each kernel reads the file's blocks directly. See `kernels::avx512`.

// Tiles are small constant loops over several arrays at once.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use crate::kernels::STREAMS;
use crate::kernels::activations::{BLOCK, GROUP, Int8Row};
use crate::kernels::avx512::{load_bf16, load_f16, load_f32};
use crate::kernels::pack::avx512::{
    Q4K_SIZE, Q6K_SIZE, Step, in_place_q4k, q4k_scales, table32, unpack_q4_0, unpack_q5_0,
    unpack_q6k, unpack_q8_0,
};
use crate::kernels::prefetch::prefetch_ahead;

// ---- float weights ----

/// Generates a float kernel from a load of 16 weights and the decoding of one.
macro_rules! float_kernel {
    ($name:ident, $gemv:ident, $size:literal, $load:ident, $one:expr) => {
        /// See `Cpu::float_gemv`.
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
        pub fn $gemv<const T: usize>(
            rows: [&[u8]; STREAMS],
            x: [&[f32]; T],
            out: &mut [[[f32; T]; STREAMS]],
        ) {
            let bytes = x[0].len() * $size;
            assert!(rows.iter().all(|rows| rows.len() == bytes * out.len()));
            for (r, out) in out.iter_mut().enumerate() {
                *out = $name(rows.map(|rows| &rows[r * bytes..][..bytes]), x);
            }
        }

        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
        pub fn $name<const R: usize, const T: usize>(
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
                    if i * $size % 128 == 0 {
                        // SAFETY: this function has the features.
                        unsafe {
                            prefetch_ahead::<T>(rows[r].as_ptr().wrapping_add(i * $size), 128)
                        };
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

float_kernel!(f32_dot, f32_gemv, 4, load_f32, f32::from_le_bytes);
float_kernel!(f16_dot, f16_gemv, 2, load_f16, |b| half::f16::from_le_bytes(b).to_f32());
float_kernel!(bf16_dot, bf16_gemv, 2, load_bf16, |b| half::bf16::from_le_bytes(b).to_f32());

/// The sum of the lanes of each vector.
///
/// # Safety
/// The CPU has AVX-512 F.
#[inline(always)]
unsafe fn reduce<const R: usize, const T: usize>(sums: &[[__m512; T]; R]) -> [[f32; T]; R] {
    let mut out = [[0.0; T]; R];
    let (fours, rest) = sums.as_flattened().as_chunks::<4>();
    let (out_fours, out_rest) = out.as_flattened_mut().as_chunks_mut::<4>();
    // SAFETY: the caller's promise; four floats are as long as a register.
    unsafe {
        for ([a, b, c, d], out) in fours.iter().zip(out_fours) {
            // Pairs of neighbours, twice; then each 128 bits hold one sum of each vector.
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

// ---- block-quantized weights ----

/// Four integers times 2^`SHIFT` in the lowest lanes.
///
/// # Safety
/// The CPU has AVX-512 F.
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
/// The CPU has AVX-512 F, and the row has a group `g`.
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

/// Checks that `rows` have whole blocks of `size` bytes, equally many, and that `x` covers them;
/// returns how many.
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

/// Generates two functions around `$sums`, which adds up `n` blocks of checked rows: products of
/// one row with some tokens, and of many rows in several places with them.
macro_rules! products {
    ($dot:ident, $gemv:ident, $sums:ident, $size:expr, $block:expr) => {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
        pub fn $dot<const T: usize>(row: &[u8], x: [Int8Row<'_>; T]) -> [f32; T] {
            let n = check(&[row], &x, $size, $block);
            // SAFETY: this function has the features, and the row and activations were checked.
            let [out] = unsafe { reduce(&$sums([row.as_ptr()], n, &x)) };
            out
        }

        /// See `Cpu::int8_gemv`.
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
        pub fn $gemv<const T: usize>(
            rows: [&[u8]; STREAMS],
            x: [Int8Row<'_>; T],
            out: &mut [[[f32; T]; STREAMS]],
        ) {
            let bytes = rows[0].len() / out.len().max(1);
            assert!(rows.iter().all(|rows| rows.len() == bytes * out.len()));
            let n = check(&rows.map(|rows| &rows[..bytes]), &x, $size, $block);
            for (r, out) in out.iter_mut().enumerate() {
                let row = rows.map(|rows| rows[r * bytes..].as_ptr());
                // SAFETY: as above; each stream's row `r` is inside its rows.
                *out = unsafe { reduce(&$sums(row, n, &x)) };
            }
        }
    };
}

/// Generates the kernels of a format with blocks of 32, an f16 scale, and no minimum.
macro_rules! block32_kernel {
    ($dot:ident, $gemv:ident, $sums:ident, $size:literal, $unpack:ident, $shift:literal) => {
        products!($dot, $gemv, $sums, $size, BLOCK);

        /// # Safety
        /// The CPU has AVX-512 VNNI, and `check` has seen the rows and activations.
        #[inline(always)]
        unsafe fn $sums<const R: usize, const T: usize>(
            rows: [*const u8; R],
            n: usize,
            x: &[Int8Row<'_>; T],
        ) -> [[__m512; T]; R] {
            // SAFETY: the caller's promise; every group is inside the rows, or copied to `last`.
            unsafe {
                let mut sums = [[_mm512_setzero_ps(); T]; R];
                let mut step = |g: usize, blocks: [*const u8; R]| {
                    // Not `map`: its closure may not be inlined, which leaves a third of the speed.
                    let mut weights = [([_mm512_setzero_si512(); 2], _mm512_setzero_ps()); R];
                    for r in 0..R {
                        prefetch_ahead::<T>(blocks[r], 4 * $size);
                        weights[r] = $unpack(blocks[r]);
                    }
                    for t in 0..T {
                        let start = start::<$shift>(&x[t].counts.get_unchecked(g).blocks);
                        let (halves, x_scale) = load_group(&x[t], g);
                        for r in 0..R {
                            let (w, w_scale) = &weights[r];
                            let scale = _mm512_mul_ps(*w_scale, x_scale);
                            sums[r][t] = add_step(sums[r][t], start, halves, w, scale);
                        }
                    }
                };
                for g in 0..n / 4 {
                    step(g, rows.map(|row| row.add(g * 4 * $size)));
                }
                if n % 4 != 0 {
                    // The last one to three blocks, padded with empty blocks of scale zero.
                    let mut last = [[0u8; 4 * $size]; R];
                    for r in 0..R {
                        let rest = rows[r].add(n / 4 * 4 * $size);
                        rest.copy_to_nonoverlapping(last[r].as_mut_ptr(), n % 4 * $size);
                    }
                    step(n / 4, last.each_ref().map(|block| block.as_ptr()));
                }
                sums
            }
        }
    };
}

block32_kernel!(q4_0_dot, q4_0_gemv, q4_0_sums, 18, unpack_q4_0, 3); // offset 8
block32_kernel!(q5_0_dot, q5_0_gemv, q5_0_sums, 22, unpack_q5_0, 4); // offset 16
block32_kernel!(q8_0_dot, q8_0_gemv, q8_0_sums, 34, unpack_q8_0, 7); // offset 128

/// `sum + scale · (start + x · w)`, lane by lane.
///
/// # Safety
/// The CPU has AVX-512 VNNI.
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

/// Q4_K: `{ f16 d, dmin; u8 scales[12]; u8 qs[128] }`, weight = d·sc·nibble − dmin·m, with 6-bit
/// sc and m for each 32 weights.
///
/// # Safety
/// The CPU has AVX-512 VNNI, and `check` has seen the rows and activations.
#[inline(always)]
unsafe fn q4k_sums<const R: usize, const T: usize>(
    rows: [*const u8; R],
    n: usize,
    x: &[Int8Row<'_>; T],
) -> [[__m512; T]; R] {
    // SAFETY: the caller's promise; each block is inside the rows, and its two groups inside the
    // activations.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); T]; R];
        let mut minima = [[_mm256_setzero_ps(); T]; R];
        for b in 0..n {
            let mut scales = [_mm512_setzero_ps(); R];
            for r in 0..R {
                scales[r] = q4k_scales(rows[r].add(b * Q4K_SIZE));
                let minimum = _mm512_extractf32x8_ps::<1>(scales[r]);
                for t in 0..T {
                    let x_sums = _mm256_loadu_ps(x[t].sums.as_ptr().add(2 * b).cast());
                    minima[r][t] = _mm256_fmadd_ps(minimum, x_sums, minima[r][t]);
                }
                scales[r] = _mm512_mul_ps(scales[r], nibble_places());
            }
            for half in 0..2 {
                let g = 2 * b + half;
                let mut steps = [([_mm512_setzero_si512(); 2], _mm512_setzero_ps()); R];
                for r in 0..R {
                    let nibbles = rows[r].add(b * Q4K_SIZE + 16 + 64 * half);
                    prefetch_ahead::<T>(nibbles, Q4K_SIZE / 2);
                    let scale = match half {
                        0 => _mm512_shuffle_f32x4::<0b00_00_00_00>(scales[r], scales[r]),
                        _ => _mm512_shuffle_f32x4::<0b01_01_01_01>(scales[r], scales[r]),
                    };
                    steps[r] = (in_place_q4k(nibbles), scale);
                }
                for t in 0..T {
                    let (halves, x_scale) = load_group(&x[t], g);
                    for r in 0..R {
                        let (w, w_scale) = &steps[r];
                        let scale = _mm512_mul_ps(*w_scale, x_scale);
                        let start = _mm512_setzero_si512();
                        sums[r][t] = add_step(sums[r][t], start, halves, w, scale);
                    }
                }
            }
        }
        for r in 0..R {
            for t in 0..T {
                sums[r][t] = _mm512_sub_ps(sums[r][t], _mm512_zextps256_ps512(minima[r][t]));
            }
        }
        sums
    }
}

products!(q4k_dot, q4k_gemv, q4k_sums, Q4K_SIZE, 256);

/// The factors for the scales of `in_place_q4k`: 1 and 1/16 in turn.
///
/// # Safety
/// The CPU has AVX-512 F.
#[inline(always)]
unsafe fn nibble_places() -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        let pair = _mm512_set1_epi64(0x3D80_0000_3F80_0000);
        _mm512_castsi512_ps(pair)
    }
}

/// Q6_K: `{ u8 ql[128], qh[64]; i8 scales[16]; f16 d }`, weight = d·sc·(q − 32), a scale for each
/// 16 weights.
///
/// # Safety
/// The CPU has AVX-512 VNNI, and `check` has seen the rows and activations.
#[inline(always)]
unsafe fn q6k_sums<const R: usize, const T: usize>(
    rows: [*const u8; R],
    n: usize,
    x: &[Int8Row<'_>; T],
) -> [[__m512; T]; R] {
    // SAFETY: the caller's promise; each block is inside the rows, and its two groups inside the
    // activations.
    unsafe {
        // Scale 8·half + 2i + part belongs to lanes 4j + i of register `part`.
        static SCALES: [[i32; 16]; 4] = [
            [0, 2, 4, 6, 0, 2, 4, 6, 0, 2, 4, 6, 0, 2, 4, 6],
            [1, 3, 5, 7, 1, 3, 5, 7, 1, 3, 5, 7, 1, 3, 5, 7],
            [8, 10, 12, 14, 8, 10, 12, 14, 8, 10, 12, 14, 8, 10, 12, 14],
            [9, 11, 13, 15, 9, 11, 13, 15, 9, 11, 13, 15, 9, 11, 13, 15],
        ];
        let zero = _mm512_setzero_ps();
        let mut sums = [[zero; T]; R];
        for b in 0..n {
            let mut scales = [zero; R];
            for r in 0..R {
                let p = rows[r].add(b * Q6K_SIZE + 192);
                let sc = _mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()));
                let bits = p.add(16).cast::<u16>().read_unaligned();
                let d = _mm_cvtph_ps(_mm_cvtsi32_si128(bits as i32));
                scales[r] = _mm512_mul_ps(_mm512_broadcastss_ps(d), _mm512_cvtepi32_ps(sc));
            }
            for half in 0..2 {
                let mut steps = [([_mm512_setzero_si512(); 2], [zero; 2]); R];
                for r in 0..R {
                    prefetch_ahead::<T>(
                        rows[r].add(b * Q6K_SIZE + Q6K_SIZE / 2 * half),
                        Q6K_SIZE / 2,
                    );
                    let first = table32(&SCALES[2 * half]);
                    let second = table32(&SCALES[2 * half + 1]);
                    steps[r] = (
                        unpack_q6k(rows[r].add(b * Q6K_SIZE), half),
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
        sums
    }
}

products!(q6k_dot, q6k_gemv, q6k_sums, Q6K_SIZE, 256);
