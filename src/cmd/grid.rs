//! What `run`, `sweep` and `track` share: a grid is measured, point by point, and reported.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::cli::SessionArgs;
use crate::engine::Registry;
use crate::plan::Spec;
use crate::progress::say;
use crate::record::Record;
use crate::report::{self, Sections, Style, print, render_with};
use crate::session::{self, Bench, Session, Side, Stop};
use crate::workload::QualityText;

/// What tells the commands that run a grid from one another.
pub struct Kind<'a> {
    /// What the result file's name begins with.
    pub name: &'a str,
    /// Resumes it.
    pub command: &'a str,
    /// Whether engines are compared with float32, unless the user says no.
    pub verify: bool,
    /// The record to resume, if one is.
    pub resume: Option<&'a Path>,
    /// Sections of the report that are shown on request.
    pub sections: Sections,
    /// What quality is judged on, if it is.
    pub text: Option<&'a QualityText>,
}

/// Measures `spec` with the engines, unless a record is resumed.
pub fn measure(
    args: &SessionArgs,
    spec: Spec,
    engines: &[String],
    kind: Kind<'_>,
) -> Result<Option<PathBuf>> {
    let lacks = if kind.text.is_some() { session::quality::is_missing } else { |_: &Record| false };
    let earlier = kind.resume.map(|file| crate::gate::interrupted_run(file, lacks)).transpose()?;
    let (spec, engines) = match &earlier {
        Some(earlier) => (earlier.spec()?, earlier.engines()?),
        None => (spec, Registry::load()?.named(engines)?),
    };
    let format = args.output.output.format();
    let sides: Vec<Side> = engines.into_iter().map(Side::from).collect();
    let bench = Bench::new(spec, &sides)?;
    if args.list {
        let outline = session::outline(&bench, &args.output_dir);
        print(&report::of::outline::render(&outline, format, Style::of_stdout()))?;
        return Ok(None);
    }
    match &earlier {
        Some(earlier) => earlier.check(&bench, &bench.order(bench.spec.launches))?,
        None => session::first_look(&bench, &bench.ready(!args.no_install)?),
    }
    let plans = bench.provide(!args.no_install)?;
    let verified = earlier.is_some() || !kind.verify;
    let session = Session {
        bench: &bench,
        plans: plans.clone(),
        stop: Stop::of(&bench.spec),
        kind: kind.name,
        base: None,
        folder: &args.output_dir,
        config: None,
        // A tokenizer neither streams weights nor compiles.
        bandwidth: !bench.spec.is_tokenizing(),
        compilers: !bench.spec.is_tokenizing(),
        earlier,
    };
    let mut measured = session.measure(&mut |_, _| false)?;
    if !verified {
        measured.verify(&bench, &plans);
    }
    measured.classify(&bench, &plans);
    let judged = kind.text.map(|text| measured.judge_quality(&bench, &plans, text));
    let wanted = kind.sections;
    let written = report::write_files(&measured.record, &measured.path, wanted);
    if written.is_ok() {
        let (files, launches) = (measured.path.with_extension(""), measured.launches());
        say(&format!("wrote {}.{{json,csv,md}} ({launches} launches)", files.display()));
        say(&format!("the page to read or share: {}", files.with_extension("html").display()));
    }
    // Shown even if it could not be written: nothing else is left then.
    let shown = print(&render_with(&measured.record, format, Style::of_stdout(), wanted));
    let path = measured.conclude(kind.command, written)?;
    judged.transpose()?;
    shown?;
    Ok(Some(path))
}
