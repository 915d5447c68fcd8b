//! The direction of imports (src/lib.rs draws the map): reads the `use` lines and the paths in
//! the code, and holds who may know whom.

use std::path::{Path, PathBuf};

/// Module → modules of this crate that it may name.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("units", &[]),
    ("cpu", &[]),
    ("device", &[]),
    ("metric", &[]),
    ("interrupt", &[]),
    ("stats", &["units"]),
    ("protocol", &[]),
    ("record", &["metric", "protocol"]),
    ("model", &["units", "record", "interrupt"]),
    ("workload", &["units", "model", "record"]),
    ("engine", &["units", "device", "protocol", "record", "interrupt"]),
    ("worker", &["units", "cpu", "protocol", "model"]),
    (
        "measure",
        &[
            "units",
            "cpu",
            "device",
            "metric",
            "protocol",
            "record",
            "engine",
            "workload",
            "stats",
            "interrupt",
        ],
    ),
    ("analysis", &["units", "metric", "record", "stats"]),
    ("history", &["units", "metric", "record", "stats", "analysis", "interrupt"]),
    ("report", &["units", "metric", "record", "analysis", "stats", "history"]),
];

/// Only these know candle.
const KNOW_CANDLE: &[&str] = &["model", "worker"];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        match entry.path() {
            p if p.is_dir() => sources(&p, found),
            p if p.extension().is_some_and(|x| x == "rs") => found.push(p),
            _ => {}
        }
    }
}

/// (module, file, code without tests) for each source file.
fn files() -> Vec<(String, PathBuf, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&src, &mut found);
    found
        .into_iter()
        .map(|path| {
            let inside = path.strip_prefix(&src).unwrap();
            let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap().to_string();
            (first.trim_end_matches(".rs").to_string(), path, code)
        })
        .collect()
}

/// Tests may look at everything.
fn is_test(path: &Path) -> bool {
    path.file_stem().is_some_and(|s| s == "tests" || s == "testing")
}

#[test]
fn modules_name_only_those_below_them() {
    for (module, path, code) in files().into_iter().filter(|(_, path, _)| !is_test(path)) {
        let Some((_, allowed)) = MAY_NAME.iter().find(|(m, _)| *m == module) else {
            assert!(["main", "lib", "cli", "cmd"].contains(&module.as_str()), "{module} is new");
            continue;
        };
        for line in code.lines().filter(|l| !l.trim_start().starts_with("//")) {
            for (i, _) in line.match_indices("crate::") {
                let rest = &line[i + "crate::".len()..];
                let named: String =
                    rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let fine = named == module || allowed.contains(&named.as_str());
                assert!(fine, "{}: {module} names {named:?}: {line}", path.display());
            }
        }
    }
}

#[test]
fn only_model_and_worker_know_candle() {
    for (module, path, code) in files() {
        let knows = code.contains("candle_core") || code.contains("candle_transformers");
        assert!(!knows || KNOW_CANDLE.contains(&module.as_str()), "{}", path.display());
    }
}

#[test]
fn each_file_opens_with_what_it_is_for_and_stays_short() {
    for (_, path, _) in files() {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//! "), "{} does not say what it is for", path.display());
        let lines = text.lines().count();
        assert!(lines <= 650, "{} has {lines} lines", path.display());
    }
}
