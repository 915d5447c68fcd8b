//! What must be refused, and text that must stay text.

use serde_json::{Value, json};

use super::bench::*;

#[test]
fn a_newer_schema_and_foreign_files_are_refused_by_name() {
    let bench = two_records();
    let mut newer = bench.read("head.json");
    newer["schema"] = "llm-bench/2".into();
    bench.write("newer.json", newer.to_string());
    bench.refuses(&["base.json", "newer.json"], &["newer.json", "llm-bench/2", "llm-bench/1"]);
    let known = ["llm-bench run", "llama-bench -o json", "hyperfine --export-json"];
    for content in ["", "42", "{}", "{\"a\": 1}", "# a table\n| model |", "\u{feff}{}", "\"text\""]
    {
        bench.write("odd.json", content);
        bench.refuses(&["base.json", "odd.json"], &[&["odd.json"], &known[..]].concat());
    }
    bench.refuses(&["base.json", "absent.json"], &["absent.json", "No such file"]);
    bench.refuses(&["base.json", "."], &["cannot read ."]);
}

#[test]
fn a_number_that_is_none_is_refused_in_every_format() {
    let bench = Bench::new();
    bench.record("base.json", &QUIET, |_| {});
    let file = |name: &str| std::fs::read_to_string(bench.path(name)).unwrap();
    let record = file("base.json");
    for odd in ["NaN", "Infinity", "-Infinity", "nan", "inf"] {
        let at = record.find("\"decode_tps\":").unwrap() + "\"decode_tps\":".len();
        let end = at + record[at..].find([',', '}']).unwrap();
        bench.write("nan.json", format!("{}{odd}{}", &record[..at], &record[end..]));
        bench.refuses(&["base.json", "nan.json"], &["nan.json", "finite number"]);
        bench.write(
            "nan.json",
            format!("{{\"results\": [{{\"command\": \"a\", \"times\": [1.0, {odd}]}}]}}"),
        );
        bench.refuses(&["nan.json", "nan.json"], &["nan.json", "finite number", "line 1"]);
        bench.write(
            "nan.json",
            format!("[\n{{\"n_prompt\": 1, \"samples_ts\": [ 1.5,\n {odd} ]}}]"),
        );
        bench.refuses(&["nan.json", "nan.json"], &["nan.json", "finite number", "line 3"]);
    }
    for odd in [-1.0, 0.0] {
        bench.record("odd.json", &QUIET, |r| scale(r, 0, "prefill_tps", odd));
        bench.refuses(&["base.json", "odd.json"], &["odd.json", "prefill_tps", "above 0"]);
    }
    bench.record("null.json", &QUIET, |r| {
        r["arms"][0]["launches"][0]["metrics"]["decode_tps"] = Value::Null;
    });
    bench.refuses(&["base.json", "null.json"], &["null.json", "null"]);
    bench.write("big.json", "{\"results\": [{\"command\": \"a\", \"times\": [1e999]}]}");
    bench.refuses(&["big.json", "big.json"], &["big.json", "number out of range"]);
}

#[test]
fn what_no_tool_writes_is_refused_with_place_field_expected_and_found() {
    let bench = Bench::new();
    let hyperfine = |result: Value, words: &[&str]| {
        bench.write("odd.json", json!({"results": [result]}).to_string());
        bench.refuses(
            &["hyperfine_50ms.json", "odd.json"],
            &[&["odd.json: results[0]"], words].concat(),
        );
    };
    hyperfine(json!({"command": "a", "mean": 1.0, "stddev": 0.1}), &["times", "none"]);
    hyperfine(json!({"command": "a", "times": "1.0"}), &["times", "a list of times", "\"1.0\""]);
    hyperfine(json!({"command": "a", "times": []}), &["times", "found 0"]);
    hyperfine(json!({"command": "a", "times": [1.0, -2.0]}), &["at place 2", "above 0", "-2"]);
    hyperfine(
        json!({"command": "a", "times": [1.0, 1e300]}),
        &["at place 2", "up to 1e18", "1e300"],
    );
    hyperfine(json!({"command": "a", "times": [1.0, 1e-300]}), &["at place 2", "1e-300"]);
    hyperfine(json!({"command": "a", "times": [1.0, "x"]}), &["at place 2", "the text \"x\""]);
    hyperfine(json!({"command": 7, "times": [1.0]}), &["command: expected a text, found 7"]);
    hyperfine(json!([1]), &["expected an object, found a list of 1"]);
    bench.write("odd.json", r#"{"results": []}"#);
    bench.refuses(&["odd.json", "odd.json"], &["odd.json: results"]);
    bench.write(
        "odd.json",
        json!({"results": [{"command": "a", "times": [1.0]},
                                               {"command": "a", "times": [1.0]}]})
        .to_string(),
    );
    bench.refuses(&["odd.json", "odd.json"], &["results[1]", "\"a\" again"]);

    let llama = |field: &str, value: Value, words: &[&str]| {
        let mut tests = bench.read("llama_bench.json");
        match value {
            Value::Null => _ = tests[1].as_object_mut().unwrap().remove(field),
            value => tests[1][field] = value,
        }
        bench.write("odd.json", tests.to_string());
        bench.refuses(
            &["llama_bench.json", "odd.json"],
            &[&["odd.json: entry 2", field], words].concat(),
        );
    };
    llama("n_gen", json!("128"), &["a number of tokens", "the text \"128\""]);
    llama("n_gen", json!(-1), &["a number of tokens", "-1"]);
    llama("n_gen", json!(1e12), &["a number of tokens"]);
    llama("n_gen", Value::Null, &["found nothing"]);
    llama("samples_ns", json!([1, 2, 0]), &["at place 3"]);
    llama("samples_ns", json!({}), &["a list of times", "an object"]);
    llama("samples_ts", json!([1.0, 2.0, 3.0, 4.0, 5.0]), &["follow from samples_ns"]);
    llama("model_filename", json!(null), &["a text"]);
    let mut tests = bench.read("llama_bench.json");
    for test in tests.as_array_mut().unwrap() {
        let fields = test.as_object_mut().unwrap();
        fields.retain(|name, _| !name.starts_with("samples"));
    }
    bench.write("odd.json", tests.to_string());
    bench.refuses(&["llama_bench.json", "odd.json"], &["samples_ns", "stddev_ts are no samples"]);
    bench.write("odd.json", "[]");
    bench.refuses(&["odd.json", "odd.json"], &["odd.json", "an empty list"]);
    bench.write("odd.json", "[".repeat(100_000));
    bench.refuses(&["odd.json", "odd.json"], &["odd.json", "not JSON"]);
    bench.write("odd.json", format!("[{}{}]", "[".repeat(10_000), "]".repeat(10_000)));
    bench.refuses(&["odd.json", "odd.json"], &["odd.json", "recursion limit"]);
    bench.write("odd.json", format!("[{}1]", "1,".repeat(9 << 20)));
    bench.refuses(&["odd.json", "odd.json"], &["odd.json", "more than 16 MiB"]);
    let many = vec!["1"; 1_000_001].join(",");
    bench.write("odd.json", format!("{{\"results\":[{{\"command\":\"a\",\"times\":[{many}]}}]}}"));
    bench.refuses(&["odd.json", "odd.json"], &["1 to 1000000 times", "1000001"]);
}

#[test]
fn text_of_a_file_cannot_steer_the_terminal_or_break_a_table() {
    let bench = Bench::new();
    let evil = "\u{1b}[2J|evil|\n<script>\u{7}\u{202e}";
    bench.hyperfine("a.json", evil, &QUIET);
    bench.hyperfine("b.json", "plain", &QUIET_8);
    for form in ["table", "md", "csv"] {
        let printed = bench.prints(&["a.json", "b.json", "-o", form], 0);
        let bad = |c: char| c != '\n' && c.is_control() || c == '\u{202e}';
        assert!(!printed.contains(bad), "{form}: {printed:?}");
        assert!(form != "md" || !printed.contains("<script>"), "{printed}");
    }
    bench.write("c.json", json!({"results": [{"command": evil, "times": "x"}]}).to_string());
    bench.refuses(&["a.json", "c.json"], &["c.json: results[0]: times"]);
}
