//! A BERT in f64, written for clarity, and files of random weights.

use std::io::Write;

use candle_core::quantized::k_quants::{BlockQ4_0, BlockQ8_0, GgmlType};
use llm_bench_gguf::Pooling;
use llm_bench_gguf::write::{ALIGNMENT, TensorEntry, Value, entry, head};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::math::tests::erf;
use crate::weights::{Gguf, f32_bytes};

#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub layers: usize,
    pub hidden: usize,
    pub ff: usize,
    pub heads: usize,
    pub vocab: usize,
    pub context: usize,
}

/// Pooling, or a classifier of three labels with this activation.
#[derive(Debug, Clone, Copy)]
pub enum Output {
    Vector(Pooling),
    Classes(&'static str),
}

const EPS: f32 = 1e-12;
const LABELS: usize = 3;

/// A name with rows and columns; a name with a length and the mean of the values.
type NamedMatrix = (String, [usize; 2]);
type NamedVector = (String, usize, f32);

/// Names and shapes of the matrices, and of the vectors with their mean.
fn tensors(s: Shape, types: bool, output: Output) -> (Vec<NamedMatrix>, Vec<NamedVector>) {
    let d = s.hidden;
    let mut matrices = vec![
        ("token_embd.weight".to_string(), [s.vocab, d]),
        ("position_embd.weight".to_string(), [s.context, d]),
    ];
    matrices.extend(types.then(|| ("token_types.weight".to_string(), [2, d])));
    let mut vectors = Vec::new();
    let mut affine = |name: String, shape: [usize; 2]| {
        vectors.push((format!("{name}.bias"), shape[0], 0.0));
        matrices.push((format!("{name}.weight"), shape));
    };
    for i in 0..s.layers {
        for part in ["attn_q", "attn_k", "attn_v", "attn_output"] {
            affine(format!("blk.{i}.{part}"), [d, d]);
        }
        affine(format!("blk.{i}.ffn_up"), [s.ff, d]);
        affine(format!("blk.{i}.ffn_down"), [d, s.ff]);
    }
    if let Output::Classes(_) = output {
        affine("cls".into(), [d, d]);
        affine("cls.output".into(), [LABELS, d]);
    }
    let layers = (0..s.layers)
        .flat_map(|i| ["attn_output_norm", "layer_output_norm"].map(|n| format!("blk.{i}.{n}")));
    for name in layers.chain(["token_embd_norm".to_string()]) {
        vectors.push((format!("{name}.weight"), d, 1.0));
        vectors.push((format!("{name}.bias"), d, 0.0));
    }
    (matrices, vectors)
}

/// Values in a `ggml_type`.
fn stored(values: &[f32], dtype: u32) -> Vec<u8> {
    fn blocks<T: GgmlType>(values: &[f32]) -> Vec<u8> {
        let mut blocks: Vec<T> = (0..values.len() / T::BLCK_SIZE).map(|_| T::zeros()).collect();
        T::from_float(values, &mut blocks);
        let len = size_of_val(&blocks[..]);
        // SAFETY: blocks are plain bytes.
        unsafe { std::slice::from_raw_parts(blocks.as_ptr().cast::<u8>(), len) }.to_vec()
    }
    match dtype {
        0 => f32_bytes(values).to_vec(),
        1 => values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
        30 => values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
        2 => blocks::<BlockQ4_0>(values),
        8 => blocks::<BlockQ8_0>(values),
        other => panic!("type {other}"),
    }
}

/// Writes a file of random weights, its matrices in this type.
pub fn write(s: Shape, dtype: u32, types: bool, output: Output) -> tempfile::NamedTempFile {
    let mut metadata = Vec::new();
    let mut entries = 0;
    let mut add = |key: &str, value: Value| {
        entry(&mut metadata, key, &value);
        entries += 1;
    };
    add("general.architecture", "bert".into());
    for (key, value) in [
        ("block_count", s.layers),
        ("embedding_length", s.hidden),
        ("feed_forward_length", s.ff),
        ("attention.head_count", s.heads),
        ("context_length", s.context),
    ] {
        add(&format!("bert.{key}"), Value::U32(value as u32));
    }
    add("bert.attention.layer_norm_epsilon", Value::F32(EPS));
    match output {
        Output::Vector(pooling) => add("bert.pooling_type", Value::U32(pooling as u32)),
        Output::Classes(name) => add("llm_bench.classifier_activation", name.into()),
    }
    let mut rng = StdRng::seed_from_u64(7);
    let (matrices, vectors) = tensors(s, types, output);
    let mut data: Vec<(String, Vec<u64>, u32, Vec<u8>)> = Vec::new();
    for (name, [rows, columns]) in matrices {
        let scale = 2.0 / (columns as f32).sqrt();
        let values: Vec<f32> =
            (0..rows * columns).map(|_| rng.random_range(-scale..scale)).collect();
        let float = name.starts_with("position") || name.starts_with("token_types");
        let dtype = if float { 0 } else { dtype };
        data.push((name, vec![columns as u64, rows as u64], dtype, stored(&values, dtype)));
    }
    for (name, n, mean) in vectors {
        let values: Vec<f32> = (0..n).map(|_| mean + rng.random_range(-0.3..0.3)).collect();
        data.push((name, vec![n as u64], 0, stored(&values, 0)));
    }
    let mut at = 0;
    let tensors: Vec<TensorEntry<'_>> = data
        .iter()
        .map(|(name, dims, ty, bytes)| {
            let offset = at;
            at += (bytes.len() as u64).next_multiple_of(ALIGNMENT);
            TensorEntry { name, dims, ty: *ty, offset }
        })
        .collect();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&head(entries, &metadata, &tensors, ALIGNMENT)).unwrap();
    for (_, _, _, bytes) in &data {
        file.write_all(bytes).unwrap();
        let padding = bytes.len().next_multiple_of(ALIGNMENT as usize) - bytes.len();
        file.write_all(&vec![0; padding]).unwrap();
    }
    file.flush().unwrap();
    file
}

/// The weights of a file in f64.
pub struct Model {
    shape: Shape,
    types: bool,
    output: Output,
    gguf: Gguf,
}

impl Model {
    pub fn read(path: &str, shape: Shape, types: bool, output: Output) -> Self {
        Self { shape, types, output, gguf: Gguf::open(path).unwrap() }
    }

    fn matrix(&self, name: &str, rows: usize, columns: usize) -> Vec<Vec<f64>> {
        let matrix = self.gguf.matrix(&format!("{name}.weight"), rows, columns).unwrap();
        let mut row = vec![0.0; columns];
        let widen = |r| {
            matrix.dequantize_row(r, &mut row);
            row.iter().map(|&x| f64::from(x)).collect()
        };
        (0..rows).map(widen).collect()
    }

    fn vector(&self, name: &str, n: usize) -> Vec<f64> {
        self.gguf.vector(name, n).unwrap().into_iter().map(f64::from).collect()
    }

    /// `x · weightᵀ + bias`, row by row.
    fn linear(&self, name: &str, x: &[Vec<f64>], rows: usize) -> Vec<Vec<f64>> {
        let weight = self.matrix(name, rows, x[0].len());
        let bias = self.vector(&format!("{name}.bias"), rows);
        let value = |x: &[f64], r: usize| bias[r] + dot(x, &weight[r]);
        x.iter().map(|x| (0..rows).map(|r| value(x, r)).collect()).collect()
    }

    fn norm(&self, name: &str, x: &mut [Vec<f64>]) {
        let n = x[0].len();
        let weight = self.vector(&format!("{name}.weight"), n);
        let bias = self.vector(&format!("{name}.bias"), n);
        for x in x {
            let mean = x.iter().sum::<f64>() / n as f64;
            let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
            let deviation = (variance + f64::from(EPS)).sqrt();
            for i in 0..n {
                x[i] = (x[i] - mean) / deviation * weight[i] + bias[i];
            }
        }
    }

    /// The results, text by text, and the hidden states, `[layers + 1, tokens, hidden]`.
    pub fn encode(&self, texts: &[Vec<u32>]) -> (Vec<f64>, Vec<f64>) {
        let (mut results, mut states) = (Vec::new(), vec![Vec::new(); self.shape.layers + 1]);
        for text in texts {
            let hidden = self.hidden(text);
            for (all, hidden) in states.iter_mut().zip(&hidden) {
                all.extend(hidden.iter().flatten());
            }
            results.extend(self.result(&hidden[self.shape.layers]));
        }
        (results, states.concat())
    }

    fn hidden(&self, text: &[u32]) -> Vec<Vec<Vec<f64>>> {
        let s = self.shape;
        let (d, dim) = (s.hidden, s.hidden / s.heads);
        let tokens = self.matrix("token_embd", s.vocab, d);
        let positions = self.matrix("position_embd", s.context, d);
        let type_0 = match self.types {
            true => self.matrix("token_types", 2, d).swap_remove(0),
            false => vec![0.0; d],
        };
        let embedding = |(i, &id): (usize, &u32)| {
            (0..d).map(|c| tokens[id as usize][c] + positions[i][c] + type_0[c]).collect()
        };
        let mut x: Vec<Vec<f64>> = text.iter().enumerate().map(embedding).collect();
        self.norm("token_embd_norm", &mut x);
        let mut all = vec![x.clone()];
        for layer in 0..s.layers {
            let name = |part: &str| format!("blk.{layer}.{part}");
            let [q, k, v] =
                ["attn_q", "attn_k", "attn_v"].map(|part| self.linear(&name(part), &x, d));
            let mut mixed = vec![vec![0.0; d]; text.len()];
            for head in 0..s.heads {
                let of = head * dim..(head + 1) * dim;
                for (q, mixed) in q.iter().zip(&mut mixed) {
                    let score = |k: &Vec<f64>| dot(&q[of.clone()], &k[of.clone()]);
                    let scores: Vec<f64> =
                        k.iter().map(|k| (score(k) / (dim as f64).sqrt()).exp()).collect();
                    let sum: f64 = scores.iter().sum();
                    for (score, v) in scores.iter().zip(&v) {
                        for c in of.clone() {
                            mixed[c] += score / sum * v[c];
                        }
                    }
                }
            }
            add(&mut x, &self.linear(&name("attn_output"), &mixed, d));
            self.norm(&name("attn_output_norm"), &mut x);
            let mut inner = self.linear(&name("ffn_up"), &x, s.ff);
            for x in inner.iter_mut().flatten() {
                *x *= 0.5 * (1.0 + erf(*x / 2f64.sqrt()));
            }
            add(&mut x, &self.linear(&name("ffn_down"), &inner, d));
            self.norm(&name("layer_output_norm"), &mut x);
            all.push(x.clone());
        }
        all
    }

    fn result(&self, x: &[Vec<f64>]) -> Vec<f64> {
        let d = self.shape.hidden;
        let vector = match self.output {
            Output::Vector(Pooling::Mean) => {
                (0..d).map(|c| x.iter().map(|x| x[c]).sum::<f64>() / x.len() as f64).collect()
            }
            Output::Vector(Pooling::Cls) => x[0].clone(),
            Output::Vector(Pooling::Last) => x[x.len() - 1].clone(),
            Output::Classes(activation) => {
                let mut inner = self.linear("cls", &x[..1], d);
                for x in &mut inner[0] {
                    *x = if activation == "tanh" { x.tanh() } else { x.max(0.0) };
                }
                return self.linear("cls.output", &inner, LABELS).swap_remove(0);
            }
        };
        let length = dot(&vector, &vector).sqrt();
        vector.iter().map(|x| x / length).collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(x: &mut [Vec<f64>], y: &[Vec<f64>]) {
    for (x, y) in x.iter_mut().flatten().zip(y.iter().flatten()) {
        *x += y;
    }
}

/// The squared error over the squared reference.
pub fn nmse(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error: f64 = got.iter().zip(want).map(|(&g, w)| (f64::from(g) - w).powi(2)).sum();
    error / want.iter().map(|w| w * w).sum::<f64>()
}
