//! Products of block-quantized weights with one or few tokens' int8 activations, for AVX-512 with
//! VNNI: each reads the file's blocks as they are.

// Tiles are small constant loops over several arrays at once.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::super::STREAMS;
use super::super::activations::{BLOCK, GROUP, Int8Row};
use super::super::tables::{scale_words, words};
use super::{prefetch, reduce};

/// 128 unsigned weights: the first and second halves of four blocks.
pub type Step = [__m512i; 2];

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

/// Checks that `rows` are whole blocks of `size` bytes and equally many, and that `x` covers
/// them; returns how many.
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

/// Generates two functions around `$sums`, which adds up `n` blocks of rows that were checked:
/// products of some rows with some tokens, and of many rows in several places with one.
macro_rules! products {
    ($dot:ident, $rows:ident, $sums:ident, $size:expr, $block:expr) => {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
        pub fn $dot<const R: usize, const T: usize>(
            rows: [&[u8]; R],
            x: [Int8Row<'_>; T],
        ) -> [[f32; T]; R] {
            let n = check(&rows, &x, $size, $block);
            // SAFETY: this function has the features, and the rows and activations were checked.
            unsafe { reduce(&$sums(rows.map(<[u8]>::as_ptr), n, &x)) }
        }

        /// See `Cpu::int8_rows`.
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
        pub fn $rows(rows: [&[u8]; STREAMS], x: Int8Row<'_>, out: &mut [[f32; STREAMS]]) {
            let bytes = rows[0].len() / out.len().max(1);
            assert!(rows.iter().all(|rows| rows.len() == bytes * out.len()));
            let n = check(&rows.map(|rows| &rows[..bytes]), &[x], $size, $block);
            for (r, out) in out.iter_mut().enumerate() {
                let row = rows.map(|rows| rows[r * bytes..].as_ptr());
                // SAFETY: as above; each stream's row `r` is inside its rows.
                *out = unsafe { reduce(&$sums(row, n, &[x])) }.map(|[value]| value);
            }
        }
    };
}

/// Generates the kernels of a format with blocks of 32, an f16 scale, and no minimum.
macro_rules! block32_kernel {
    ($dot:ident, $rows:ident, $sums:ident, $size:literal, $unpack:ident, $shift:literal) => {
        products!($dot, $rows, $sums, $size, BLOCK);

        /// # Safety
        /// AVX-512 VNNI is there, and `check` has seen the rows and activations.
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
                    let weights = blocks.map(|p| {
                        if T == 1 {
                            prefetch::<{ 4 * $size }>(p);
                        }
                        $unpack(p)
                    });
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
                    // The last one to three blocks, beside empty ones with a scale of zero.
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

block32_kernel!(q4_0_dot, q4_0_rows, q4_0_sums, 18, unpack_q4_0, 3); // offset 8
block32_kernel!(q8_0_dot, q8_0_rows, q8_0_sums, 34, unpack_q8_0, 7); // offset 128

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

/// Four Q8_0 blocks: `{ f16 d; i8 qs[32] }`, weight = d · q.
///
/// # Safety
/// AVX-512 BW and VNNI are there, and 136 bytes are readable at `p`.
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
        // q + 128 is q with its sign bit turned.
        let sign = _mm512_set1_epi8(-128);
        let step = [_mm512_xor_si512(first, sign), _mm512_xor_si512(second, sign)];
        (step, _mm512_cvtph_ps(_mm512_castsi512_si256(d)))
    }
}

/// Q4_K: `{ f16 d, dmin; u8 scales[12]; u8 qs[128] }`, weight = d·sc·nibble − dmin·m, with 6-bit
/// sc and m for each 32 weights.
///
/// # Safety
/// AVX-512 VNNI is there, and `check` has seen the rows and activations.
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
                    if T == 1 {
                        prefetch::<{ Q4K_SIZE / 2 }>(nibbles);
                    }
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

products!(q4k_dot, q4k_rows, q4k_sums, Q4K_SIZE, 256);

/// Bytes of a block.
const Q4K_SIZE: usize = 144;

/// The scales d·sc of a Q4_K block's eight blocks of 32, then their minima dmin·m.
///
/// # Safety
/// AVX-512 F and VL, and F16C are there, and 16 bytes are readable at `p`.
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
/// AVX-512 VNNI is there, and 64 bytes are readable at `p`.
#[inline(always)]
pub unsafe fn unpack_q4k(p: *const u8) -> Step {
    static SHIFT: [i32; 16] = [0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4];
    // SAFETY: the caller's promise.
    unsafe { in_place_q4k(p).map(|w| _mm512_srlv_epi32(w, table32(&SHIFT))) }
}

/// `unpack_q4k` without the shift: the weights of blocks 1 and 3 are 16 times what they should be,
/// which `nibble_places` puts right in their scales.
///
/// # Safety
/// AVX-512 VNNI is there, and 64 bytes are readable at `p`.
#[inline(always)]
unsafe fn in_place_q4k(p: *const u8) -> Step {
    // SAFETY: the caller's promise.
    unsafe {
        let packed = _mm512_loadu_si512(p.cast());
        let mask = _mm512_set1_epi64(0xF0F0F0F0_0F0F0F0Fu64 as i64);
        let first = _mm512_permutexvar_epi32(table32(&Q4K_FIRST), packed);
        let second = _mm512_permutexvar_epi32(table32(&Q4K_SECOND), packed);
        [_mm512_and_si512(first, mask), _mm512_and_si512(second, mask)]
    }
}

/// What the scales of `in_place_q4k` are multiplied by: 1 and 1/16 in turn.
///
/// # Safety
/// AVX-512 F is there.
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
/// AVX-512 VNNI is there, and `check` has seen the rows and activations.
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
                    if T == 1 {
                        prefetch::<{ Q6K_SIZE / 2 }>(
                            rows[r].add(b * Q6K_SIZE + Q6K_SIZE / 2 * half),
                        );
                    }
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

products!(q6k_dot, q6k_rows, q6k_sums, Q6K_SIZE, 256);

/// Bytes of a block.
const Q6K_SIZE: usize = 210;

/// Blocks `4·half..` of a Q6_K block: low four bits in `ql` (blocks 0 and 1 in the low nibbles, 2
/// and 3 in the high ones), high two bits of block i at bit 2i of `qh`.
///
/// # Safety
/// AVX-512 VNNI is there, 210 bytes are readable at `p`, and `half` is 0 or 1.
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
            // Low four bits from `l`, the others from `h`; of those two count.
            const SELECT: i32 = 0xCA;
            let q = _mm512_ternarylogic_epi32::<SELECT>(_mm512_set1_epi8(0x0F), l, h);
            halves[part] = _mm512_and_si512(q, _mm512_set1_epi8(0x3F));
        }
        halves
    }
}
