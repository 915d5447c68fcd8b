//! Products with few tokens: row by row, as memory delivers them. One token takes four rows at a
//! time, which share the loads of its activations and hide each other's latency.

use std::array::from_fn;
use std::cell::RefCell;
use std::ops::Range;

use super::super::kernels::Cpu;
use super::super::kernels::format::{self, FloatKind, Kind};
use super::super::weights::{Matrix, blocks, f32_bytes, with_block};
use super::{Activations, MANY, Method, Multiplier, PIECE, X, with_float, with_format};

thread_local! {
    /// A widened row.
    static WIDE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Multiplier {
    /// Rows `rows` of `matrix` times each of few tokens: calls `put(token, row, value)`.
    #[inline]
    pub(super) fn rows<C: Cpu>(
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
            Method::Block(kind) if m == 1 => {
                with_format!(kind, F => steps::<4>(rows, |r, n| match n {
                    4 => {
                        let four = from_fn(|i| matrix.row(r + i));
                        let got = cpu.int8_dot::<F, 4, 1>(four, &self.rounded, 0);
                        got.into_iter().enumerate().for_each(|(i, [v])| put(0, r + i, v));
                    }
                    _ => put(0, r, cpu.int8_dot::<F, 1, 1>([matrix.row(r)], &self.rounded, 0)[0][0]),
                }))
            }
            Method::Float(kind) if m == 1 => {
                with_float!(kind, F => steps::<4>(rows, |r, n| match n {
                    4 => {
                        let got = cpu.float_dot::<F, 4, 1>(from_fn(|i| matrix.row(r + i)), [x]);
                        got.into_iter().enumerate().for_each(|(i, [v])| put(0, r + i, v));
                    }
                    _ => put(0, r, cpu.float_dot::<F, 1, 1>([matrix.row(r)], [x])[0][0]),
                }))
            }
            Method::Block(kind) => with_format!(kind, F => {
                steps::<4>(0..m, |t, n| for r in rows.clone() {
                    let row = matrix.row(r);
                    match n {
                        4 => {
                            let [got] = cpu.int8_dot::<F, 1, 4>([row], &self.rounded, t);
                            got.into_iter().enumerate().for_each(|(i, v)| put(t + i, r, v));
                        }
                        _ => put(t, r, cpu.int8_dot::<F, 1, 1>([row], &self.rounded, t)[0][0]),
                    }
                })
            }),
            Method::Float(kind) => with_float!(kind, F => {
                steps::<4>(0..m, |t, n| for r in rows.clone() {
                    let row = matrix.row(r);
                    match n {
                        4 => {
                            let x: [&[f32]; 4] = from_fn(|i| &x[(t + i) * k..][..k]);
                            let [got] = cpu.float_dot::<F, 1, 4>([row], x);
                            got.into_iter().enumerate().for_each(|(i, v)| put(t + i, r, v));
                        }
                        _ => put(t, r, cpu.float_dot::<F, 1, 1>([row], [&x[t * k..][..k]])[0][0]),
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
                        let [[value]] = cpu.float_dot::<format::F32, 1, 1>([row], [x]);
                        put(t, r, value);
                    }
                }
            }),
        }
    }

    /// The same rows of two matrices, as `rows`: one token reads two rows of both at once.
    #[inline]
    pub(super) fn pairs<C: Cpu>(
        &self,
        cpu: C,
        [a, b]: [&Matrix; 2],
        rows: Range<usize>,
        x: X<'_>,
        mut put: impl FnMut(usize, usize, [f32; 2]),
    ) {
        let m = x.m;
        let method = self.arithmetic.method(a.encoding(), m);
        let same = method == self.arithmetic.method(b.encoding(), m);
        match method {
            Method::Block(kind) if same && m == 1 => {
                with_format!(kind, F => steps::<2>(rows, |r, n| match n {
                    2 => {
                        let four = [a.row(r), b.row(r), a.row(r + 1), b.row(r + 1)];
                        let [[a0], [b0], [a1], [b1]] = cpu.int8_dot::<F, 4, 1>(four, &self.rounded, 0);
                        put(0, r, [a0, b0]);
                        put(0, r + 1, [a1, b1]);
                    }
                    _ => put(0, r, cpu.int8_dot::<F, 2, 1>([a.row(r), b.row(r)], &self.rounded, 0).map(|[v]| v)),
                }))
            }
            Method::Float(kind) if same && m == 1 => {
                with_float!(kind, F => steps::<2>(rows, |r, n| match n {
                    2 => {
                        let four = [a.row(r), b.row(r), a.row(r + 1), b.row(r + 1)];
                        let [[a0], [b0], [a1], [b1]] = cpu.float_dot::<F, 4, 1>(four, [x.floats]);
                        put(0, r, [a0, b0]);
                        put(0, r + 1, [a1, b1]);
                    }
                    _ => put(0, r, cpu.float_dot::<F, 2, 1>([a.row(r), b.row(r)], [x.floats]).map(|[v]| v)),
                }))
            }
            _ => {
                let mut firsts = [[0.0f32; PIECE]; MANY];
                let start = rows.start;
                self.rows(cpu, a, rows.clone(), x, |t, r, v| firsts[t][r - start] = v);
                self.rows(cpu, b, rows, x, |t, r, v| put(t, r, [firsts[t][r - start], v]));
            }
        }
    }
}

/// Calls `each(first, N or 1)` until `range` is covered.
#[inline(always)]
fn steps<const N: usize>(range: Range<usize>, mut each: impl FnMut(usize, usize)) {
    let mut first = range.start;
    while first < range.end {
        let n = if first + N <= range.end { N } else { 1 };
        each(first, n);
        first += n;
    }
}

/// The same slice under the name of its own type; used where generic code has just matched it.
fn same_type<A: 'static, B: 'static>(slice: &[A]) -> &[B] {
    assert_eq!(std::any::TypeId::of::<A>(), std::any::TypeId::of::<B>());
    // SAFETY: A and B are one type.
    unsafe { std::slice::from_raw_parts(slice.as_ptr().cast(), slice.len()) }
}
