//! A gate of two builds: fresh processes of two programs, interleaved in one session over the same
//! file.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::judge::{Judge, check_ratios, look_alpha, must_have_measured};
use super::program::Program;
use super::{BASELINE, BaselineMissing, CANDIDATE, bench, builtin, session, spec, stop};
use crate::analysis::gate::{self, Gate, faults};
use crate::analysis::sides::Origin;
use crate::analysis::verdict::{Rule, Rules};
use crate::cli::gate::GateArgs;
use crate::engine::EngineSpec;
use crate::engine::provision::Provisioner;
use crate::model::cache::CacheDir;
use crate::progress::say;
use crate::record::Arm;
use crate::session::{Bench, Interrupted, Measured, Session, Side, Stop};
use crate::shell;

/// The key of `run.config` that marks the record of two builds and holds their settings.
pub const CONFIG: &str = "gate";

/// What a gate of two builds was asked for, as its record keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stated {
    pub baseline: Program,
    pub candidate: Program,
    /// When measuring ends.
    #[serde(rename = "length")]
    pub stop: Stop,
    pub margin: f64,
    pub margins: BTreeMap<String, f64>,
    pub alpha: f64,
    pub rule: Rule,
    pub primary: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_candidate: Option<f64>,
}

impl Stated {
    pub fn rules(&self) -> Rules {
        Rules {
            margin: self.margin,
            margins: self.margins.clone(),
            alpha: self.alpha,
            rule: self.rule,
            primary: self.primary.clone(),
            ..Rules::default()
        }
    }

    /// Both sides are measured in one session.
    fn judge<'a>(&self, rules: &'a Rules) -> Judge<'a> {
        Judge { rules, stop: self.stop, origin: Origin::OneSession }
    }
}

/// The programs that the arguments name, built where they are revisions.
struct Named {
    baseline: Program,
    candidate: Program,
}

impl Named {
    fn by(args: &GateArgs) -> Result<Self> {
        let provisioner = Provisioner::new(CacheDir::from_env()?.path().into(), !args.no_install)?;
        let baseline = match (&args.baseline_bin, &args.baseline_rev) {
            (Some(path), _) if !path.exists() => {
                let path = path.display();
                bail!(BaselineMissing(format!("--baseline-bin {path}: there is no such program")))
            }
            (Some(path), _) => Program::built("--baseline-bin", path)?,
            (None, Some(rev)) => Program::of_revision(&provisioner, rev, &say)
                .with_context(|| format!("--baseline-rev {rev}"))?,
            (None, None) => Program::own()?,
        };
        let candidate = match (&args.candidate_bin, &args.candidate_rev) {
            (Some(path), _) => Program::built("--candidate-bin", path)?,
            (None, Some(rev)) => Program::of_revision(&provisioner, rev, &say)
                .with_context(|| format!("--candidate-rev {rev}"))?,
            (None, None) => Program::own()?,
        };
        Ok(Self { baseline, candidate })
    }
}

/// What the arguments ask for, with the programs built.
fn stated(args: &GateArgs) -> Result<Stated> {
    let Named { baseline, candidate } = Named::by(args)?;
    let rules = args.rules.rules();
    Ok(Stated {
        baseline,
        candidate,
        stop: stop(args)?,
        margin: rules.margin,
        margins: rules.margins,
        alpha: rules.alpha,
        rule: rules.rule,
        primary: rules.primary,
        slow_candidate: args.slow_candidate,
    })
}

/// Enough of a hash to tell two apart.
fn start(sha256: &str) -> &str {
    &sha256[..sha256.floor_char_boundary(12)]
}

impl Stated {
    /// The command that resumes this gate.
    fn resume_command(&self, json: &Path) -> String {
        let own = std::env::current_exe().ok();
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut words = ["llm-bench", "gate", "--resume"].map(String::from).to_vec();
        words.push(text(json));
        for (option, program) in [("--baseline", &self.baseline), ("--candidate", &self.candidate)]
        {
            if let Some(commit) = program.commit.as_ref().filter(|_| program.is_revision()) {
                words.extend([format!("{option}-rev"), commit.clone()]);
            } else if own.as_ref() != Some(&program.path) {
                words.extend([format!("{option}-bin"), text(&program.path)]);
            }
        }
        shell::command(words)
    }

    /// This program against itself, for the check of the gate.
    pub fn of_itself(args: &GateArgs, slow: Option<f64>) -> Result<Self> {
        Ok(Self { slow_candidate: slow, ..stated(args)? })
    }

    /// One engine of two programs.
    pub fn sides(&self, engine: &EngineSpec) -> [Side; 2] {
        let side = |label: &str, program: &Program, slow: Option<f64>| {
            let mut engine = engine.clone();
            if let Some(slow) = slow {
                engine.options.insert("slow_down".into(), (1.0 + slow).into());
            }
            Side { engine, label: Some(label.into()), program: Some(program.path.clone()) }
        };
        [
            side(BASELINE, &self.baseline, None),
            side(CANDIDATE, &self.candidate, self.slow_candidate),
        ]
    }
}

pub fn run(args: &GateArgs) -> Result<Gate> {
    let engine = builtin(args)?;
    let stated = stated(args)?;
    let bench = bench(spec(args)?, &stated.sides(&engine))?;
    verdict(args, &stated, &bench, None)
}

/// Resumes an interrupted gate of two builds.
pub fn resumed(args: &GateArgs, file: &Path) -> Result<Gate> {
    let shown = file.display();
    let earlier = Interrupted::open(file, |_| false)?;
    let record = earlier.record();
    let Some(config) = record.run.config.get(CONFIG) else {
        bail!(
            "--resume {shown}: expected a gate of two builds, found none; resume a run with \
             `llm-bench run --resume {}`",
            shell::path(file)
        );
    };
    let mut stated: Stated = serde_json::from_value(config.clone()).with_context(|| {
        format!("--resume {shown}: run.config.{CONFIG} does not state the gate")
    })?;
    let labels: Vec<&str> = record.arms.iter().map(|arm| arm.label.as_str()).collect();
    let engines = earlier.engines()?;
    let [engine] = &engines[..] else {
        bail!("--resume {shown}: expected one engine, found {}; run anew", engines.len());
    };
    if labels != [BASELINE, CANDIDATE] || !stated.stop.is_plausible() {
        bail!("--resume {shown}: the file was changed. Run anew");
    }
    // The file may come from anywhere. It says which programs were measured; only the command line
    // says which are started.
    let named = Named::by(args)?;
    let advice = stated.resume_command(file);
    for (side, was, now) in [
        (BASELINE, &mut stated.baseline, named.baseline),
        (CANDIDATE, &mut stated.candidate, named.candidate),
    ] {
        if now.sha256 != was.sha256 {
            bail!(
                "--resume {shown}: {side}: expected the program that was measured ({}, sha256 {}…), \
                 found another ({}, sha256 {}…); name the programs of the gate if you trust them: \
                 `{advice}`; or run anew",
                was.what,
                start(&was.sha256),
                now.what,
                start(&now.sha256)
            );
        }
        was.path = now.path;
    }
    let bench = bench(earlier.spec()?, &stated.sides(engine))?;
    verdict(args, &stated, &bench, Some(earlier))
}

fn verdict(
    args: &GateArgs,
    stated: &Stated,
    bench: &Bench,
    earlier: Option<Interrupted>,
) -> Result<Gate> {
    if stated.baseline.sha256 == stated.candidate.sha256 {
        say("note: baseline and candidate are the same program");
    }
    let session = session(args, bench, stated.stop)?;
    let measured = measure(Session { earlier, ..session }, stated)?;
    let gate = judged(&measured, stated)?;
    let level = look_alpha(stated.stop, stated.alpha);
    let requirements = check_ratios(&measured.record, &args.require, level)?;
    Ok(Gate { requirements, ..gate })
}

/// Measures until the rule has enough.
pub fn measure(session: Session<'_>, stated: &Stated) -> Result<Measured> {
    for program in [&stated.baseline, &stated.candidate] {
        warm(&program.path);
    }
    let rules = stated.rules();
    let judge = stated.judge(&rules);
    let config = Some((CONFIG, serde_json::to_value(stated)?));
    let measured = Session { config, ..session }.measure(&mut |record, launches| {
        judge.enough(&record.arms[0], &record.arms[1], launches)
    })?;
    measured.finish(|json| format!("resume it with `{}`", stated.resume_command(Path::new(json))))
}

/// The verdict over a session of two builds.
pub fn judged(measured: &Measured, stated: &Stated) -> Result<Gate> {
    let record = &measured.record;
    let [baseline, candidate] = &record.arms[..] else {
        bail!("{}: expected two arms", measured.path.display());
    };
    must_have_measured(baseline, "the baseline")?;
    let rules = stated.rules();
    let judge = stated.judge(&rules);
    let side = |program: &Program, arm: &Arm| {
        let program = program.clone();
        Some(gate::Side::new(program.what, program.commit, Some(program.sha256), arm))
    };
    let faults = faults(baseline, candidate, &rules, rules.are_asked());
    let judgement = judge.judgement(baseline, candidate)?;
    Ok(Gate {
        ended: Some(judge.reason(measured.ended, judgement.as_ref())),
        judgement,
        invalid: faults.invalid,
        vanished: faults.vanished,
        baseline: side(&stated.baseline, baseline),
        candidate: side(&stated.candidate, candidate),
        alpha: stated.alpha,
        records: vec![measured.path.display().to_string()],
        ..Gate::new(record)
    })
}

/// Reads a program once, so that its first launch does not read it from the disk.
pub fn warm(program: &Path) {
    let _ = std::fs::read(program).map(|bytes| bytes.len());
}
