//! Prepares a session: finds the files, makes the prompts, spans the grid, makes every engine
//! startable. Nothing is measured here.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::classify;
use super::drive::{ArmPlan, Unavailable};
use super::find::{Found, find_model};
use super::room::{self, Room};
use crate::device::Device;
use crate::engine::provision::Provisioner;
use crate::engine::registry::check_device;
use crate::engine::{Deadlines, EngineSpec};
use crate::interrupt;
use crate::launch::{self, Settings};
use crate::measure::host;
use crate::model::cache::CacheDir;
use crate::model::quant::Quant;
use crate::plan::grid::{Cell, Named, each_once, labels};
use crate::plan::{self, Planned, Spec, order};
use crate::progress::say;
use crate::record::{self, Arm, FailureKind, Host, Model};
use crate::sensors::{bandwidth, gpu};
use crate::task::Task;
use crate::task::encode::Encoding;
use crate::task::generate::Generation;
use crate::task::requests::Requests;
use crate::task::serve::Loading;
use crate::task::sustain::Sustain;
use crate::task::tokenize::Tokenizing;
use crate::workload::{LabelledSet, PromptSet, Shape, Workload};

/// Positions of a model that is loaded and runs nothing.
const IDLE_N_CTX: u32 = 256;

/// An engine to be measured, and the program that holds it.
#[derive(Debug, Clone)]
pub struct Side {
    pub engine: EngineSpec,
    /// Absent: the point's own.
    pub label: Option<String>,
    /// The llm-bench whose worker is measured; absent: this one.
    pub program: Option<PathBuf>,
}

impl From<EngineSpec> for Side {
    fn from(engine: EngineSpec) -> Self {
        Self { engine, label: None, program: None }
    }
}

/// One arm of the session, before anything is installed.
#[derive(Debug, Clone)]
pub struct Seat {
    pub label: String,
    pub point: record::Point,
    pub side: Side,
    /// Index into the files.
    pub file: usize,
    pub device: Device,
    pub threads: u32,
    /// Sequences that are generated together.
    pub batch: u32,
    /// Positions that the engine is asked to hold, for each sequence.
    pub n_ctx: u32,
}

/// The files, the prompts and the grid of a session.
pub struct Bench {
    /// As asked, with every default filled in.
    pub spec: Spec,
    pub files: Vec<Found>,
    pub workload: Workload,
    /// Ordinary ids of the vocabulary, for prompts that a load varies; else empty.
    pub normal: Vec<u32>,
    /// The labelled texts of the workload, if they are a file's.
    pub labelled: Option<LabelledSet>,
    pub seats: Vec<Seat>,
    /// Points of the grid that this machine cannot hold.
    pub unfit: Vec<Unfit>,
}

/// A point that stays in the record with the reason why it was not measured.
#[derive(Debug, Clone)]
pub struct Unfit {
    pub label: String,
    pub point: record::Point,
    pub why: String,
}

impl Bench {
    /// Finds the files and makes the prompts.
    ///
    /// # Errors
    /// A file cannot be had or read, a device or a shape cannot be measured.
    pub fn new(mut spec: Spec, sides: &[Side]) -> Result<Self> {
        spec.check()?;
        spec.engine = sides.iter().map(|side| side.engine.name.clone()).collect();
        let engines: Vec<EngineSpec> = sides.iter().map(|side| side.engine.clone()).collect();
        spec.target.device.iter().try_for_each(|device| check_device(&engines, *device))?;
        spec.target.device.iter().try_for_each(|device| gpu::check(*device))?;
        let cells =
            Cell::grid(&spec.target, &spec.workload.batch, sides.len(), host::available_threads());
        spec.target.threads = each_once(cells.iter().map(|cell| cell.threads));
        let (files, keys) = found(&spec, &cells)?;
        let data = spec.encoding.as_ref().and_then(|encoding| encoding.data.as_ref());
        let labelled = data.map(|path| LabelledSet::find(path)).transpose()?;
        let workload = workload(&spec, &files[0], labelled.as_ref())?;
        for file in &files[1..] {
            let other = self::workload(&spec, file, labelled.as_ref())?;
            if other.sha256 != workload.sha256 {
                bail!(
                    "{} and {} turn the prompts into other tokens: their figures do not compare; \
                     measure them in two runs",
                    files[0].path.display(),
                    file.path.display()
                );
            }
        }
        let normal = spec.serving.as_ref().map(|_| files[0].ids().normal).unwrap_or_default();
        let (mut seats, unfit) = seats(&cells, &keys, sides, &files, &workload);
        if spec.is_tokenizing() {
            // The model beside the tokenizer runs nothing.
            seats.iter_mut().for_each(|seat| seat.n_ctx = seat.n_ctx.min(IDLE_N_CTX));
        }
        Ok(Self { spec, files, workload, normal, labelled, seats, unfit })
    }

    pub fn file_of(&self, seat: &Seat) -> &Found {
        &self.files[seat.file]
    }

    /// The most threads that an engine gets.
    pub fn threads(&self) -> u32 {
        self.seats.iter().map(|seat| seat.threads).max().unwrap_or(1)
    }

    /// Whether arithmetic may be what limits: several sequences are generated together somewhere,
    /// or texts are encoded.
    pub fn needs_arithmetic(&self) -> bool {
        let several = self.spec.encoding.is_some() || self.seats.iter().any(|seat| seat.batch > 1);
        several && !self.spec.is_tokenizing()
    }

    /// The cards that are used, each once.
    pub fn cards(&self) -> Vec<u32> {
        let card = |seat: &Seat| match seat.device {
            Device::Cuda(index) => Some(index),
            Device::Cpu | Device::Metal => None,
        };
        each_once(self.seats.iter().filter_map(card))
    }

    /// The order of launches.
    pub fn order(&self, launches: u32) -> Vec<Planned> {
        order(self.seats.len(), launches, self.spec.workload.seed)
    }

    /// Makes every engine startable; one that cannot be is an arm with a reason.
    ///
    /// # Errors
    /// The user stopped it.
    pub fn provide(&self, may_install: bool) -> Result<Vec<ArmPlan>> {
        let plans = self.plans(may_install)?;
        let refused = plans.iter().filter_map(|plan| {
            let why = plan.installed.as_ref().err()?;
            Some(format!("{}: {}", plan.engine.name, why.message))
        });
        each_once(refused).iter().for_each(|line| say(line));
        match interrupt::requested() {
            true => bail!("stopped before anything was measured"),
            false => Ok(plans),
        }
    }

    /// What can be started at once. Says what installing the rest takes, where it may be.
    pub fn ready(&self, may_install: bool) -> Result<Vec<ArmPlan>> {
        let plans = self.plans(false)?;
        let missing = plans.iter().filter(|plan| {
            let why = plan.installed.as_ref().err();
            may_install && why.is_some_and(|why| why.kind == FailureKind::MissingDependency)
        });
        let lines = missing.filter_map(|plan| {
            let (family, cost) = (&plan.engine.family, plan.engine.install_cost()?);
            Some(format!("{family} will be installed first: {cost}; --no-install leaves it out"))
        });
        each_once(lines).iter().for_each(|line| say(line));
        Ok(plans)
    }

    fn plans(&self, may_install: bool) -> Result<Vec<ArmPlan>> {
        let cache: PathBuf = CacheDir::from_env()?.path().into();
        let plan = |seat: &Seat| {
            if interrupt::requested() {
                bail!("stopped before anything was measured");
            }
            let mut provisioner = Provisioner::new(cache.clone(), may_install)?;
            provisioner.device = seat.device.kind();
            provisioner.tokenizers = self.spec.is_tokenizing();
            if let Some(program) = &seat.side.program {
                provisioner.program.clone_from(program);
            }
            let installed = self.installed(seat, &provisioner);
            Ok(ArmPlan { engine: seat.side.engine.clone(), installed })
        };
        self.seats.iter().map(plan).collect()
    }

    fn installed(
        &self,
        seat: &Seat,
        provisioner: &Provisioner,
    ) -> Result<crate::engine::provision::Installed, Unavailable> {
        let engine = &seat.side.engine;
        let model = &self.file_of(seat).model;
        if let Some((kind, message)) = engine.refusal(&model.quant, seat.device) {
            return Err(Unavailable { kind, message });
        }
        if let Some(message) = room::too_large_in(engine, model, seat.device) {
            return Err(Unavailable { kind: FailureKind::DoesNotFit, message });
        }
        // Compiled code is for these shapes and this many threads.
        let mut work = format!("{} n_ctx {} threads {}", model.sha256, seat.n_ctx, seat.threads);
        if seat.batch > 1 {
            work += &format!(" batch {}", seat.batch);
        }
        provisioner.provide(engine, &work, &say).map_err(|e| Unavailable {
            kind: FailureKind::MissingDependency,
            message: format!("{e:#}"),
        })
    }

    /// Empty arms of a new record.
    pub fn arms(&self) -> Vec<Arm> {
        let arm = |seat: &Seat| Arm {
            engine: seat.side.engine.name.clone(),
            label: seat.label.clone(),
            point: seat.point.clone(),
            ..Arm::default()
        };
        let unfit = |(i, unfit): (usize, &Unfit)| {
            // Behind every place in the order.
            let at = (0, self.seats.len() as u32 * self.spec.launches + i as u32);
            Arm {
                engine: unfit.point.engine.clone(),
                label: unfit.label.clone(),
                point: unfit.point.clone(),
                launches: vec![launch::failed(
                    FailureKind::DoesNotFit,
                    "plan",
                    unfit.why.clone(),
                    at,
                )],
                ..Arm::default()
            }
        };
        let unfit = self.unfit.iter().enumerate().map(unfit);
        self.seats.iter().map(arm).chain(unfit).collect()
    }

    /// What each arm's launches share. `around`: whether to read the memory's around each
    /// launch, where a model does not stay in the caches.
    pub fn settings(&self, host: &Host, around: bool) -> Vec<Settings> {
        /// Weights of fewer bytes stay in the caches of many machines: the rate of the memory
        /// around a launch says nothing of it then, and the session's own does.
        const IN_MEMORY: u64 = 64 << 20;
        let in_memory = |m: &Model| m.weight_bytes_per_token.is_some_and(|n| n >= IN_MEMORY);
        let work = &self.spec.workload;
        let settings = |seat: &Seat| {
            let file = self.file_of(seat);
            Settings {
                model_path: file.path.clone(),
                stamp: Some(file.stamp),
                device: seat.device,
                threads: seat.threads,
                batch: match &self.spec.serving {
                    // A server answers all of its users at once.
                    Some(serving) => serving.streams(),
                    None if self.spec.is_tokenizing() => 1,
                    None => seat.batch,
                },
                n_ctx: seat.n_ctx,
                page_cache: work.page_cache,
                deadlines: self.deadlines(),
                idle_window: Duration::from_millis(200),
                read_bandwidth: around && seat.device == Device::Cpu && in_memory(&file.model),
                known_bandwidth: bandwidth::of_session(host, seat.device),
                macs: match seat.device {
                    Device::Cpu => host.measured_macs_per_s.clone(),
                    Device::Cuda(_) | Device::Metal => Default::default(),
                },
            }
        };
        self.seats.iter().map(settings).collect()
    }

    /// What each arm's launches are asked.
    pub fn tasks(&self) -> Vec<Box<dyn Task<Answer = ()> + '_>> {
        let task = |seat: &Seat| -> Box<dyn Task<Answer = ()> + '_> {
            if let Some(plan::Encoding { seconds, tokenize, .. }) = self.spec.encoding {
                let (workload, plan) = (&self.workload, &self.spec.workload);
                let requests = Requests { workload, plan, seconds, batch: seat.batch };
                return match tokenize {
                    true => Box::new(Tokenizing { requests }),
                    false => Box::new(Encoding { model: &self.file_of(seat).model, requests }),
                };
            }
            if let Some(serving) = &self.spec.serving {
                return Box::new(Loading {
                    model: &self.file_of(seat).model,
                    workload: &self.workload,
                    serving,
                    normal: &self.normal,
                    seed: self.spec.workload.seed,
                });
            }
            let generation = Generation {
                model: &self.file_of(seat).model,
                workload: &self.workload,
                plan: &self.spec.workload,
                batch: seat.batch,
                profile: self.spec.profile,
            };
            match self.spec.sustained_minutes {
                Some(minutes) => Box::new(Sustain { generation, minutes, device: seat.device }),
                None => Box::new(generation),
            }
        };
        self.seats.iter().map(task).collect()
    }

    pub fn deadlines(&self) -> Deadlines {
        let all = |s: f64| Deadlines::all(Duration::from_secs_f64(s));
        self.spec.timeout.map_or_else(Deadlines::default, all)
    }
}

/// A file of the grid: the model as typed, its quantization, and its index into the files or the
/// reason why the machine cannot hold it.
struct Key {
    model: String,
    quant: Option<Quant>,
    file: Result<usize, String>,
}

/// The files of the grid. One that the machine cannot hold is not made and not fetched.
fn found(spec: &Spec, cells: &[Cell]) -> Result<(Vec<Found>, Vec<Key>)> {
    let wanted = each_once(cells.iter().map(|cell| (cell.model.clone(), cell.quant)));
    let weights = spec.target.weights;
    let most = |list: &[u32], n: u32| u64::from(list.iter().copied().max().unwrap_or(n));
    let work = &spec.workload;
    let positions = most(&work.prompt_len, 512) + most(&work.gen_len, 64) + most(&work.depth, 0);
    let positions = match spec.is_tokenizing() {
        true => u64::from(IDLE_N_CTX),
        false => positions * most(&work.batch, 1),
    };
    let mut room = Room::of_machine()?;
    room.of_f16 = spec.target.of_f16;
    // A card has its own memory, and engines say what it lacks.
    let of_host = spec.target.device.iter().all(|device| *device == Device::Cpu);
    let refusals: Vec<Option<String>> = wanted
        .iter()
        .map(|(model, quant)| room.refusal((model, *quant, weights), positions).filter(|_| of_host))
        .collect();
    if let (true, Some(why)) =
        (refusals.iter().all(Option::is_some), refusals.iter().flatten().next())
    {
        bail!("nothing fits into this machine: {why}");
    }
    room.announce();
    let (mut files, mut keys) = (Vec::new(), Vec::new());
    for ((model, quant), refusal) in wanted.into_iter().zip(refusals) {
        let file = match refusal {
            Some(why) => {
                say(&format!("left out: {why}"));
                Err(why)
            }
            None => {
                files.push(find_model(&model, quant, weights, spec.target.random())?);
                Ok(files.len() - 1)
            }
        };
        keys.push(Key { model, quant, file });
    }
    Ok((files, keys))
}

/// The arms that can be measured, and those that cannot.
fn seats(
    cells: &[Cell],
    keys: &[Key],
    sides: &[Side],
    files: &[Found],
    workload: &Workload,
) -> (Vec<Seat>, Vec<Unfit>) {
    let key_of = |cell: &Cell| {
        let is_its = |key: &&Key| key.model == cell.model && key.quant == cell.quant;
        keys.iter().find(is_its).expect("each cell has its key")
    };
    // What is known of a file that is not there: what was typed.
    let names = |cell: &Cell| match &key_of(cell).file {
        Ok(file) => (files[*file].model.name.clone(), files[*file].model.quant.clone()),
        Err(_) => (cell.model.clone(), cell.quant.map(|q| q.to_string()).unwrap_or_default()),
    };
    let names: Vec<(String, String)> = cells.iter().map(names).collect();
    let named = |(cell, (model, quant))| -> Named<'_> {
        let cell: &Cell = cell;
        Named { cell, engine: &sides[cell.engine].engine.name, model, quant }
    };
    let named: Vec<Named<'_>> =
        cells.iter().zip(names.iter().map(|(m, q)| (m.as_str(), q.as_str()))).map(named).collect();
    let (mut seats, mut unfit) = (Vec::new(), Vec::new());
    for (Named { cell, engine, model, quant }, label) in named.iter().zip(labels(&named)) {
        let side = sides[cell.engine].clone();
        let label = side.label.clone().unwrap_or(label);
        let mut point = record::Point {
            model: model.to_string(),
            quant: quant.to_string(),
            engine: engine.to_string(),
            device: Some(cell.device),
            threads: Some(cell.threads),
            batch: Some(cell.batch).filter(|n| *n > 1),
            options: side.engine.set.clone(),
            model_file: None,
        };
        match &key_of(cell).file {
            Err(why) => unfit.push(Unfit { label, point, why: why.clone() }),
            Ok(file) => {
                let file = *file;
                let model = &files[file].model;
                let n_ctx = workload.n_ctx().next_multiple_of(256).min(longest(model));
                point.model_file = (files.len() > 1).then(|| model.clone());
                let Cell { device, threads, batch, .. } = **cell;
                seats.push(Seat { label, point, side, file, device, threads, batch, n_ctx });
            }
        }
    }
    (seats, unfit)
}

fn workload(spec: &Spec, found: &Found, labelled: Option<&LabelledSet>) -> Result<Workload> {
    let work = &spec.workload;
    if spec.is_tokenizing() {
        let most = work.batch.iter().copied().max().unwrap_or(1);
        return Ok(Workload::of_own_text(&work.prompt_len, most, &found.tokenizer()?)?);
    }
    found.check_kind(spec.encoding.is_some())?;
    if spec.encoding.is_some() {
        return texts(work, labelled, found);
    }
    let shapes = [&work.prompt_len, &work.gen_len, &work.depth];
    let mut workload = if shapes.iter().all(|list| list.is_empty()) {
        let default = if found.model.name == "tiny" { "tiny" } else { "quick" };
        let set = PromptSet::find(work.prompts.as_deref().unwrap_or(default))?;
        let tokenizer = found
            .tokenizer()
            .context("prompts as text need the model's tokenizer; random ids (-p, -n) do not")?;
        Workload::from_set(&set, &tokenizer, None)?
    } else {
        let or = |list: &[u32], default: u32| match list.is_empty() {
            true => vec![default],
            false => list.to_vec(),
        };
        let [p, n, d] = [(shapes[0], 512), (shapes[1], 64), (shapes[2], 0)].map(|(l, x)| or(l, x));
        let shapes = Shape::grid(&p, &n, &d);
        Workload::from_shapes(&shapes, &found.ids(), longest(&found.model), work.seed)?
    };
    workload.check_context(longest(&found.model))?;
    let most = work.batch.iter().copied().max().unwrap_or(1);
    if most > 1 {
        workload.accompany(most - 1, &found.ids().normal)?;
    }
    if let Some(serving) = &spec.serving {
        // Another load is other work on the same prompts.
        workload.vary(&serde_json::to_string(serving)?);
    }
    Ok(workload)
}

/// The texts of an encoder: labelled ones, cut to what the model takes, or random ones.
fn texts(work: &plan::Workload, labelled: Option<&LabelledSet>, found: &Found) -> Result<Workload> {
    let longest = longest(&found.model);
    let Some(labelled) = labelled else {
        let most = work.batch.iter().copied().max().unwrap_or(1);
        let ids = found.ids();
        return Ok(Workload::of_lengths(&work.prompt_len, most, &ids, longest, work.seed)?);
    };
    labelled.expected(&classify::labels(found)?)?;
    let (tokenizer, end) = (found.tokenizer()?, found.ids().eos);
    let texts = labelled.texts.iter().map(|text| {
        let mut ids = tokenizer.encode(&text.text).map_err(|e| anyhow!("{:?}: {e}", text.text))?;
        if ids.len() > longest as usize {
            ids.truncate(longest as usize - end.iter().count());
            ids.extend(end);
        }
        Ok(ids)
    });
    Ok(Workload::of_texts(&labelled.name, texts.collect::<Result<_>>()?))
}

/// Positions that the model has; any number, where it has no limit of its own.
fn longest(model: &Model) -> u32 {
    model.context_length.unwrap_or(u32::MAX)
}
