//! The options of `history` and `track`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;

use super::rules::{Margin, metric_name};
use super::{OutputArgs, RunArgs};
use crate::history::{self, Filter, Form};

#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// The database
    #[arg(long, global = true, default_value = "results/history.sqlite", value_name = "FILE")]
    pub db: PathBuf,
    #[command(subcommand)]
    pub command: HistoryCommand,
}

#[derive(Debug, Subcommand)]
pub enum HistoryCommand {
    /// Add result files of `llm-bench run`; adding one again changes nothing
    Add(AddArgs),
    /// Which engines, models and machines the history knows, and for how long
    List(ListArgs),
    /// One metric over the commits: a table and a sparkline for each line
    Show(ShowArgs),
    /// Draw one metric over the commits: SVG to a file, a sparkline to the terminal
    Plot(PlotArgs),
    /// Where a level changed, and which commits to look at
    Changes(ChangesArgs),
    /// One page with the plots of the primary metrics
    Html(HtmlArgs),
    /// Add the sessions of an export: all of them, or after any error none
    Import(ImportArgs),
    /// Write the sessions as text
    Export(ExportArgs),
}

/// Which lines of the history are meant.
#[derive(Debug, Args)]
pub struct FilterArgs {
    /// The engine's name or its label in the table
    #[arg(long, value_name = "NAME")]
    pub engine: Option<String>,
    #[arg(short, long, value_name = "NAME")]
    pub model: Option<String>,
    #[arg(long, value_name = "Q")]
    pub quant: Option<String>,
    /// Sessions from then on: a date, a time, or an age such as 90d
    #[arg(long, value_parser = history::since, value_name = "WHEN")]
    pub since: Option<Timestamp>,
    /// A part of the name of the processor or GPU
    #[arg(long, value_name = "TEXT")]
    pub host: Option<String>,
    /// The number of a line, from `history list`
    #[arg(long, value_name = "ID")]
    pub identity: Option<i64>,
}

impl FilterArgs {
    pub fn filter(&self) -> Filter {
        Filter {
            engine: self.engine.clone(),
            model: self.model.clone(),
            quant: self.quant.clone(),
            host: self.host.clone(),
            identity: self.identity,
            since: self.since,
        }
    }
}

/// How large a change must be.
#[derive(Debug, Args)]
pub struct MarginArgs {
    /// The least change that counts: for every metric (5%) or for one (decode_tps=3%); a comma
    /// list, or repeated [default: 5%]
    #[arg(long, value_delimiter = ',', value_name = "[METRIC=]SHARE")]
    pub margin: Vec<Margin>,
}

#[derive(Debug, Args)]
pub struct AddArgs {
    /// Result files
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The commit that was measured, if that is not llm-bench's own
    #[arg(long, value_name = "SHA")]
    pub commit: Option<String>,
    /// Also runs that were cut off; they are marked, and the whole run takes their place later
    #[arg(long)]
    pub incomplete: bool,
    /// Leave out files that cannot be added, and say which and why
    #[arg(long)]
    pub skip: bool,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    pub filter: FilterArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// decode_tps, prefill_tps, cold_start_ttft_s, model_load_s, peak_host_bytes, …
    #[arg(value_parser = metric_name)]
    pub metric: String,
    #[command(flatten)]
    pub filter: FilterArgs,
    /// The last commits of each line; 0 for all
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub last: usize,
    #[command(flatten)]
    pub margin: MarginArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Args)]
pub struct PlotArgs {
    /// As for `history show`
    #[arg(value_parser = metric_name)]
    pub metric: String,
    #[command(flatten)]
    pub filter: FilterArgs,
    #[command(flatten)]
    pub margin: MarginArgs,
    /// Write the SVG here [default: only the sparklines]
    #[arg(short, long = "output", value_name = "FILE.svg")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ChangesArgs {
    /// Metrics [default: the primary ones]
    #[arg(value_parser = metric_name)]
    pub metric: Vec<String>,
    #[command(flatten)]
    pub filter: FilterArgs,
    #[command(flatten)]
    pub margin: MarginArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Args)]
pub struct HtmlArgs {
    /// Folder of the page, which is called index.html
    #[arg(short, long = "output-dir", value_name = "DIR")]
    pub output_dir: PathBuf,
    #[command(flatten)]
    pub filter: FilterArgs,
    #[command(flatten)]
    pub margin: MarginArgs,
}

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Exports: .jsonl, .csv or .sql
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// What the files hold [default: by their names]
    #[arg(long, value_enum, value_name = "FORM")]
    pub form: Option<FormArg>,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Write here [default: stdout]
    #[arg(short, long = "output", value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// jsonl, csv or sql [default: by the file's name, else jsonl]
    #[arg(long, value_enum, value_name = "FORM")]
    pub form: Option<FormArg>,
    #[command(flatten)]
    pub filter: FilterArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FormArg {
    /// One line of JSON for each session
    Jsonl,
    /// One line for each session and metric
    Csv,
    /// The tables, for sqlite3
    Sql,
}

impl From<FormArg> for Form {
    fn from(form: FormArg) -> Self {
        match form {
            FormArg::Jsonl => Form::Jsonl,
            FormArg::Csv => Form::Csv,
            FormArg::Sql => Form::Sql,
        }
    }
}

/// All of `run`, and where to keep it.
#[derive(Debug, Args)]
pub struct TrackArgs {
    /// The database
    #[arg(long, default_value = "results/history.sqlite", value_name = "FILE")]
    pub history_db: PathBuf,
    /// The commit that is measured, if that is not llm-bench's own
    #[arg(long, value_name = "SHA")]
    pub commit: Option<String>,
    #[command(flatten)]
    pub run: RunArgs,
}
