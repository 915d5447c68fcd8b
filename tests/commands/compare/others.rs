//! Files of vLLM, GuideLLM, AIPerf, llama-benchy, llama-batched-bench and criterion: which figure is
//! read as which metric, what the output says where a definition differs, and what is refused.

use serde_json::{Value, json};

use super::bench::*;
use crate::support::repository;

/// The metrics of the only pair of a file with itself, or of one of several pairs, by name or test.
fn values(bench: &Bench, file: &str, arm: usize) -> Vec<(String, f64)> {
    let found = bench.json(&[file, file, "--all"], 0);
    let pair = &found["candidates"][0]["pairs"][arm];
    let metrics = pair["metrics"].as_array().unwrap_or_else(|| panic!("{file}: {found:#}"));
    let one = |m: &Value| {
        assert_eq!((&m["baseline"]["n"], &m["change"]), (&json!(1), &json!(0.0)), "{m:#}");
        assert!(m.get("ci95").is_none_or(Value::is_null), "an interval of one value: {m:#}");
        assert_eq!(m["decision"], "inconclusive", "{m:#}");
        let name = m["test"].as_str().or(m["name"].as_str()).unwrap();
        (name.to_string(), m["baseline"]["mean"].as_f64().unwrap())
    };
    metrics.iter().map(one).collect()
}

/// The file has these values, and no others.
fn has(bench: &Bench, file: &str, arm: usize, expected: &[(&str, f64)]) {
    let mut found = values(bench, file, arm);
    let mut expected: Vec<(String, f64)> =
        expected.iter().map(|(name, x)| (name.to_string(), *x)).collect();
    for list in [&mut found, &mut expected] {
        list.sort_by(|a, b| a.0.cmp(&b.0));
        list.iter_mut().for_each(|(_, x)| *x = six_digits(*x));
    }
    assert_eq!(found, expected, "{file}");
}

#[test]
fn the_figures_of_vllm_are_read_in_seconds_by_definition() {
    let bench = Bench::new();
    has(
        &bench,
        "vllm_serve_2025.json",
        0,
        &[
            ("ttft_s", 0.054577085783294024),
            ("ttft_p50_s", 0.052999333499883505),
            ("ttft_p99_s", 0.08976647855975897),
            ("tpot_s", 0.013577995860227945),
            ("tpot_p50_s", 0.013512526767533997),
            ("tpot_p99_s", 0.017652194109258673),
            ("itl_p50_s", 0.012841573499827064),
            ("itl_p99_s", 0.0342104154),
            ("request_throughput_per_s", 8.325406649602808),
            ("input_throughput_tps", 299700.0 / 36.034275877000255),
            ("output_throughput_tps", 2249.247363167692),
            ("total_tps", 10566.328606120898),
        ],
    );
    // Percentiles of four requests and eight gaps are none; the goodput was asked for.
    has(
        &bench,
        "vllm_serve_detailed.json",
        0,
        &[
            ("ttft_s", 0.023),
            ("ttft_p50_s", 0.023),
            ("tpot_s", 0.01125),
            ("tpot_p50_s", 0.011),
            ("itl_p50_s", 0.011),
            ("itl_p95_s", 0.0133),
            ("e2e_latency_mean_s", 0.0455),
            ("e2e_latency_p50_s", 0.044),
            ("request_throughput_per_s", 16.0),
            ("input_throughput_tps", 256.0),
            ("output_throughput_tps", 48.0),
            ("total_tps", 304.0),
            ("goodput_per_s", 12.0),
        ],
    );
    has(
        &bench,
        "vllm_latency.json",
        0,
        &[("e2e_latency_mean_s", 1.2124), ("e2e_latency_p50_s", 1.209)],
    );
    has(
        &bench,
        "vllm_throughput.json",
        0,
        &[("total_tps", 10000.0), ("request_throughput_per_s", 25.0)],
    );
}

#[test]
fn the_itl_of_guidellm_is_read_as_tpot_in_every_version() {
    let bench = Bench::new();
    has(
        &bench,
        "guidellm_0.3.json",
        0,
        &[
            ("ttft_s", 0.04),
            ("ttft_p50_s", 0.04),
            ("ttft_p95_s", 0.0436),
            ("tpot_s", 0.01),
            ("tpot_p50_s", 0.01),
            ("tpot_p95_s", 0.0109),
            ("e2e_latency_mean_s", 0.67),
            ("e2e_latency_p50_s", 0.67),
            ("e2e_latency_p95_s", 0.7303),
            ("request_throughput_per_s", 1.49),
            ("output_throughput_tps", 95.4),
            ("total_tps", 286.0),
        ],
    );
    has(
        &bench,
        "guidellm_0.8.json",
        0,
        &[
            ("ttft_s", 0.06),
            ("ttft_p50_s", 0.06),
            ("ttft_p95_s", 0.0654),
            ("ttft_p99_s", 0.069),
            ("tpot_s", 0.012),
            ("tpot_p50_s", 0.012),
            ("tpot_p95_s", 0.01308),
            ("tpot_p99_s", 0.0138),
            ("e2e_latency_mean_s", 0.816),
            ("e2e_latency_p50_s", 0.816),
            ("e2e_latency_p95_s", 0.88944),
            ("e2e_latency_p99_s", 0.9384),
            ("request_throughput_per_s", 4.9),
            ("input_throughput_tps", 627.2),
            ("output_throughput_tps", 313.6),
            ("total_tps", 940.8),
            ("goodput_per_s", 4.41),
        ],
    );
    let printed = bench.prints(&["guidellm_0.8.json", "guidellm_0.8.json"], 0);
    assert!(printed.contains("guidellm rate=2.0 type_=constant · tiny"), "{printed}");
}

#[test]
fn the_itl_of_aiperf_is_read_as_tpot_and_its_gaps_between_chunks_as_itl() {
    let bench = Bench::new();
    let of_both = [
        ("ttft_s", 0.05),
        ("ttft_p50_s", 0.05),
        ("ttft_p95_s", 0.0545),
        ("ttft_p99_s", 0.0575),
        ("tpot_s", 0.01),
        ("tpot_p50_s", 0.01),
        ("tpot_p95_s", 0.0109),
        ("tpot_p99_s", 0.0115),
        ("e2e_latency_mean_s", 0.48),
        ("e2e_latency_p50_s", 0.48),
        ("e2e_latency_p95_s", 0.5232),
        ("e2e_latency_p99_s", 0.552),
        ("itl_p50_s", 0.0101),
        ("itl_p95_s", 0.011009),
        ("itl_p99_s", 0.011615),
        ("request_throughput_per_s", 8.0),
        ("output_throughput_tps", 352.0),
    ];
    has(&bench, "aiperf_0.2.json", 0, &of_both);
    let newer = [("input_throughput_tps", 1024.0), ("total_tps", 1376.0), ("goodput_per_s", 7.2)];
    has(&bench, "aiperf_0.13.json", 0, &[&of_both[..], &newer].concat());
    let printed = bench.prints(&["aiperf_0.13.json", "aiperf_0.2.json"], 0);
    assert!(printed.contains("2 of 202 requests failed"), "{printed}");
    assert!(printed.contains("version of AIPerf differs: 0.13.0 → nothing"), "{printed}");
}

#[test]
fn repetitions_of_llama_benchy_are_one_value_of_each_test() {
    let bench = Bench::new();
    let harmonic = |a: f64, b: f64| 2.0 / (1.0 / a + 1.0 / b);
    let each = [49.93663281125085, 49.888762808980715, 49.91249211147383, 49.95305145628558];
    let found = values(&bench, "llama_benchy.json", 0);
    let of =
        |name: &str| found.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{name}")).1;
    for (name, expected) in [
        ("pp2048", harmonic(986.0233386029112, 988.1741643321216)),
        ("tg32", harmonic(50.00830782969089, 49.94739413736796)),
        ("TTFT pp2048", 2.0760429790243506),
        ("pp2048 (c2)", harmonic(1965.8711851197743, 1971.1260043874909)),
        ("tg32 (c2)", harmonic(98.29984861080491, 99.10984964044073)),
        ("tg32 (c2), each", 4.0 / each.iter().map(|x| 1.0 / x).sum::<f64>()),
    ] {
        assert_eq!(six_digits(of(name)), six_digits(expected), "{name}");
    }
    let found = bench.json(&["llama_benchy.json", "llama_benchy.json", "--all"], 0);
    let metrics = found["candidates"][0]["pairs"][0]["metrics"].as_array().unwrap().clone();
    let metric_of =
        |test: &str| metrics.iter().find(|m| m["test"] == test).unwrap()["name"].clone();
    assert_eq!(metric_of("tg32"), "decode_tps");
    assert_eq!(metric_of("tg32 (c2)"), "s_tg_tps");
    assert_eq!(metric_of("tg32 (c2), each"), "decode_tps");
}

#[test]
fn rows_of_llama_batched_bench_are_read_from_lines_and_from_the_table() {
    let bench = Bench::new();
    has(
        &bench,
        "batched_bench.jsonl",
        0,
        &[
            ("S_PP 128+128 B1", 547.453064),
            ("S_TG 128+128 B1", 36.532974),
            ("S 128+128 B1", 68.495094),
            ("S_PP 128+128 B2", 605.770935),
            ("S_TG 128+128 B2", 23.050371),
            ("S 128+128 B2", 44.410854),
        ],
    );
    has(
        &bench,
        "batched_bench.md",
        0,
        &[
            ("S_PP 128+64 B1", 1034.76),
            ("S_TG 128+64 B1", 41.34),
            ("S 128+64 B1", 114.85),
            ("S_PP 128+64 B4", 1053.06),
            ("S_TG 128+64 B4", 116.08),
            ("S 128+64 B4", 285.33),
        ],
    );
    // A row that comes twice may be of one process: it stays one value.
    let twice = std::fs::read_to_string(bench.path("batched_bench.jsonl")).unwrap().repeat(2);
    bench.write("twice.jsonl", twice);
    assert_eq!(values(&bench, "twice.jsonl", 0), values(&bench, "batched_bench.jsonl", 0));
    // Threads of the engine forbid the comparison, as in llama-bench's files.
    let other = std::fs::read_to_string(bench.path("batched_bench.jsonl")).unwrap();
    bench.write("other.jsonl", other.replace("\"n_threads\": 8", "\"n_threads\": 4"));
    let printed = bench.prints(&["batched_bench.jsonl", "other.jsonl", "--exit-code"], 4);
    assert!(printed.contains("✗ threads of the engines differs: 8 → 4"), "{printed}");
}

#[test]
fn the_files_of_one_benchmark_of_criterion_agree() {
    let bench = Bench::new();
    let folder = repository("tests/data/foreign/criterion/base/sums/forward/new");
    let file = |name: &str| folder.join(name).display().to_string();
    let expected = values(&bench, &file("sample.json"), 0);
    assert_eq!(expected.len(), 1);
    let time = expected[0].1;
    assert!(expected[0].0 == "time_s" && time > 1e-7 && time < 1e-4, "{expected:?}");
    for name in [file("estimates.json"), file("benchmark.json"), "cargo_criterion.jsonl".into()] {
        let found = values(&bench, &name, 0)[0].1;
        assert!((found / time - 1.0).abs() < 1e-9, "{name}: {found} and {time}");
    }
    // The two forms name the benchmark alike, and its work.
    let found = bench.json(&[&file("sample.json"), "cargo_criterion.jsonl"], 0);
    let pair = &found["candidates"][0]["pairs"][0];
    assert_eq!(
        (&pair["baseline"], &pair["candidate"]),
        (&json!("sums/forward"), &json!("sums/forward"))
    );
    assert_eq!((&pair["differences"], &pair["comparable"]), (&json!([]), &json!(true)), "{pair:#}");
    // Alone, a sample has no name of its own.
    std::fs::create_dir_all(bench.path("sorts/new")).unwrap();
    std::fs::copy(folder.join("sample.json"), bench.path("sorts/new/sample.json")).unwrap();
    let printed = bench.prints(&["sorts/new/sample.json", "sorts/new/sample.json"], 0);
    assert!(printed.lines().any(|line| line == "sorts"), "{printed}");
    std::fs::copy(folder.join("benchmark.json"), bench.path("lonely.json")).unwrap();
    bench.refuses(&["lonely.json", "lonely.json"], &["lonely.json", "beside it, found neither"]);
}

#[test]
fn the_output_says_where_a_definition_differs_and_that_a_file_is_one_replicate() {
    let bench = Bench::new();
    for (file, words) in [
        ("vllm_serve_2025.json", ["TPOT is the mean over requests", "one client and one server"]),
        ("vllm_latency.json", ["the time of a whole batch", "iterations share one process"]),
        ("vllm_throughput.json", ["all requests at once", "requests share one process"]),
        ("guidellm_0.3.json", ["which llm-bench calls TPOT", "one client and one server"]),
        ("aiperf_0.13.json", ["which llm-bench calls TPOT", "one client and one server"]),
        ("llama_benchy.json", ["a chunk counts as a token", "one client to one server"]),
        ("batched_bench.md", ["feeds fixed tokens", "rows are of one process"]),
        ("cargo_criterion.jsonl", ["the time of an iteration", "iterations inside one process"]),
    ] {
        let printed = bench.prints(&[file, file, "--exit-code"], 3);
        let text = printed.split_whitespace().collect::<Vec<_>>().join(" ");
        for word in words.iter().chain(&["one replicate", "compare A1 A2 -- B1 B2", "does not say"])
        {
            assert!(text.contains(word), "{file}: {word:?} in {printed}");
        }
    }
}

#[test]
fn what_no_tool_writes_is_refused_with_place_field_expected_and_found() {
    let bench = Bench::new();
    let refused = |file: &str, place: &str, value: Value, words: &[&str]| {
        let mut whole = bench.read(file);
        *whole.pointer_mut(place).unwrap_or_else(|| panic!("{place}")) = value;
        bench.write("odd.json", whole.to_string());
        bench.refuses(&[file, "odd.json"], &[&["odd.json"], words].concat());
    };
    let above = "a number above 0, up to 1e18";
    let vllm = "vllm_serve_2025.json";
    refused(vllm, "/mean_ttft_ms", json!("54"), &["mean_ttft_ms", above, "the text \"54\""]);
    refused(vllm, "/mean_tpot_ms", json!(-1), &["mean_tpot_ms", above, "found -1"]);
    refused(vllm, "/output_throughput", json!(1e300), &["output_throughput", above]);
    refused(vllm, "/completed", json!(2.5), &["completed", "a number of requests", "2.5"]);
    refused(vllm, "/model_id", json!(7), &["model_id", "a text", "found 7"]);
    refused("vllm_latency.json", "/latencies", json!([]), &["latencies", "found 0"]);
    refused("vllm_latency.json", "/latencies", json!([1, null]), &["at place 2", "null"]);
    refused("vllm_throughput.json", "/tokens_per_second", json!(null), &["tokens_per_second"]);
    let guidellm = "guidellm_0.8.json";
    refused(guidellm, "/benchmarks", json!([]), &["benchmarks", "a list of benchmarks"]);
    refused(guidellm, "/benchmarks/1/metrics", json!(null), &["benchmarks[1]", "metrics", "none"]);
    refused(guidellm, "/benchmarks/0", json!(3), &["benchmarks[0]", "expected an object, found 3"]);
    let mean = "/benchmarks/0/metrics/time_to_first_token_ms/successful/mean";
    refused(guidellm, mean, json!("x"), &["time_to_first_token_ms: successful: mean", above]);
    let aiperf = "aiperf_0.13.json";
    refused(
        aiperf,
        "/time_to_first_token/unit",
        json!("min"),
        &["unit", "ns, us, ms or sec", "min"],
    );
    refused(aiperf, "/request_throughput/unit", json!("x"), &["unit", "requests/sec", "found x"]);
    refused(aiperf, "/goodput", json!([1]), &["goodput", "an object", "a list of 1"]);
    let benchy = "llama_benchy.json";
    refused(benchy, "/benchmarks/0/concurrency", json!(null), &["concurrency", "found nothing"]);
    refused(benchy, "/benchmarks/0/tg_throughput/values/1", json!(0), &["at place 2", "above 0"]);

    let lines = |text: &str, words: &[&str]| {
        bench.write("odd.json", text);
        bench.refuses(&["odd.json", "odd.json"], &[&["odd.json"], words].concat());
    };
    lines(r#"{"model_id": "a", "completed": 0, "mean_ttft_ms": 0}"#, &["requests that succeeded"]);
    lines(r#"{"model_id": "a", "completed": 3, "mean_ttft_ms": NaN}"#, &["a finite number"]);
    lines(r#"{"benchmarks": [{"metrics": {}}]}"#, &["requests that succeeded", "found none"]);
    lines(r#"{"aiperf_version": "0.13.0"}"#, &["requests that succeeded", "found none"]);
    lines(r#"{"benchmarks": [{}], "latency_mode": 1}"#, &["benchmarks[0]", "context_size"]);
    lines(r#"{"speed_pp": 1, "speed_tg": 2, "pp": "x"}"#, &["row 1", "pp", "a number of tokens"]);
    lines(r#"{"iters": [1, 2], "times": [5]}"#, &["iters", "expected 1, one for each time"]);
    lines(r#"{"median_abs_dev": 1, "std_dev": 1}"#, &["mean", "an object with a point_estimate"]);
    lines(r#"{"reason": "group-complete"}"#, &["benchmark-complete, found none"]);
    let cycles =
        r#"{"reason": "benchmark-complete", "id": "a", "mean": {"estimate": 1, "unit": "cycles"}}"#;
    lines(cycles, &["message 1: mean", "unit", "ns, a time", "cycles"]);
    let deep = format!(r#"{{"benchmarks": {}{}}}"#, "[".repeat(5000), "]".repeat(5000));
    lines(&deep, &["recursion limit"]);
}

#[test]
fn logs_and_marks_around_files_of_other_tools_are_left_out() {
    let bench = Bench::new();
    let text = |name: &str| std::fs::read_to_string(bench.path(name)).unwrap();
    for file in ["vllm_serve_2025.json", "aiperf_0.2.json", "batched_bench.jsonl"] {
        bench.write("mark.json", format!("\u{feff}{}", text(file)));
        bench.prints(&[file, "mark.json"], 0);
        bench.write("log.json", format!("INFO 11-20 10:15:02 loading\n{}", text(file)));
        let printed = bench.prints(&[file, "log.json"], 0);
        assert!(printed.contains("1 line of a log"), "{printed}");
    }
    bench.write("mark.md", format!("\u{feff}{}", text("batched_bench.md")));
    bench.prints(&["batched_bench.md", "mark.md"], 0);
}

#[test]
fn megabytes_of_requests_are_passed_over() {
    let bench = Bench::new();
    let mut report = bench.read("guidellm_0.8.json");
    let request = json!({"output": "a ".repeat(1 << 20)});
    report["benchmarks"][0]["requests"]["successful"] = json!(vec![request; 12]);
    bench.write("large.json", report.to_string());
    assert_eq!(values(&bench, "large.json", 0), values(&bench, "guidellm_0.8.json", 0));
}
