//! Decides the storage type of each tensor in a file: llama.cpp's mixture for dense LLaMAs, by the
//! tensor's name and shape. Synthesis and quantization both use it; each fills the blocks in its
//! own way.

use super::quant::Quant;

/// The storage type of one tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types)]
pub enum TensorType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
}

impl TensorType {
    /// The number that a GGUF file carries (`ggml_type` in llama.cpp's `ggml.h`).
    pub fn id(self) -> u32 {
        match self {
            TensorType::F32 => 0,
            TensorType::F16 => 1,
            TensorType::Q4_0 => 2,
            TensorType::Q5_0 => 6,
            TensorType::Q5_1 => 7,
            TensorType::Q8_0 => 8,
            TensorType::Q4_K => 12,
            TensorType::Q5_K => 13,
            TensorType::Q6_K => 14,
            TensorType::BF16 => 30,
        }
    }

    /// Weights in one block; a row is a whole number of blocks.
    pub fn block_weights(self) -> u64 {
        match self {
            TensorType::F32 | TensorType::F16 | TensorType::BF16 => 1,
            TensorType::Q4_0 | TensorType::Q5_0 | TensorType::Q5_1 | TensorType::Q8_0 => 32,
            TensorType::Q4_K | TensorType::Q5_K | TensorType::Q6_K => 256,
        }
    }

    pub fn block_bytes(self) -> u64 {
        match self {
            TensorType::F32 => 4,
            TensorType::F16 | TensorType::BF16 => 2,
            TensorType::Q4_0 => 18,
            TensorType::Q5_0 => 22,
            TensorType::Q5_1 => 24,
            TensorType::Q8_0 => 34,
            TensorType::Q4_K => 144,
            TensorType::Q5_K => 176,
            TensorType::Q6_K => 210,
        }
    }

    /// Bytes of this many weights, a whole number of blocks.
    pub fn bytes_of(self, weights: u64) -> u64 {
        weights / self.block_weights() * self.block_bytes()
    }

    fn fits(self, row: u64) -> bool {
        row.is_multiple_of(self.block_weights())
    }
}

/// What the types in a file depend on, besides each tensor's own name and shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mixture {
    pub quant: Quant,
    pub n_layers: u32,
    /// Whether several query heads share one key and value head.
    pub grouped: bool,
    /// Whether the token embedding is also the output head.
    pub tied: bool,
}

impl Mixture {
    /// Of an encoder, which has no output head of its own.
    pub fn of_encoder(quant: Quant, n_layers: u32) -> Self {
        Self { quant, n_layers, grouped: false, tied: true }
    }

    /// The type of a matrix by its name alone, before checking that its rows are whole blocks.
    /// Source: `llama_tensor_get_type_impl` in llama.cpp's `llama-quant.cpp`.
    pub fn wanted(&self, name: &str) -> TensorType {
        let base = self.base();
        let is_head = name == "output.weight" || (self.tied && name == "token_embd.weight");
        if is_head {
            return match self.quant {
                Quant::Q4_0 | Quant::Q4_K_M => TensorType::Q6_K,
                _ => base,
            };
        }
        if self.quant != Quant::Q4_K_M {
            return base;
        }
        let part = name.rsplit('.').nth(1).unwrap_or_default();
        // llama.cpp takes this for "70B": eight query heads share one value matrix, which is small.
        let is_70b = self.n_layers == 80 && self.grouped;
        match part {
            "attn_v" | "ffn_down" if self.more_bits(layer_of(name)) => TensorType::Q6_K,
            "attn_v" if is_70b => TensorType::Q5_K,
            _ => base,
        }
    }

    /// The type of a matrix whose rows have `row` weights: the wanted one, or the fallback of
    /// `llama-quantize` if rows are not whole blocks.
    pub fn fitting(&self, name: &str, row: u64) -> TensorType {
        let wanted = self.wanted(name);
        if wanted.fits(row) {
            return wanted;
        }
        let smaller_blocks = match wanted {
            TensorType::Q4_K => TensorType::Q5_0,
            TensorType::Q5_K => TensorType::Q5_1,
            TensorType::Q6_K => TensorType::Q8_0,
            other => other,
        };
        if smaller_blocks.fits(row) { smaller_blocks } else { TensorType::F16 }
    }

    /// The type that the recipe is named after.
    fn base(&self) -> TensorType {
        match self.quant {
            Quant::F32 => TensorType::F32,
            Quant::F16 => TensorType::F16,
            Quant::BF16 => TensorType::BF16,
            Quant::Q8_0 => TensorType::Q8_0,
            Quant::Q4_0 => TensorType::Q4_0,
            Quant::Q4_K_M => TensorType::Q4_K,
        }
    }

    /// Whether a layer is in the first or last eighth, or every third of those between.
    fn more_bits(&self, layer: Option<u32>) -> bool {
        let n = self.n_layers;
        layer.is_some_and(|i| i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2)
    }
}

/// An encoder adds rows of these to the token's, and `llama-quantize` keeps them as they are.
const ADDED: [&str; 2] = ["position_embd.weight", "token_types.weight"];

/// Whether a recipe changes this tensor at all: it changes weight matrices, but not norms, biases,
/// one-dimensional tables, positions or segments. `dims` starts with the row length, as in GGUF.
pub fn is_matrix(name: &str, dims: &[u64]) -> bool {
    let more_than_a_row = dims.iter().skip(1).any(|&d| d > 1);
    let is_weight = name.ends_with("weight") && !name.ends_with("_norm.weight");
    more_than_a_row && is_weight && !ADDED.contains(&name)
}

/// The order in which `llama-quantize` writes tensors: first those outside the layers, then layer
/// by layer, each sorted by name.
pub fn file_order(name: &str) -> (Option<u32>, String) {
    (layer_of(name), name.to_owned())
}

fn layer_of(name: &str) -> Option<u32> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mixture(quant: Quant, n_layers: u32) -> Mixture {
        Mixture { quant, n_layers, grouped: true, tied: true }
    }

    #[test]
    fn rows_that_are_no_whole_blocks_get_the_next_type_of_llama_quantize() {
        let m = mixture(Quant::Q4_K_M, 3);
        assert_eq!(m.fitting("blk.0.ffn_up.weight", 128), TensorType::Q5_0);
        assert_eq!(m.fitting("blk.2.attn_v.weight", 128), TensorType::Q8_0);
        assert_eq!(m.fitting("blk.0.ffn_down.weight", 256), TensorType::Q4_K);
        assert_eq!(m.fitting("blk.2.ffn_down.weight", 256), TensorType::Q6_K);
        assert_eq!(m.fitting("token_embd.weight", 100), TensorType::F16);
        let values = Mixture { n_layers: 80, ..m };
        assert_eq!(values.fitting("blk.10.attn_v.weight", 96), TensorType::Q5_1);
        assert_eq!(mixture(Quant::Q4_0, 3).fitting("blk.0.ffn_up.weight", 48), TensorType::F16);
    }

    #[test]
    fn a_file_whose_head_stands_alone_keeps_its_embedding_small() {
        let m = Mixture { tied: false, ..mixture(Quant::Q4_0, 16) };
        assert_eq!(m.wanted("token_embd.weight"), TensorType::Q4_0);
        assert_eq!(m.wanted("output.weight"), TensorType::Q6_K);
        assert_eq!(mixture(Quant::Q4_0, 16).wanted("token_embd.weight"), TensorType::Q6_K);
        assert_eq!(mixture(Quant::Q8_0, 16).wanted("token_embd.weight"), TensorType::Q8_0);
    }

    #[test]
    fn norms_and_single_rows_are_left_as_they_are() {
        assert!(!is_matrix("blk.0.attn_norm.weight", &[64, 2]));
        assert!(!is_matrix("rope_freqs.weight", &[32]));
        assert!(!is_matrix("rope_freqs.weight", &[32, 1]));
        assert!(!is_matrix("blk.0.attn_q.bias", &[64, 64]));
        assert!(!is_matrix("position_embd.weight", &[64, 512]));
        assert!(!is_matrix("token_types.weight", &[64, 2]));
        assert!(is_matrix("cls.output.weight", &[64, 2]));
        assert!(is_matrix("blk.0.attn_q.weight", &[64, 64]));
    }
}
