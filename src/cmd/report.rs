//! `report`: result files again, in another form.

use std::io::{Write, stdout};

use anyhow::Result;

use crate::cli::{Output, ReportArgs};
use crate::record::Record;
use crate::report::{Format, Style, render};

pub fn run(args: &ReportArgs) -> Result<()> {
    // All are read before the first is printed: half a report would look like a whole one.
    let records = args.files.iter().map(|f| Record::read(f)).collect::<Result<Vec<_>>>()?;
    for record in records {
        write!(stdout(), "{}", render(&record, format_of(args.output.output), Style::of_stdout()))?;
    }
    Ok(())
}

/// The report's format for `-o`.
pub fn format_of(output: Output) -> Format {
    match output {
        Output::Table => Format::Table,
        Output::Json => Format::Json,
        Output::Csv => Format::Csv,
        Output::Md => Format::Markdown,
    }
}
