//! The quantizations that llm-bench knows by name. Each is the recipe of a whole file, not the type
//! of one tensor.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How the weights of a GGUF file are stored, by llama.cpp's name for the recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[allow(non_camel_case_types)]
pub enum Quant {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4_K_M,
}

/// A name that is no known quantization.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("unknown quantization {0:?}; expected one of F32, F16, BF16, Q8_0, Q4_0, Q4_K_M")]
pub struct UnknownQuant(pub String);

impl Quant {
    /// All quantizations, the widest first.
    pub const ALL: [Quant; 6] =
        [Quant::F32, Quant::F16, Quant::BF16, Quant::Q8_0, Quant::Q4_0, Quant::Q4_K_M];

    /// Whether weights are single floating-point numbers, not blocks.
    pub fn is_float(self) -> bool {
        matches!(self, Quant::F32 | Quant::F16 | Quant::BF16)
    }

    /// The value of `general.file_type` (`llama_ftype` in llama.cpp's `llama.h`).
    pub fn file_type(self) -> u32 {
        match self {
            Quant::F32 => 0,
            Quant::F16 => 1,
            Quant::Q4_0 => 2,
            Quant::Q8_0 => 7,
            Quant::Q4_K_M => 15,
            Quant::BF16 => 32,
        }
    }

    /// The inverse of [`Quant::file_type`]; `None` for an unknown recipe.
    pub fn from_file_type(file_type: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|q| q.file_type() == file_type)
    }

    /// The name as it appears in file names: `Q4_K_M`.
    pub fn name(self) -> &'static str {
        match self {
            Quant::F32 => "F32",
            Quant::F16 => "F16",
            Quant::BF16 => "BF16",
            Quant::Q8_0 => "Q8_0",
            Quant::Q4_0 => "Q4_0",
            Quant::Q4_K_M => "Q4_K_M",
        }
    }
}

impl fmt::Display for Quant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Quant {
    type Err = UnknownQuant;

    /// Ignores case.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|q| q.name().eq_ignore_ascii_case(s))
            .ok_or_else(|| UnknownQuant(s.to_owned()))
    }
}

impl TryFrom<String> for Quant {
    type Error = UnknownQuant;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<Quant> for String {
    fn from(q: Quant) -> Self {
        q.name().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_any_case_and_printed_as_llama_cpp_does() {
        for quant in Quant::ALL {
            assert_eq!(quant.to_string().to_lowercase().parse(), Ok(quant));
            assert_eq!(Quant::from_file_type(quant.file_type()), Some(quant));
        }
        assert_eq!("q4_k_m".parse::<Quant>().unwrap().to_string(), "Q4_K_M");
    }

    #[test]
    fn a_typo_is_refused_with_the_names_that_exist() {
        let err = "Q4_1".parse::<Quant>().unwrap_err().to_string();
        assert!(err.contains("Q4_1") && err.contains("Q4_K_M"), "{err}");
    }
}
