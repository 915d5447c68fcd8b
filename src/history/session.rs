//! A session: one engine of one run, with the values of its launches. Sessions added to a history,
//! exported from it or read from foreign files all pass the same check here.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Identity;
use crate::analysis;
use crate::metric::{Metric, Task};
use crate::record::{MetricSummary, Record};
use crate::stats;

/// Name and version of a line of JSON.
pub(super) const FORM: &str = "llm-bench-history/1";
const LONGEST_TEXT: usize = 4096;
const MOST_LAUNCHES: usize = 100_000;

/// One engine of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    pub form: String,
    pub run_id: String,
    /// RFC 3339, with the time zone.
    pub started_at: String,
    /// Whether every planned launch is included.
    pub complete: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Whether the build had uncommitted changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty: Option<bool>,
    /// RFC 3339: the time of the commit, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed_at: Option<String>,
    /// Version of llm-bench.
    pub version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable_sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// The engine's own report of itself and its libraries.
    #[serde(default)]
    pub versions: BTreeMap<String, String>,
    pub identity: Identity,
    /// One value per launch of each metric, in the metric's own unit.
    pub metrics: BTreeMap<String, Vec<f64>>,
}

/// The sessions of a record: its engines with at least one good launch. Values come from the
/// launches; summaries in the file are ignored.
///
/// # Errors
/// A value or a time does not fit into a history.
pub fn sessions(record: &Record) -> Result<Vec<Session>> {
    let mut record = record.clone();
    analysis::summarize(&mut record);
    let (run, build) = (&record.run, &record.build);
    let mut sessions = Vec::new();
    for arm in record.arms.iter().filter(|arm| analysis::ok_launches(arm).next().is_some()) {
        let values =
            |(metric, s): (&Metric, &MetricSummary)| (metric.name().to_string(), s.values.clone());
        let session = Session {
            form: FORM.into(),
            run_id: run.id.clone(),
            started_at: run.started_at.clone(),
            complete: run.complete,
            commit: build.git_commit.clone(),
            dirty: build.git_dirty,
            committed_at: None,
            version: build.version.clone(),
            executable_sha256: build.executable_sha256.clone(),
            kernel: Some(record.host.kernel.clone()).filter(|k| !k.is_empty()),
            versions: arm.version.clone(),
            identity: Identity::of(&record, arm),
            metrics: arm.metrics.iter().map(values).collect(),
        };
        session.check().with_context(|| format!("engine {:?}", arm.label))?;
        sessions.push(session);
    }
    Ok(sessions)
}

impl Session {
    /// Refuses what could not be distinguished, ordered or computed with later.
    pub fn check(&self) -> Result<()> {
        ensure!(self.form == FORM, "form: expected {FORM:?}, found {:?}", shortened(&self.form));
        ensure!(!self.run_id.is_empty(), "run_id: expected a name, found nothing");
        let texts = [
            ("run_id", Some(&self.run_id)),
            ("version", Some(&self.version)),
            ("commit", self.commit.as_ref()),
            ("executable_sha256", self.executable_sha256.as_ref()),
            ("kernel", self.kernel.as_ref()),
        ];
        let identity = &self.identity;
        let of_identity = [
            ("engine", &identity.engine),
            ("label", &identity.label),
            ("model", &identity.model),
            ("model_sha256", &identity.model_sha256),
            ("quant", &identity.quant),
            ("prompt_set", &identity.prompt_set),
            ("prompts_sha256", &identity.prompts_sha256),
            ("cpu_model", &identity.cpu_model),
        ];
        let of_identity = of_identity.map(|(name, text)| (name, Some(text)));
        let of_versions = self.versions.iter().flat_map(|(k, v)| [k, v]);
        let of_versions = of_versions.map(|text| ("versions", Some(text)));
        for (name, text) in texts.into_iter().chain(of_identity).chain(of_versions) {
            let Some(text) = text else { continue };
            ensure!(
                !text.is_empty() || !["commit", "executable_sha256", "kernel"].contains(&name),
                "{name}: expected a text or nothing, found an empty text"
            );
            if text.len() > LONGEST_TEXT || text.contains('\0') {
                bail!(
                    "{name}: expected a text of at most {LONGEST_TEXT} bytes without NUL, found {:?}",
                    shortened(text)
                );
            }
        }
        if let Some(commit) = &self.commit {
            let hex = commit.bytes().all(|b| b.is_ascii_hexdigit());
            ensure!(
                hex && (4..=64).contains(&commit.len()),
                "commit: expected 4 to 64 hexadecimal digits, found {:?}",
                shortened(commit)
            );
        }
        time("started_at", &self.started_at)?;
        self.committed_at.as_deref().map(|t| time("committed_at", t)).transpose()?;
        ensure!(!self.metrics.is_empty(), "metrics: expected at least one, found none");
        for (name, values) in &self.metrics {
            ensure!(
                name.parse::<Metric>().is_ok_and(|m| m.task() != Task::Foreign),
                "metrics: {:?} is not one that this llm-bench knows",
                shortened(name)
            );
            ensure!(
                (1..=MOST_LAUNCHES).contains(&values.len()),
                "{name}: expected 1 to {MOST_LAUNCHES} values, found {}",
                values.len()
            );
            stats::describe(values).with_context(|| name.clone())?;
        }
        Ok(())
    }

    /// The place on the line and the time of the measurement, in milliseconds since 1970. The place
    /// is the commit's time, so that an old commit measured today gets its right place.
    pub(super) fn place(&self) -> Result<(i64, i64)> {
        let measured = time("started_at", &self.started_at)?;
        let committed =
            self.committed_at.as_deref().map(|t| time("committed_at", t)).transpose()?;
        Ok((committed.unwrap_or(measured), measured))
    }
}

fn time(name: &str, text: &str) -> Result<i64> {
    let parsed: Timestamp = text.parse().ok().with_context(|| {
        format!("{name}: expected a time like 2026-03-01T10:15:30Z, found {:?}", shortened(text))
    })?;
    Ok(parsed.as_millisecond())
}

fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
