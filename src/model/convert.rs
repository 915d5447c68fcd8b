//! Makes a GGUF file out of a BERT or DistilBERT in Hugging Face's form: `model.safetensors` with
//! `config.json` and a tokenizer beside it, or with shapes that the registry states. Weights become
//! float32, whatever float they were; `quantize` makes the smaller types from that file.

mod checkpoint;
mod config;
mod head;
#[cfg(test)]
mod tests;
mod tokenizer;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use self::checkpoint::Checkpoint;
use self::head::Head;
use super::cache::CacheDir;
use super::encoder::vocabulary::WordPieces;
use super::encoder::{EncoderSpec, EncoderTensor};
use super::gguf::write::{self, ALIGNMENT, TensorEntry};
use super::mixture::{TensorType, file_order};
use super::quant::Quant;
use super::unfinished::{Unfinished, check_free_disk, folder_of};
use crate::digest::hex;
use crate::units::Bytes;

/// How the names of such files end.
pub const EXTENSION: &str = "safetensors";
const WEIGHTS: &str = "model.safetensors";

/// The version of the conversion. Within one version the same source gives the same bytes.
pub const METHOD: u32 = 1;

/// A model in Hugging Face's form whose parts fit each other.
#[derive(Debug)]
pub struct Source {
    spec: EncoderSpec,
    vocabulary: WordPieces,
    checkpoint: Checkpoint,
    /// A classifier that the checkpoint does not have.
    head: Option<Head>,
    /// Each tensor of the file, and its name in the checkpoint.
    tensors: Vec<(EncoderTensor, String)>,
}

/// A classifier that comes with the registry: the name of its file, and its content.
pub type ShippedHead<'h> = (&'h str, &'h [u8]);

/// Where the weights are, if `path` is a folder with them or the file itself.
pub fn weights_at(path: &Path) -> Option<PathBuf> {
    let named = path.extension().is_some_and(|e| e.eq_ignore_ascii_case(EXTENSION));
    let inside = path.join(WEIGHTS);
    match path.is_dir() {
        true => inside.is_file().then_some(inside),
        false => named.then(|| path.to_owned()),
    }
}

impl Source {
    /// Weights with `config.json`, a tokenizer and, of sentence-transformers, `1_Pooling` beside
    /// them. Reads everything but the weights themselves.
    ///
    /// # Errors
    /// A file is missing, damaged or too large, or the model computes another function than an
    /// encoder here does.
    pub fn beside(weights: &Path) -> Result<Self> {
        let folder = folder_of(weights);
        let checkpoint = Checkpoint::open(weights)?;
        let spec = config::read(folder, checkpoint.has("classifier.weight"))?;
        let (vocabulary, lowercase) = tokenizer::read(folder)?;
        Self::new(EncoderSpec { lowercase, ..spec }, vocabulary, checkpoint, None)
    }

    /// Weights alone, with the shapes that the registry states and bert-base-uncased's vocabulary;
    /// with a classifier of the registry, if they have none.
    ///
    /// # Errors
    /// A file is damaged, or has other shapes.
    pub fn stated(
        weights: &Path,
        spec: &EncoderSpec,
        head: Option<ShippedHead<'_>>,
    ) -> Result<Self> {
        let head = head.map(|(name, json)| Head::parse(name, json, spec)).transpose()?;
        Self::new(spec.clone(), WordPieces::uncased(), Checkpoint::open(weights)?, head)
    }

    fn new(
        spec: EncoderSpec,
        vocabulary: WordPieces,
        checkpoint: Checkpoint,
        head: Option<Head>,
    ) -> Result<Self> {
        let at = checkpoint.path().display().to_string();
        spec.check().map_err(|e| anyhow::anyhow!("{at}: {}: {e}", spec.name))?;
        ensure!(
            vocabulary.len() == spec.n_vocab as usize,
            "{at}: expected {} tokens, as the embedding has rows, found {}",
            spec.n_vocab,
            vocabulary.len()
        );
        let mut tensors: Vec<_> = spec.tensors();
        tensors.sort_by_cached_key(|t| file_order(&t.name));
        let family = Family::of(&checkpoint);
        let tensors: Vec<_> = tensors
            .into_iter()
            .map(|tensor| -> Result<_> {
                let name = family.name_of(&tensor.name);
                if !of_head(head.as_ref(), &tensor.name) {
                    checkpoint.check(&name, &tensor.shape)?;
                }
                Ok((tensor, name))
            })
            .collect::<Result<_>>()?;
        // Leaving out a tensor would compute another function.
        let used =
            |name: &str| tensors.iter().any(|(t, n)| n == name && !of_head(head.as_ref(), &t.name));
        let no_classifier = spec.labels.is_empty() || head.is_some();
        if let Some(name) = checkpoint.names().find(|n| !used(n) && !is_left_out(n, no_classifier))
        {
            bail!(
                "{at}: tensor {}: expected the tensors of a BERT or DistilBERT with or without a \
                 classifier of texts, found one more; this model computes another function",
                name.escape_debug()
            );
        }
        Ok(Self { spec, vocabulary, checkpoint, head, tensors })
    }

    /// What the file is made of, in 12 hex digits: weights, shapes and tokens.
    pub fn key(&self, cache: &CacheDir) -> Result<String> {
        let mut sha = Sha256::new();
        sha.update(METHOD.to_le_bytes());
        sha.update(cache.sha256(self.checkpoint.path())?);
        sha.update(serde_json::to_vec(&self.spec)?);
        sha.update(format!("{:?} {:?}", self.vocabulary, self.head));
        Ok(hex(&sha.finalize()[..6]))
    }

    /// Writes the GGUF file, completely or not at all. `progress` gets bytes done and in all.
    ///
    /// # Errors
    /// A weight is not finite, there is too little free disk, or a read or write fails.
    pub fn write(self, out: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Bytes> {
        let dims: Vec<_> = self.tensors.iter().map(|(t, _)| t.dims()).collect();
        let mut end = 0;
        let mut entries = Vec::new();
        for ((tensor, _), dims) in self.tensors.iter().zip(&dims) {
            let ty = TensorType::F32;
            entries.push(TensorEntry { name: &tensor.name, dims, ty: ty.id(), offset: end });
            end += ty.bytes_of(tensor.elements()).next_multiple_of(ALIGNMENT);
        }
        let name = self.spec.name.clone();
        let metadata = self.spec.metadata(name, Quant::F32, self.vocabulary, Vec::new());
        let mut encoded = Vec::new();
        metadata.iter().for_each(|(key, value)| write::entry(&mut encoded, key, value));
        let head = write::head(metadata.len() as u64, &encoded, &entries, ALIGNMENT);
        let (begin, size) = (head.len() as u64, head.len() as u64 + end);
        check_free_disk(folder_of(out), out, Bytes(size))?;
        let file = Unfinished::create(out, Bytes(size))?;
        let failed = || format!("cannot write {}", out.display());
        file.write_at(&head, 0).with_context(failed)?;
        for ((tensor, name), entry) in self.tensors.iter().zip(&entries) {
            let mut at = begin + entry.offset;
            if let Some(values) = self.head.as_ref().and_then(|head| head.values(&tensor.name)) {
                let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
                file.write_at(&bytes, at).with_context(failed)?;
                continue;
            }
            self.checkpoint.read(name, &mut |weights| {
                ensure!(!crate::interrupt::requested(), "stopped; nothing was kept");
                file.write_at(weights, at).with_context(failed)?;
                at += weights.len() as u64;
                progress(at, size);
                Ok(())
            })?;
        }
        file.finish()?;
        Ok(Bytes(size))
    }
}

/// Whether a tensor comes from a classifier beside the checkpoint.
fn of_head(head: Option<&Head>, tensor: &str) -> bool {
    head.is_some() && tensor.starts_with("cls.")
}

/// How a checkpoint names its tensors.
#[derive(Clone, Copy)]
enum Family {
    Bert,
    DistilBert,
}

impl Family {
    fn of(checkpoint: &Checkpoint) -> Self {
        match checkpoint.names().any(|name| name.starts_with("transformer.layer.")) {
            true => Self::DistilBert,
            false => Self::Bert,
        }
    }

    /// The name in the checkpoint, without the model's prefix.
    fn name_of(self, name: &str) -> String {
        let (part, kind) = name.rsplit_once('.').unwrap_or((name, ""));
        let named = match part.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
            Some((layer, part)) => self.in_layer(layer, part),
            None => match (part, self) {
                ("token_embd", _) => "embeddings.word_embeddings",
                ("position_embd", _) => "embeddings.position_embeddings",
                ("token_types", _) => "embeddings.token_type_embeddings",
                ("token_embd_norm", _) => "embeddings.LayerNorm",
                ("cls", Self::Bert) => "pooler.dense",
                ("cls", Self::DistilBert) => "pre_classifier",
                ("cls.output", _) => "classifier",
                _ => part,
            }
            .to_owned(),
        };
        format!("{named}.{kind}")
    }

    fn in_layer(self, layer: &str, part: &str) -> String {
        let (layers, named) = match self {
            Self::Bert => (
                "encoder",
                match part {
                    "attn_q" => "attention.self.query",
                    "attn_k" => "attention.self.key",
                    "attn_v" => "attention.self.value",
                    "attn_output" => "attention.output.dense",
                    "attn_output_norm" => "attention.output.LayerNorm",
                    "ffn_up" => "intermediate.dense",
                    "ffn_down" => "output.dense",
                    "layer_output_norm" => "output.LayerNorm",
                    other => other,
                },
            ),
            Self::DistilBert => (
                "transformer",
                match part {
                    "attn_q" => "attention.q_lin",
                    "attn_k" => "attention.k_lin",
                    "attn_v" => "attention.v_lin",
                    "attn_output" => "attention.out_lin",
                    "attn_output_norm" => "sa_layer_norm",
                    "ffn_up" => "ffn.lin1",
                    "ffn_down" => "ffn.lin2",
                    "layer_output_norm" => "output_layer_norm",
                    other => other,
                },
            ),
        };
        format!("{layers}.layer.{layer}.{named}")
    }
}

/// Tensors of a checkpoint that an encoder does not compute with: constants, and the heads that
/// pretraining left.
fn is_left_out(name: &str, no_classifier: bool) -> bool {
    let constants = ["embeddings.position_ids", "embeddings.token_type_ids"];
    let heads = ["cls.", "vocab_transform.", "vocab_layer_norm.", "vocab_projector."];
    constants.contains(&name)
        || heads.iter().any(|head| name.starts_with(head))
        || (no_classifier && name.starts_with("pooler."))
}
