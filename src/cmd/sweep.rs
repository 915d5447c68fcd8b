//! `sweep`: a run over a grid, with the quality of each quantization beside its speed.

use anyhow::Result;

use super::grid::{Kind, measure};
use crate::cli::sweep::SweepArgs;
use crate::workload::QualityText;

pub fn run(args: &SweepArgs) -> Result<()> {
    let text = match &args.text {
        Some(path) => QualityText::read(path)?,
        None => QualityText::embedded()?,
    };
    let kind = Kind {
        name: "sweep",
        command: "sweep",
        // Quality says more of each file, and costs less than every engine's float32.
        verify: false,
        resume: args.run.resume.as_deref(),
        sections: args.run.sections(),
        text: (!args.no_quality).then_some(&text),
    };
    measure(&args.run.session, args.spec(), &args.engines(), kind).map(drop)
}
