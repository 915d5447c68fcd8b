//! `--device cuda` on fake cards: a library in NVML's place, and an engine that computes nothing.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{first_launch, only_record, repository, text, with_fakes};
use llm_bench::metric::Metric;
use llm_bench::record::{GpuMemoryHow, Record, Status};

/// Builds the fake library with these macros.
fn library(dir: &Path, state: &[&str]) -> PathBuf {
    let path = dir.join("libnvidia-ml.so.1");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&path)
        .args(state.iter().map(|macro_| format!("-D{macro_}")))
        .arg(repository("tests/data/nvml/fake_nvml.c"))
        .output()
        .expect("this test needs the C compiler `cc`");
    assert!(built.status.success(), "{}", text(&built.stderr));
    path
}

/// `run` on `device`, with NVML from `library`.
fn run(dir: &Path, library: &Path, device: &str, engine: &str) -> Output {
    let mut command = with_fakes(dir, &["run", "--model", "tiny", "--engine", engine]);
    command.args(["-p", "8", "-n", "4", "-r", "2", "--no-install", "--no-verify"]);
    command.args(["--device", device]).env("LLM_BENCH_NVML", library).env("TMPDIR", dir);
    command.output().unwrap()
}

#[test]
fn a_launch_on_a_card_holds_what_its_driver_says() {
    let dir = tempfile::tempdir().unwrap();
    let library = library(dir.path(), &["STEP_MS=100", "MIG=1", "OTHER=1", "THROTTLE=0x4"]);
    let output = run(dir.path(), &library, "cuda", "fake-holds-a-card");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let record = Record::read(&only_record(dir.path())).unwrap();
    let card = &record.host.gpu[0];
    assert_eq!((card.name.as_str(), card.index, card.mig), ("NVIDIA FAKE100", Some(0), Some(true)));
    assert_eq!(card.uuid.as_deref(), Some("GPU-fake-0"));
    assert_eq!(card.measured_read_bandwidth_bytes_per_s, None);
    assert!(card.unmeasured.is_some(), "nothing behind the fake could be measured");

    let launch = first_launch(&record, "fake-holds-a-card");
    assert_eq!(launch.status, Status::Ok, "{launch:?}");
    let gpu = launch.environment.gpu.as_ref().unwrap();
    assert_eq!(gpu.sm_clock_mhz.unwrap().median, 1980.0);
    assert_eq!((gpu.idle_power_w, gpu.other_processes), (Some(100.0), Some(1)));
    // Windows of a few milliseconds hold no step of a counter that moves ten times a second.
    assert!(launch.gpu_energy.is_none() && gpu.unread["energy"].contains("-n"), "{gpu:?}");
    let memory = launch.memory.gpu.as_ref().unwrap();
    let by_process = Some(GpuMemoryHow::Process);
    assert_eq!((memory.peak_bytes, memory.how), (Some(2_000_000_000), by_process));
    assert_eq!(launch.metrics[&Metric::PeakGpuBytes], 2e9);
    let rate = launch.metrics[&Metric::DecodeTps];
    assert_eq!(launch.metrics[&Metric::TpsPerGb], rate / 2.0, "of the card's memory");
    assert_eq!(launch.metrics[&Metric::SmClock], 1980.0);
    assert!(launch.metrics.contains_key(&Metric::PeakHostBytes));
    assert!(!launch.metrics.contains_key(&Metric::Mbu), "the host's memory is no ceiling of it");
    assert!(!launch.metrics.contains_key(&Metric::JoulesPerToken));
    let codes: Vec<&str> = record.warnings.iter().map(|w| w.code.as_str()).collect();
    for code in ["gpu_split", "gpu_shared", "gpu_throttled", "gpu_unread", "gpu_ceiling"] {
        assert!(codes.contains(&code), "{code} in {codes:?}");
    }
}

#[test]
fn a_device_that_is_not_there_is_refused_before_anything_is_loaded() {
    let cases: [(&[&str], &str, &[&str]); 4] = [
        (&["COUNT=2"], "cuda:2", &["--device cuda:2", "cuda:1 NVIDIA FAKE100", "nvidia-smi"]),
        (&["COUNT=0"], "cuda", &["--device cuda:0", "lists none"]),
        (&["INIT=9"], "cuda:1", &["--device cuda:1", "driver is not loaded"]),
        (&["INIT=4"], "cuda", &["--device cuda:0", "permission", "--device cpu"]),
    ];
    for (state, device, words) in cases {
        let dir = tempfile::tempdir().unwrap();
        let library = library(dir.path(), state);
        let output = run(dir.path(), &library, device, "fake-holds-a-card");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{words:?} in {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(!dir.path().join("results").exists());
    }
}

#[test]
fn without_a_driver_each_command_ends_with_one_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let cases: [&[&str]; 3] = [
        &["run", "--engine", "fake-honest", "--model", "tiny", "--no-install"],
        &["verify", "--engine", "fake-honest", "--model", "/no/such/model.gguf"],
        &["generate", "--engine", "fake-honest", "--model", "/no/such/model.gguf", "--prompt", "x"],
    ];
    for args in cases {
        let mut command = with_fakes(dir.path(), &[args, &["--device", "cuda"]].concat());
        let output = command.env("LLM_BENCH_NVML", "/no/such/library.so").output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        let expected = "--device cuda:0: no NVIDIA driver";
        assert!(said.contains(expected) && said.contains("`--device cpu`"), "{args:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}
