//! `gate --baseline FILE`: a stored record against another one, or against a new measurement with
//! the record's own settings, where the two may be compared.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::builds::warm;
use super::judge::{Judge, check_ratios, look_alpha, must_have_measured};
use super::{
    BASELINE, BaselineMissing, CANDIDATE, ENGINE, bench, session, stop, then_as_candidate,
};
use crate::analysis::gate::{self, Gate, faults};
use crate::analysis::sides::{Earlier, Origin};
use crate::analysis::{UNKNOWN_METRICS, summarize};
use crate::cli::gate::GateArgs;
use crate::engine::Registry;
use crate::history;
use crate::identity::{Difference, Identity, LineIdentity, Severity};
use crate::plan::Spec;
use crate::progress::say;
use crate::record::{Arm, Record, Warning};
use crate::session::{Side, Stop, new_record};

/// An arm of a result file.
#[derive(Clone, Copy)]
struct Stored<'a> {
    record: &'a Record,
    arm: &'a Arm,
}

/// A gate, and what earlier sessions show where its sides are of two.
type Judged = (Gate, Option<Earlier>);

pub fn run(args: &GateArgs, file: &Path) -> Result<Gate> {
    let shown = file.display();
    if !file.exists() {
        bail!(BaselineMissing(format!(
            "--baseline {shown}: there is no such file; measure one on this machine with `llm-bench \
             run --output-dir DIR`"
        )));
    }
    let mut baseline = Record::read(file).context("--baseline")?;
    summarize(&mut baseline);
    let arm =
        arm(&baseline, args.engine.as_deref()).with_context(|| format!("--baseline {shown}"))?;
    must_have_measured(&arm, &format!("--baseline {shown}: {}", arm.label))?;
    let side = gate::Side::new(shown.to_string(), baseline.build.git_commit.clone(), None, &arm);
    let stored = Stored { record: &baseline, arm: &arm };
    let (gate, earlier) = match &args.candidate {
        Some(candidate) => against_record(args, stored, candidate)?,
        None => against_measurement(args, stored, file)?,
    };
    let mut warnings = gate.warnings.clone();
    let unknown = baseline.warnings.iter().filter(|w| w.code == UNKNOWN_METRICS);
    warnings.extend(
        unknown.map(|w| Warning {
            message: format!("--baseline {shown}: {}", w.message),
            ..w.clone()
        }),
    );
    if !baseline.run.complete {
        warnings.push(Warning {
            code: "incomplete_baseline".into(),
            arm: None,
            message: format!(
                "the baseline's session was interrupted: {} launches",
                arm.launches.len()
            ),
            advice: "finish it with --resume before gating against it".into(),
        });
    }
    if let Some(earlier) = &earlier {
        let what = format!("the baseline, of {},", baseline.run.started_at);
        warnings.push(earlier.warning(&what));
    }
    let earlier_sessions = earlier.map(|earlier| earlier.sessions);
    Ok(Gate { baseline: Some(side), earlier_sessions, warnings, ..gate })
}

/// The arm that is meant: by its label or its engine; else the candidate of a gate's record, else
/// candle, else the only one.
fn arm(record: &Record, wanted: Option<&str>) -> Result<Arm> {
    let labelled = |label: &str| record.arms.iter().find(|arm| arm.label == label);
    let of_engine = |name: &str| {
        let mut found = record.arms.iter().filter(|arm| arm.engine == name);
        found.next().filter(|_| found.next().is_none())
    };
    let found = match (wanted, &record.arms[..]) {
        (Some(name), _) => labelled(name).or_else(|| {
            labelled(CANDIDATE).filter(|arm| arm.engine == name).or_else(|| of_engine(name))
        }),
        (None, [only]) => Some(only),
        (None, _) => labelled(CANDIDATE).or_else(|| labelled(ENGINE)),
    };
    found.cloned().with_context(|| {
        let labels: Vec<&str> = record.arms.iter().map(|arm| arm.label.as_str()).collect();
        let wanted = wanted.map_or("one of the arms".into(), |name| format!("{name:?}"));
        format!("--engine: expected {wanted}; the file has {}", labels.join(", "))
    })
}

/// What differs between the two beside their numbers. The name of an arm is no difference where
/// the engine is the same.
fn differences(baseline: (&Record, &Arm), candidate: (&Record, &Arm)) -> Vec<Difference> {
    let same_engine = baseline.1.engine == candidate.1.engine;
    let found =
        Identity::of(baseline.0, baseline.1).differences(&Identity::of(candidate.0, candidate.1));
    found.into_iter().filter(|d| !(same_engine && d.is_engine())).collect()
}

/// What the history shows of sessions like that of the baseline, the run `candidate` left out.
fn earlier(args: &GateArgs, baseline: Stored<'_>, candidate: Option<&str>) -> Result<Earlier> {
    let mut line = LineIdentity::of(baseline.record, baseline.arm);
    if [BASELINE, CANDIDATE].contains(&line.label.as_str()) {
        // The side of a gate; a history has the engine by its own name.
        line.label.clone_from(&line.engine);
    }
    let without: Vec<&str> = candidate.into_iter().collect();
    history::earlier(args.history_db.as_deref(), &line, &without).context("--history-db")
}

/// One session's arm against itself.
fn same_launches(baseline: (&Record, &Arm), candidate: (&Record, &Arm)) -> Option<String> {
    let same = baseline.0.run.id == candidate.0.run.id && baseline.1.label == candidate.1.label;
    same.then(|| "both sides are the same launches: a file against itself".into())
}

/// Two arms of one name.
fn ambiguous(what: &str, record: &Record) -> Option<String> {
    let mut labels: Vec<&str> = record.arms.iter().map(|arm| arm.label.as_str()).collect();
    labels.sort_unstable();
    let twice = labels.windows(2).find(|pair| pair[0] == pair[1])?[0];
    Some(format!("{what} has two arms that are called {twice:?}"))
}

/// Engines of the baseline that the candidate did not measure.
fn lost_arms(baseline: &Record, candidate: &Record) -> Option<String> {
    let has = |record: &Record, label: &str| record.arms.iter().any(|arm| arm.label == label);
    // A gate's own record names its arms by their sides.
    if has(baseline, CANDIDATE) || has(candidate, CANDIDATE) {
        return None;
    }
    let labels = baseline.arms.iter().map(|arm| arm.label.as_str());
    let lost: Vec<&str> = labels.filter(|label| !has(candidate, label)).collect();
    (!lost.is_empty()).then(|| {
        format!(
            "the candidate did not measure {}, which the baseline did; --engine names the one to \
             gate",
            lost.join(", ")
        )
    })
}

fn refused(differences: &[Difference]) -> bool {
    differences.iter().any(|d| d.severity == Severity::Refuse)
}

fn against_record(args: &GateArgs, stored: Stored<'_>, file: &Path) -> Result<Judged> {
    let Stored { record: baseline, arm: base } = stored;
    let shown = file.display();
    let mut candidate = Record::read(file).context("--candidate")?;
    summarize(&mut candidate);
    let arm = arm(&candidate, args.engine.as_deref().or(Some(&base.engine)))
        .with_context(|| format!("--candidate {shown}"))?;
    let found = differences((baseline, base), (&candidate, &arm));
    let earlier = match candidate.run.id == baseline.run.id {
        true => None,
        false => Some(earlier(args, stored, Some(&candidate.run.id))?),
    };
    let judge = Judge { rules: &args.rules.rules(), stop: Stop::STORED, origin: origin(&earlier) };
    let mut gate = judged(args, &judge, base, (&candidate, &arm), found)?;
    gate.invalid.extend(same_launches((baseline, base), (&candidate, &arm)));
    gate.invalid.extend(ambiguous("the baseline", baseline));
    gate.invalid.extend(ambiguous("the candidate", &candidate));
    if args.engine.is_none() {
        gate.vanished.extend(lost_arms(baseline, &candidate));
    }
    let side = gate::Side::new(shown.to_string(), candidate.build.git_commit.clone(), None, &arm);
    let gate = Gate { candidate: Some(side), records: vec![shown.to_string()], ..gate };
    Ok((gate, earlier))
}

fn against_measurement(args: &GateArgs, stored: Stored<'_>, file: &Path) -> Result<Judged> {
    let Stored { record: baseline, arm: base } = stored;
    if args.candidate_bin.is_some() || args.candidate_rev.is_some() {
        bail!("--baseline FILE measures this llm-bench; run the other program's own `gate`");
    }
    let shown = format!("--baseline {}", file.display());
    let spec = Spec::of(baseline).with_context(|| shown.clone())?;
    let mut engine = Registry::load()?.find(&base.engine).with_context(|| shown.clone())?.clone();
    if let Some(slow) = args.slow_candidate {
        engine.options.insert("slow_down".into(), (1.0 + slow).into());
    }
    let stop = stop(args)?;
    let mut spec = Spec { timeout: args.timeout.or(spec.timeout), ..spec };
    // One arm of a grid is one point.
    let recipe = base.point.quant.split('+').next().unwrap_or_default();
    if let Ok(quant) = recipe.parse()
        && spec.target.quant.len() > 1
    {
        spec.target.quant = vec![quant];
    }
    spec.target.threads = base.point.threads.into_iter().collect();
    spec.workload.batch = base.point.batch.into_iter().collect();
    spec.target.device = base.point.device.map_or(spec.target.device, |d| vec![d]);
    let side = Side { label: Some(base.label.clone()), ..engine.into() };
    let bench = bench(spec, &[side])?;
    // What is known before anything is measured: machine, build, model, prompts, settings.
    let here = new_record(&bench, stop, None);
    let known = differences((baseline, base), (&here, base));
    let known: Vec<Difference> = known
        .into_iter()
        .filter(|d| d.candidate.is_some() || d.severity == Severity::Refuse)
        .collect();
    if refused(&known) && !args.force_incomparable {
        say("not comparable: nothing is measured; --force-incomparable shows the numbers");
        return Ok((Gate { differences: known, ..Gate::new(&here) }, None));
    }
    let earlier = Some(earlier(args, stored, None)?);
    if earlier.as_ref().is_some_and(Earlier::are_too_few) {
        say(
            "note: too few earlier sessions are known for this gate to pass; it can find a regression",
        );
    }
    warm(&std::env::current_exe().context("cannot find this program's own file")?);
    let rules = args.rules.rules();
    let judge = Judge { rules: &rules, stop, origin: origin(&earlier) };
    let measured = session(args, &bench, stop)?
        .measure(&mut |record, launches| judge.enough(base, &record.arms[0], launches))?
        .finish(then_as_candidate)?;
    let record = &measured.record;
    let arm = record.arms.first().context("nothing was measured")?;
    let found = differences((baseline, base), (record, arm));
    let gate = judged(args, &judge, base, (record, arm), found)?;
    let side = gate::Side::new("this llm-bench".into(), record.build.git_commit.clone(), None, arm);
    let gate = Gate {
        candidate: Some(side),
        ended: Some(judge.reason(measured.ended, gate.judgement.as_ref())),
        records: vec![measured.path.display().to_string()],
        ..gate
    };
    Ok((gate, earlier))
}

/// Without what is known of earlier sessions, both sides are of one.
fn origin(earlier: &Option<Earlier>) -> Origin<'_> {
    earlier.as_ref().map_or(Origin::OneSession, Origin::TwoSessions)
}

/// Without a judgement where the two may not be compared and nobody forces it.
fn judged(
    args: &GateArgs,
    judge: &Judge<'_>,
    base: &Arm,
    (record, arm): (&Record, &Arm),
    differences: Vec<Difference>,
) -> Result<Gate> {
    let rules = judge.rules;
    let gate = Gate { alpha: rules.alpha, ..Gate::new(record) };
    if refused(&differences) && !args.force_incomparable {
        return Ok(Gate { differences, ..gate });
    }
    let level = look_alpha(judge.stop, rules.alpha);
    let faults = faults(base, arm, rules, rules.are_asked());
    Ok(Gate {
        judgement: judge.judgement(base, arm)?,
        invalid: faults.invalid,
        vanished: faults.vanished,
        requirements: check_ratios(record, &args.require, level)?,
        differences,
        ..gate
    })
}
