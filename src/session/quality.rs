//! What each quantization of a session costs in quality: a text, teacher-forced, through each
//! engine on each file and on the best of the files. What an engine that quantizes the weights
//! itself loses is seen beside the engine that its manifest names.

use std::thread;

use anyhow::{Context, Result, bail};
use rayon::prelude::*;

use super::bench::{Bench, Seat};
use super::drive::ArmPlan;
use super::failed;
use super::find::{Found, find_model};
use super::room::Room;
use super::verify::scratch;
use crate::analysis::divergence::floats;
use crate::analysis::ok_launches;
use crate::analysis::quality::{self, Position};
use crate::engine::Deadlines;
use crate::interrupt;
use crate::model::cache::CacheDir;
use crate::model::quant::Quant;
use crate::plan::grid::each_once;
use crate::progress::say;
use crate::record::{Quality, Record, WeightsSource};
use crate::task::windows::{Scored, Scorer, Windows};
use crate::workload::QualityText;

/// Tokens of a window, of which the second half is judged: llama-perplexity's defaults.
const WINDOW: usize = 512;
/// Rows that are compared at once: 16 MB at a vocabulary of 128,256.
const ROWS: usize = 32;
/// The seed of the perturbation behind the noise floor.
const JITTER: u64 = 1;

/// Whether an arm was measured whose quality was not judged.
pub fn is_missing(record: &Record) -> bool {
    record.arms.iter().any(|arm| ok_launches(arm).next().is_some() && arm.quality.is_none())
}

/// Fills `quality` of the record's arms. An arm that cannot be scored goes without it, with a word
/// on stderr.
///
/// # Errors
/// The user stopped it, or the text is too short for one window.
pub fn judge(
    record: &mut Record,
    bench: &Bench,
    plans: &[ArmPlan],
    text: &QualityText,
) -> Result<()> {
    let models = each_once(bench.files.iter().map(|file| file.asked.clone()));
    for model in models {
        let files: Vec<usize> =
            (0..bench.files.len()).filter(|i| bench.files[*i].asked == model).collect();
        let made = reference(bench, &files);
        let reference = made.as_ref().unwrap_or(&bench.files[best(&bench.files, &files)]);
        let engines = each_once(bench.seats.iter().map(|seat| seat.point.engine.clone()));
        for engine in engines {
            let mine: Vec<usize> = (0..bench.seats.len())
                .filter(|i| bench.seats[*i].point.engine == engine && plans[*i].installed.is_ok())
                .filter(|i| files.contains(&bench.seats[*i].file))
                .collect();
            // One arm of each file speaks for those that differ in threads, batch or device.
            let files = each_once(mine.iter().map(|i| bench.seats[*i].file));
            let speakers: Vec<usize> = files
                .iter()
                .filter_map(|file| mine.iter().copied().find(|i| bench.seats[*i].file == *file))
                .collect();
            if speakers.is_empty() {
                continue;
            }
            let judged = of_engine(bench, plans, &speakers, reference, text)?;
            for (file, quality) in files.iter().zip(judged) {
                let Some(quality) = quality else { continue };
                for i in mine.iter().filter(|i| bench.seats[**i].file == *file) {
                    record.arms[*i].quality = Some(quality.clone());
                }
            }
        }
    }
    Ok(())
}

/// Of the files `of`, the one that stores the most bits for a weight, the first of equals.
fn best(files: &[Found], of: &[usize]) -> usize {
    let bits = |i: usize| files[i].model.size_bytes as f64 / files[i].model.n_params.max(1) as f64;
    let better = |best: usize, i: &usize| if bits(*i) > bits(best) { *i } else { best };
    of.iter().fold(of[0], better)
}

/// The model's F16 file, where none of the files `of` holds 16 bits or more and it is here or can be
/// made. Nothing is downloaded for it.
fn reference(bench: &Bench, of: &[usize]) -> Option<Found> {
    const WHOLE: [&str; 3] = ["F16", "BF16", "F32"];
    let is_whole = |i: &usize| WHOLE.contains(&bench.files[*i].model.quant.as_str());
    let file = &bench.files[of[0]];
    let can_be_made = file.model.weights != WeightsSource::Hub;
    let policy = bench.spec.target.weights;
    let refused =
        || Room::of_machine().ok()?.refusal((&file.asked, Some(Quant::F16), policy), 1024);
    if of.iter().any(is_whole) || !can_be_made || refused().is_some() {
        return None;
    }
    match find_model(&file.asked, Some(Quant::F16), policy, bench.spec.target.random()) {
        Ok(found) => Some(found),
        Err(e) => {
            say(&format!("warning: no F16 file to compare with, so the best of the files: {e:#}"));
            None
        }
    }
}

/// The quality of each of the arms `of`, all of one engine; none for an arm that cannot be scored.
fn of_engine(
    bench: &Bench,
    plans: &[ArmPlan],
    of: &[usize],
    file: &Found,
    text: &QualityText,
) -> Result<Vec<Option<Quality>>> {
    let windows = windows(file, text)?;
    let mut reference = scored(&bench.seats[of[0]], &plans[of[0]], file, bench.deadlines());
    let name = reference.engine.name.clone();
    say(&format!("{name}: quality over {} windows of {}", windows.tokens.len(), text.name));
    // A variant of the same folder, which is installed with it.
    reference.engine = reference.engine.reference();
    let other = (reference.engine.name != name).then(|| reference.engine.name.clone());
    let is_its = |seat: &Seat| bench.file_of(seat).model.sha256 == file.model.sha256;
    let is_reference = |seat: &Seat| is_its(seat) && other.is_none();
    let perturbed = perturbed(&reference);
    let own = match perturbed.is_some() || of.iter().any(|i| is_reference(&bench.seats[*i])) {
        true => compare(&reference, perturbed.as_ref().unwrap_or(&reference), &windows)?,
        false => Vec::new(),
    };
    let floor = perturbed.is_some().then(|| quality::sum_up(&own)).flatten();
    let quality = |positions: &[Vec<Position>], is_reference: bool| {
        let [right, subject] = quality::perplexities(positions)?;
        Some(Quality {
            reference: file.model.quant.clone(),
            reference_engine: other.clone(),
            text: text.name.clone(),
            text_sha256: text.sha256.clone(),
            windows: windows.tokens.len() as u32,
            window: windows.tokens.first().map_or(0, Vec::len) as u32,
            positions: positions.iter().map(Vec::len).sum::<usize>() as u32,
            ppl: if is_reference { right } else { subject },
            ppl_reference: right,
            loss: (!is_reference).then(|| quality::sum_up(positions)).flatten(),
            floor: floor.clone(),
        })
    };
    let mut found = Vec::new();
    for i in of {
        let seat = &bench.seats[*i];
        if is_reference(seat) {
            found.push(quality(&own, true));
            continue;
        }
        let subject = scored(seat, &plans[*i], bench.file_of(seat), bench.deadlines());
        match compare(&reference, &subject, &windows) {
            Ok(positions) => found.push(quality(&positions, false)),
            Err(e) if interrupt::requested() => return Err(e),
            Err(e) => {
                say(&format!("warning: {}: no quality: {e:#}", seat.label));
                found.push(None);
            }
        }
    }
    Ok(found)
}

/// The text as the model's ids, in windows that each begin as a text does.
fn windows(file: &Found, text: &QualityText) -> Result<Windows> {
    let tokenizer = file.tokenizer().context("quality is judged on a text")?;
    let ids = tokenizer.encode(&text.text).map_err(|e| anyhow::anyhow!("{}: {e}", text.name))?;
    let length = WINDOW.min(file.model.context_length.unwrap_or(u32::MAX) as usize);
    let mut tokens: Vec<Vec<u32>> = ids.chunks_exact(length).map(<[u32]>::to_vec).collect();
    if tokens.is_empty() {
        bail!("{}: expected at least {length} tokens, found {}", text.name, ids.len());
    }
    if let Some(bos) = tokenizer.bos().filter(|_| tokenizer.adds_bos()) {
        tokens.iter_mut().for_each(|window| window[0] = bos);
    }
    let n_vocab = file.model.n_vocab.context("quality is judged on a vocabulary")?;
    Ok(Windows { tokens, first: (length / 2) as u32, n_vocab })
}

fn scored(seat: &Seat, plan: &ArmPlan, file: &Found, deadlines: Deadlines) -> Scored {
    Scored {
        engine: plan.engine.clone(),
        installed: plan.installed.clone().expect("only arms that can be started are judged"),
        model: file.path.clone(),
        device: seat.device,
        threads: seat.threads,
        deadlines,
    }
}

/// The same with every layer's result perturbed by the size of its rounding, where the engine can.
fn perturbed(reference: &Scored) -> Option<Scored> {
    let can = reference.engine.options.is_empty() && reference.engine.name == "candle";
    can.then(|| {
        let mut perturbed = reference.clone();
        perturbed.engine.options.insert("jitter".into(), JITTER.into());
        perturbed
    })
}

/// Both engines over all windows, in turns: one computes while the other waits, and one window of
/// the reference's rows is in memory.
fn compare(reference: &Scored, subject: &Scored, windows: &Windows) -> Result<Vec<Vec<Position>>> {
    let folder = scratch(&CacheDir::from_env()?)?;
    let mut judged = Vec::new();
    thread::scope(|scope| {
        let mut right = Scorer::start(scope, "reference", reference, windows, folder.path())?;
        let mut other = Scorer::start(scope, "subject", subject, windows, folder.path())?;
        let row = 4 * windows.n_vocab as usize;
        let mut expected = Vec::with_capacity(windows.rows() * row);
        for (i, tokens) in windows.tokens.iter().enumerate() {
            if interrupt::requested() {
                bail!("stopped");
            }
            expected.clear();
            if right.window(i, ROWS, |_, rows| expected.extend_from_slice(rows))?.is_none() {
                return Err(why(right, reference));
            }
            let mut found = Vec::with_capacity(windows.rows());
            let next = &tokens[windows.first as usize + 1..];
            let done = other.window(i, ROWS, |first, rows| {
                let expected = expected[first * row..].par_chunks_exact(row);
                let pairs = expected.zip(rows.par_chunks_exact(row)).enumerate();
                // The last row of a window has no token after it.
                let position = pairs.filter_map(|(k, (a, b))| {
                    let next = *next.get(first + k)?;
                    Some(Position::of(&floats(a), &floats(b), next))
                });
                found.extend(position.collect::<Vec<_>>());
            })?;
            if done.is_none() {
                return Err(why(other, subject));
            }
            let found = found.into_iter().collect::<Option<Vec<Position>>>();
            judged.push(
                found
                    .with_context(|| format!("window {i} has a logit that is no finite number"))?,
            );
        }
        other.end().and(right.end()).map_err(|e| failed(&subject.engine.name, e))
    })?;
    Ok(judged)
}

fn why(scorer: Scorer<'_>, scored: &Scored) -> anyhow::Error {
    match scorer.end() {
        Err(failure) => failed(&scored.engine.name, failure),
        Ok(()) => anyhow::anyhow!("{} ended without an answer", scored.engine.name),
    }
}
