//! Sends a generation and checks the answer: the number of tokens, ids within the vocabulary, times
//! that the harness observed too, and no unaccounted work.

use sha2::{Digest, Sha256};

use crate::engine::{Engine, Failure, Observes, Stamped};
use crate::protocol::{Context, ContextFilled, Generate, Generated, Reply, Request};
use crate::record::{FailureKind, PromptRun, Role};
use crate::units::MonoNs;

impl Engine {
    /// Fills the cache for generations at that depth. The engine does not know yet what follows
    /// these tokens, so it cannot start on it.
    pub fn context(&mut self, request: Context) -> Result<Stamped<ContextFilled>, Failure> {
        let (id, n) = (request.id, request.tokens.len());
        let limit = self.limit();
        let filled = self.ask("context", Request::Context(request), limit, |r| match r {
            Reply::Context(c) => Ok(c),
            other => Err(Box::new(other)),
        })?;
        let c = &filled.value;
        if c.id != id || c.positions as usize != n {
            let m = format!(
                "asked for a context of {n} positions (id {id}), the engine holds {} (id {})",
                c.positions, c.id
            );
            return Err(self.fail(FailureKind::Lied, m));
        }
        let times = [("t_begin_ns", c.t_begin_ns), ("t_end_ns", c.t_end_ns)];
        self.check_times(filled.sent, filled.arrived, &times)?;
        Ok(filled)
    }

    /// One generation; ids must be below `n_vocab`, if known.
    pub fn generate(
        &mut self,
        request: Generate,
        n_vocab: Option<u32>,
    ) -> Result<Stamped<Generated>, Failure> {
        let (id, n, depth) = (request.id, request.n as usize, request.depth);
        let others = request.others.len();
        let limit = self.limit();
        let generated = self.ask("generate", Request::Generate(request), limit, |r| match r {
            Reply::Generated(g) => Ok(g),
            other => Err(Box::new(other)),
        })?;
        let found = generated.value.tokens.len();
        if self.observes().ids && found != n {
            let m = format!("asked for {n} tokens, got {found}");
            return Err(self.fail(FailureKind::WrongTokens, m));
        }
        if self.observes().ids
            && let Some(m) = unequal(&generated.value.others, others, n, n_vocab)
        {
            return Err(self.fail(FailureKind::WrongTokens, m));
        }
        self.check_generated(&generated, id, n, n_vocab)?;
        let found = generated.value.depth.unwrap_or(0);
        if found != depth {
            let m = format!("asked for a generation at depth {depth}, the engine's is at {found}");
            return Err(self.fail(FailureKind::Lied, m));
        }
        self.check_accounted(&generated)?;
        Ok(generated)
    }

    /// Checks every generation: the id, rising times and, if ids can be observed, `n` tokens of the
    /// vocabulary with one time each.
    pub(super) fn check_generated(
        &mut self,
        generated: &Stamped<Generated>,
        id: u64,
        n: usize,
        n_vocab: Option<u32>,
    ) -> Result<(), Failure> {
        let g = &generated.value;
        if g.id != id {
            let m = format!("asked for generation {id}, got {}", g.id);
            return Err(self.fail(FailureKind::Protocol, m));
        }
        if self.observes().ids {
            if let Some(m) = foreign(&g.tokens, n_vocab) {
                return Err(self.fail(FailureKind::WrongTokens, m));
            }
            if g.t_tokens_ns.len() != n {
                let m = format!("{n} tokens came with {} times", g.t_tokens_ns.len());
                return Err(self.fail(FailureKind::Lied, m));
            }
        }
        let mut times = vec![("t_begin_ns", g.t_begin_ns)];
        times.extend(g.t_prefill_end_ns.map(|t| ("t_prefill_end_ns", t)));
        times.extend(g.t_tokens_ns.iter().map(|t| ("t_tokens_ns", *t)));
        self.check_times(generated.sent, generated.arrived, &times)?;
        self.check_stages(&generated.value)
    }

    /// Stages follow one another, so together they cannot take longer than the whole.
    fn check_stages(&mut self, g: &Generated) -> Result<(), Failure> {
        let (Some(profile), [first, .., last]) = (&g.profile, &g.t_tokens_ns[..]) else {
            return Ok(());
        };
        let phases = [
            ("prefill", &profile.prefill_ns, first - g.t_begin_ns),
            ("decode", &profile.decode_ns, last - first),
        ];
        for (name, stages, whole) in phases {
            let sum = stages.values().try_fold(0u64, |sum, ns| sum.checked_add(*ns));
            if sum.is_none_or(|sum| sum > whole) {
                let m = format!("the stages of {name} take longer than its {whole} ns");
                return Err(self.fail(FailureKind::Lied, m));
            }
        }
        Ok(())
    }

    /// Unaccounted work before the claimed begin or after the last token would flatter the engine.
    pub(super) fn check_accounted(&mut self, g: &Stamped<Generated>) -> Result<(), Failure> {
        let last = g.value.t_tokens_ns.last().copied().unwrap_or(g.value.t_begin_ns);
        let claimed = MonoNs(last).since(MonoNs(g.value.t_begin_ns));
        self.check_claim(g.arrived.since(g.sent), claimed)
    }
}

/// Describes the first id that is outside the vocabulary.
pub(super) fn foreign(ids: &[u32], n_vocab: Option<u32>) -> Option<String> {
    let n_vocab = n_vocab?;
    let bad = ids.iter().find(|id| **id >= n_vocab)?;
    Some(format!("token id {bad} is outside the vocabulary of {n_vocab}"))
}

/// Describes what is wrong with the tokens of a batch's sequences after the first: `sequences` of
/// them, with `n` ids of the vocabulary each.
fn unequal(
    others: &[Vec<u32>],
    sequences: usize,
    n: usize,
    n_vocab: Option<u32>,
) -> Option<String> {
    if others.len() != sequences {
        let (asked, found) = (sequences + 1, others.len() + 1);
        return Some(format!("asked for the tokens of {asked} sequences, got those of {found}"));
    }
    others.iter().enumerate().find_map(|(i, ids)| {
        let what = match ids.len() == n {
            true => foreign(ids, n_vocab)?,
            false => format!("asked for {n} tokens, got {}", ids.len()),
        };
        Some(format!("sequence {}: {what}", i + 1))
    })
}

/// A generation in the form of the record, as far as it can be observed; the caller adds the
/// prompt.
pub fn run_of(role: Role, g: &Stamped<Generated>, observes: Observes) -> PromptRun {
    let (sent, g) = (g.sent.0, &g.value);
    PromptRun {
        n_gen: g.tokens.len() as u32,
        begin_ns: observes.clock.then(|| g.t_begin_ns - sent),
        prefill_end_ns: g.t_prefill_end_ns.filter(|_| observes.clock).map(|t| t - sent),
        token_ns: g.t_tokens_ns.iter().map(|t| t - sent).collect(),
        compile_ns: g.compile_ns,
        tokens_hash: observes
            .ids
            .then(|| hash_ids(g.tokens.iter().chain(g.others.iter().flatten()))),
        profile: g.profile.clone(),
        ..PromptRun::new(role)
    }
}

fn hash_ids<'a>(ids: impl Iterator<Item = &'a u32>) -> String {
    let mut hash = Sha256::new();
    ids.for_each(|id| hash.update(id.to_le_bytes()));
    crate::digest::hex(&hash.finalize()[..8])
}
