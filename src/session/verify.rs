//! Does each engine compute the function that the file describes? Asked by `verify`, and by `run`,
//! where a verdict is remembered until file, engine or machine change.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::bench::Bench;
use super::drive::ArmPlan;
use super::find::Found;
use crate::analysis::divergence::{self, judge, limit_for, worst};
use crate::device::Device;
use crate::engine::provision::{Installed, Provisioner};
use crate::engine::registry::KnownDifference;
use crate::engine::{Deadlines, EngineSpec, Failure, Registry};
use crate::interrupt;
use crate::launch;
use crate::measure::host;
use crate::model::cache::CacheDir;
use crate::plan::grid::each_once;
use crate::progress::{say, say_once};
use crate::record::{FreeRunning, Limit, Record, Verdict, Verification};
use crate::task::score::{Answer, Question, ask};
use crate::task::vectors;
use crate::workload::{fixed_ids, fixed_text};

mod texts;

/// The reference, where PyTorch is installed and the widened weights fit into memory.
const REFERENCE: &str = "pytorch-f32";
/// The reference without it; it is itself compared with the other wherever both run.
const REFERENCE_WITHOUT_PYTHON: &str = "candle-f32";
/// Positions of the check inside `run`, and how many of them one by one: beyond 512, where
/// errors of rope scaling show.
pub const IN_RUN: (u32, u32) = (544, 16);
/// Greedy tokens after the first part of the text.
const FREE_PROMPT: u32 = 32;
const FREE_TOKENS: u32 = 32;

/// An engine that can be started.
pub struct Subject {
    pub engine: EngineSpec,
    pub installed: Installed,
}

/// The known difference that explains why an engine failed, if one does: coarser rounding explains
/// no more than its own size.
pub fn explained<'a>(
    engine: &'a EngineSpec,
    found: &Found,
    v: &Verification,
) -> Option<&'a KnownDifference> {
    let known =
        engine.known_difference(&found.model.quant).filter(|_| v.verdict == Verdict::Fail)?;
    let nmse = v.divergence.as_ref().map(worst);
    let nmse = nmse.or_else(|| v.vectors.as_ref().map(|vectors| vectors.distance.nmse));
    let within = |most: f64| nmse.is_some_and(|nmse| nmse <= most);
    known.nmse.is_none_or(within).then_some(known)
}

/// A folder for logits. They are large (4 bytes × positions × vocabulary, twice), so it lies in
/// the cache beside the models, not in a /tmp that may live in memory; what a killed process
/// left there is removed.
pub(crate) fn scratch(cache: &CacheDir) -> Result<tempfile::TempDir> {
    let home = cache.path().join("scratch");
    std::fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
    for entry in std::fs::read_dir(&home).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|n| n.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    tempfile::Builder::new()
        .prefix(&format!("{}-", std::process::id()))
        .tempdir_in(&home)
        .with_context(|| format!("cannot make a folder in {}", home.display()))
}

/// One comparison: the question to every engine, and where verdicts are kept.
pub struct Check {
    asked: Asked,
    cache: CacheDir,
    /// Model and instruction sets: kernels are chosen by them.
    processor: String,
}

/// Runs an engine on a device; its rows go to the file.
type Ask<'a, A> = &'a dyn Fn(&Subject, Device, &Path) -> Result<A, Failure>;

/// The reference's answer, an engine and its answer, and the files of both.
type Compare<'a, A> = &'a dyn Fn(&A, &Subject, &A, (&Path, &Path)) -> Result<Verification>;

/// What every engine is asked: teacher-forced logits, or vectors of texts.
enum Asked {
    Tokens(Question),
    Texts(vectors::Question),
}

impl Asked {
    fn place(&self) -> (Device, u32) {
        match self {
            Asked::Tokens(q) => (q.device, q.threads),
            Asked::Texts(q) => (q.device, q.threads),
        }
    }

    fn n_ctx(&self) -> u32 {
        match self {
            Asked::Tokens(q) => q.n_ctx(),
            Asked::Texts(q) => q.n_ctx(),
        }
    }

    /// Positions, or texts.
    fn size(&self) -> usize {
        match self {
            Asked::Tokens(q) => q.tokens.len(),
            Asked::Texts(q) => q.texts.len(),
        }
    }
}

impl Check {
    /// `positions` of the fixed text, at most the model's context; the last `decode` one by one. Of
    /// an encoder, texts of many lengths.
    pub fn new(
        found: &Found,
        (device, threads): (Device, u32),
        deadlines: Deadlines,
        (positions, decode): (u32, u32),
    ) -> Result<Self> {
        if found.is_encoder() {
            let asked = Asked::Texts(texts::question(found, (device, threads), deadlines)?);
            return Ok(Self { asked, processor: processor(device), cache: CacheDir::from_env()? });
        }
        let positions = positions.min(found.model.context_length.unwrap_or(u32::MAX));
        let n_vocab = found.model.n_vocab.with_context(|| {
            format!(
                "{}: verify compares logits, and this model has no vocabulary",
                found.model.name
            )
        })?;
        let tokens = match found.tokenizer() {
            Ok(tokenizer) => {
                let text = fixed_text(&tokenizer, positions as usize)?;
                let unknown = text.iter().filter(|id| Some(**id) == tokenizer.unknown()).count();
                // A vocabulary that cannot spell the text says little over one token.
                match 2 * unknown > text.len() {
                    true => fixed_ids(&found.ids(), positions as usize)?,
                    false => text,
                }
            }
            Err(e) => {
                say_once(&format!("note: random ids instead of the fixed text, because {e:#}"));
                fixed_ids(&found.ids(), positions as usize)?
            }
        };
        let free_prompt = FREE_PROMPT.min(positions / 2).max(1);
        Ok(Self {
            processor: processor(device),
            asked: Asked::Tokens(Question {
                model: found.path.clone(),
                n_vocab,
                device,
                threads,
                // Position 0 is always part of the prompt.
                decode_from: positions.saturating_sub(decode).max(1),
                tokens,
                free_prompt,
                free_tokens: FREE_TOKENS.min(positions - free_prompt),
                deadlines,
            }),
            cache: CacheDir::from_env()?,
        })
    }

    /// What names the compile cache of an engine that compiles for this.
    pub fn work(&self, found: &Found) -> String {
        let (_, threads) = self.asked.place();
        format!("{} n_ctx {} threads {threads}", found.model.sha256, self.asked.n_ctx())
    }

    /// The engine to compare with: the one named, or PyTorch's float32 where it is installed and
    /// the machine can hold four bytes for each weight, or candle's.
    pub fn reference(
        &self,
        registry: &Registry,
        found: &Found,
        named: Option<&str>,
    ) -> Result<Subject> {
        let mut looking = Provisioner::new(self.cache.path().into(), false)?;
        looking.device = self.asked.place().0.kind();
        let provide = |name: &str| -> Result<Subject> {
            let engine = registry.find(name)?.clone();
            let installed = looking.provide(&engine, &self.work(found), &|_| {})?;
            Ok(Subject { engine, installed })
        };
        if let Some(name) = named {
            return provide(name).with_context(|| format!("--reference {name}"));
        }
        let need = found.model.n_params * 4 * 5 / 4;
        if host::available_memory().is_none_or(|free| need < free.0)
            && let Ok(subject) = provide(REFERENCE)
        {
            return Ok(subject);
        }
        provide(REFERENCE_WITHOUT_PYTHON)
    }

    /// Runs the reference, then every subject, and keeps the verdicts. An engine that fails to
    /// answer fails the check with its reason.
    pub fn run(
        &self,
        reference: &Subject,
        subjects: &[Subject],
        found: &Found,
    ) -> Result<Vec<Verification>> {
        match &self.asked {
            Asked::Tokens(q) => self.compare_all(
                reference,
                subjects,
                found,
                &|s, device, file| {
                    ask(&s.engine, &s.installed, &Question { device, ..q.clone() }, file)
                },
                &|right, subject, answer, files| {
                    self.compared(q, reference, right, subject, answer, files, found)
                },
            ),
            Asked::Texts(q) => self.compare_all(
                reference,
                subjects,
                found,
                &|s, device, file| {
                    vectors::ask(
                        &s.engine,
                        &s.installed,
                        &vectors::Question { device, ..q.clone() },
                        file,
                    )
                },
                &|right, subject, answer, files| {
                    texts::compared(self, q, reference, right, subject, answer, files, found)
                },
            ),
        }
    }

    /// Asks the reference, then every subject, and compares each answer with the reference's.
    fn compare_all<A>(
        &self,
        reference: &Subject,
        subjects: &[Subject],
        found: &Found,
        ask: Ask<'_, A>,
        compared: Compare<'_, A>,
    ) -> Result<Vec<Verification>> {
        let folder = scratch(&self.cache)?;
        let expected = folder.path().join("reference.f32");
        let what = match self.asked {
            Asked::Tokens(_) => "positions",
            Asked::Texts(_) => "texts",
        };
        let (size, name) = (self.asked.size(), &reference.engine.name);
        say(&format!("verifying {size} {what} against {name}"));
        let (device, _) = self.asked.place();
        // The reference may stay on the processor: the function is the same everywhere.
        let of_reference = match reference.engine.devices.contains(&device.kind()) {
            true => device,
            false => Device::Cpu,
        };
        let right = match ask(reference, of_reference, &expected) {
            Ok(answer) => answer,
            Err(Failure::Interrupted) => bail!("stopped"),
            Err(Failure::Engine(e)) => bail!(
                "the reference {} failed in {}: {}; name another one with --reference",
                reference.engine.name,
                e.phase,
                crate::text::clean(&e.message)
            ),
        };
        let mut verdicts = Vec::new();
        for subject in subjects {
            if interrupt::requested() {
                bail!("stopped");
            }
            if subject.engine.name == reference.engine.name {
                verdicts.push(self.verdict(reference, Verdict::Reference, None));
                continue;
            }
            say(&format!("verifying {}", subject.engine.name));
            let file = folder.path().join("subject.f32");
            let verdict = match ask(subject, device, &file) {
                Ok(answer) => compared(&right, subject, &answer, (&expected, &file))?,
                Err(Failure::Interrupted) => bail!("stopped"),
                Err(Failure::Engine(e)) => Verification {
                    reason: Some(format!(
                        "{} in {}: {}",
                        crate::analysis::kind_name(e.kind),
                        e.phase,
                        crate::text::clean(&e.message)
                    )),
                    ..self.verdict(reference, Verdict::Unanswered, None)
                },
            };
            if verdict.divergence.is_some() || verdict.vectors.is_some() {
                self.keep(subject, reference, found, &verdict);
            }
            verdicts.push(verdict);
        }
        Ok(verdicts)
    }

    fn verdict(&self, reference: &Subject, verdict: Verdict, limit: Option<Limit>) -> Verification {
        Verification {
            reference: reference.engine.name.clone(),
            verdict,
            limit,
            reason: None,
            divergence: None,
            vectors: None,
            free_running: None,
            checked_at: launch::now(),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "two sides of a comparison, and what was asked")]
    fn compared(
        &self,
        q: &Question,
        reference: &Subject,
        right: &Answer,
        subject: &Subject,
        answer: &Answer,
        (expected, logits): (&Path, &Path),
        found: &Found,
    ) -> Result<Verification> {
        let (n_vocab, n) = (q.n_vocab as usize, answer.positions as usize);
        let limit = limit_for(&answer.precision);
        let positions = divergence::compare(open(expected)?, open(logits)?, n_vocab, n)?;
        let agree = right.text.iter().zip(&answer.text).take_while(|(a, b)| a == b).count();
        let free_running = (!right.text.is_empty())
            .then_some(FreeRunning { agree: agree as u32, of: right.text.len() as u32 });
        let mut verification = Verification {
            free_running,
            ..self.verdict(reference, Verdict::Fail, Some(limit.clone()))
        };
        match positions.into_iter().collect::<Result<Vec<_>, _>>() {
            Err(bad) if bad.in_reference => bail!(
                "{}: the reference {} computes a logit that is no finite number at position {}: \
                 nothing can be compared with it. Name another one with --reference, or download \
                 or convert the file again",
                found.path.display(),
                reference.engine.name,
                bad.position
            ),
            Err(bad) => {
                let position = bad.position;
                verification.reason =
                    Some(format!("position {position} has a logit that is no finite number"));
            }
            Ok(positions) => {
                let d = divergence::sum_up(&positions, answer.decoded)
                    .context("the reference's logits are all zero")?;
                let (verdict, reason) = judge(&d, &limit);
                verification.verdict = verdict;
                verification.divergence = Some(d);
                verification.reason = match explained(&subject.engine, found, &verification) {
                    // Rounding has no place where it begins.
                    Some(known) if known.nmse.is_some() => {
                        let worst = verification.divergence.as_ref().map_or(0.0, worst);
                        let Limit { nmse, of } = &limit;
                        let why = &known.why;
                        Some(format!("NMSE {worst:.1e}, limit {nmse:.0e} for {of}. Known: {why}"))
                    }
                    Some(known) => reason.map(|r| format!("{r}. Known: {}", known.why)),
                    None => reason,
                };
            }
        }
        Ok(verification)
    }

    /// What was found of this engine before, on the same file, with the same code, on the same
    /// kind of processor, over at least as many positions.
    pub fn known(
        &self,
        subject: &Subject,
        reference: &Subject,
        found: &Found,
    ) -> Option<Verification> {
        if subject.engine.name == reference.engine.name {
            return None;
        }
        let bytes = std::fs::read(self.path(subject, reference, found)?).ok()?;
        let known: Verification = serde_json::from_slice(&bytes).ok()?;
        let enough = known
            .divergence
            .as_ref()
            .map(|d| d.positions)
            .or_else(|| known.vectors.as_ref().map(|v| v.texts))
            .is_some_and(|n| n as usize >= self.asked.size());
        enough.then_some(known)
    }

    fn keep(&self, subject: &Subject, reference: &Subject, found: &Found, verdict: &Verification) {
        let Some(path) = self.path(subject, reference, found) else { return };
        let kept = serde_json::to_vec_pretty(verdict)
            .map_err(anyhow::Error::from)
            .and_then(|json| crate::record::write_atomically(&path, &json));
        if let Err(e) = kept {
            tracing::debug!("the verdict is not remembered: {e:#}");
        }
    }

    fn path(&self, subject: &Subject, reference: &Subject, found: &Found) -> Option<PathBuf> {
        let identity = |s: &Subject| -> Option<serde_json::Value> {
            let code = s.installed.identity().ok()?;
            Some(serde_json::json!([s.engine.name, s.engine.options, code]))
        };
        let key = serde_json::json!([
            1,
            found.model.sha256,
            identity(subject)?,
            identity(reference)?,
            self.asked.place().1,
            self.asked.place().0,
            self.processor,
        ]);
        let digest = Sha256::digest(key.to_string().as_bytes());
        let name = crate::digest::hex(&digest[..16]);
        Some(self.cache.path().join("verify").join(format!("{name}.json")))
    }

    /// The verdicts for the engines of a run: remembered ones where nothing changed, new ones
    /// otherwise.
    fn for_run(
        &self,
        reference: &Subject,
        subjects: Vec<Subject>,
        found: &Found,
    ) -> Result<Vec<(String, Verification)>> {
        let mut verdicts = Vec::new();
        let mut open = Vec::new();
        for subject in subjects {
            if subject.engine.name == reference.engine.name {
                let verdict = self.verdict(reference, Verdict::Reference, None);
                verdicts.push((subject.engine.name.clone(), verdict));
            } else if let Some(known) = self.known(&subject, reference, found) {
                verdicts.push((subject.engine.name.clone(), known));
            } else {
                open.push(subject);
            }
        }
        if !open.is_empty() {
            let made = self.run(reference, &open, found)?;
            verdicts.extend(open.into_iter().map(|s| s.engine.name).zip(made));
        }
        Ok(verdicts)
    }
}

fn open(path: &Path) -> Result<BufReader<File>> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(BufReader::with_capacity(1 << 20, file))
}

/// What the kernels of an engine on a device are chosen by.
fn processor(device: Device) -> String {
    let host = host::host();
    // The kernels of a card are chosen by its kind; the driver compiles some of them.
    let card = match device {
        Device::Cuda(index) => host.gpu.iter().find(|g| g.index == Some(index)),
        Device::Cpu | Device::Metal => None,
    };
    let card = card.map(|g| format!(" {} {}", g.name, g.driver.as_deref().unwrap_or("")));
    format!("{} {}{}", host.cpu_model, host.isa.join(" "), card.unwrap_or_default())
}

/// Fills in whether the engines of a session compute the same function. An engine that cannot be
/// checked is measured all the same and has no verdict. Once for each file and device.
///
/// # Errors
/// The user stopped it.
pub fn verify_arms(record: &mut Record, bench: &Bench, plans: &[ArmPlan]) -> Result<()> {
    let mut provisioner = Provisioner::new(CacheDir::from_env()?.path().into(), false)?;
    let seats = || bench.seats.iter().zip(plans).enumerate();
    let groups = each_once(bench.seats.iter().map(|seat| (seat.file, seat.device)));
    for (file, device) in groups {
        let found = &bench.files[file];
        let at = (device, bench.threads());
        provisioner.device = device.kind();
        let of_group: Vec<(usize, &ArmPlan)> = seats()
            .filter(|(_, (seat, _))| seat.file == file && seat.device == device)
            .map(|(arm, (_, plan))| (arm, plan))
            .collect();
        let verdicts = || -> Result<Vec<(String, Verification)>> {
            let check = Check::new(found, at, bench.deadlines(), IN_RUN)?;
            let mut subjects: Vec<Subject> = Vec::new();
            for (_, plan) in of_group.iter().filter(|(_, plan)| plan.installed.is_ok()) {
                if subjects.iter().any(|s| s.engine.name == plan.engine.name) {
                    continue;
                }
                let installed = provisioner.provide(&plan.engine, &check.work(found), &say)?;
                subjects.push(Subject { engine: plan.engine.clone(), installed });
            }
            let reference = check.reference(&Registry::load()?, found, None)?;
            check.for_run(&reference, subjects, found)
        };
        match verdicts() {
            Err(e) if interrupt::requested() => return Err(e),
            Err(e) => say(&format!("warning: the engines are not verified: {e:#}")),
            Ok(verdicts) => {
                for (arm, plan) in &of_group {
                    let verdict = verdicts.iter().find(|(name, _)| *name == plan.engine.name);
                    record.arms[*arm].verification = verdict.map(|(_, v)| v.clone());
                }
            }
        }
    }
    Ok(())
}
