//! Calls the built library as other languages do: against plain loops over dequantized weights and
//! float64 attention, and with everything that it must refuse.

use std::ffi::{CStr, c_char, c_void};
use std::path::PathBuf;

use candle_core::CpuStorage;
use candle_core::quantized::GgmlDType;
use half::f16;
use libloading::Library;
use llm_bench_kernels::Tensor;
use rand::{Rng, SeedableRng, rngs::StdRng};

type Kernels = *const c_void;
type Layer = *mut c_void;
type Multiply = unsafe extern "C" fn(Kernels, Layer, *const f32, usize, *mut f32, usize) -> bool;
type Attend = unsafe extern "C" fn(
    Kernels,
    usize,
    usize,
    usize,
    *mut u16,
    *mut u16,
    usize,
    usize,
    *mut f32,
    usize,
    *const f32,
    usize,
    *mut f32,
    usize,
) -> bool;

/// The library and kernels of it.
struct Abi {
    library: Library,
    kernels: Kernels,
}

impl Abi {
    /// Kernels on `threads` threads of the library that cargo built for this test.
    fn open(threads: usize) -> Self {
        let name = libloading::library_filename("llm_bench_kernels");
        let path: PathBuf = std::env::current_exe().unwrap().with_file_name(name);
        // SAFETY: loading it runs nothing but the start of Rust's library.
        let library = unsafe { Library::new(&path) }.unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let mut abi = Self { library, kernels: std::ptr::null() };
        abi.kernels =
            abi.function::<extern "C" fn(usize) -> Kernels>("llm_bench_kernels_new")(threads);
        abi
    }

    fn function<F: Copy>(&self, name: &str) -> F {
        // SAFETY: each caller names the type that the function has in `lib.rs`.
        *unsafe { self.library.get::<F>(name.as_bytes()) }.unwrap()
    }

    fn text(&self, name: &str) -> String {
        let f: unsafe extern "C" fn(Kernels) -> *const c_char = self.function(name);
        // SAFETY: a text that lives as long as the kernels, or as long as no call fails.
        unsafe { CStr::from_ptr(f(self.kernels)) }.to_str().unwrap().to_string()
    }

    fn error(&self) -> String {
        let f: extern "C" fn() -> *const c_char = self.function("llm_bench_last_error");
        // SAFETY: a text, valid until the next failure.
        unsafe { CStr::from_ptr(f()) }.to_str().unwrap().to_string()
    }

    fn layer(&self, tensors: &[Tensor]) -> Layer {
        let f: unsafe extern "C" fn(*const Tensor, usize) -> Layer =
            self.function("llm_bench_layer_new");
        // SAFETY: tests keep the bytes as long as the layer.
        unsafe { f(tensors.as_ptr(), tensors.len()) }
    }

    fn multiply(&self, layer: Layer, x: &[f32], out: &mut [f32]) -> bool {
        let f: Multiply = self.function("llm_bench_multiply");
        // SAFETY: slices of the given lengths.
        unsafe { f(self.kernels, layer, x.as_ptr(), x.len(), out.as_mut_ptr(), out.len()) }
    }

    fn free(&self, name: &str, handle: *const c_void) {
        let f: unsafe extern "C" fn(*const c_void) = self.function(name);
        // SAFETY: null, or a handle that is used no more.
        unsafe { f(handle) }
    }
}

impl Drop for Abi {
    fn drop(&mut self) {
        self.free("llm_bench_kernels_free", self.kernels);
    }
}

/// Random blocks of a type with finite scales, aligned as in a file.
fn blocks(rng: &mut StdRng, dtype: GgmlDType, n: usize) -> Vec<u32> {
    let bytes = n / dtype.block_size() * dtype.type_size();
    let words = (0..bytes.div_ceil(4)).map(|_| {
        // Below 0x38, an f16 is small and finite; from 0x20 on, a float is not subnormal.
        u32::from_le_bytes(std::array::from_fn(|_| rng.random_range(0x20..0x38)))
    });
    words.collect()
}

fn tensor(kind: u32, [rows, columns]: [usize; 2], data: &[u32], dtype: GgmlDType) -> Tensor {
    let len = rows * columns / dtype.block_size() * dtype.type_size();
    Tensor { kind, rows, columns, bytes: data.as_ptr().cast(), len }
}

fn dequantized(dtype: GgmlDType, tensor: &Tensor) -> Vec<f32> {
    // SAFETY: the tests' own bytes.
    let bytes = unsafe { std::slice::from_raw_parts(tensor.bytes, tensor.len) }.to_vec();
    match dtype.from_data(bytes.into()).dequantize(tensor.rows * tensor.columns) {
        Ok(CpuStorage::F32(values)) => values,
        other => panic!("{other:?}"),
    }
}

fn product(weights: &[f32], x: &[f32]) -> f64 {
    weights.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum()
}

fn nmse(got: &[f32], expected: &[f64]) -> f64 {
    let error: f64 = got.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
    error / expected.iter().map(|b| b * b).sum::<f64>()
}

const TYPES: [(u32, GgmlDType); 13] = [
    (0, GgmlDType::F32),
    (1, GgmlDType::F16),
    (30, GgmlDType::BF16),
    (2, GgmlDType::Q4_0),
    (3, GgmlDType::Q4_1),
    (6, GgmlDType::Q5_0),
    (7, GgmlDType::Q5_1),
    (8, GgmlDType::Q8_0),
    (10, GgmlDType::Q2K),
    (11, GgmlDType::Q3K),
    (12, GgmlDType::Q4K),
    (13, GgmlDType::Q5K),
    (14, GgmlDType::Q6K),
];

#[test]
fn products_are_those_of_dequantized_weights_for_every_type_and_number_of_tokens() {
    let (abi, mut rng) = (Abi::open(2), StdRng::seed_from_u64(1));
    let rounds: unsafe extern "C" fn(Kernels, u32) -> i32 = abi.function("llm_bench_rounds");
    for (kind, dtype) in TYPES {
        // Two tensors, with rows that fill no vector, in columns of one block or more. candle's own
        // products of some types take an even number of blocks.
        let even = matches!(dtype, GgmlDType::Q4_1 | GgmlDType::Q5_1);
        let columns = (3 + usize::from(even)) * dtype.block_size().max(8);
        let shapes = [[37, columns], [5, columns]];
        let data = shapes.map(|[rows, columns]| blocks(&mut rng, dtype, rows * columns));
        let tensors = [0, 1].map(|i| tensor(kind, shapes[i], &data[i], dtype));
        let weights = tensors.each_ref().map(|t| dequantized(dtype, t)).concat();
        let layer = abi.layer(&tensors);
        assert!(!layer.is_null(), "{dtype:?}: {}", abi.error());
        for tokens in [1, 3, 20, 300] {
            let x: Vec<f32> = (0..tokens * columns).map(|_| rng.random_range(-1.0..1.0)).collect();
            let mut out = vec![f32::NAN; tokens * 42];
            assert!(abi.multiply(layer, &x, &mut out), "{dtype:?}: {}", abi.error());
            let rows = || weights.chunks_exact(columns);
            let expected: Vec<f64> =
                x.chunks_exact(columns).flat_map(|x| rows().map(|w| product(w, x))).collect();
            // SAFETY: the kernels live.
            let int8 = unsafe { rounds(abi.kernels, kind) } == 1;
            let limit = if int8 || abi.text("llm_bench_kernels_isa").starts_with("amx") {
                1e-3
            } else {
                1e-11
            };
            let error = nmse(&out, &expected);
            assert!(error < limit, "{dtype:?}, {tokens} tokens: NMSE {error:.1e}");
        }
        abi.free("llm_bench_layer_free", layer);
    }
}

#[test]
fn a_token_that_is_not_finite_has_no_products_and_spoils_no_other() {
    let (abi, mut rng) = (Abi::open(1), StdRng::seed_from_u64(2));
    let data = blocks(&mut rng, GgmlDType::Q8_0, 8 * 64);
    let layer = abi.layer(&[tensor(8, [8, 64], &data, GgmlDType::Q8_0)]);
    let mut x = [0.5f32; 3 * 64];
    x[64 + 7] = f32::INFINITY;
    let mut out = [0.0; 3 * 8];
    assert!(abi.multiply(layer, &x, &mut out));
    let finite = out.each_ref().map(|value| value.is_finite());
    assert_eq!(finite, std::array::from_fn(|i| !(8..16).contains(&i)));
    abi.free("llm_bench_layer_free", layer);
}

/// The arguments of `llm_bench_attend` behind the kernels.
struct Attention {
    heads: [usize; 3],
    keys: Vec<u16>,
    values: Vec<u16>,
    first: usize,
    qkv: Vec<f32>,
    angles: Vec<f32>,
    out: Vec<f32>,
}

impl Attention {
    /// An empty cache of 48 positions for tokens of random values.
    fn random(rng: &mut StdRng, heads: [usize; 3], tokens: usize) -> Self {
        let [n_heads, kv_heads, dim] = heads;
        let mut random =
            |n: usize| (0..n).map(|_| rng.random_range(-1.0f32..1.0)).collect::<Vec<_>>();
        let turns = random(tokens * dim / 2);
        let angles = turns.chunks_exact(dim / 2).flat_map(|of_token| {
            let (cos, sin) = (of_token.iter().map(|a| a.cos()), of_token.iter().map(|a| a.sin()));
            cos.chain(sin).collect::<Vec<_>>()
        });
        Self {
            heads,
            keys: vec![0; kv_heads * 48 * dim],
            values: vec![0; kv_heads * 48 * dim],
            first: 0,
            qkv: random(tokens * (n_heads + 2 * kv_heads) * dim),
            angles: angles.collect(),
            out: vec![f32::NAN; tokens * n_heads * dim],
        }
    }

    fn run(&mut self, abi: &Abi) -> bool {
        let f: Attend = abi.function("llm_bench_attend");
        let [heads, kv_heads, dim] = self.heads;
        let (keys, values) = (self.keys.as_mut_ptr(), self.values.as_mut_ptr());
        let (qkv, angles) = (self.qkv.as_mut_ptr(), self.angles.as_ptr());
        let (n_cache, n_qkv, n_angles) = (self.keys.len(), self.qkv.len(), self.angles.len());
        let (out, n_out) = (self.out.as_mut_ptr(), self.out.len());
        assert_eq!(self.values.len(), n_cache);
        // SAFETY: vectors of the given lengths.
        unsafe {
            f(
                abi.kernels,
                heads,
                kv_heads,
                dim,
                keys,
                values,
                n_cache,
                self.first,
                qkv,
                n_qkv,
                angles,
                n_angles,
                out,
                n_out,
            )
        }
    }

    /// In float64, with keys and values rounded to f16; all tokens from position 0 on.
    fn expected(&self) -> Vec<f64> {
        let [heads, kv_heads, dim] = self.heads;
        let rounded = |x: f64| f16::from_f64(x).to_f64();
        let rotated = |row: &[f32], angles: &[f32]| -> Vec<f64> {
            let at = |i: usize| f64::from(row[i]);
            let angle = |i: usize| f64::from(angles[i]);
            let turn = |i: usize| {
                let (cos, sin) = (angle(i / 2), angle(dim / 2 + i / 2));
                if i.is_multiple_of(2) {
                    at(i) * cos - at(i + 1) * sin
                } else {
                    at(i - 1) * sin + at(i) * cos
                }
            };
            (0..dim).map(turn).collect()
        };
        let rows: Vec<_> = self.qkv.chunks_exact((heads + 2 * kv_heads) * dim).collect();
        let angles: Vec<_> = self.angles.chunks_exact(dim).collect();
        let mut out = Vec::new();
        for (t, head) in (0..rows.len()).flat_map(|t| (0..heads).map(move |head| (t, head))) {
            let query = rotated(&rows[t][head * dim..][..dim], angles[t]);
            let kv = head / (heads / kv_heads);
            let score = |s: usize| {
                let key = rotated(&rows[s][(heads + kv) * dim..][..dim], angles[s]);
                let dot: f64 = query.iter().zip(key).map(|(q, k)| q * rounded(k)).sum();
                (dot / (dim as f64).sqrt()).exp()
            };
            let scores: Vec<f64> = (0..=t).map(score).collect();
            let all: f64 = scores.iter().sum();
            let value =
                |s: usize, d: usize| rounded(f64::from(rows[s][(heads + kv_heads + kv) * dim + d]));
            out.extend(
                (0..dim).map(|d| (0..=t).map(|s| scores[s] / all * value(s, d)).sum::<f64>()),
            );
        }
        out
    }
}

#[test]
fn attention_is_that_of_float64_in_one_call_and_token_by_token() {
    for threads in [1, 2] {
        let (abi, mut rng) = (Abi::open(threads), StdRng::seed_from_u64(3));
        for heads in [[4, 2, 64], [3, 3, 10], [8, 1, 128]] {
            let mut together = Attention::random(&mut rng, heads, 21);
            let expected = together.expected();
            let (qkv, stride) = (together.qkv.clone(), together.qkv.len() / 21);
            assert!(together.run(&abi), "{}", abi.error());
            assert!(nmse(&together.out, &expected) < 1e-6, "{heads:?}");
            let width = heads[0] * heads[2];
            let mut one = Attention::random(&mut rng, heads, 1);
            for t in 0..21 {
                one.first = t;
                one.qkv.copy_from_slice(&qkv[t * stride..][..stride]);
                one.angles.copy_from_slice(&together.angles[t * heads[2]..][..heads[2]]);
                assert!(one.run(&abi), "{}", abi.error());
                assert!(nmse(&one.out, &expected[t * width..][..width]) < 1e-5, "{heads:?} at {t}");
            }
            assert!(one.keys == together.keys && one.values == together.values);
        }
    }
}

#[test]
fn bad_input_is_refused_with_its_reason() {
    let (abi, mut rng) = (Abi::open(1), StdRng::seed_from_u64(4));
    let refused = |failed: bool, reason: &str| {
        assert!(failed && abi.error().contains(reason), "{reason}: {}", abi.error());
    };
    let dtype = GgmlDType::Q4_0;
    let data = blocks(&mut rng, dtype, 16 * 64);
    let good = || tensor(2, [16, 64], &data, dtype);
    refused(abi.layer(&[]).is_null(), "at least one tensor");
    refused(abi.layer(&[Tensor { kind: 39, ..good() }]).is_null(), "MXFP4");
    refused(abi.layer(&[Tensor { kind: 99, ..good() }]).is_null(), "type 99");
    refused(abi.layer(&[Tensor { kind: 15, ..good() }]).is_null(), "Q8_K");
    refused(abi.layer(&[Tensor { len: good().len - 1, ..good() }]).is_null(), "576 bytes");
    refused(abi.layer(&[Tensor { columns: 65, ..good() }]).is_null(), "blocks of 32");
    refused(abi.layer(&[Tensor { rows: 0, len: 0, ..good() }]).is_null(), "0 rows");
    refused(abi.layer(&[Tensor { rows: usize::MAX, ..good() }]).is_null(), "more than fit");
    refused(
        abi.layer(&[Tensor { bytes: std::ptr::null(), ..good() }]).is_null(),
        "a tensor's bytes",
    );
    refused(abi.layer(&[Tensor { len: usize::MAX, ..good() }]).is_null(), "a tensor's bytes");
    let odd = good().bytes.wrapping_add(2);
    refused(
        abi.layer(&[Tensor { rows: 8, len: 288, bytes: odd, ..good() }]).is_null(),
        "multiple of 4",
    );
    refused(
        abi.layer(&[good(), Tensor { rows: 8, columns: 128, ..good() }]).is_null(),
        "64 columns",
    );

    let layer = abi.layer(&[good()]);
    let (x, mut out) = ([0.0f32; 128], [0.0f32; 32]);
    assert!(abi.multiply(layer, &x, &mut out), "{}", abi.error());
    refused(!abi.multiply(layer, &x[..127], &mut out), "tokens of 64 values");
    refused(!abi.multiply(layer, &x, &mut out[..31]), "found 128 and 31");
    refused(!abi.multiply(layer, &[], &mut []), "tokens of 64 values");
    refused(!abi.multiply(std::ptr::null_mut(), &x, &mut out), "layer: expected a handle");
    let f: Multiply = abi.function("llm_bench_multiply");
    // SAFETY: null is what it must refuse.
    let nothing = unsafe { f(abi.kernels, layer, std::ptr::null(), 128, out.as_mut_ptr(), 32) };
    refused(!nothing, "x: expected an aligned address");
    // SAFETY: as above.
    let nothing = unsafe { f(std::ptr::null(), layer, x.as_ptr(), 128, out.as_mut_ptr(), 32) };
    refused(!nothing, "kernels: expected a handle");
    abi.free("llm_bench_layer_free", layer);
    abi.free("llm_bench_layer_free", std::ptr::null());

    let new: extern "C" fn(usize) -> Kernels = abi.function("llm_bench_kernels_new");
    refused(new(0).is_null(), "at least one thread");
    let rounds: unsafe extern "C" fn(Kernels, u32) -> i32 = abi.function("llm_bench_rounds");
    // SAFETY: the kernels live.
    refused(unsafe { rounds(abi.kernels, 99) } == -1, "type 99");

    let bad = |change: fn(&mut Attention), reason: &str| {
        let mut attention = Attention::random(&mut StdRng::seed_from_u64(5), [4, 2, 8], 3);
        change(&mut attention);
        refused(!attention.run(&abi), reason);
    };
    bad(|a| a.heads = [4, 3, 8], "in groups");
    bad(|a| a.heads = [0, 0, 8], "in groups");
    bad(|a| a.heads = [usize::MAX, 1, 2], "in groups");
    bad(|a| a.heads = [4, 2, 7], "even size");
    bad(|a| a.first = 46, "3 tokens from position 46: the cache has 48");
    bad(|a| a.first = usize::MAX, "the cache has 48");
    bad(|a| a.qkv.truncate(191), "whole spans and tokens");
    bad(|a| a.angles.truncate(23), "whole spans and tokens");
    bad(|a| a.out.truncate(95), "whole spans and tokens");
    bad(|a| [&mut a.keys, &mut a.values].into_iter().for_each(|v| v.truncate(640)), "whole spans");
}

#[test]
fn facts_about_the_kernels_and_the_version() {
    let abi = Abi::open(2);
    let version: extern "C" fn() -> u32 = abi.function("llm_bench_abi");
    let threads: unsafe extern "C" fn(Kernels) -> usize = abi.function("llm_bench_kernels_threads");
    // SAFETY: the kernels live, and null is allowed.
    let counts = unsafe { [threads(abi.kernels), threads(std::ptr::null())] };
    assert_eq!((version(), counts), (1, [2, 0]));
    let (isa, note) = (abi.text("llm_bench_kernels_isa"), abi.text("llm_bench_kernels_note"));
    assert_eq!(
        (isa.is_empty(), note.is_empty()),
        (false, !isa.starts_with("amx")),
        "{isa}: {note}"
    );
}
