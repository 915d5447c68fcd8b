//! `report`: result files again, in another form.

use std::io::IsTerminal;

use anyhow::Result;

use crate::analysis;
use crate::cli::{Output, ReportArgs};
use crate::record::Record;
use crate::report::{Format, Style, render};

pub fn run(args: &ReportArgs) -> Result<()> {
    // All are read before the first is printed: half a report would look like a whole one.
    let records = args.files.iter().map(|f| Record::read(f)).collect::<Result<Vec<_>>>()?;
    for mut record in records {
        analysis::summarize(&mut record);
        print!("{}", render(&record, format_of(args.output.output), style())?);
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

/// Colour on a terminal only, and never with NO_COLOR.
pub fn style() -> Style {
    let color = std::io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    Style { color, ..Style::default() }
}
