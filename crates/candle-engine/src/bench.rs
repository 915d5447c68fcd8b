//! Runs the engine's kernels one at a time, for `benches/kernels.rs`: products with matrices too
//! large for any cache, and attention over a filled cache.

use std::sync::Arc;

use memmap2::MmapMut;
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::attention::{Block, CacheShape, KvCache, KvType, Place, Projected};
use crate::kernels::Isa;
use crate::linear::{Arithmetic, Multiplier};
use crate::pool::Pool;
use crate::weights::{Encoding, Matrix};

/// A set of kernels that this machine supports.
#[derive(Debug, Clone, Copy)]
pub struct Kernels(Isa);

impl Kernels {
    /// The set of this name, or the best one without a name. The error lists the available sets.
    pub fn named(name: Option<&str>) -> Result<Self, String> {
        name.map_or_else(|| Ok(Isa::detect()), Isa::named).map(Self)
    }

    /// The names of all sets, the best first.
    pub fn names() -> Vec<&'static str> {
        Isa::all().into_iter().map(Isa::name).collect()
    }

    /// Its name in `llm-bench`.
    pub fn name(self) -> &'static str {
        self.0.name()
    }
}

/// Products of `tokens` activations with several matrices of one shape, one after the other.
pub struct Products {
    pool: Pool,
    multiplier: Multiplier,
    matrices: Vec<Matrix>,
    x: Vec<f32>,
    out: Vec<f32>,
}

impl Products {
    /// `n` matrices of `rows` × `columns`, encoded as `encoding` (a GGUF name such as `q4_k`).
    ///
    /// # Panics
    /// If the encoding is not known or memory is short.
    pub fn new(
        kernels: Kernels,
        encoding: &str,
        [rows, columns]: [usize; 2],
        n: usize,
        tokens: usize,
        threads: usize,
    ) -> Self {
        let at = Encoding::NAMES.iter().position(|name| *name == encoding);
        let encoding = Encoding::ALL[at.expect("a known encoding")];
        let bytes = rows * encoding.row_bytes(columns);
        let mut map = MmapMut::map_anon(bytes * n).expect("memory for the matrices");
        // Uses large pages, like the measurement of the ceiling.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        // Any bytes of a block can be read as numbers. Bytes below 0x38 keep f16 scales finite, and
        // bytes from 0x30 on keep floats out of the subnormal range, in which some processors are
        // slow.
        let mut rng = StdRng::seed_from_u64(1);
        let low = if encoding.name().ends_with("16") { 0x30 } else { 0 };
        map.iter_mut().for_each(|b| *b = rng.random_range(low..0x38));
        let map = Arc::new(map.make_read_only().expect("an anonymous map can be sealed"));
        let matrices = (0..n)
            .map(|i| Matrix::in_map(&map, i * bytes..(i + 1) * bytes, encoding, rows, columns))
            .collect();
        Self {
            pool: Pool::new(threads).expect("threads"),
            multiplier: Multiplier::new(Arithmetic::new(kernels.0)),
            matrices,
            x: (0..tokens * columns).map(|_| rng.random_range(-1.0..1.0)).collect(),
            out: vec![0.0; tokens * rows],
        }
    }

    /// Computes all products once.
    pub fn run(&mut self) {
        for matrix in &self.matrices {
            self.multiplier.multiply(&mut self.pool, &[matrix], &self.x, &mut self.out, false);
        }
    }

    /// Bytes of the matrices.
    pub fn bytes(&self) -> usize {
        self.matrices.iter().map(Matrix::bytes).sum()
    }

    /// Multiply-adds of `run`.
    pub fn macs(&self) -> usize {
        self.matrices.len() * self.out.len() * self.matrices[0].columns()
    }
}

/// Attention of LLaMA 3.2 1B's shape, 32 heads of 64 over 8 key/value heads, in 16 layers.
pub struct Attention {
    kernels: Kernels,
    pool: Pool,
    cache: KvCache,
    rows: Vec<f32>,
    out: Vec<f32>,
    angles: Vec<(f32, f32)>,
    depth: usize,
}

const LAYERS: usize = 16;
const HEADS: usize = 32;
const KV_HEADS: usize = 8;
const HEAD_DIM: usize = 64;
const STRIDE: usize = (HEADS + 2 * KV_HEADS) * HEAD_DIM;

impl Attention {
    /// Attention of `tokens` that follow `depth` others.
    pub fn new(kernels: Kernels, depth: usize, tokens: usize, threads: usize) -> Self {
        let shape = CacheShape {
            sequences: 1,
            layers: LAYERS,
            kv_heads: KV_HEADS,
            head_dim: HEAD_DIM,
            n_ctx: depth + tokens,
        };
        let mut new = Self {
            kernels,
            pool: Pool::new(threads).expect("threads"),
            cache: KvCache::new(KvType::F16, shape),
            rows: (0..tokens * STRIDE).map(|i| (i * 37 % 101) as f32 * 0.01 - 0.5).collect(),
            out: vec![0.0; tokens * HEADS * HEAD_DIM],
            angles: vec![(1.0, 0.0); tokens * HEAD_DIM / 2],
            depth,
        };
        for first in (0..depth).step_by(tokens) {
            new.pass(first.min(depth - tokens.min(depth)));
        }
        new
    }

    fn pass(&mut self, first: usize) {
        let tokens = self.out.len() / (HEADS * HEAD_DIM);
        let mut blocks: Vec<Block> = Block::cut(0, first, 0..tokens).collect();
        Block::order(&mut blocks);
        for layer in 0..LAYERS {
            let place = Place { layer, blocks: &blocks, angles: &self.angles };
            let projected = Projected { values: &mut self.rows, stride: STRIDE, n_heads: HEADS };
            self.cache.attend(self.kernels.0, &mut self.pool, place, projected, &mut self.out);
        }
    }

    /// Runs all layers once.
    pub fn run(&mut self) {
        self.pass(self.depth);
    }

    /// Bytes of keys and values that one pass must read.
    pub fn bytes(&self) -> usize {
        LAYERS * KV_HEADS * HEAD_DIM * 2 * size_of::<u16>() * self.depth
    }

    /// Multiply-adds of `run`: scores and weighted values.
    pub fn macs(&self) -> usize {
        let m = self.out.len() / (HEADS * HEAD_DIM);
        let pairs: usize = (0..m).map(|t| self.depth + t + 1).sum();
        2 * LAYERS * HEADS * HEAD_DIM * pairs
    }
}
