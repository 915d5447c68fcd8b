//! The question to encoders, and the comparison of two answers: vectors, labels and hidden states.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::{Check, Deadlines, Found, Subject, explained, open};
use crate::analysis::vectors::{distance, judge, limit, same_labels};
use crate::device::Device;
use crate::model::gguf::BertOutput;
use crate::record::{Limit, Vectors, Verdict, Verification};
use crate::task::vectors::{Answer, Question, hidden_beside};
use crate::workload::{fixed_ids, fixed_text};

/// Tokens of each text: batches of one length hide what a mask does, so there is none twice.
const LENGTHS: [usize; 8] = [3, 7, 16, 29, 64, 101, 200, 257];

/// Texts of many lengths, cut from the fixed text.
pub fn question(
    found: &Found,
    (device, threads): (Device, u32),
    deadlines: Deadlines,
) -> Result<Question> {
    let config = found.file.bert_config()?;
    let ids = found.ids();
    let special = usize::from(ids.bos.is_some()) + usize::from(ids.eos.is_some());
    let lengths: Vec<usize> =
        LENGTHS.into_iter().filter(|n| *n <= config.context_length && *n > special).collect();
    let total = lengths.iter().sum();
    let mut text = match found.tokenizer().map(|t| fixed_text(&t, total)) {
        Ok(Ok(text)) => text,
        _ => fixed_ids(&ids, total)?,
    };
    // Special tokens only where the model expects them.
    text.retain(|id| ids.normal.binary_search(id).is_ok());
    let mut inner = text.into_iter().cycle();
    let text = |n: usize| -> Vec<u32> {
        let inner = inner.by_ref().take(n - special);
        ids.bos.into_iter().chain(inner).chain(ids.eos).collect()
    };
    Ok(Question {
        model: found.path.clone(),
        device,
        threads,
        texts: lengths.into_iter().map(text).collect(),
        n_embd: config.n_embd as u32,
        n_layers: config.n_layers as u32,
        hidden: true,
        deadlines,
    })
}

#[expect(clippy::too_many_arguments, reason = "two sides of a comparison, and what was asked")]
pub fn compared(
    check: &Check,
    q: &Question,
    reference: &Subject,
    right: &Answer,
    subject: &Subject,
    answer: &Answer,
    (expected, found_in): (&Path, &Path),
    found: &Found,
) -> Result<Verification> {
    let limit = limit(&answer.precision);
    let mut verification = check.verdict(reference, Verdict::Fail, Some(limit.clone()));
    if answer.columns != right.columns {
        verification.reason = Some(format!(
            "{} values for each text, the reference has {}",
            answer.columns, right.columns
        ));
        return Ok(verification);
    }
    let shape = (q.texts.len(), right.columns as usize);
    let whole = distance(open(expected)?, open(found_in)?, shape)?;
    let Some(whole) = whole else {
        if distance(open(expected)?, open(expected)?, shape)?.is_none() {
            bail!(
                "{}: the reference {} computes a value that is no finite number: nothing can be \
                 compared with it. Name another one with --reference, or download or convert the \
                 file again",
                found.path.display(),
                reference.engine.name,
            );
        }
        verification.reason = Some("a value is no finite number".into());
        return Ok(verification);
    };
    let mut layers = Vec::new();
    if right.hidden && answer.hidden {
        let rows = (q.tokens(), q.n_embd as usize);
        let (mut a, mut b) = (open(&hidden_beside(expected))?, open(&hidden_beside(found_in))?);
        for layer in 0..=q.n_layers {
            let of_layer = distance(&mut a, &mut b, rows)?;
            layers.push(of_layer.with_context(|| {
                format!("a hidden state behind layer {layer} is no finite number, or all are zero")
            })?);
        }
    }
    let is_classifier = matches!(found.file.bert_config()?.output, BertOutput::Classes(_));
    let labels = match is_classifier {
        true => Some(same_labels(open(expected)?, open(found_in)?, shape)?),
        false => None,
    };
    let vectors = Vectors {
        texts: q.texts.len() as u32,
        columns: right.columns,
        distance: whole,
        labels,
        layers,
    };
    let (verdict, reason) = judge(&vectors, &limit);
    verification.verdict = verdict;
    verification.vectors = Some(vectors);
    verification.reason = match explained(&subject.engine, found, &verification) {
        Some(known) => {
            let Limit { nmse, of } = &limit;
            let why = &known.why;
            Some(format!("NMSE {:.1e}, limit {nmse:.0e} for {of}. Known: {why}", whole.nmse))
        }
        None => reason,
    };
    Ok(verification)
}
