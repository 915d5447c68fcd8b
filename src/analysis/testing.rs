//! A hand-made record for tests of analysis and report: four arms, one of which failed and one of
//! which has a single launch.

use std::collections::BTreeMap;

use serde_json::json;

use crate::metric::{Metric, Values};
use crate::record::Precision;
use crate::record::{
    Arm, Build, Environment, FailureKind, Host, How, Launch, LaunchError, Loss, Memory, MemoryPart,
    Model, Part, Point, Profile, PromptRun, Quality, Quantiles, Record, Role, Run, SCHEMA, Status,
    WeightsSource, Workload, WorkloadPrompt,
};

/// The factors by which the launches of an arm differ.
const LUCK: [f64; 5] = [1.0, 1.012, 0.991, 1.004, 0.996];
const PROMPTS: [(&str, u32, u32); 3] =
    [("chat-16", 16, 64), ("code-128", 128, 64), ("doc-512", 512, 64)];

/// The properties of one engine, for `arm`.
pub struct Engine {
    pub label: &'static str,
    pub precision: [&'static str; 3],
    pub decode_tps: f64,
    pub prefill_tps: f64,
    pub load_s: f64,
    pub cold_s: f64,
    pub peak_bytes: f64,
    /// The token at which the greedy text leaves that of the other engines.
    pub diverges_at: u32,
}

pub const CANDLE: Engine = Engine {
    label: "candle",
    precision: ["Q4_K_M", "int8", "f16"],
    decode_tps: 38.4,
    prefill_tps: 212.0,
    load_s: 0.0413,
    cold_s: 0.212,
    peak_bytes: 1.02e9,
    diverges_at: 21,
};
pub const CANDLE_STOCK: Engine = Engine {
    label: "candle-stock",
    precision: ["Q4_K_M", "int8", "f32"],
    decode_tps: 22.0,
    prefill_tps: 39.5,
    load_s: 2.41,
    cold_s: 2.93,
    peak_bytes: 2.58e9,
    diverges_at: 12,
};
pub const PYTORCH_F32: Engine = Engine {
    label: "pytorch-f32",
    precision: ["f32", "f32", "f32"],
    decode_tps: 3.81,
    prefill_tps: 70.2,
    load_s: 4.87,
    cold_s: 9.64,
    peak_bytes: 5.61e9,
    diverges_at: 64,
};

/// Four arms on a quiet machine.
pub fn record() -> Record {
    Record {
        arms: vec![
            arm(&CANDLE, 5),
            arm(&CANDLE_STOCK, 1),
            failed_arm("pytorch", 5),
            arm(&PYTORCH_F32, 5),
        ],
        ..empty()
    }
}

/// A record without arms.
pub fn empty() -> Record {
    Record {
        schema: SCHEMA.into(),
        run: Run {
            id: "20260301_101530".into(),
            started_at: "2026-03-01T10:15:30+01:00".into(),
            command: "llm-bench run --model llama3-1b --quant Q4_K_M".into(),
            seed: 42,
            config: json!({"threads": 2}),
            complete: true,
            resumed: vec![],
        },
        host: Host {
            os: "Linux".into(),
            kernel: "6.8.0".into(),
            cpu_model: "AMD EPYC 9R14".into(),
            cores: 2,
            threads: 2,
            isa: vec!["avx2".into(), "avx512_vnni".into()],
            ram_bytes: 24_900_000_000,
            measured_read_bandwidth_bytes_per_s: Some(33.4e9),
            bandwidth_method: Some("2 threads, 1 GiB, median of 7".into()),
            load_average_1m: Some(0.12),
            ..Host::default()
        },
        build: Build {
            version: "0.1.0".into(),
            git_commit: Some("3fa9c21d0b".into()),
            git_dirty: Some(false),
            executable_sha256: None,
            features: vec![],
            target_cpu: "native".into(),
            profile: "release".into(),
        },
        model: Model {
            name: "llama3-1b".into(),
            file: "Llama-3.2-1B-Instruct-Q4_K_M.gguf".into(),
            sha256: "6f85a640".into(),
            quant: "Q4_K_M".into(),
            weights: WeightsSource::Synthetic,
            n_params: 1_235_814_400,
            size_bytes: 807_694_464,
            n_vocab: Some(128_256),
            weight_bytes_per_token: Some(803_000_000),
            weights_per_token: Some(1_240_000_000),
            kv_values_per_position: Some(32_768),
            context_length: Some(131_072),
        },
        workload: Workload {
            prompt_set: "default".into(),
            sha256: "11aa".into(),
            prompts: PROMPTS
                .map(|(id, n_prompt, n_gen)| WorkloadPrompt {
                    id: id.into(),
                    category: None,
                    n_prompt,
                    n_gen,
                    depth: 0,
                })
                .to_vec(),
        },
        arms: vec![],
        comparisons: vec![],
        warnings: vec![],
    }
}

/// An encoder on two engines, at batches 1 and 8 and two lengths; the second engine is twice as fast.
pub fn encoding() -> Record {
    let lengths = [("p32", 32), ("p128", 128)];
    let mut record = empty();
    record.workload.prompts = lengths
        .map(|(id, n_prompt)| WorkloadPrompt {
            id: id.into(),
            category: None,
            n_prompt,
            n_gen: 0,
            depth: 0,
        })
        .to_vec();
    for batch in [1, 8] {
        for (engine, times) in [(&PYTORCH_F32, 1.0), (&CANDLE, 2.0)] {
            let mut arm = arm(engine, 5);
            arm.label = format!("{}:b{batch}", engine.label);
            arm.point.batch = Some(batch).filter(|n| *n > 1);
            for (launch, luck) in arm.launches.iter_mut().zip(LUCK) {
                launch.metrics.remove(&Metric::DecodeTps);
                launch.metrics.insert(Metric::ColdStart, 0.5 / times / luck);
                launch.prompts = lengths
                    .map(|(id, length)| {
                        let rate = 100.0 * times * luck * f64::from(batch) / f64::from(length);
                        launch.metrics.insert(Metric::SequencesPerS, rate);
                        let latency = f64::from(batch) / rate;
                        let metrics =
                            [(Metric::SequencesPerS, rate), (Metric::LatencyMean, latency)];
                        PromptRun {
                            id: id.into(),
                            n_prompt: length,
                            batch: arm.point.batch,
                            metrics: metrics.into(),
                            ..PromptRun::new(Role::Measured)
                        }
                    })
                    .to_vec();
            }
            record.arms.push(arm);
        }
    }
    record
}

/// An arm whose launches differ only by the factors in `LUCK`.
pub fn arm(engine: &Engine, launches: u32) -> Arm {
    let [weights, compute, kv] = engine.precision.map(str::to_string);
    Arm {
        engine: engine.label.split('-').next().unwrap_or_default().into(),
        label: engine.label.into(),
        point: point(engine.label),
        version: BTreeMap::from([("rust".into(), "1.90".into())]),
        precision: Some(Precision { weights, compute, kv }),
        settings: BTreeMap::new(),
        notes: vec![],
        preparation: Default::default(),
        verification: None,
        classification: None,
        quality: None,
        launches: (0..launches).map(|i| launch(engine, i)).collect(),
        metrics: Values::new(),
        prompt_metrics: BTreeMap::new(),
    }
}

fn point(engine: &str) -> Point {
    let model = empty().model;
    Point {
        model: model.name,
        quant: model.quant,
        engine: engine.into(),
        threads: Some(2),
        ..Point::default()
    }
}

/// A point with intervals of one percent; `kl` 0 is the reference.
pub fn judged(decode: f64, kl: f64, peak: f64) -> Arm {
    let mut record = record();
    crate::analysis::summarize(&mut record);
    let mut arm = record.arms.swap_remove(0);
    for (metric, mean) in [(Metric::DecodeTps, decode), (Metric::PeakHostBytes, peak)] {
        let summary = arm.metrics.get_mut(&metric).unwrap();
        summary.mean = mean;
        summary.ci95 = Some([0.99 * mean, 1.01 * mean]);
    }
    let quantiles = Quantiles { mean: kl, median: kl, p90: kl, p99: kl, p999: kl };
    let loss = Loss {
        ln_ppl_ratio: kl,
        ln_ppl_ratio_se: None,
        kl: quantiles,
        kl_se: Some(kl / 100.0),
        kl_by_confidence: Vec::new(),
        top1: 1.0,
        rms_delta_p: 0.0,
    };
    arm.quality = Some(Quality {
        reference: "F16".into(),
        reference_engine: None,
        text: "standard".into(),
        text_sha256: String::new(),
        windows: 10,
        window: 512,
        positions: 2550,
        ppl: 10.0,
        ppl_reference: 10.0,
        loss: (kl > 0.0).then_some(loss),
        floor: None,
    });
    arm
}

/// An arm whose launches all failed to compile.
pub fn failed_arm(label: &str, launches: u32) -> Arm {
    let failed = |i| Launch {
        status: Status::Failed,
        error: Some(LaunchError {
            kind: FailureKind::CompileFailed,
            phase: "load".into(),
            message: "InductorError: g++ was not found\nTraceback (most recent call last)".into(),
            stderr_tail: None,
        }),
        metrics: Values::new(),
        prompts: vec![],
        ..launch(&CANDLE, i)
    };
    Arm {
        label: label.into(),
        engine: label.into(),
        point: point(label),
        precision: None,
        notes: vec!["torch.compile, max-autotune, bf16".into()],
        preparation: Default::default(),
        verification: None,
        classification: None,
        quality: None,
        launches: (0..launches).map(failed).collect(),
        ..arm(&CANDLE, 0)
    }
}

fn launch(engine: &Engine, index: u32) -> Launch {
    let luck = LUCK[index as usize % LUCK.len()];
    let decode = engine.decode_tps * luck;
    let gap = 1.0 / decode;
    let metrics = [
        (Metric::ModelLoad, engine.load_s / luck),
        (Metric::ColdStartTtft, engine.cold_s / luck),
        (Metric::FirstGenerateTtft, engine.cold_s / luck * 0.7),
        (Metric::Ttft, 219.0 / engine.prefill_tps / luck),
        (Metric::PrefillTps, engine.prefill_tps * luck),
        (Metric::DecodeTps, decode),
        (Metric::Tpot, gap),
        (Metric::ItlP50, gap * 0.99),
        (Metric::ItlP95, gap * 1.08),
        (Metric::PeakHostBytes, engine.peak_bytes),
        (Metric::MemoryWeights, engine.peak_bytes * 0.80),
        (Metric::MemoryKv, engine.peak_bytes * 0.011),
        (Metric::MemoryActivations, engine.peak_bytes * 0.031),
        (Metric::MemoryRuntime, engine.peak_bytes * 0.149),
        (Metric::MemoryUnaccounted, engine.peak_bytes * 0.009),
        (Metric::Mbu, decode * 0.803e9 / 33.4e9),
        (Metric::TpsPerGb, decode / (engine.peak_bytes / 1e9)),
    ];
    let roles = [Role::Cold, Role::Measured, Role::Measured];
    let runs = PROMPTS.iter().flat_map(|prompt| {
        roles.iter().zip(0..).map(move |(role, i)| generation(engine, prompt, *role, i, luck))
    });
    Launch {
        index,
        order: index,
        started_at: "2026-03-01T10:15:31+01:00".into(),
        status: Status::Ok,
        error: None,
        metrics: metrics.into(),
        prompts: runs.collect(),
        memory: memory(engine),
        timeline_ns: BTreeMap::new(),
        energy: None,
        gpu_energy: None,
        sustained: None,
        load_stages_ns: BTreeMap::new(),
        environment: Environment {
            page_cache_resident: Some(1.0),
            busy_before: Some(0.01),
            steal: Some(0.0),
            read_bandwidth_bytes_per_s: Some([33.4e9; 2]),
            ..Environment::default()
        },
    }
}

fn memory(engine: &Engine) -> Memory {
    let part = |part, share: f64, how| MemoryPart {
        part,
        bytes: (engine.peak_bytes * share).round() as i64,
        how,
    };
    Memory {
        peak_host_bytes: Some(engine.peak_bytes as u64),
        breakdown: vec![
            part(Part::WeightsMapped, 0.79, How::Measured),
            part(Part::WeightsPrivate, 0.01, How::Computed),
            part(Part::KvCache, 0.011, How::Measured),
            part(Part::Activations, 0.031, How::Measured),
            part(Part::BeforeLoad, 0.149, How::Measured),
            part(Part::Unaccounted, 0.009, How::Remainder),
        ],
        ..Memory::default()
    }
}

/// A profiled generation of the first prompt, after the measured ones.
pub fn profiled(engine: &Engine, stages: &[(&str, f64)]) -> PromptRun {
    let run = generation(engine, &PROMPTS[0], Role::Profiled, 0, 1.0);
    let shares = |whole: u64| {
        let ns = |share: f64| (whole as f64 * share) as u64;
        stages.iter().map(|(stage, share)| (stage.to_string(), ns(*share))).collect()
    };
    let (first, last) = (run.token_ns[0], run.token_ns[run.token_ns.len() - 1]);
    let profile = Profile {
        prefill_ns: shares(first),
        decode_ns: shares(last - first),
        decode_weight_bytes: BTreeMap::from([("mlp".into(), 500_000_000)]),
    };
    PromptRun { profile: Some(profile), ..run }
}

fn generation(
    engine: &Engine,
    &(id, n_prompt, n_gen): &(&str, u32, u32),
    role: Role,
    iteration: u32,
    luck: f64,
) -> PromptRun {
    let prefill_s = f64::from(n_prompt) / engine.prefill_tps / luck;
    // A longer prompt leaves more cache to read.
    let gap_s = (1.0 + f64::from(n_prompt) / 5000.0) / engine.decode_tps / luck;
    let ns = |s: f64| (s * 1e9) as u64;
    let metrics = [
        (Metric::DecodeTps, 1.0 / gap_s),
        (Metric::PrefillTps, f64::from(n_prompt) / prefill_s),
        (Metric::Ttft, prefill_s),
    ];
    PromptRun {
        id: id.into(),
        role,
        iteration,
        n_prompt,
        n_gen,
        depth: 0,
        batch: None,
        context_in_request: false,
        begin_ns: Some(0),
        prefill_end_ns: Some(ns(prefill_s)),
        token_ns: (0..n_gen).map(|i| ns(prefill_s + gap_s * f64::from(i))).collect(),
        request_ns: Vec::new(),
        request_tokens: 0,
        request_text_bytes: 0,
        compile_ns: None,
        tokens_hash: Some(format!("{:016x}", engine.diverges_at)),
        tokens: (role == Role::Cold).then(|| {
            (0..n_gen).map(|i| if i < engine.diverges_at { i } else { 100 + i }).collect()
        }),
        other_tokens: Vec::new(),
        load: None,
        profile: None,
        metrics: match role {
            Role::Measured => metrics.into(),
            _ => Values::new(),
        },
    }
}
