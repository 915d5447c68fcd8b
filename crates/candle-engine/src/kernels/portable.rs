//! Kernels for any CPU: plain loops over lanes, which the compiler turns into the target's vectors.
//! They are the provided methods of `Cpu`.

use super::Cpu;
use super::amx::TileCpu;

/// No particular instruction set: the one that the binary was compiled for.
#[derive(Debug, Clone, Copy)]
pub struct Portable;

impl Cpu for Portable {
    const FMA: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));

    fn name(self) -> &'static str {
        "portable"
    }
}

impl TileCpu for Portable {}

/// `a · b + c`, fused if that is one instruction; a fused operation in software would be slow.
#[inline(always)]
pub fn madd<C: Cpu>(a: f32, b: f32, c: f32) -> f32 {
    if C::FMA { a.mul_add(b, c) } else { a * b + c }
}
