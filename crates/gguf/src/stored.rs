//! How a GGUF file stores a tensor: candle's types, IQ4_NL, which candle's reader does not know, and
//! every other type of ggml by its name alone.

use std::borrow::Cow;

use candle_core::quantized::GgmlDType;

/// How a GGUF file stores a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredType {
    Candle(GgmlDType),
    /// Blocks of 32: a scale as f16, then 32 four-bit indices into a table of 16 values.
    Iq4Nl,
    /// Its layout is known, and no engine of ours computes with it.
    Named(&'static Layout),
    /// A number that ggml did not have when this was written.
    Unknown(u32),
}

/// The blocks of a type.
#[derive(Debug, PartialEq, Eq)]
pub struct Layout {
    number: u32,
    name: &'static str,
    weights: usize,
    bytes: usize,
}

/// A row of the table: number, name, weights and bytes of a block.
const fn layout(number: u32, name: &'static str, weights: usize, bytes: usize) -> Layout {
    Layout { number, name, weights, bytes }
}

/// The types of `ggml_type` in llama.cpp's `ggml.h`, and those that it once had, beside candle's.
static NAMED: [Layout; 27] = [
    layout(4, "Q4_2", 16, 10),
    layout(5, "Q4_3", 16, 12),
    layout(16, "IQ2_XXS", 256, 66),
    layout(17, "IQ2_XS", 256, 74),
    layout(18, "IQ3_XXS", 256, 98),
    layout(19, "IQ1_S", 256, 50),
    layout(21, "IQ3_S", 256, 110),
    layout(22, "IQ2_S", 256, 82),
    layout(23, "IQ4_XS", 256, 136),
    layout(24, "I8", 1, 1),
    layout(25, "I16", 1, 2),
    layout(26, "I32", 1, 4),
    layout(27, "I64", 1, 8),
    layout(28, "F64", 1, 8),
    layout(29, "IQ1_M", 256, 56),
    layout(31, "Q4_0_4_4", 32, 18),
    layout(32, "Q4_0_4_8", 32, 18),
    layout(33, "Q4_0_8_8", 32, 18),
    layout(34, "TQ1_0", 256, 54),
    layout(35, "TQ2_0", 256, 66),
    layout(36, "IQ4_NL_4_4", 32, 18),
    layout(37, "IQ4_NL_4_8", 32, 18),
    layout(38, "IQ4_NL_8_8", 32, 18),
    layout(39, "MXFP4", 32, 17),
    layout(40, "NVFP4", 64, 36),
    layout(41, "Q1_0", 128, 18),
    layout(42, "Q2_0", 64, 18),
];

impl StoredType {
    /// The type of a number in the tensor directory.
    pub fn of(number: u32) -> Self {
        use GgmlDType::*;
        let candle =
            [F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_1, Q2K, Q3K, Q4K, Q5K, Q6K, Q8K];
        let of_candle = candle.into_iter().map(Self::Candle);
        let ours = of_candle.chain([Self::Iq4Nl]).find(|t| t.number() == number);
        let named = || NAMED.iter().find(|layout| layout.number == number).map(Self::Named);
        ours.or_else(named).unwrap_or(Self::Unknown(number))
    }

    /// Its number in the tensor directory (`ggml_type`).
    pub fn number(self) -> u32 {
        let dtype = match self {
            Self::Candle(dtype) => dtype,
            Self::Iq4Nl => return 20,
            Self::Named(layout) => return layout.number,
            Self::Unknown(number) => return number,
        };
        match dtype {
            GgmlDType::F32 => 0,
            GgmlDType::F16 => 1,
            GgmlDType::Q4_0 => 2,
            GgmlDType::Q4_1 => 3,
            GgmlDType::Q5_0 => 6,
            GgmlDType::Q5_1 => 7,
            GgmlDType::Q8_0 => 8,
            GgmlDType::Q8_1 => 9,
            GgmlDType::Q2K => 10,
            GgmlDType::Q3K => 11,
            GgmlDType::Q4K => 12,
            GgmlDType::Q5K => 13,
            GgmlDType::Q6K => 14,
            GgmlDType::Q8K => 15,
            GgmlDType::BF16 => 30,
        }
    }

    /// Whether its blocks can become numbers here.
    pub fn is_computed(self) -> bool {
        matches!(self, Self::Candle(_) | Self::Iq4Nl)
    }

    /// Weights in one block; a row is a whole number of blocks.
    pub fn block_size(self) -> usize {
        match self {
            Self::Candle(dtype) => dtype.block_size(),
            Self::Iq4Nl => 32,
            Self::Named(layout) => layout.weights,
            Self::Unknown(_) => 1,
        }
    }

    /// Bytes of one block; 0 where nobody knows.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::Candle(dtype) => dtype.type_size(),
            Self::Iq4Nl => 2 + 16,
            Self::Named(layout) => layout.bytes,
            Self::Unknown(_) => 0,
        }
    }

    /// The name in GGUF tools.
    pub fn label(self) -> Cow<'static, str> {
        let dtype = match self {
            Self::Candle(dtype) => dtype,
            Self::Iq4Nl => return "IQ4_NL".into(),
            Self::Named(layout) => return layout.name.into(),
            Self::Unknown(number) => return format!("type {number}").into(),
        };
        match dtype {
            GgmlDType::F32 => "F32",
            GgmlDType::F16 => "F16",
            GgmlDType::BF16 => "BF16",
            GgmlDType::Q4_0 => "Q4_0",
            GgmlDType::Q4_1 => "Q4_1",
            GgmlDType::Q5_0 => "Q5_0",
            GgmlDType::Q5_1 => "Q5_1",
            GgmlDType::Q8_0 => "Q8_0",
            GgmlDType::Q8_1 => "Q8_1",
            GgmlDType::Q2K => "Q2_K",
            GgmlDType::Q3K => "Q3_K",
            GgmlDType::Q4K => "Q4_K",
            GgmlDType::Q5K => "Q5_K",
            GgmlDType::Q6K => "Q6_K",
            GgmlDType::Q8K => "Q8_K",
        }
        .into()
    }
}

/// An entry of the tensor directory.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    pub dtype: StoredType,
    /// Rows first.
    pub shape: Vec<usize>,
    /// From the start of the file, in bytes.
    pub offset: u64,
}

impl TensorInfo {
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product()
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        self.elements() / self.dtype.block_size() as u64 * self.dtype.block_bytes() as u64
    }
}
