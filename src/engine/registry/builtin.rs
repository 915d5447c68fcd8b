//! The engines inside this binary, which it starts as workers of its own.

use super::{EngineSpec, KnownDifference, Launcher, cpu_only};
use crate::device::DeviceKind;

const F32_SUMMARY: &str = "the same in plain float32: a slow reference for verify";

/// The engines inside this binary.
pub fn builtin() -> Vec<EngineSpec> {
    [
        (
            "candle",
            "our LLaMA on candle-core, weights straight from the mapped file",
            "",
            None,
            vec![DeviceKind::Cpu, DeviceKind::Cuda],
        ),
        ("candle-f32", F32_SUMMARY, "float32", None, cpu_only()),
        (
            "candle-stock",
            "candle-transformers' quantized_llama exactly as published",
            "",
            Some("it ignores rope_freqs.weight, LLaMA 3's rope scaling"),
            cpu_only(),
        ),
    ]
    .map(|(name, summary, switch, differs, devices): (_, _, _, Option<&str>, _)| EngineSpec {
        name: name.into(),
        family: "builtin".into(),
        summary: summary.into(),
        options: [switch].into_iter().filter(|s| !s.is_empty()).map(on).collect(),
        set: Default::default(),
        quants: Vec::new(),
        devices,
        known_differences: differs
            .map(|why| KnownDifference { why: why.into(), quants: Vec::new(), nmse: None })
            .into_iter()
            .collect(),
        reference: None,
        min_bits: if switch == "float32" { 32 } else { 0 },
        launcher: Launcher::Builtin,
    })
    .to_vec()
}

/// A switch of `load.options` that is on.
fn on(name: &str) -> (String, serde_json::Value) {
    (name.into(), true.into())
}
