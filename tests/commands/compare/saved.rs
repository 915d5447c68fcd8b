//! Files of other tools as people really have them: runs that failed, tests that were repeated,
//! versions that record different settings, logs and marks around the JSON.

use serde_json::{Value, json};

use super::bench::*;

/// hyperfine's file with these exit codes.
fn with_codes(bench: &Bench, name: &str, times: &[f64], codes: &Value) {
    bench.hyperfine(name, "./prog", times);
    let mut file = bench.read(name);
    file["results"][0]["exit_codes"] = codes.clone();
    bench.write(name, file.to_string());
}

#[test]
fn a_run_that_failed_is_no_sample() {
    let bench = Bench::new();
    let times = scaled(&QUIET_8, 0.05);
    bench.hyperfine("a.json", "./prog", &times);
    // All runs failed at once: forty times as fast, and nothing to compare.
    let fast = scaled(&QUIET_8, 0.001);
    with_codes(&bench, "all.json", &fast, &json!([127, 127, 127, 127, 127, 127, 127, 127]));
    let printed = bench.prints(&["a.json", "all.json", "--exit-code"], 4);
    assert!(printed.contains("8 of 8 runs") && !printed.contains("improved"), "{printed}");
    assert!(printed.contains("successful runs"), "{printed}");
    bench.prints(&["all.json", "a.json", "--exit-code"], 4);
    bench.prints(&["all.json", "all.json", "--exit-code"], 4);
    // One was killed: null is the death by a signal.
    let mut killed = times.clone();
    killed[7] = 0.001;
    with_codes(&bench, "one.json", &killed, &json!([0, 0, 0, 0, 0, 0, 0, null]));
    let compared = bench.json(&["a.json", "one.json"], 0);
    let pair = &compared["candidates"][0]["pairs"][0];
    let time = metric(pair, "time_s");
    assert_eq!((&time["baseline"]["n"], &time["candidate"]["n"]), (&json!(8), &json!(7)));
    let printed = bench.prints(&["a.json", "one.json"], 0);
    assert!(printed.contains("1 of 8 runs") && printed.contains("no samples"), "{printed}");
    with_codes(&bench, "odd.json", &times, &json!([0, 0]));
    bench.refuses(&["a.json", "odd.json"], &["exit_codes", "expected 8", "found 2"]);
}

#[test]
fn all_tests_of_one_list_are_one_launch() {
    let bench = Bench::new();
    let mut tests = bench.read("llama_bench.json");
    let one = tests.as_array().unwrap()[1].clone();
    let repeated: Vec<Value> = vec![one; 4];
    tests = json!(repeated);
    bench.write("a.json", tests.to_string());
    bench.write("b.json", tests.to_string());
    let compared = bench.json(&["a.json", "b.json"], 0);
    let pair = &compared["candidates"][0]["pairs"][0];
    let row = &pair["metrics"][0];
    assert_eq!((&row["baseline"]["n"], &row["candidate"]["n"]), (&json!(1), &json!(1)), "{row:#}");
    let printed = bench.prints(&["a.json", "b.json"], 0);
    assert!(printed.contains("inside one process"), "{printed}");
    // Two lists are two launches.
    bench.write("two.json", format!("{tests}\n{tests}"));
    let compared = bench.json(&["two.json", "two.json"], 0);
    let row = &compared["candidates"][0]["pairs"][0]["metrics"][0];
    assert_eq!(row["baseline"]["n"], 2, "{row:#}");
}

#[test]
fn versions_that_record_different_settings_pair_where_the_shared_ones_agree() {
    let bench = Bench::new();
    let tests = bench.read("llama_bench.json");
    let arms = |more: bool, order: [u32; 2]| -> Value {
        let mut all = Vec::new();
        for ubatch in order {
            for mut test in tests.as_array().unwrap().clone() {
                test["n_ubatch"] = ubatch.into();
                if more {
                    test["brand_new"] = 0.into();
                }
                all.push(test);
            }
        }
        json!(all)
    };
    bench.write("older.json", arms(false, [256, 512]).to_string());
    bench.write("newer.json", arms(true, [512, 256]).to_string());
    for files in [["older.json", "newer.json"], ["newer.json", "older.json"]] {
        let compared = bench.json(&files, 0);
        let against = &compared["candidates"][0];
        assert_eq!(against["pairs"].as_array().unwrap().len(), 2, "{against:#}");
        let printed = bench.prints(&files, 0);
        assert!(printed.contains("brand_new") && printed.contains("not recorded"), "{printed}");
    }
    // Two arms that only the newer version tells apart are nobody's partners.
    let mut newer = arms(true, [512, 512]);
    for test in newer.as_array_mut().unwrap().iter_mut().take(2) {
        test["brand_new"] = 1.into();
    }
    bench.write("newer.json", newer.to_string());
    bench.prints(&["older.json", "newer.json"], 4);
}

#[test]
fn logs_and_marks_around_the_json_are_left_out_and_utf_16_is_named() {
    let bench = Bench::new();
    let json = std::fs::read_to_string(bench.path("llama_bench.json")).unwrap();
    let log = "ggml_vulkan: Found 1 Vulkan devices:\nggml_vulkan: 0 = Some Card | uma: 0\n";
    bench.write("log.json", format!("{log}{json}"));
    let printed = bench.prints(&["llama_bench.json", "log.json"], 0);
    assert!(printed.contains("2 lines of a log") && printed.contains("ggml_vulkan"), "{printed}");
    bench.write("mark.json", format!("\u{feff}{json}"));
    bench.prints(&["llama_bench.json", "mark.json"], 0);
    let wide: Vec<u8> = json.encode_utf16().flat_map(u16::to_le_bytes).collect();
    bench.write("wide.json", [b"\xff\xfe".to_vec(), wide].concat());
    bench.refuses(&["llama_bench.json", "wide.json"], &["wide.json", "UTF-16", "iconv"]);
    // A line inside a list cannot be told from damage: it is shown.
    bench.write("inside.json", json.replacen("},", "},\nggml: a line\n", 1));
    bench.refuses(&["llama_bench.json", "inside.json"], &["inside.json", "ggml: a line", "2>&1"]);
    bench.record("record.json", &QUIET, |_| {});
    let record = std::fs::read_to_string(bench.path("record.json")).unwrap();
    bench.write("marked.json", format!("\u{feff}{record}"));
    bench.prints(&["record.json", "marked.json"], 0);
}
