//! Did the engines, and the launches of one engine, produce the same greedy tokens?

use std::collections::{BTreeMap, BTreeSet};

use super::ok_launches;
use crate::record::{Arm, Model, Record};

/// The arm whose arithmetic comes closest to the numbers in the file.
const REFERENCE: &str = "pytorch-f32";

/// How far the tokens of one arm agree with those of the reference arm.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Agreement {
    pub arm: String,
    pub reference: String,
    /// Prompts for which both have tokens.
    pub prompts: usize,
    /// The prompts that differ, the earliest divergence first.
    pub divergences: Vec<Divergence>,
}

/// The first `agree` of `of` tokens are the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Divergence {
    pub agree: usize,
    pub of: usize,
    pub prompt: String,
}

/// Compares every arm with `pytorch-f32` on the same file, or with the first arm that has tokens.
pub(super) fn agreements(record: &Record) -> Vec<Agreement> {
    let of = |model: &&Model| {
        record.arms.iter().filter(|arm| record.model_of(arm) == *model).collect::<Vec<_>>()
    };
    record.models().iter().flat_map(|model| agreements_among(&of(model))).collect()
}

fn agreements_among(arms: &[&Arm]) -> Vec<Agreement> {
    let mut arms: Vec<_> = arms
        .iter()
        .map(|&arm| (arm, tokens(arm)))
        .filter(|(_, tokens)| !tokens.is_empty())
        .collect();
    if arms.is_empty() {
        return Vec::new();
    }
    let is_reference = |(arm, _): &(&Arm, _)| arm.point.engine == REFERENCE;
    let index = arms.iter().position(is_reference).unwrap_or(0);
    let (reference, expected) = arms.remove(index);
    arms.iter()
        .filter_map(|(arm, got)| {
            let common: Vec<_> = got.iter().filter(|(id, _)| expected.contains_key(*id)).collect();
            let mut divergences: Vec<_> = common
                .iter()
                .filter_map(|(id, tokens)| divergence(id, tokens, expected[*id]))
                .collect();
            divergences.sort();
            (!common.is_empty()).then(|| Agreement {
                arm: arm.label.clone(),
                reference: reference.label.clone(),
                prompts: common.len(),
                divergences,
            })
        })
        .collect()
}

/// Prompts whose tokens differ between launches of one arm, or between generations of one launch.
pub(super) fn unstable_prompts(arm: &Arm) -> Vec<String> {
    let mut hashes: BTreeMap<_, BTreeSet<&str>> = BTreeMap::new();
    for run in ok_launches(arm).flat_map(|l| &l.prompts) {
        let asked = (&run.id, run.n_prompt, run.n_gen, run.depth);
        hashes.entry(asked).or_default().extend(run.tokens_hash.as_deref());
    }
    let unstable = hashes.iter().filter(|(_, seen)| seen.len() > 1);
    unstable.map(|((id, ..), _)| id.to_string()).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The longest list of ids that any launch recorded, for each prompt.
fn tokens(arm: &Arm) -> BTreeMap<&str, &[u32]> {
    let mut found: BTreeMap<&str, &[u32]> = BTreeMap::new();
    for run in ok_launches(arm).flat_map(|l| &l.prompts) {
        let Some(ids) = run.tokens.as_deref() else { continue };
        let known = found.entry(&run.id).or_default();
        if ids.len() > known.len() {
            *known = ids;
        }
    }
    found.retain(|_, ids| !ids.is_empty());
    found
}

fn divergence(prompt: &str, a: &[u32], b: &[u32]) -> Option<Divergence> {
    let of = a.len().min(b.len());
    let agree = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    (agree < of).then(|| Divergence { agree, of, prompt: prompt.to_string() })
}
