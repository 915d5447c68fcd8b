//! `serve-bench`: loads servers level by level.

use anyhow::{Result, bail};

use super::grid::{Kind, measure};
use crate::cli::serve::ServeArgs;
use crate::report::Sections;

pub fn run(args: &ServeArgs) -> Result<()> {
    let engines = args.engines();
    if engines.is_empty() && args.resume.is_none() {
        bail!(
            "no server: expected --endpoint URL for one that runs, or --engine llama-server for one \
             that llm-bench starts"
        );
    }
    let kind = Kind {
        name: "serve",
        command: "serve-bench",
        verify: false,
        resume: args.resume.as_deref(),
        sections: Sections::default(),
        text: None,
    };
    measure(&args.session, args.spec(), &engines, kind).map(drop)
}
