//! Panels and their products for AVX2: 32 of the 64 rows are four registers at a time, whose bytes
//! are multiplied with four of a token, repeated over the lanes.

// Tiles are small constant loops over several arrays at once.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;
use std::array::from_fn;

use super::super::format::{BLOCK, BlockFormat, FloatFormat};
use super::super::panel::{BLOCKS, COLUMNS, FloatPanel, Int8Panel, Int8Rows, Int8Token, ROWS};
use super::{Four, fits, has_start, load, parts, products, unpack};

/// Lanes of a register, and registers that are computed at once.
const LANES: usize = 8;
const WIDTH: usize = 4;

// ---- activations ----

/// See `Cpu::round`.
#[target_feature(enable = "avx2,f16c,fma")]
pub fn round(x: &[f32], bytes: &mut [i8], scales: &mut [f32], sums: &mut [[i32; 2]]) {
    let blocks = x.as_chunks::<BLOCK>().0.iter().zip(bytes.as_chunks_mut::<BLOCK>().0);
    for ((x, bytes), (scale, sums)) in blocks.zip(scales.iter_mut().zip(sums)) {
        // SAFETY: this function has the features; a block has 32 values and 32 bytes.
        unsafe {
            let x: [__m256; 4] = from_fn(|i| _mm256_loadu_ps(x.as_ptr().add(LANES * i)));
            let sign = _mm256_set1_epi32(i32::MAX);
            let [a, b, c, d] = x.map(|x| _mm256_and_si256(_mm256_castps_si256(x), sign));
            // Bits without their sign are ordered as integers, NaN last.
            let most = _mm256_max_epu32(_mm256_max_epu32(a, b), _mm256_max_epu32(c, d));
            let (low, high) = (_mm256_castsi256_si128(most), _mm256_extracti128_si256::<1>(most));
            let most = _mm_max_epu32(low, high);
            let most = _mm_max_epu32(most, _mm_shuffle_epi32::<0b01_00_11_10>(most));
            let most = _mm_max_epu32(most, _mm_shuffle_epi32::<0b10_11_00_01>(most));
            let largest = f32::from_bits(_mm_cvtsi128_si32(most) as u32);
            let inverse = if largest > 1e-36 { 127.0 / largest } else { 0.0 };
            *scale = largest / 127.0 + largest * 0.0;
            let inverse = _mm256_set1_ps(inverse);
            let [a, b, c, d] = x.map(|x| _mm256_cvtps_epi32(_mm256_mul_ps(x, inverse)));
            // Packing works in each 128 bits: fours of bytes are in the order 0, 2, 4, 6, 1, 3, …
            let packed = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            let packed = _mm256_permutevar8x32_epi32(packed, order);
            _mm256_storeu_si256(bytes.as_mut_ptr().cast(), packed);
            let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), packed);
            let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
            let eights = _mm256_hadd_epi32(fours, fours);
            let halves = _mm256_hadd_epi32(eights, eights);
            *sums = [_mm256_extract_epi32::<0>(halves), _mm256_extract_epi32::<4>(halves)];
        }
    }
}

// ---- products ----

/// See `Cpu::int8_tiles`; `T` tokens at a time.
///
/// # Safety
/// AVX2 and FMA are there, and AVX-VNNI if so.
#[inline(always)]
pub unsafe fn int8_tiles<F: BlockFormat, const VNNI: bool, const T: usize>(
    panel: &Int8Panel,
    first: usize,
    n: usize,
    x: &Int8Rows,
    out: &mut [[f32; ROWS]],
) {
    assert!(n <= BLOCKS);
    let (tiles, rest) = out.as_chunks_mut::<T>();
    let n_tiled = tiles.len() * T;
    for lane in (0..ROWS).step_by(LANES * WIDTH) {
        for (i, tile) in tiles.iter_mut().enumerate() {
            // SAFETY: the caller's promise; `lane + 32 <= ROWS`.
            unsafe { int8_tile::<F, VNNI, T>(panel, first, n, x, i * T, lane, tile) };
        }
        for (i, row) in rest.as_chunks_mut::<1>().0.iter_mut().enumerate() {
            // SAFETY: as above.
            unsafe { int8_tile::<F, VNNI, 1>(panel, first, n, x, n_tiled + i, lane, row) };
        }
    }
}

/// `out[i][lane..lane + 32] +=` those rows of the panel · token `t + i`.
///
/// # Safety
/// AVX2 and FMA are there, and AVX-VNNI if so; `lane` is at most 32.
#[inline(always)]
unsafe fn int8_tile<F: BlockFormat, const VNNI: bool, const T: usize>(
    panel: &Int8Panel,
    first: usize,
    n: usize,
    x: &Int8Rows,
    t: usize,
    lane: usize,
    out: &mut [[f32; ROWS]; T],
) {
    let x: [Int8Token<'_>; T] = from_fn(|i| x.token(t + i));
    for x in &x {
        assert!(x.scales.len() >= first + n && x.sums.len() >= first + n);
        assert!(x.bytes.len() >= (first + n) * BLOCK);
    }
    let halves = if F::HALVES { 2 } else { 1 };
    let per_half = BLOCK / 4 / halves;
    // SAFETY: the caller has the features. `slot < n <= BLOCKS` is inside the panel, block
    // `first + slot` inside each token (checked above), and `lane + 32 <= ROWS`.
    unsafe {
        for slot in 0..n {
            let b = first + slot;
            for h in 0..halves {
                let quads = h * per_half..(h + 1) * per_half;
                let weights = panel.weights[slot].as_ptr().cast::<u8>().add(4 * lane);
                let mut bytes = [std::ptr::null(); T];
                for i in 0..T {
                    bytes[i] = x[i].bytes.as_ptr().add(BLOCK * b);
                }
                let dots = match VNNI {
                    true => vnni_products::<T>(weights, bytes, quads),
                    false => avx2_products::<F, T>(weights, bytes, quads),
                };
                let scales = panel.scales[slot][h].as_ptr().add(lane);
                let minima = panel.minima[slot].as_ptr().add(lane);
                for i in 0..T {
                    let sums = x[i].sums.get_unchecked(b);
                    let scale = *x[i].scales.get_unchecked(b);
                    let start = match F::SHIFT {
                        Some(shift) if has_start::<F, VNNI>() => {
                            (if F::HALVES { sums[h] } else { sums[0] + sums[1] }) << shift
                        }
                        _ => 0,
                    };
                    let start = _mm256_set1_epi32(start);
                    let x_sum = _mm256_set1_ps(scale * (sums[0] + sums[1]) as f32);
                    let scale = _mm256_set1_ps(scale);
                    for r in 0..WIDTH {
                        let to = out[i].as_mut_ptr().add(lane + LANES * r);
                        let dot = _mm256_cvtepi32_ps(_mm256_sub_epi32(dots[i][r], start));
                        let both = _mm256_mul_ps(_mm256_load_ps(scales.add(LANES * r)), scale);
                        let mut sum = _mm256_fmadd_ps(dot, both, _mm256_loadu_ps(to));
                        if F::MINIMA {
                            let minima = _mm256_load_ps(minima.add(LANES * r));
                            sum = _mm256_fnmadd_ps(minima, x_sum, sum);
                        }
                        _mm256_storeu_ps(to, sum);
                    }
                }
            }
        }
    }
}

/// Column quadruples `quads` of a block of 32 rows times tokens.
///
/// # Safety
/// AVX-VNNI is there; a block's 32 rows lie at `weights` and its activations at each of `x`.
#[inline(always)]
unsafe fn vnni_products<const T: usize>(
    weights: *const u8,
    x: [*const i8; T],
    quads: std::ops::Range<usize>,
) -> [[__m256i; WIDTH]; T] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut dots = [[_mm256_setzero_si256(); WIDTH]; T];
        for j in quads {
            let mut fours = [_mm256_setzero_si256(); T];
            for i in 0..T {
                fours[i] = _mm256_set1_epi32(x[i].add(4 * j).cast::<i32>().read_unaligned());
            }
            for r in 0..WIDTH {
                let w = weights.add(4 * ROWS * j + 4 * LANES * r);
                let w = _mm256_load_si256(w.cast());
                for i in 0..T {
                    dots[i][r] = _mm256_dpbusd_avx_epi32(dots[i][r], w, fours[i]);
                }
            }
        }
        dots
    }
}

/// The same without VNNI: as many sums as fit are added up in 16 bits.
///
/// # Safety
/// AVX2 is there; a block's 32 rows lie at `weights` and its activations at each of `x`.
#[inline(always)]
unsafe fn avx2_products<F: BlockFormat, const T: usize>(
    weights: *const u8,
    x: [*const i8; T],
    quads: std::ops::Range<usize>,
) -> [[__m256i; WIDTH]; T] {
    let together = fits(F::KIND).clamp(1, quads.len());
    // SAFETY: the caller's promise.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut dots = [[_mm256_setzero_si256(); WIDTH]; T];
        for start in quads.clone().step_by(together) {
            let mut few = [[_mm256_setzero_si256(); WIDTH]; T];
            for j in start..start + together {
                let mut fours = [_mm256_setzero_si256(); T];
                for i in 0..T {
                    fours[i] = _mm256_set1_epi32(x[i].add(4 * j).cast::<i32>().read_unaligned());
                }
                for r in 0..WIDTH {
                    let w = weights.add(4 * ROWS * j + 4 * LANES * r);
                    let w = _mm256_load_si256(w.cast());
                    for i in 0..T {
                        few[i][r] = _mm256_add_epi16(few[i][r], products::<F>(w, fours[i]));
                    }
                }
            }
            for i in 0..T {
                for r in 0..WIDTH {
                    let sums = _mm256_madd_epi16(few[i][r], ones);
                    dots[i][r] = _mm256_add_epi32(dots[i][r], sums);
                }
            }
        }
        dots
    }
}

/// See `Cpu::float_tiles`.
#[target_feature(enable = "avx2,f16c,fma")]
pub fn float_tiles(
    panel: &FloatPanel,
    first: usize,
    n: usize,
    x: &[f32],
    k: usize,
    out: &mut [[f32; ROWS]],
) {
    /// Three tokens: 12 registers of sums.
    const T: usize = 3;
    assert!(n <= COLUMNS && first + n <= k && out.len() * k <= x.len());
    let (tiles, rest) = out.as_chunks_mut::<T>();
    let x = |t: usize| &x[t * k + first..][..n];
    let n_tiled = tiles.len() * T;
    for lane in (0..ROWS).step_by(LANES * WIDTH) {
        for (i, tile) in tiles.iter_mut().enumerate() {
            float_tile::<T>(panel, n, from_fn(|t| x(i * T + t)), lane, tile);
        }
        for (i, row) in rest.as_chunks_mut::<1>().0.iter_mut().enumerate() {
            float_tile::<1>(panel, n, [x(n_tiled + i)], lane, row);
        }
    }
}

/// `out[t][lane..lane + 32] +=` those rows of the panel's first `n` columns · `x[t]`.
#[target_feature(enable = "avx2,f16c,fma")]
#[inline]
fn float_tile<const T: usize>(
    panel: &FloatPanel,
    n: usize,
    x: [&[f32]; T],
    lane: usize,
    out: &mut [[f32; ROWS]; T],
) {
    assert!(n <= COLUMNS && x.iter().all(|x| x.len() == n) && lane + LANES * WIDTH <= ROWS);
    // SAFETY: this function has the features; `column < n` is inside the panel and each token.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); WIDTH]; T];
        for i in 0..T {
            sums[i] = from_fn(|r| _mm256_loadu_ps(out[i].as_ptr().add(lane + LANES * r)));
        }
        for column in 0..n {
            let x: [__m256; T] = from_fn(|i| _mm256_set1_ps(*x[i].get_unchecked(column)));
            for r in 0..WIDTH {
                let w = _mm256_load_ps(panel.0[column].as_ptr().add(lane + LANES * r));
                for i in 0..T {
                    sums[i][r] = _mm256_fmadd_ps(w, x[i], sums[i][r]);
                }
            }
        }
        for i in 0..T {
            for r in 0..WIDTH {
                _mm256_storeu_ps(out[i].as_mut_ptr().add(lane + LANES * r), sums[i][r]);
            }
        }
    }
}

// ---- packing ----

/// See `Cpu::pack_int8`: groups of four blocks and 8 rows at a time, the rest in plain code.
#[target_feature(enable = "avx2,f16c,fma")]
pub fn pack_int8<F: BlockFormat>(panel: &mut Int8Panel, rows: &[&[u8]], first: usize, n: usize) {
    assert!(n <= BLOCKS && rows.len() <= ROWS);
    // A block that is begun is read whole.
    let bytes = ((first + n) * BLOCK).div_ceil(F::VALUES) * F::SIZE;
    assert!(rows.iter().all(|row| row.len() >= bytes));
    // Groups are counted from a row's beginning.
    let grouped = if first.is_multiple_of(4) { n / 4 * 4 } else { 0 };
    let (lanes, few) = rows.as_chunks::<LANES>();
    for (v, rows) in lanes.iter().enumerate() {
        for slot in (0..grouped).step_by(4) {
            pack_group::<F>(panel, rows, v, slot, (first + slot) / 4);
        }
    }
    let wide = rows.len() - few.len();
    panel.pack_at::<F>(rows, 0..wide, first + grouped..first + n, grouped);
    panel.pack_at::<F>(rows, wide..rows.len(), first..first + n, 0);
}

/// Unpacks group `g` of 8 rows into lanes `8v..` of slots `slot..slot + 4`.
#[target_feature(enable = "avx2,f16c,fma")]
#[inline]
fn pack_group<F: BlockFormat>(
    panel: &mut Int8Panel,
    rows: &[&[u8]; LANES],
    v: usize,
    slot: usize,
    g: usize,
) {
    let parts = parts::<F>();
    let at = g / parts * (parts * 4 * BLOCK / F::VALUES) * F::SIZE;
    // SAFETY: this function has the features; `pack_int8` checked that group `g` is inside the
    // rows and slots `slot..slot + 4` inside the panel.
    unsafe {
        let mut fours = [Four::zero(); LANES];
        for r in 0..LANES {
            fours[r] = unpack::<F>(rows[r].as_ptr().add(at), g % parts);
        }
        for i in 0..4 {
            let columns = transpose(from_fn(|r| _mm256_castsi256_ps(fours[r].weights[i])));
            for (j, column) in columns.into_iter().enumerate() {
                let to = panel.weights[slot + i][j].as_mut_ptr().add(4 * LANES * v);
                _mm256_store_si256(to.cast(), _mm256_castps_si256(column));
            }
        }
        let scales = transpose(from_fn(|r| fours[r].scales));
        for i in 0..4 {
            let to = panel.scales[slot + i][0].as_mut_ptr().add(LANES * v);
            _mm256_store_ps(to, scales[i]);
            if F::HALVES {
                let to = panel.scales[slot + i][1].as_mut_ptr().add(LANES * v);
                _mm256_store_ps(to, scales[4 + i]);
            }
        }
        if F::MINIMA {
            let minima = transpose(from_fn(|r| fours[r].minima));
            for i in 0..4 {
                let to = panel.minima[slot + i].as_mut_ptr().add(LANES * v);
                _mm256_store_ps(to, minima[i]);
            }
        }
    }
}

/// See `Cpu::pack_float`: 8 columns of 8 rows at a time, the rest in plain code.
#[target_feature(enable = "avx2,f16c,fma")]
pub fn pack_float<F: FloatFormat>(panel: &mut FloatPanel, rows: &[&[u8]], first: usize, n: usize) {
    assert!(n <= COLUMNS && rows.len() <= ROWS);
    assert!(rows.iter().all(|row| row.len() >= (first + n) * F::SIZE));
    let wide_columns = n / LANES * LANES;
    let (lanes, few) = rows.as_chunks::<LANES>();
    for (v, rows) in lanes.iter().enumerate() {
        for slot in (0..wide_columns).step_by(LANES) {
            // SAFETY: this function has the features; rows and panel were checked above.
            unsafe {
                let at = (first + slot) * F::SIZE;
                let values = from_fn(|r| load::<F>(rows[r].as_ptr().add(at)));
                for (column, values) in transpose(values).into_iter().enumerate() {
                    let to = panel.0[slot + column].as_mut_ptr().add(LANES * v);
                    _mm256_store_ps(to, values);
                }
            }
        }
    }
    let wide = rows.len() - few.len();
    panel.pack_at::<F>(rows, 0..wide, first + wide_columns..first + n, wide_columns);
    panel.pack_at::<F>(rows, wide..rows.len(), first..first + n, 0);
}

/// Lane `c` of register `r` becomes lane `r` of register `c`.
#[target_feature(enable = "avx2")]
#[inline]
fn transpose(rows: [__m256; LANES]) -> [__m256; LANES] {
    // Columns c and 4 + c of rows 0–3, and of rows 4–7.
    let quads = |q: usize| {
        let [a, b, c, d] = [rows[q], rows[q + 1], rows[q + 2], rows[q + 3]];
        let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
        let (ab_high, cd_high) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
        [
            _mm256_shuffle_ps::<0b01_00_01_00>(ab, cd),
            _mm256_shuffle_ps::<0b11_10_11_10>(ab, cd),
            _mm256_shuffle_ps::<0b01_00_01_00>(ab_high, cd_high),
            _mm256_shuffle_ps::<0b11_10_11_10>(ab_high, cd_high),
        ]
    };
    let (first, last) = (quads(0), quads(4));
    from_fn(|c| match c < 4 {
        true => _mm256_permute2f128_ps::<0x20>(first[c], last[c]),
        false => _mm256_permute2f128_ps::<0x31>(first[c - 4], last[c - 4]),
    })
}
