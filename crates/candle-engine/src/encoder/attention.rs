//! Attention of an encoder: every token of a text attends to the whole text. A head's keys and values
//! are packed into panels, so that scores and weighted sums are GEMM.

use std::cell::RefCell;
use std::ops::Range;

use crate::kernels::Cpu;
use crate::kernels::format;
use crate::kernels::pack::{Aligned, COLUMNS, FloatPanel, ROWS};
use crate::math::exp;
use crate::pool::{Pool, Scatter};
use crate::weights::f32_bytes;

/// Queries whose scores are in memory at once.
const QUERIES: usize = 48;

/// A thread's buffers.
struct Scratch {
    panel: Box<FloatPanel>,
    /// `[panel of 64 keys][head_dim][key]`.
    keys: Vec<Aligned<[f32; ROWS]>>,
    /// `[64 values of a head][key][value]`.
    values: Vec<Aligned<[f32; ROWS]>>,
    /// `[query, head_dim]`, scaled.
    queries: Vec<f32>,
    /// `[panel of 64 keys][query][key]`.
    scores: Vec<Aligned<[f32; ROWS]>>,
    /// `[query]`: 64 weighted values.
    sums: Vec<Aligned<[f32; ROWS]>>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        panel: FloatPanel::new(),
        keys: Vec::new(),
        values: Vec::new(),
        queries: Vec::new(),
        scores: Vec::new(),
        sums: Vec::new(),
    });
}

/// The shape of the heads.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    pub count: usize,
    pub dim: usize,
}

/// Replaces the queries in `qkv`, `[tokens, 3, heads, head_dim]`, by the results of attention. Each
/// of `texts` is the tokens of one text.
pub fn attend<C: Cpu>(
    cpu: C,
    pool: &mut Pool,
    heads: Heads,
    texts: &[Range<usize>],
    qkv: &mut [f32],
) {
    let qkv = Scatter::new(qkv);
    pool.run(texts.len() * heads.count, 1, |items| {
        for item in items {
            let (text, head) = (&texts[item / heads.count], item % heads.count);
            SCRATCH.with_borrow_mut(|scratch| {
                attend_head(cpu, scratch, heads, text, head, &qkv);
            });
        }
    });
}

/// One head of one text. No other piece of work touches its columns of these tokens.
fn attend_head<C: Cpu>(
    cpu: C,
    scratch: &mut Scratch,
    heads: Heads,
    text: &Range<usize>,
    head: usize,
    qkv: &Scatter<'_, f32>,
) {
    let Heads { count, dim } = heads;
    let width = count * dim;
    let place = |t: usize, part: usize| {
        let at = (text.start + t) * 3 * width + part * width + head * dim;
        at..at + dim
    };
    let n = text.len();
    let (key_panels, parts) = (n.div_ceil(ROWS), dim.div_ceil(ROWS));
    let Scratch { panel, keys, values, queries, scores, sums } = scratch;
    grow(keys, key_panels * dim);
    grow(values, parts * n);
    grow(scores, key_panels * QUERIES);
    grow(sums, QUERIES);
    queries.resize(queries.len().max(QUERIES * dim), 0.0);

    for (p, keys) in keys.chunks_exact_mut(dim).take(key_panels).enumerate() {
        let mut rows: [&[u8]; ROWS] = [&[]; ROWS];
        let of = p * ROWS..n.min((p + 1) * ROWS);
        let rows = &mut rows[..of.len()];
        for (row, t) in rows.iter_mut().zip(of) {
            // SAFETY: the text's keys and values are only read while a layer attends.
            *row = f32_bytes(unsafe { qkv.get(place(t, 1)) });
        }
        for (i, keys) in keys.chunks_mut(COLUMNS).enumerate() {
            cpu.pack_float::<format::F32>(panel, rows, i * COLUMNS, keys.len());
            let columns = &panel.0[..keys.len()];
            Aligned::bare_mut(keys).copy_from_slice(columns);
        }
    }
    for t in 0..n {
        // SAFETY: as above.
        let row = unsafe { qkv.get(place(t, 2)) };
        for (part, row) in row.chunks(ROWS).enumerate() {
            values[part * n + t].0[..row.len()].copy_from_slice(row);
        }
    }
    let (keys, values) = (Aligned::bare(keys), Aligned::bare(values));
    // The exponentials are of base e; 1/√dim scales the scores.
    let scale = 1.0 / (dim as f32).sqrt();
    for first in (0..n).step_by(QUERIES) {
        let m = QUERIES.min(n - first);
        for (q, query) in queries.chunks_exact_mut(dim).take(m).enumerate() {
            // SAFETY: this piece of work alone uses the queries of this head and text.
            let row = unsafe { qkv.get(place(first + q, 0)) };
            query.iter_mut().zip(row).for_each(|(query, x)| *query = *x * scale);
        }
        let queries = &queries[..m * dim];
        let scores = &mut Aligned::bare_mut(scores)[..key_panels * m];
        for (p, scores) in scores.chunks_exact_mut(m).enumerate() {
            let rows = ROWS.min(n - p * ROWS);
            scores.fill([0.0; ROWS]);
            let keys = &keys[p * dim..][..dim];
            for (i, keys) in keys.chunks(COLUMNS).enumerate() {
                cpu.float_gemm(keys, rows, i * COLUMNS, queries, dim, scores);
            }
        }
        let mut inverse = [0.0; QUERIES];
        cpu.run(|| softmax(cpu, scores, m, n, &mut inverse));
        let sums = &mut Aligned::bare_mut(sums)[..m];
        for part in 0..parts {
            let rows = ROWS.min(dim - part * ROWS);
            sums.fill([0.0; ROWS]);
            for (p, scores) in scores.chunks_exact(m).enumerate() {
                let of = p * ROWS..n.min((p + 1) * ROWS);
                let values = &values[part * n..][of];
                cpu.float_gemm(values, rows, 0, scores.as_flattened(), ROWS, sums);
            }
            for (q, sums) in sums.iter().enumerate() {
                let at = place(first + q, 0).start + part * ROWS;
                // SAFETY: this piece of work alone uses the queries of this head and text.
                let out = unsafe { qkv.get(at..at + rows) };
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * inverse[q]);
            }
        }
    }
}

fn grow(all: &mut Vec<Aligned<[f32; ROWS]>>, n: usize) {
    if all.len() < n {
        all.resize(n, Aligned([0.0; ROWS]));
    }
}

/// Turns the scores of `m` queries and `n` keys, `[panel][query][key]`, into weights that sum to one
/// over `inverse`. The places behind the last key become zero.
#[inline(always)]
fn softmax<C: Cpu>(
    cpu: C,
    scores: &mut [[f32; ROWS]],
    m: usize,
    n: usize,
    inverse: &mut [f32; QUERIES],
) {
    if !n.is_multiple_of(ROWS) {
        let last = scores.len() - m;
        for row in &mut scores[last..] {
            row[n % ROWS..].fill(f32::NEG_INFINITY);
        }
    }
    for q in 0..m {
        let mut lanes = [f32::NEG_INFINITY; ROWS];
        for row in scores[q..].iter().step_by(m) {
            for (lane, &x) in lanes.iter_mut().zip(row) {
                *lane = if x > *lane { x } else { *lane };
            }
        }
        let largest = lanes.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
        let mut lanes = [0.0f32; ROWS];
        for row in scores[q..].iter_mut().step_by(m) {
            for (lane, x) in lanes.iter_mut().zip(row) {
                *x = exp(cpu, *x - largest);
                *lane += *x;
            }
        }
        inverse[q] = 1.0 / lanes.iter().sum::<f32>();
    }
}
