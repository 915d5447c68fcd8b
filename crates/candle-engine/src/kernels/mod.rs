//! The arithmetic of the engine: products of weight rows, as the file stores them, with
//! activations, and what attention computes over its cache. One file per instruction set behind
//! the trait `Cpu`; which one runs is decided at run time, so a portable binary is as fast as one
//! built for its machine. `unsafe` stays in here.
//!
//! One token (decoding) is a matter of memory: `int8_dot` and `float_dot` read the stored blocks
//! as they come. Many tokens (prefill) are a matter of arithmetic: `panel` unpacks 64 rows once,
//! and the `*_tiles` multiply them with all tokens; where the processor multiplies whole tiles of
//! bfloat16, `tiles` takes their place.

pub mod activations;
#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
pub mod format;
#[cfg(target_arch = "aarch64")]
pub mod neon;
pub mod panel;
pub mod portable;
#[cfg(target_arch = "x86_64")]
mod tables;
#[cfg(test)]
mod tests;
pub mod tiles;

use activations::Rounded;
use format::{BLOCK, BlockFormat, FloatFormat};
use panel::{FloatPanel, Int8Panel, Int8Rows, ROWS, round_block};
use tiles::TileCpu;

/// Positions whose keys the cache interleaves: one vector register of scores.
pub const SPAN: usize = 16;

/// Places of a matrix that a decode step reads at once. One stream leaves a hardware prefetcher
/// waiting at each page border; plain reading is fastest with four or eight as well.
pub const STREAMS: usize = 4;

/// An instruction set whose presence was checked. The provided methods are the scalar reference.
pub trait Cpu: Copy + Send + Sync + 'static {
    /// Whether a fused multiply-add is one instruction.
    const FMA: bool;

    /// Whether `int8_dot` reads the activations' interleaved form.
    const GROUPED: bool = false;

    /// As `llm-bench` names it.
    fn name(self) -> &'static str;

    /// Runs `work`, compiled for this instruction set as far as it is inlined.
    fn run<R>(self, work: impl FnOnce() -> R) -> R {
        work()
    }

    /// Rounds `x`, whole blocks, to int8: see `panel::round_block`. `bytes` has the length of `x`,
    /// `scales` and `sums` an entry for each block.
    fn round(self, x: &[f32], bytes: &mut [i8], scales: &mut [f32], sums: &mut [[i32; 2]]) {
        let blocks = x.as_chunks::<BLOCK>().0.iter().zip(bytes.as_chunks_mut::<BLOCK>().0);
        for ((x, bytes), (scale, sums)) in blocks.zip(scales.iter_mut().zip(sums)) {
            (*scale, *sums) = self.run(|| round_block(x, bytes));
        }
    }

    /// `out[r][i]` = row `r` · token `t + i`: `rows` are `R` rows of equal length in the file's
    /// encoding.
    fn int8_dot<F: BlockFormat, const R: usize, const T: usize>(
        self,
        rows: [&[u8]; R],
        x: &Rounded,
        t: usize,
    ) -> [[f32; T]; R] {
        self.run(|| portable::int8_dot::<F, R, T>(rows, x, t))
    }

    /// `out[r][t]` = row `r` · token `t`, in f32; `x` are `T` rows of as many values.
    fn float_dot<F: FloatFormat, const R: usize, const T: usize>(
        self,
        rows: [&[u8]; R],
        x: [&[f32]; T],
    ) -> [[f32; T]; R] {
        self.run(|| portable::float_dot::<F, R, T>(rows, x))
    }

    /// One token's products with rows in several places: `out[r][s]` = row `r` of `rows[s]` ·
    /// token 0. Each of `rows` holds as many rows as `out`, one behind the other.
    fn int8_rows<F: BlockFormat>(
        self,
        rows: [&[u8]; STREAMS],
        x: &Rounded,
        out: &mut [[f32; STREAMS]],
    ) {
        each_row(rows, out, |row| self.int8_dot::<F, 1, 1>([row], x, 0)[0][0]);
    }

    /// The same for float weights and the token `x`.
    fn float_rows<F: FloatFormat>(
        self,
        rows: [&[u8]; STREAMS],
        x: &[f32],
        out: &mut [[f32; STREAMS]],
    ) {
        each_row(rows, out, |row| self.float_dot::<F, 1, 1>([row], [x])[0][0]);
    }

    /// Unpacks blocks `first..first + n` of up to `ROWS` rows.
    fn pack_int8<F: BlockFormat>(
        self,
        panel: &mut Int8Panel,
        rows: &[&[u8]],
        first: usize,
        n: usize,
    ) {
        self.run(|| panel.pack_at::<F>(rows, 0..rows.len(), first..first + n, 0));
    }

    /// Widens columns `first..first + n` of up to `ROWS` rows.
    fn pack_float<F: FloatFormat>(
        self,
        panel: &mut FloatPanel,
        rows: &[&[u8]],
        first: usize,
        n: usize,
    ) {
        self.run(|| panel.pack_at::<F>(rows, 0..rows.len(), first..first + n, 0));
    }

    /// `out[t][r] +=` (the panel's row `r`, `n` blocks that begin with block `first` of a row) ·
    /// token `t`, for the tokens of `x` that `out` has room for.
    fn int8_tiles<F: BlockFormat>(
        self,
        panel: &Int8Panel,
        first: usize,
        n: usize,
        x: &Int8Rows,
        out: &mut [[f32; ROWS]],
    ) {
        self.run(|| portable::int8_tiles::<F>(panel, first, n, x, out));
    }

    /// `out[t][r] +=` (the panel's row `r`, `n` columns that begin with `first`) · token `t`: `x`
    /// is `[tokens, k]`.
    fn float_tiles(
        self,
        panel: &FloatPanel,
        first: usize,
        n: usize,
        x: &[f32],
        k: usize,
        out: &mut [[f32; ROWS]],
    ) {
        self.run(|| portable::float_tiles(panel, first, n, x, k, out));
    }

    /// `out[i]` = scores of query `i` and the 16 keys of a span: `keys` is `[head_dim, 16]`.
    fn scores<const Q: usize>(self, keys: &[f32], queries: [&[f32]; Q]) -> [[f32; SPAN]; Q] {
        self.run(|| portable::scores::<Self, Q>(keys, queries))
    }

    /// `sums[i] += Σ weights[i][j] · values[j]`: `values` is `[weights[i].len(), sums[i].len()]`.
    fn weigh<const Q: usize>(self, values: &[f32], weights: [&[f32]; Q], sums: [&mut [f32]; Q]) {
        self.run(|| portable::weigh::<Self, Q>(values, weights, sums));
    }

    /// f16 bits as f32.
    fn widen(self, halves: &[u16], out: &mut [f32]) {
        self.run(|| {
            for (out, &bits) in out.iter_mut().zip(halves) {
                *out = format::widen(bits);
            }
        });
    }

    /// f32 as f16 bits, to nearest, ties to even.
    fn narrow(self, values: &[f32], out: &mut [u16]) {
        self.run(|| {
            for (out, &value) in out.iter_mut().zip(values) {
                *out = half::f16::from_f32_const(value).to_bits();
            }
        });
    }
}

/// `out[r][s]` = `value` of row `r` of `rows[s]`.
#[inline(always)]
fn each_row(
    rows: [&[u8]; STREAMS],
    out: &mut [[f32; STREAMS]],
    mut value: impl FnMut(&[u8]) -> f32,
) {
    let bytes = rows[0].len() / out.len().max(1);
    for (r, out) in out.iter_mut().enumerate() {
        for (rows, out) in rows.iter().zip(out) {
            *out = value(&rows[r * bytes..][..bytes]);
        }
    }
}

/// What this CPU has, as found at run time.
#[derive(Debug, Clone, Copy)]
pub enum Isa {
    Portable(portable::Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2<false>),
    #[cfg(target_arch = "x86_64")]
    AvxVnni(avx2::Avx2<true>),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512<false>),
    #[cfg(target_arch = "x86_64")]
    Amx(avx512::Avx512<true>),
    #[cfg(target_arch = "aarch64")]
    Neon(neon::Neon<false>),
    #[cfg(target_arch = "aarch64")]
    NeonDot(neon::Neon<true>),
}

/// Runs `$body` with `$cpu` as the `Cpu` of an `Isa`.
macro_rules! with_cpu {
    ($isa:expr, $cpu:ident => $body:expr) => {{
        use $crate::kernels::Isa;
        match $isa {
            Isa::Portable($cpu) => $body,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2($cpu) => $body,
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni($cpu) => $body,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512($cpu) => $body,
            #[cfg(target_arch = "x86_64")]
            Isa::Amx($cpu) => $body,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon($cpu) => $body,
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot($cpu) => $body,
        }
    }};
}
pub(crate) use with_cpu;

impl Isa {
    /// The best that this CPU has.
    pub fn detect() -> Self {
        Self::all()[0]
    }

    /// All that this CPU has, the best first; the last one runs anywhere.
    pub fn all() -> Vec<Self> {
        let found = [
            #[cfg(target_arch = "x86_64")]
            avx512::Avx512::detect().map(Self::Amx),
            #[cfg(target_arch = "x86_64")]
            avx512::Avx512::detect().map(Self::Avx512),
            #[cfg(target_arch = "x86_64")]
            avx2::Avx2::detect().map(Self::AvxVnni),
            #[cfg(target_arch = "x86_64")]
            avx2::Avx2::detect().map(Self::Avx2),
            #[cfg(target_arch = "aarch64")]
            neon::Neon::detect().map(Self::NeonDot),
            #[cfg(target_arch = "aarch64")]
            neon::Neon::detect().map(Self::Neon),
            Some(Self::Portable(portable::Portable)),
        ];
        found.into_iter().flatten().collect()
    }

    /// The one of this name, or what this CPU has instead.
    pub fn named(name: &str) -> Result<Self, String> {
        let all = Self::all();
        let names = || all.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", ");
        let found = all.iter().find(|isa| isa.name() == name).copied();
        found.ok_or_else(|| format!("kernels {name}: this CPU has {}", names()))
    }

    /// As `llm-bench` names it.
    pub fn name(self) -> &'static str {
        with_cpu!(self, cpu => cpu.name())
    }

    /// See `TileCpu::TILED`.
    pub fn is_tiled(self) -> bool {
        fn tiled<C: TileCpu>(_: C) -> bool {
            C::TILED
        }
        with_cpu!(self, cpu => tiled(cpu))
    }
}
