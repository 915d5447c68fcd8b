//! `encode`: measures encoders over batches and lengths.

use anyhow::Result;

use super::grid::{Kind, measure};
use crate::cli::encode::EncodeArgs;
use crate::report::Sections;

pub fn run(args: &EncodeArgs) -> Result<()> {
    let kind = Kind {
        name: "encode",
        command: "encode",
        verify: !args.session.no_verify,
        resume: args.resume.as_deref(),
        sections: Sections::default(),
        text: None,
    };
    measure(&args.session, args.spec(), &args.engines(), kind).map(drop)
}
