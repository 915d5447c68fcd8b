//! `report`: result files again, in another form.

use std::io::{Write, stdout};

use anyhow::Result;

use crate::cli::{Output, ReportArgs};
use crate::record::Record;
use crate::report::{Format, Sections, Style, render_with};

pub fn run(args: &ReportArgs) -> Result<()> {
    // All are read before the first is printed: half a report would look like a whole one.
    let records = args.files.iter().map(|f| Record::read(f)).collect::<Result<Vec<_>>>()?;
    let wanted = Sections { profile: args.profile, timing: args.timing };
    let format = format_of(args.output.output);
    for record in records {
        let text = render_with(&record, format, Style::of_stdout(), wanted);
        stdout().write_all(text.as_bytes())?;
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
