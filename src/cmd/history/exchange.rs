//! `history import` and `export`: JSON lines, CSV and SQL.

use std::io::{BufWriter, Write, stdout};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::report;
use crate::cli::history::{ExportArgs, ImportArgs};
use crate::history::{self, Form, Store};
use crate::progress::say;
use crate::record::write_atomically;

pub fn import(db: &Path, args: &ImportArgs) -> Result<()> {
    let form = |file: &PathBuf| {
        let by_name = || Form::of_name(file);
        args.form.map(Form::from).or_else(by_name).with_context(|| {
            format!("{}: expected .jsonl, .csv or .sql; --form says what it is", file.display())
        })
    };
    let forms = args.files.iter().map(form).collect::<Result<Vec<_>>>()?;
    let mut store = Store::open_to_write(db)?;
    for (file, form) in args.files.iter().zip(forms) {
        report(db, history::import(&mut store, file, form)?);
    }
    Ok(())
}

pub fn export(db: &Path, args: &ExportArgs) -> Result<()> {
    let by_name = args.output.as_deref().and_then(Form::of_name);
    let form = args.form.map(Form::from).or(by_name).unwrap_or(Form::Jsonl);
    let store = Store::open_to_read(db)?;
    let filter = args.filter.filter();
    let Some(file) = &args.output else {
        let mut out = BufWriter::with_capacity(1 << 16, stdout().lock());
        history::write_out(&store, &filter, form, &mut out)?;
        return Ok(out.flush()?);
    };
    let mut bytes = Vec::new();
    history::write_out(&store, &filter, form, &mut bytes)?;
    write_atomically(file, &bytes)?;
    say(&format!("wrote {}", file.display()));
    Ok(())
}
