//! Which facts are refused, warned of and ignored, by use.

use serde_json::json;

use super::*;
use crate::analysis::testing::{self, CANDLE, PYTORCH_F32};
use crate::record::Gpu;

fn identity(change: impl Fn(&mut Record)) -> Identity {
    let mut record = testing::empty();
    record.arms = vec![testing::arm(&CANDLE, 2)];
    record.run.config = json!({"warmup": 1, "iterations": 1, "page_cache": "warm"});
    record.arms[0].point.threads = Some(2);
    record.host.cpu_id = Some("AuthenticAMD family 26 model 2 stepping 1".into());
    record.host.governor = Some("performance".into());
    record.host.gpu = vec![Gpu {
        name: "RTX 4090".into(),
        memory_bytes: 24 << 30,
        driver: Some("580.95.05".into()),
        ..Gpu::default()
    }];
    change(&mut record);
    Identity::of(&record, &record.arms[0])
}

fn changed(change: impl Fn(&mut Record)) -> Vec<(String, Severity)> {
    let found = identity(|_| ()).differences(&identity(change));
    found.into_iter().map(|d| (d.field, d.severity)).collect()
}

#[test]
fn each_field_that_makes_the_numbers_another_thing_is_refused() {
    let refused = |field: &str, change: &dyn Fn(&mut Record)| {
        assert_eq!(changed(change), [(field.to_string(), Severity::Refuse)], "{field}");
    };
    refused("schema", &|r| r.schema = "llm-bench/0".into());
    refused("cpu_model", &|r| r.host.cpu_model = "Xeon".into());
    refused("gpu_model", &|r| r.host.gpu[0].name = "RTX 4080".into());
    refused("driver", &|r| r.host.gpu[0].driver = Some("570.95.05".into()));
    refused("cores", &|r| r.host.cores = 8);
    refused("threads", &|r| r.host.threads = 4);
    refused("ram", &|r| r.host.ram_bytes *= 2);
    refused("power_mode", &|r| r.host.governor = Some("powersave".into()));
    refused("power_mode", &|r| r.host.governor = None);
    refused("engine", &|r| r.arms[0].label = "candle-stock".into());
    refused("features", &|r| r.build.features = vec!["cuda".into()]);
    refused("profile", &|r| r.build.profile = "debug".into());
    refused("target_cpu", &|r| r.build.target_cpu = "generic".into());
    refused("isa", &|r| r.host.isa.clear());
    refused("cpu_id", &|r| {
        r.host.cpu_id = Some("AuthenticAMD family 25 model 1 stepping 1".into())
    });
    refused("iterations", &|r| r.run.config["iterations"] = 5.into());
    refused("quant", &|r| r.model.quant = "Q8_0".into());
    refused("model_sha256", &|r| r.model.sha256 = "00ff".into());
    refused("prompt_set", &|r| r.workload.sha256 = "22bb".into());
    refused("warmup", &|r| r.run.config["warmup"] = 0.into());
    refused("page_cache", &|r| r.run.config["page_cache"] = "cold".into());
    refused("engine_threads", &|r| r.arms[0].point.threads = Some(1));
    refused("batch", &|r| r.arms[0].point.batch = Some(8));
}

#[test]
fn what_may_move_the_numbers_a_little_is_warned_of() {
    let warned = |field: &str, change: &dyn Fn(&mut Record)| {
        assert_eq!(changed(change), [(field.to_string(), Severity::Warn)], "{field}");
    };
    warned("kernel", &|r| r.host.kernel = "6.8.1".into());
    warned("driver", &|r| r.host.gpu[0].driver = Some("580.105.08".into()));
    warned("cpu_id", &|r| r.host.cpu_id = Some("AuthenticAMD family 26 model 2 stepping 0".into()));
    warned("isa", &|r| r.host.isa.push("amx_int8".into()));
    warned("virtualization", &|r| r.host.virtualization = Some("virtual machine".into()));
    warned("bandwidth", &|r| r.host.measured_read_bandwidth_bytes_per_s = Some(25e9));
    warned("precision", &|r| r.arms[0].precision.as_mut().unwrap().kv = "f32".into());
    warned("version.rust", &|r| _ = r.arms[0].version.insert("rust".into(), "1.95".into()));
    warned("setting.kernels", &|r| {
        r.arms[0].settings.insert("kernels".into(), "avx2".into());
    });
}

#[test]
fn what_follows_from_the_moment_is_ignored() {
    let same = changed(|r| {
        r.host.load_average_1m = Some(7.0);
        r.host.ram_bytes += r.host.ram_bytes / 100;
        r.host.measured_read_bandwidth_bytes_per_s = Some(32.0e9);
        r.host.timer_overhead_ns = Some(99.0);
        r.build.git_commit = Some("another".into());
        r.build.features.reverse();
        r.host.cpu_id = None;
        r.host.cpu_caches = Some("L2 1024K".into());
        r.run.id = "another".into();
        r.run.seed = 7;
        for launch in &mut r.arms[0].launches {
            launch.environment.cpu_mhz = Some(4000.0);
        }
    });
    assert_eq!(same, []);
}

#[test]
fn the_refused_come_first_and_another_engine_can_be_told_apart() {
    let mut record = testing::empty();
    record.host.kernel = "6.9.0".into();
    record.arms = vec![testing::arm(&CANDLE, 2), testing::arm(&PYTORCH_F32, 2)];
    let base = testing::empty();
    let found =
        Identity::of(&base, &record.arms[0]).differences(&Identity::of(&record, &record.arms[1]));
    let fields: Vec<&str> = found.iter().map(|d| d.field.as_str()).collect();
    assert_eq!(fields, ["engine", "kernel", "precision"]);
    assert!(found[0].is_engine() && !found[1].is_engine());
    assert_eq!(found[0].baseline.as_deref(), Some("candle"));
}

#[test]
fn two_formats_are_compared_by_what_both_tell() {
    let mut other = Identity::of_format("llama-bench");
    other.text("cpu_model", "CPU", Severity::Refuse, "Xeon");
    let found = identity(|_| ()).differences(&other);
    let fields: Vec<&str> = found.iter().map(|d| d.field.as_str()).collect();
    assert_eq!(fields, ["cpu_model", "schema"]);
}

fn line(change: impl Fn(&mut Record)) -> LineIdentity {
    let mut record = testing::empty();
    record.arms = vec![testing::arm(&CANDLE, 2)];
    record.run.config = json!({"warmup": 1, "iterations": 1, "page_cache": "warm"});
    change(&mut record);
    LineIdentity::of(&record, &record.arms[0])
}

#[test]
fn another_machine_or_model_is_another_line_and_a_kernel_update_is_not() {
    let plain = line(|_| ());
    assert!(plain.fits(&line(|r| r.host.kernel = "6.9.1".into())));
    assert!(plain.fits(&line(|r| r.host.ram_bytes += 40 << 20)));
    assert!(plain.fits(&line(|r| r.build.git_commit = Some("ffff".into()))));
    assert!(plain.fits(&line(|r| r.host.isa.push("amx_bf16".into()))));
    let differs = |change: &dyn Fn(&mut Record)| plain.differences(&line(change));
    assert_eq!(differs(&|r| r.host.ram_bytes *= 2), ["ram_bytes"]);
    assert_eq!(differs(&|r| r.host.cpu_model.push('X')), ["cpu_model"]);
    assert_eq!(differs(&|r| r.host.isa.clear()), ["isa"]);
    assert_eq!(differs(&|r| r.model.sha256.push('0')), ["model_sha256"]);
    assert_eq!(differs(&|r| r.arms[0].point.threads = Some(64)), ["threads"]);
    assert_eq!(differs(&|r| r.arms[0].point.batch = Some(8)), ["batch"]);
    assert_eq!(differs(&|r| r.arms[0].label.push('2')), ["engine"]);
    assert_eq!(differs(&|r| r.run.config["warmup"] = 3.into()), ["warmup"]);
    assert_eq!(differs(&|r| r.run.config["iterations"] = 3.into()), ["iterations"]);
}

#[test]
fn only_the_major_number_of_a_driver_splits_a_line() {
    let gpu = |driver: &str| {
        let gpu = Gpu {
            name: "H200".into(),
            memory_bytes: 1,
            driver: Some(driver.into()),
            ..Gpu::default()
        };
        line(|r| r.host.gpu = vec![gpu.clone()])
    };
    assert!(gpu("570.86.15").fits(&gpu("570.9")));
    assert!(gpu("570.86.15").fits(&gpu("570")), "earlier versions stored the major number");
    assert_eq!(gpu("570.86.15").differences(&gpu("580.1")), ["gpus"]);
}

#[test]
fn what_an_earlier_version_did_not_store_is_filled_in_and_then_counts() {
    let known = line(|r| r.host.cpu_id = Some("AuthenticAMD family 26 model 2 stepping 1".into()));
    let other = line(|r| r.host.cpu_id = Some("AuthenticAMD family 25 model 1 stepping 1".into()));
    let earlier = LineIdentity { cpu_id: None, isa: None, ..known.clone() };
    assert!(earlier.fits(&known) && earlier.fits(&other) && !earlier.knows_as_much_as(&known));
    let completed = earlier.completed_with(&known);
    assert_eq!(completed, known);
    assert_eq!(completed.differences(&other), ["cpu_id"]);
}

#[test]
fn every_field_of_a_stored_identity_is_of_a_fact_that_splits_lines() {
    let mut record = testing::empty();
    record.arms = vec![testing::arm(&CANDLE, 1)];
    record.host.cpu_id = Some("x".into());
    record.host.governor = Some("performance".into());
    record.host.gpu = vec![Gpu::default()];
    record.build.features = vec!["cuda".into()];
    record.arms[0].point.threads = Some(2);
    record.arms[0].point.batch = Some(8);
    record.arms[0].point.device = "cpu".parse().ok();
    record.run.config = json!({"warmup": 1, "iterations": 1, "page_cache": "warm"});
    let stored = serde_json::to_value(LineIdentity::of(&record, &record.arms[0])).unwrap();
    let mut stored: Vec<&str> = stored.as_object().unwrap().keys().map(String::as_str).collect();
    let mut of_facts: Vec<&str> = FACTS
        .iter()
        .flat_map(|fact| match fact.line {
            InLine::Splits(name) => vec![name],
            InLine::SplitsTwo(names) => names.to_vec(),
            _ => vec![],
        })
        .collect();
    stored.sort_unstable();
    of_facts.sort_unstable();
    assert_eq!(stored, of_facts);
}

#[test]
fn a_resumed_session_needs_the_same_machine_model_and_program() {
    let mut then = testing::empty();
    then.arms = vec![testing::arm(&CANDLE, 1)];
    then.build.executable_sha256 = Some("aa".into());
    let found = |change: &dyn Fn(&mut Record)| {
        let mut now = then.clone();
        change(&mut now);
        unlike((&then, &then.arms[0]), (&now, &now.arms[0]))
    };
    let none: [String; 0] = [];
    assert_eq!(found(&|_| ()), none);
    assert_eq!(found(&|r| r.host.ram_bytes += 40 << 20), none);
    assert_eq!(found(&|r| r.host.load_average_1m = Some(9.0)), none);
    assert_eq!(found(&|r| r.host.cpu_id = Some("x".into())), none, "the file is older");
    assert_eq!(
        found(&|r| r.build.executable_sha256 = Some("bb".into())),
        none,
        "clean, one commit"
    );
    let kernel = found(&|r| r.host.kernel = "6.9.1".into());
    assert_eq!(kernel, ["host.kernel: expected \"6.8.0\", found \"6.9.1\""]);
    assert_eq!(found(&|r| r.host.virtualization = Some("KVM".into())).len(), 1);
    assert_eq!(found(&|r| r.model.sha256 = "00".into()).len(), 1);
    assert_eq!(found(&|r| r.host.isa.push("amx_int8".into())).len(), 1);
    let version = found(&|r| _ = r.arms[0].version.insert("rust".into(), "1.91".into()));
    assert_eq!(version, ["version of candle: expected \"rust 1.90\", found \"rust 1.91\""]);
    let program = found(&|r| {
        r.build.executable_sha256 = Some("bb".into());
        r.build.git_dirty = Some(true);
    });
    assert!(
        program[0].starts_with("build: expected") && program[0].contains("modified"),
        "{program:?}"
    );
}
