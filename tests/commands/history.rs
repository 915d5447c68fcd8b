//! `history` as a user types it: what goes in comes out, lines of different machines stay apart,
//! and no accident to the process, the disk or the file destroys what was there.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::{PROGRAM, done, files, limited, llm_bench, not_tested, refused, text};
use llm_bench::metric::Metric;
use serde_json::{Value, json};

pub fn history(dir: &Path, args: &[&str]) -> Output {
    llm_bench(dir, &[&["history", "--db", "h.sqlite"], args].concat()).output().unwrap()
}

fn commit(i: usize) -> String {
    format!("{:08x}{:032x}", (i as u32 + 1).wrapping_mul(0x1234_5671), i)
}

/// A result file of one engine; `day` sets its date and `level` its speed.
pub fn record(day: usize, engine: &str, level: f64, launches: usize) -> Value {
    let luck = [1.0, 1.006, 0.995, 1.003, 0.996];
    let level = level * (1.0 + 0.002 * ((day * 7 % 5) as f64 - 2.0));
    let launch = |i: usize| {
        let x = level * luck[(i + day) % 5];
        json!({
            "index": i, "order": i, "started_at": "2026-03-01T10:15:30+01:00", "status": "ok",
            "metrics": {"decode_tps": x, "model_load_s": 1.5 / x, "peak_host_bytes": 1.02e9},
            "prompts": [], "memory": {}, "environment": {},
        })
    };
    let day_of =
        |day: usize| format!("2026-{:02}-{:02}T10:15:30+01:00", 1 + day / 28, 1 + day % 28);
    json!({
        "schema": "llm-bench/1",
        "run": {"id": format!("run-{day}-{engine}"), "started_at": day_of(day), "command": "x",
                "seed": 42, "complete": true,
                "config": {"threads": 2, "warmup": 1, "iterations": 1, "page_cache": "warm",
                           "device": "cpu"}},
        "host": {"os": "Linux", "kernel": "6.8.0", "cpu_model": "AMD EPYC 9R14", "cores": 2,
                 "threads": 2, "isa": ["avx2"], "ram_bytes": 24_900_000_000u64, "gpu": []},
        "build": {"version": "0.1.0", "git_commit": commit(day), "git_dirty": false,
                  "features": [], "target_cpu": "native", "profile": "release"},
        "model": {"name": "llama3-1b", "file": "m.gguf", "sha256": "6f85a640", "quant": "Q4_0",
                  "weights": "synthetic", "n_params": 1, "size_bytes": 1, "n_vocab": 1,
                  "weight_bytes_per_token": 1, "kv_values_per_position": 1, "context_length": 1},
        "workload": {"prompt_set": "quick", "sha256": "11aa", "prompts": []},
        "arms": [{"engine": engine, "label": engine, "version": {"rust": "1.91"}, "settings": {},
                  "launches": (0..launches).map(launch).collect::<Vec<_>>()}],
    })
}

pub fn write(dir: &Path, name: &str, value: &Value) -> String {
    let path = dir.join(name);
    std::fs::write(&path, serde_json::to_string(value).unwrap()).unwrap();
    path.to_str().unwrap().to_string()
}

/// Twelve days of two engines; candle is 8 % faster from the seventh day on.
fn twelve_days(dir: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for day in 0..12 {
        let level = if day < 6 { 38.0 } else { 41.0 };
        files.push(write(dir, &format!("c{day}.json"), &record(day, "candle", level, 5)));
        files.push(write(dir, &format!("p{day}.json"), &record(day, "pytorch", 20.0, 5)));
    }
    files
}

pub fn add(dir: &Path, files: &[String]) -> Output {
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    history(dir, &[&["add"], &files[..]].concat())
}

pub fn twelve_days_added() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let files = twelve_days(dir.path());
    done(add(dir.path(), &files));
    dir
}

pub fn export(dir: &Path, db: &str, form: &str) -> String {
    let args = ["history", "--db", db, "export", "--form", form];
    done(llm_bench(dir, &args).output().unwrap())
}

pub fn sessions(dir: &Path) -> usize {
    export(dir, "h.sqlite", "jsonl").lines().count()
}

// ---- what it shows ----

#[test]
fn the_outputs_are_as_they_were_approved() {
    let dir = twelve_days_added();
    for (name, args) in [
        ("list", &["list"][..]),
        ("list_md", &["list", "-o", "md"]),
        ("show", &["show", "decode_tps"]),
        ("show_md", &["show", "decode_tps", "--engine", "candle", "--last", "3", "-o", "md"]),
        ("show_csv", &["show", "decode_tps", "--engine", "candle", "--last", "2", "-o", "csv"]),
        ("show_json", &["show", "decode_tps", "--engine", "candle", "--last", "1", "-o", "json"]),
        ("changes", &["changes"]),
        ("changes_md", &["changes", "decode_tps", "-o", "md"]),
        ("changes_json", &["changes", "decode_tps", "-o", "json"]),
        ("changes_csv", &["changes", "decode_tps", "-o", "csv"]),
        ("plot", &["plot", "decode_tps", "-o", "p.svg"]),
        ("export_csv", &["export", "--form", "csv", "--engine", "candle", "--since", "2026-01-12"]),
        ("export_sql", &["export", "--form", "sql", "--engine", "candle", "--since", "2026-01-12"]),
    ] {
        insta::assert_snapshot!(name, done(history(dir.path(), args)));
    }
    insta::assert_snapshot!("svg", std::fs::read_to_string(dir.path().join("p.svg")).unwrap());
    done(history(dir.path(), &["html", "-o", "site"]));
    let page = std::fs::read_to_string(dir.path().join("site/index.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("Decode · candle · llama3-1b Q4_0"));
    for foreign in ["<script", "http://", "https://", "url("] {
        let page = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!page.contains(foreign), "{foreign} in the page");
    }
}

#[test]
fn a_dip_is_named_a_transient_and_few_sessions_say_what_they_could_show() {
    let dir = tempfile::tempdir().unwrap();
    let day = |day: usize| {
        let level = if (12..16).contains(&day) { 30.0 } else { 38.0 };
        write(dir.path(), &format!("{day}.json"), &record(day, "candle", level, 5))
    };
    done(add(dir.path(), &(0..4).map(day).collect::<Vec<_>>()));
    let few = done(history(dir.path(), &["changes", "decode_tps"]));
    assert!(few.contains("too few sessions to see a change of 5 % (4 sessions;"), "{few}");
    assert!(!few.contains("No level changed"), "{few}");
    let json = history(dir.path(), &["changes", "decode_tps", "-o", "json"]);
    assert!(text(&json.stderr).contains("too few sessions"), "{}", text(&json.stderr));
    assert_eq!(done(json).trim(), "[]");
    done(add(dir.path(), &(4..12).map(day).collect::<Vec<_>>()));
    let flat = done(history(dir.path(), &["changes", "decode_tps"]));
    assert!(flat.contains("No level changed by more than the margin of 5 %."), "{flat}");
    done(add(dir.path(), &(12..28).map(day).collect::<Vec<_>>()));
    let dip = done(history(dir.path(), &["changes", "decode_tps"]));
    let named = "transient: 4 sessions, 2026-01-13 to 2026-01-16, then back to the old level";
    assert!(dip.contains(named), "{dip}");
    let json = done(history(dir.path(), &["changes", "decode_tps", "-o", "json"]));
    let rows: Vec<Value> = serde_json::from_str(&json).unwrap();
    assert_eq!(rows.len(), 2);
    for (row, first_after) in rows.iter().zip([16, 12]) {
        assert_eq!(row["first_after"], json!(commit(first_after)));
        assert_eq!(row["kind"], json!("transient"));
        assert_eq!((&row["extent_sessions"], &row["sessions"]), (&json!(4), &json!(28)));
        assert_eq!(row["extent_first"], json!(commit(12)));
        assert_eq!(row["extent_last"], json!(commit(15)));
    }
}

#[test]
fn a_filter_takes_the_lines_that_it_names() {
    let dir = twelve_days_added();
    let labels = |args: &[&str]| {
        let json = done(history(dir.path(), &[&["list", "-o", "json"], args].concat()));
        let lines: Vec<Value> = serde_json::from_str(&json).unwrap();
        lines
            .iter()
            .map(|l| format!("{}:{}", l["identity"]["label"].as_str().unwrap(), l["sessions"]))
            .collect::<Vec<_>>()
    };
    assert_eq!(labels(&[]), ["candle:12", "pytorch:12"]);
    assert_eq!(labels(&["--engine", "candle"]), ["candle:12"]);
    assert_eq!(labels(&["--since", "2026-01-10", "--engine", "pytorch"]), ["pytorch:3"]);
    assert_eq!(labels(&["--identity", "2"]), ["pytorch:12"]);
    assert_eq!(labels(&["--host", "epyc"]).len(), 2);
    assert!(labels(&["--host", "Xeon"]).is_empty());
    assert!(labels(&["--quant", "F16"]).is_empty() && labels(&["--model", "x"]).is_empty());
    refused(history(dir.path(), &["list", "--since", "soon"]), &["soon", "expected a date"]);
    refused(history(dir.path(), &["show", "decode_tsp"]), &["did you mean \"decode_tps\""]);
}

#[test]
fn another_machine_is_another_line_and_says_in_what_it_differs() {
    let dir = tempfile::tempdir().unwrap();
    let mut other = record(1, "candle", 38.0, 5);
    other["host"]["governor"] = json!("powersave");
    other["build"]["target_cpu"] = json!("generic");
    let files = [
        write(dir.path(), "a.json", &record(0, "candle", 38.0, 5)),
        write(dir.path(), "b.json", &other),
    ];
    done(add(dir.path(), &files));
    let list = done(history(dir.path(), &["list"]));
    assert!(list.contains("Line 2 differs from line 1 in: governor, target_cpu."), "{list}");
    let shown = done(history(dir.path(), &["show", "decode_tps"]));
    assert_eq!(shown.matches("1 session").count(), 2, "{shown}");
}

#[test]
fn an_old_commit_measured_today_stands_where_it_was_committed() {
    let dir = tempfile::tempdir().unwrap();
    let git = |args: &[&str], date: &str| {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=a", "-c", "user.email=a@b"]).args(args);
        git.env("GIT_COMMITTER_DATE", date).env("GIT_AUTHOR_DATE", date);
        let out = git.current_dir(dir.path()).output().unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        text(&out.stdout).trim().to_string()
    };
    git(&["init", "-q"], "");
    let shas: Vec<String> = ["2025-05-01T00:00:00Z", "2025-06-01T00:00:00Z"]
        .iter()
        .map(|date| {
            git(&["commit", "-q", "--allow-empty", "-m", "x"], date);
            git(&["rev-parse", "HEAD"], "")
        })
        .collect();
    // The newer commit is measured first.
    for (day, sha) in [(0, &shas[1]), (1, &shas[0])] {
        let file = write(dir.path(), "r.json", &record(day, "candle", 38.0, 5));
        done(history(dir.path(), &["add", &file, "--commit", sha]));
    }
    let shown = done(history(dir.path(), &["show", "decode_tps", "-o", "csv"]));
    let old = shown.find(&shas[0]).unwrap();
    assert!(old < shown.find(&shas[1]).unwrap(), "{shown}");
    assert!(shown.contains("2025-05-01") && shown.contains("2025-06-01"), "{shown}");
}

// ---- adding ----

#[test]
fn adding_a_file_again_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let files = twelve_days(dir.path());
    done(add(dir.path(), &files));
    let before = std::fs::read(dir.path().join("h.sqlite")).unwrap();
    let again = add(dir.path(), &files);
    assert!(text(&again.stderr).contains("added 0 sessions, 24 were there already"));
    done(again);
    assert_eq!(std::fs::read(dir.path().join("h.sqlite")).unwrap(), before);
}

#[test]
fn a_run_with_other_values_is_refused_and_nothing_of_the_command_is_added() {
    let dir = tempfile::tempdir().unwrap();
    let first = write(dir.path(), "a.json", &record(0, "candle", 38.0, 5));
    done(add(dir.path(), &[first]));
    let new = write(dir.path(), "b.json", &record(1, "candle", 38.0, 5));
    let forged = write(dir.path(), "c.json", &record(0, "candle", 48.0, 5));
    refused(add(dir.path(), &[new, forged]), &["run-0-candle", "other values"]);
    assert_eq!(sessions(dir.path()), 1);
}

#[test]
fn an_interrupted_run_is_refused_or_marked_and_its_whole_takes_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let mut part = record(0, "candle", 38.0, 2);
    part["run"]["complete"] = json!(false);
    let part = write(dir.path(), "part.json", &part);
    refused(
        add(dir.path(), std::slice::from_ref(&part)),
        &["part.json", "--resume", "--incomplete"],
    );
    done(history(dir.path(), &["add", "--incomplete", &part]));
    assert!(export(dir.path(), "h.sqlite", "jsonl").contains("\"complete\":false"));
    assert!(done(history(dir.path(), &["show", "decode_tps"])).contains("2, cut off"));
    let whole = write(dir.path(), "whole.json", &record(0, "candle", 38.0, 5));
    let output = add(dir.path(), &[whole]);
    assert!(text(&output.stderr).contains("completed 1"), "{}", text(&output.stderr));
    let lines = export(dir.path(), "h.sqlite", "jsonl");
    assert_eq!(lines.lines().count(), 1);
    assert!(lines.contains("\"complete\":true"));
    refused(history(dir.path(), &["add", "--incomplete", &part]), &["other values"]);
}

#[test]
fn numbers_that_are_none_are_refused_with_the_file() {
    let dir = tempfile::tempdir().unwrap();
    // At a level that leaves the fixture unchanged.
    let good = serde_json::to_string(&record(1, "candle", 38.0, 5)).unwrap();
    let good = good.replacen("\"decode_tps\":", "\"decode_tps\":38.0,\"tpot_s\":", 1);
    for bad in ["NaN", "1e999", "null", "\"fast\""] {
        let path = dir.path().join("bad.json");
        let whole = good.replacen("\"decode_tps\":38.0", &format!("\"decode_tps\":{bad}"), 1);
        assert_ne!(whole, good);
        std::fs::write(&path, whole).unwrap();
        refused(add(dir.path(), &[path.to_str().unwrap().into()]), &["bad.json"]);
    }
    let mut newer = record(0, "candle", 38.0, 5);
    newer["schema"] = json!("llm-bench/2");
    let newer = write(dir.path(), "newer.json", &newer);
    refused(add(dir.path(), &[newer]), &["newer.json", "llm-bench/2"]);
    let mut gate = record(0, "candle", 38.0, 5);
    gate["run"]["config"]["gate"] = json!({});
    let gate = write(dir.path(), "gate.json", &gate);
    refused(add(dir.path(), &[gate]), &["gate.json", "llm-bench track"]);
    let mut failed = record(0, "candle", 38.0, 1);
    failed["arms"][0]["launches"][0]["status"] = json!("failed");
    let failed = write(dir.path(), "failed.json", &failed);
    refused(add(dir.path(), &[failed]), &["failed.json", "nothing to add"]);
    assert!(!dir.path().join("h.sqlite").exists(), "a refused file makes no history");
}

#[test]
fn files_that_cannot_be_added_are_left_out_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let mut part = record(0, "candle", 38.0, 2);
    part["run"]["complete"] = json!(false);
    let part = write(dir.path(), "part.json", &part);
    let good = write(dir.path(), "good.json", &record(1, "candle", 38.0, 5));
    refused(add(dir.path(), &[good.clone(), part.clone()]), &["nothing was added", "--skip"]);
    let output = history(dir.path(), &["add", "--skip", &part, &good]);
    assert!(text(&output.stderr).contains("left out: "), "{}", text(&output.stderr));
    done(output);
    assert_eq!(sessions(dir.path()), 1);
    refused(history(dir.path(), &["add", "--skip", &part]), &["none of the 1 files"]);
}

#[test]
fn track_runs_and_adds_in_one() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["track", "--model", "tiny", "--engine", "candle", "-r", "2", "-p", "8", "-n", "4"];
    let args = [&args[..], &["--no-verify"]].concat();
    let stdout = done(llm_bench(dir.path(), &args).output().unwrap());
    assert!(stdout.contains("candle"), "the table of `run` is shown");
    let list = llm_bench(dir.path(), &["history", "list", "-o", "json"]).output().unwrap();
    let list: Vec<Value> = serde_json::from_str(&done(list)).unwrap();
    assert_eq!((list.len(), &list[0]["sessions"]), (1, &json!(1)));
    let left = files(&dir.path().join("results"));
    assert_eq!(left.len(), 5, "json, csv, md, html and the history: {left:?}");
}

// ---- text and back ----

#[test]
fn what_is_exported_is_imported_value_by_value_in_every_form() {
    let dir = twelve_days_added();
    let mut odd = record(20, "odd,\"engine\"\n'; DROP TABLE session; --", 1e-7, 3);
    odd["arms"][0]["launches"][1]["metrics"]["decode_tps"] = json!(0.1 + 0.2);
    odd["host"]["gpu"] = json!([{"name": "H200 <x>", "memory_bytes": 1, "driver": "570.86.15"}]);
    odd["build"]["git_dirty"] = json!(true);
    odd["build"]["executable_sha256"] = json!("abcd");
    odd["run"]["id"] = json!("run 'odd'");
    let odd = write(dir.path(), "odd.json", &odd);
    done(add(dir.path(), &[odd]));
    let forms = ["jsonl", "csv", "sql"];
    let before = forms.map(|form| export(dir.path(), "h.sqlite", form));
    for (form, exported) in forms.iter().zip(&before) {
        let file = format!("export.{form}");
        std::fs::write(dir.path().join(&file), exported).unwrap();
        let db = format!("from_{form}.sqlite");
        done(llm_bench(dir.path(), &["history", "--db", &db, "import", &file]).output().unwrap());
        for (form, before) in ["jsonl", "csv"].iter().zip(&before) {
            assert_eq!(&export(dir.path(), &db, form), before, "through {file}");
        }
        // Importing again adds nothing.
        let again = llm_bench(dir.path(), &["history", "--db", &db, "import", &file]).output();
        assert!(text(&again.unwrap().stderr).contains("25 were there already"));
    }
}

#[test]
fn a_hostile_import_is_refused_with_its_place_and_adds_nothing() {
    let dir = twelve_days_added();
    let jsonl = export(dir.path(), "h.sqlite", "jsonl");
    let csv = export(dir.path(), "h.sqlite", "csv");
    let sql = export(dir.path(), "h.sqlite", "sql");
    let empty = tempfile::tempdir().unwrap();
    let import = |name: &str, content: &str, words: &[&str]| {
        std::fs::write(empty.path().join(name), content).unwrap();
        refused(history(empty.path(), &["import", name]), &[&[name], words].concat());
        assert_eq!(sessions(empty.path()), 0, "{name}");
    };
    let line = jsonl.lines().next().unwrap();
    let second = |line: String| format!("{}\n{line}\n", jsonl.lines().last().unwrap());
    let line = &line.replacen("\"decode_tps\":[", "\"decode_tps\":[38.0,", 1);
    let with = |from: &str, to: &str| {
        let changed = line.replacen(from, to, 1);
        assert_ne!(&changed, line, "{from}");
        second(changed)
    };
    import("x.jsonl", &with("38.0", "NaN"), &[":2"]);
    import("x.jsonl", &with("38.0", "1e999"), &[":2"]);
    import("x.jsonl", &with("\"decode_tps\"", "\"speed\""), &[":2", "speed"]);
    import("x.jsonl", &with("llm-bench-history/1", "llm-bench-history/9"), &[":2", "/9"]);
    import("x.jsonl", &with("2026-01", "2026-31"), &[":2", "started_at"]);
    import("x.jsonl", &with(&commit(0), "$(reboot)"), &[":2", "commit"]);
    import("x.jsonl", &with("\"run_id\"", "\"surprise\":1,\"run_id\""), &[":2", "surprise"]);
    import("x.jsonl", &line[..line.len() / 2], &[":1"]);
    import("x.jsonl", "\u{0}\u{1}", &[":1"]);

    let n = csv.lines().next().unwrap().replace(",launches", ",starts");
    import("x.csv", &n, &[":1", "expected the columns"]);
    let edited = csv.replacen(",5,1020000000.0,", ",5,1030000000.0,", 1);
    assert_ne!(edited, csv);
    import("x.csv", &edited, &["x.csv:", "does not agree with launches"]);
    let cut = &csv[..csv.len() - 40];
    import("x.csv", cut, &["x.csv:"]);
    import("x.csv", "a,b\n1,2\n", &["expected the columns"]);

    let commit = sql.rfind("COMMIT;").unwrap();
    import("x.sql", &sql[..commit], &["expected COMMIT"]);
    import("x.sql", &sql[..sql.len() / 2], &["ends in the middle"]);
    for attack in [
        "ATTACH DATABASE 'stolen.sqlite' AS x;",
        "VACUUM INTO 'stolen.sqlite';",
        "CREATE TRIGGER t AFTER INSERT ON session BEGIN DELETE FROM result; END;",
        "DROP TABLE session;",
        "INSERT INTO identity (fields) SELECT readfile('/etc/passwd');",
        "INSERT INTO identity (fields) VALUES (load_extension('x'));",
        "INSERT INTO session (id) WITH RECURSIVE c(x) AS (VALUES(1) UNION ALL SELECT x FROM c) \
         SELECT x FROM c;",
        "INSERT INTO sqlite_schema VALUES (1, 2, 3, 4, 5);",
        "INSERT INTO identity (fields) VALUES ('{}'); DELETE FROM identity;",
        "INSERT INTO identity (fields) VALUES ('not json');",
    ] {
        let whole = format!("{}{attack}\nCOMMIT;\n", &sql[..commit]);
        import("x.sql", &whole, &[]);
        assert!(!empty.path().join("stolen.sqlite").exists(), "{attack}");
    }
    import("x.txt", line, &["--form"]);
    std::fs::create_dir(empty.path().join("d.sql")).unwrap();
    refused(history(empty.path(), &["import", "d.sql"]), &["d.sql", "expected a file"]);
}

#[test]
fn texts_from_a_history_are_harmless_wherever_they_are_shown() {
    let dir = tempfile::tempdir().unwrap();
    let evil = "</text><script>alert(1)</script>\u{1b}[31m|x|&\"'";
    let files: Vec<String> = (0..8)
        .map(|day| {
            let mut r = record(day, evil, if day < 4 { 38.0 } else { 48.0 }, 5);
            r["model"]["name"] = json!(evil);
            r["host"]["cpu_model"] = json!(evil);
            r["workload"]["prompt_set"] = json!(evil);
            write(dir.path(), &format!("{day}.json"), &r)
        })
        .collect();
    done(add(dir.path(), &files));
    done(history(dir.path(), &["html", "-o", "site"]));
    let shown = done(history(dir.path(), &["plot", "decode_tps", "-o", "p.svg"]))
        + &done(history(dir.path(), &["show", "decode_tps"]))
        + &done(history(dir.path(), &["list"]))
        + &done(history(dir.path(), &["changes"]));
    assert!(!shown.contains('\u{1b}'), "{shown}");
    for file in ["p.svg", "site/index.html"] {
        let drawn = std::fs::read_to_string(dir.path().join(file)).unwrap();
        assert!(!drawn.contains("<script") && !drawn.contains('\u{1b}'), "{file}");
        assert!(drawn.contains("&lt;script&gt;"), "{file}");
    }
    let md = done(history(dir.path(), &["show", "decode_tps", "-o", "md"]));
    assert!(!md.contains("<script"), "{md}");
}

// ---- what may happen to it ----

#[test]
fn without_a_history_the_error_says_how_to_make_one() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["list"][..], &["show", "decode_tps"], &["changes"], &["export"]] {
        refused(history(dir.path(), args), &["h.sqlite", "llm-bench track", "history add"]);
    }
    assert!(!dir.path().join("h.sqlite").exists());
    std::fs::create_dir(dir.path().join("h.sqlite")).unwrap();
    refused(history(dir.path(), &["list"]), &["h.sqlite", "expected a file"]);
    let file = write(dir.path(), "a.json", &record(0, "candle", 38.0, 5));
    refused(add(dir.path(), &[file]), &["h.sqlite", "expected a file"]);
}

#[test]
fn a_damaged_or_foreign_database_is_refused_and_left_as_it_is() {
    let dir = twelve_days_added();
    let db = dir.path().join("h.sqlite");
    let whole = std::fs::read(&db).unwrap();
    let file = write(dir.path(), "new.json", &record(20, "candle", 38.0, 5));
    let refuses = |bytes: &[u8], words: &[&str]| {
        std::fs::write(&db, bytes).unwrap();
        refused(add(dir.path(), std::slice::from_ref(&file)), &[&["h.sqlite"], words].concat());
        assert_eq!(std::fs::read(&db).unwrap(), bytes, "the file was touched");
    };
    refuses(b"this is no database at all, but a text of some length", &["damaged", "--db NEW"]);
    // Pages in the middle.
    let mut torn = whole.clone();
    let middle = torn.len() / 2;
    torn[middle..middle + 12_288].fill(0x5a);
    refuses(&torn, &["damaged", ".recover"]);
    refuses(&whole[..whole.len() - 8192], &["damaged"]);
    for args in [&["show", "decode_tps"][..], &["changes"], &["export"]] {
        std::fs::write(&db, &torn).unwrap();
        let output = history(dir.path(), args);
        let stderr = text(&output.stderr);
        assert!(!stderr.contains("panicked"), "{stderr}");
        let code = output.status.code();
        assert!(code == Some(0) || code == Some(2) && stderr.contains("damaged"), "{stderr}");
    }
    // Bytes 60 to 63 of the header are user_version, 68 to 71 application_id.
    let mut newer = whole.clone();
    newer[63] = 9;
    refuses(&newer, &["version 9", "the llm-bench that wrote it"]);
    std::fs::write(&db, &newer).unwrap();
    refused(history(dir.path(), &["list"]), &["version 9"]);
    let mut foreign = whole.clone();
    foreign[68..72].fill(7);
    refuses(&foreign, &["another program's database"]);
    std::fs::write(&db, &whole).unwrap();
    assert_eq!(sessions(dir.path()), 24);
}

#[test]
fn two_writers_at_once_both_get_all_their_rows_in() {
    let dir = tempfile::tempdir().unwrap();
    // Neither finds a file, so both make it.
    let writer = |name: &str| {
        let adds = |day: usize| {
            let record = record(day, name, 38.0, 5);
            let file = write(dir.path(), &format!("{name}{day}.json"), &record);
            llm_bench(dir.path(), &["history", "--db", "h.sqlite", "add", &file])
        };
        (0..12).map(adds).collect::<Vec<_>>()
    };
    let mut writers = [writer("a"), writer("b")];
    std::thread::scope(|scope| {
        for commands in &mut writers {
            scope.spawn(|| commands.iter_mut().for_each(|c| drop(done(c.output().unwrap()))));
        }
    });
    assert_eq!(sessions(dir.path()), 24);
    let list = done(history(dir.path(), &["list", "-o", "csv"]));
    assert_eq!(list.lines().count(), 3, "{list}");
}

#[test]
fn a_kill_at_any_moment_loses_nothing_that_was_added_and_tears_nothing() {
    let dir = tempfile::tempdir().unwrap();
    done(add(dir.path(), &[write(dir.path(), "first.json", &record(0, "first", 38.0, 5))]));
    // Many sessions in one file, so that the writing takes a while.
    let line = export(dir.path(), "h.sqlite", "jsonl");
    let many: String =
        (0..4000).map(|i| line.replacen("run-0-first", &format!("bulk-{i}"), 1)).collect();
    std::fs::write(dir.path().join("many.jsonl"), many).unwrap();
    let mut there = 1;
    let mut cut = 0;
    for round in 0..24u64 {
        let args = ["history", "--db", "h.sqlite", "import", "many.jsonl"];
        let mut child = llm_bench(dir.path(), &args).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(10 + 25 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        // The next command finds a whole file, whether it reads or writes; `add` checks every page.
        if round % 2 == 0 {
            sessions(dir.path());
        }
        let file = write(dir.path(), "next.json", &record(1 + round as usize, "first", 38.0, 5));
        done(add(dir.path(), &[file]));
        let before = there;
        there = sessions(dir.path());
        let grew = there - before;
        assert!(grew == 1 || grew == 4001, "{grew} sessions more in round {round}");
        cut += usize::from(grew == 1);
        if grew == 4001 {
            break;
        }
    }
    assert!(cut > 0, "no kill came in time");
}

#[test]
fn a_full_disk_adds_nothing_keeps_all_and_says_so() {
    let dir = twelve_days_added();
    let before = export(dir.path(), "h.sqlite", "jsonl");
    let line = before.lines().next().unwrap();
    let many: String =
        (0..2000).map(|i| line.replacen("run-0", &format!("bulk-{i}"), 1) + "\n").collect();
    std::fs::write(dir.path().join("many.jsonl"), many).unwrap();
    // This process may write files of up to 300 KiB; a longer write fails, as on a full disk.
    let args = ["history", "--db", "h.sqlite", "import", "many.jsonl"];
    let mut import = limited(dir.path(), "trap '' XFSZ; ulimit -f 300", &args);
    refused(
        import.output().unwrap(),
        &["cannot write", "h.sqlite", "nothing of this command was added"],
    );
    assert_eq!(export(dir.path(), "h.sqlite", "jsonl"), before);
    done(history(dir.path(), &["import", "many.jsonl"]));
    assert_eq!(sessions(dir.path()), 2024);
}

#[test]
fn a_read_only_folder_can_be_read_and_a_write_there_is_refused() {
    let dir = twelve_days_added();
    // A read-only mount in a namespace of this command, which stops even root.
    let inside = |command: &str| {
        let script = format!(
            "mount --bind \"$1\" \"$1\" && mount -o remount,ro,bind \"$1\" && cd \"$1\" && {command}"
        );
        Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "bash", "-c", &script])
            .arg(PROGRAM)
            .arg(dir.path())
            .output()
            .unwrap()
    };
    if !inside("true").status.success() {
        // Without namespaces the folder's permissions have to do, where they count.
        if rustix::process::geteuid().is_root() {
            not_tested("root without namespaces writes everywhere");
            return;
        }
        let mode = |m| std::os::unix::fs::PermissionsExt::from_mode(m);
        std::fs::set_permissions(dir.path(), mode(0o555)).unwrap();
        let file = dir.path().join("c0.json").to_str().unwrap().to_string();
        let output = history(dir.path(), &["add", &file]);
        let listed = history(dir.path(), &["list"]);
        std::fs::set_permissions(dir.path(), mode(0o755)).unwrap();
        refused(output, &["h.sqlite", "--db"]);
        assert!(done(listed).contains("candle"));
        return;
    }
    let list = inside("\"$0\" history --db h.sqlite list");
    assert!(done(list).contains("candle"));
    let new = write(dir.path(), "new.json", &record(20, "candle", 38.0, 5));
    assert!(PathBuf::from(&new).exists());
    // Before anything is measured.
    let track = "LLM_BENCH_CACHE=/tmp \"$0\" track --model tiny --engine candle -r 1 --history-db \
                 h.sqlite --output-dir /tmp/never-made";
    refused(inside(track), &["cannot write h.sqlite"]);
    assert!(!Path::new("/tmp/never-made").exists());
    refused(inside("\"$0\" history --db h.sqlite add new.json"), &["h.sqlite", "--db"]);
    assert_eq!(sessions(dir.path()), 24);
}

/// The time that `plot` and `changes` take over a million rows. Run it by hand, in a release
/// build: `cargo test --release --test commands a_million -- --ignored --nocapture`.
#[test]
#[ignore = "makes a large file"]
fn a_million_rows_are_made_and_timed() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    for (lines, per_line, metrics) in [(20, 2000, 24), (10, 100_000, 1), (1, 1_000_000, 1)] {
        let db = dir.path().join("h.sqlite");
        let _ = std::fs::remove_file(&db);
        let path = dir.path().join("million.jsonl");
        let mut file = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
        let known: Vec<Metric> = Metric::measured().collect();
        let known = [&[Metric::DecodeTps], &known[..]].concat();
        let mut state = 1u64;
        let mut noise = move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f64 / (1u64 << 24) as f64 - 0.5
        };
        for line in 0..lines {
            let sample = record(0, &format!("engine-{line}"), 38.0, 5);
            let sample: llm_bench::record::Record = serde_json::from_value(sample).unwrap();
            let mut session = llm_bench::history::sessions(&sample).unwrap().remove(0);
            for i in 0..per_line {
                let level = if i < per_line / 3 { 38.0 } else { 41.0 };
                session.run_id = format!("run-{line}-{i}");
                session.started_at = jiff::Timestamp::from_second(1_600_000_000 + i as i64 * 60)
                    .unwrap()
                    .to_string();
                session.commit = Some(commit(i / 4));
                session.metrics = known[..metrics]
                    .iter()
                    .map(|m| {
                        let values = (0..5).map(|_| level * (1.0 + 0.02 * noise())).collect();
                        (m.to_string(), values)
                    })
                    .collect();
                serde_json::to_writer(&mut file, &session).unwrap();
                file.write_all(b"\n").unwrap();
            }
        }
        file.flush().unwrap();
        drop(file);
        println!("{lines} lines of {per_line} sessions, {metrics} metrics");
        for args in [
            &["import", "million.jsonl"][..],
            &["changes", "decode_tps"],
            &["plot", "decode_tps", "-o", "p.svg"],
            &["show", "decode_tps"],
            &["list"],
            &["add", &write(dir.path(), "one.json", &record(20, "candle", 38.0, 5))],
        ] {
            let began = std::time::Instant::now();
            let output = history(dir.path(), args);
            println!("  {:8.2} s  history {}", began.elapsed().as_secs_f64(), args.join(" "));
            done(output);
        }
    }
}
