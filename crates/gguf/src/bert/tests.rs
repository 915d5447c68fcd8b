//! Tests of the hyper-parameters of encoders: valid files, and those that are refused.

use super::*;
use crate::ModelConfig;
use crate::fixture::{Fixture, bert, bert_classifier, llama};

fn open(fixture: &Fixture) -> GgufFile {
    GgufFile::of_bytes(std::path::Path::new("a.gguf"), &fixture.bytes()).unwrap()
}

fn config(fixture: &Fixture) -> Result<BertConfig, String> {
    match open(fixture).model_config() {
        Ok(ModelConfig::Bert(config)) => Ok(config),
        Ok(ModelConfig::Llama(_)) => panic!("a LLaMA"),
        Err(error) => {
            assert!(matches!(error, GgufError::Unsupported { .. }), "{error:?}");
            Err(error.to_string())
        }
    }
}

#[test]
fn an_encoder_gives_its_hyper_parameters() {
    let expected = BertConfig {
        n_layers: 2,
        n_embd: 64,
        n_ff: 128,
        n_heads: 2,
        head_dim: 32,
        n_vocab: 96,
        context_length: 48,
        norm_eps: f64::from(1e-12f32),
        n_types: Some(2),
        output: BertOutput::Vector(Pooling::Mean),
    };
    assert_eq!(config(&bert()), Ok(expected));
    assert!(open(&bert()).unknown_keys().is_empty());
    assert_eq!(open(&bert().u32("bert.new", 1)).unknown_keys(), ["bert.new"]);
    for (number, pooling) in [(2, Pooling::Cls), (3, Pooling::Last)] {
        let found = config(&bert().u32("bert.pooling_type", number)).unwrap();
        assert_eq!((found.output, pooling as u32), (BertOutput::Vector(pooling), number));
    }
    let mut without = bert();
    without.tensors.retain(|t| t.name != TYPES);
    assert_eq!(config(&without).unwrap().n_types, None);
}

#[test]
fn a_classifier_gives_its_labels() {
    let found = config(&bert_classifier()).unwrap();
    let labels = vec!["NEGATIVE".to_string(), "POSITIVE".to_string()];
    let classes = Classifier { n_labels: 2, labels, activation: Activation::Relu };
    assert_eq!((found.n_out(), found.output), (2, BertOutput::Classes(classes)));
    assert!(config(&bert_classifier().without("bert.classifier.output_labels")).is_ok());
    let refused = |f: Fixture, part: &str| {
        let error = config(&f).unwrap_err();
        assert!(error.contains(part), "{part} not in {error}");
    };
    refused(bert_classifier().without("llm_bench.classifier_activation"), "relu");
    refused(bert_classifier().text("llm_bench.classifier_activation", "gelu"), "gelu");
    refused(bert_classifier().texts("bert.classifier.output_labels", &["a"]), "2 names");
    refused(bert_classifier().text("bert.classifier.output_labels", "a"), "2 names");
    refused(bert_classifier().u32("bert.pooling_type", 1), "classifier");
    refused(bert_classifier().tensor("cls.weight", &[64, 32], 8), "[64, 64]");
    refused(bert_classifier().tensor("cls.output.weight", &[64, 3], 8), "3 names");
    refused(bert().tensor("cls.weight", &[64, 64], 8), "not part of a BERT");
}

#[test]
fn a_file_says_once_what_it_is() {
    assert!(matches!(open(&llama()).model_config(), Ok(ModelConfig::Llama(_))));
    let error = open(&bert()).llama_config().unwrap_err().to_string();
    assert!(error.contains("expected llama, found \"bert\""), "{error}");
    let neither = open(&llama().text("general.architecture", "mamba"));
    let error = neither.model_config().unwrap_err().to_string();
    assert!(error.contains("llama or bert") && error.contains("mamba"), "{error}");
}

#[test]
fn hostile_values_are_refused_by_name() {
    let refused = |f: Fixture, part: &str| {
        let error = config(&f).unwrap_err();
        assert!(error.contains(part), "{part} not in {error}");
    };
    refused(bert().u32("bert.block_count", 0), "block_count");
    refused(bert().u32("bert.block_count", 3), "blk.2.attn_q.weight");
    refused(bert().u32("bert.block_count", 4096), "blk.2.attn_q.weight");
    refused(bert().u32("bert.block_count", u32::MAX), "block_count");
    refused(bert().u32("bert.attention.head_count", 3), "divisor");
    refused(bert().u32("bert.attention.head_count_kv", 1), "head_count_kv");
    refused(bert().u32("bert.attention.key_length", 16), "key_length");
    refused(bert().u32("bert.embedding_length", 128), "[96, 128]");
    refused(bert().u32("bert.context_length", 49), "position_embd.weight");
    refused(bert().without("bert.context_length"), "context_length");
    refused(bert().f32("bert.attention.layer_norm_epsilon", f32::NAN), "epsilon");
    refused(bert().f32("bert.attention.layer_norm_epsilon", 0.0), "epsilon");
    refused(bert().without("bert.attention.layer_norm_epsilon"), "epsilon");
    refused(bert().flag("bert.attention.causal", true), "causal");
    refused(bert().u32("bert.attention.causal", 0), "causal");
    refused(bert().without("bert.pooling_type"), "pooling_type");
    refused(bert().u32("bert.pooling_type", 0), "pooling_type");
    refused(bert().u32("bert.pooling_type", 4), "pooling_type");
    refused(bert().text("bert.pooling_type", "mean"), "pooling_type");
    refused(bert().u32("tokenizer.ggml.token_type_count", 3), "token_type_count");
    refused(bert().texts("tokenizer.ggml.tokens", &vec!["a"; 97]), "96 rows");
    refused(bert().f32("bert.attention.max_alibi_bias", 8.0), "alibi");
    refused(bert().text("bert.hidden_activation", "silu"), "silu");
    refused(bert().u32("split.count", 2), "one of 2 parts");
    refused(bert().tensor("blk.0.attn_q.bias", &[32], 0), "attn_q.bias");
    refused(bert().tensor("token_types.weight", &[32, 2], 0), "token_types");
    refused(bert().tensor("token_types.weight", &[64], 0), "token_type");
    refused(bert().tensor("rope_freqs.weight", &[16], 0), "not part of a BERT");
    refused(bert().tensor("blk.2.attn_q.weight", &[64, 64], 8), "2 layers");
    refused(bert().tensor("blk.00.attn_q.weight", &[64, 64], 8), "blk.00");
}
