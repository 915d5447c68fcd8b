//! The weights of an encoder: matrices packed into panels, vectors as f32, the embedding in the
//! mapped file.

use llm_bench_gguf::{BertConfig, BertOutput};
use llm_bench_protocol::EngineError;

use super::panels::Panels;
use super::product::Linear;
use crate::kernels::with_cpu;
use crate::linear::Arithmetic;
use crate::pool::Pool;
use crate::weights::{Encoding, Gguf, Matrix, not_finite};

/// A layer norm.
pub struct Norm {
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

/// The weights of one layer.
pub struct Layer {
    /// Queries, keys and values.
    pub qkv: Linear,
    pub attn_output: Linear,
    pub attn_norm: Norm,
    pub up: Linear,
    pub down: Linear,
    pub output_norm: Norm,
}

/// All weights.
pub struct Weights {
    pub embedding: Matrix,
    /// For each position, what is added to a token's embedding: its position, and type 0.
    pub positions: Vec<f32>,
    pub embedding_norm: Norm,
    pub layers: Vec<Layer>,
    /// The two matrices of a classifier.
    pub classifier: Option<[Linear; 2]>,
    /// The types of the packed matrices in the file, in the order of their bytes there.
    pub encodings: Vec<Encoding>,
    /// Bytes of the packed matrices in the file.
    pub stored_bytes: usize,
}

/// Finds tensors and packs matrices, and counts their types.
struct Packer<'a> {
    gguf: &'a Gguf,
    arithmetic: Arithmetic,
    pool: &'a mut Pool,
    types: Vec<(Encoding, usize)>,
}

impl Packer<'_> {
    /// The matrices of these names, of `rows` × `columns` each, with their biases.
    fn linear(
        &mut self,
        names: &[String],
        rows: usize,
        columns: usize,
    ) -> Result<Linear, EngineError> {
        let mut parts = Vec::new();
        for name in names {
            let matrix = self.gguf.matrix(&format!("{name}.weight"), rows, columns)?;
            let bias = self.gguf.vector(&format!("{name}.bias"), rows)?;
            let (pool, arithmetic) = (&mut *self.pool, self.arithmetic);
            let panels = with_cpu!(arithmetic.isa, cpu => {
                Panels::pack(cpu, arithmetic, pool, &matrix)
            });
            // SAFETY: `load` opens files.
            unsafe { matrix.release() };
            match self.types.iter_mut().find(|(e, _)| *e == matrix.encoding()) {
                Some((_, bytes)) => *bytes += matrix.bytes(),
                None => self.types.push((matrix.encoding(), matrix.bytes())),
            }
            parts.push((panels, bias));
        }
        Ok(Linear::new(parts))
    }

    fn norm(&self, name: &str, n: usize) -> Result<Norm, EngineError> {
        let vector = |part: &str| self.gguf.vector(&format!("{name}.{part}"), n);
        Ok(Norm { weight: vector("weight")?, bias: vector("bias")? })
    }
}

impl Weights {
    /// Reads and packs everything; `positions` of the model will be used.
    pub fn load(
        gguf: &Gguf,
        config: &BertConfig,
        positions: usize,
        arithmetic: Arithmetic,
        pool: &mut Pool,
    ) -> Result<Self, EngineError> {
        let (d, ff) = (config.n_embd, config.n_ff);
        let embedding = gguf.matrix("token_embd.weight", config.n_vocab, d)?;
        let positions = Self::positions(gguf, config, positions)?;
        let mut packer = Packer { gguf, arithmetic, pool, types: Vec::new() };
        let embedding_norm = packer.norm("token_embd_norm", d)?;
        let mut layers = Vec::with_capacity(config.n_layers);
        for i in 0..config.n_layers {
            let name = |part: &str| format!("blk.{i}.{part}");
            layers.push(Layer {
                qkv: packer.linear(&["attn_q", "attn_k", "attn_v"].map(name), d, d)?,
                attn_output: packer.linear(&[name("attn_output")], d, d)?,
                attn_norm: packer.norm(&name("attn_output_norm"), d)?,
                up: packer.linear(&[name("ffn_up")], ff, d)?,
                down: packer.linear(&[name("ffn_down")], d, ff)?,
                output_norm: packer.norm(&name("layer_output_norm"), d)?,
            });
        }
        let classifier = match &config.output {
            BertOutput::Vector(_) => None,
            BertOutput::Classes(classes) => Some([
                packer.linear(&["cls".into()], d, d)?,
                packer.linear(&["cls.output".into()], classes.n_labels, d)?,
            ]),
        };
        let mut types = packer.types;
        types.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        let stored_bytes = types.iter().map(|(_, bytes)| bytes).sum();
        let encodings = types.into_iter().map(|(encoding, _)| encoding).collect();
        Ok(Self {
            embedding,
            positions,
            embedding_norm,
            layers,
            classifier,
            encodings,
            stored_bytes,
        })
    }

    fn positions(gguf: &Gguf, config: &BertConfig, n: usize) -> Result<Vec<f32>, EngineError> {
        let d = config.n_embd;
        let table = gguf.matrix("position_embd.weight", config.context_length, d)?;
        let mut type_0 = vec![0.0; d];
        if let Some(types) = config.n_types {
            let types = gguf.matrix("token_types.weight", types, d)?;
            types.dequantize_row(0, &mut type_0);
            // SAFETY: `load` opens files.
            unsafe { types.release() };
        }
        let mut all = vec![0.0; n * d];
        for (position, row) in all.chunks_exact_mut(d).enumerate() {
            table.dequantize_row(position, row);
            row.iter_mut().zip(&type_0).for_each(|(x, type_0)| *x += type_0);
        }
        // SAFETY: as above.
        unsafe { table.release() };
        Ok(all)
    }

    /// Bytes of the embedding, which stays in the file.
    pub fn mapped_bytes(&self) -> usize {
        self.embedding.bytes()
    }

    /// Bytes of everything else.
    pub fn private_bytes(&self) -> usize {
        let norm = |n: &Norm| size_of_val(&n.weight[..]) + size_of_val(&n.bias[..]);
        let layer = |l: &Layer| {
            [&l.qkv, &l.attn_output, &l.up, &l.down].map(Linear::bytes).iter().sum::<usize>()
                + norm(&l.attn_norm)
                + norm(&l.output_norm)
        };
        size_of_val(&self.positions[..])
            + norm(&self.embedding_norm)
            + self.layers.iter().map(layer).sum::<usize>()
            + self.classifier.iter().flatten().map(Linear::bytes).sum::<usize>()
    }
}

/// The error for a matrix with a weight that is no finite number, if the file has one. Reads the
/// whole file.
pub fn first_not_finite(path: &str, config: &BertConfig) -> Option<EngineError> {
    let gguf = Gguf::open(path).ok()?;
    config.shapes().iter().find_map(|(name, shape)| {
        let &[rows, columns] = &shape[..] else { return None };
        let (index, value) = gguf.matrix(name, rows, columns).ok()?.first_not_finite()?;
        Some(not_finite(path, name, index, value))
    })
}
