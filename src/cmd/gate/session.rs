//! Measuring for a gate: one session of the arms that it compares, kept after every launch as an
//! ordinary result file, until enough is known.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::cli::RunArgs;
use crate::cmd::models::{DEFAULT_SEED, Found, find_model};
use crate::cmd::progress::{SessionProgress, say};
use crate::cmd::resume::{Claim, Interrupted};
use crate::cmd::run;
use crate::engine::EngineSpec;
use crate::engine::provision::Provisioner;
use crate::measure::gate::{self, Ended, Limits};
use crate::measure::launch::Settings;
use crate::measure::plan::plan;
use crate::measure::session::{self, ArmPlan};
use crate::measure::{bandwidth, host, page_cache};
use crate::model::quant::Quant;
use crate::record::{Record, SCHEMA};
use crate::units::BytesPerSecond;
use crate::workload::Workload;
use crate::{analysis, interrupt};

/// How long a gate may measure. Launches are of each side, and even.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Length {
    pub least: u32,
    pub most: u32,
    pub minutes: f64,
    /// One look after `least`, one after `most`, in place of the precision rule.
    pub extension: bool,
}

impl Length {
    /// Of launches that are there already.
    pub const STORED: Length = Length { least: 2, most: 2, minutes: 0.0, extension: false };

    fn limits(self) -> Limits {
        let time = Duration::from_secs_f64(self.minutes * 60.0);
        Limits { least: self.least, most: self.most, time }
    }

    /// Why measuring ended, for readers.
    pub fn told(self, ended: Ended) -> String {
        match ended {
            Ended::Enough if self.extension => "decided at the first look".into(),
            Ended::Enough => "every deciding metric is known to half its margin".into(),
            Ended::Launches if self.extension => "the second look of two".into(),
            Ended::Launches => format!("{} launches of each side, the most allowed", self.most),
            Ended::Time => format!("{} minutes, the most allowed", self.minutes),
            Ended::Failed => "a side failed in a way that will not pass".into(),
            Ended::Interrupted => "interrupted".into(),
        }
    }
}

/// The model, the prompts and the settings that all sides share.
pub struct Bench {
    pub found: Found,
    pub args: RunArgs,
    pub threads: u32,
    workload: Workload,
    quant: Option<Quant>,
    n_ctx: u32,
}

/// A session that is over.
pub struct Measured {
    pub record: Record,
    pub path: PathBuf,
    pub ended: Ended,
}

/// What tells one session of a bench from another.
pub struct Session<'a> {
    pub arms: &'a [ArmPlan],
    /// Of the arms.
    pub labels: &'a [&'a str],
    pub length: Length,
    pub seed: u64,
    /// What `run.config` says of the gate.
    pub config: serde_json::Value,
    /// The result file without its extension; absent: a new one in the folder of the settings.
    pub base: Option<PathBuf>,
    pub earlier: Option<Interrupted>,
}

impl Bench {
    /// Finds the model and makes the prompts.
    pub fn new(args: RunArgs, quant: Option<Quant>) -> Result<Self> {
        run::check(&args)?;
        let found = find_model(&args.model, quant, args.weights, DEFAULT_SEED)?;
        let workload = run::workload(&args, &found)?;
        let threads = args.threads.unwrap_or_else(host::available_threads);
        let n_ctx = workload.n_ctx().next_multiple_of(256).min(found.model.context_length);
        Ok(Self { found, args, threads, workload, quant, n_ctx })
    }

    /// Makes engines startable with one provisioner.
    pub fn provide(&self, engines: &[EngineSpec], provisioner: &Provisioner) -> Vec<ArmPlan> {
        // Compiled code is for these shapes and this many threads.
        let (sha256, n_ctx, threads) = (&self.found.model.sha256, self.n_ctx, self.threads);
        let work = format!("{sha256} n_ctx {n_ctx} threads {threads}");
        run::provide(engines, &self.found.model, self.args.device, provisioner, &work)
    }

    /// A record of this machine and these settings, without arms.
    pub fn record(&self, config: serde_json::Value) -> Record {
        let mut run = run::identity(&self.args, self.quant, self.threads);
        if !config.is_null() {
            run.config[super::CONFIG] = config;
        }
        Record {
            schema: SCHEMA.into(),
            run,
            host: host::host(),
            build: run::build(),
            model: self.found.model.clone(),
            workload: self.workload.record(),
            arms: Vec::new(),
            comparisons: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Measures. `enough` is asked after each block with the record and the launches of each side.
    ///
    /// # Errors
    /// The record cannot be written, or the user stopped the session.
    pub fn session(
        &self,
        wanted: Session<'_>,
        enough: &mut dyn FnMut(&Record, u32) -> bool,
    ) -> Result<Measured> {
        let Session { arms, labels, length, seed, config, base, earlier } = wanted;
        let order = plan(arms.len(), length.most, seed);
        let (mut record, base) = match earlier {
            Some(earlier) => {
                earlier.check(&self.found.model, &self.workload.record(), &order)?;
                earlier.reopen(arms, self.threads)?
            }
            None => {
                let mut record = self.record(config);
                record.run.seed = seed;
                let model = &self.found.model;
                record.arms = session::arms(arms, model, self.args.device, self.threads);
                for (arm, label) in record.arms.iter_mut().zip(labels) {
                    arm.label = label.to_string();
                }
                let bandwidth = bandwidth::measure(self.threads, run::BANDWIDTH_BUFFER)?;
                let BytesPerSecond(rate) = bandwidth.rate;
                record.host.measured_read_bandwidth_bytes_per_s = Some(rate);
                record.host.bandwidth_method = Some(bandwidth.method);
                let base = match base {
                    Some(base) => base,
                    None => run::output_base(&self.args.output_dir, "gate")?,
                };
                (record, base)
            }
        };
        let settings = Settings {
            // No deciding metric is a share of the bandwidth; the time is better spent on launches.
            read_bandwidth: false,
            ..run::settings(&self.args, &self.found.path, &record, self.n_ctx, self.threads)
        };
        run::announce(&record, &self.workload, self.threads);
        page_cache::bring(&settings.model_path, self.args.page_cache)?;

        let json = base.with_extension("json");
        record.write(&json)?; // a folder that cannot be written is told before the first launch
        let mut claim = Claim::take(&json).ok();
        let mut keep_error = None;
        let mut keep = |record: &mut Record| {
            analysis::summarize(record);
            match record.write(&json) {
                Ok(()) => claim = Claim::take(&json).ok(),
                Err(e) => drop(keep_error.get_or_insert(e)),
            }
        };
        let mut observer = SessionProgress::new(order.len(), &mut keep);
        let delay = Duration::from_secs_f64(self.args.delay);
        let ended = gate::run(
            &mut record,
            arms,
            &order,
            &self.workload,
            &settings,
            delay,
            length.limits(),
            &mut observer,
            enough,
        );
        observer.close();
        record.run.complete = ended != Ended::Interrupted;
        analysis::summarize(&mut record);
        record.write(&json)?;
        if let Some(e) = keep_error {
            say(&format!("warning: the record could not be kept after each launch: {e:#}"));
        }
        if ended == Ended::Interrupted {
            let json = json.display();
            bail!(
                "stopped; the launches are kept in {json}: {}",
                go_on(&record, &json.to_string())
            );
        }
        Ok(Measured { record, path: json, ended })
    }
}

/// How an interrupted session is gone on with.
fn go_on(record: &Record, json: &str) -> String {
    match record.run.config.get(super::CONFIG) {
        None => format!("go on with `llm-bench run --resume {json}`, then give it as --candidate"),
        Some(_) => format!("go on with `llm-bench gate --resume {json}`"),
    }
}

/// Reads a program once, so that its first launch does not read it from the disk.
pub fn warm(program: &Path) {
    let _ = std::fs::read(program).map(|bytes| bytes.len());
}

/// Whether the user wants to stop, as an error.
pub fn go_on_or_stop() -> Result<()> {
    match interrupt::requested() {
        true => bail!("stopped before anything was measured"),
        false => Ok(()),
    }
}
