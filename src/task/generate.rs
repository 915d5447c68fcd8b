//! Generates greedily a stated length from each prompt of a workload, one request at a time. This
//! task measures TTFT, prefill and decode.

mod metrics;
mod plausible;
mod request;
mod stream;

pub use self::metrics::of_generation;
pub use self::request::run_of;
pub use self::stream::{Answer, Step};
use super::{Columns, Measured, Running, Task};
use crate::engine::{Engine, Failure, Stamped};
use crate::metric::Metric;
use crate::plan;
use crate::protocol::{Context, Feature, Generate, Generated};
use crate::record::{Model, PromptRun, Role};
use crate::sensors::Mark;
use crate::units::MonoNs;
use crate::workload::{Prompt, Workload};

/// The record's note on an engine without the feature `context`, if there is a depth.
const NO_CONTEXT: &str = "This engine takes a context only as a part of its prompt: at a depth \
                          TTFT, prefill and end-to-end rate are absent, decode is measured.";

/// The same of a batch.
const NO_CONTEXTS: &str = "The sequences of a batch take their contexts as a part of their prompts: at \
                           a depth TTFT, prefill and end-to-end rate are absent, decode is measured.";

pub const COLUMNS: Columns = Columns {
    line: &[
        ("cold start", Metric::ColdStartTtft),
        ("prefill", Metric::PrefillTps),
        ("decode", Metric::DecodeTps),
    ],
    per_prompt: &[Metric::DecodeTps, Metric::PrefillTps, Metric::Ttft],
};

/// What a launch generates, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Generation<'a> {
    pub model: &'a Model,
    pub workload: &'a Workload,
    /// How often each prompt is generated.
    pub plan: &'a plan::Workload,
    /// Sequences that are generated together; more than one needs the engine's feature.
    pub batch: u32,
    /// One more generation of each prompt, with the time of each stage taken.
    pub profile: bool,
}

impl Task for Generation<'_> {
    type Answer = ();

    fn needs(&self) -> &[Feature] {
        if self.batch > 1 { &[Feature::Batch] } else { &[] }
    }

    fn script(&self, launch: &mut Running<'_>) -> Result<(), Failure> {
        let prompts = &self.workload.prompts;
        let read = launch.loaded.weight_bytes_per_token.or(self.model.weight_bytes_per_token);
        if let Some(bytes) = read {
            launch.identity.settings.insert("weight_bytes_per_token".into(), bytes.into());
        }
        if prompts.iter().any(|p| !p.context.is_empty()) {
            if !launch.engine.has(Feature::Context) {
                launch.identity.notes.push(NO_CONTEXT.into());
            } else if self.batch > 1 {
                launch.identity.notes.push(NO_CONTEXTS.into());
            }
        }
        let mut filled = None;
        self.cold(launch, &mut filled)?;
        let mut generate = |launch: &mut Running<'_>, prompt, role, iteration| {
            self.generate(launch, &mut filled, prompt, role, iteration)
        };
        for (i, prompt) in prompts.iter().enumerate() {
            // The cold generation was the first warm-up of the first prompt, if that has no depth.
            let was_cold = i == 0 && prompt.context.is_empty();
            let (warmups, measured) = self.plan.generations(was_cold);
            for iteration in 0..warmups {
                generate(launch, i, Role::Warmup, iteration)?;
            }
            for iteration in 0..measured {
                generate(launch, i, Role::Measured, iteration)?;
            }
        }
        launch.finished()?;
        if self.profile {
            for i in 0..prompts.len() {
                generate(launch, i, Role::Profiled, 0)?;
            }
        }
        Ok(())
    }

    fn doubt(&self, measured: &Measured<'_>) -> Option<String> {
        plausible::doubt(measured, self.model)
    }

    fn metrics(&self, measured: &mut Measured<'_>) {
        metrics::of_launch(measured, self.model);
    }
}

impl Generation<'_> {
    /// The first generation of the process, and what its time means.
    pub(super) fn cold(
        &self,
        launch: &mut Running<'_>,
        filled: &mut Option<usize>,
    ) -> Result<(), Failure> {
        let cold = self.generate(launch, filled, 0, Role::Cold, 0)?;
        if let Some(first) = cold.value.t_tokens_ns.first().copied().map(MonoNs) {
            if let Some(spawned) = launch.engine.observes().spawned {
                launch.milestone("first_token", first);
                launch.put(Metric::ColdStartTtft, first.since(spawned).0);
            }
            launch.put(Metric::FirstGenerateTtft, first.since(cold.sent).0);
        }
        Ok(())
    }

    /// Runs one generation and keeps it in the launch. `filled` is the prompt whose context the
    /// engine holds.
    pub(super) fn generate(
        &self,
        launch: &mut Running<'_>,
        filled: &mut Option<usize>,
        index: usize,
        role: Role,
        iteration: u32,
    ) -> Result<Stamped<Generated>, Failure> {
        let prompt = &self.workload.prompts[index];
        // A warm-up needs the prompt's shapes and one decode step, not the whole length.
        let n = if role == Role::Warmup { prompt.n_gen.min(2) } else { prompt.n_gen };
        // The cold start is measured on the prompt alone, whatever the depth.
        let context = if role == Role::Cold { &[][..] } else { &prompt.context };
        let depth = context.len() as u32;
        let apart = depth > 0 && self.batch == 1 && launch.engine.has(Feature::Context);
        let (depth_of_request, ids) = match apart {
            true => {
                if *filled != Some(index) {
                    fill(launch.engine, prompt)?;
                    *filled = Some(index);
                }
                (depth, prompt.ids.clone())
            }
            false => {
                *filled = None;
                (0, [context, &prompt.ids].concat())
            }
        };
        // As long as the first one; the cold start has no context.
        let others = prompt.others.iter().take(self.batch as usize - 1);
        let others = others.map(|other| other[other.len() - ids.len()..].to_vec()).collect();
        let request = Generate {
            depth: depth_of_request,
            batch: self.batch,
            others,
            profile: role == Role::Profiled,
            ..Generate::greedy(launch.engine.next_id(), ids, n)
        };
        let generated = launch.engine.generate(request, self.model.n_vocab)?;
        if role == Role::Measured {
            let decode = &generated.value.t_tokens_ns;
            if let (Some(first), Some(last)) = (decode.first(), decode.last()) {
                launch.mark(Mark::Submit, generated.sent);
                launch.mark(Mark::WindowBegin, MonoNs(*first));
                launch.mark(Mark::WindowEnd, MonoNs(*last));
            }
        }
        let observes = launch.engine.observes();
        let kept = observes.ids && role == Role::Measured && iteration == 0;
        launch.keep(PromptRun {
            id: prompt.id.clone(),
            iteration,
            n_prompt: prompt.ids.len() as u32,
            n_gen: n,
            depth,
            batch: Some(self.batch).filter(|n| *n > 1),
            context_in_request: depth > 0 && !apart,
            tokens: kept.then(|| generated.value.tokens.clone()),
            other_tokens: if kept { generated.value.others.clone() } else { Vec::new() },
            ..run_of(role, &generated, observes)
        });
        Ok(generated)
    }
}

/// Makes the engine fill the context of a prompt. Not measured.
fn fill(engine: &mut Engine, prompt: &Prompt) -> Result<(), Failure> {
    let (id, tokens) = (engine.next_id(), prompt.context.clone());
    engine.context(Context { id, tokens }).map(drop)
}
