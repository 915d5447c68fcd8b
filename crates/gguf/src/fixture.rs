//! Builds GGUF files for tests byte by byte, valid or broken as a test needs them.

use std::path::{Path, PathBuf};

/// A file under construction.
#[derive(Clone, Default)]
pub struct Fixture {
    pub metadata: Vec<(String, Vec<u8>)>,
    pub tensors: Vec<Tensor>,
}

/// A tensor's entry; dimensions in the file's order, row length first.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub dims: Vec<u64>,
    pub dtype: u32,
    /// How many bytes of data, all zero.
    pub bytes: u64,
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn typed(kind: u32, payload: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], payload].concat()
}

impl Fixture {
    pub fn raw(mut self, key: &str, value: Vec<u8>) -> Self {
        self.metadata.retain(|(k, _)| k != key);
        self.metadata.push((key.into(), value));
        self
    }

    pub fn without(mut self, key: &str) -> Self {
        self.metadata.retain(|(k, _)| k != key);
        self
    }

    pub fn u32(self, key: &str, v: u32) -> Self {
        self.raw(key, typed(4, &v.to_le_bytes()))
    }

    pub fn f32(self, key: &str, v: f32) -> Self {
        self.raw(key, typed(6, &v.to_le_bytes()))
    }

    pub fn flag(self, key: &str, v: bool) -> Self {
        self.raw(key, typed(7, &[v.into()]))
    }

    pub fn text(self, key: &str, v: &str) -> Self {
        self.raw(key, typed(8, &string(v)))
    }

    pub fn texts<S: AsRef<str>>(self, key: &str, values: &[S]) -> Self {
        let head = [&8u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes()].concat();
        let items: Vec<u8> = values.iter().flat_map(|v| string(v.as_ref())).collect();
        self.raw(key, typed(9, &[head, items].concat()))
    }

    pub fn i32s(self, key: &str, values: &[i32]) -> Self {
        let head = [&5u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes()].concat();
        let items: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.raw(key, typed(9, &[head, items].concat()))
    }

    pub fn tensor(mut self, name: &str, dims: &[u64], dtype: u32) -> Self {
        let elements: u64 = dims.iter().product();
        let bytes = match dtype {
            0 => elements * 4,
            1 => elements * 2,
            2 | 20 => elements / 32 * 18,
            8 => elements / 32 * 34,
            other => panic!("no size for type {other}"),
        };
        self.tensors.retain(|t| t.name != name);
        self.tensors.push(Tensor { name: name.into(), dims: dims.into(), dtype, bytes });
        self
    }

    /// A whole file, version 3.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = [&b"GGUF"[..], &3u32.to_le_bytes()].concat();
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            out.extend(string(key));
            out.extend(value);
        }
        let mut offset = 0u64;
        for t in &self.tensors {
            out.extend(string(&t.name));
            out.extend((t.dims.len() as u32).to_le_bytes());
            out.extend(t.dims.iter().flat_map(|d| d.to_le_bytes()));
            out.extend(t.dtype.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += t.bytes.next_multiple_of(32);
        }
        if offset > 0 {
            out.resize(out.len().next_multiple_of(32) + offset as usize, 0);
        }
        out
    }

    pub fn write(&self, folder: &Path) -> PathBuf {
        let path = folder.join("model.gguf");
        std::fs::write(&path, self.bytes()).unwrap();
        path
    }
}

/// A LLaMA of two layers with grouped-query attention, tied, with rope scaling; Q4_0 blocks.
pub fn llama() -> Fixture {
    let (d, ff, kv, vocab) = (64, 128, 32, 96);
    let mut f = Fixture::default()
        .text("general.architecture", "llama")
        .text("general.name", "Fixture")
        .u32("general.file_type", 2)
        .u32("llama.block_count", 2)
        .u32("llama.embedding_length", 64)
        .u32("llama.feed_forward_length", 128)
        .u32("llama.attention.head_count", 4)
        .u32("llama.attention.head_count_kv", 2)
        .u32("llama.rope.dimension_count", 16)
        .u32("llama.context_length", 256)
        .f32("llama.rope.freq_base", 500_000.0)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .tensor("token_embd.weight", &[d, vocab], 8)
        .tensor("output_norm.weight", &[d], 0)
        .tensor("rope_freqs.weight", &[8], 0);
    for layer in 0..2 {
        for (part, dims, dtype) in [
            ("attn_norm", &[d][..], 0),
            ("attn_q", &[d, d], 2),
            ("attn_k", &[d, kv], 2),
            ("attn_v", &[d, kv], 2),
            ("attn_output", &[d, d], 2),
            ("ffn_norm", &[d], 0),
            ("ffn_gate", &[d, ff], 2),
            ("ffn_up", &[d, ff], 2),
            ("ffn_down", &[ff, d], 2),
        ] {
            f = f.tensor(&format!("blk.{layer}.{part}.weight"), dims, dtype);
        }
    }
    f
}

/// An encoder of two layers with mean pooling; Q8_0 blocks.
pub fn bert() -> Fixture {
    let (d, ff) = (64, 128);
    let mut f = Fixture::default()
        .text("general.architecture", "bert")
        .u32("bert.block_count", 2)
        .u32("bert.embedding_length", 64)
        .u32("bert.feed_forward_length", 128)
        .u32("bert.attention.head_count", 2)
        .u32("bert.context_length", 48)
        .f32("bert.attention.layer_norm_epsilon", 1e-12)
        .flag("bert.attention.causal", false)
        .u32("bert.pooling_type", 1)
        .u32("tokenizer.ggml.token_type_count", 2)
        .tensor("token_embd.weight", &[d, 96], 8)
        .tensor("token_types.weight", &[d, 2], 0)
        .tensor("position_embd.weight", &[d, 48], 0)
        .tensor("token_embd_norm.weight", &[d], 0)
        .tensor("token_embd_norm.bias", &[d], 0);
    for layer in 0..2 {
        for (part, columns, rows) in [
            ("attn_q", d, d),
            ("attn_k", d, d),
            ("attn_v", d, d),
            ("attn_output", d, d),
            ("ffn_up", d, ff),
            ("ffn_down", ff, d),
        ] {
            f = f.tensor(&format!("blk.{layer}.{part}.weight"), &[columns, rows], 8);
            f = f.tensor(&format!("blk.{layer}.{part}.bias"), &[rows], 0);
        }
        for part in ["attn_output_norm", "layer_output_norm"] {
            f = f.tensor(&format!("blk.{layer}.{part}.weight"), &[d], 0);
            f = f.tensor(&format!("blk.{layer}.{part}.bias"), &[d], 0);
        }
    }
    f
}

/// The same with a classifier of two labels instead.
pub fn bert_classifier() -> Fixture {
    bert()
        .without("bert.pooling_type")
        .text("llm_bench.classifier_activation", "relu")
        .texts("bert.classifier.output_labels", &["NEGATIVE", "POSITIVE"])
        .tensor("cls.weight", &[64, 64], 8)
        .tensor("cls.bias", &[64], 0)
        .tensor("cls.output.weight", &[64, 2], 8)
        .tensor("cls.output.bias", &[2], 0)
}
