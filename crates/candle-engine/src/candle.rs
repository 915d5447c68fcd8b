//! The engine `candle`: our own LLaMA and our own encoder on candle-core's GGUF reader and block
//! types. It uses its own kernels and one thread pool; a LLaMA's weights stay in the mapped file.

use std::collections::BTreeMap;

use llm_bench_gguf::{BertConfig, ModelConfig};
use llm_bench_protocol::{
    EngineError, ErrorKind, Feature, Load, Loaded, MemoryBook, Precision, Score,
};
use llm_bench_units::MonoNs;

use crate::batch::{Choice, Together};
use crate::config::Config;
use crate::encoder::{self, Encoder, Vectors};
use crate::generate::Decoder;
use crate::kernels::Isa;
use crate::linear::Arithmetic;
use crate::math::all_finite;
use crate::model::{BATCH, Model, Part, Weights};
use crate::spans::Spans;
use crate::weights::{Gguf, bad_model, not_finite};
use crate::{Engine, check_tokens, internal};

/// Rows of logits that `score` computes at once.
const SCORE_ROWS: usize = 12;

/// The engine; empty until `load`.
#[derive(Default)]
pub struct Candle {
    model: Option<Model>,
    /// In place of `model`, if the file holds an encoder.
    encoder: Option<Encoder>,
    path: String,
    options: Options,
    /// The tokens in the cache; empty if no generation may build on them.
    held: Vec<u32>,
    /// The row of the last token in the latest `Decoder::forward`.
    last_row: usize,
}

/// The switches of `load.options`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// `slow_down`: makes each token and each prefill take this many times as long, spent busy. It
    /// checks whether the instrument finds a slow-down of known size.
    pub slow_down: f64,
    /// `kernels`: the kernels to use instead of the best ones that the CPU supports.
    kernels: Isa,
    /// `float32`: widens the weights to float32 and rounds nothing. A slow reference.
    pub float32: bool,
    /// `jitter`: a seed; changes each layer's result by the size of its rounding. The noise floor of
    /// comparisons between models.
    pub jitter: Option<u64>,
    /// `ring`: the most bytes of weights that a warp reads ahead, on a card.
    pub ring: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self { slow_down: 1.0, kernels: Isa::detect(), float32: false, jitter: None, ring: None }
    }
}

impl Options {
    pub fn read(map: &serde_json::Map<String, serde_json::Value>) -> Result<Self, EngineError> {
        let mut options = Self::default();
        for (key, value) in map {
            if let ("kernels", Some(name)) = (key.as_str(), value.as_str()) {
                options.kernels = Isa::named(name).map_err(internal)?;
                continue;
            }
            match (key.as_str(), value.as_f64(), value.as_bool()) {
                ("slow_down", Some(x), _) if (1.0..=100.0).contains(&x) => options.slow_down = x,
                ("float32", _, Some(on)) => options.float32 = on,
                ("jitter", Some(seed), _) if (0.0..=1e9).contains(&seed) => {
                    options.jitter = Some(seed as u64);
                }
                ("ring", Some(bytes), _) if (0.0..=1e6).contains(&bytes) => {
                    options.ring = Some(bytes as usize);
                }
                _ => {
                    return Err(internal(format!(
                        "option {key} = {value}: the engine candle knows slow_down (1 to 100), \
                         float32 (true or false), jitter (a seed), ring (bytes, on a card) and kernels \
                         (a name such as \"portable\")"
                    )));
                }
            }
        }
        Ok(options)
    }

    fn arithmetic(&self) -> Arithmetic {
        match self.float32 {
            true => Arithmetic::plain_f32(self.kernels),
            false => Arithmetic::new(self.kernels),
        }
    }

    /// Names the slow-down of each `what` among settings and notes, if there is one.
    fn disclose(
        &self,
        what: &str,
        settings: &mut BTreeMap<String, serde_json::Value>,
        notes: &mut Vec<String>,
    ) {
        let factor = self.slow_down;
        if factor > 1.0 {
            settings.insert("slow_down".into(), factor.into());
            notes.push(format!("SLOWED DOWN ON PURPOSE: each {what} takes {factor} times as long"));
        }
    }

    /// Keeps the processor busy until the step has taken `slow_down` times as long. A sleep would
    /// be as coarse as the timer, and would let the clock and the caches rest.
    pub fn slow_down(&self, begin: MonoNs) {
        let factor = self.slow_down;
        if factor > 1.0 {
            let whole = MonoNs::now().since(begin).0 * factor;
            while MonoNs::now().since(begin).0 < whole {
                std::hint::spin_loop();
            }
        }
    }
}

/// Does everything that `load` does with a file before it allocates and computes, on bytes in
/// memory. No bytes may crash it. Errors call the file `name`.
pub fn examine(name: &str, bytes: &[u8]) -> Result<(), EngineError> {
    let internal = |e: std::io::Error| internal(format!("cannot map {} bytes: {e}", bytes.len()));
    let mut map = memmap2::MmapMut::map_anon(bytes.len()).map_err(internal)?;
    map.copy_from_slice(bytes);
    let gguf = Gguf::of_map(name, map.make_read_only().map_err(internal)?)?;
    let ModelConfig::Llama(config) = gguf.model()? else { return Ok(()) };
    let weights = Weights::find(&gguf, &config.into())?;
    let _ = (weights.encodings(), weights.mapped_bytes(), weights.private_bytes());
    Ok(())
}

impl Engine for Candle {
    fn versions(&self) -> Vec<(String, String)> {
        vec![
            ("llm-bench".into(), env!("CARGO_PKG_VERSION").into()),
            ("candle-core".into(), crate::CANDLE_VERSION.into()),
        ]
    }

    fn isa(&self) -> &'static str {
        self.options.kernels.name()
    }

    fn load(&mut self, request: &Load) -> Result<Loaded, EngineError> {
        let begin = MonoNs::now();
        self.options = Options::read(&request.options)?;
        if request.device != "cpu" {
            let message = format!("device {}: the engine candle runs on cpu", request.device);
            return Err(EngineError::new(ErrorKind::MissingDependency, message));
        }
        if request.threads == 0 || request.n_ctx == 0 || request.batch == 0 {
            return Err(internal("threads, n_ctx and batch must be at least 1"));
        }
        // Two models must not be in memory at once.
        (self.model, self.encoder) = (None, None);
        self.held.clear();

        let gguf = Gguf::open(&request.path)?;
        let config: Config = match gguf.model()? {
            ModelConfig::Llama(config) => config.into(),
            ModelConfig::Bert(config) => return self.load_encoder(gguf, config, request, begin),
        };
        if request.batch as usize > BATCH {
            let found = request.batch;
            let message =
                format!("a batch of {found}: the engine candle takes at most {BATCH} sequences");
            return Err(EngineError::new(ErrorKind::Unsupported, message));
        }
        let parsed = MonoNs::now();
        let weights = Weights::find(&gguf, &config)?;
        drop(gguf); // the header with its vocabulary; the matrices keep their mapping
        crate::resident::give_back();
        let arithmetic = self.options.arithmetic();
        let (threads, n_ctx) = (request.threads as usize, request.n_ctx as usize);
        let sequences = request.batch as usize;
        let encodings = weights.encodings();
        let mut notes =
            vec!["weights are used from the mapped file; pages are read on first use".to_string()];
        if n_ctx > config.n_ctx_train {
            notes.push(format!(
                "n_ctx {n_ctx} is beyond the {} positions that the model was trained for",
                config.n_ctx_train
            ));
        }
        notes.extend(arithmetic.of_prompts());
        let mut model =
            Model::new(&request.path, config, weights, (sequences, n_ctx), threads, arithmetic)?;
        model.jitter = self.options.jitter;
        let end = MonoNs::now();
        let mut settings = BTreeMap::from([
            ("kernels".to_string(), arithmetic.name().into()),
            ("threads".to_string(), threads.into()),
            ("prefill_batch".to_string(), BATCH.into()),
        ]);
        self.options.disclose("token", &mut settings, &mut notes);

        let names: Vec<&str> = encodings.iter().map(|e| e.name()).collect();
        let mut compute: Vec<&str> = encodings.iter().map(|&e| arithmetic.compute(e)).collect();
        compute.dedup();
        self.model = Some(model);
        self.path.clone_from(&request.path);
        Ok(Loaded {
            t_begin_ns: begin.0,
            t_end_ns: end.0,
            stages: BTreeMap::from([
                ("parse".to_string(), parsed.0 - begin.0),
                ("weights".to_string(), end.0 - parsed.0),
            ]),
            precision: Precision {
                weights: if self.options.float32 { "f32".into() } else { names.join("+") },
                compute: compute.join("+"),
                kv: arithmetic.kv_type().name().into(),
            },
            memory: self.memory(),
            weight_bytes_per_token: None,
            settings,
            notes,
        })
    }

    fn features(&self) -> Vec<Feature> {
        use Feature::*;
        vec![Stream, Stop, Sampling, Reuse, Cancel, Score, Context, Batch, Encode]
    }

    fn decoder(&mut self) -> Result<&mut dyn Decoder, EngineError> {
        self.loaded()?;
        Ok(self)
    }

    fn score(
        &mut self,
        request: &Score,
        row: &mut dyn FnMut(&[f32]) -> std::io::Result<()>,
    ) -> Result<(), EngineError> {
        self.held.clear();
        let model = self.loaded()?;
        let n_vocab = model.config.n_vocab;
        check_tokens(&request.tokens, 0, model.n_ctx(), n_vocab)?;
        let mut logits = vec![0.0; SCORE_ROWS * n_vocab];
        let mut position = 0;
        let together = request.decode_from.map_or(usize::MAX, |n| n as usize);
        let (together, one_by_one) = request.tokens.split_at(together.min(request.tokens.len()));
        for batch in together.chunks(BATCH).chain(one_by_one.chunks(1)) {
            model.forward(batch, position);
            let skipped = (request.first as usize).saturating_sub(position).min(batch.len());
            for start in (skipped..batch.len()).step_by(SCORE_ROWS) {
                let rows = start..batch.len().min(start + SCORE_ROWS);
                let logits = &mut logits[..rows.len() * n_vocab];
                model.logits_of(rows, logits);
                for (i, values) in logits.chunks_exact(n_vocab).enumerate() {
                    if !all_finite(values) {
                        let upto = start + i + 1;
                        return Err(self.why_not_finite(&batch[..upto], position));
                    }
                    row(values).map_err(|e| internal(format!("cannot hand over logits: {e}")))?;
                }
            }
            position += batch.len();
        }
        Ok(())
    }

    fn encode(&mut self, texts: &[Vec<u32>], hidden: bool) -> Result<Vectors, EngineError> {
        let begin = MonoNs::now();
        let Some(encoder) = &mut self.encoder else {
            self.loaded()?;
            let message =
                format!("{}: a LLaMA generates and scores, it encodes no texts", self.path);
            return Err(EngineError::new(ErrorKind::Unsupported, message));
        };
        let vectors = encoder.encode(texts, hidden)?;
        self.options.slow_down(begin);
        Ok(vectors)
    }

    fn memory(&self) -> MemoryBook {
        if let Some(encoder) = &self.encoder {
            return encoder.memory();
        }
        let Some(model) = &self.model else { return MemoryBook::default() };
        MemoryBook {
            weights_mapped_bytes: Some(model.weights.mapped_bytes() as u64),
            weights_private_bytes: Some(model.weights.private_bytes() as u64),
            kv_bytes: Some(model.kv_bytes() as u64),
            activation_bytes: Some(model.activation_bytes() as u64),
            kv_resident_bytes: model.kv_bytes_in_memory(),
            activation_resident_bytes: model.activation_bytes_in_memory(),
            ..MemoryBook::default()
        }
    }
}

impl Candle {
    fn load_encoder(
        &mut self,
        gguf: Gguf,
        config: BertConfig,
        request: &Load,
        begin: MonoNs,
    ) -> Result<Loaded, EngineError> {
        let parsed = MonoNs::now();
        if self.options.jitter.is_some() {
            return Err(internal("option jitter: the layers of an encoder have none"));
        }
        let arithmetic = self.options.arithmetic();
        let (encoder, mut loaded) = encoder::load(gguf, config, request, arithmetic)?;
        let end = MonoNs::now();
        self.options.disclose("batch", &mut loaded.settings, &mut loaded.notes);
        self.encoder = Some(encoder);
        self.path.clone_from(&request.path);
        let stages = BTreeMap::from([
            ("parse".to_string(), parsed.0 - begin.0),
            ("weights".to_string(), end.0 - parsed.0),
        ]);
        Ok(Loaded { t_begin_ns: begin.0, t_end_ns: end.0, stages, ..loaded })
    }

    fn loaded(&mut self) -> Result<&mut Model, EngineError> {
        if self.encoder.is_some() {
            let message = format!("{}: an encoder encodes texts, it generates none", self.path);
            return Err(EngineError::new(ErrorKind::Unsupported, message));
        }
        self.model.as_mut().ok_or_else(|| internal("no model is loaded"))
    }
}

impl Decoder for Candle {
    fn shape(&self) -> (usize, usize) {
        self.model.as_ref().map_or((0, 0), |m| (m.n_ctx(), m.config.n_vocab))
    }

    fn batch(&self) -> usize {
        BATCH
    }

    fn held(&mut self) -> &mut Vec<u32> {
        &mut self.held
    }

    fn forward(&mut self, tokens: &[u32], first: usize) -> Result<(), EngineError> {
        self.loaded()?.forward(tokens, first);
        self.last_row = tokens.len() - 1;
        Ok(())
    }

    fn head(&mut self) -> Result<(), EngineError> {
        let row = self.last_row;
        self.loaded()?.logits(row);
        Ok(())
    }

    fn logits(&mut self) -> Result<&[f32], EngineError> {
        Ok(self.loaded()?.last_logits())
    }

    fn why_not_finite(&mut self, tokens: &[u32], first: usize) -> EngineError {
        let position = first + tokens.len() - 1;
        let Some(model) = &mut self.model else { return internal("no model is loaded") };
        if let Some((tensor, index, value)) = model.weights.first_not_finite() {
            return not_finite(&self.path, &tensor, index, value);
        }
        let place = match model.first_bad_layer(tokens, first) {
            Some(layer) => format!("first behind layer {layer}"),
            None => "first in the output head".into(),
        };
        let what = format!(
            "the logits of position {position} are not finite numbers ({place}), and every weight \
             is: the values overflow"
        );
        bad_model(&self.path, what)
    }

    fn together(&mut self) -> Option<&mut dyn Together> {
        self.model.is_some().then_some(self as &mut dyn Together)
    }

    fn spans(&mut self) -> Option<&mut Spans> {
        self.model.as_mut().map(|model| &mut model.spans)
    }

    fn weight_bytes_by_stage(&self) -> BTreeMap<String, u64> {
        let stages = self.model.iter().flat_map(|model| model.weights.bytes_by_stage());
        stages.map(|(stage, bytes)| (stage.name().to_string(), bytes as u64)).collect()
    }

    fn slow_down(&self, begin: MonoNs) {
        self.options.slow_down(begin);
    }
}

impl Together for Candle {
    fn sequences(&self) -> usize {
        self.model.as_ref().map_or(0, Model::sequences)
    }

    fn prefill(&mut self, prompts: &[&[u32]]) -> Result<Vec<Choice>, EngineError> {
        let model = self.loaded()?;
        let hidden = model.config.hidden;
        let mut last = vec![0.0; prompts.len() * hidden];
        let mut passes = Passes::default();
        for (sequence, tokens) in prompts.iter().enumerate() {
            passes.add(sequence, tokens, |parts| run(model, parts, prompts, &mut last));
        }
        run(model, &passes.parts, prompts, &mut last);
        model.set_residuals(&last);
        Ok(choices(model))
    }

    fn step(&mut self, tokens: &[u32], position: usize) -> Result<Vec<Choice>, EngineError> {
        let model = self.loaded()?;
        let part = |(sequence, token)| Part {
            sequence,
            first: position,
            tokens: std::slice::from_ref(token),
        };
        let parts: Vec<Part<'_>> = tokens.iter().enumerate().map(part).collect();
        model.forward_parts(&parts);
        Ok(choices(model))
    }

    fn logits(&self, sequence: usize) -> &[f32] {
        self.model.as_ref().map_or(&[], |model| model.logits_of_sequence(sequence))
    }
}

/// Cuts prompts into passes of at most `BATCH` tokens, with as many prompts in one as fit.
#[derive(Default)]
struct Passes<'a> {
    parts: Vec<Part<'a>>,
    tokens: usize,
}

impl<'a> Passes<'a> {
    /// Adds a prompt; calls `run` with each pass that it fills.
    fn add(&mut self, sequence: usize, tokens: &'a [u32], mut run: impl FnMut(&[Part<'a>])) {
        let mut first = 0;
        while first < tokens.len() {
            let n = (BATCH - self.tokens).min(tokens.len() - first);
            self.parts.push(Part { sequence, first, tokens: &tokens[first..first + n] });
            (first, self.tokens) = (first + n, self.tokens + n);
            if self.tokens == BATCH {
                run(&self.parts);
                (self.parts, self.tokens) = (Vec::new(), 0);
            }
        }
    }
}

/// Runs a pass and keeps the residuals behind the last token of each prompt, `[prompts, hidden]`.
fn run(model: &mut Model, parts: &[Part<'_>], prompts: &[&[u32]], last: &mut [f32]) {
    let hidden = model.config.hidden;
    model.forward_parts(parts);
    let mut row = 0;
    for Part { sequence, first, tokens } in parts {
        row += tokens.len();
        if first + tokens.len() == prompts[*sequence].len() {
            last[sequence * hidden..][..hidden].copy_from_slice(model.residual(row - 1));
        }
    }
}

fn choices(model: &mut Model) -> Vec<Choice> {
    let mut all = Vec::with_capacity(model.sequences());
    model.choose(|_, token, finite| all.push(Choice { token, finite }));
    all
}
