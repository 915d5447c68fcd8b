//! Panels and their products for AVX-512 with VNNI: 64 rows are four registers, and `vpdpbusd`
//! multiplies their unsigned bytes with four signed ones of a token, repeated over the lanes.

// Tiles are small constant loops over several arrays at once.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;
use std::array::from_fn;

use super::super::format::{BLOCK, BlockFormat, FloatFormat, FloatKind, Kind};
use super::super::panel::{BLOCKS, COLUMNS, FloatPanel, Int8Panel, Int8Rows, ROWS};
use super::blocks::{Step, q4k_scales, unpack_q4_0, unpack_q4k, unpack_q6k, unpack_q8_0};
use super::{load_bf16, load_f16, load_f32};

/// Lanes of a register, and registers of a panel's row.
const LANES: usize = 16;
const WIDTH: usize = ROWS / LANES;

// ---- activations ----

/// See `Cpu::round`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
pub fn round(x: &[f32], bytes: &mut [i8], scales: &mut [f32], sums: &mut [[i32; 2]]) {
    let blocks = x.as_chunks::<BLOCK>().0.iter().zip(bytes.as_chunks_mut::<BLOCK>().0);
    for ((x, bytes), (scale, sums)) in blocks.zip(scales.iter_mut().zip(sums)) {
        // SAFETY: this function has the features; a block has 32 values and 32 bytes.
        unsafe {
            let (a, b) = (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(LANES)));
            let sign = _mm512_set1_epi32(i32::MAX);
            let magnitude = |x| _mm512_and_si512(_mm512_castps_si512(x), sign);
            // Bits without their sign are ordered as integers, NaN last.
            let largest = _mm512_reduce_max_epu32(_mm512_max_epu32(magnitude(a), magnitude(b)));
            let largest = f32::from_bits(largest);
            let inverse = if largest > 1e-36 { 127.0 / largest } else { 0.0 };
            *scale = largest / 127.0 + largest * 0.0;
            let inverse = _mm512_set1_ps(inverse);
            let a = _mm512_cvtps_epi32(_mm512_mul_ps(a, inverse));
            let b = _mm512_cvtps_epi32(_mm512_mul_ps(b, inverse));
            *sums = [_mm512_reduce_add_epi32(a), _mm512_reduce_add_epi32(b)];
            let both = bytes.as_mut_ptr().cast::<__m128i>();
            _mm_storeu_si128(both, _mm512_cvtepi32_epi8(a));
            _mm_storeu_si128(both.add(1), _mm512_cvtepi32_epi8(b));
        }
    }
}

// ---- products ----

/// See `Cpu::int8_tiles`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
pub fn int8_tiles<F: BlockFormat>(
    panel: &Int8Panel,
    first: usize,
    n: usize,
    x: &Int8Rows,
    out: &mut [[f32; ROWS]],
) {
    /// Three tokens: 12 registers of integer sums and 12 of float sums.
    const T: usize = 3;
    assert!(n <= BLOCKS);
    let (tiles, rest) = out.as_chunks_mut::<T>();
    let n_tiled = tiles.len() * T;
    for (i, tile) in tiles.iter_mut().enumerate() {
        int8_tile::<F, T>(panel, first, n, x, i * T, tile);
    }
    for (i, row) in rest.as_chunks_mut::<1>().0.iter_mut().enumerate() {
        int8_tile::<F, 1>(panel, first, n, x, n_tiled + i, row);
    }
}

/// `out[i] +=` panel · token `t + i`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
#[inline]
fn int8_tile<F: BlockFormat, const T: usize>(
    panel: &Int8Panel,
    first: usize,
    n: usize,
    x: &Int8Rows,
    t: usize,
    out: &mut [[f32; ROWS]; T],
) {
    let x: [_; T] = from_fn(|i| x.token(t + i));
    for x in &x {
        assert!(x.scales.len() >= first + n && x.sums.len() >= first + n);
        assert!(x.bytes.len() >= (first + n) * BLOCK);
    }
    let halves = if F::HALVES { 2 } else { 1 };
    let per_half = BLOCK / 4 / halves;
    // SAFETY: this function has the features. `slot < n <= BLOCKS` is inside the panel, and block
    // `first + slot` inside each token (checked above).
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); WIDTH]; T];
        for i in 0..T {
            sums[i] = from_fn(|r| _mm512_loadu_ps(out[i].as_ptr().add(LANES * r)));
        }
        for slot in 0..n {
            let b = first + slot;
            let counts: [[i32; 2]; T] = from_fn(|i| *x[i].sums.get_unchecked(b));
            let scales: [f32; T] = from_fn(|i| *x[i].scales.get_unchecked(b));
            for h in 0..halves {
                let mut dots = [[_mm512_setzero_si512(); WIDTH]; T];
                if let Some(shift) = F::SHIFT {
                    for i in 0..T {
                        let sum =
                            if F::HALVES { counts[i][h] } else { counts[i][0] + counts[i][1] };
                        dots[i] = [_mm512_set1_epi32(-(sum << shift)); WIDTH];
                    }
                }
                for j in h * per_half..(h + 1) * per_half {
                    let w: [__m512i; WIDTH] = from_fn(|r| {
                        _mm512_load_si512(panel.weights[slot][j].as_ptr().add(64 * r).cast())
                    });
                    for i in 0..T {
                        let four = x[i].bytes.as_ptr().add(BLOCK * b + 4 * j);
                        let four = _mm512_set1_epi32(four.cast::<i32>().read_unaligned());
                        for r in 0..WIDTH {
                            dots[i][r] = _mm512_dpbusd_epi32(dots[i][r], w[r], four);
                        }
                    }
                }
                let w: [__m512; WIDTH] =
                    from_fn(|r| _mm512_load_ps(panel.scales[slot][h].as_ptr().add(LANES * r)));
                for i in 0..T {
                    let scale = _mm512_set1_ps(scales[i]);
                    for r in 0..WIDTH {
                        let dot = _mm512_cvtepi32_ps(dots[i][r]);
                        let scale = _mm512_mul_ps(w[r], scale);
                        sums[i][r] = _mm512_fmadd_ps(dot, scale, sums[i][r]);
                    }
                }
            }
            if F::MINIMA {
                for i in 0..T {
                    let sum = scales[i] * (counts[i][0] + counts[i][1]) as f32;
                    let sum = _mm512_set1_ps(sum);
                    for r in 0..WIDTH {
                        let minima = _mm512_load_ps(panel.minima[slot].as_ptr().add(LANES * r));
                        sums[i][r] = _mm512_fnmadd_ps(minima, sum, sums[i][r]);
                    }
                }
            }
        }
        for i in 0..T {
            for r in 0..WIDTH {
                _mm512_storeu_ps(out[i].as_mut_ptr().add(LANES * r), sums[i][r]);
            }
        }
    }
}

/// See `Cpu::float_tiles`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
pub fn float_tiles(
    panel: &FloatPanel,
    first: usize,
    n: usize,
    x: &[f32],
    k: usize,
    out: &mut [[f32; ROWS]],
) {
    /// Six tokens: 24 registers of sums.
    const T: usize = 6;
    assert!(n <= COLUMNS && first + n <= k && out.len() * k <= x.len());
    let (tiles, rest) = out.as_chunks_mut::<T>();
    let x = |t: usize| &x[t * k + first..][..n];
    let n_tiled = tiles.len() * T;
    for (i, tile) in tiles.iter_mut().enumerate() {
        float_tile::<T>(panel, n, from_fn(|t| x(i * T + t)), tile);
    }
    for (i, row) in rest.as_chunks_mut::<1>().0.iter_mut().enumerate() {
        float_tile::<1>(panel, n, [x(n_tiled + i)], row);
    }
}

/// `out[t] +=` the panel's first `n` columns · `x[t]`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
#[inline]
fn float_tile<const T: usize>(
    panel: &FloatPanel,
    n: usize,
    x: [&[f32]; T],
    out: &mut [[f32; ROWS]; T],
) {
    assert!(n <= COLUMNS && x.iter().all(|x| x.len() == n));
    // SAFETY: this function has the features; `column < n` is inside the panel and each token.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); WIDTH]; T];
        for i in 0..T {
            sums[i] = from_fn(|r| _mm512_loadu_ps(out[i].as_ptr().add(LANES * r)));
        }
        for column in 0..n {
            let w: [__m512; WIDTH] =
                from_fn(|r| _mm512_load_ps(panel.0[column].as_ptr().add(LANES * r)));
            for i in 0..T {
                let x = _mm512_set1_ps(*x[i].get_unchecked(column));
                for r in 0..WIDTH {
                    sums[i][r] = _mm512_fmadd_ps(w[r], x, sums[i][r]);
                }
            }
        }
        for i in 0..T {
            for r in 0..WIDTH {
                _mm512_storeu_ps(out[i].as_mut_ptr().add(LANES * r), sums[i][r]);
            }
        }
    }
}

// ---- packing ----

/// See `Cpu::pack_int8`: groups of four blocks and 16 rows at a time, the rest in plain code.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
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

/// Unpacks group `g` of 16 rows into lanes `16v..` of slots `slot..slot + 4`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
#[inline]
fn pack_group<F: BlockFormat>(
    panel: &mut Int8Panel,
    rows: &[&[u8]; LANES],
    v: usize,
    slot: usize,
    g: usize,
) {
    // SAFETY: this function has the features; `pack_int8` checked that group `g` is inside the
    // rows and slots `slot..slot + 4` inside the panel.
    unsafe {
        let mut halves = [[_mm512_setzero_si512(); LANES]; 2];
        // Of four blocks, in the lowest lanes.
        let mut scales = [[_mm_setzero_ps(); LANES]; 2];
        let mut minima = [_mm_setzero_ps(); LANES];
        for (r, row) in rows.iter().enumerate() {
            let p = row.as_ptr();
            let step: Step = match F::KIND {
                Kind::Q4_0 | Kind::Q8_0 => {
                    let p = p.add(4 * g * F::SIZE);
                    let (step, scale) = match F::KIND {
                        Kind::Q4_0 => unpack_q4_0(p),
                        _ => unpack_q8_0(p),
                    };
                    scales[0][r] = _mm512_castps512_ps128(scale);
                    step
                }
                Kind::Q4K => {
                    let p = p.add(g / 2 * F::SIZE);
                    let both = q4k_scales(p);
                    (scales[0][r], minima[r]) = match g % 2 {
                        0 => (_mm512_castps512_ps128(both), _mm512_extractf32x4_ps::<2>(both)),
                        _ => (_mm512_extractf32x4_ps::<1>(both), _mm512_extractf32x4_ps::<3>(both)),
                    };
                    unpack_q4k(p.add(16 + 64 * (g % 2)))
                }
                Kind::Q6K => {
                    let p = p.add(g / 2 * F::SIZE);
                    let q = _mm_loadl_epi64(p.add(192 + 8 * (g % 2)).cast());
                    let bits = p.add(208).cast::<u16>().read_unaligned();
                    let d = _mm_cvtph_ps(_mm_cvtsi32_si128(bits as i32));
                    let q = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q));
                    let q = _mm256_mul_ps(q, _mm256_broadcastss_ps(d));
                    let (a, b) = (_mm256_castps256_ps128(q), _mm256_extractf128_ps::<1>(q));
                    // Scales alternate between the halves of a block.
                    scales[0][r] = _mm_shuffle_ps::<0b10_00_10_00>(a, b);
                    scales[1][r] = _mm_shuffle_ps::<0b11_01_11_01>(a, b);
                    unpack_q6k(p, g % 2)
                }
            };
            (halves[0][r], halves[1][r]) = (step[0], step[1]);
        }
        for h in 0..2 {
            for (lane, column) in transpose(halves[h]).into_iter().enumerate() {
                let to = &mut panel.weights[slot + lane % 4][4 * h + lane / 4];
                _mm512_store_si512(to.as_mut_ptr().add(64 * v).cast(), column);
            }
        }
        let mut put = |values: &[__m128; LANES], into: fn(&mut Int8Panel, usize) -> *mut f32| {
            for (i, column) in transpose4(values).into_iter().enumerate() {
                _mm512_store_ps(into(panel, slot + i).add(LANES * v), column);
            }
        };
        put(&scales[0], |panel, slot| panel.scales[slot][0].as_mut_ptr());
        if F::HALVES {
            put(&scales[1], |panel, slot| panel.scales[slot][1].as_mut_ptr());
        }
        if F::MINIMA {
            put(&minima, |panel, slot| panel.minima[slot].as_mut_ptr());
        }
    }
}

/// See `Cpu::pack_float`: 16 columns of 16 rows at a time, the rest in plain code.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
pub fn pack_float<F: FloatFormat>(panel: &mut FloatPanel, rows: &[&[u8]], first: usize, n: usize) {
    assert!(n <= COLUMNS && rows.len() <= ROWS);
    assert!(rows.iter().all(|row| row.len() >= (first + n) * F::SIZE));
    let wide_columns = n / LANES * LANES;
    let (lanes, few) = rows.as_chunks::<LANES>();
    for (v, rows) in lanes.iter().enumerate() {
        for slot in (0..wide_columns).step_by(LANES) {
            // SAFETY: this function has the features; rows and panel were checked above.
            unsafe {
                let values = rows.map(|row| {
                    let p = row.as_ptr().add((first + slot) * F::SIZE);
                    _mm512_castps_si512(match F::KIND {
                        FloatKind::F32 => load_f32(p),
                        FloatKind::F16 => load_f16(p),
                        FloatKind::Bf16 => load_bf16(p),
                    })
                });
                for (column, values) in transpose(values).into_iter().enumerate() {
                    let to = panel.0[slot + column].as_mut_ptr().add(LANES * v);
                    _mm512_store_si512(to.cast(), values);
                }
            }
        }
    }
    let wide = rows.len() - few.len();
    panel.pack_at::<F>(rows, 0..wide, first + wide_columns..first + n, wide_columns);
    panel.pack_at::<F>(rows, wide..rows.len(), first..first + n, 0);
}

/// Lane `c` of register `r` becomes lane `r` of register `c`.
#[target_feature(enable = "avx512f")]
#[inline]
pub fn transpose(rows: [__m512i; LANES]) -> [__m512i; LANES] {
    // Pairs of rows, then quadruples: t[4q + c] has, in each 128 bits `p`, rows 4q.. of column
    // 4p + c.
    let mut t = rows;
    for q in (0..LANES).step_by(4) {
        let [a, b, c, d] = [rows[q], rows[q + 1], rows[q + 2], rows[q + 3]];
        let low = [_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d)];
        let high = [_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d)];
        t[q] = _mm512_unpacklo_epi64(low[0], low[1]);
        t[q + 1] = _mm512_unpackhi_epi64(low[0], low[1]);
        t[q + 2] = _mm512_unpacklo_epi64(high[0], high[1]);
        t[q + 3] = _mm512_unpackhi_epi64(high[0], high[1]);
    }
    let mut out = t;
    for c in 0..4 {
        let [a, b, d, e] = [t[c], t[4 + c], t[8 + c], t[12 + c]];
        // 128-bit pieces (0, 2 | 0, 2) and (1, 3 | 1, 3), of the first and the last two.
        let even = [_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(d, e)];
        let odd = [_mm512_shuffle_i32x4::<0xDD>(a, b), _mm512_shuffle_i32x4::<0xDD>(d, e)];
        out[c] = _mm512_shuffle_i32x4::<0x88>(even[0], even[1]);
        out[8 + c] = _mm512_shuffle_i32x4::<0xDD>(even[0], even[1]);
        out[4 + c] = _mm512_shuffle_i32x4::<0x88>(odd[0], odd[1]);
        out[12 + c] = _mm512_shuffle_i32x4::<0xDD>(odd[0], odd[1]);
    }
    out
}

/// Lane `c` of register `r` becomes lane `r` of register `c`, for four lanes.
#[target_feature(enable = "avx512f")]
#[inline]
fn transpose4(rows: &[__m128; LANES]) -> [__m512; 4] {
    // Register q: rows q, 4 + q, 8 + q, 12 + q.
    let q: [__m512; 4] = from_fn(|q| {
        let low = _mm512_castps128_ps512(rows[q]);
        let low = _mm512_insertf32x4::<1>(low, rows[4 + q]);
        let low = _mm512_insertf32x4::<2>(low, rows[8 + q]);
        _mm512_insertf32x4::<3>(low, rows[12 + q])
    });
    let (a, b) = (_mm512_unpacklo_ps(q[0], q[1]), _mm512_unpacklo_ps(q[2], q[3]));
    let (c, d) = (_mm512_unpackhi_ps(q[0], q[1]), _mm512_unpackhi_ps(q[2], q[3]));
    [
        _mm512_shuffle_ps::<0b01_00_01_00>(a, b),
        _mm512_shuffle_ps::<0b11_10_11_10>(a, b),
        _mm512_shuffle_ps::<0b01_00_01_00>(c, d),
        _mm512_shuffle_ps::<0b11_10_11_10>(c, d),
    ]
}
