//! `report`: result files again, in another form or by other keys.

use anyhow::Result;

use crate::cli::ReportArgs;
use crate::record::Record;
use crate::report::pivot::{self, Layout};
use crate::report::{Sections, Style, print, render_all};

pub fn run(args: &ReportArgs) -> Result<()> {
    // All are read before the first is printed: half a report would look like a whole one.
    let records = args.files.iter().map(|f| Record::read(f)).collect::<Result<Vec<_>>>()?;
    let (format, style) = (args.output.output.format(), Style::of_stdout());
    let layout = Layout { table: args.table.clone(), row: args.row.clone(), col: args.col.clone() };
    let text = match layout == Layout::default() && args.metric.is_empty() {
        true => {
            let wanted = Sections { profile: args.profile, timing: args.timing };
            render_all(&records, format, style, wanted)
        }
        false => {
            let names = args.files.iter().map(|file| file.display().to_string());
            let records: Vec<_> = names.zip(records).collect();
            pivot::render(&records, &args.metric, &layout, format, style)
        }
    };
    print(&text)
}
