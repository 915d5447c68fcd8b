//! `tokenize`: measures the tokenizers of engines over batches and lengths.

use anyhow::Result;

use super::grid::{Kind, measure};
use crate::cli::tokenize::TokenizeArgs;
use crate::report::Sections;

pub fn run(args: &TokenizeArgs) -> Result<()> {
    let kind = Kind {
        name: "tokenize",
        command: "tokenize",
        // Each launch compares the ids itself.
        verify: false,
        resume: args.resume.as_deref(),
        sections: Sections::default(),
        text: None,
    };
    measure(&args.session, args.spec(), &args.engines(), kind).map(drop)
}
