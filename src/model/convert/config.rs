//! Reads the shapes of a BERT or DistilBERT from its `config.json`, and how sentence-transformers
//! makes one vector of a text. What would change the function and is not computed here is refused.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::model::encoder::{Activation, EncoderSpec, Pooling};
use crate::model::gguf::regular_file_len;

/// Such files have a few kilobytes.
const MAX_CONFIG: u64 = 1 << 20;

/// The keys of both families; each model has those of its own.
#[derive(Deserialize)]
struct Config {
    model_type: String,
    vocab_size: u32,
    max_position_embeddings: u32,
    #[serde(alias = "dim")]
    hidden_size: u32,
    #[serde(alias = "hidden_dim")]
    intermediate_size: u32,
    #[serde(alias = "n_layers")]
    num_hidden_layers: u32,
    #[serde(alias = "n_heads")]
    num_attention_heads: u32,
    #[serde(alias = "activation")]
    hidden_act: String,
    type_vocab_size: Option<u32>,
    layer_norm_eps: Option<f32>,
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_decoder: bool,
    #[serde(default)]
    add_cross_attention: bool,
    #[serde(default)]
    pruned_heads: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    id2label: BTreeMap<String, String>,
}

/// `1_Pooling/config.json` of sentence-transformers.
#[derive(Deserialize)]
struct PoolingConfig {
    #[serde(default)]
    pooling_mode_cls_token: bool,
    #[serde(default)]
    pooling_mode_mean_tokens: bool,
    #[serde(default)]
    pooling_mode_max_tokens: bool,
    #[serde(default)]
    pooling_mode_mean_sqrt_len_tokens: bool,
    #[serde(default)]
    pooling_mode_weightedmean_tokens: bool,
    #[serde(default)]
    pooling_mode_lasttoken: bool,
}

/// A step of `modules.json`.
#[derive(Deserialize)]
struct Module {
    #[serde(rename = "type")]
    class: String,
}

/// The shapes that a folder states. `lowercase` is left to the tokenizer's files.
pub fn read(folder: &Path, has_classifier: bool) -> Result<EncoderSpec> {
    let path = folder.join("config.json");
    let config: Config = json(&path)?
        .with_context(|| format!("{}: expected the model's configuration there", path.display()))?;
    let wrong = |key: &str, expected: &str, found: &str| {
        anyhow::anyhow!("{}: {key}: expected {expected}, found {found:?}", path.display())
    };
    let is_distilled = match config.model_type.as_str() {
        "bert" => false,
        "distilbert" => true,
        other => return Err(wrong("model_type", "bert or distilbert", other)),
    };
    if config.hidden_act != "gelu" {
        return Err(wrong("hidden_act", "gelu", &config.hidden_act));
    }
    if let Some(kind) = config.position_embedding_type.filter(|kind| kind != "absolute") {
        return Err(wrong("position_embedding_type", "absolute", &kind));
    }
    if config.is_decoder || config.add_cross_attention || !config.pruned_heads.is_empty() {
        bail!(
            "{}: expected an encoder with all its heads, found is_decoder, add_cross_attention or \
             pruned_heads",
            path.display()
        );
    }
    let labels = if has_classifier { labels(&config.id2label, &path)? } else { Vec::new() };
    let name = std::path::absolute(folder)?;
    Ok(EncoderSpec {
        name: name.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        n_layers: config.num_hidden_layers,
        n_embd: config.hidden_size,
        n_ff: config.intermediate_size,
        n_heads: config.num_attention_heads,
        n_vocab: config.vocab_size,
        context_length: config.max_position_embeddings,
        n_types: if is_distilled { 0 } else { config.type_vocab_size.unwrap_or(2) },
        // DistilBERT has it in its code.
        norm_eps: config.layer_norm_eps.filter(|_| !is_distilled).unwrap_or(1e-12),
        pooling: if has_classifier { None } else { Some(pooling(folder)?) },
        activation: has_classifier.then_some(match is_distilled {
            true => Activation::Relu,
            false => Activation::Tanh,
        }),
        labels,
        lowercase: true,
    })
}

/// `{"0": "NEGATIVE", "1": "POSITIVE"}`, or transformers' own names where a file has none.
fn labels(stated: &BTreeMap<String, String>, path: &Path) -> Result<Vec<String>> {
    if stated.is_empty() {
        return Ok(vec!["LABEL_0".into(), "LABEL_1".into()]);
    }
    let label = |i: usize| {
        stated.get(&i.to_string()).cloned().with_context(|| {
            let n = stated.len();
            format!("{}: id2label: expected a label for each of 0 to {}", path.display(), n - 1)
        })
    };
    (0..stated.len()).map(label).collect()
}

/// What sentence-transformers does with the hidden states: its own default, the mean, if the folder
/// does not say.
fn pooling(folder: &Path) -> Result<Pooling> {
    let known = ["Transformer", "Pooling", "Normalize"];
    let path = folder.join("modules.json");
    for Module { class } in json::<Vec<Module>>(&path)?.unwrap_or_default() {
        let last = class.rsplit('.').next().unwrap_or_default();
        ensure!(
            known.contains(&last),
            "{}: expected {}, found {class:?}, which is not computed here",
            path.display(),
            known.join(", ")
        );
    }
    let path = folder.join("1_Pooling/config.json");
    let Some(config) = json::<PoolingConfig>(&path)? else { return Ok(Pooling::Mean) };
    let others = config.pooling_mode_max_tokens
        || config.pooling_mode_mean_sqrt_len_tokens
        || config.pooling_mode_weightedmean_tokens;
    let modes = [
        (config.pooling_mode_mean_tokens, Pooling::Mean),
        (config.pooling_mode_cls_token, Pooling::Cls),
        (config.pooling_mode_lasttoken, Pooling::Last),
    ];
    let mut chosen = modes.into_iter().filter(|(is, _)| *is).map(|(_, pooling)| pooling);
    match (chosen.next(), chosen.next(), others) {
        (Some(pooling), None, false) => Ok(pooling),
        _ => bail!(
            "{}: expected one of the mean, the CLS token and the last token, found another pooling",
            path.display()
        ),
    }
}

/// A small JSON file; `None` if it is not there.
pub fn json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    json_within(path, MAX_CONFIG)
}

/// A JSON file of a limited size.
pub fn json_within<T: DeserializeOwned>(path: &Path, most: u64) -> Result<Option<T>> {
    let Some(text) = text_within(path, most)? else { return Ok(None) };
    let parsed = serde_json::from_str(&text);
    parsed.map(Some).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))
}

/// A text file of a limited size; `None` if it is not there.
pub fn text_within(path: &Path, most: u64) -> Result<Option<String>> {
    if !path.exists() {
        return Ok(None);
    }
    let unreadable = || format!("cannot read {}", path.display());
    let len = regular_file_len(path).with_context(unreadable)?;
    ensure!(len <= most, "{}: expected at most {most} bytes, found {len}", path.display());
    let mut text = String::new();
    let file = File::open(path).with_context(unreadable)?;
    file.take(most).read_to_string(&mut text).with_context(unreadable)?;
    Ok(Some(text))
}
