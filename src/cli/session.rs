//! The options of every command that measures a grid of engines: how the session runs and where its
//! result goes.

use std::path::PathBuf;

use clap::Args;

use super::{OutputArgs, SetArgs};

#[derive(Debug, Args)]
#[group(skip)]
pub struct SessionArgs {
    #[command(flatten)]
    pub set: SetArgs,
    /// Use this Python's environment for engines with scripts, instead of installing one
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,
    /// Never install an engine's dependencies
    #[arg(long)]
    pub no_install: bool,
    /// Skip the check that the engines compute the same function
    #[arg(long)]
    pub no_verify: bool,
    /// The longest that an engine may take for one answer, in seconds
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<f64>,
    /// Print the plan and exit
    #[arg(long)]
    pub list: bool,
    #[command(flatten)]
    pub output: OutputArgs,
    /// Folder of the result files
    #[arg(long, default_value = "results", value_name = "DIR")]
    pub output_dir: PathBuf,
}
