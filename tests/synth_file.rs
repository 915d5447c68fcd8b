//! Synthetic files as other programs see them: read back with candle, run through a plain float
//! forward pass, written twice.

use std::path::{Path, PathBuf};

use candle_core::quantized::{GgmlDType, gguf_file};
use candle_core::{D, Device, Tensor};
use llm_bench::model::arch::{ArchSpec, RopeScaling};
use llm_bench::model::quant::Quant;
use llm_bench::model::synth::{file_size, synthesize, weight_bytes_per_token};

fn small(n_vocab: u32) -> ArchSpec {
    ArchSpec {
        name: "Small".into(),
        n_layers: 8,
        n_embd: 256,
        n_ff: 768,
        n_heads: 8,
        n_kv_heads: 2,
        head_dim: 32,
        n_vocab,
        context_length: 4096,
        rope_base: 500_000.0,
        rms_eps: 1e-5,
        rope_scaling: Some(RopeScaling {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192,
        }),
        tied: true,
    }
}

struct Made {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

fn make(spec: &ArchSpec, quant: Quant, seed: u64, threads: usize) -> Made {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    synthesize(spec, quant, seed, &path, threads, &mut |_, _| {}).unwrap();
    Made { _folder: folder, path }
}

struct Model {
    content: gguf_file::Content,
    file: std::fs::File,
}

impl Model {
    fn open(path: &Path) -> Self {
        let mut file = std::fs::File::open(path).unwrap();
        let content = gguf_file::Content::read(&mut file).unwrap();
        Self { content, file }
    }

    fn dtype(&self, name: &str) -> GgmlDType {
        self.content.tensor_infos[name].ggml_dtype
    }

    fn tensor(&mut self, name: &str) -> Tensor {
        let cpu = Device::Cpu;
        let q = self.content.tensor(&mut self.file, name, &cpu).unwrap();
        q.dequantize(&cpu).unwrap()
    }
}

fn mean_and_sigma(t: &Tensor) -> (f64, f64) {
    let values: Vec<f32> = t.flatten_all().unwrap().to_vec1().unwrap();
    let n = values.len() as f64;
    let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let square = values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n;
    (mean, (square - mean * mean).sqrt())
}

#[test]
fn every_quantization_holds_weights_of_the_same_mean_and_spread() {
    let spec = small(2048);
    let mut exact = Model::open(&make(&spec, Quant::F32, 3, 2).path);
    for quant in [Quant::F16, Quant::BF16, Quant::Q8_0, Quant::Q4_0, Quant::Q4_K_M] {
        let made = make(&spec, quant, 3, 2);
        let mut model = Model::open(&made.path);
        let names: Vec<String> = exact.content.tensor_infos.keys().cloned().collect();
        for name in names {
            let (mean, sigma) = mean_and_sigma(&model.tensor(&name));
            let (want_mean, want) = mean_and_sigma(&exact.tensor(&name));
            if name.contains("norm") || name.contains("rope") {
                assert_eq!((mean, sigma), (want_mean, want), "{name}: norms are F32 everywhere");
                continue;
            }
            assert!((sigma / want - 1.0).abs() < 0.03, "{quant} {name}: {sigma} for {want}");
            assert!(mean.abs() < 0.03 * want, "{quant} {name}: mean {mean}, sigma {want}");
        }
    }
}

#[test]
fn the_70b_shape_gets_q5_k_values_where_llama_cpp_gives_them() {
    let spec = ArchSpec { n_layers: 80, n_embd: 256, n_ff: 256, tied: false, ..small(512) };
    let made = make(&spec, Quant::Q4_K_M, 1, 2);
    let mut model = Model::open(&made.path);
    assert_eq!(model.dtype("blk.0.attn_v.weight"), GgmlDType::Q6K);
    assert_eq!(model.dtype("blk.10.attn_v.weight"), GgmlDType::Q5K);
    assert_eq!(model.dtype("blk.12.attn_v.weight"), GgmlDType::Q6K);
    assert_eq!(model.dtype("output.weight"), GgmlDType::Q6K);
    assert_eq!(model.dtype("token_embd.weight"), GgmlDType::Q4K);
    let (_, q4k) = mean_and_sigma(&model.tensor("blk.10.ffn_up.weight"));
    let (mean, q5k) = mean_and_sigma(&model.tensor("blk.10.attn_v.weight"));
    assert!((q5k / q4k - 1.0).abs() < 0.03 && mean.abs() < 0.03 * q5k);
}

#[test]
fn the_bytes_depend_on_the_seed_and_not_on_the_number_of_threads() {
    let spec = small(512);
    let read =
        |seed, threads| std::fs::read(make(&spec, Quant::Q4_K_M, seed, threads).path).unwrap();
    let one = read(7, 1);
    assert!(one == read(7, 3), "one thread and three write different files");
    assert!(one != read(8, 1), "two seeds write the same file");
    assert_eq!(one.len() as u64, file_size(&spec, Quant::Q4_K_M).unwrap().0);
}

#[test]
fn the_bytes_that_a_token_reads_are_known_before_the_file_is_made() {
    for tied in [true, false] {
        let spec = ArchSpec { tied, ..small(512) };
        let made = make(&spec, Quant::Q4_K_M, 1, 2);
        let file = llm_bench::model::gguf::GgufFile::open(&made.path).unwrap();
        let stated = weight_bytes_per_token(&spec, Quant::Q4_K_M).unwrap();
        assert_eq!(stated.0, file.weight_bytes_per_token());
    }
}

#[test]
fn only_the_finished_file_is_left_in_the_folder() {
    let made = make(&small(512), Quant::Q8_0, 7, 2);
    let folder = made.path.parent().unwrap();
    let names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["model.gguf"]);
}

#[test]
fn progress_grows_up_to_the_size_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let mut seen = Vec::new();
    synthesize(&small(512), Quant::Q4_0, 1, &path, 2, &mut |done, total| {
        seen.push((done, total));
    })
    .unwrap();
    let size = std::fs::metadata(&path).unwrap().len();
    assert!(seen.is_sorted() && seen.iter().all(|&(_, total)| total == size));
    assert_eq!(seen.last(), Some(&(size, size)));
}

#[test]
fn a_model_that_the_disk_cannot_hold_is_refused_with_both_sizes() {
    let spec = ArchSpec { n_layers: 100_000, n_embd: 65_536, n_ff: 262_144, ..small(512) };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("huge.gguf");
    let err = synthesize(&spec, Quant::F16, 1, &path, 1, &mut |_, _| {}).unwrap_err();
    let text = format!("{err:#}");
    assert!(text.contains("not enough free disk") && text.contains("huge.gguf"), "{text}");
    assert!(text.contains("needs") && text.contains(" has "), "{text}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_row_that_is_no_whole_number_of_blocks_is_refused_with_the_tensor_s_name() {
    let spec = ArchSpec { n_ff: 100, ..small(512) };
    let err = file_size(&spec, Quant::Q4_K_M).unwrap_err().to_string();
    assert!(err.contains("blk.0.ffn_down.weight") && err.contains("256"), "{err}");
}

/// Plain float forward pass: rotary embedding over interleaved pairs, grouped heads, SwiGLU.
/// Returns logits and the rms of the residual stream after each layer.
fn forward(model: &mut Model, spec: &ArchSpec, ids: &[u32]) -> (Vec<Vec<f32>>, Vec<f32>) {
    let norm = |x: &Tensor, w: &Tensor| candle_nn::ops::rms_norm(x, w, spec.rms_eps).unwrap();
    let (n, hd) = (ids.len(), spec.head_dim as usize);
    let (h, kv) = (spec.n_heads as usize, spec.n_kv_heads as usize);
    let cpu = Device::Cpu;
    let factors: Vec<f32> = model.tensor("rope_freqs.weight").to_vec1().unwrap();
    let angles: Vec<f32> = (0..n)
        .flat_map(|p| {
            factors.iter().enumerate().map(move |(i, f)| {
                p as f32 * spec.rope_base.powf(-((2 * i) as f32) / hd as f32) / f
            })
        })
        .collect();
    let angles = Tensor::from_vec(angles, (n, hd / 2), &cpu).unwrap();
    let (cos, sin) = (angles.cos().unwrap(), angles.sin().unwrap());
    let mask: Vec<f32> =
        (0..n * n).map(|i| if i % n > i / n { f32::NEG_INFINITY } else { 0.0 }).collect();
    let mask = Tensor::from_vec(mask, (1, n, n), &cpu).unwrap();
    let embedding = model.tensor("token_embd.weight");
    let ids = Tensor::new(ids, &cpu).unwrap();
    let mut x = embedding.index_select(&ids, 0).unwrap();
    let mut rms = Vec::new();
    for layer in 0..spec.n_layers {
        let mut w = |part: &str| model.tensor(&format!("blk.{layer}.{part}.weight"));
        let y = norm(&x, &w("attn_norm"));
        let mut heads = |part: &str, heads: usize| {
            let z = y.matmul(&w(part).t().unwrap()).unwrap();
            let z = z.reshape((1, n, heads, hd)).unwrap().transpose(1, 2).unwrap();
            z.contiguous().unwrap()
        };
        let rotate = |z: Tensor| candle_nn::rotary_emb::rope_i(&z, &cos, &sin).unwrap();
        let spread = |z: Tensor| {
            let z = z.reshape((kv, 1, n, hd)).unwrap();
            let z = z.broadcast_as((kv, h / kv, n, hd)).unwrap();
            z.reshape((h, n, hd)).unwrap()
        };
        let q = rotate(heads("attn_q", h)).reshape((h, n, hd)).unwrap();
        let k = spread(rotate(heads("attn_k", kv)));
        let v = spread(heads("attn_v", kv));
        let scores = q.matmul(&k.transpose(1, 2).unwrap().contiguous().unwrap()).unwrap();
        let scores = (scores / f64::from(spec.head_dim).sqrt()).unwrap();
        let weights = candle_nn::ops::softmax(&scores.broadcast_add(&mask).unwrap(), D::Minus1);
        let a = weights.unwrap().matmul(&v).unwrap();
        let a = a.transpose(0, 1).unwrap().reshape((n, h * hd)).unwrap();
        x = (x + a.matmul(&w("attn_output").t().unwrap()).unwrap()).unwrap();
        let y = norm(&x, &w("ffn_norm"));
        let gate = y.matmul(&w("ffn_gate").t().unwrap()).unwrap().silu().unwrap();
        let up = y.matmul(&w("ffn_up").t().unwrap()).unwrap();
        let down = (gate * up).unwrap().matmul(&w("ffn_down").t().unwrap()).unwrap();
        x = (x + down).unwrap();
        let square: f32 = x.sqr().unwrap().mean_all().unwrap().to_scalar().unwrap();
        rms.push(square.sqrt());
    }
    let y = norm(&x, &model.tensor("output_norm.weight"));
    let logits = y.matmul(&embedding.t().unwrap()).unwrap();
    (logits.to_vec2().unwrap(), rms)
}

#[test]
fn activations_stay_sane_and_the_model_does_not_repeat_its_input() {
    let spec = small(2048);
    for quant in [Quant::F16, Quant::Q4_0, Quant::Q4_K_M] {
        let made = make(&spec, quant, 42, 2);
        let mut model = Model::open(&made.path);
        let ids: Vec<u32> = (0..48).map(|i| (i * 397 + 11) % 2032).collect();
        let (logits, rms) = forward(&mut model, &spec, &ids);
        assert!(rms.iter().all(|r| (0.2..2.0).contains(r)), "{quant}: {rms:?}");
        assert!(rms.is_sorted(), "{quant}: {rms:?}");
        let mut repeats = 0;
        let mut best = std::collections::HashSet::new();
        for (row, &id) in logits.iter().zip(&ids) {
            let t = Tensor::new(row.as_slice(), &Device::Cpu).unwrap();
            let (_, sigma) = mean_and_sigma(&t);
            assert!((3.0..5.0).contains(&sigma), "{quant}: logits of sigma {sigma}");
            let top = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
            repeats += usize::from(top == id as usize);
            best.insert(top);
        }
        assert!(repeats <= 2, "{quant}: {repeats} of 48 positions repeat their token");
        assert!(best.len() > 30, "{quant}: only {} distinct tokens", best.len());
    }
}

#[test]
fn the_file_says_that_it_is_synthetic_and_from_which_seed() {
    let made = make(&small(512), Quant::Q4_K_M, 99, 1);
    let model = Model::open(&made.path);
    let meta = &model.content.metadata;
    assert!(meta["llm_bench.synthetic"].to_bool().unwrap());
    assert_eq!(meta["llm_bench.seed"].to_u64().unwrap(), 99);
    assert!(meta["general.name"].to_string().unwrap().contains("synthetic"));
    assert_eq!(meta["general.file_type"].to_u32().unwrap(), 15);
    assert_eq!(meta["general.quantization_version"].to_u32().unwrap(), 2);
    assert_eq!(meta["llama.attention.head_count_kv"].to_u32().unwrap(), 2);
}
