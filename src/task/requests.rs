//! Requests over texts, again and again, length by length: how many a launch sends, and their times.
//! Encoders and tokenizers are measured so; what a request asks is theirs.

mod metrics;

use std::time::Instant;

pub use self::metrics::of_launch;
use super::Running;
use crate::engine::{Failure, Observes};
use crate::plan;
use crate::record::{PromptRun, Role};
use crate::sensors::Mark;
use crate::units::MonoNs;
use crate::workload::{Prompt, Workload};

/// Requests of a length that the clock does not end: a rate needs more than one.
const LEAST: u32 = 3;

/// What a launch sends, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Requests<'a> {
    /// Each prompt is a pool of texts; a request takes the next ones of it.
    pub workload: &'a Workload,
    /// How many requests of each.
    pub plan: &'a plan::Workload,
    /// The time that ends the requests of each earlier, if one does.
    pub seconds: Option<f64>,
    /// Texts of a request.
    pub batch: u32,
}

/// When a request was sent and answered, by the harness's clock, and what the engine claims of it.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    pub sent: MonoNs,
    pub arrived: MonoNs,
    pub begin: MonoNs,
    pub end: MonoNs,
}

/// Sends request `i` over the texts of a prompt and adds its size to the run.
pub type Ask<'a> =
    dyn FnMut(&mut Running<'_>, &Prompt, u32, &mut PromptRun) -> Result<Span, Failure> + 'a;

impl Span {
    /// Nanoseconds: the engine's own, where its clock is ours.
    fn took(&self, observes: Observes) -> u64 {
        match observes.clock {
            true => self.end.0 - self.begin.0,
            false => self.arrived.0 - self.sent.0,
        }
    }
}

impl Requests<'_> {
    /// The first request of the process, kept as a run of its own.
    pub fn cold(&self, launch: &mut Running<'_>, ask: &mut Ask<'_>) -> Result<Span, Failure> {
        let prompt = &self.workload.prompts[0];
        let mut run = self.run_of(prompt, Role::Cold);
        let span = one(launch, prompt, 0, &mut run, ask)?;
        launch.keep(run);
        Ok(span)
    }

    /// Of each prompt the warm-up requests, then the measured ones; each kind is kept as one run.
    pub fn all(&self, launch: &mut Running<'_>, ask: &mut Ask<'_>) -> Result<(), Failure> {
        let third = self.seconds.map(|s| s / 3.0);
        for prompt in &self.workload.prompts {
            self.some(launch, (prompt, Role::Warmup), (self.plan.warmup, third), ask)?;
            let measured = (self.plan.iterations, self.seconds);
            self.some(launch, (prompt, Role::Measured), measured, ask)?;
        }
        Ok(())
    }

    /// Up to `n` requests, fewer if `seconds` end them.
    fn some(
        &self,
        launch: &mut Running<'_>,
        (prompt, role): (&Prompt, Role),
        (n, seconds): (u32, Option<f64>),
        ask: &mut Ask<'_>,
    ) -> Result<(), Failure> {
        let mut run = self.run_of(prompt, role);
        let began = Instant::now();
        for i in 0..n {
            let is_over = seconds.is_some_and(|s| began.elapsed().as_secs_f64() >= s);
            if is_over && (role == Role::Warmup || i >= LEAST) {
                break;
            }
            let span = one(launch, prompt, i, &mut run, ask)?;
            if role == Role::Measured {
                launch.mark(Mark::Submit, span.sent);
                launch.mark(Mark::WindowBegin, span.begin);
                launch.mark(Mark::WindowEnd, span.end);
            }
        }
        launch.keep(run);
        Ok(())
    }

    /// The requests of one kind, before there are any.
    fn run_of(&self, prompt: &Prompt, role: Role) -> PromptRun {
        PromptRun {
            id: prompt.id.clone(),
            n_prompt: prompt.ids.len() as u32,
            batch: Some(self.batch).filter(|n| *n > 1),
            ..PromptRun::new(role)
        }
    }
}

/// Sends one request and adds its time to the run.
fn one(
    launch: &mut Running<'_>,
    prompt: &Prompt,
    i: u32,
    run: &mut PromptRun,
    ask: &mut Ask<'_>,
) -> Result<Span, Failure> {
    let span = ask(launch, prompt, i, run)?;
    run.request_ns.push(span.took(launch.engine.observes()));
    Ok(span)
}
