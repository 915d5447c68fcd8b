//! `report`: result files again, in another form or by other keys.

use anyhow::{Result, bail};

use crate::cli::ReportArgs;
use crate::record::{Record, write_atomically};
use crate::report::pivot::{self, Layout};
use crate::report::{Format, Sections, Style, print, render_all, with_pictures};

pub fn run(args: &ReportArgs) -> Result<()> {
    // All are read before the first is printed: half a report would look like a whole one.
    let records = args.files.iter().map(|f| Record::read(f)).collect::<Result<Vec<_>>>()?;
    let (format, style) = (args.output.output.format(), Style::of_stdout());
    let layout = Layout { table: args.table.clone(), row: args.row.clone(), col: args.col.clone() };
    let wanted = Sections { profile: args.profile, timing: args.timing };
    if let Some(folder) = &args.pictures {
        if format != Format::Markdown {
            bail!("--pictures: expected with -o md, where files of their own can be shown");
        }
        let (text, pictures) = with_pictures(&records, wanted, &folder.to_string_lossy());
        for (file, svg) in pictures {
            write_atomically(&folder.join(file), svg.as_bytes())?;
        }
        return print(&text);
    }
    let text = match layout == Layout::default() && args.metric.is_empty() {
        true => render_all(&records, format, style, wanted),
        false => {
            let names = args.files.iter().map(|file| file.display().to_string());
            let records: Vec<_> = names.zip(records).collect();
            pivot::render(&records, &args.metric, &layout, format, style)
        }
    };
    print(&text)
}
