//! `sweep`: speed and quality of several quantizations in one record.

use llm_bench::metric::Metric;
use llm_bench::record::{Loss, Quality, Record};

use crate::support::{done, files, only_record, output, refused, with_fakes};

const SMALL: [&str; 9] = ["sweep", "--model", "tiny", "-r", "2", "-p", "8", "-n", "4"];

fn loss(quality: &Quality) -> &Loss {
    quality.loss.as_ref().unwrap_or_else(|| panic!("{quality:?}"))
}

#[test]
fn quality_stands_beside_speed_and_falls_with_the_bits_far_above_the_noise() {
    let dir = tempfile::tempdir().unwrap();
    let shown = done(output(dir.path(), &[&SMALL[..], &["--quant", "q4_0,f16,q8_0"]].concat()));
    for word in [
        "Front",
        "PPL",
        "KL mean",
        "noise floor",
        "Reading",
        "nats a token and keeps",
        "candle:Q8_0",
    ] {
        assert!(shown.contains(word), "{word} in {shown}");
    }
    let path = only_record(dir.path());
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    assert!(name.starts_with("sweep_"), "{name}");
    let markdown = std::fs::read_to_string(path.with_extension("md")).unwrap();
    assert!(markdown.contains("KL mean"), "{markdown}");
    let page = std::fs::read_to_string(path.with_extension("html")).unwrap();
    for part in ["Decode speed against what quantization loses", "Environment", "Raw data"] {
        assert!(page.contains(part), "{part}");
    }

    let record = Record::read(&path).unwrap();
    let quality = |quant: &str| -> Quality {
        let arm = record.arms.iter().find(|arm| arm.point.quant == quant).unwrap();
        assert_eq!(arm.metrics[&Metric::DecodeTps].n, 2);
        arm.quality.clone().unwrap_or_else(|| panic!("{quant}"))
    };
    let [f16, q8, q4] = ["F16", "Q8_0", "Q4_0"].map(quality);
    assert_eq!(f16.loss, None, "the reference loses nothing");
    assert_eq!((f16.reference.as_str(), q4.reference.as_str()), ("F16", "F16"));
    assert!(f16.positions > 1000 && f16.positions == f16.windows * (f16.window / 2 - 1));
    assert_eq!([q8.ppl_reference, q4.ppl_reference], [f16.ppl; 2]);
    for q in [&q8, &q4] {
        let from_means = (q.ppl / q.ppl_reference).ln();
        assert!((loss(q).ln_ppl_ratio - from_means).abs() < 1e-9, "{q:?}");
        let counted: u32 = loss(q).kl_by_confidence.iter().map(|b| b.positions).sum();
        assert_eq!(counted, q.positions);
    }
    let floor = f16.floor.as_ref().expect("the engine can perturb itself");
    let kl = [floor, loss(&q8), loss(&q4)].map(|l| l.kl.mean);
    assert!(10.0 * kl[0] < kl[1] && 10.0 * kl[1] < kl[2], "{kl:?}");
    let top1 = [floor, loss(&q8), loss(&q4)].map(|l| l.top1);
    assert!(top1[0] > top1[1] && top1[1] > top1[2], "{top1:?}");
}

#[test]
fn two_engines_of_different_origin_find_the_same_losses() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--quant", "f16,q8_0", "--engine", "candle,candle-f32"];
    done(output(dir.path(), &[&SMALL[..], &args].concat()));
    let record = Record::read(&only_record(dir.path())).unwrap();
    let ppl = |engine: &str, quant: &str| {
        let arm = |a: &&llm_bench::record::Arm| a.engine == engine && a.point.quant == quant;
        record.arms.iter().find(arm).unwrap().quality.as_ref().unwrap().ppl
    };
    for quant in ["F16", "Q8_0"] {
        let [a, b] = ["candle", "candle-f32"].map(|engine| ppl(engine, quant).ln());
        assert!((a - b).abs() < 5e-3, "{quant}: ln PPL {a} and {b}");
    }
}

#[test]
fn what_is_lost_is_lost_from_f16_even_where_f16_is_not_measured() {
    let dir = tempfile::tempdir().unwrap();
    done(output(dir.path(), &[&SMALL[..], &["--quant", "q8_0,q4_0"]].concat()));
    let record = Record::read(&only_record(dir.path())).unwrap();
    assert_eq!(record.arms.len(), 2);
    let kl: Vec<f64> = record
        .arms
        .iter()
        .map(|arm| {
            let quality = arm.quality.as_ref().unwrap();
            assert_eq!(quality.reference, "F16");
            loss(quality).kl.mean
        })
        .collect();
    assert!(0.0 < kl[0] && 10.0 * kl[0] < kl[1], "{kl:?}");
}

#[test]
fn each_model_is_compared_with_its_own_best_file() {
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("other.gguf");
    std::fs::copy(crate::support::repository("models/tiny.gguf"), &other).unwrap();
    let args = ["sweep", "--model", "tiny,other.gguf", "-r", "1", "-p", "8", "-n", "4"];
    done(output(dir.path(), &[&args[..], &["--quant", "f16"]].concat()));
    let record = Record::read(&only_record(dir.path())).unwrap();
    for arm in &record.arms {
        let quality = arm.quality.as_ref().unwrap();
        assert_eq!(quality.loss, None, "{}: each is its model's reference", arm.label);
    }

    // A file by its path is quantized too, and compared with itself.
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(crate::support::repository("models/tiny.gguf"), dir.path().join("o.gguf"))
        .unwrap();
    let args = ["sweep", "--model", "./o.gguf", "-r", "1", "-p", "8", "-n", "4", "--quant", "q8_0"];
    done(output(dir.path(), &args));
    let record = Record::read(&only_record(dir.path())).unwrap();
    let arm = &record.arms[0];
    let quality = arm.quality.as_ref().unwrap();
    assert_eq!((arm.point.quant.as_str(), quality.reference.as_str()), ("Q8_0", "F16"));
    assert!(loss(quality).kl.mean > 0.0, "{quality:?}");
}

#[test]
fn an_engine_that_cannot_score_is_measured_without_quality() {
    let dir = tempfile::tempdir().unwrap();
    let args = [&SMALL[..], &["--quant", "f16", "--engine", "fake-honest"]].concat();
    let output = with_fakes(dir.path(), &args).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("quality is not judged"), "{stderr}");
    let record = Record::read(&only_record(dir.path())).unwrap();
    assert!(record.run.complete && record.arms[0].quality.is_none());
}

#[test]
fn a_text_of_ones_own_is_judged_or_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("own.txt");
    let args = [&SMALL[..], &["--quant", "f16,q4_0", "--text", "own.txt"]].concat();
    refused(output(dir.path(), &args), &["--text own.txt"]);
    std::fs::write(&text, [0xff, 0xfe, 0x00]).unwrap();
    refused(output(dir.path(), &args), &["--text own.txt", "UTF-8"]);
    assert!(files(&dir.path().join("results")).is_empty(), "nothing was measured for nothing");
    std::fs::write(&text, "One day the sailor found a map. ".repeat(200)).unwrap();
    done(output(dir.path(), &args));
    let record = Record::read(&only_record(dir.path())).unwrap();
    let quality = record.arms[0].quality.as_ref().unwrap();
    assert!(quality.text == "own.txt" && quality.windows > 1, "{quality:?}");

    std::fs::write(&text, "Too short.").unwrap();
    let short = output(dir.path(), &args);
    let stderr = String::from_utf8_lossy(&short.stderr).into_owned();
    assert!(
        short.status.success() && stderr.contains("own.txt: expected at least 512"),
        "{stderr}"
    );
}

#[test]
fn a_plan_without_quality_is_a_run_over_the_usual_quantizations() {
    let dir = tempfile::tempdir().unwrap();
    let plan = done(output(dir.path(), &["sweep", "--model", "tiny", "--list", "-r", "1"]));
    for label in ["candle:F16 #1", "candle:Q8_0 #1", "candle:Q4_0 #1"] {
        assert!(plan.contains(label), "{plan}");
    }
    let args = [&SMALL[..], &["--quant", "f16,q8_0", "--no-quality"]].concat();
    let shown = done(output(dir.path(), &args));
    assert!(!shown.contains("KL mean"), "{shown}");

    // The launches are kept; quality is judged later.
    let path = only_record(dir.path());
    let file = path.to_str().unwrap();
    refused(output(dir.path(), &["run", "--resume", file]), &["found a complete one"]);
    let shown = done(output(dir.path(), &["sweep", "--resume", file]));
    assert!(shown.contains("KL mean"), "{shown}");
    let csv = std::fs::read_to_string(path.with_extension("csv")).unwrap();
    let rows: Vec<&str> = csv.lines().filter(|row| row.contains(",kl_mean,nat,lower,")).collect();
    assert!(rows.len() == 1 && rows[0].starts_with("candle:Q8_0,candle,tiny,"), "{csv}");
    let columns = |row: &str| row.split(',').count();
    assert_eq!(columns(rows[0]), columns(csv.lines().next().unwrap()));
}
