//! Shows where the time of a forward pass goes, with one clock that is read between stages. While
//! it is off, each read costs a branch.

use std::collections::BTreeMap;

use llm_bench_units::MonoNs;

/// Stages in the order in which a token passes through them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Embedding,
    Norm,
    /// Products with the query, key, value and output matrices.
    Projections,
    /// Rotation, cache writes, scores, softmax, weighted values.
    Attention,
    /// Gate, up, activation, down.
    Mlp,
    /// The last norm's product with the output matrix.
    Head,
    Sampling,
}

impl Stage {
    pub const ALL: [Stage; 7] = [
        Stage::Embedding,
        Stage::Norm,
        Stage::Projections,
        Stage::Attention,
        Stage::Mlp,
        Stage::Head,
        Stage::Sampling,
    ];

    /// The name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Embedding => "embedding",
            Stage::Norm => "norm",
            Stage::Projections => "projections",
            Stage::Attention => "attention",
            Stage::Mlp => "mlp",
            Stage::Head => "head",
            Stage::Sampling => "sampling",
        }
    }
}

/// Times by stage since `begin`; off before that.
#[derive(Debug, Default)]
pub struct Spans {
    on: bool,
    last: u64,
    ns: [u64; Stage::ALL.len()],
}

impl Spans {
    /// Switches the clock on or off and starts from zero.
    pub fn begin(&mut self, on: bool) {
        *self = Self { on, ..Self::default() };
        self.resume();
    }

    /// Assigns the time since the last read to no stage.
    #[inline]
    pub fn resume(&mut self) {
        if self.on {
            self.last = MonoNs::now().0;
        }
    }

    /// Assigns the time since the last read to `stage`.
    #[inline]
    pub fn end(&mut self, stage: Stage) {
        if self.on {
            let now = MonoNs::now().0;
            self.ns[stage as usize] += now - self.last;
            self.last = now;
        }
    }

    /// Nanoseconds by stage so far; restarts from zero.
    pub fn take(&mut self) -> BTreeMap<String, u64> {
        let taken = std::mem::take(&mut self.ns);
        let stages = Stage::ALL.into_iter().zip(taken).filter(|(_, ns)| *ns > 0);
        stages.map(|(stage, ns)| (stage.name().to_string(), ns)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_that_were_not_asked_for_take_no_time() {
        let mut spans = Spans::default();
        spans.begin(false);
        spans.end(Stage::Mlp);
        assert!(spans.take().is_empty());
    }

    #[test]
    fn every_stage_gets_what_passed_since_the_last_border() {
        let mut spans = Spans::default();
        let begin = MonoNs::now().0;
        spans.begin(true);
        std::thread::sleep(std::time::Duration::from_millis(2));
        spans.end(Stage::Mlp);
        std::thread::sleep(std::time::Duration::from_millis(1));
        spans.resume();
        spans.end(Stage::Head);
        let whole = MonoNs::now().0 - begin;
        let taken = spans.take();
        assert!(taken["mlp"] >= 2_000_000 && taken["head"] < taken["mlp"]);
        assert!(taken.values().sum::<u64>() < whole, "what no stage has is in none");
        assert!(spans.take().is_empty());
    }
}
