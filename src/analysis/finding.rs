//! What a reader must know before quoting a number. Each finding has a stable code, a message and
//! advice.

use super::gpu::OfCard;
use super::kind_name;
use crate::metric::Metric;
use crate::number::{Form, text};
use crate::record::{FailureKind, Warning};
use crate::units::three_digits;

/// The code of the warning that a file holds metrics which this version does not know.
pub const UNKNOWN_METRICS: &str = "unknown_metrics";

/// Something to know before quoting a number.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Finding {
    SyntheticWeights,
    DebugBuild {
        profile: String,
    },
    Incomplete {
        launches: usize,
    },
    /// A newer llm-bench wrote them.
    UnknownMetrics {
        names: Vec<String>,
    },
    Resumed {
        times: usize,
        /// When the run was last resumed.
        last: String,
    },
    Failed {
        arm: String,
        failed: usize,
        of: usize,
        kind: FailureKind,
        line: String,
    },
    /// Absent if all arms have the same number.
    FewLaunches {
        arm: Option<String>,
        n: u32,
    },
    BusyMachine {
        seen: Seen,
    },
    /// The control groups allow less time than the engines have threads.
    ProcessorQuota {
        quota: f64,
        threads: u32,
    },
    /// Load average of the last minute before the first launch.
    LoadedMachine {
        load: f64,
        threads: u32,
    },
    /// Disturbed by the rule stated before the run.
    Disturbed {
        launches: usize,
        of: usize,
    },
    Steal {
        seen: Seen,
    },
    PageCacheCold {
        seen: Seen,
    },
    HighVariance {
        arm: String,
        cv: f64,
        n: u32,
    },
    NotSteady {
        arm: String,
        seen: Seen,
    },
    BandwidthExceeded {
        arm: String,
        mbu: f64,
    },
    NotANumber {
        arm: String,
        metric: Metric,
    },
    Nondeterministic {
        arm: String,
        prompts: Vec<String>,
    },
    UnequalPrecision {
        baseline: String,
        arms: Vec<String>,
    },
    /// Slowed down by the worker's option for checks of the instrument.
    SlowedDown {
        arm: String,
        factor: f64,
    },
    /// The arm failed the comparison with the float32 reference.
    OtherFunction {
        arm: String,
        reference: String,
        reason: String,
    },
    /// Of the card that the arm ran on.
    Card {
        arm: String,
        of: OfCard,
    },
    TokensDiffer {
        arm: String,
        reference: String,
        prompt: String,
        agree: usize,
        of: usize,
        /// How many prompts differ, and how many were compared.
        differing: usize,
        prompts: usize,
    },
}

/// How many launches showed something, and the worst value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Seen {
    pub launches: usize,
    pub of: usize,
    pub worst: f64,
}

/// Whether a warning states a circumstance rather than a doubt about the numbers.
pub fn is_information(code: &str) -> bool {
    const CODES: [&str; 5] =
        ["synthetic_weights", "unequal_precision", "tokens_differ", "gpu_unread", "gpu_waited"];
    CODES.contains(&code)
}

impl Finding {
    /// Stable name, for scripts.
    pub fn code(&self) -> &'static str {
        match self {
            Finding::SyntheticWeights => "synthetic_weights",
            Finding::DebugBuild { .. } => "debug_build",
            Finding::Incomplete { .. } => "incomplete_run",
            Finding::UnknownMetrics { .. } => UNKNOWN_METRICS,
            Finding::Resumed { .. } => "resumed",
            Finding::Failed { .. } => "failed_launches",
            Finding::FewLaunches { .. } => "few_launches",
            Finding::BusyMachine { .. } => "busy_machine",
            Finding::ProcessorQuota { .. } => "processor_quota",
            Finding::LoadedMachine { .. } => "loaded_machine",
            Finding::Disturbed { .. } => "disturbed_launches",
            Finding::Steal { .. } => "steal",
            Finding::PageCacheCold { .. } => "page_cache_not_warm",
            Finding::HighVariance { .. } => "high_variance",
            Finding::NotSteady { .. } => "not_steady",
            Finding::BandwidthExceeded { .. } => "bandwidth_exceeded",
            Finding::NotANumber { .. } => "not_a_number",
            Finding::Nondeterministic { .. } => "nondeterministic",
            Finding::UnequalPrecision { .. } => "unequal_precision",
            Finding::SlowedDown { .. } => "slowed_down",
            Finding::OtherFunction { .. } => "other_function",
            Finding::Card { of, .. } => of.code(),
            Finding::TokensDiffer { .. } => "tokens_differ",
        }
    }

    /// The arm concerned; `None` if the finding concerns the run.
    pub fn arm(&self) -> Option<&str> {
        match self {
            Finding::Failed { arm, .. }
            | Finding::HighVariance { arm, .. }
            | Finding::NotSteady { arm, .. }
            | Finding::BandwidthExceeded { arm, .. }
            | Finding::NotANumber { arm, .. }
            | Finding::Nondeterministic { arm, .. }
            | Finding::SlowedDown { arm, .. }
            | Finding::OtherFunction { arm, .. }
            | Finding::Card { arm, .. }
            | Finding::TokensDiffer { arm, .. } => Some(arm),
            Finding::FewLaunches { arm, .. } => arm.as_deref(),
            _ => None,
        }
    }

    /// The finding as one sentence.
    pub fn message(&self) -> String {
        match self {
            Finding::SyntheticWeights => {
                "the weights are synthetic: exact shapes and quantization, random values".into()
            }
            Finding::DebugBuild { profile } => {
                format!("this llm-bench was built with profile {profile:?}, not \"release\"")
            }
            Finding::Incomplete { launches } => format!(
                "the run stopped before its plan was done; {} recorded",
                count(*launches, "launch is", "launches are")
            ),
            Finding::ProcessorQuota { quota, threads } => format!(
                "the control group allows {} processors of time to engines of {threads} threads",
                three_digits(*quota)
            ),
            Finding::UnknownMetrics { names } => format!(
                "the file holds {} that this llm-bench does not know: {}",
                count(names.len(), "metric", "metrics"),
                names.join(", ")
            ),
            Finding::Resumed { times, last } => format!(
                "the run was interrupted and resumed {}, the last time at {last}",
                count(*times, "time", "times")
            ),
            Finding::Failed { arm, failed, of, kind, line } => format!(
                "{arm} failed in {failed} of {}: {}{}{line}",
                count(*of, "launch", "launches"),
                kind_name(*kind),
                if line.is_empty() { "" } else { ": " },
            ),
            Finding::FewLaunches { arm, n } => format!(
                "{}{}: {}",
                arm.as_ref().map(|arm| format!("{arm} has ")).unwrap_or_default(),
                count(*n as usize, "launch", "launches"),
                if *n < 2 {
                    "no interval, no test"
                } else {
                    "the interval rests on one degree of freedom and is very wide"
                }
            ),
            Finding::BusyMachine { seen } => format!(
                "other programs used up to {} of the processors before {}",
                share(seen.worst),
                seen.launches()
            ),
            Finding::LoadedMachine { load, threads } => format!(
                "the load average was {} on {} when the run began",
                three_digits(*load),
                count(*threads as usize, "processor", "processors")
            ),
            Finding::Disturbed { launches, of } => {
                format!(
                    "{launches} of {of} launches were disturbed, by the rule set before the run"
                )
            }
            Finding::Steal { seen } => format!(
                "the hypervisor took up to {} of the processors during {}",
                share(seen.worst),
                seen.launches()
            ),
            Finding::PageCacheCold { seen } => format!(
                "the model file was not in the page cache before {}: as little as {} of it",
                seen.launches(),
                share(seen.worst)
            ),
            Finding::HighVariance { arm, cv, n } => {
                format!("{arm}: decode varies by {} (CV) over {n} launches", share(*cv))
            }
            Finding::NotSteady { arm, seen } => format!(
                "{arm}: no steady state in {}; time per token {} by up to {} from the first \
                 third to the last",
                seen.launches(),
                if seen.worst > 0.0 { "grew" } else { "fell" },
                share(seen.worst.abs())
            ),
            Finding::BandwidthExceeded { arm, mbu } => format!(
                "{arm} would have read {} of the measured bandwidth: a bug in the measurement \
                 until proven otherwise",
                share(*mbu)
            ),
            Finding::NotANumber { arm, metric } => {
                format!(
                    "{arm}: a launch has a {metric} that is not a finite number; it is left out"
                )
            }
            Finding::Nondeterministic { arm, prompts } => {
                format!("{arm} gave different tokens from run to run for {}", prompts.join(", "))
            }
            Finding::UnequalPrecision { baseline, arms } => {
                format!("not at equal precision with {baseline}: {}", arms.join(", "))
            }
            Finding::SlowedDown { arm, factor } => {
                format!("{arm} was SLOWED DOWN ON PURPOSE: each token takes {factor} times as long")
            }
            Finding::OtherFunction { arm, reference, reason } => {
                format!("{arm} does not compute the same function as {reference}: {reason}")
            }
            Finding::Card { arm, of } => of.message(arm),
            Finding::TokensDiffer { arm, reference, prompt, agree, of, differing, prompts } => {
                let others = match differing {
                    0 | 1 => String::new(),
                    n => format!("; {n} of {prompts} prompts differ"),
                };
                format!(
                    "{arm} and {reference} agree for the first {agree} of {of} tokens of \
                     {prompt}{others}"
                )
            }
        }
    }

    /// What to do about it.
    pub fn advice(&self) -> String {
        match self {
            Finding::SyntheticWeights => {
                "speed and memory hold, the text means nothing; --weights hub measures the real file"
            }
            Finding::DebugBuild { .. } => {
                "build with cargo build --release; times of an unoptimized build mean nothing"
            }
            Finding::Incomplete { .. } => {
                "finish it with `llm-bench run --resume FILE.json` before comparing"
            }
            Finding::ProcessorQuota { .. } => {
                "the kernel stops threads that have used their share: ask for fewer with -t, or \
                 raise the limit (cpu.max)"
            }
            Finding::UnknownMetrics { .. } => {
                "nothing here says whether they changed; read it with the llm-bench that wrote it"
            }
            Finding::Resumed { .. } => {
                "the machine may have changed in between: compare the launches of the sittings"
            }
            Finding::Failed { kind, .. } => return advice_on_failure(*kind).into(),
            Finding::FewLaunches { .. } => "use -r 5 or more",
            Finding::BusyMachine { .. } | Finding::LoadedMachine { .. } => {
                "close other programs and run again; llm-bench doctor shows what disturbs"
            }
            Finding::Disturbed { .. } => {
                "the values are kept; run again on a quiet machine before quoting them"
            }
            Finding::Steal { .. } => {
                "other guests share these cores: use a dedicated machine or more launches"
            }
            Finding::PageCacheCold { .. } => {
                "free memory for the file; load and cold start include reading it from the disk"
            }
            Finding::HighVariance { .. } => {
                "under 5 % is good: close other programs, fix the clock, or raise -r"
            }
            Finding::NotSteady { seen, .. } if seen.worst > 0.0 => {
                "a hot machine or a cost that grows with the context: compare temperatures, try a longer -n"
            }
            Finding::NotSteady { .. } => "raise --warmup until the first tokens are as fast as the last",
            Finding::BandwidthExceeded { .. } => {
                "do not quote it; run again on a quiet machine and check the threads and the token count"
            }
            Finding::NotANumber { .. } => "report it as a bug, with the result file",
            Finding::Nondeterministic { .. } => {
                "greedy decoding should repeat: expect a race or a reduction in changing order"
            }
            Finding::UnequalPrecision { .. } => {
                "read their ratios with the rows Weights, Compute and KV cache"
            }
            Finding::SlowedDown { .. } => {
                "it checks the instrument (gate --self-check); its speed is nobody's: do not quote it"
            }
            Finding::OtherFunction { .. } => {
                "its speed is that of another model; llm-bench verify shows the numbers"
            }
            Finding::Card { of, .. } => of.advice(),
            Finding::TokensDiffer { .. } => {
                "rounding can do that at a near tie; so can an engine that computes something else"
            }
        }
        .into()
    }

    /// The finding in the form that records hold.
    pub fn to_warning(&self) -> Warning {
        Warning {
            code: self.code().into(),
            arm: self.arm().map(str::to_string),
            message: self.message(),
            advice: self.advice(),
        }
    }
}

impl Seen {
    fn launches(&self) -> String {
        format!("{} of {}", self.launches, count(self.of, "launch", "launches"))
    }
}

fn advice_on_failure(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::MissingDependency | FailureKind::SpawnFailed => {
            "llm-bench engines check tells what is missing, engines install gets it"
        }
        FailureKind::Unsupported => {
            "choose an engine that has it: the reason says what this one has"
        }
        FailureKind::UnsupportedQuant => "llm-bench engines list tells what each engine can read",
        FailureKind::DoesNotFit => "choose a smaller model or quantization, or a larger machine",
        FailureKind::Oom => "use a smaller model or quantization, or free memory",
        FailureKind::BadModel => "llm-bench models inspect shows what the file holds",
        FailureKind::Timeout => "the engine hung or the deadline is too short for this machine",
        FailureKind::Lied
        | FailureKind::WrongTokens
        | FailureKind::Protocol
        | FailureKind::Implausible => "the engine's script is at fault: its numbers were refused",
        FailureKind::Unreachable => "start the server, or correct the address of --endpoint",
        FailureKind::ServerError => "the reason is in the server's own words; its log may say more",
        FailureKind::CompileFailed
        | FailureKind::Internal
        | FailureKind::Killed
        | FailureKind::Exited => {
            "the end of its stderr is in the JSON file, under error.stderr_tail"
        }
    }
}

fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

fn share(x: f64) -> String {
    text(x, Form::Share)
}
