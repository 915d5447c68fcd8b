//! Tests of the conversion on small checkpoints, whole and broken.

use std::collections::HashMap;

use half::f16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::*;
use crate::model::gguf::GgufFile;
use crate::model::quantize::{self, Target};
use crate::model::tokenizer::Tokenizer;

/// A tensor's shape, type and bytes.
type Stored = (Vec<usize>, Dtype, Vec<u8>);

/// A model's folder under construction.
struct Folder {
    folder: tempfile::TempDir,
    tensors: HashMap<String, Stored>,
}

const CONFIG: &str = r#"{"model_type": "bert", "vocab_size": 8, "max_position_embeddings": 16,
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "hidden_act": "gelu", "type_vocab_size": 2, "layer_norm_eps": 1e-12}"#;
const DISTILLED: &str = r#"{"model_type": "distilbert", "vocab_size": 8, "dim": 32, "n_layers": 1,
    "max_position_embeddings": 16, "hidden_dim": 64, "n_heads": 2, "activation": "gelu",
    "id2label": {"0": "NEGATIVE", "1": "POSITIVE"}}"#;
const VOCABULARY: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nplay\n##ing\n.\n";

impl Folder {
    fn new(config: &str, names: &[(&str, &[usize])]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        std::fs::write(folder.path().join("vocab.txt"), VOCABULARY).unwrap();
        let mut made = Self { folder, tensors: HashMap::new() };
        names.iter().for_each(|(name, shape)| made.add(name, shape));
        made
    }

    /// A BERT, with the prefix and the old names of norms that some checkpoints have.
    fn bert() -> Self {
        Self::new(
            CONFIG,
            &[
                ("bert.embeddings.word_embeddings.weight", &[8, 32]),
                ("bert.embeddings.position_embeddings.weight", &[16, 32]),
                ("bert.embeddings.token_type_embeddings.weight", &[2, 32]),
                ("bert.embeddings.LayerNorm.gamma", &[32]),
                ("bert.embeddings.LayerNorm.beta", &[32]),
                ("bert.encoder.layer.0.attention.self.query.weight", &[32, 32]),
                ("bert.encoder.layer.0.attention.self.query.bias", &[32]),
                ("bert.encoder.layer.0.attention.self.key.weight", &[32, 32]),
                ("bert.encoder.layer.0.attention.self.key.bias", &[32]),
                ("bert.encoder.layer.0.attention.self.value.weight", &[32, 32]),
                ("bert.encoder.layer.0.attention.self.value.bias", &[32]),
                ("bert.encoder.layer.0.attention.output.dense.weight", &[32, 32]),
                ("bert.encoder.layer.0.attention.output.dense.bias", &[32]),
                ("bert.encoder.layer.0.attention.output.LayerNorm.gamma", &[32]),
                ("bert.encoder.layer.0.attention.output.LayerNorm.beta", &[32]),
                ("bert.encoder.layer.0.intermediate.dense.weight", &[64, 32]),
                ("bert.encoder.layer.0.intermediate.dense.bias", &[64]),
                ("bert.encoder.layer.0.output.dense.weight", &[32, 64]),
                ("bert.encoder.layer.0.output.dense.bias", &[32]),
                ("bert.encoder.layer.0.output.LayerNorm.gamma", &[32]),
                ("bert.encoder.layer.0.output.LayerNorm.beta", &[32]),
                ("bert.pooler.dense.weight", &[32, 32]),
                ("bert.pooler.dense.bias", &[32]),
                ("cls.predictions.bias", &[8]),
            ],
        )
    }

    fn distilbert() -> Self {
        let layer = "distilbert.transformer.layer.0";
        let mut made = Self::new(
            DISTILLED,
            &[
                ("distilbert.embeddings.word_embeddings.weight", &[8, 32]),
                ("distilbert.embeddings.position_embeddings.weight", &[16, 32]),
                ("distilbert.embeddings.LayerNorm.weight", &[32]),
                ("distilbert.embeddings.LayerNorm.bias", &[32]),
                ("pre_classifier.weight", &[32, 32]),
                ("pre_classifier.bias", &[32]),
                ("classifier.weight", &[2, 32]),
                ("classifier.bias", &[2]),
            ],
        );
        for part in ["q_lin", "k_lin", "v_lin", "out_lin"] {
            made.add(&format!("{layer}.attention.{part}.weight"), &[32, 32]);
            made.add(&format!("{layer}.attention.{part}.bias"), &[32]);
        }
        for norm in ["sa_layer_norm", "output_layer_norm"] {
            made.add(&format!("{layer}.{norm}.weight"), &[32]);
            made.add(&format!("{layer}.{norm}.bias"), &[32]);
        }
        for (part, rows, columns) in [("lin1", 64, 32), ("lin2", 32, 64)] {
            made.add(&format!("{layer}.ffn.{part}.weight"), &[rows, columns]);
            made.add(&format!("{layer}.ffn.{part}.bias"), &[rows]);
        }
        made
    }

    /// Weights that differ from tensor to tensor and place to place, and are exact in 16 bits.
    fn add(&mut self, name: &str, shape: &[usize]) {
        let base = (name.len() % 7) as f32;
        let n = shape.iter().product::<usize>();
        let bytes = (0..n).flat_map(|i| (base + (i % 64) as f32 / 64.0).to_le_bytes()).collect();
        self.tensors.insert(name.into(), (shape.to_vec(), Dtype::F32, bytes));
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(WEIGHTS)
    }

    fn write(&self) -> PathBuf {
        let views = self.tensors.iter().map(|(name, (shape, dtype, bytes))| {
            (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        std::fs::write(self.path(), safetensors::serialize(views, None).unwrap()).unwrap();
        self.path()
    }

    fn with(self, file: &str, text: &str) -> Self {
        let path = self.folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    fn convert(&self) -> Result<GgufFile> {
        let out = self.folder.path().join("out.gguf");
        let size = Source::beside(&self.write())?.write(&out, &mut |_, _| {})?;
        assert_eq!(size.0, out.metadata().unwrap().len());
        Ok(GgufFile::open(&out)?)
    }

    fn error(&self) -> String {
        format!("{:#}", self.convert().unwrap_err())
    }
}

fn values(file: &GgufFile, name: &str) -> Vec<f32> {
    let (dtype, _, place) = file.tensor(name).unwrap();
    assert_eq!(dtype.label(), "F32");
    let bytes = std::fs::read(file.path()).unwrap();
    let bytes = &bytes[place.start as usize..place.end as usize];
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn of(folder: &Folder, name: &str) -> Vec<f32> {
    let (_, _, bytes) = &folder.tensors[name];
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

#[test]
fn a_bert_becomes_a_file_with_llama_cpps_names() {
    let folder = Folder::bert();
    let file = folder.convert().unwrap();
    assert_eq!(file.text("general.architecture"), Some("bert"));
    assert_eq!(file.number("bert.pooling_type"), Some(1), "sentence-transformers' default");
    assert_eq!(file.flag("bert.attention.causal"), Some(false));
    assert_eq!(file.number("general.file_type"), Some(0));
    assert_eq!(file.quant_label(), "F32");
    assert_eq!(file.tensors().len(), 5 + 12 + 4, "the pooler and pretraining's head are left out");
    for (name, source) in [
        ("token_embd.weight", "bert.embeddings.word_embeddings.weight"),
        ("token_embd_norm.bias", "bert.embeddings.LayerNorm.beta"),
        ("blk.0.attn_k.weight", "bert.encoder.layer.0.attention.self.key.weight"),
        ("blk.0.attn_output_norm.weight", "bert.encoder.layer.0.attention.output.LayerNorm.gamma"),
        ("blk.0.ffn_down.weight", "bert.encoder.layer.0.output.dense.weight"),
        ("blk.0.layer_output_norm.bias", "bert.encoder.layer.0.output.LayerNorm.beta"),
    ] {
        assert_eq!(values(&file, name), of(&folder, source), "{name}");
    }
    let tokenizer = Tokenizer::from_gguf(&file).unwrap();
    assert_eq!(tokenizer.encode("Playing. x").unwrap(), [2, 5, 6, 7, 1, 3]);
}

#[test]
fn a_distilbert_keeps_its_classifier_and_its_labels() {
    let folder = Folder::distilbert();
    let file = folder.convert().unwrap();
    assert!(!file.tensors().contains_key("token_types.weight"));
    assert_eq!(file.number("bert.pooling_type"), None);
    assert_eq!(file.text("llm_bench.classifier_activation"), Some("relu"));
    let labels = file.array("bert.classifier.output_labels").unwrap();
    let labels: Vec<_> = labels.iter().map(|label| label.to_string().unwrap()).collect();
    assert_eq!(labels, ["NEGATIVE", "POSITIVE"]);
    assert_eq!(values(&file, "cls.weight"), of(&folder, "pre_classifier.weight"));
    assert_eq!(values(&file, "cls.output.bias"), of(&folder, "classifier.bias"));
    let lin2 = "distilbert.transformer.layer.0.ffn.lin2.weight";
    assert_eq!(values(&file, "blk.0.ffn_down.weight"), of(&folder, lin2));
}

#[test]
fn sixteen_bit_weights_become_float32_exactly() {
    let mut folder = Folder::bert();
    let whole = values(&folder.convert().unwrap(), "token_embd.weight");
    let name = "bert.embeddings.word_embeddings.weight";
    let half = of(&folder, name).iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
    folder.tensors.insert(name.into(), (vec![8, 32], Dtype::F16, half));
    assert_eq!(values(&folder.convert().unwrap(), "token_embd.weight"), whole);
}

#[test]
fn smaller_types_keep_norms_biases_positions_and_segments_in_float32() {
    let folder = Folder::bert();
    let source = folder.convert().unwrap();
    for quant in [Quant::F16, Quant::BF16, Quant::Q8_0, Quant::Q4_0] {
        let out = folder.folder.path().join("small.gguf");
        let targets = [Target { quant, out: out.clone() }];
        quantize::quantize(&source, &targets, 1, false, &mut |_, _| {}).unwrap();
        let file = GgufFile::open(&out).unwrap();
        assert_eq!(file.recipe(), quant.to_string());
        assert_eq!(file.text("general.architecture"), Some("bert"));
        for name in [
            "position_embd.weight",
            "token_types.weight",
            "token_embd_norm.weight",
            "blk.0.attn_q.bias",
            "blk.0.layer_output_norm.weight",
        ] {
            assert_eq!(values(&file, name), values(&source, name), "{name} of {quant}");
        }
        let label = file.tensors()["blk.0.ffn_up.weight"].dtype.label();
        assert_eq!(label, quant.to_string());
    }
}

#[test]
fn pooling_is_the_one_of_sentence_transformers() {
    let cls = r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#;
    let file = Folder::bert().with("1_Pooling/config.json", cls).convert().unwrap();
    assert_eq!(file.number("bert.pooling_type"), Some(2));
    let max = r#"{"pooling_mode_max_tokens": true}"#;
    assert!(Folder::bert().with("1_Pooling/config.json", max).error().contains("another pooling"));
    let dense = r#"[{"type": "sentence_transformers.models.Dense"}]"#;
    assert!(Folder::bert().with("modules.json", dense).error().contains("models.Dense"));
}

#[test]
fn a_model_that_computes_another_function_is_refused() {
    let with = |from: &str, to: &str| {
        assert!(CONFIG.contains(from));
        Folder::bert().with("config.json", &CONFIG.replace(from, to)).error()
    };
    assert!(with("\"bert\"", "\"roberta\"").contains("expected bert or distilbert"));
    assert!(with("\"gelu\"", "\"gelu_new\"").contains("hidden_act"));
    let relative =
        with("{\"model_type\"", "{\"position_embedding_type\": \"relative_key\", \"model_type\"");
    assert!(relative.contains("absolute"), "{relative}");
    assert!(with("{\"model", "{\"is_decoder\": true, \"model").contains("is_decoder"));
    let mut adapter = Folder::bert();
    adapter.add("bert.encoder.layer.0.adapter.weight", &[32]);
    assert!(adapter.error().contains("encoder.layer.0.adapter.weight"));
    let mut deeper = Folder::bert();
    deeper.add("bert.encoder.layer.1.output.dense.weight", &[32, 64]);
    assert!(deeper.error().contains("one more"));
}

#[test]
fn shapes_are_those_of_the_configuration() {
    let mut narrow = Folder::bert();
    narrow.add("bert.encoder.layer.0.output.dense.weight", &[32, 63]);
    let error = narrow.error();
    assert!(error.contains("expected shape [32, 64]") && error.contains("[32, 63]"), "{error}");
    let mut less = Folder::bert();
    less.tensors.remove("bert.embeddings.LayerNorm.beta");
    assert!(less.error().contains("embeddings.LayerNorm.bias"));
    let vast = CONFIG.replace("\"hidden_size\": 32", "\"hidden_size\": 4294967294");
    assert!(Folder::bert().with("config.json", &vast).error().contains("n_embd"));
    let vocabulary = VOCABULARY.replace("play\n", "");
    let error = Folder::bert().with("vocab.txt", &vocabulary).error();
    assert!(error.contains("expected 8 tokens") && error.contains("found 7"), "{error}");
    let mut twice = Folder::bert();
    twice.add("embeddings.word_embeddings.weight", &[8, 32]);
    assert!(twice.error().contains("two tensors are embeddings.word_embeddings.weight"));
    let mut integers = Folder::bert();
    let name = "bert.embeddings.word_embeddings.weight";
    integers.tensors.insert(name.into(), (vec![8, 32], Dtype::I8, vec![0; 256]));
    assert!(integers.error().contains("expected F32, F16 or BF16, found I8"));
}

#[test]
fn weights_that_are_no_numbers_are_found_with_their_place() {
    for (bad, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let mut folder = Folder::bert();
        let name = "bert.embeddings.position_embeddings.weight";
        let (_, _, bytes) = folder.tensors.get_mut(name).unwrap();
        bytes[4 * 100..4 * 101].copy_from_slice(&bad.to_le_bytes());
        let error = folder.error();
        assert!(error.contains(&format!("found {shown} at index 100")), "{error}");
        assert!(!folder.folder.path().join("out.gguf").exists(), "nothing half-made stays");
    }
}

#[test]
fn a_damaged_file_is_refused_and_never_allocated_for() {
    let folder = Folder::bert();
    let whole = std::fs::read(folder.write()).unwrap();
    let refused = |bytes: &[u8]| {
        std::fs::write(folder.path(), bytes).unwrap();
        format!("{:#}", Source::beside(&folder.path()).unwrap_err())
    };
    for cut in [0, 7, 8, 100, whole.len() - 1] {
        assert!(refused(&whole[..cut]).contains("not a usable safetensors file"), "{cut}");
    }
    let mut vast = whole.clone();
    vast[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(refused(&vast).contains("a header of at most"));
    let header = br#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,16]}}"#;
    let mut overflow = (header.len() as u64).to_le_bytes().to_vec();
    overflow.extend(header);
    overflow.extend([0; 16]);
    assert!(refused(&overflow).contains("a directory of tensors"));
    let mut bit = whole.clone();
    // Any byte of the header may be wrong; none may crash.
    for at in (8..2000).step_by(7) {
        bit[at] ^= 0x15;
        std::fs::write(folder.path(), &bit).unwrap();
        let _ = Source::beside(&folder.path());
        bit[at] = whole[at];
    }
}

#[test]
fn a_fast_tokenizer_with_other_rules_than_berts_is_refused() {
    let json = r#"{"normalizer": {"type": "BertNormalizer", "clean_text": true,
        "handle_chinese_chars": true, "strip_accents": null, "lowercase": false},
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "model": {"type": "WordPiece",
        "unk_token": "[UNK]", "continuing_subword_prefix": "\u0023#", "max_input_chars_per_word": 100,
        "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "Play": 5,
        "\u0023#ing": 6, "é": 7}}}"#;
    let file = Folder::bert().with("tokenizer.json", json).convert().unwrap();
    let tokenizer = Tokenizer::from_gguf(&file).unwrap();
    // Capitals and accents stay.
    assert_eq!(tokenizer.encode("Playing play é").unwrap(), [2, 5, 6, 1, 7, 3]);
    for (from, to, expected) in [
        ("\"BertPreTokenizer\"", "\"Whitespace\"", "/pre_tokenizer/type"),
        ("\"WordPiece\"", "\"Unigram\"", "/model/type"),
        ("\"strip_accents\": null", "\"strip_accents\": true", "strip_accents"),
        ("\"é\": 7", "\"é\": 6", "id of its own"),
        ("\"é\": 7", "\"é\": 70", "id of its own"),
    ] {
        assert!(json.contains(from), "{from}");
        let error = Folder::bert().with("tokenizer.json", &json.replace(from, to)).error();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_classifier_of_the_registry_stands_in_for_the_one_that_a_checkpoint_lacks() {
    let labels = vec!["NEGATIVE".to_owned(), "POSITIVE".to_owned()];
    let folder = Folder::bert();
    let checkpoint = || Checkpoint::open(&folder.write()).unwrap();
    let spec = config::read(folder.folder.path(), true).unwrap();
    let spec = EncoderSpec { labels, ..spec };
    let row = |x: f32| serde_json::to_string(&vec![x; 32]).unwrap();
    let json = format!(
        r#"{{"trained_on": "this", "scale": 0.25, "weight": [{}, {}], "bias": [-1.0, 1.0]}}"#,
        row(-0.5),
        row(0.5)
    );
    let head = Head::parse("head.json", json.as_bytes(), &spec).unwrap();
    let (vocabulary, _) = tokenizer::read(folder.folder.path()).unwrap();
    let source = Source::new(spec.clone(), vocabulary, checkpoint(), Some(head)).unwrap();
    let out = folder.folder.path().join("out.gguf");
    source.write(&out, &mut |_, _| {}).unwrap();
    let file = GgufFile::open(&out).unwrap();
    let identity = values(&file, "cls.weight");
    assert_eq!((identity[0], identity[1], identity[33], identity[1023]), (0.25, 0.0, 0.25, 0.25));
    assert_eq!(values(&file, "cls.output.weight")[31..33], [-0.5, 0.5]);
    assert_eq!(values(&file, "cls.output.bias"), [-1.0, 1.0]);
    for (from, to) in
        [("[-1.0, 1.0]", "[1.0]"), ("0.25", "1e39"), ("0.5,", ""), ("scale", "scales")]
    {
        assert!(
            Head::parse("head.json", json.replace(from, to).as_bytes(), &spec).is_err(),
            "{to}"
        );
    }
}

#[test]
fn every_classifier_of_the_registry_is_there_and_fits_its_model() {
    let registry = crate::model::registry::Registry::embedded().unwrap();
    for model in registry.models() {
        let (Some(head), Some(spec)) = (&model.head, &model.encoder) else { continue };
        Head::parse(&head.file, &head.bytes().unwrap(), spec).unwrap();
    }
}
