//! The output of `llm-bench models inspect FILE`: the header as data, with a plain-text form.

use std::collections::BTreeMap;
use std::fmt;

use candle_core::quantized::gguf_file::Value;
use serde::Serialize;

use super::{BertConfig, BertOutput, GgufFile, LlamaConfig, ModelConfig};
use llm_bench_units::Bytes;

/// A summary of a file's header.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    pub file: String,
    pub name: String,
    pub quant: String,
    pub synthetic: bool,
    pub size_bytes: u64,
    pub n_params: u64,
    pub weight_bytes_per_token: u64,
    /// Absent if the file is no complete model; `problem` says why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<ModelConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Keys of the architecture that llm-bench does not know, so that nobody can say whether they
    /// change what the model computes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown_keys: Vec<String>,
    /// Every key, sorted; long values are shortened.
    pub metadata: Vec<KeyValue>,
    /// One row per tensor type, the largest first.
    pub tensors: Vec<TypeRow>,
}

/// One metadata entry as text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KeyValue {
    pub key: String,
    pub value: String,
}

/// The tensors of one type.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TypeRow {
    #[serde(rename = "type")]
    pub dtype: String,
    pub count: u64,
    pub elements: u64,
    pub bytes: u64,
}

impl GgufFile {
    /// Summarizes the header.
    pub fn inspect(&self) -> Inspection {
        let (config, problem) = match self.model_config() {
            Ok(config) => (Some(config), None),
            Err(e) => (None, Some(e.to_string())),
        };
        let mut metadata: Vec<_> = self
            .metadata()
            .iter()
            .map(|(key, value)| KeyValue {
                key: key.escape_debug().to_string(),
                value: shown(value),
            })
            .collect();
        metadata.sort_by(|a, b| a.key.cmp(&b.key));
        let mut types = BTreeMap::<String, TypeRow>::new();
        for info in self.tensors().values() {
            let label = info.dtype.label();
            let row = types.entry(label.to_string()).or_insert_with(|| TypeRow {
                dtype: label.into_owned(),
                count: 0,
                elements: 0,
                bytes: 0,
            });
            row.count += 1;
            row.elements += info.elements();
            row.bytes += info.bytes();
        }
        let mut tensors: Vec<_> = types.into_values().collect();
        tensors.sort_by_key(|row| std::cmp::Reverse(row.bytes));
        Inspection {
            file: self.path().display().to_string(),
            name: self.name(),
            quant: self.quant_label(),
            synthetic: self.is_synthetic(),
            size_bytes: self.size_bytes(),
            n_params: self.n_params(),
            weight_bytes_per_token: self.weight_bytes_per_token(),
            config,
            problem,
            unknown_keys: self.unknown_keys(),
            metadata,
            tensors,
        }
    }
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let note = if self.synthetic { " (synthetic weights: the text means nothing)" } else { "" };
        writeln!(f, "{}{note}", one_line(&self.file))?;
        writeln!(f, "name             {}", self.name.escape_debug())?;
        writeln!(f, "quantization     {}", self.quant)?;
        writeln!(f, "size             {}", Bytes(self.size_bytes))?;
        writeln!(f, "parameters       {}", self.n_params)?;
        writeln!(f, "read per token   {}", Bytes(self.weight_bytes_per_token))?;
        match &self.config {
            Some(ModelConfig::Llama(config)) => llama(f, config)?,
            Some(ModelConfig::Bert(config)) => bert(f, config)?,
            None => {}
        }
        if let Some(problem) = &self.problem {
            writeln!(f, "not runnable     {}", one_line(problem))?;
        }
        if !self.unknown_keys.is_empty() {
            writeln!(f, "unknown keys     {}", self.unknown_keys.join(", "))?;
        }
        writeln!(f, "\n{:<8} {:>7} {:>16} {:>10}", "type", "tensors", "elements", "bytes")?;
        for row in &self.tensors {
            let bytes = Bytes(row.bytes);
            writeln!(f, "{:<8} {:>7} {:>16} {bytes:>10}", row.dtype, row.count, row.elements)?;
        }
        writeln!(f)?;
        let width = self.metadata.iter().map(|kv| kv.key.len()).max().unwrap_or(0);
        for kv in &self.metadata {
            writeln!(f, "{:width$}  {}", kv.key, kv.value)?;
        }
        Ok(())
    }
}

fn llama(f: &mut fmt::Formatter<'_>, c: &LlamaConfig) -> fmt::Result {
    writeln!(
        f,
        "shape            {} layers, {} wide, ffn {}, {} heads on {} KV heads of {}, \
         vocabulary {}, context {}",
        c.n_layers,
        c.n_embd,
        c.n_ff,
        c.n_heads,
        c.n_kv_heads,
        c.head_dim,
        c.n_vocab,
        c.context_length
    )?;
    writeln!(
        f,
        "embedding        {}; rope scaling tensor {}",
        if c.tied { "tied with the output" } else { "separate output matrix" },
        if c.has_rope_freqs { "present" } else { "absent" }
    )
}

fn bert(f: &mut fmt::Formatter<'_>, c: &BertConfig) -> fmt::Result {
    writeln!(
        f,
        "shape            encoder of {} layers, {} wide, ffn {}, {} heads of {}, vocabulary {}, \
         context {}",
        c.n_layers, c.n_embd, c.n_ff, c.n_heads, c.head_dim, c.n_vocab, c.context_length
    )?;
    match &c.output {
        BertOutput::Vector(pooling) => {
            writeln!(f, "gives            a vector, {pooling:?} pooling")
        }
        BertOutput::Classes(classifier) => {
            let labels: Vec<String> =
                classifier.labels.iter().map(|l| l.escape_debug().to_string()).collect();
            writeln!(f, "gives            {} labels: {}", classifier.n_labels, labels.join(", "))
        }
    }
}

/// Text of the file's or the disk's with its control characters escaped.
fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    out
}

/// A value on one line.
pub(super) fn shown(value: &Value) -> String {
    const WIDTH: usize = 60;
    match value {
        Value::U8(v) => v.to_string(),
        Value::I8(v) => v.to_string(),
        Value::U16(v) => v.to_string(),
        Value::I16(v) => v.to_string(),
        Value::U32(v) => v.to_string(),
        Value::I32(v) => v.to_string(),
        Value::U64(v) => v.to_string(),
        Value::I64(v) => v.to_string(),
        Value::F32(v) => v.to_string(),
        Value::F64(v) => v.to_string(),
        Value::Bool(v) => v.to_string(),
        Value::String(text) => {
            let mut short: String = text.chars().take(WIDTH).collect();
            if short.len() < text.len() {
                short.push('…');
            }
            format!("{short:?}")
        }
        Value::Array(values) => {
            let first: Vec<_> = values.iter().take(3).map(shown).collect();
            let more = if values.len() > first.len() { ", …" } else { "" };
            format!("[{}{more}] ({} values)", first.join(", "), values.len())
        }
    }
}
