//! Unpacking and packing for AVX-512: unpacks four blocks at a time into two registers of bytes,
//! and packs those of 16 rows into a panel.

// Tiles are small constant loops over several arrays at once.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;
use std::array::from_fn;

use crate::kernels::avx512::{load_bf16, load_f16, load_f32};
use crate::kernels::format::{BLOCK, BlockFormat, FloatFormat, FloatKind, Kind};
use crate::kernels::pack::{FloatPanel, Int8Panel, prefetch_columns, prefetch_panel};

/// Lanes of a register.
const LANES: usize = 16;

/// 128 unsigned weights: the first and second halves of four blocks.
pub type Step = [__m512i; 2];

// ---- index tables for word permutations, computed at compile time ----

/// A table of 32 word indices from a function of the output's dword `j`, block `i` and half `h`.
const fn words(stride: i16, first: i16, per_j: i16, split: i16, base: i16) -> [i16; 32] {
    let mut table = [0i16; 32];
    let mut at = 0;
    while at < 32 {
        let (j, i, h) = (at as i16 / 8, at as i16 / 2 % 4, at as i16 % 2);
        let word = stride * i + first + per_j * j + h;
        // Words below `split` come from the first source, the others from the second, whose
        // word 0 is word `base` of the block.
        table[at] = if word < split { word } else { 32 + word - base };
        at += 1;
    }
    table
}

/// Scales of four blocks, four times: word indices `stride · i`, from two sources 32 or `second`
/// words apart.
const fn scale_words(stride: i16, split: i16, base: i16) -> [i16; 32] {
    let mut table = [0i16; 32];
    let mut at = 0;
    while at < 16 {
        let word = stride * (at as i16 % 4);
        table[at] = if word < split { word } else { 32 + word - base };
        at += 1;
    }
    table
}

/// # Safety
/// The CPU has AVX-512 F.
#[inline(always)]
unsafe fn table16(table: &'static [i16; 32]) -> __m512i {
    // SAFETY: the caller's promise; 64 readable bytes.
    unsafe { _mm512_loadu_si512(table.as_ptr().cast()) }
}

/// # Safety
/// The CPU has AVX-512 F.
#[inline(always)]
pub unsafe fn table32(table: &'static [i32; 16]) -> __m512i {
    // SAFETY: the caller's promise; 64 readable bytes.
    unsafe { _mm512_loadu_si512(table.as_ptr().cast()) }
}

// ---- stored blocks ----

/// Four Q4_0 blocks: `{ f16 d; u8 qs[16] }`, weight = d · (nibble − 8), low nibbles first.
///
/// # Safety
/// The CPU has AVX-512 BW and VNNI, and 72 bytes are readable at `p`.
#[inline(always)]
pub unsafe fn unpack_q4_0(p: *const u8) -> (Step, __m512) {
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

/// Four Q5_0 blocks: `{ f16 d; u32 qh; u8 qs[16] }`, weight = d · (nibble + 16 · bit of qh − 16).
///
/// # Safety
/// The CPU has AVX-512 BW and VNNI, and 88 bytes are readable at `p`.
#[inline(always)]
pub unsafe fn unpack_q5_0(p: *const u8) -> (Step, __m512) {
    // From sources that begin at words 0 and 12.
    static NIBBLES: [i16; 32] = words(11, 3, 2, 32, 12);
    static HIGH: [i16; 32] = words(11, 1, 0, 32, 12);
    static SCALES: [i16; 32] = scale_words(11, 32, 12);
    // SAFETY: the caller's promise; the second load ends at byte 88.
    unsafe {
        let (a, b) = (_mm512_loadu_si512(p.cast()), _mm512_loadu_si512(p.add(24).cast()));
        let packed = _mm512_permutex2var_epi16(a, table16(&NIBBLES), b);
        // The high bits of block i in each dword 4j + i, whose bytes are weights 4j to 4j + 3 of a
        // half: their bits lie in byte j / 2 of the half's two.
        let high = _mm512_permutex2var_epi16(a, table16(&HIGH), b);
        let byte_of = |half: i32| {
            let of = |j: i32| {
                _mm_add_epi32(
                    _mm_set1_epi32((2 * half + j / 2) * 0x0101_0101),
                    _mm_set_epi32(0x0C0C_0C0C, 0x0808_0808, 0x0404_0404, 0),
                )
            };
            let low = _mm256_set_m128i(of(1), of(0));
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), _mm256_set_m128i(of(3), of(2)))
        };
        let even = 0x0804_0201_0804_0201u64 as i64;
        let bit =
            _mm512_set_epi64(even << 4, even << 4, even, even, even << 4, even << 4, even, even);
        let (mask, five) = (_mm512_set1_epi8(0x0F), _mm512_set1_epi8(0x10));
        let with_high = |nibbles, half| {
            let bytes = _mm512_shuffle_epi8(high, byte_of(half));
            _mm512_mask_add_epi8(nibbles, _mm512_test_epi8_mask(bytes, bit), nibbles, five)
        };
        let low = _mm512_and_si512(packed, mask);
        let top = _mm512_and_si512(_mm512_srli_epi16::<4>(packed), mask);
        let d = _mm512_permutex2var_epi16(a, table16(&SCALES), b);
        ([with_high(low, 0), with_high(top, 1)], _mm512_cvtph_ps(_mm512_castsi512_si256(d)))
    }
}

/// Four Q8_0 blocks: `{ f16 d; i8 qs[32] }`, weight = d · q.
///
/// # Safety
/// The CPU has AVX-512 BW and VNNI, and 136 bytes are readable at `p`.
#[inline(always)]
pub unsafe fn unpack_q8_0(p: *const u8) -> (Step, __m512) {
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
        // q + 128 is q with its sign bit flipped.
        let sign = _mm512_set1_epi8(-128);
        let step = [_mm512_xor_si512(first, sign), _mm512_xor_si512(second, sign)];
        (step, _mm512_cvtph_ps(_mm512_castsi512_si256(d)))
    }
}

/// Bytes of a Q4_K block.
pub const Q4K_SIZE: usize = 144;

/// The scales d·sc of a Q4_K block's eight blocks of 32, then their minima dmin·m.
///
/// # Safety
/// The CPU has AVX-512 F and VL, and F16C, and 16 bytes are readable at `p`.
#[inline(always)]
pub unsafe fn q4k_scales(p: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        // Words: d and dmin; sc 0–3; m 0–3; low bits of sc and m 4–7. Blocks 0–3 have their six
        // bits in one byte; 4–7 have four in the last word and two at the top of the others'.
        let block = _mm_loadu_si128(p.cast());
        let low = _mm_shuffle_epi32::<0b11_10_11_01>(block);
        let low = _mm_srlv_epi32(low, _mm_set_epi32(4, 0, 0, 0));
        let mask = _mm_set_epi32(0x0F0F0F0F, 0x3F3F3F3F, 0x0F0F0F0F, 0x3F3F3F3F);
        let top = _mm_srli_epi32::<2>(_mm_maskz_shuffle_epi32::<0b10_00_01_00>(0b1010, block));
        let top = _mm_and_si128(top, _mm_set1_epi32(0x30303030));
        let bytes = _mm_or_si128(_mm_and_si128(low, mask), top);
        let both = _mm512_castps128_ps512(_mm_cvtph_ps(block));
        let which = _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
        let factors = _mm512_permutexvar_ps(which, both);
        _mm512_mul_ps(factors, _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)))
    }
}

// Dword 4j + i comes from the half that holds block i of four, its dword j, and for the second
// register four further on.
static Q4K_FIRST: [i32; 16] = [0, 0, 8, 8, 1, 1, 9, 9, 2, 2, 10, 10, 3, 3, 11, 11];
static Q4K_SECOND: [i32; 16] = [4, 4, 12, 12, 5, 5, 13, 13, 6, 6, 14, 14, 7, 7, 15, 15];

/// Four blocks of 32 nibbles: bytes 0–31 hold block 0 (low) and 1 (high), 32–63 blocks 2 and 3.
///
/// # Safety
/// The CPU has AVX-512 VNNI, and 64 bytes are readable at `p`.
#[inline(always)]
pub unsafe fn unpack_q4k(p: *const u8) -> Step {
    static SHIFT: [i32; 16] = [0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4];
    // SAFETY: the caller's promise.
    unsafe { in_place_q4k(p).map(|w| _mm512_srlv_epi32(w, table32(&SHIFT))) }
}

/// `unpack_q4k` without the shift: the weights of blocks 1 and 3 are 16 times too large, which
/// `nibble_places` corrects in their scales.
///
/// # Safety
/// The CPU has AVX-512 VNNI, and 64 bytes are readable at `p`.
#[inline(always)]
pub unsafe fn in_place_q4k(p: *const u8) -> Step {
    // SAFETY: the caller's promise.
    unsafe {
        let packed = _mm512_loadu_si512(p.cast());
        let mask = _mm512_set1_epi64(0xF0F0F0F0_0F0F0F0Fu64 as i64);
        let first = _mm512_permutexvar_epi32(table32(&Q4K_FIRST), packed);
        let second = _mm512_permutexvar_epi32(table32(&Q4K_SECOND), packed);
        [_mm512_and_si512(first, mask), _mm512_and_si512(second, mask)]
    }
}

/// Bytes of a Q6_K block.
pub const Q6K_SIZE: usize = 210;

/// Blocks `4·half..` of a Q6_K block: low four bits in `ql` (blocks 0 and 1 in the low nibbles, 2
/// and 3 in the high ones), high two bits of block i at bit 2i of `qh`.
///
/// # Safety
/// The CPU has AVX-512 VNNI, 210 bytes are readable at `p`, and `half` is 0 or 1.
#[inline(always)]
pub unsafe fn unpack_q6k(p: *const u8, half: usize) -> Step {
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
            // Low four bits from `l`, the others from `h`, of which two count.
            const SELECT: i32 = 0xCA;
            let q = _mm512_ternarylogic_epi32::<SELECT>(_mm512_set1_epi8(0x0F), l, h);
            halves[part] = _mm512_and_si512(q, _mm512_set1_epi8(0x3F));
        }
        halves
    }
}

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
            // Without their sign, the bits of floats order like integers, NaN last.
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

// ---- panels ----

/// See `Cpu::pack_int8`: groups of four blocks and 16 rows at a time.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
pub fn pack_int8<F: BlockFormat>(panel: &mut Int8Panel, rows: &[&[u8]], first: usize, n: usize) {
    super::pack_int8::<F, LANES>(panel, rows, first, n, |panel, rows, v, slot, g| {
        pack_group::<F>(panel, rows, v, slot, g);
    });
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
    // SAFETY: this function has the features; `super::pack_int8` checked that group `g` is inside the
    // rows and slots `slot..slot + 4` inside the panel.
    unsafe {
        let mut halves = [[_mm512_setzero_si512(); LANES]; 2];
        // Scales of four blocks, in the lowest lanes.
        let mut scales = [[_mm_setzero_ps(); LANES]; 2];
        let mut minima = [_mm_setzero_ps(); LANES];
        for (r, row) in rows.iter().enumerate() {
            let p = row.as_ptr();
            prefetch_panel::<F>(row, g);
            let step: Step = match F::KIND {
                Kind::Q4_0 | Kind::Q5_0 | Kind::Q8_0 => {
                    let p = p.add(4 * g * F::SIZE);
                    let (step, scale) = match F::KIND {
                        Kind::Q4_0 => unpack_q4_0(p),
                        Kind::Q5_0 => unpack_q5_0(p),
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

/// See `Cpu::pack_float`: 16 columns of 16 rows at a time.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
pub fn pack_float<F: FloatFormat>(panel: &mut FloatPanel, rows: &[&[u8]], first: usize, n: usize) {
    super::pack_float::<F, LANES>(panel, rows, first, n, |panel, rows, v, slot, at| {
        pack_square::<F>(panel, rows, v, slot, at);
    });
}

/// Widens `LANES` columns of `LANES` rows, which begin at byte `at`, into lanes `LANES * v..` of
/// columns `slot..`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
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
        // Not `map`: the standard library is compiled without AVX-512 and may not be inlined.
        let mut values = [_mm512_setzero_si512(); LANES];
        for (values, row) in values.iter_mut().zip(rows) {
            let p = row.as_ptr().add(at);
            prefetch_columns::<F>(row, at);
            *values = _mm512_castps_si512(match F::KIND {
                FloatKind::F32 => load_f32(p),
                FloatKind::F16 => load_f16(p),
                FloatKind::Bf16 => load_bf16(p),
            });
        }
        for (column, values) in transpose(values).into_iter().enumerate() {
            let to = panel.0[slot + column].as_mut_ptr().add(LANES * v);
            _mm512_store_si512(to.cast(), values);
        }
    }
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
