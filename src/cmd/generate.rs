//! `generate`: one prompt's text, or a chat.

use anyhow::Result;

use crate::cli::GenerateArgs;
use crate::generate;

pub fn run(args: &GenerateArgs) -> Result<()> {
    generate::run(args)
}
