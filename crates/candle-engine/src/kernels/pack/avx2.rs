//! Unpacking and packing for AVX2: see `kernels::avx2`.

// Tiles are small constant loops over several arrays at once.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;
use std::array::from_fn;

use crate::kernels::avx2::load;
use crate::kernels::format::{BLOCK, BlockFormat, FloatFormat, Kind};
use crate::kernels::pack::{
    FloatPanel, Int8Panel, parts, prefetch_columns, prefetch_panel, q4k_bytes,
};

/// Lanes of a register.
const LANES: usize = 8;

/// Four blocks of weights.
#[derive(Clone, Copy)]
pub struct Four {
    /// Unsigned bytes in their natural order, one register per block.
    pub weights: [__m256i; 4],
    /// Scales of the first halves of the four blocks, then of the second.
    pub scales: __m256,
    /// Minima, twice, if the format has them.
    pub minima: __m256,
}

impl Four {
    /// # Safety
    /// The CPU has AVX.
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let (bytes, floats) = (_mm256_setzero_si256(), _mm256_setzero_ps());
            Self { weights: [bytes; 4], scales: floats, minima: floats }
        }
    }
}

/// Pairs `[a0, b0, a1, b1, …]` as `[a0, a1, …, b0, b1, …]`.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
pub unsafe fn first_then_second(pairs: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_permutevar8x32_epi32(pairs, _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7)) }
}

/// Group `part` of the blocks at `p`: of four blocks (part 0), or of a block of 256.
///
/// # Safety
/// The CPU has AVX2 and F16C, the blocks are readable at `p`, and `part` is less than `parts`.
#[inline(always)]
pub unsafe fn unpack<F: BlockFormat>(p: *const u8, part: usize) -> Four {
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
                // The second half of a block is in the high nibbles of the same bytes.
                let shift = _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4);
                for i in 0..4 {
                    let packed = _mm_loadu_si128(p.add(18 * i + 2).cast());
                    let packed = _mm256_broadcastsi128_si256(packed);
                    weights[i] = low(_mm256_srlv_epi32(packed, shift));
                }
                scales = half_scales(p, 18);
            }
            Kind::Q5_0 => {
                let shift = _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4);
                // Byte i of a block takes bit i of the four bytes with the fifth bits.
                let byte = _mm256_setr_epi64x(
                    0,
                    0x0101_0101_0101_0101,
                    0x0202_0202_0202_0202,
                    0x0303_0303_0303_0303,
                );
                let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
                for i in 0..4 {
                    let packed = _mm_loadu_si128(p.add(22 * i + 6).cast());
                    let packed = _mm256_broadcastsi128_si256(packed);
                    let high = p.add(22 * i + 2).cast::<i32>().read_unaligned();
                    let high = _mm256_shuffle_epi8(_mm256_set1_epi32(high), byte);
                    let set = _mm256_cmpeq_epi8(_mm256_and_si256(high, bit), bit);
                    let five = _mm256_and_si256(set, _mm256_set1_epi8(0x10));
                    weights[i] = _mm256_or_si256(low(_mm256_srlv_epi32(packed, shift)), five);
                }
                scales = half_scales(p, 22);
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
/// The CPU has AVX and F16C, and four blocks are readable at `p`.
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
/// The CPU has AVX2 and F16C, and 16 bytes are readable at `p`.
#[inline(always)]
unsafe fn q4k_scales(p: *const u8, part: usize) -> (__m256, __m256) {
    // SAFETY: the caller's promise.
    unsafe {
        let (sc, m) = q4k_bytes(p, part);
        let d = p.cast::<i32>().read_unaligned();
        let both = _mm_cvtph_ps(_mm_cvtsi32_si128(d));
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
            // Without their sign, the bits of floats order like integers, NaN last.
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
            // Packing works within each 128 bits: fours of bytes are in the order 0, 2, 4, 6, 1, 3,
            // …
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

/// See `Cpu::pack_int8`: groups of four blocks and 8 rows at a time.
#[target_feature(enable = "avx2,f16c,fma")]
pub fn pack_int8<F: BlockFormat>(panel: &mut Int8Panel, rows: &[&[u8]], first: usize, n: usize) {
    super::pack_int8::<F, LANES>(panel, rows, first, n, |panel, rows, v, slot, g| {
        pack_group::<F>(panel, rows, v, slot, g);
    });
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
    // SAFETY: this function has the features; `super::pack_int8` checked that group `g` is inside the
    // rows and slots `slot..slot + 4` inside the panel.
    unsafe {
        let mut fours = [Four::zero(); LANES];
        for r in 0..LANES {
            prefetch_panel::<F>(rows[r], g);
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

/// See `Cpu::pack_float`: 8 columns of 8 rows at a time.
#[target_feature(enable = "avx2,f16c,fma")]
pub fn pack_float<F: FloatFormat>(panel: &mut FloatPanel, rows: &[&[u8]], first: usize, n: usize) {
    super::pack_float::<F, LANES>(panel, rows, first, n, |panel, rows, v, slot, at| {
        pack_square::<F>(panel, rows, v, slot, at);
    });
}

/// Widens `LANES` columns of `LANES` rows, which begin at byte `at`, into lanes `LANES * v..` of
/// columns `slot..`.
#[target_feature(enable = "avx2,f16c,fma")]
#[inline]
fn pack_square<F: FloatFormat>(
    panel: &mut FloatPanel,
    rows: &[&[u8]; LANES],
    v: usize,
    slot: usize,
    at: usize,
) {
    // SAFETY: this function has the features; `super::pack_float` checked rows and panel.
    unsafe {
        let mut values = [_mm256_setzero_ps(); LANES];
        for r in 0..LANES {
            prefetch_columns::<F>(rows[r], at);
            values[r] = load::<F>(rows[r].as_ptr().add(at));
        }
        for (column, values) in transpose(values).into_iter().enumerate() {
            let to = panel.0[slot + column].as_mut_ptr().add(LANES * v);
            _mm256_store_ps(to, values);
        }
    }
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
