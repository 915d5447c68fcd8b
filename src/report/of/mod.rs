//! Turns findings into documents for readers and rows for programs.

mod batch;
mod card;
pub mod compare;
pub mod doctor;
mod encode;
pub mod gate;
pub mod history;
pub mod lists;
pub mod outline;
mod page;
pub mod run;
mod sections;
pub mod self_check;
mod sustained;
mod sweep;
pub mod verify;

use super::document::{Mark, Remark, Tone};
use crate::analysis::is_information;
use crate::analysis::verdict::Decision;
use crate::metric::Better;
use crate::record::{Warning, WeightsSource};
use crate::text::clean;

/// Shown above every number that was measured with synthetic weights.
pub(super) const SYNTHETIC: &str =
    "SYNTHETIC WEIGHTS: random values. Speed and memory hold; the text means nothing.";

/// The word that records use.
fn weights(source: WeightsSource) -> &'static str {
    match source {
        WeightsSource::Hub => "hub",
        WeightsSource::File => "file",
        WeightsSource::Pypi => "pypi",
        WeightsSource::Synthetic => "synthetic",
    }
}

/// The word that records use.
fn better(better: Better) -> &'static str {
    match better {
        Better::Higher => "higher",
        Better::Lower => "lower",
    }
}

fn warning(warning: &Warning) -> Remark {
    let mark = if is_information(&warning.code) { Mark::Note } else { Mark::Warning };
    Remark::advised(mark, clean(&warning.message), clean(&warning.advice))
}

fn tone(decision: Decision) -> Tone {
    match decision {
        Decision::Regressed => Tone::Bad,
        Decision::Improved => Tone::Good,
        Decision::Inconclusive => Tone::Doubt,
        Decision::NotRegressed => Tone::Plain,
    }
}
