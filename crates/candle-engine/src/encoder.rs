//! An encoder (BERT): runs whole texts of different lengths through its layers without padding, and
//! makes one vector, or the logits of a classifier, of each.
//!
//! All work on a token except attention needs that token alone. Many tokens are therefore cut into
//! blocks, and a thread takes a block from the results of one attention to the queries, keys and
//! values of the next; a layer has two barriers. Few tokens pass through each product together, and
//! the threads share its rows.

mod attention;
mod load;
mod panels;
mod product;
#[cfg(test)]
mod tests;
mod weights;

use std::ops::Range;
use std::sync::Mutex;

use llm_bench_gguf::{Activation, BertConfig, BertOutput, Pooling};
use llm_bench_protocol::EngineError;

use crate::internal;
use crate::kernels::pack::Int8Rows;
use crate::kernels::{Cpu, with_cpu};
use crate::linear::Arithmetic;
use crate::math::{all_finite, gelu, layer_norm};
use crate::pool::{Pool, Scatter};
use crate::resident::bytes_in_memory;
use crate::weights::bad_model;
use attention::{Heads, attend};
use panels::Input;
use product::{Linear, Rounder, Team, round_rows};
use weights::{Norm, Weights};

pub use load::load;

/// Tokens of a block: enough to reuse each weight while it is in a cache.
const BLOCK_TOKENS: usize = 96;
/// Tokens for each thread with which blocks begin to pay.
const MIN_BLOCK: usize = 48;
/// Tokens of a pass for each thread: texts beyond them follow in another pass, so that activations
/// stay in a cache, and small.
const PASS_TOKENS: usize = 1024;

/// An encoder and its threads.
pub struct Encoder {
    path: String,
    pub config: BertConfig,
    pub weights: Weights,
    arithmetic: Arithmetic,
    pool: Pool,
    /// The longest text, in tokens, and the most texts of a batch.
    pub limits: Limits,
    /// Residuals of a pass, `[tokens, hidden]`.
    x: Vec<f32>,
    /// `[tokens, 3, hidden]`; attention puts its results in place of the queries.
    qkv: Vec<f32>,
    /// Buffers that no block uses now.
    idle: Mutex<Vec<Work>>,
}

/// What `load` asked for.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub tokens: usize,
    pub texts: usize,
}

/// The results of a batch.
pub struct Vectors {
    /// Values of each text.
    pub columns: usize,
    /// `[texts, columns]`.
    pub values: Vec<f32>,
    /// `[layers + 1, tokens of all texts, hidden]`, if asked for.
    pub hidden: Option<Vec<f32>>,
}

/// A block's buffers.
#[derive(Default)]
struct Work {
    /// The input of a product, rounded.
    rounded: Int8Rows,
    /// The input of `down`: as floats, and rounded.
    inner: Vec<f32>,
    inner_int8: Int8Rows,
}

/// A token and its position in its text.
type Place = (u32, u32);

/// Texts that pass through the layers together.
struct Pass {
    /// Tokens of each text, counted in the pass.
    texts: Vec<Range<usize>>,
    places: Vec<Place>,
}

impl Encoder {
    /// Encodes a batch. `hidden` asks for the hidden states behind the embeddings and each layer.
    pub fn encode(&mut self, texts: &[Vec<u32>], hidden: bool) -> Result<Vectors, EngineError> {
        check_texts(texts, self.limits, self.config.n_vocab)?;
        let (columns, d) = (self.config.n_out(), self.config.n_embd);
        let total: usize = texts.iter().map(Vec::len).sum();
        let layers = self.config.n_layers + 1;
        let mut states = hidden.then(|| vec![0.0; layers * total * d]);
        let mut values = vec![0.0; texts.len() * columns];
        let (mut text, mut token) = (0, 0);
        for pass in self.passes(texts) {
            let n = pass.texts.len();
            let mut keep = |layer: usize, x: &[f32]| {
                if let Some(states) = &mut states {
                    states[(layer * total + token) * d..][..x.len()].copy_from_slice(x);
                }
            };
            with_cpu!(self.arithmetic.isa, cpu => {
                self.forward(cpu, &pass, &mut keep);
                self.results(cpu, &pass, &mut values[text * columns..(text + n) * columns]);
            });
            (text, token) = (text + n, token + pass.places.len());
        }
        if let Some(text) = values.chunks_exact(columns).position(|row| !all_finite(row)) {
            return Err(self.why_not_finite(text));
        }
        Ok(Vectors { columns, values, hidden: states })
    }

    fn why_not_finite(&self, text: usize) -> EngineError {
        weights::first_not_finite(&self.path, &self.config).unwrap_or_else(|| {
            let what = format!(
                "the result of text {text} is not finite, and every weight is: the values overflow"
            );
            bad_model(&self.path, what)
        })
    }

    /// Makes room for the largest pass.
    fn reserve(&mut self) {
        let Limits { tokens, texts } = self.limits;
        let most = tokens.saturating_mul(texts).min(self.pass_tokens()).max(tokens);
        let d = self.config.n_embd;
        self.x = vec![0.0; most * d];
        self.qkv = vec![0.0; 3 * most * d];
    }

    /// Tokens of a pass, unless one text has more.
    fn pass_tokens(&self) -> usize {
        PASS_TOKENS * self.pool.threads()
    }

    /// Texts in their order, as many in each pass as its tokens allow.
    fn passes(&self, texts: &[Vec<u32>]) -> Vec<Pass> {
        let most = self.pass_tokens();
        let mut passes: Vec<Pass> = Vec::new();
        for text in texts {
            let full = |pass: &Pass| pass.places.len() + text.len() > most;
            if passes.last().is_none_or(full) {
                passes.push(Pass { texts: Vec::new(), places: Vec::new() });
            }
            if let Some(pass) = passes.last_mut() {
                let first = pass.places.len();
                pass.texts.push(first..first + text.len());
                pass.places.extend(text.iter().copied().zip(0..));
            }
        }
        passes
    }

    /// Runs a pass; `keep` gets the residuals behind the embeddings and each layer.
    fn forward<C: Cpu>(&mut self, cpu: C, pass: &Pass, keep: &mut dyn FnMut(usize, &[f32])) {
        let d = self.config.n_embd;
        let heads = Heads { count: self.config.n_heads, dim: self.config.head_dim };
        let m = pass.places.len();
        let (x, qkv) = (&mut self.x[..m * d], &mut self.qkv[..3 * m * d]);
        let (weights, eps) = (&self.weights, self.config.norm_eps as f32);
        let (pool, idle) = (&mut self.pool, &self.idle);
        let threads = pool.threads();
        for layer in 0..=weights.layers.len() {
            let step =
                |team: &mut Team<'_>, tokens: Range<usize>, x: &mut [f32], qkv: &mut [f32]| {
                    // The guard ends here: a block computes without it.
                    let work = idle.lock().unwrap().pop();
                    let mut work = work.unwrap_or_default();
                    match layer.checked_sub(1) {
                        None => embed(cpu, team, weights, &pass.places[tokens], x, eps),
                        Some(before) => work.behind(cpu, team, weights, before, x, qkv, eps),
                    }
                    if let Some(layer) = weights.layers.get(layer) {
                        work.project(cpu, team, &layer.qkv, x, qkv);
                    }
                    idle.lock().unwrap().push(work);
                };
            if m < threads * MIN_BLOCK {
                step(&mut Team::All(pool), 0..m, x, qkv);
            } else {
                let blocks = m.div_ceil(BLOCK_TOKENS).next_multiple_of(threads);
                let size = m.div_ceil(blocks).next_multiple_of(2);
                let (xs, qkvs) = (Scatter::new(x), Scatter::new(qkv));
                pool.run(m.div_ceil(size), 1, |blocks| {
                    for block in blocks {
                        let tokens = block * size..m.min((block + 1) * size);
                        let of = |n: usize| tokens.start * n..tokens.end * n;
                        // SAFETY: each block has its own tokens.
                        let (x, qkv) = unsafe { (xs.get(of(d)), qkvs.get(of(3 * d))) };
                        step(&mut Team::One, tokens.clone(), x, qkv);
                    }
                });
            }
            keep(layer, x);
            if layer < weights.layers.len() {
                attend(cpu, pool, heads, &pass.texts, qkv);
            }
        }
    }

    /// The vectors or logits of a pass's texts.
    fn results<C: Cpu>(&mut self, cpu: C, pass: &Pass, out: &mut [f32]) {
        let d = self.config.n_embd;
        let (x, n) = (&self.x, pass.texts.len());
        let row = |t: usize| &x[t * d..][..d];
        match &self.config.output {
            BertOutput::Vector(pooling) => {
                let pool = |text: &Range<usize>, out: &mut [f32]| {
                    match pooling {
                        Pooling::Mean => {
                            out.fill(0.0);
                            for t in text.clone() {
                                out.iter_mut().zip(row(t)).for_each(|(out, x)| *out += x);
                            }
                            let inverse = 1.0 / text.len() as f32;
                            out.iter_mut().for_each(|out| *out *= inverse);
                        }
                        Pooling::Cls => out.copy_from_slice(row(text.start)),
                        Pooling::Last => out.copy_from_slice(row(text.end - 1)),
                    }
                    let squares: f64 = out.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
                    let inverse = 1.0 / squares.sqrt().max(1e-12);
                    out.iter_mut().for_each(|x| *x = (f64::from(*x) * inverse) as f32);
                };
                let out = Scatter::new(out);
                self.pool.run(n, 1, |texts| {
                    for i in texts {
                        // SAFETY: each text has its own row.
                        let out = unsafe { out.get(i * d..(i + 1) * d) };
                        cpu.run(|| pool(&pass.texts[i], out));
                    }
                });
            }
            BertOutput::Classes(classes) => {
                let Some([first, second]) = &self.weights.classifier else {
                    unreachable!("the file has the matrices that its configuration implies")
                };
                let mut cls = Vec::with_capacity(n * d);
                pass.texts.iter().for_each(|text| cls.extend_from_slice(row(text.start)));
                let mut inner = vec![0.0; n * d];
                let mut work = self.idle.lock().unwrap().pop().unwrap_or_default();
                let team = &mut Team::All(&mut self.pool);
                work.product(cpu, team, first, (&cls, d), &mut inner, |sum| {
                    match classes.activation {
                        Activation::Tanh => sum.tanh(),
                        // Not a maximum, which would hide a NaN.
                        Activation::Relu if sum < 0.0 => 0.0,
                        Activation::Relu => sum,
                    }
                });
                work.product(cpu, team, second, (&inner, d), out, |sum| sum);
                self.idle.lock().unwrap().push(work);
            }
        }
    }

    /// Bytes of all buffers.
    pub fn activation_bytes(&self) -> usize {
        let idle = self.idle.lock().unwrap();
        size_of_val(&self.x[..])
            + size_of_val(&self.qkv[..])
            + idle.iter().map(Work::bytes).sum::<usize>()
    }

    /// How many of those bytes are in memory now.
    pub fn activation_bytes_in_memory(&self) -> Option<u64> {
        let idle = self.idle.lock().unwrap();
        let work = idle.iter().map(Work::bytes_in_memory).sum::<Option<u64>>()?;
        Some(bytes_in_memory(&self.x)? + bytes_in_memory(&self.qkv)? + work)
    }
}

/// Refuses what is no batch of texts for an encoder of these limits and this vocabulary.
pub fn check_texts(texts: &[Vec<u32>], limits: Limits, n_vocab: usize) -> Result<(), EngineError> {
    let Limits { tokens, texts: most } = limits;
    if texts.is_empty() || texts.len() > most {
        let found = texts.len();
        return Err(internal(format!("expected 1 to {most} texts (batch), found {found}")));
    }
    for (i, text) in texts.iter().enumerate() {
        if text.is_empty() || text.len() > tokens {
            let found = text.len();
            return Err(internal(format!(
                "text {i}: expected 1 to {tokens} tokens (n_ctx), found {found}"
            )));
        }
        if let Some(id) = text.iter().find(|&&id| id as usize >= n_vocab) {
            return Err(internal(format!(
                "text {i}: token {id} is outside the vocabulary of {n_vocab}"
            )));
        }
    }
    Ok(())
}

/// `x[t]` = the norm of the embedding of token `t`.
fn embed<C: Cpu>(
    cpu: C,
    team: &mut Team<'_>,
    weights: &Weights,
    places: &[Place],
    x: &mut [f32],
    eps: f32,
) {
    let d = x.len() / places.len();
    let x = Scatter::new(x);
    team.each(places.len(), None, |tokens| {
        for t in tokens {
            let (token, position) = places[t];
            // SAFETY: each piece of work has its own tokens.
            let row = unsafe { x.get(t * d..(t + 1) * d) };
            weights.embedding.dequantize_row(token as usize, row);
            let position = &weights.positions[position as usize * d..][..d];
            row.iter_mut().zip(position).for_each(|(x, p)| *x += p);
            let Norm { weight, bias } = &weights.embedding_norm;
            cpu.run(|| layer_norm(row, weight, bias, eps));
        }
    });
}

/// Norms each row of `x`.
fn norm<C: Cpu>(cpu: C, team: &mut Team<'_>, norm: &Norm, x: &mut [f32], eps: f32) {
    let d = norm.weight.len();
    let m = x.len() / d;
    let x = Scatter::new(x);
    team.each(m, None, |tokens| {
        // SAFETY: each piece of work has its own tokens.
        let rows = unsafe { x.get(tokens.start * d..tokens.end * d) };
        cpu.run(|| {
            for row in rows.chunks_exact_mut(d) {
                layer_norm(row, &norm.weight, &norm.bias, eps);
            }
        });
    });
}

impl Work {
    /// The input of `linear`: the first values of each row of `x`, rounded if it needs them rounded.
    fn input<'a, C: Cpu>(
        rounded: &'a mut Int8Rows,
        cpu: C,
        team: &mut Team<'_>,
        linear: &Linear,
        (x, stride): (&'a [f32], usize),
    ) -> Input<'a> {
        if linear.is_int8() {
            let shape = (x.len() / stride, linear.columns());
            round_rows(cpu, team, (x, stride), shape, rounded);
        }
        Input { floats: x, stride, int8: rounded }
    }

    /// The queries, keys and values of `x`.
    fn project<C: Cpu>(
        &mut self,
        cpu: C,
        team: &mut Team<'_>,
        linear: &Linear,
        x: &[f32],
        qkv: &mut [f32],
    ) {
        let d = linear.columns();
        self.product(cpu, team, linear, (x, d), qkv, |sum| sum);
    }

    /// `out[t] = f(linear · x[t])`.
    fn product<C: Cpu>(
        &mut self,
        cpu: C,
        team: &mut Team<'_>,
        linear: &Linear,
        (x, stride): (&[f32], usize),
        out: &mut [f32],
        f: impl Fn(f32) -> f32 + Sync,
    ) {
        let m = x.len() / stride;
        let rows = out.len() / m;
        let x = Self::input(&mut self.rounded, cpu, team, linear, (x, stride));
        let out = Scatter::new(out);
        linear.multiply(cpu, team, m, x, |t, first, values| {
            let at = t * rows + first;
            // SAFETY: a token and a row have one product.
            let out = unsafe { out.get(at..at + values.len()) };
            cpu.run(|| out.iter_mut().zip(values).for_each(|(out, sum)| *out = f(*sum)));
        });
    }

    /// `out[t] += linear · x`.
    fn add<C: Cpu>(
        cpu: C,
        team: &mut Team<'_>,
        linear: &Linear,
        (x, m): (Input<'_>, usize),
        out: &mut [f32],
    ) {
        let rows = out.len() / m;
        let out = Scatter::new(out);
        linear.multiply(cpu, team, m, x, |t, first, values| {
            let at = t * rows + first;
            // SAFETY: a token and a row have one product.
            let out = unsafe { out.get(at..at + values.len()) };
            cpu.run(|| out.iter_mut().zip(values).for_each(|(out, sum)| *out += *sum));
        });
    }

    /// What follows attention in layer `layer`; its results are in place of the queries.
    #[allow(clippy::too_many_arguments)] // one step of a layer, called once
    fn behind<C: Cpu>(
        &mut self,
        cpu: C,
        team: &mut Team<'_>,
        weights: &Weights,
        layer: usize,
        x: &mut [f32],
        qkv: &[f32],
        eps: f32,
    ) {
        let layer = &weights.layers[layer];
        let d = layer.up.columns();
        let ff = layer.down.columns();
        let m = x.len() / d;
        let input = Self::input(&mut self.rounded, cpu, team, &layer.attn_output, (qkv, 3 * d));
        Self::add(cpu, team, &layer.attn_output, (input, m), x);
        norm(cpu, team, &layer.attn_norm, x, eps);

        let input = Self::input(&mut self.rounded, cpu, team, &layer.up, (x, d));
        if layer.down.is_int8() {
            self.inner_int8.reserve(m, ff);
            let rounder = Rounder::new(&mut self.inner_int8, ff);
            layer.up.multiply(cpu, team, m, input, |t, first, values| {
                cpu.run(|| values.iter_mut().for_each(|x| *x = gelu(cpu, *x)));
                // SAFETY: a token and a row have one product.
                unsafe { rounder.round(cpu, t, first, values) };
            });
        } else {
            self.inner.resize(self.inner.len().max(m * ff), 0.0);
            let inner = Scatter::new(&mut self.inner);
            layer.up.multiply(cpu, team, m, input, |t, first, values| {
                let at = t * ff + first;
                // SAFETY: a token and a row have one product.
                let inner = unsafe { inner.get(at..at + values.len()) };
                cpu.run(|| {
                    inner.iter_mut().zip(values).for_each(|(out, x)| *out = gelu(cpu, *x));
                });
            });
        }
        let floats = if layer.down.is_int8() { &[][..] } else { &self.inner[..m * ff] };
        let input = Input { floats, stride: ff, int8: &self.inner_int8 };
        Self::add(cpu, team, &layer.down, (input, m), x);
        norm(cpu, team, &layer.output_norm, x, eps);
    }

    fn bytes(&self) -> usize {
        self.rounded.bytes() + size_of_val(&self.inner[..]) + self.inner_int8.bytes()
    }

    fn bytes_in_memory(&self) -> Option<u64> {
        Some(
            self.rounded.bytes_in_memory()?
                + bytes_in_memory(&self.inner)?
                + self.inner_int8.bytes_in_memory()?,
        )
    }
}
