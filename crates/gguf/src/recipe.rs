//! What a file's quantization is called: the recipe that it was made with, if its tensors bear that
//! out, and the types that rows fell back to, where they were no whole blocks of the recipe's type.

use std::collections::BTreeMap;

use super::{GgufFile, TensorInfo};

/// A recipe of llama.cpp (`llama_ftype`).
struct Recipe {
    number: u64,
    name: &'static str,
    /// The type of most matrices.
    base: &'static str,
    /// What `llama-quantize` takes for rows that are no whole blocks of `base`.
    instead: Option<&'static str>,
}

const fn plain(number: u64, name: &'static str) -> Recipe {
    Recipe { number, name, base: name, instead: None }
}

const fn mixed(number: u64, name: &'static str, base: &'static str, other: &'static str) -> Recipe {
    Recipe { number, name, base, instead: Some(other) }
}

const RECIPES: [Recipe; 16] = [
    plain(2, "Q4_0"),
    plain(3, "Q4_1"),
    plain(7, "Q8_0"),
    plain(8, "Q5_0"),
    plain(9, "Q5_1"),
    plain(25, "IQ4_NL"),
    mixed(10, "Q2_K", "Q2_K", "IQ4_NL"),
    mixed(21, "Q2_K_S", "Q2_K", "IQ4_NL"),
    mixed(11, "Q3_K_S", "Q3_K", "IQ4_NL"),
    mixed(12, "Q3_K_M", "Q3_K", "IQ4_NL"),
    mixed(13, "Q3_K_L", "Q3_K", "IQ4_NL"),
    mixed(14, "Q4_K_S", "Q4_K", "Q5_0"),
    mixed(15, "Q4_K_M", "Q4_K", "Q5_0"),
    mixed(16, "Q5_K_S", "Q5_K", "Q5_1"),
    mixed(17, "Q5_K_M", "Q5_K", "Q5_1"),
    mixed(18, "Q6_K", "Q6_K", "Q8_0"),
];

/// Weights in a block of the K-quants.
const K_BLOCK: usize = 256;

impl GgufFile {
    /// `F16`, `Q8_0`, `Q4_K_M`…: the recipe that the file names, if most bytes of its blocks agree,
    /// otherwise the type of most of these bytes. `Q4_K_M+Q5_0+Q8_0` where rows fell back: what
    /// follows the recipe is what they are stored in.
    pub fn quant_label(&self) -> String {
        let matrices = || self.tensors().iter().filter(|(_, info)| info.shape.len() > 1);
        let blocks = by_bytes(matrices().filter(|(n, _)| n.starts_with("blk.")).map(|(_, i)| i));
        let all = by_bytes(self.tensors().values());
        let Some(bulk) = blocks.first().or(all.first()) else { return "none".into() };
        let number = self.number("general.file_type");
        let Some(recipe) = RECIPES.iter().find(|r| Some(r.number) == number) else {
            return bulk.clone();
        };
        let broken = |info: &&TensorInfo| {
            let row = info.shape.last().copied().unwrap_or(0);
            recipe.instead.is_some() && row % K_BLOCK != 0 && info.dtype.block_size() < K_BLOCK
        };
        let fell = by_bytes(matrices().map(|(_, info)| info).filter(broken));
        if bulk == recipe.base || (!fell.is_empty() && recipe.instead == Some(bulk)) {
            return [&[recipe.name.to_owned()], &fell[..]].concat().join("+");
        }
        bulk.clone()
    }

    /// The label without the types that rows fell back to.
    pub fn recipe(&self) -> String {
        let label = self.quant_label();
        label.split('+').next().unwrap_or_default().to_owned()
    }
}

/// The types of tensors, those with the most bytes first.
fn by_bytes<'t>(tensors: impl Iterator<Item = &'t TensorInfo>) -> Vec<String> {
    let mut bytes = BTreeMap::new();
    for info in tensors {
        *bytes.entry(info.dtype.label()).or_insert(0) += info.bytes();
    }
    let mut types: Vec<_> = bytes.into_iter().collect();
    types.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    types.into_iter().map(|(label, _)| label.into_owned()).collect()
}
