//! Tests of reading GGUF files: valid ones, and every way to break one.

use std::path::Path;

use super::fixture::{Fixture, llama};
use super::*;

fn open(fixture: &Fixture) -> Result<GgufFile, GgufError> {
    open_bytes(&fixture.bytes())
}

fn open_bytes(bytes: &[u8]) -> Result<GgufFile, GgufError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.gguf");
    std::fs::write(&path, bytes).unwrap();
    GgufFile::open(&path)
}

fn refusal(bytes: &[u8]) -> String {
    let error = open_bytes(bytes).unwrap_err();
    assert!(matches!(error, GgufError::Malformed { .. }), "{error:?}");
    let text = error.to_string();
    for part in ["broken.gguf", "expected", "found"] {
        assert!(text.contains(part), "{text}");
    }
    text
}

#[test]
fn a_llama_file_gives_its_hyper_parameters_and_sizes() {
    let file = open(&llama()).unwrap();
    let config = file.llama_config().unwrap();
    assert_eq!(
        config,
        LlamaConfig {
            n_layers: 2,
            n_embd: 64,
            n_ff: 128,
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 16,
            n_vocab: 96,
            context_length: 256,
            rope_base: 500_000.0,
            rms_eps: f64::from(1e-5f32),
            tied: true,
            has_rope_freqs: true,
        }
    );
    assert_eq!((file.name().as_str(), file.quant_label().as_str()), ("Fixture", "Q4_0"));
    let block = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128;
    assert_eq!(file.n_params(), 2 * (block + 128) + 96 * 64 + 64 + 8);
    // Blocks in Q4_0 with f32 norms, the last norm, the tied embedding in Q8_0.
    let bytes = 2 * (block / 32 * 18 + 2 * 64 * 4) + 64 * 4 + 96 * 64 / 32 * 34;
    assert_eq!(file.weight_bytes_per_token(), bytes);
    let (dtype, shape, place) = file.tensor("output_norm.weight").unwrap();
    assert_eq!((&*dtype.label(), shape, place.end - place.start), ("F32", &[64][..], 256));
    assert_eq!(config.kv_values_per_position(), 2 * 2 * 2 * 16);
    assert!(!file.is_synthetic());
}

#[test]
fn tensors_that_share_bytes_are_refused() {
    let good = llama().bytes();
    assert!(open_bytes(&good).is_ok());
    // The last tensor moves onto the one before it: to its start, and to its last 32 bytes.
    let offset = |t: &str| {
        let at = good.windows(t.len()).position(|w| w == t.as_bytes()).unwrap() + t.len();
        // Behind the name: the number of dimensions, two dimensions, the type.
        at + 4 + 2 * 8 + 4
    };
    let read = |at: usize| u64::from_le_bytes(good[at..at + 8].try_into().unwrap());
    let (up, down) = (offset("blk.1.ffn_up.weight"), offset("blk.1.ffn_down.weight"));
    for moved in [read(up), read(down) - 32] {
        let mut bytes = good.clone();
        bytes[down..down + 8].copy_from_slice(&moved.to_le_bytes());
        let text = refusal(&bytes);
        assert!(text.contains("blk.1.ffn_up.weight") && text.contains("ffn_down"), "{text}");
    }
}

#[test]
fn an_untied_model_reads_its_output_matrix_and_not_its_embedding() {
    let tied = open(&llama()).unwrap();
    let untied = open(&llama().tensor("output.weight", &[64, 96], 0)).unwrap();
    assert!(!untied.llama_config().unwrap().tied);
    let swapped = 96 * 64 * 4 - 96 * 64 / 32 * 34;
    assert_eq!(untied.weight_bytes_per_token(), tied.weight_bytes_per_token() + swapped);
    assert_eq!(untied.weights_per_token(), tied.weights_per_token());
    assert_eq!(untied.n_params(), tied.n_params() + 96 * 64);
}

#[test]
fn synthetic_weights_are_told_by_their_key() {
    assert!(open(&llama().flag(SYNTHETIC_KEY, true)).unwrap().is_synthetic());
    assert!(open(&llama().text(SYNTHETIC_KEY, "seed 1")).unwrap().is_synthetic());
    assert!(!open(&llama().flag(SYNTHETIC_KEY, false)).unwrap().is_synthetic());
}

#[test]
fn a_recipe_that_the_bytes_contradict_is_not_believed() {
    let wrong = llama().u32("general.file_type", 7);
    assert_eq!(open(&wrong).unwrap().quant_label(), "Q4_0");
    let none = llama().without("general.file_type");
    assert_eq!(open(&none).unwrap().quant_label(), "Q4_0");
}

/// The fixture with all its Q4_0 matrices as IQ4_NL, whose blocks have the same size.
fn iq4_nl() -> Fixture {
    let mut f = llama().u32("general.file_type", 25);
    f.tensors.iter_mut().filter(|t| t.dtype == 2).for_each(|t| t.dtype = 20);
    f
}

#[test]
fn iq4_nl_is_read_although_candle_does_not_know_it() {
    let (file, q4_0) = (open(&iq4_nl()).unwrap(), open(&llama()).unwrap());
    let (dtype, shape, place) = file.tensor("blk.1.ffn_up.weight").unwrap();
    assert_eq!((dtype, shape), (StoredType::Iq4Nl, &[128, 64][..]));
    assert_eq!(place, q4_0.tensor("blk.1.ffn_up.weight").unwrap().2);
    assert_eq!(file.llama_config().unwrap(), q4_0.llama_config().unwrap());
    assert_eq!(file.weight_bytes_per_token(), q4_0.weight_bytes_per_token());
    assert_eq!(file.quant_label(), "IQ4_NL");
    let shown = file.inspect();
    assert_eq!((shown.tensors[0].dtype.as_str(), shown.tensors[0].count), ("IQ4_NL", 14));
    // candle would misread the blocks.
    let refused = file.into_content().unwrap_err().to_string();
    assert!(refused.contains("blk.0.attn_k.weight is IQ4_NL"), "{refused}");
    assert!(q4_0.into_content().is_ok());
}

#[test]
fn rows_of_iq4_nl_are_whole_blocks_inside_the_file() {
    let odd = iq4_nl().tensor("blk.0.attn_q.weight", &[48, 64], 20);
    assert!(refusal(&odd.bytes()).contains("whole blocks of 32"));
    let bytes = iq4_nl().bytes();
    assert!(refusal(&bytes[..bytes.len() - 1]).contains("truncated"));
}

#[test]
fn other_files_are_refused_with_what_they_are() {
    assert!(refusal(b"\x7fELF....").contains("\"GGUF\""));
    assert!(refusal(b"").contains("truncated"));
    assert!(refusal(b"GGUF\x01\0\0\0").contains("2 or 3"));
    // The version as big-endian files write it.
    assert!(refusal(b"GGUF\0\0\0\x03").contains("2 or 3"));
    let missing = GgufFile::open(Path::new("/nonesuch/a.gguf")).unwrap_err().to_string();
    assert!(missing.contains("/nonesuch/a.gguf"), "{missing}");
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(GgufFile::open(folder.path()), Err(GgufError::Io { .. })));
}

#[test]
fn a_file_cut_anywhere_is_refused_and_never_panics() {
    let bytes = llama().bytes();
    let header = (0..3000).step_by(11);
    for len in header.chain((3000..bytes.len()).step_by(997)).chain([bytes.len() - 1]) {
        assert!(open_bytes(&bytes[..len]).is_err(), "cut at {len}");
    }
    assert!(refusal(&bytes[..bytes.len() - 1]).contains("truncated"));
}

#[test]
fn a_flipped_byte_in_the_header_never_panics() {
    let bytes = llama().bytes();
    for at in (0..2000).step_by(9) {
        for flip in [0x01, 0xff] {
            let mut broken = bytes.clone();
            broken[at] ^= flip;
            if let Ok(file) = open_bytes(&broken) {
                let _ = file.inspect().to_string();
            }
        }
    }
}

#[test]
fn absurd_counts_are_refused_before_anything_is_allocated() {
    let header = |tensors: u64, metadata: u64| {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(metadata.to_le_bytes());
        bytes.extend([0; 64]);
        bytes
    };
    assert!(refusal(&header(u64::MAX, 0)).contains("tensor count"));
    assert!(refusal(&header(0, 1 << 40)).contains("metadata count"));
    assert!(refusal(&header(1000, 0)).contains("tensor count"));
    let string = |len: u64| {
        let mut bytes = header(0, 1);
        bytes.truncate(24);
        bytes.extend(len.to_le_bytes());
        bytes.extend([b'a'; 32]);
        bytes
    };
    assert!(refusal(&string(u64::MAX)).contains("metadata key"));
    assert!(refusal(&string(1 << 35)).contains("metadata key"));
}

#[test]
fn arrays_that_claim_too_much_or_nest_are_refused() {
    let array = |element: u32, len: u64| {
        let value = [&9u32.to_le_bytes()[..], &element.to_le_bytes(), &len.to_le_bytes()].concat();
        llama().raw("x.array", value).bytes()
    };
    assert!(refusal(&array(4, u64::MAX / 2)).contains("x.array"));
    assert!(refusal(&array(8, 1 << 30)).contains("x.array"));
    assert!(refusal(&array(9, 1)).contains("nested"));
    assert!(refusal(&array(77, 1)).contains("77"));
}

#[test]
fn tensors_outside_the_file_or_with_impossible_shapes_are_refused() {
    let with = |edit: fn(&mut fixture::Tensor)| {
        let mut f = llama();
        edit(f.tensors.last_mut().unwrap());
        f.bytes()
    };
    assert!(refusal(&with(|t| t.dims = vec![128, 1 << 30])).contains("truncated"));
    assert!(refusal(&with(|t| t.dims = vec![1 << 33, 1 << 33])).contains("shape"));
    assert!(refusal(&with(|t| t.dims = vec![0, 4])).contains("shape"));
    assert!(refusal(&with(|t| t.dims = vec![1; 9])).contains("dimensions"));
    assert!(refusal(&with(|t| t.dims = vec![33, 64])).contains("whole blocks"));
    // Pushes the next tensor's offset beyond the file.
    let mut f = llama();
    f.tensors.swap(0, 1);
    let mut bytes = f.bytes();
    let name = b"blk.1.ffn_down.weight";
    let at = bytes.windows(name.len()).position(|w| w == name).unwrap() + name.len();
    bytes[at + 4 + 16 + 4..][..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(refusal(&bytes).contains("offset"));
}

#[test]
fn duplicates_and_bad_alignment_are_refused() {
    let mut twice = llama();
    let again = twice.tensors[0].clone();
    twice.tensors.push(again);
    assert!(refusal(&twice.bytes()).contains("twice"));
    let mut keys = llama();
    keys.metadata.push(keys.metadata[0].clone());
    assert!(refusal(&keys.bytes()).contains("twice"));
    for bad in [0, 3, 1 << 20] {
        assert!(refusal(&llama().u32("general.alignment", bad).bytes()).contains("alignment"));
    }
}

#[test]
fn hyper_parameters_that_contradict_each_other_are_refused() {
    let refused = |f: Fixture, part: &str| {
        let error = open(&f).unwrap().llama_config().unwrap_err();
        assert!(matches!(error, GgufError::Unsupported { .. }));
        assert!(error.to_string().contains(part), "{part} not in {error}");
    };
    refused(llama().text("general.architecture", "mamba"), "mamba");
    refused(llama().u32("llama.attention.head_count", 0), "head_count");
    refused(llama().u32("llama.attention.head_count_kv", 3), "divisor");
    refused(llama().u32("llama.attention.head_count_kv", 0), "head_count_kv");
    refused(llama().u32("llama.attention.head_count", 6), "divisor");
    refused(llama().f32("llama.attention.layer_norm_rms_epsilon", f32::NAN), "epsilon");
    refused(llama().f32("llama.rope.freq_base", f32::INFINITY), "freq_base");
    refused(llama().u32("llama.rope.dimension_count", 8), "dimension_count");
    refused(llama().u32("llama.block_count", 3), "blk.2.attn_norm.weight");
    refused(llama().u32("llama.expert_count", 8), "experts");
    refused(llama().without("llama.context_length"), "context_length");
    refused(llama().tensor("blk.1.attn_k.weight", &[64, 64], 2), "[32, 64]");
    refused(llama().tensor("rope_freqs.weight", &[16], 0), "rope_freqs");
    refused(llama().texts("tokenizer.ggml.tokens", &vec!["a"; 97]), "96 rows");
    // A value of another type is different from a missing value.
    refused(llama().text("llama.attention.head_count_kv", "two"), "head_count_kv");
    refused(llama().i32s("llama.attention.head_count_kv", &[2, 2]), "head_count_kv");
    refused(llama().u32("llama.rope.freq_base", 10_000), "freq_base");
    let f64 = |value: f64| [&12u32.to_le_bytes()[..], &value.to_le_bytes()].concat();
    refused(llama().raw("llama.rope.freq_base", f64(1e300)), "freq_base");
    refused(llama().raw("llama.attention.layer_norm_rms_epsilon", f64(1e-300)), "epsilon");
}

#[test]
fn a_model_that_means_another_function_is_refused() {
    let refused = |f: Fixture, parts: &[&str]| {
        let error = open(&f).unwrap().llama_config().unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{part} not in {error}");
        }
    };
    refused(llama().tensor("blk.0.attn_q.bias", &[64], 0), &["attn_q.bias", "not part"]);
    refused(llama().tensor("blk.2.attn_q.weight", &[64, 64], 2), &["blk.2.attn_q", "2 layers"]);
    refused(llama().tensor("blk.01.attn_q.weight", &[64, 64], 2), &["blk.01.attn_q"]);
    refused(llama().u32("split.count", 3), &["one of 3 parts", "llama-gguf-split"]);
    refused(llama().text("llama.rope.scaling.type", "linear"), &["scaling.type", "linear"]);
    assert!(open(&llama().text("llama.rope.scaling.type", "none")).unwrap().llama_config().is_ok());
}

#[test]
fn a_type_that_no_engine_computes_is_refused_by_its_name_and_the_rest_is_shown() {
    // Rows of 128 are no whole blocks of 256.
    for (number, name) in
        [(39, "MXFP4"), (34, "TQ1_0"), (23, "IQ4_XS"), (5, "Q4_3"), (99, "type 99")]
    {
        let mut f = llama();
        f.tensors.last_mut().unwrap().dtype = number;
        let file = open(&f).unwrap();
        let error = file.llama_config().unwrap_err();
        assert!(matches!(error, GgufError::UnknownType { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("blk.1.ffn_down.weight") && text.contains(name), "{text}");
        let inspection = file.inspect();
        let row = inspection.tensors.iter().find(|row| row.dtype == name).unwrap();
        assert_eq!((row.count, row.elements), (1, 64 * 128));
        assert!(inspection.problem.unwrap().contains(name));
        assert!(inspection.metadata.len() > 9 && inspection.quant == "Q4_0");
    }
}

#[test]
fn every_number_has_one_type_and_one_name() {
    let mut names = std::collections::BTreeSet::new();
    for number in 0..=42 {
        let dtype = StoredType::of(number);
        assert_eq!(dtype.number(), number);
        assert!(!matches!(dtype, StoredType::Unknown(_)), "{number}");
        assert!(names.insert(dtype.label().into_owned()), "{number}");
    }
    assert_eq!(StoredType::of(43).label(), "type 43");
}

#[test]
fn a_key_that_changes_the_function_is_refused_unless_its_value_changes_nothing() {
    let ok = |f: Fixture| open(&f).unwrap().llama_config().map(drop).map_err(|e| e.to_string());
    for (key, bad, good) in [
        ("llama.rope.scale_linear", 4.0, 1.0),
        ("llama.rope.scaling.factor", 4.0, 0.0),
        ("llama.rope.scaling.attn_factor", 2.0, 1.0),
        ("llama.attn_logit_softcapping", 50.0, 0.0),
        ("llama.final_logit_softcapping", 30.0, 0.0),
        ("llama.logit_scale", 0.5, 1.0),
        ("llama.attention.scale", 0.1, 0.25),
        ("llama.attention.max_alibi_bias", 8.0, 0.0),
    ] {
        let error = ok(llama().f32(key, bad)).unwrap_err();
        assert!(error.contains(key) && error.contains(&bad.to_string()), "{error}");
        assert_eq!(ok(llama().f32(key, good)), Ok(()), "{key}");
    }
    let error = ok(llama().flag("llama.attention.causal", false)).unwrap_err();
    assert!(error.contains("llama.attention.causal") && error.contains("false"), "{error}");
    assert_eq!(ok(llama().flag("llama.attention.causal", true)), Ok(()));
    assert!(ok(llama().u32("llama.attention.sliding_window", 128)).is_err());
    assert_eq!(ok(llama().u32("llama.attention.sliding_window", 256)), Ok(()));
    assert!(ok(llama().i32s("llama.rope.dimension_sections", &[1, 2])).is_err());
    assert!(ok(llama().text("llama.hidden_activation", "gelu")).unwrap_err().contains("gelu"));
    assert!(ok(llama().text("general.type", "adapter")).unwrap_err().contains("adapter"));
    // A factor without a type is llama.cpp's linear scaling; the type `none` switches it off.
    let none =
        llama().f32("llama.rope.scaling.factor", 4.0).text("llama.rope.scaling.type", "none");
    assert_eq!(ok(none), Ok(()));
}

#[test]
fn keys_that_nobody_knows_are_listed() {
    let file = open(&llama().u32("llama.new.thing", 1).u32("llama.vocab_size", 96)).unwrap();
    assert_eq!(file.unknown_keys(), ["llama.new.thing"]);
    assert!(file.llama_config().is_ok());
    let inspection = file.inspect();
    assert!(inspection.to_string().contains("unknown keys     llama.new.thing"));
    assert!(open(&llama()).unwrap().unknown_keys().is_empty());
}

#[test]
fn a_recipe_whose_rows_fell_back_says_to_what() {
    // Rows of 64 and 128 are no whole blocks of 256.
    let mut f = llama().u32("general.file_type", 15);
    f.tensors.iter_mut().filter(|t| t.dtype == 2).for_each(|t| {
        t.dtype = 6;
        t.bytes = t.bytes / 18 * 22;
    });
    let file = open(&f).unwrap();
    assert_eq!((file.quant_label(), file.recipe()), ("Q4_K_M+Q5_0+Q8_0".into(), "Q4_K_M".into()));
    // The same types without that recipe are what they are.
    assert_eq!(open(&f.clone().without("general.file_type")).unwrap().quant_label(), "Q5_0");
    assert_eq!(open(&f.u32("general.file_type", 18)).unwrap().quant_label(), "Q5_0");
}

#[test]
fn names_that_are_no_text_or_equal_after_their_last_nul_are_refused() {
    let mut f = llama();
    f.metadata.push(("general.name\0".into(), f.metadata[0].1.clone()));
    assert!(refusal(&f.bytes()).contains("twice"));
    let mut bytes = llama().bytes();
    let name = b"general.name";
    let at = bytes.windows(name.len()).position(|w| w == name).unwrap();
    bytes[at] = 0xff;
    assert!(refusal(&bytes).contains("UTF-8"));
}

#[test]
fn a_header_beyond_the_first_read_is_read_on() {
    let folder = tempfile::tempdir().unwrap();
    let long = "x".repeat(3 << 20);
    let path = llama().text("a.long.text", &long).write(folder.path());
    let file = GgufFile::open(&path).unwrap();
    assert_eq!(file.text("a.long.text").map(str::len), Some(long.len()));
    assert_eq!(file.llama_config().unwrap(), open(&llama()).unwrap().llama_config().unwrap());
}

#[test]
fn arrays_cannot_ask_for_more_memory_than_the_file_has_a_use_for() {
    // Each byte of such an array would become a value of 32 bytes.
    let bytes = |n: usize| {
        let head = [&9u32.to_le_bytes()[..], &0u32.to_le_bytes(), &(n as u64).to_le_bytes()];
        [&head.concat()[..], &vec![0; n]].concat()
    };
    assert!(open(&llama().raw("x.a", bytes(1 << 16))).is_ok());
    assert!(refusal(&llama().raw("x.a", bytes((1 << 22) + 1)).bytes()).contains("x.a"));
    let both = llama().raw("x.a", bytes(1 << 21)).raw("x.b", bytes((1 << 21) + 1));
    assert!(refusal(&both.bytes()).contains("x.b"));
}

#[test]
fn an_inspection_is_text_and_data() {
    let inspection = open(&llama()).unwrap().inspect();
    let text = inspection.to_string();
    for part in ["Fixture", "Q4_0", "llama.block_count", "2 layers, 64 wide", "tied"] {
        assert!(text.contains(part), "{part} not in\n{text}");
    }
    let json = serde_json::to_value(&inspection).unwrap();
    assert_eq!(json["tensors"][0]["type"], "Q4_0");
    assert_eq!(json["tensors"][0]["count"], 14);
    assert_eq!(json["config"]["n_heads"], 4);
    let broken = open(&llama().u32("llama.block_count", 3)).unwrap().inspect();
    assert!(broken.config.is_none() && broken.problem.unwrap().contains("blk.2"));
}
