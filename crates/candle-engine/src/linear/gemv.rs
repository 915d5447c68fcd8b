//! GEMV: products with one token or a few, row by row, at the speed of memory.

use std::array::from_fn;
use std::cell::RefCell;
use std::ops::Range;

use super::{Activations, Method, Multiplier, X, with_float, with_format};
use crate::kernels::format::{self, FloatKind, Kind};
use crate::kernels::{Cpu, STREAMS};
use crate::weights::{Matrix, blocks, f32_bytes, with_block};

/// The most rows of each stream in a piece of work, and the bytes of a stream above which a piece
/// has fewer. A thread that finishes first waits for at most one piece of another thread.
pub(super) const PIECE: usize = 8;
const PIECE_BYTES: usize = 5 << 10;

/// Rows of a matrix that are multiplied together, some from each stream: stream `s` goes through
/// the matrix's `s`-th quarter.
pub(super) type Piece = [Range<usize>; STREAMS];

/// A matrix cut into pieces.
#[derive(Clone, Copy)]
pub(super) struct Pieces {
    rows: usize,
    /// Rows of each stream in a piece.
    step: usize,
}

impl Pieces {
    pub fn of(matrix: &Matrix) -> Self {
        let rows = matrix.rows();
        let step = PIECE_BYTES / (matrix.bytes() / rows.max(1)).max(1);
        Self { rows, step: step.clamp(1, PIECE) }
    }

    pub fn count(self) -> usize {
        self.rows.div_ceil(STREAMS).div_ceil(self.step)
    }

    /// Piece number `i`.
    pub fn piece(self, i: usize) -> Piece {
        let quarter = self.rows.div_ceil(STREAMS);
        from_fn(|s| {
            let end = self.rows.min((s + 1) * quarter);
            let start = end.min(s * quarter + i * self.step);
            start..end.min(start + self.step)
        })
    }
}

thread_local! {
    /// A widened row.
    static WIDE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Multiplier {
    /// The rows of `piece` times each of few tokens: calls `put(token, stream, place, values)`, with
    /// the values of consecutive places.
    #[inline]
    pub(super) fn piece<C: Cpu>(
        &self,
        cpu: C,
        matrix: &Matrix,
        piece: &Piece,
        x: X<'_>,
        mut put: impl FnMut(usize, usize, usize, &[f32]),
    ) {
        let method = self.arithmetic.method(matrix.encoding(), x.m);
        // Multiplies rows that all streams have side by side.
        let mut together = 0;
        if matches!(method, Method::Block(_) | Method::Float(_)) {
            together = piece.iter().map(Range::len).min().unwrap_or(0);
            let rows = from_fn(|s| matrix.some_rows(piece[s].start..piece[s].start + together));
            let mut side_by_side = SideBySide { this: self, cpu, method, rows, together, x };
            few_tokens(x.m, |t, n| match n {
                1 => side_by_side.run::<1>(t, &mut put),
                2 => side_by_side.run::<2>(t, &mut put),
                3 => side_by_side.run::<3>(t, &mut put),
                _ => side_by_side.run::<MOST_TOKENS>(t, &mut put),
            });
        }
        for (s, rows) in piece.iter().enumerate().filter(|(_, rows)| rows.len() > together) {
            let start = rows.start;
            let rest = start + together..rows.end;
            self.rows(cpu, matrix, rest, x, |t, row, value| put(t, s, row - start, &[value]));
        }
    }

    /// Rows `rows` of `matrix`, one after the other, times each of few tokens: calls
    /// `put(token, row, value)`.
    #[inline]
    fn rows<C: Cpu>(
        &self,
        cpu: C,
        matrix: &Matrix,
        rows: Range<usize>,
        x: X<'_>,
        mut put: impl FnMut(usize, usize, f32),
    ) {
        let k = matrix.columns();
        let X { floats: x, m, .. } = x;
        match self.arithmetic.method(matrix.encoding(), m) {
            Method::Block(kind) => with_format!(kind, F => {
                for_tokens::<4>(m, |t, n| for r in rows.clone() {
                    let row = matrix.row(r);
                    match n {
                        4 => {
                            let got = cpu.int8_dot::<F, 4>(row, &self.rounded, t);
                            got.into_iter().enumerate().for_each(|(i, v)| put(t + i, r, v));
                        }
                        _ => put(t, r, cpu.int8_dot::<F, 1>(row, &self.rounded, t)[0]),
                    }
                })
            }),
            Method::Float(kind) => with_float!(kind, F => {
                for_tokens::<4>(m, |t, n| for r in rows.clone() {
                    let row = matrix.row(r);
                    match n {
                        4 => {
                            let x: [&[f32]; 4] = from_fn(|i| &x[(t + i) * k..][..k]);
                            let got = cpu.float_dot::<F, 4>(row, x);
                            got.into_iter().enumerate().for_each(|(i, v)| put(t + i, r, v));
                        }
                        _ => put(t, r, cpu.float_dot::<F, 1>(row, [&x[t * k..][..k]])[0]),
                    }
                })
            }),
            Method::Candle(form) => with_block!(matrix.encoding(), T => {
                let x: &[<T as GgmlType>::VecDotType] = match form {
                    Activations::Q8_0 => same_type(&self.q8_0),
                    Activations::Q8_1 => same_type(&self.q8_1),
                    Activations::Q8K => same_type(&self.q8k),
                };
                let blocks_per_row = k / <T as GgmlType>::VecDotType::BLCK_SIZE;
                for r in rows {
                    let row = blocks::<T>(matrix.row(r));
                    for (t, x) in x.chunks_exact(blocks_per_row).take(m).enumerate() {
                        put(t, r, T::vec_dot(k, row, x));
                    }
                }
            }),
            Method::Widen => WIDE.with_borrow_mut(|wide| {
                wide.resize(k, 0.0);
                for r in rows {
                    matrix.dequantize_row(r, wide);
                    let row = f32_bytes(wide);
                    for (t, x) in x.chunks_exact(k).enumerate() {
                        let [value] = cpu.float_dot::<format::F32, 1>(row, [x]);
                        put(t, r, value);
                    }
                }
            }),
        }
    }
}

/// Tokens that are multiplied at once with rows of all streams: their sums fill half of the
/// registers.
const MOST_TOKENS: usize = 4;

/// Calls `each(first token, how many)`, at most `MOST_TOKENS` at a time and about equally many, until
/// `0..m` is covered.
#[inline(always)]
fn few_tokens(m: usize, mut each: impl FnMut(usize, usize)) {
    let passes = m.div_ceil(MOST_TOKENS);
    for i in 0..passes {
        let (start, end) = (m * i / passes, m * (i + 1) / passes);
        each(start, end - start);
    }
}

/// Rows that all streams of a piece have, `together` in each.
struct SideBySide<'a, C> {
    this: &'a Multiplier,
    cpu: C,
    method: Method,
    rows: [&'a [u8]; STREAMS],
    together: usize,
    x: X<'a>,
}

impl<C: Cpu> SideBySide<'_, C> {
    /// Multiplies them with tokens `t..t + T`: calls `put(token, stream, place, values)`.
    #[inline(always)]
    fn run<const T: usize>(&mut self, t: usize, put: &mut impl FnMut(usize, usize, usize, &[f32])) {
        let out = &mut [[[0.0; T]; STREAMS]; PIECE][..self.together];
        let k = self.x.floats.len() / self.x.m;
        match self.method {
            Method::Block(kind) => with_format!(kind, F => {
                self.cpu.int8_gemv::<F, T>(self.rows, &self.this.rounded, t, out)
            }),
            Method::Float(kind) => with_float!(kind, F => {
                let x = from_fn(|i| &self.x.floats[(t + i) * k..][..k]);
                self.cpu.float_gemv::<F, T>(self.rows, x, out)
            }),
            Method::Candle(_) | Method::Widen => unreachable!("no such rows"),
        }
        for i in 0..T {
            for s in 0..STREAMS {
                let mut values = [0.0; PIECE];
                for (value, out) in values.iter_mut().zip(&*out) {
                    *value = out[s][i];
                }
                put(t + i, s, 0, &values[..self.together]);
            }
        }
    }
}

/// Calls `each(first token, T or 1)` until `0..m` is covered.
#[inline(always)]
fn for_tokens<const T: usize>(m: usize, mut each: impl FnMut(usize, usize)) {
    let mut t = 0;
    while t < m {
        let n = if t + T <= m { T } else { 1 };
        each(t, n);
        t += n;
    }
}

/// The slice under its concrete type, for generic code that has just matched that type.
fn same_type<A: 'static, B: 'static>(slice: &[A]) -> &[B] {
    assert_eq!(std::any::TypeId::of::<A>(), std::any::TypeId::of::<B>());
    // SAFETY: A and B are one type.
    unsafe { std::slice::from_raw_parts(slice.as_ptr().cast(), slice.len()) }
}
