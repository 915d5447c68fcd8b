//! Tiles of bfloat16 for AMX; `kernels::amx` describes their contents. The tile instructions are
//! written in assembly, because stable Rust has no functions for them; it uses tile registers for
//! nothing else.

// Tiles are small constant loops over several arrays at once.
#![allow(clippy::needless_range_loop)]

use std::arch::asm;
use std::arch::x86_64::*;

use llm_bench_cpu::WHOLE_TILES;

use super::{
    DEPTH, ROWS, SIDE, STEPS, Sums, Tile, TileCpu, TilePanel, TileTokens, pack_float as pack_rest,
};
use crate::kernels::avx512::{Avx512, call, load_f16, load_f32};
use crate::kernels::format::{BLOCK, BlockFormat, FloatFormat, FloatKind, Kind};
use crate::kernels::pack::avx512::{q4k_scales, transpose};

impl TileCpu for Avx512<false> {}

impl TileCpu for Avx512<true> {
    const TILED: bool = true;

    fn pack_tiles<F: BlockFormat>(
        self,
        panel: &mut TilePanel,
        lane: usize,
        rows: &[&[u8]],
        first: usize,
        n: usize,
    ) {
        call!(pack::<F>, panel, lane, rows, first, n)
    }

    fn pack_float_tiles<F: FloatFormat>(
        self,
        panel: &mut TilePanel,
        lane: usize,
        rows: &[&[u8]],
        first: usize,
        n: usize,
    ) {
        call!(pack_float::<F>, panel, lane, rows, first, n)
    }

    fn tile_tokens(self, x: &[f32], k: usize, parts: [&mut [Tile]; 2]) {
        call!(tile_tokens, x, k, parts)
    }

    fn tile_rows(self, sums: &Sums, parts: [&mut [[u16; DEPTH]]; 2]) {
        call!(tile_rows, sums, parts)
    }

    fn multiply_tiles(
        self,
        panel: &TilePanel,
        n: usize,
        x: &TileTokens,
        first: usize,
        sums: &mut [[Sums; 2]],
    ) {
        call!(multiply, panel, n, x, first, sums)
    }

    fn transposed(self, sums: &Sums) -> Sums {
        call!(transposed, sums)
    }
}

/// Bytes between rows of a tile in memory.
const STRIDE: usize = 64;

/// See `TileCpu::multiply_tiles`.
///
/// # Safety
/// `Avx512<true>` proves AMX with bfloat16.
unsafe fn multiply(
    panel: &TilePanel,
    n: usize,
    x: &TileTokens,
    first: usize,
    sums: &mut [[Sums; 2]],
) {
    assert!(0 < n && n <= STEPS && first + n <= x.steps());
    let (twos, one) = sums.as_chunks_mut::<2>();
    // SAFETY: the caller's promise; each pointer is followed by `n` tiles (checked above, and by
    // `block`) or points to a whole `Sums`. Nobody else uses the tile registers that one statement
    // leaves for the next.
    unsafe {
        asm!("ldtilecfg [{0}]", in(reg) &raw const WHOLE_TILES, options(nostack));
        for (i, two) in twos.iter_mut().enumerate() {
            let [[s0, s1], [s2, s3]] = two.each_mut().map(|pair| pair.each_mut());
            let s = [s0, s1, s2, s3].map(|s| &raw mut *s);
            asm!(
                "tileloadd tmm0, [{0} + {4}]", "tileloadd tmm1, [{1} + {4}]",
                "tileloadd tmm2, [{2} + {4}]", "tileloadd tmm3, [{3} + {4}]",
                in(reg) s[0], in(reg) s[1], in(reg) s[2], in(reg) s[3], in(reg) STRIDE,
                options(nostack),
            );
            for &(w, part) in x.pairs() {
                asm!(
                    "2:",
                    "tileloadd tmm4, [{a0} + {stride}]", "tileloadd tmm6, [{b0} + {stride}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{a1} + {stride}]", "tdpbf16ps tmm1, tmm5, tmm6",
                    "tileloadd tmm7, [{b1} + {stride}]", "tdpbf16ps tmm2, tmm4, tmm7",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "add {a0}, 1024", "add {a1}, 1024", "add {b0}, 1024", "add {b1}, 1024",
                    "dec {n}", "jnz 2b",
                    a0 = inout(reg) panel.0[w][0].as_ptr() => _,
                    a1 = inout(reg) panel.0[w][1].as_ptr() => _,
                    b0 = inout(reg) x.block(part, 2 * i)[first..].as_ptr() => _,
                    b1 = inout(reg) x.block(part, 2 * i + 1)[first..].as_ptr() => _,
                    n = inout(reg) n => _,
                    stride = in(reg) STRIDE,
                    options(nostack),
                );
            }
            asm!(
                "tilestored [{0} + {4}], tmm0", "tilestored [{1} + {4}], tmm1",
                "tilestored [{2} + {4}], tmm2", "tilestored [{3} + {4}], tmm3",
                in(reg) s[0], in(reg) s[1], in(reg) s[2], in(reg) s[3], in(reg) STRIDE,
                options(nostack),
            );
        }
        for [s0, s1] in one {
            let s = [s0, s1].map(|s| &raw mut *s);
            asm!(
                "tileloadd tmm0, [{0} + {2}]", "tileloadd tmm1, [{1} + {2}]",
                in(reg) s[0], in(reg) s[1], in(reg) STRIDE,
                options(nostack),
            );
            for &(w, part) in x.pairs() {
                asm!(
                    "2:",
                    "tileloadd tmm4, [{a0} + {stride}]", "tileloadd tmm6, [{b0} + {stride}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{a1} + {stride}]", "tdpbf16ps tmm1, tmm5, tmm6",
                    "add {a0}, 1024", "add {a1}, 1024", "add {b0}, 1024",
                    "dec {n}", "jnz 2b",
                    a0 = inout(reg) panel.0[w][0].as_ptr() => _,
                    a1 = inout(reg) panel.0[w][1].as_ptr() => _,
                    b0 = inout(reg) x.block(part, 2 * twos.len())[first..].as_ptr() => _,
                    n = inout(reg) n => _,
                    stride = in(reg) STRIDE,
                    options(nostack),
                );
            }
            asm!(
                "tilestored [{0} + {2}], tmm0", "tilestored [{1} + {2}], tmm1",
                in(reg) s[0], in(reg) s[1], in(reg) STRIDE,
                options(nostack),
            );
        }
        // A thread that uses no tiles is cheaper to switch.
        asm!("tilerelease", options(nostack));
    }
}

// ---- weights ----

/// Prefetches the part of a row that will be unpacked next: the same columns, as many rows further
/// on as are unpacked together. Such pieces are too short for the hardware's prefetchers.
///
/// # Safety
/// The CPU has SSE.
#[inline(always)]
unsafe fn prefetch_next(rows: &[&[u8]], row: &[u8], at: usize, bytes: usize) {
    let p = row.as_ptr().wrapping_add(rows.len() * row.len() + at);
    for line in (0..bytes).step_by(64) {
        // SAFETY: the caller's promise; a prefetch of any address is harmless.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(line).cast()) };
    }
}

/// The f16 at `p` in all lanes.
///
/// # Safety
/// The CPU has AVX-512 F and F16C, and 2 bytes are readable at `p`.
#[inline(always)]
unsafe fn scale_at(p: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_cvtph_ps(_mm256_set1_epi16(p.cast::<i16>().read_unaligned())) }
}

/// 16 bytes as 32-bit integers.
///
/// # Safety
/// The CPU has AVX-512 F, and 16 bytes are readable at `p`.
#[inline(always)]
unsafe fn bytes_at(p: *const u8) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())) }
}

/// See `TileCpu::pack_tiles`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,f16c,fma")]
pub fn pack<F: BlockFormat>(
    panel: &mut TilePanel,
    lane: usize,
    rows: &[&[u8]],
    first: usize,
    n: usize,
) {
    assert!(n <= STEPS && lane + rows.len() <= ROWS);
    let per = F::VALUES / BLOCK;
    assert!(first.is_multiple_of(per) && n.is_multiple_of(per));
    assert!(rows.iter().all(|row| row.len() >= (first + n) / per * F::SIZE));
    let counted = _mm512_set_ps(
        15.0, 14.0, 13.0, 12.0, 11.0, 10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0,
    );
    let eight = _mm512_set1_ps(8.0);
    let centred = _mm512_sub_ps(counted, eight);
    let turns = _mm512_set_epi32(11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, -1, -2, -3, -4);
    for (r, row) in rows.iter().enumerate() {
        // SAFETY: this function has the features.
        unsafe { prefetch_next(rows, row, first / per * F::SIZE, n / per * F::SIZE) };
        for stored in 0..n / per {
            let p = row[(first / per + stored) * F::SIZE..].as_ptr();
            // SAFETY: this function has the features; a stored block is readable at `p` (checked
            // above).
            unsafe {
                let mut put = |i: usize, low: __m512, high: __m512| {
                    let to = panel.row(0, lane + r, stored * per + i).as_mut_ptr();
                    let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
                    _mm512_store_si512(to.cast(), both);
                };
                match F::KIND {
                    Kind::Q4_0 => {
                        // A table of the 16 weights that a nibble can be.
                        let table = _mm512_mul_ps(centred, scale_at(p));
                        let q = bytes_at(p.add(2));
                        let high = _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(q), table);
                        put(0, _mm512_permutexvar_ps(q, table), high);
                    }
                    Kind::Q5_0 => {
                        // Tables of the weights without and with the fifth bit.
                        let scale = scale_at(p);
                        let without = _mm512_mul_ps(_mm512_sub_ps(centred, eight), scale);
                        let with = _mm512_mul_ps(counted, scale);
                        let q = bytes_at(p.add(6));
                        let bits = _mm512_set1_epi32(p.add(2).cast::<i32>().read_unaligned());
                        let half = |nibbles, bits| {
                            // Bit i of 16 to bit 4 of lane i.
                            let turned = _mm512_rorv_epi32(bits, turns);
                            let top = _mm512_and_si512(turned, _mm512_set1_epi32(0x10));
                            let low = _mm512_and_si512(nibbles, _mm512_set1_epi32(0x0F));
                            let q = _mm512_or_si512(low, top);
                            _mm512_permutex2var_ps(without, q, with)
                        };
                        let high = half(_mm512_srli_epi32::<4>(q), _mm512_srli_epi32::<16>(bits));
                        put(0, half(q, bits), high);
                    }
                    Kind::Q8_0 => {
                        let scale = scale_at(p);
                        let half = |at| {
                            let q = _mm_loadu_si128(p.add(at).cast());
                            _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q)), scale)
                        };
                        put(0, half(2), half(18));
                    }
                    Kind::Q4K => {
                        let mut scales = [0.0; 16];
                        _mm512_storeu_ps(scales.as_mut_ptr(), q4k_scales(p));
                        for i in 0..8 {
                            let (d, m) = (_mm512_set1_ps(scales[i]), _mm512_set1_ps(scales[8 + i]));
                            let table = _mm512_fmsub_ps(counted, d, m);
                            let qs = p.add(16 + 32 * (i / 2));
                            let half = |at| {
                                let q = bytes_at(qs.add(at));
                                let q = if i % 2 == 0 { q } else { _mm512_srli_epi32::<4>(q) };
                                _mm512_permutexvar_ps(q, table)
                            };
                            put(i, half(0), half(16));
                        }
                    }
                    Kind::Q6K => {
                        let mut scales = [0.0; 16];
                        let q = _mm512_cvtepi8_epi32(_mm_loadu_si128(p.add(192).cast()));
                        let d = _mm512_mul_ps(_mm512_cvtepi32_ps(q), scale_at(p.add(208)));
                        _mm512_storeu_ps(scales.as_mut_ptr(), d);
                        for i in 0..8 {
                            let (low, high) = (p.add(64 * (i / 4) + 32 * (i % 2)), i / 4);
                            let high = p.add(128 + 32 * high);
                            let half = |h: usize| {
                                let l = bytes_at(low.add(16 * h));
                                let l = match i % 4 < 2 {
                                    true => l,
                                    false => _mm512_srli_epi32::<4>(l),
                                };
                                let shift = _mm512_set1_epi32(2 * (i % 4) as i32);
                                let h2 = _mm512_srlv_epi32(bytes_at(high.add(16 * h)), shift);
                                let h2 = _mm512_slli_epi32::<4>(h2);
                                let q = _mm512_or_si512(
                                    _mm512_and_si512(l, _mm512_set1_epi32(0x0F)),
                                    _mm512_and_si512(h2, _mm512_set1_epi32(0x30)),
                                );
                                let d = _mm512_set1_ps(scales[2 * i + h]);
                                let offset = _mm512_mul_ps(d, _mm512_set1_ps(32.0));
                                _mm512_fmsub_ps(_mm512_cvtepi32_ps(q), d, offset)
                            };
                            put(i, half(0), half(1));
                        }
                    }
                }
            }
        }
    }
}

/// Splits 32 values into a high part, truncated, and the remainder, rounded.
///
/// # Safety
/// The CPU has AVX-512 BF16.
#[inline(always)]
unsafe fn split([a, b]: [__m512; 2]) -> [__m512i; 2] {
    // SAFETY: the caller's promise; both types are 64 bytes.
    unsafe {
        let mask = _mm512_set1_epi32(0xFFFF_0000u32 as i32);
        let cut = |x| _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), mask));
        let (high_a, high_b) = (cut(a), cut(b));
        let (low_a, low_b) = (_mm512_sub_ps(a, high_a), _mm512_sub_ps(b, high_b));
        [both([high_a, high_b]), both([low_a, low_b])]
    }
}

/// Rounds 32 values.
///
/// # Safety
/// The CPU has AVX-512 BF16.
#[inline(always)]
unsafe fn both([a, b]: [__m512; 2]) -> __m512i {
    // SAFETY: the caller's promise; both types are 64 bytes.
    unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(b, a)) }
}

/// See `TileCpu::pack_float_tiles`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,f16c,fma")]
fn pack_float<F: FloatFormat>(
    panel: &mut TilePanel,
    lane: usize,
    rows: &[&[u8]],
    first: usize,
    n: usize,
) {
    if !n.is_multiple_of(DEPTH) {
        return pack_rest::<F>(panel, lane, rows, first, n);
    }
    assert!(n <= STEPS * DEPTH && lane + rows.len() <= ROWS);
    assert!(rows.iter().all(|row| row.len() >= (first + n) * F::SIZE));
    for (r, row) in rows.iter().enumerate() {
        // SAFETY: this function has the features.
        unsafe { prefetch_next(rows, row, first * F::SIZE, n * F::SIZE) };
        for step in 0..n / DEPTH {
            // SAFETY: this function has the features; 32 weights are readable at `p` (checked
            // above).
            unsafe {
                let p = row.as_ptr().add((first + step * DEPTH) * F::SIZE);
                let parts = match F::KIND {
                    FloatKind::F16 => split([load_f16(p), load_f16(p.add(32))]),
                    FloatKind::Bf16 => [_mm512_loadu_si512(p.cast()), _mm512_setzero_si512()],
                    FloatKind::F32 => {
                        [both([load_f32(p), load_f32(p.add(64))]), _mm512_setzero_si512()]
                    }
                };
                for part in 0..if F::KIND == FloatKind::F16 { 2 } else { 1 } {
                    let to = panel.row(part, lane + r, step).as_mut_ptr();
                    _mm512_store_si512(to.cast(), parts[part]);
                }
            }
        }
    }
}

// ---- activations and products ----

/// See `TileCpu::tile_tokens`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,f16c,fma")]
fn tile_tokens(x: &[f32], k: usize, [high, low]: [&mut [Tile]; 2]) {
    assert!(x.len() <= SIDE * k && high.len() * DEPTH < k + DEPTH);
    for (step, high) in high.iter_mut().enumerate() {
        let columns = DEPTH.min(k - step * DEPTH);
        let mask = ((1u64 << columns) - 1) as u32;
        let masks = [mask as u16, (mask >> 16) as u16];
        let mut parts = [[_mm512_setzero_si512(); SIDE]; 2];
        for (t, row) in x.chunks_exact(k).enumerate() {
            // SAFETY: this function has the features; only columns of the row are read.
            unsafe {
                let p = row.as_ptr().add(step * DEPTH);
                let values = [
                    _mm512_maskz_loadu_ps(masks[0], p),
                    _mm512_maskz_loadu_ps(masks[1], p.wrapping_add(SIDE)),
                ];
                if low.is_empty() {
                    parts[0][t] = both(values);
                } else {
                    [parts[0][t], parts[1][t]] = split(values);
                }
            }
        }
        store_tile(high, transpose(parts[0]));
        if let Some(low) = low.get_mut(step) {
            store_tile(low, transpose(parts[1]));
        }
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store_tile(tile: &mut Tile, rows: [__m512i; SIDE]) {
    for (to, row) in tile.0.iter_mut().zip(rows) {
        // SAFETY: a row of a tile is 64 bytes, and aligned so.
        unsafe { _mm512_store_si512(to.as_mut_ptr().cast(), row) };
    }
}

/// See `TileCpu::tile_rows`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,f16c,fma")]
fn tile_rows(sums: &Sums, [high, low]: [&mut [[u16; DEPTH]]; 2]) {
    assert!(high.len() == SIDE / 2 && (low.is_empty() || low.len() == SIDE / 2));
    // Lane 2t of a pair of rows is token t of the first, lane 2t + 1 of the second.
    static FIRST: [i32; 16] = [0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23];
    static SECOND: [i32; 16] = [8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31];
    for (j, pair) in sums.0.as_chunks::<2>().0.iter().enumerate() {
        // SAFETY: this function has the features; rows of sums and of tiles are 64 bytes long.
        unsafe {
            let [a, b] = pair.each_ref().map(|row| _mm512_loadu_ps(row.as_ptr()));
            let [first, second] = [&FIRST, &SECOND].map(|t| _mm512_loadu_si512(t.as_ptr().cast()));
            let values =
                [_mm512_permutex2var_ps(a, first, b), _mm512_permutex2var_ps(a, second, b)];
            if low.is_empty() {
                _mm512_storeu_si512(high[j].as_mut_ptr().cast(), both(values));
            } else {
                let parts = split(values);
                _mm512_storeu_si512(high[j].as_mut_ptr().cast(), parts[0]);
                _mm512_storeu_si512(low[j].as_mut_ptr().cast(), parts[1]);
            }
        }
    }
}

/// See `TileCpu::transposed`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,f16c,fma")]
fn transposed(sums: &Sums) -> Sums {
    let mut out = Sums::ZERO;
    // SAFETY: this function has the features; each row is 64 bytes long.
    unsafe {
        let rows = sums.0.each_ref().map(|row| _mm512_loadu_si512(row.as_ptr().cast()));
        for (row, to) in transpose(rows).into_iter().zip(&mut out.0) {
            _mm512_storeu_si512(to.as_mut_ptr().cast(), row);
        }
    }
    out
}
