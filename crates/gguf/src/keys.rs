//! The metadata keys of an architecture: those that are computed, those that change the function and
//! are refused unless their value changes nothing, those that mean nothing for a dense model.
//! Whatever else there is, nobody here knows what it does.
//!
//! The names are those of `LLM_KV_NAMES` in llama.cpp's `llama-arch.cpp`.

use candle_core::quantized::gguf_file::Value;

use super::inspect::shown;
use super::{GgufError, GgufFile};

/// `config` and `bert` read and check them.
const COMPUTED: [&str; 15] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "expert_count",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "vocab_size",
];

/// They say something of a model, or only matter together with a key that is refused.
const WITHOUT_EFFECT: [&str; 24] = [
    "attention.key_length_swa",
    "attention.sliding_window_pattern",
    "attention.value_length_swa",
    "classifier.output_labels",
    "classifier.pooling_type",
    "expert_feed_forward_length",
    "expert_gating_func",
    "expert_group_count",
    "expert_group_used_count",
    "expert_shared_feed_forward_length",
    "expert_used_count",
    "expert_weights_norm",
    "expert_weights_scale",
    "pooling_type",
    "rope.dimension_count_swa",
    "rope.freq_base_swa",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_log_multiplier",
    "target_layers",
];

/// The value of a key with which the function is the plain one.
#[derive(Clone, Copy)]
enum Neutral {
    /// Any number of these; true is 1.
    Numbers(&'static [f64]),
    Text(&'static [&'static str]),
    /// The model's context or more.
    BeyondContext,
    /// What attention takes by itself: one over the root of the head's size.
    AttentionScale,
    /// The width of the residual stream.
    Width,
    /// None: the key itself says that the model is another one.
    Nothing,
}

use Neutral::{AttentionScale, BeyondContext, Nothing, Numbers, Text, Width};

const OFF: Neutral = Numbers(&[0.0]);
const ON: Neutral = Numbers(&[1.0]);
/// llama.cpp takes 0 for "not set" here.
const FACTOR: Neutral = Numbers(&[0.0, 1.0]);

const CHANGES: [(&str, Neutral); 48] = [
    ("adapters.count", OFF),
    ("attention.causal", ON),
    ("attention.clamp_kqv", OFF),
    ("attention.compress_ratios", Nothing),
    ("attention.indexer.head_count", OFF),
    ("attention.kv_lora_rank", OFF),
    ("attention.max_alibi_bias", OFF),
    ("attention.output_scale", FACTOR),
    ("attention.q_lora_rank", OFF),
    ("attention.recurrent_layers", Nothing),
    ("attention.relative_buckets_count", OFF),
    ("attention.rope_pattern", Nothing),
    ("attention.scale", AttentionScale),
    ("attention.shared_kv_layers", OFF),
    ("attention.sliding_window", BeyondContext),
    ("attention.temperature_length", OFF),
    ("attention.temperature_scale", OFF),
    ("attention.value_scale", FACTOR),
    ("attn_logit_softcapping", OFF),
    ("attn_res.block_size", OFF),
    ("decoder_block_count", OFF),
    ("deepstack_mapping", Nothing),
    ("embedding_length_out", Width),
    ("embedding_length_per_layer_input", OFF),
    ("embedding_scale", FACTOR),
    ("expert_shared_count", OFF),
    ("features_length", Width),
    ("final_logit_softcapping", OFF),
    ("full_attention_interval", OFF),
    ("hidden_activation", Text(&["silu", "swish", "swiglu"])),
    ("hyper_connection.count", OFF),
    ("interleave_moe_layer_step", OFF),
    ("leading_dense_block_count", OFF),
    ("logit_scale", FACTOR),
    ("moe_every_n_layers", OFF),
    ("n_deepstack_layers", OFF),
    ("nextn_predict_layers", OFF),
    ("num_loops", FACTOR),
    ("rescale_every_n_layers", OFF),
    ("residual_scale", FACTOR),
    ("rope.dimension_sections", Nothing),
    ("rope.scale_linear", FACTOR),
    ("rope.scaling.alpha", FACTOR),
    ("rope.scaling.attn_factor", FACTOR),
    ("rope.scaling.factor", FACTOR),
    ("swin_norm", OFF),
    ("tensor_data_layout", Text(&["Meta AI original pth"])),
    ("use_parallel_residual", OFF),
];

/// Refuses a key whose value changes the function in a way that engines here do not compute.
pub fn check(
    file: &GgufFile,
    prefix: &str,
    head_dim: usize,
    context: usize,
) -> Result<(), GgufError> {
    if let Some(kind) = file.text("general.type").filter(|kind| *kind != "model") {
        return Err(file.unsupported("general.type", "\"model\"", format!("{kind:?}")));
    }
    let encoder = prefix == "bert.";
    // With that type llama.cpp scales nothing, whatever the factor.
    let unscaled = file.text("llama.rope.scaling.type") == Some("none");
    for (name, neutral) in CHANGES {
        let neutral = match name {
            // `bert` has checked it.
            "attention.causal" if encoder => continue,
            "hidden_activation" if encoder => Text(&["gelu"]),
            _ => neutral,
        };
        let key = format!("{prefix}{name}");
        let Some(value) = file.metadata().get(&key) else { continue };
        let number = number(value);
        let any_of = |values: &[f64]| number.is_some_and(|x| values.contains(&x));
        let scale = 1.0 / (head_dim as f64).sqrt();
        let is_neutral = match neutral {
            Numbers(values) => any_of(values) || (unscaled && name.starts_with("rope.scal")),
            Text(texts) => matches!(value, Value::String(text) if texts.contains(&text.as_str())),
            BeyondContext => number.is_some_and(|x| x == 0.0 || x >= context as f64),
            AttentionScale => number.is_some_and(|x| x == 0.0 || (x / scale - 1.0).abs() < 1e-5),
            Width => number == file.number(&format!("{prefix}embedding_length")).map(|n| n as f64),
            Nothing => false,
        };
        if !is_neutral {
            let expected = match neutral {
                Numbers(values) => {
                    let flag = matches!(value, Value::Bool(_));
                    let shown =
                        |x: &f64| if flag { (*x == 1.0).to_string() } else { x.to_string() };
                    let values: Vec<String> = values.iter().map(shown).collect();
                    format!(
                        "none, or {}: no engine here computes another value",
                        values.join(" or ")
                    )
                }
                Text(texts) => format!("none, or {}", texts.join(" or ")),
                BeyondContext => format!("none, or the whole context of {context}"),
                AttentionScale => format!("none, or {scale}"),
                Width => "none, or the embedding length".into(),
                Nothing => "none: no engine here computes it".into(),
            };
            return Err(file.unsupported(key, expected, shown(value)));
        }
    }
    Ok(())
}

/// A number of any width, or a flag as 0 or 1.
fn number(value: &Value) -> Option<f64> {
    Some(match *value {
        Value::U8(v) => v.into(),
        Value::I8(v) => v.into(),
        Value::U16(v) => v.into(),
        Value::I16(v) => v.into(),
        Value::U32(v) => v.into(),
        Value::I32(v) => v.into(),
        Value::U64(v) => v as f64,
        Value::I64(v) => v as f64,
        Value::F32(v) => v.into(),
        Value::F64(v) => v,
        Value::Bool(v) => f64::from(u8::from(v)),
        Value::String(_) | Value::Array(_) => return None,
    })
}

impl GgufFile {
    /// The keys of the architecture of which nothing is known here, sorted; escaped.
    pub fn unknown_keys(&self) -> Vec<String> {
        let encoder = self.text("general.architecture") == Some("bert");
        let prefix = if encoder { "bert." } else { "llama." };
        let known = |name: &str| {
            COMPUTED.contains(&name)
                || WITHOUT_EFFECT.contains(&name)
                || CHANGES.iter().any(|(key, _)| *key == name)
        };
        let keys = self.metadata().keys();
        let unknown = keys.filter(|key| key.strip_prefix(prefix).is_some_and(|name| !known(name)));
        let mut unknown: Vec<String> = unknown.map(|key| key.escape_debug().to_string()).collect();
        unknown.sort();
        unknown
    }
}
