//! One engine that is asked again and again: started, loaded, started anew where it had to be
//! killed.

use std::ops::ControlFlow;

use anyhow::{Result, bail};

use crate::cli::GenerateArgs;
use crate::engine::provision::{Installed, Provisioner};
use crate::engine::{Deadlines, Engine, EngineSpec, Failure, Observes, Stamped};
use crate::interrupt;
use crate::measure::host;
use crate::model::cache::CacheDir;
use crate::progress::say;
use crate::protocol::{Feature, Generate, Generated, Load, Sampling};
use crate::session::failed;
use crate::session::find::Found;
use crate::task::generate::Step;
use crate::units::{MonoNs, Seconds};

/// A question to the engine.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    pub prompt: Vec<u32>,
    pub n: u32,
    /// Ids that end the answer; none to go on after them.
    pub stop: &'a [u32],
    pub sampling: Option<Sampling>,
    pub reuse: bool,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// As many tokens as asked.
    Length,
    /// An end-of-text or end-of-turn token.
    Stop,
    /// The context is full.
    Context,
    /// Ctrl-C.
    Cancelled,
}

/// What came.
#[derive(Debug)]
pub struct Answer {
    /// Up to the stop token, which is included.
    pub tokens: Vec<u32>,
    /// Absent where the engine had to be killed.
    pub generated: Option<Stamped<Generated>>,
    /// What can be seen of the engine.
    pub observes: Observes,
    pub end: End,
}

/// An engine with the model loaded.
pub struct Session<'a> {
    engine: &'a EngineSpec,
    installed: Installed,
    load: Load,
    n_vocab: Option<u32>,
    running: Option<Running>,
}

struct Running {
    process: Engine,
    load_time: Seconds,
}

impl<'a> Session<'a> {
    /// Installs, starts and loads; says what the reader of the text must know.
    pub fn start(
        args: &GenerateArgs,
        engine: &'a EngineSpec,
        found: &Found,
        n_ctx: u32,
    ) -> Result<Self> {
        let model = &found.model;
        if let Some((_, why)) = engine.refusal(&model.quant, args.device) {
            bail!(why);
        }
        if found.file.is_synthetic() {
            say(&format!(
                "note: {} has synthetic weights: the text means nothing",
                found.path.display()
            ));
        }
        if let Some(known) = engine.known_difference(&model.quant).filter(|k| k.nmse.is_none()) {
            say(&format!("note: {} computes another function: {}", engine.name, known.why));
        }
        let threads = args.threads.unwrap_or_else(host::available_threads);
        let mut provisioner =
            Provisioner::new(CacheDir::from_env()?.path().into(), !args.no_install)?;
        provisioner.device = args.device.kind();
        let work = format!("{} n_ctx {n_ctx} threads {threads}", model.sha256);
        let installed = provisioner.provide(engine, &work, &say)?;
        if installed.compile_cache_populated() == Some(false) {
            say(&format!("note: {} compiles first; the first answer waits for it", engine.name));
        }
        let load = Load {
            path: found.path.to_string_lossy().into_owned(),
            device: args.device.to_string(),
            threads,
            n_ctx,
            batch: 1,
            options: engine.options.clone(),
        };
        let n_vocab = model.n_vocab;
        let mut session = Self { engine, installed, load, n_vocab, running: None };
        let running = session.launch()?;
        if args.temperature > 0.0 && !running.process.has(Feature::Sampling) {
            bail!(
                "--temperature {}: the engine {} cannot sample; use --temperature 0 or another \
                 engine",
                args.temperature,
                engine.name
            );
        }
        if !running.process.has(Feature::Stream) {
            say(&format!("note: {} does not stream: the text comes at the end", engine.name));
        }
        session.running = Some(running);
        Ok(session)
    }

    fn launch(&self) -> Result<Running> {
        let failed = |f| failed(&self.engine.name, f);
        let mut process =
            Engine::open(&self.installed, &self.load, Deadlines::default()).map_err(failed)?;
        let loaded = process.load(self.load.clone()).map_err(failed)?.value;
        let load_time = MonoNs(loaded.t_end_ns).since(MonoNs(loaded.t_begin_ns));
        Ok(Running { process, load_time })
    }

    /// How long the model took to load; absent after the engine was killed.
    pub fn load_time(&self) -> Option<Seconds> {
        self.running.as_ref().map(|r| r.load_time)
    }

    /// Asks; `print` gets each token that is text or a stop token, as early as the engine gives
    /// it. An error of `print` ends the answer and is returned. Ctrl-C ends it as well: the first
    /// asks the engine, the second kills it, and the next question starts it again.
    pub fn ask(
        &mut self,
        ask: Ask<'_>,
        print: &mut dyn FnMut(u32) -> std::io::Result<()>,
    ) -> Result<Answer> {
        if self.running.is_none() {
            say(&format!("starting {} again", self.engine.name));
            self.running = Some(self.launch()?);
        }
        let Some(Running { process, .. }) = &mut self.running else {
            bail!("the engine {} is not running", self.engine.name)
        };
        let id = process.next_id();
        let has = |feature| process.has(feature);
        let request = Generate {
            ignore_eos: ask.stop.is_empty() || !has(Feature::Stop),
            stream: has(Feature::Stream),
            stop: if has(Feature::Stop) { ask.stop.to_vec() } else { Vec::new() },
            sampling: ask.sampling,
            reuse: ask.reuse && has(Feature::Reuse),
            ..Generate::greedy(id, ask.prompt, ask.n)
        };
        let (streams, observes) = (request.stream, process.observes());
        let mut tokens = Vec::new();
        let mut print_error = None;
        // A Ctrl-C that came when there was nothing left to stop is over.
        interrupt::take();
        let result = process.follow(request, self.n_vocab, &mut |step| {
            if let Step::Token(token) = step {
                tokens.push(token);
                if let Err(e) = print(token) {
                    print_error.get_or_insert(e);
                }
            }
            match print_error.is_some() || interrupt::take() || interrupt::terminated() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        if let Some(e) = print_error {
            return Err(e.into());
        }
        let answer = match result {
            Ok(answer) => answer,
            Err(Failure::Interrupted) => {
                self.running = None;
                return Ok(Answer { tokens, generated: None, observes, end: End::Cancelled });
            }
            Err(failure) => return Err(failed(&self.engine.name, failure)),
        };
        let generated = answer.generated;
        tokens.clone_from(&generated.value.tokens);
        if let Some(at) = tokens.iter().position(|t| ask.stop.contains(t)) {
            tokens.truncate(at + 1); // an engine that knows no stop ids went on
        }
        if !streams {
            tokens.iter().try_for_each(|t| print(*t))?;
        }
        let end = match tokens.last() {
            Some(last) if ask.stop.contains(last) => End::Stop,
            _ if answer.cancelled => End::Cancelled,
            _ => End::Length,
        };
        Ok(Answer { tokens, generated: Some(generated), observes, end })
    }

    /// Says goodbye to the engine.
    pub fn end(self) -> Result<()> {
        match self.running {
            Some(running) => {
                running.process.bye().map(drop).map_err(|f| failed(&self.engine.name, f))
            }
            None => Ok(()),
        }
    }
}
