//! Matrix products with the file's own blocks: chooses the kernel for each encoding and number
//! of tokens, brings the activations into its form, and spreads the rows over the threads.

use std::array::from_fn;
use std::cell::RefCell;
use std::ops::Range;

use candle_core::quantized::k_quants::{BlockQ8_0, BlockQ8_1, BlockQ8K, GgmlType};

use super::attention::KvType;
use super::kernels::activations::{BLOCK, Int8Batch, Int8Row};
#[cfg(target_arch = "x86_64")]
use super::kernels::avx512;
use super::kernels::{FloatDot, Int8Dot, portable};
use super::pool::{Pool, Scatter};
use super::weights::{Encoding, Matrix, blocks, f32_bytes, with_block};
use crate::worker::resident::bytes_in_memory;

/// From so many tokens on, widening a row to f32 once is cheaper than candle's dot product for
/// each token.
const WIDEN_FROM: usize = 6;
/// Rows of one piece of work: for one token, and for many (where activations are re-read for
/// each piece).
const ROWS_DECODE: usize = 48;
const ROWS_PREFILL: usize = 48;
/// Rows widened to f32 at once.
const WIDEN_ROWS: usize = 6;

/// The instruction set that kernels may use.
#[derive(Debug, Clone, Copy)]
pub struct Isa {
    #[cfg(target_arch = "x86_64")]
    avx512: Option<avx512::Avx512>,
    /// Everything in float32: weights widened, nothing rounded.
    plain_f32: bool,
}

impl Isa {
    /// What this CPU has.
    pub fn detect() -> Self {
        Self {
            #[cfg(target_arch = "x86_64")]
            avx512: avx512::Avx512::detect(),
            plain_f32: false,
        }
    }

    /// No kernels of our own: candle's, and the portable f32 one.
    pub fn portable() -> Self {
        Self {
            #[cfg(target_arch = "x86_64")]
            avx512: None,
            plain_f32: false,
        }
    }

    /// Products of float32 with weights widened to it, and a float32 cache: for a reference.
    pub fn plain_f32(self) -> Self {
        Self { plain_f32: true, ..self }
    }

    /// The type of keys and values.
    pub fn kv_type(self) -> KvType {
        if self.plain_f32 { KvType::F32 } else { KvType::F16 }
    }

    pub fn name(self) -> &'static str {
        if self.plain_f32 {
            return "float32";
        }
        #[cfg(target_arch = "x86_64")]
        if self.avx512.is_some() {
            return "avx512vnni";
        }
        "candle's kernels"
    }

    /// How `encoding` times `m` tokens is computed.
    fn method(self, encoding: Encoding, m: usize) -> Method {
        if self.plain_f32 || encoding == Encoding::Iq4Nl {
            return Method::Widen;
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(avx512) = self.avx512
            && let Some(kernel) = Own::of(encoding, avx512)
        {
            return Method::Own(kernel);
        }
        if encoding.is_float() || m >= WIDEN_FROM {
            return Method::Widen;
        }
        Method::Candle(match encoding {
            Encoding::Q4_1 | Encoding::Q5_1 => Rounded::Q8_1,
            Encoding::Q4_0 | Encoding::Q5_0 | Encoding::Q8_0 => Rounded::Q8_0,
            _ => Rounded::Q8K,
        })
    }

    /// In which type the products of one decoded token are computed.
    pub fn compute(self, encoding: Encoding) -> &'static str {
        match self.method(encoding, 1) {
            #[cfg(target_arch = "x86_64")]
            Method::Own(own) if own.takes_floats() => "f32",
            Method::Widen => "f32",
            _ => "int8",
        }
    }
}

#[derive(Clone, Copy)]
enum Method {
    /// A kernel of this crate, straight from the mapped blocks.
    #[cfg(target_arch = "x86_64")]
    Own(Own),
    /// candle's `vec_dot`, straight from the mapped blocks.
    Candle(Rounded),
    /// A few rows at a time widened to f32.
    Widen,
}

/// candle's types for rounded activations.
#[derive(Clone, Copy, PartialEq)]
enum Rounded {
    Q8_0,
    Q8_1,
    Q8K,
}

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
enum Own {
    F32(avx512::F32),
    F16(avx512::F16),
    Bf16(avx512::Bf16),
    Q4_0(avx512::Q4_0),
    Q8_0(avx512::Q8_0),
    Q4K(avx512::Q4K),
    Q6K(avx512::Q6K),
}

#[cfg(target_arch = "x86_64")]
impl Own {
    fn of(encoding: Encoding, cpu: avx512::Avx512) -> Option<Self> {
        Some(match encoding {
            Encoding::F32 => Self::F32(avx512::F32(cpu)),
            Encoding::F16 => Self::F16(avx512::F16(cpu)),
            Encoding::Bf16 => Self::Bf16(avx512::Bf16(cpu)),
            Encoding::Q4_0 => Self::Q4_0(avx512::Q4_0(cpu)),
            Encoding::Q8_0 => Self::Q8_0(avx512::Q8_0(cpu)),
            Encoding::Q4K => Self::Q4K(avx512::Q4K(cpu)),
            Encoding::Q6K => Self::Q6K(avx512::Q6K(cpu)),
            _ => return None,
        })
    }

    fn takes_floats(self) -> bool {
        matches!(self, Self::F32(_) | Self::F16(_) | Self::Bf16(_))
    }
}

/// Multiplies activations with matrices. Holds the rounded forms of the activations.
pub struct Multiplier {
    isa: Isa,
    int8: Int8Batch,
    q8_0: Vec<BlockQ8_0>,
    q8_1: Vec<BlockQ8_1>,
    q8k: Vec<BlockQ8K>,
}

impl Multiplier {
    /// For at most `n_tokens` rows of at most `columns` values.
    pub fn new(isa: Isa, n_tokens: usize, columns: usize) -> Self {
        let int8 = Int8Batch::new(n_tokens, columns);
        Self { isa, int8, q8_0: Vec::new(), q8_1: Vec::new(), q8k: Vec::new() }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.int8.bytes()
            + size_of_val(&self.q8_0[..])
            + size_of_val(&self.q8_1[..])
            + size_of_val(&self.q8k[..])
    }

    /// Of those, what lies in memory now.
    pub fn bytes_in_memory(&self) -> Option<u64> {
        Some(
            self.int8.bytes_in_memory()?
                + bytes_in_memory(&self.q8_0)?
                + bytes_in_memory(&self.q8_1)?
                + bytes_in_memory(&self.q8k)?,
        )
    }

    /// `out[t] (+)= [parts[0]; parts[1]; …] · x[t]`: `x` is `[m, columns]`, `out` is `[m, rows of
    /// all parts]`. All parts have the same columns. With `add`, the products are added to `out`.
    pub fn multiply(
        &mut self,
        pool: &mut Pool,
        parts: &[&Matrix],
        x: &[f32],
        out: &mut [f32],
        add: bool,
    ) {
        let k = parts[0].columns();
        let m = x.len() / k;
        let rows: usize = parts.iter().map(|p| p.rows()).sum();
        assert!(parts.iter().all(|p| p.columns() == k));
        assert_eq!((x.len(), out.len()), (m * k, m * rows));
        self.round(parts, x, k, m);

        let out = Output { values: Scatter::new(out), stride: rows, add };
        let this = &*self;
        let chunk = if m == 1 { ROWS_DECODE } else { ROWS_PREFILL };
        let chunk = chunk.min(rows.div_ceil(pool.threads()).next_multiple_of(12));
        pool.run(rows, chunk, |range| {
            let mut first = 0;
            for part in parts {
                let start = range.start.max(first);
                let end = range.end.min(first + part.rows());
                if start < end {
                    // This piece of work alone writes the columns `range` of `out`.
                    this.rows(part, start - first..end - first, first, x, m, &out);
                }
                first += part.rows();
            }
        });
    }

    /// Brings `x` into the forms that the parts' methods read.
    fn round(&mut self, parts: &[&Matrix], x: &[f32], k: usize, m: usize) {
        let needs = |form: Rounded| {
            let is = |p: &&Matrix| matches!(self.isa.method(p.encoding(), m), Method::Candle(f) if f == form);
            parts.iter().any(is)
        };
        let (q8_0, q8_1, q8k) = (needs(Rounded::Q8_0), needs(Rounded::Q8_1), needs(Rounded::Q8K));
        #[cfg(target_arch = "x86_64")]
        if parts.iter().any(
            |p| matches!(self.isa.method(p.encoding(), m), Method::Own(own) if !own.takes_floats()),
        ) {
            self.int8.quantize(x, k);
        }
        if q8_0 {
            self.q8_0.resize(x.len() / BLOCK, BlockQ8_0::zeros());
            BlockQ8_0::from_float(x, &mut self.q8_0);
        }
        if q8_1 {
            self.q8_1.resize(x.len() / BLOCK, BlockQ8_1::zeros());
            BlockQ8_1::from_float(x, &mut self.q8_1);
        }
        if q8k {
            self.q8k.resize(x.len() / BlockQ8K::BLCK_SIZE, BlockQ8K::zeros());
            BlockQ8K::from_float(x, &mut self.q8k);
        }
    }

    /// Rows `rows` of `matrix` for all tokens, into columns `first + rows` of `out`.
    fn rows(
        &self,
        matrix: &Matrix,
        rows: Range<usize>,
        first: usize,
        x: &[f32],
        m: usize,
        out: &Output<'_>,
    ) {
        match self.isa.method(matrix.encoding(), m) {
            #[cfg(target_arch = "x86_64")]
            Method::Own(own) => {
                let int8 = &self.int8;
                match own {
                    Own::F32(dot) => FloatTiles { dot, matrix, x, first, out }.cover_float(rows, m),
                    Own::F16(dot) => FloatTiles { dot, matrix, x, first, out }.cover_float(rows, m),
                    Own::Bf16(dot) => {
                        FloatTiles { dot, matrix, x, first, out }.cover_float(rows, m)
                    }
                    Own::Q4_0(dot) => {
                        Int8Tiles { dot, matrix, int8, first, out }.cover_int8(rows, m)
                    }
                    Own::Q8_0(dot) => {
                        Int8Tiles { dot, matrix, int8, first, out }.cover_int8(rows, m)
                    }
                    Own::Q4K(dot) => {
                        Int8Tiles { dot, matrix, int8, first, out }.cover_int8(rows, m)
                    }
                    Own::Q6K(dot) => {
                        Int8Tiles { dot, matrix, int8, first, out }.cover_int8(rows, m)
                    }
                }
            }
            Method::Candle(rounded) => {
                with_block!(matrix.encoding(), T => {
                    let x: &[<T as GgmlType>::VecDotType] = match rounded {
                        Rounded::Q8_0 => same_type(&self.q8_0),
                        Rounded::Q8_1 => same_type(&self.q8_1),
                        Rounded::Q8K => same_type(&self.q8k),
                    };
                    candle_rows::<T>(matrix, rows, first, x, m, out)
                })
            }
            Method::Widen => self.widened_rows(matrix, rows, first, x, m, out),
        }
    }

    fn widened_rows(
        &self,
        matrix: &Matrix,
        rows: Range<usize>,
        first: usize,
        x: &[f32],
        m: usize,
        out: &Output<'_>,
    ) {
        thread_local! {
            static WIDE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
        }
        let k = matrix.columns();
        WIDE.with_borrow_mut(|wide| {
            wide.resize(WIDEN_ROWS * k, 0.0);
            for start in rows.clone().step_by(WIDEN_ROWS) {
                let n = WIDEN_ROWS.min(rows.end - start);
                for (i, row) in wide.chunks_exact_mut(k).take(n).enumerate() {
                    matrix.dequantize_row(start + i, row);
                }
                let first = first + start;
                #[cfg(target_arch = "x86_64")]
                if let Some(cpu) = self.isa.avx512 {
                    let dot = avx512::F32(cpu);
                    WideTiles { dot, wide, k, x, first, out }.cover_float(0..n, m);
                    continue;
                }
                WideTiles { dot: portable::F32, wide, k, x, first, out }.cover_float(0..n, m);
            }
        });
    }
}

/// The same slice under the name of its own type; used where generic code has just matched it.
fn same_type<A: 'static, B: 'static>(slice: &[A]) -> &[B] {
    assert_eq!(std::any::TypeId::of::<A>(), std::any::TypeId::of::<B>());
    // SAFETY: A and B are one type.
    unsafe { std::slice::from_raw_parts(slice.as_ptr().cast(), slice.len()) }
}

/// Where products go: `values[t * stride + column]`.
struct Output<'a> {
    values: Scatter<'a>,
    stride: usize,
    add: bool,
}

impl Output<'_> {
    /// Stores products of `R` columns and `T` tokens. Each column belongs to one piece of work
    /// (see `multiply`).
    fn put<const R: usize, const T: usize>(&self, t: usize, column: usize, values: [[f32; T]; R]) {
        for i in 0..T {
            let at = (t + i) * self.stride + column;
            // SAFETY: pieces of work have disjoint columns, and one piece runs on one thread.
            let slots = unsafe { self.values.get(at..at + R) };
            for (slot, value) in slots.iter_mut().zip(&values) {
                *slot = if self.add { *slot + value[i] } else { value[i] };
            }
        }
    }
}

/// A product that can be computed for `R` rows and `T` tokens at once.
trait Tiles {
    /// One token's activations.
    type X: Copy;

    /// Activations of token `t`.
    fn x(&self, t: usize) -> Self::X;

    /// Bytes of row `r`.
    fn row(&self, r: usize) -> &[u8];

    fn dot<const R: usize, const T: usize>(
        &self,
        rows: [&[u8]; R],
        x: [Self::X; T],
    ) -> [[f32; T]; R];

    /// Where the products go, and the column of row 0.
    fn out(&self) -> (&Output<'_>, usize);

    /// All of `rows` × `0..m`, in tiles of `R` × `T` and what is left over.
    fn cover<const R: usize, const T: usize>(&self, rows: Range<usize>, m: usize) {
        let mut t = 0;
        while t + T <= m {
            self.column::<R, T>(rows.clone(), t);
            t += T;
        }
        while t < m {
            self.column::<R, 1>(rows.clone(), t);
            t += 1;
        }
    }

    /// `rows` for tokens `t..t + T`.
    fn column<const R: usize, const T: usize>(&self, rows: Range<usize>, t: usize) {
        let x: [Self::X; T] = from_fn(|i| self.x(t + i));
        let (out, first) = self.out();
        let mut r = rows.start;
        while r + R <= rows.end {
            out.put(t, first + r, self.dot::<R, T>(from_fn(|i| self.row(r + i)), x));
            r += R;
        }
        while r < rows.end {
            out.put(t, first + r, self.dot::<1, T>([self.row(r)], x));
            r += 1;
        }
    }

    /// Tiles that fill the registers of a float kernel.
    fn cover_float(&self, rows: Range<usize>, m: usize) {
        if m == 1 { self.cover::<1, 1>(rows, m) } else { self.cover::<6, 4>(rows, m) }
    }

    /// Tiles that fill the registers of an int8 kernel.
    fn cover_int8(&self, rows: Range<usize>, m: usize) {
        if m == 1 { self.cover::<1, 1>(rows, m) } else { self.cover::<2, 4>(rows, m) }
    }
}

struct FloatTiles<'a, D> {
    dot: D,
    matrix: &'a Matrix,
    x: &'a [f32],
    first: usize,
    out: &'a Output<'a>,
}

impl<'a, D: FloatDot> Tiles for FloatTiles<'a, D> {
    type X = &'a [f32];

    fn x(&self, t: usize) -> Self::X {
        let k = self.matrix.columns();
        &self.x[t * k..][..k]
    }

    fn row(&self, r: usize) -> &[u8] {
        self.matrix.row(r)
    }

    fn dot<const R: usize, const T: usize>(
        &self,
        rows: [&[u8]; R],
        x: [Self::X; T],
    ) -> [[f32; T]; R] {
        self.dot.dot(rows, x)
    }

    fn out(&self) -> (&Output<'_>, usize) {
        (self.out, self.first)
    }
}

struct WideTiles<'a, D> {
    dot: D,
    wide: &'a [f32],
    k: usize,
    x: &'a [f32],
    first: usize,
    out: &'a Output<'a>,
}

impl<'a, D: FloatDot> Tiles for WideTiles<'a, D> {
    type X = &'a [f32];

    fn x(&self, t: usize) -> Self::X {
        &self.x[t * self.k..][..self.k]
    }

    fn row(&self, r: usize) -> &[u8] {
        f32_bytes(&self.wide[r * self.k..][..self.k])
    }

    fn dot<const R: usize, const T: usize>(
        &self,
        rows: [&[u8]; R],
        x: [Self::X; T],
    ) -> [[f32; T]; R] {
        self.dot.dot(rows, x)
    }

    fn out(&self) -> (&Output<'_>, usize) {
        (self.out, self.first)
    }
}

struct Int8Tiles<'a, D> {
    dot: D,
    matrix: &'a Matrix,
    int8: &'a Int8Batch,
    first: usize,
    out: &'a Output<'a>,
}

impl<'a, D: Int8Dot> Tiles for Int8Tiles<'a, D> {
    type X = Int8Row<'a>;

    fn x(&self, t: usize) -> Self::X {
        self.int8.row(t, self.matrix.columns())
    }

    fn row(&self, r: usize) -> &[u8] {
        self.matrix.row(r)
    }

    fn dot<const R: usize, const T: usize>(
        &self,
        rows: [&[u8]; R],
        x: [Self::X; T],
    ) -> [[f32; T]; R] {
        self.dot.dot(rows, x)
    }

    fn out(&self) -> (&Output<'_>, usize) {
        (self.out, self.first)
    }
}

/// candle's dot product, row by row; `x`: `m` rows of rounded activations.
fn candle_rows<B: GgmlType>(
    matrix: &Matrix,
    rows: Range<usize>,
    first: usize,
    x: &[B::VecDotType],
    m: usize,
    out: &Output<'_>,
) {
    let k = matrix.columns();
    for r in rows {
        let row = blocks::<B>(matrix.row(r));
        for (t, x) in x.chunks_exact(k / B::VecDotType::BLCK_SIZE).take(m).enumerate() {
            out.put(t, first + r, [[B::vec_dot(k, row, x)]]);
        }
    }
}
