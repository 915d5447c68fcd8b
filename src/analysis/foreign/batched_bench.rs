//! llama-batched-bench's `--output-format jsonl` and its table: one arm, and the series S_PP, S_TG
//! and S for each row, in its letters: `S_TG 512+128 B4` is 4 sequences with 512 prompt and 128
//! generated tokens each. Neither form shows where a process ended, so a file is one process.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, bail};

use super::field::{self, Object};
use super::runs::{Figure, Run, Tool};
use super::{Format, Source, measurable};
use crate::identity::{Identity, Severity, scalar};
use crate::metric::Metric;

/// The head of the table.
const HEAD: [&str; 10] =
    ["PP", "TG", "B", "N_KV", "T_PP s", "S_PP t/s", "T_TG s", "S_TG t/s", "T s", "S t/s"];
const SETTINGS: [&str; 9] = [
    "n_kv_max",
    "n_batch",
    "n_ubatch",
    "flash_attn",
    "is_pp_shared",
    "is_tg_separate",
    "n_gpu_layers",
    "n_threads",
    "n_threads_batch",
];

type Settings = BTreeMap<String, String>;

/// One row: tokens of each sequence, sequences, and tokens per second of all of them.
struct Row {
    prompt: u32,
    generated: u32,
    sequences: u32,
    prefill: Option<f64>,
    decode: Option<f64>,
    both: Option<f64>,
}

pub(super) fn read(bytes: &[u8], file: String) -> Result<Source> {
    let rows = match is_table(bytes) {
        true => table(bytes, &file)?,
        false => lines(bytes, &file)?,
    };
    let runs: Vec<Run> = rows.iter().map(|(row, settings)| run(settings, row.figures())).collect();
    if runs.iter().all(|run| run.figures.is_empty()) {
        bail!("{file}: expected rows with a rate in them, found none");
    }
    let tool = Tool {
        format: Format::LlamaBatchedBench,
        one_process: "its rows are of one process, each measured once",
        differs: "llama-batched-bench feeds fixed tokens and samples none; its S_TG counts the \
                  tokens of all sequences together",
        unknown: "on which machine and with which model it was made",
    };
    Ok(tool.source(file, Vec::new(), &runs, Vec::new()))
}

fn run(settings: &Settings, figures: Vec<Figure>) -> Run {
    let mut identity = Identity::of_format(Format::LlamaBatchedBench.name());
    for (name, value) in settings {
        match name.as_str() {
            "n_threads" => {
                let title = "threads of the engines";
                identity.text("engine_threads", title, Severity::Refuse, value);
            }
            name => identity.setting(name, value),
        }
    }
    let label = Format::LlamaBatchedBench.name().to_string();
    let settings = settings.clone();
    Run { process: 0, label, on: String::new(), settings, identity, figures }
}

impl Row {
    fn figures(&self) -> Vec<Figure> {
        let name = format!("{}+{} B{}", self.prompt, self.generated, self.sequences);
        let decode = match self.sequences {
            1 => Metric::DecodeTps,
            _ => Metric::BatchDecodeTps,
        };
        let all = [
            ("S_PP", Metric::PrefillTps, self.prefill, true),
            ("S_TG", decode, self.decode, true),
            ("S", Metric::TotalTps, self.both, false),
        ];
        let figure = |(letters, metric, value, decides): (&str, _, Option<f64>, _)| {
            Some(Figure { metric, test: Some(format!("{letters} {name}")), decides, value: value? })
        };
        all.into_iter().filter_map(figure).collect()
    }
}

fn lines(bytes: &[u8], file: &str) -> Result<Vec<(Row, Settings)>> {
    let mut rows = Vec::new();
    for (i, value) in field::values(bytes, file, &[])?.iter().enumerate() {
        let line = Object::new(format!("{file}: row {}", i + 1), value)?;
        let row = Row {
            prompt: line.count("pp")?,
            generated: line.count("tg")?,
            sequences: line.number_of("pl", "sequences")?,
            prefill: line.figure("speed_pp", 1.0)?,
            decode: line.figure("speed_tg", 1.0)?,
            both: line.figure("speed", 1.0)?,
        };
        let setting = |name: &&str| Some((name.to_string(), scalar(line.get(name)?)?));
        rows.push((row, SETTINGS.iter().filter_map(setting).collect()));
    }
    Ok(rows)
}

/// The cells of a line that is a row of a table.
fn cells(line: &str) -> Option<Vec<&str>> {
    let inside = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(inside.split('|').map(str::trim).collect())
}

/// Whether the text holds this tool's table.
pub(super) fn is_table(bytes: &[u8]) -> bool {
    let is_head = |line: &[u8]| {
        line.trim_ascii().starts_with(b"|")
            && cells(&String::from_utf8_lossy(line)).is_some_and(|cells| cells == HEAD)
    };
    bytes.split(|b| *b == b'\n').any(is_head)
}

fn table(bytes: &[u8], file: &str) -> Result<Vec<(Row, Settings)>> {
    let text = String::from_utf8_lossy(bytes);
    let (mut rows, mut settings, mut inside) = (Vec::new(), Settings::new(), false);
    for (i, line) in text.lines().enumerate() {
        if line.contains("n_kv_max = ") {
            settings = settings_of(line);
        }
        let Some(cells) = cells(line) else { continue };
        if cells == HEAD {
            inside = true;
        } else if inside && !cells.iter().all(|cell| cell.starts_with('-')) {
            let row = row(&cells).map_err(|e| anyhow!("{file}: line {}: {e}", i + 1))?;
            rows.push((row, settings.clone()));
        }
    }
    if rows.is_empty() {
        bail!("{file}: expected a table of llama-batched-bench with rows, found its head alone");
    }
    Ok(rows)
}

/// `main: n_kv_max = 4096, n_batch = 2048, …`
fn settings_of(line: &str) -> Settings {
    let pairs = line.split(", ").filter_map(|pair| {
        let (name, value) = pair.split_once(" = ")?;
        let name = name.rsplit(' ').next()?;
        SETTINGS.contains(&name).then(|| (name.to_string(), value.trim().to_string()))
    });
    pairs.collect()
}

fn row(cells: &[&str]) -> Result<Row> {
    let &[pp, tg, b, _, _, s_pp, _, s_tg, _, s] = cells else {
        bail!("expected the ten numbers of a row, found {}", cells.len());
    };
    let count = |name: &str, cell: &str| {
        let found = cell.chars().take(40).collect::<String>();
        cell.parse::<u32>().map_err(|_| anyhow!("{name}: expected a number, found {found:?}"))
    };
    let rate = |name: &str, cell: &str| match cell.parse::<f64>() {
        Ok(0.0) => Ok(None),
        Ok(rate) if measurable(rate) => Ok(Some(rate)),
        _ => {
            let found = cell.chars().take(40).collect::<String>();
            Err(anyhow!("{name}: expected a number above 0, up to 1e18, found {found:?}"))
        }
    };
    Ok(Row {
        prompt: count("PP", pp)?,
        generated: count("TG", tg)?,
        sequences: count("B", b)?,
        prefill: rate("S_PP", s_pp)?,
        decode: rate("S_TG", s_tg)?,
        both: rate("S", s)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "main: n_kv_max = 4096, n_batch = 512, n_threads = 2, n_threads_batch = 4\n\n\
        |    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |\n\
        |-------|--------|------|--------|----------|----------|----------|----------|----------|----------|\n\
        |   128 |     64 |    4 |    768 |    0.500 |  1024.00 |    2.000 |   128.00 |    2.500 |   307.20 |\n";

    #[test]
    fn a_table_gives_what_its_line_of_json_gives() {
        let json = r#"{"n_kv_max": 4096, "n_batch": 512, "n_threads": 2, "n_threads_batch": 4, "pp": 128,
            "tg": 64, "pl": 4, "n_kv": 768, "t_pp": 0.5, "speed_pp": 1024.0, "t_tg": 2.0,
            "speed_tg": 128.0, "t": 2.5, "speed": 307.2}"#;
        let [a, b] = [TABLE, json].map(|text| {
            let source = read(text.as_bytes(), "a".into()).unwrap();
            let series = |s: &super::super::Series| (s.metric, s.test.clone(), s.values.clone());
            let arm = &source.arms[0];
            (arm.series.iter().map(series).collect::<Vec<_>>(), arm.settings.clone())
        });
        assert_eq!(a, b);
        let names: Vec<&str> = a.0.iter().map(|(_, test, _)| test.as_deref().unwrap()).collect();
        assert_eq!(names, ["S_PP 128+64 B4", "S_TG 128+64 B4", "S 128+64 B4"]);
        assert_eq!((a.0[1].0, a.0[1].2.as_slice()), (Metric::BatchDecodeTps, &[128.0][..]));
    }

    #[test]
    fn a_damaged_row_is_refused_with_its_line() {
        for (from, to, words) in [
            (
                "|   128.00 |    2.5",
                "|      nan |    2.5",
                "line 5: S_TG: expected a number above 0",
            ),
            ("|    4 |", "|    x |", "line 5: B: expected a number, found \"x\""),
            (" |   307.20 |", " |", "line 5: expected the ten numbers of a row, found 9"),
        ] {
            let text = TABLE.replace(from, to);
            let error = read(text.as_bytes(), "a.txt".into()).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let head = TABLE.lines().take(4).collect::<Vec<_>>().join("\n");
        let error = read(head.as_bytes(), "a.txt".into()).unwrap_err().to_string();
        assert!(error.contains("its head alone"), "{error}");
    }
}
