//! The engine `candle`: on the processor or, for `device: cuda:N`, on a card.

use std::collections::BTreeMap;
use std::fs::File;

use llm_bench_gguf::ModelConfig;
use llm_bench_protocol::{
    EngineError, ErrorKind, Feature, Load, Loaded, MemoryBook, Precision, Score,
};
use llm_bench_units::MonoNs;

use super::card::Card;
use super::device::{Device, Fault};
use super::layout::{Layout, is_float};
use super::model::{BATCH, Model, RING, refusal};
use crate::candle::{Candle, Options};
use crate::encoder::Vectors;
use crate::generate::Decoder;
use crate::model::Weights;
use crate::spans::Spans;
use crate::weights::{Encoding, Gguf, bad_model, not_finite};
use crate::{Engine, check_tokens, internal};

/// `candle` on the device that `load` names.
#[derive(Default)]
pub struct OnAnyDevice {
    cpu: Candle,
    card: Option<OnCard>,
}

impl Engine for OnAnyDevice {
    fn versions(&self) -> Vec<(String, String)> {
        self.cpu.versions()
    }

    fn isa(&self) -> &'static str {
        self.cpu.isa()
    }

    fn load(&mut self, request: &Load) -> Result<Loaded, EngineError> {
        // Two models must not be in memory at once.
        self.card = None;
        let Some(index) = request.device.strip_prefix("cuda:") else {
            return self.cpu.load(request);
        };
        self.cpu = Candle::default();
        if request.batch > 1 {
            let device = &request.device;
            let message = format!(
                "a batch on {device}: the engine candle decodes several sequences on cpu only"
            );
            return Err(EngineError::new(ErrorKind::Unsupported, message));
        }
        let index = index.parse().map_err(|_| internal(format!("device {}", request.device)))?;
        let (card, loaded) = OnCard::load(request, index)?;
        self.card = Some(card);
        Ok(loaded)
    }

    fn features(&self) -> Vec<Feature> {
        self.cpu.features()
    }

    fn decoder(&mut self) -> Result<&mut dyn Decoder, EngineError> {
        match &mut self.card {
            Some(card) => Ok(card),
            None => self.cpu.decoder(),
        }
    }

    fn score(
        &mut self,
        request: &Score,
        row: &mut dyn FnMut(&[f32]) -> std::io::Result<()>,
    ) -> Result<(), EngineError> {
        match &mut self.card {
            Some(card) => card.score(request, row),
            None => self.cpu.score(request, row),
        }
    }

    fn encode(&mut self, texts: &[Vec<u32>], hidden: bool) -> Result<Vectors, EngineError> {
        match &self.card {
            Some(card) => {
                let message = format!("{}: a LLaMA encodes no texts", card.path);
                Err(EngineError::new(ErrorKind::Unsupported, message))
            }
            None => self.cpu.encode(texts, hidden),
        }
    }

    fn memory(&self) -> MemoryBook {
        match &self.card {
            // The host's memory has none of the model.
            Some(card) => MemoryBook {
                device_allocated_bytes: Some(card.model.device.allocated() as u64),
                ..MemoryBook::default()
            },
            None => self.cpu.memory(),
        }
    }
}

/// The engine with its model on a card.
pub struct OnCard<D: Device = Card> {
    path: String,
    options: Options,
    model: Model<D>,
    held: Vec<u32>,
    /// The last row of the latest prompt, unless the latest tokens were a step.
    row: Option<usize>,
    /// The step or head whose choice is the latest.
    current: u32,
    /// A step that was started with the choice of the one before, and its position.
    early: Option<(u32, usize)>,
    logits: Vec<f32>,
    stages: BTreeMap<String, u64>,
}

/// The cycles of a stage, over all layers: its own work, and waiting for the other blocks.
#[derive(Debug, Clone, Copy)]
pub struct StageCycles {
    pub stage: &'static str,
    pub work: u64,
    pub wait: u64,
}

impl OnCard {
    /// Opens card `index` and loads the model onto it.
    pub fn load(request: &Load, index: u32) -> Result<(Self, Loaded), EngineError> {
        let begin = MonoNs::now();
        let missing = |message| EngineError::new(ErrorKind::MissingDependency, message);
        let card = Card::open(index, request.threads as usize).map_err(missing)?;
        let opened = MonoNs::now();
        let (mut engine, mut loaded) = Self::on(card, request, begin)?;
        engine.model.device.drop_staging();
        loaded.stages.insert("driver".into(), opened.0 - begin.0);
        loaded.t_end_ns = MonoNs::now().0;
        Ok((engine, loaded))
    }
}

impl<D: Device> OnCard<D> {
    /// Loads onto a device that is open.
    pub fn on(device: D, request: &Load, begin: MonoNs) -> Result<(Self, Loaded), EngineError> {
        let opened = MonoNs::now();
        let options = Options::read(&request.options)?;
        if options.float32 {
            return Err(EngineError::new(
                ErrorKind::MissingDependency,
                "plain float32 runs on the processor: measure it with --device cpu",
            ));
        }
        if request.threads == 0 || request.n_ctx == 0 {
            return Err(internal("threads and n_ctx must be at least 1"));
        }
        let gguf = Gguf::open(&request.path)?;
        let file =
            File::open(&request.path).map_err(|e| internal(format!("{}: {e}", request.path)))?;
        let ModelConfig::Llama(config) = gguf.model()? else {
            let message =
                format!("an encoder on {}: the engine candle encodes on cpu", request.device);
            return Err(EngineError::new(ErrorKind::Unsupported, message));
        };
        let config = config.into();
        if let Some(why) = refusal(&config) {
            return Err(EngineError::new(ErrorKind::BadModel, format!("{}: {why}", request.path)));
        }
        let parsed = MonoNs::now();
        let weights = Weights::find(&gguf, &config)?;
        drop(gguf); // the header with its vocabulary
        let n_ctx = request.n_ctx as usize;
        let encodings = weights.encodings();
        let stages = weights.bytes_by_stage();
        let mut notes = vec![
            "weights are copied to the card's memory; prompts are multiplied in f16 with sums in f32".to_string(),
        ];
        if n_ctx > config.n_ctx_train {
            notes.push(format!(
                "n_ctx {n_ctx} is beyond the {} positions that the model was trained for",
                config.n_ctx_train
            ));
        }
        let name = device.name();
        let n_vocab = config.n_vocab;
        let of_fault = |fault| engine_error(&request.path, fault);
        let mut model =
            Model::new(device, config, &weights, &file, n_ctx, options.ring.unwrap_or(RING))
                .map_err(of_fault)?;
        model.slow_down(options.slow_down);
        drop(weights); // and with it the mapping: nothing of the file stays in memory
        crate::resident::give_back();
        let mut settings = BTreeMap::from([
            ("kernels".to_string(), "cuda".into()),
            ("card".to_string(), name.into()),
            ("multiprocessors".to_string(), model.device.processors().into()),
            ("prefill_batch".to_string(), BATCH.into()),
            ("device_weight_bytes".to_string(), model.weight_bytes.into()),
            ("device_kv_bytes".to_string(), model.kv_bytes.into()),
            ("device_other_bytes".to_string(), model.other_bytes.into()),
        ]);
        if options.slow_down > 1.0 {
            let factor = options.slow_down;
            settings.insert("slow_down".into(), factor.into());
            notes.push(format!("SLOWED DOWN ON PURPOSE: each token takes {factor} times as long"));
        }
        let names: Vec<&str> = encodings.iter().map(|e| e.name()).collect();
        let mut compute: Vec<&str> = encodings.iter().map(|&e| compute(e)).collect();
        compute.dedup();
        let end = MonoNs::now();
        let loaded = Loaded {
            t_begin_ns: begin.0,
            t_end_ns: end.0,
            stages: BTreeMap::from([
                ("parse".to_string(), parsed.0 - opened.0),
                ("weights".to_string(), end.0 - parsed.0),
            ]),
            precision: Precision {
                weights: names.join("+"),
                compute: compute.join("+"),
                kv: "f16".into(),
            },
            memory: MemoryBook::default(),
            weight_bytes_per_token: None,
            settings,
            notes,
        };
        let stages = stages.map(|(stage, bytes)| (stage.name().to_string(), bytes as u64));
        let engine = Self {
            path: request.path.clone(),
            options,
            model,
            held: Vec::new(),
            row: None,
            current: 0,
            early: None,
            logits: vec![0.0; n_vocab],
            stages: stages.into(),
        };
        Ok((engine, loaded))
    }

    /// One step at `position` by stage, as one block saw it.
    pub fn trace(&mut self, position: usize) -> Result<[StageCycles; 6], EngineError> {
        let names = ["q, k, v", "attention", "output", "gate, up", "down", "head"];
        let mut stages = [(0, 0); 6];
        // The second one is warm.
        for _ in 0..2 {
            stages = self.model.trace(1, position).map_err(self.fault())?;
        }
        self.model.end_trace();
        Ok(std::array::from_fn(|i| StageCycles {
            stage: names[i],
            work: stages[i].0,
            wait: stages[i].1,
        }))
    }

    fn fault(&self) -> impl Fn(Fault) -> EngineError + use<D> {
        let path = self.path.clone();
        move |fault| engine_error(&path, fault)
    }

    /// Hands over the logits of every position from `request.first` on.
    pub fn score(
        &mut self,
        request: &Score,
        row: &mut dyn FnMut(&[f32]) -> std::io::Result<()>,
    ) -> Result<(), EngineError> {
        self.held.clear();
        check_tokens(&request.tokens, 0, self.model.n_ctx(), self.model.config.n_vocab)?;
        let (fault, mut position) = (self.fault(), 0);
        let together = request.decode_from.map_or(usize::MAX, |n| n as usize);
        let (together, one_by_one) = request.tokens.split_at(together.min(request.tokens.len()));
        for batch in together.chunks(BATCH).chain(one_by_one.chunks(1)) {
            let step = position >= together.len();
            match step {
                true => self.model.step(Some(batch[0]), position),
                false => self.model.prompt(batch, position),
            }
            .map_err(&fault)?;
            let skipped = (request.first as usize).saturating_sub(position).min(batch.len());
            for i in skipped..batch.len() {
                if !step {
                    self.model.head(i).map_err(&fault)?;
                }
                let choice = self.model.choice(self.model.started()).map_err(&fault)?;
                if !choice.finite {
                    return Err(self.why_not_finite(&batch[..=i], position));
                }
                self.model.logits(&mut self.logits).map_err(&fault)?;
                row(&self.logits).map_err(|e| internal(format!("cannot hand over logits: {e}")))?;
            }
            position += batch.len();
        }
        Ok(())
    }
}

impl<D: Device> Decoder for OnCard<D> {
    fn shape(&self) -> (usize, usize) {
        (self.model.n_ctx(), self.model.config.n_vocab)
    }

    fn batch(&self) -> usize {
        BATCH
    }

    fn held(&mut self) -> &mut Vec<u32> {
        &mut self.held
    }

    fn forward(&mut self, tokens: &[u32], first: usize) -> Result<(), EngineError> {
        let fault = self.fault();
        let early = self.early.take();
        match (tokens, early) {
            // It runs already: the token is the one that the step before chose.
            ([_], Some((step, position))) if position == first => self.current = step,
            ([token], _) => {
                self.model.step(Some(*token), first).map_err(fault)?;
                self.current = self.model.started();
            }
            _ => {
                self.model.prompt(tokens, first).map_err(fault)?;
                self.row = Some(tokens.len() - 1);
                return Ok(());
            }
        }
        self.row = None;
        Ok(())
    }

    fn head(&mut self) -> Result<(), EngineError> {
        if let Some(row) = self.row {
            let fault = self.fault();
            self.model.head(row).map_err(&fault)?;
            self.current = self.model.started();
            // A prompt is over when its logits are there.
            self.model.choice(self.current).map_err(fault)?;
        }
        Ok(())
    }

    fn logits(&mut self) -> Result<&[f32], EngineError> {
        let fault = self.fault();
        self.model.logits(&mut self.logits).map_err(fault)?;
        Ok(&self.logits)
    }

    fn choice(&mut self) -> Result<Option<(u32, bool)>, EngineError> {
        let choice = self.model.choice(self.current).map_err(self.fault())?;
        Ok(Some((choice.token, choice.finite)))
    }

    fn will_continue(&mut self, position: usize) -> Result<(), EngineError> {
        if position >= self.model.n_ctx() {
            return Ok(());
        }
        self.model.step(None, position).map_err(self.fault())?;
        self.early = Some((self.model.started(), position));
        Ok(())
    }

    fn why_not_finite(&mut self, tokens: &[u32], first: usize) -> EngineError {
        let position = first + tokens.len() - 1;
        // The file is no longer mapped: it is read again.
        let bad = Gguf::open(&self.path)
            .and_then(|gguf| Weights::find(&gguf, &self.model.config))
            .map(|weights| weights.first_not_finite());
        match bad {
            Ok(Some((tensor, index, value))) => not_finite(&self.path, &tensor, index, value),
            Err(error) => error,
            Ok(None) => bad_model(
                &self.path,
                format!(
                    "the logits of position {position} are not finite numbers, and every weight is: the values overflow"
                ),
            ),
        }
    }

    fn spans(&mut self) -> Option<&mut Spans> {
        None
    }

    fn weight_bytes_by_stage(&self) -> BTreeMap<String, u64> {
        self.stages.clone()
    }

    fn slow_down(&self, begin: MonoNs) {
        // A step is slowed down on the card, where the next one may already wait.
        if self.row.is_some() {
            self.options.slow_down(begin);
        }
    }
}

/// The type in which a step computes products.
fn compute(encoding: Encoding) -> &'static str {
    match Layout::of(encoding, 256) {
        Some(layout) if !is_float(layout.format) => "int8",
        _ => "f32",
    }
}

fn engine_error(path: &str, fault: Fault) -> EngineError {
    match fault {
        Fault::OutOfMemory { bytes } => EngineError::new(
            ErrorKind::Oom,
            format!(
                "{path}: the card has no room for {bytes} bytes more; take a smaller quantization or context"
            ),
        ),
        Fault::Other(text) => internal(format!("{path}: {text}")),
    }
}
