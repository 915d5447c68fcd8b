//! Joins files of one tool into one side. Each process of each file is a replicate.

use anyhow::{Result, anyhow, bail};

use super::runs::ONE_REPLICATE;
use super::{Format, SampledArm, Source, llama_bench};
use crate::identity::{Difference, Severity};
use crate::record::Warning;

/// The files of one side as one source; one file alone stays as it is.
///
/// # Errors
/// The files are of two tools, of llm-bench, or of two machines or models; they measured different
/// things; or one holds the numbers of another.
pub(super) fn join(sources: Vec<Source>) -> Result<Source> {
    let mut sources = sources.into_iter();
    let mut side = sources.next().ok_or_else(|| anyhow!("expected a file on each side"))?;
    let rest: Vec<Source> = sources.collect();
    if rest.is_empty() {
        return Ok(side);
    }
    if side.format == Format::LlmBench {
        bail!(
            "{}: expected files of other tools, found a result of llm-bench, which holds its \
             launches already: compare two of them without `--`",
            side.file
        );
    }
    // What held for files that stand alone no longer does.
    let alone = |w: &Warning| [ONE_REPLICATE, llama_bench::ONE_PROCESS].contains(&w.code.as_str());
    side.warnings.retain(|w| !alone(w));
    side.arms.iter_mut().for_each(one_value_per_process);
    let first = side.file.clone();
    let mut files = vec![numbers(&side)];
    for mut next in rest {
        if next.format != side.format {
            let (a, b) = (side.format.name(), next.format.name());
            bail!("{}: expected a file of {a}, as {first} is, found one of {b}", next.file);
        }
        next.arms.iter_mut().for_each(one_value_per_process);
        if files.contains(&numbers(&next)) {
            bail!("{}: expected another run, found the numbers of a file before it", next.file);
        }
        files.push(numbers(&next));
        for arm in &next.arms {
            if !side.arms.iter().any(|a| same(a, arm)) {
                bail!(
                    "{}: expected what {first} measured, found {:?} as well",
                    next.file,
                    arm.label
                );
            }
        }
        for arm in &mut side.arms {
            let Some(at) = next.arms.iter().position(|a| same(a, arm)) else {
                bail!("{}: expected what {first} measured, found no {:?}", next.file, arm.label);
            };
            let other = next.arms.swap_remove(at);
            let place = [&first, &next.file];
            side.warnings.extend(differences(place, &arm.identity.differences(&other.identity))?);
            add(arm, other);
        }
        let new = next.warnings.into_iter().filter(|w| !alone(w));
        for warning in new {
            if !side.warnings.contains(&warning) {
                side.warnings.push(warning);
            }
        }
        side.file += &format!(" + {}", next.file);
    }
    side.facts.push(format!("{} files", files.len()));
    Ok(side)
}

fn same(a: &SampledArm, b: &SampledArm) -> bool {
    a.key == b.key && a.settings == b.settings
}

/// Every value of a file; two runs never have the same.
fn numbers(source: &Source) -> Vec<f64> {
    let series = source.arms.iter().flat_map(|arm| &arm.series);
    series.flat_map(|series| series.values.iter().copied()).collect()
}

fn one_value_per_process(arm: &mut SampledArm) {
    for series in &mut arm.series {
        if let Some(value) = series.of_process.take() {
            series.values = vec![value];
        }
    }
}

/// Adds the values of the same arm of another file.
fn add(arm: &mut SampledArm, other: SampledArm) {
    for series in other.series {
        let same = |s: &&mut super::Series| s.metric == series.metric && s.test == series.test;
        match arm.series.iter_mut().find(same) {
            Some(found) => found.values.extend(series.values),
            None => arm.series.push(series),
        }
    }
}

/// What differs between two files of one side, as a warning.
fn differences([first, next]: [&String; 2], found: &[Difference]) -> Result<Option<Warning>> {
    let value = |side: &Option<String>| side.clone().unwrap_or_else(|| "not recorded".into());
    let in_words =
        |d: &Difference| format!("{}: {} and {}", d.title, value(&d.baseline), value(&d.candidate));
    if let Some(refused) = found.iter().find(|d| d.severity == Severity::Refuse) {
        bail!("{next}: expected what {first} measured, found another {}", in_words(refused));
    }
    let all: Vec<String> = found.iter().map(in_words).collect();
    Ok((!all.is_empty()).then(|| Warning {
        code: "joined_files_differ".into(),
        arm: None,
        message: format!("{first} and {next} are one side, but differ in {}", all.join("; ")),
        advice: "the files of a side should be repetitions of one measurement".into(),
    }))
}
