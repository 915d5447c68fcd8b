//! The arithmetic of the engine: products of weight rows, as stored in the file, with activations,
//! and attention over the cache. Each operation has a folder (`gemv`, `gemm`, `attention`, `pack`)
//! with one file per instruction set. The types named after instruction sets prove that the CPU has
//! them, and implement the trait `Cpu`. The choice is made at run time, so a portable binary is as
//! fast as one built for its machine. `unsafe` stays inside this module.
//!
//! Decoding is limited by memory: GEMV reads the stored blocks directly. A prompt is limited by
//! arithmetic: GEMM multiplies panels of 64 packed rows with all tokens. On processors that
//! multiply whole tiles of bfloat16, `amx` replaces GEMM.

pub mod activations;
pub mod amx;
mod attention;
#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
pub mod format;
mod gemm;
mod gemv;
#[cfg(target_arch = "aarch64")]
pub mod neon;
pub mod pack;
pub mod portable;
#[cfg(target_arch = "x86_64")]
pub mod prefetch;
#[cfg(test)]
mod tests;

use activations::Rounded;
use amx::TileCpu;
use format::{BlockFormat, FloatFormat};
use pack::{FloatPanel, Int8Blocks, Int8Panel, Int8Rows, ROWS};

/// Positions whose keys the cache interleaves: one vector register of scores.
pub const SPAN: usize = 16;

/// The largest `Cpu::GEMM_TOKENS`.
pub const MOST_GEMM_TOKENS: usize = 10;

/// Places of a matrix that a decode step reads at once. One stream leaves a hardware prefetcher
/// waiting at each page border; plain reading, too, is fastest with four or eight.
pub const STREAMS: usize = 4;

/// An instruction set that is known to be present. The provided methods are the scalar reference.
pub trait Cpu: Copy + Send + Sync + 'static {
    /// Whether a fused multiply-add is one instruction.
    const FMA: bool;

    /// Whether `int8_dot` reads the activations' interleaved form.
    const GROUPED: bool = false;

    /// Products with at least this many tokens are GEMM over packed panels; fewer are GEMV. At most
    /// `MOST_GEMM_TOKENS`.
    const GEMM_TOKENS: usize = 8;

    /// The name in `llm-bench`.
    fn name(self) -> &'static str;

    /// Runs `work`; whatever is inlined into it is compiled for this instruction set.
    fn run<R>(self, work: impl FnOnce() -> R) -> R {
        work()
    }

    /// Rounds `x`, whole blocks, to int8 with `scale = max |x| / 127`. `bytes` has the length of
    /// `x`; `scales` and `sums` (of each half's bytes) have one entry per block.
    fn round(self, x: &[f32], bytes: &mut [i8], scales: &mut [f32], sums: &mut [[i32; 2]]) {
        self.run(|| pack::portable::round(x, bytes, scales, sums));
    }

    /// `out[i]` = `row`, in the file's encoding, · token `t + i`.
    fn int8_dot<F: BlockFormat, const T: usize>(
        self,
        row: &[u8],
        x: &Rounded,
        t: usize,
    ) -> [f32; T] {
        self.run(|| gemv::portable::int8_dot::<F, T>(row, &x.rows, t))
    }

    /// `out[t]` = `row` · token `t`, in f32: `x` holds `T` rows of equal length.
    fn float_dot<F: FloatFormat, const T: usize>(self, row: &[u8], x: [&[f32]; T]) -> [f32; T] {
        self.run(|| gemv::portable::float_dot::<F, T>(row, x))
    }

    /// GEMV: products of one token or a few with rows in several places. `out[r][s][i]` is row `r`
    /// of `rows[s]` times token `t + i`. Each of `rows` holds as many consecutive rows as `out` has.
    fn int8_gemv<F: BlockFormat, const T: usize>(
        self,
        rows: [&[u8]; STREAMS],
        x: &Rounded,
        t: usize,
        out: &mut [[[f32; T]; STREAMS]],
    ) {
        each_row(rows, out, |row| self.int8_dot::<F, T>(row, x, t));
    }

    /// The same for float weights and the tokens `x`.
    fn float_gemv<F: FloatFormat, const T: usize>(
        self,
        rows: [&[u8]; STREAMS],
        x: [&[f32]; T],
        out: &mut [[[f32; T]; STREAMS]],
    ) {
        each_row(rows, out, |row| self.float_dot::<F, T>(row, x));
    }

    /// Packs blocks `first..first + n` of up to `ROWS` rows.
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

    /// GEMM: `out[t][r] +=` (the panel's row `r`, `n` blocks from block `first` of a row on) ·
    /// token `t`, for the tokens of `x` that `out` has room for.
    fn int8_gemm<F: BlockFormat>(
        self,
        panel: Int8Blocks<'_>,
        first: usize,
        n: usize,
        x: &Int8Rows,
        out: &mut [[f32; ROWS]],
    ) {
        self.run(|| gemm::portable::int8_gemm::<F>(panel, first, n, x, out));
    }

    /// GEMM: `out[t][r] +=` (the panel's row `r`) · (values `first..` of token `t`), for at least the
    /// panel's first `rows`: `panel` has columns of `ROWS` rows, `x` is `[tokens, k]`.
    fn float_gemm(
        self,
        panel: &[[f32; ROWS]],
        rows: usize,
        first: usize,
        x: &[f32],
        k: usize,
        out: &mut [[f32; ROWS]],
    ) {
        self.run(|| gemm::portable::float_gemm(panel, rows, first, x, k, out));
    }

    /// `out[i]` = scores of query `i` and the 16 keys of a span: `keys` is `[head_dim, 16]`.
    fn scores<const Q: usize>(self, keys: &[f32], queries: [&[f32]; Q]) -> [[f32; SPAN]; Q] {
        self.run(|| attention::portable::scores::<Self, Q>(keys, queries))
    }

    /// `sums[i] += Σ weights[i][j] · values[j]`: `values` is `[weights[i].len(), sums[i].len()]`.
    fn weigh<const Q: usize>(self, values: &[f32], weights: [&[f32]; Q], sums: [&mut [f32]; Q]) {
        self.run(|| attention::portable::weigh::<Self, Q>(values, weights, sums));
    }

    /// f16 bits as f32.
    fn widen(self, halves: &[u16], out: &mut [f32]) {
        self.run(|| attention::portable::widen(halves, out));
    }

    /// f32 as f16 bits, to nearest, ties to even.
    fn narrow(self, values: &[f32], out: &mut [u16]) {
        self.run(|| attention::portable::narrow(values, out));
    }
}

/// `out[r][s]` = `values` of row `r` of `rows[s]`.
#[inline(always)]
fn each_row<const T: usize>(
    rows: [&[u8]; STREAMS],
    out: &mut [[[f32; T]; STREAMS]],
    mut values: impl FnMut(&[u8]) -> [f32; T],
) {
    let bytes = rows[0].len() / out.len().max(1);
    for (r, out) in out.iter_mut().enumerate() {
        for (rows, out) in rows.iter().zip(out) {
            *out = values(&rows[r * bytes..][..bytes]);
        }
    }
}

/// The instruction set to use, found at run time.
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
    /// The best one that this CPU has.
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

    /// The one of this name; the error lists what this CPU has.
    pub fn named(name: &str) -> Result<Self, String> {
        let all = Self::all();
        let names = || all.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", ");
        let found = all.iter().find(|isa| isa.name() == name).copied();
        found.ok_or_else(|| format!("kernels {name}: this CPU has {}", names()))
    }

    /// The name in `llm-bench`.
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
