//! How a GGUF file stores a tensor: candle's types, and IQ4_NL, which candle's reader does not
//! know.

use candle_core::quantized::GgmlDType;

/// A tensor type that this crate reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredType {
    Candle(GgmlDType),
    /// Blocks of 32: a scale as f16, then 32 four-bit indices into a table of 16 values.
    Iq4Nl,
}

impl StoredType {
    /// `ggml_type` of IQ4_NL.
    pub(super) const IQ4_NL: u32 = 20;

    /// The supported type numbers: F32 to Q8_K, BF16 and IQ4_NL.
    pub(super) fn is_known(number: u32) -> bool {
        matches!(number, 0..=3 | 6..=15 | 30 | Self::IQ4_NL)
    }

    /// Weights in one block; a row is a whole number of blocks.
    pub fn block_size(self) -> usize {
        match self {
            Self::Candle(dtype) => dtype.block_size(),
            Self::Iq4Nl => 32,
        }
    }

    pub fn block_bytes(self) -> usize {
        match self {
            Self::Candle(dtype) => dtype.type_size(),
            Self::Iq4Nl => 2 + 16,
        }
    }

    /// The type's name in GGUF tools.
    pub fn label(self) -> &'static str {
        let dtype = match self {
            Self::Candle(dtype) => dtype,
            Self::Iq4Nl => return "IQ4_NL",
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
