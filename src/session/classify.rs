//! The labels that each engine of a session gives to labelled texts, every text once.

use std::collections::BTreeMap;
use std::io::Read;

use anyhow::{Context, Result, bail};

use super::bench::{Bench, Seat};
use super::drive::ArmPlan;
use super::find::Found;
use super::verify::scratch;
use crate::analysis::divergence::floats;
use crate::analysis::vectors::label;
use crate::engine::Failure;
use crate::interrupt;
use crate::model::cache::CacheDir;
use crate::model::gguf::BertOutput;
use crate::progress::say;
use crate::record::{Classification, FreeRunning, Miss, Record};
use crate::stats::wilson;
use crate::task::vectors::{Question, ask};
use crate::workload::LabelledSet;

/// Texts of a request: many enough to be quick, few enough for every memory.
const BATCH: usize = 32;

/// Fills `classification` of the record's arms, once for each engine, file and device. An engine that
/// cannot answer goes without it, with a word.
///
/// # Errors
/// The user stopped it, or the data does not fit the model.
pub fn judge(
    record: &mut Record,
    bench: &Bench,
    plans: &[ArmPlan],
    data: &LabelledSet,
) -> Result<()> {
    let mut known: Vec<(&Seat, Option<Classification>)> = Vec::new();
    for ((seat, plan), arm) in bench.seats.iter().zip(plans).zip(&mut record.arms) {
        let is_alike = |other: &Seat| {
            let key = |s: &Seat| (s.file, s.device, s.threads, s.side.engine.name.clone());
            key(other) == key(seat)
        };
        if let Some((_, found)) = known.iter().find(|(other, _)| is_alike(other)) {
            arm.classification.clone_from(found);
            continue;
        }
        let found = bench.file_of(seat);
        let labels = labels(found)?;
        arm.classification = match labels_of(bench, seat, plan, found, data) {
            Err(e) if interrupt::requested() => return Err(e),
            Err(e) => {
                say(&format!("warning: {}: no labels: {e:#}", seat.label));
                None
            }
            Ok(given) => Some(counted(data, &labels, &given)),
        };
        known.push((seat, arm.classification.clone()));
    }
    Ok(())
}

/// What each logit of a classifier means.
pub fn labels(found: &Found) -> Result<Vec<String>> {
    match found.file.bert_config()?.output {
        BertOutput::Classes(classifier) if !classifier.labels.is_empty() => Ok(classifier.labels),
        BertOutput::Classes(_) => bail!("{}: the file does not name its labels", found.asked),
        BertOutput::Vector(_) => bail!(
            "{}: expected a classifier, found a model that gives vectors; leave --data out, or name \
             a classifier such as distilbert-sst2",
            found.asked
        ),
    }
}

/// The index of the label that the engine gives to each text.
fn labels_of(
    bench: &Bench,
    seat: &Seat,
    plan: &ArmPlan,
    found: &Found,
    data: &LabelledSet,
) -> Result<Vec<usize>> {
    let Ok(installed) = &plan.installed else { bail!("the engine cannot be started") };
    say(&format!("{}: labels of {} texts", seat.label, data.texts.len()));
    let config = found.file.bert_config()?;
    let folder = scratch(&CacheDir::from_env()?)?;
    let file = folder.path().join("labels.f32");
    let texts = bench.workload.prompts.first().context("there is no text")?;
    let n = data.texts.len();
    let mut given = Vec::with_capacity(n);
    for (i, batch) in texts.request(0, n as u32).chunks(BATCH).enumerate() {
        let question = Question {
            model: found.path.clone(),
            device: seat.device,
            threads: seat.threads,
            texts: batch.to_vec(),
            n_embd: config.n_embd as u32,
            n_layers: config.n_layers as u32,
            hidden: false,
            deadlines: bench.deadlines(),
        };
        let answer = ask(&plan.engine, installed, &question, &file).map_err(|e| match e {
            Failure::Interrupted => anyhow::anyhow!("stopped"),
            Failure::Engine(e) => {
                anyhow::anyhow!("{}: {}", e.phase, crate::text::clean(&e.message))
            }
        })?;
        let mut bytes = Vec::new();
        std::fs::File::open(&file)?.read_to_end(&mut bytes)?;
        let rows = bytes.chunks_exact(4 * answer.columns as usize);
        given.extend(rows.map(|row| label(&floats(row))));
        let expected = n.min((i + 1) * BATCH);
        if given.len() != expected {
            bail!("expected the logits of {expected} texts, found {}", given.len());
        }
    }
    Ok(given)
}

fn counted(data: &LabelledSet, labels: &[String], given: &[usize]) -> Classification {
    let mut categories: BTreeMap<String, FreeRunning> = BTreeMap::new();
    let (mut right, mut misses) = (0, Vec::new());
    for (text, given) in data.texts.iter().zip(given) {
        let found = labels.get(*given).cloned().unwrap_or_else(|| format!("label {given}"));
        let is_right = found == text.expected_label;
        let count =
            categories.entry(text.category.clone()).or_insert(FreeRunning { agree: 0, of: 0 });
        *count = FreeRunning { agree: count.agree + u32::from(is_right), of: count.of + 1 };
        right += u32::from(is_right);
        if !is_right {
            misses.push(Miss {
                text: text.text.clone(),
                category: text.category.clone(),
                expected: text.expected_label.clone(),
                found,
            });
        }
    }
    let of = data.texts.len() as u32;
    let interval = wilson(right, of, 0.95);
    Classification {
        data: data.name.clone(),
        data_sha256: data.sha256(),
        right: FreeRunning { agree: right, of },
        accuracy: f64::from(right) / f64::from(of.max(1)),
        ci95: interval.map_or([0.0, 1.0], |i| [i.low, i.high]),
        categories,
        misses,
    }
}
