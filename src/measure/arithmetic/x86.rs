//! Multiply-add loops for x86-64, one per instruction. All operands stay in registers, with enough
//! independent sums that no instruction waits for an earlier result.

use std::arch::asm;
use std::arch::x86_64::*;
use std::hint::black_box;

use super::{Format, Method};
use crate::cpu::{WHOLE_TILES, features};

/// Independent sums of the 512-bit kernels (32 registers) and of the 256-bit ones (16).
const WIDE: usize = 24;
const NARROW: usize = 12;
/// Independent sums of the tile kernels (8 tiles, 4 of them operands).
const TILES: usize = 4;

/// The best instruction of each format that this processor has.
pub fn methods() -> Vec<Method> {
    let method = |format, instruction, kernel, sums: usize, width| Method {
        format,
        instruction,
        kernel,
        macs: sums as u64 * width,
        width: Some(width),
    };
    // A tile instruction takes many cycles, so "two in each cycle" does not apply to it.
    let tiles = |format, instruction, kernel, depth: u64| Method {
        width: None,
        ..method(format, instruction, kernel, TILES, 16 * 16 * depth)
    };
    let cpu = features();
    let mut found = Vec::new();
    let avx512 = cpu.avx512f && cpu.avx512bw;
    if cpu.amx_int8 {
        found.push(tiles(Format::Int8, "AMX-INT8", int8_amx, 64));
    } else if avx512 && cpu.avx512vnni {
        found.push(method(Format::Int8, "AVX512-VNNI", int8_avx512_vnni, WIDE, 64));
    } else if cpu.avx2 && cpu.avxvnni {
        found.push(method(Format::Int8, "AVX-VNNI", int8_avx_vnni, NARROW, 32));
    } else if cpu.avx2 {
        let three = Method {
            // Three instructions for 32 products: a third of the two a cycle.
            width: None,
            ..method(Format::Int8, "AVX2", int8_avx2, NARROW, 32)
        };
        found.push(three);
    }
    if cpu.amx_bf16 {
        found.push(tiles(Format::Bf16, "AMX-BF16", bf16_amx, 32));
    } else if avx512 && cpu.avx512bf16 {
        found.push(method(Format::Bf16, "AVX512-BF16", bf16_avx512, WIDE, 32));
    }
    if avx512 {
        found.push(method(Format::F32, "AVX512", f32_avx512, WIDE, 16));
    } else if cpu.avx2 && cpu.fma {
        found.push(method(Format::F32, "AVX2 FMA", f32_avx2, NARROW, 8));
    }
    found
}

/// Latency of the eight multiplications in one iteration of [`multiply_chain`]: three cycles each
/// on every x86-64 processor of the last fifteen years.
pub const CHAIN_CYCLES: f64 = 8.0 * 3.0;

/// Eight multiplications in each iteration; each waits for the previous one.
pub fn multiply_chain(iterations: u64) -> f32 {
    let (mut x, by) = (black_box(3u64), black_box(5u64));
    for _ in 0..iterations {
        // SAFETY: registers only.
        unsafe {
            asm!(
                "imul {x}, {by}", "imul {x}, {by}", "imul {x}, {by}", "imul {x}, {by}",
                "imul {x}, {by}", "imul {x}, {by}", "imul {x}, {by}", "imul {x}, {by}",
                x = inout(reg) x, by = in(reg) by, options(nomem, nostack, pure),
            );
        }
    }
    x as f32
}

/// Generates a kernel around a product of tiles. The tiles are zero, which takes just as long.
macro_rules! amx_kernel {
    ($name:ident, $instruction:literal) => {
        /// # Safety
        /// `cpu::features` has the instruction.
        unsafe fn $name(iterations: u64) -> f32 {
            // SAFETY: the caller guarantees the instruction; nobody else uses tile registers here.
            unsafe {
                asm!(
                    "ldtilecfg [{configuration}]",
                    "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                    "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
                    "test {n}, {n}", "jz 3f", "2:",
                    concat!($instruction, " tmm0, tmm4, tmm6"),
                    concat!($instruction, " tmm1, tmm5, tmm6"),
                    concat!($instruction, " tmm2, tmm4, tmm7"),
                    concat!($instruction, " tmm3, tmm5, tmm7"),
                    "dec {n}", "jnz 2b", "3:",
                    "tilerelease",
                    configuration = in(reg) &raw const WHOLE_TILES,
                    n = inout(reg) iterations => _,
                    options(nostack),
                );
            }
            iterations as f32
        }
    };
}

amx_kernel!(int8_amx, "tdpbssd");
amx_kernel!(bf16_amx, "tdpbf16ps");

/// # Safety
/// The processor has AVX512-VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn int8_avx512_vnni(iterations: u64) -> f32 {
    let (a, b) = (_mm512_set1_epi8(black_box(3)), _mm512_set1_epi8(black_box(-2)));
    let mut sums = [_mm512_setzero_si512(); WIDE];
    for _ in 0..iterations {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, a, b);
        }
    }
    let all = sums.into_iter().fold(_mm512_setzero_si512(), |s, x| _mm512_add_epi32(s, x));
    _mm512_reduce_add_epi32(all) as f32
}

/// # Safety
/// The processor has AVX-VNNI.
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn int8_avx_vnni(iterations: u64) -> f32 {
    let (a, b) = (_mm256_set1_epi8(black_box(3)), _mm256_set1_epi8(black_box(-2)));
    let mut sums = [_mm256_setzero_si256(); NARROW];
    for _ in 0..iterations {
        for sum in &mut sums {
            *sum = _mm256_dpbusd_avx_epi32(*sum, a, b);
        }
    }
    first_of(sums)
}

/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2")]
unsafe fn int8_avx2(iterations: u64) -> f32 {
    let (mut a, b) = (_mm256_set1_epi8(black_box(3)), _mm256_set1_epi8(black_box(-2)));
    let ones = _mm256_set1_epi16(1);
    let mut sums = [_mm256_setzero_si256(); NARROW];
    for _ in 0..iterations {
        for sum in &mut sums {
            // SAFETY: names a register and does nothing. It stops the compiler from keeping the
            // product of two values that never change.
            unsafe {
                asm!("/* {0} */", inout(ymm_reg) a, options(nomem, nostack, preserves_flags));
            }
            let pairs = _mm256_maddubs_epi16(a, b);
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
        }
    }
    first_of(sums)
}

/// # Safety
/// The processor has AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn bf16_avx512(iterations: u64) -> f32 {
    let ones = _mm512_set1_ps(black_box(1.0));
    let a = _mm512_cvtne2ps_pbh(ones, ones);
    let mut sums = [_mm512_setzero_ps(); WIDE];
    for _ in 0..iterations {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, a, a);
        }
    }
    let all = sums.into_iter().fold(_mm512_setzero_ps(), |s, x| _mm512_add_ps(s, x));
    _mm512_reduce_add_ps(all)
}

/// # Safety
/// The processor has AVX-512 F.
#[target_feature(enable = "avx512f")]
unsafe fn f32_avx512(iterations: u64) -> f32 {
    // The sums stay near 1 / (1 − a), neither huge nor denormal.
    let (a, b) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(1.0)));
    let mut sums = [_mm512_setzero_ps(); WIDE];
    for _ in 0..iterations {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, a, b);
        }
    }
    let all = sums.into_iter().fold(_mm512_setzero_ps(), |s, x| _mm512_add_ps(s, x));
    _mm512_reduce_add_ps(all)
}

/// # Safety
/// The processor has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn f32_avx2(iterations: u64) -> f32 {
    let (a, b) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(1.0)));
    let mut sums = [_mm256_setzero_ps(); NARROW];
    for _ in 0..iterations {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, a, b);
        }
    }
    let all = sums.into_iter().fold(_mm256_setzero_ps(), |s, x| _mm256_add_ps(s, x));
    _mm256_cvtss_f32(all)
}

/// One lane of the sum.
#[target_feature(enable = "avx2")]
fn first_of(sums: [__m256i; NARROW]) -> f32 {
    let all = sums.into_iter().fold(_mm256_setzero_si256(), |s, x| _mm256_add_epi32(s, x));
    _mm256_extract_epi32::<0>(all) as f32
}
