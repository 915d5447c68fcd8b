//! Dot products of weight rows, as the file stores them, with activations: `R` rows by `T`
//! tokens at a time. One kernel family per instruction set; `linear` chooses.

pub mod activations;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
pub mod portable;
#[cfg(target_arch = "x86_64")]
mod tables;
#[cfg(test)]
mod tests;

use activations::Int8Row;

/// `out[r][t]` = row `r` · token `t`, in f32, for float weights.
pub trait FloatDot: Copy + Send + Sync {
    /// `rows`: `R` rows of equal length in the file's encoding. `x`: `T` rows of as many f32.
    fn dot<const R: usize, const T: usize>(self, rows: [&[u8]; R], x: [&[f32]; T])
    -> [[f32; T]; R];
}

/// `out[r][t]` = row `r` · token `t`, with int8 activations, for block-quantized weights.
pub trait Int8Dot: Copy + Send + Sync {
    /// `rows`: `R` rows of equal length in the file's encoding. `x`: `T` rows of activations.
    fn dot<const R: usize, const T: usize>(
        self,
        rows: [&[u8]; R],
        x: [Int8Row<'_>; T],
    ) -> [[f32; T]; R];
}
