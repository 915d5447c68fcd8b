//! What a set of numbers was measured of: one list of facts about host, build, model, engine and
//! workload. Each fact has its policy for three uses: `compare` and `gate` (refuse, warn), the
//! lines of a history (split or not), and `--resume` (refuse or not). docs/IDENTITY.md is this
//! list as a table.
//!
//! The rule: a difference that makes the numbers those of another thing is refused and splits a
//! line; one that may move them is warned of; a resumed session refuses both, because its launches
//! stand side by side as if nothing had happened in between.

mod alike;
mod compared;
mod line;
#[cfg(test)]
mod table;

use serde_json::{Value, json};

pub use alike::scalar;
pub use compared::{Difference, Identity, Severity};
pub use line::{Cell, LineIdentity};

use crate::record::{Arm, Record};
use alike::{Alike, Likeness};

/// One thing that a number depends on.
struct Fact {
    /// Where a record holds it.
    key: &'static str,
    /// For readers.
    title: &'static str,
    /// Reads it; null where the record does not say.
    of: fn(&Record, &Arm) -> Value,
    alike: Alike,
    compare: Compare,
    line: InLine,
    resume: Resume,
    /// Files of earlier versions do not hold it: where one side lacks it, nothing differs.
    later: bool,
    #[cfg_attr(not(test), expect(dead_code, reason = "it is for the table of the docs"))]
    why: &'static str,
}

/// What a difference means for `compare` and `gate`; the name is that of the field in their JSON.
#[derive(Clone, Copy)]
enum Compare {
    Refuse(&'static str),
    Warn(&'static str),
    Ignore,
}

/// Whether a difference splits a line of a history, and where a stored identity holds the fact.
#[derive(Clone, Copy)]
enum InLine {
    /// In this field.
    Splits(&'static str),
    /// A pair of values in two fields.
    SplitsTwo([&'static str; 2]),
    /// Inside the field of another fact.
    SplitsWithin(&'static str, fn(&Value) -> Value),
    /// Kept with each session, to be read there.
    WithSession,
    No,
}

/// What a difference means for `--resume`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Resume {
    Refuse,
    /// It is taken from the file that is resumed, or follows from what is checked.
    Given,
    No,
}

/// The list. A new fact is one entry here; one that splits lines is also a field of
/// [`LineIdentity`].
const FACTS: &[Fact] = {
    use Compare::{Ignore, Refuse, Warn};
    use InLine::{No, Splits, SplitsTwo, SplitsWithin, WithSession};
    const EXACT: Fact = Fact {
        key: "",
        title: "",
        of: |_, _| Value::Null,
        alike: Alike::Exact,
        compare: Ignore,
        line: No,
        resume: Resume::Refuse,
        later: false,
        why: "",
    };
    &[
        Fact {
            key: "schema",
            title: "result format",
            of: |r, _| json!(r.schema),
            compare: Refuse("schema"),
            line: Splits("schema"),
            why: "another format may define a value differently",
            ..EXACT
        },
        Fact {
            key: "host.os",
            title: "operating system",
            of: |r, _| json!(r.host.os),
            compare: Warn("os"),
            why: "updates come with time; what they change is what a history is to show",
            ..EXACT
        },
        Fact {
            key: "host.kernel",
            title: "kernel",
            of: |r, _| json!(r.host.kernel),
            compare: Warn("kernel"),
            line: WithSession,
            why: "as the operating system",
            ..EXACT
        },
        Fact {
            key: "host.cpu_model",
            title: "CPU",
            of: |r, _| json!(r.host.cpu_model),
            compare: Refuse("cpu_model"),
            line: Splits("cpu_model"),
            why: "another processor",
            ..EXACT
        },
        Fact {
            key: "host.cpu_id",
            title: "CPU family and model",
            of: |r, _| json!(r.host.cpu_id),
            alike: Alike::Stepping,
            compare: Refuse("cpu_id"),
            line: Splits("cpu_id"),
            later: true,
            why: "virtual machines name several generations alike (\"AMD EPYC\")",
            ..EXACT
        },
        Fact {
            key: "host.cpu_caches",
            title: "CPU caches",
            of: |r, _| json!(r.host.cpu_caches),
            compare: Warn("cpu_caches"),
            later: true,
            why: "hypervisors do not report them reliably",
            ..EXACT
        },
        Fact {
            key: "host.isa",
            title: "instruction sets",
            of: |r, _| json!(r.host.isa),
            alike: Alike::InstructionSets,
            compare: Refuse("isa"),
            line: Splits("isa"),
            later: true,
            why: "another generation of processor, or one with a part switched off: other kernels run",
            ..EXACT
        },
        Fact {
            key: "host.cores",
            title: "cores",
            of: |r, _| json!(r.host.cores),
            compare: Refuse("cores"),
            line: Splits("cores"),
            why: "another machine",
            ..EXACT
        },
        Fact {
            key: "host.threads",
            title: "processors",
            of: |r, _| json!(r.host.threads),
            compare: Refuse("threads"),
            line: Splits("processors"),
            why: "another machine, or another share of it",
            ..EXACT
        },
        Fact {
            key: "host.ram_bytes",
            title: "memory",
            of: |r, _| json!(r.host.ram_bytes),
            alike: Alike::Bytes { within: 0.02 },
            compare: Refuse("ram"),
            line: Splits("ram_bytes"),
            why: "another machine; firmware and kernel keep a part that varies from boot to boot",
            ..EXACT
        },
        Fact {
            key: "host.governor",
            title: "power mode (governor)",
            of: |r, _| json!(r.host.governor),
            compare: Refuse("power_mode"),
            line: Splits("governor"),
            why: "it sets the clock",
            ..EXACT
        },
        Fact {
            key: "host.virtualization",
            title: "virtualization",
            of: |r, _| json!(r.host.virtualization),
            compare: Warn("virtualization"),
            why: "it costs a little; its name is the hypervisor's and changes with it",
            ..EXACT
        },
        Fact {
            key: "host.gpu",
            title: "GPU",
            of: |r, _| alike::kinds(&r.host.gpu),
            alike: Alike::Gpus,
            compare: Refuse("gpu_model"),
            line: Splits("gpus"),
            why: "another machine",
            ..EXACT
        },
        Fact {
            key: "host.gpu.driver",
            title: "GPU driver",
            of: |r, _| alike::driver(&json!(r.host.gpu)),
            alike: Alike::Major,
            compare: Refuse("driver"),
            line: SplitsWithin("gpus", alike::driver),
            why: "a major version brings another compiler and other libraries",
            ..EXACT
        },
        Fact {
            key: "host.measured_read_bandwidth_bytes_per_s",
            title: "measured read bandwidth",
            of: |r, arm| json!(r.host.read_bandwidth(arm.point.device.unwrap_or_default())),
            alike: Alike::Rate { within: 0.10 },
            compare: Warn("bandwidth"),
            resume: Resume::No,
            why: "of the arm's device: a reading, and on a busy machine a low one; the host's is read \
                  again around each launch",
            ..EXACT
        },
        Fact {
            key: "build",
            title: "program",
            of: |r, _| json!(r.build),
            alike: Alike::Program,
            line: WithSession,
            why: "what a comparison is about; a resumed session needs the same program file, or \
                  another build of the same commit without changes",
            ..EXACT
        },
        Fact {
            key: "build.features",
            title: "features of the build",
            of: |r, _| json!(r.build.features),
            alike: Alike::Set,
            compare: Refuse("features"),
            line: Splits("features"),
            why: "other code is compiled",
            ..EXACT
        },
        Fact {
            key: "build.target_cpu",
            title: "target processor of the build",
            of: |r, _| json!(r.build.target_cpu),
            compare: Refuse("target_cpu"),
            line: Splits("target_cpu"),
            why: "as the features",
            ..EXACT
        },
        Fact {
            key: "build.profile",
            title: "profile of the build",
            of: |r, _| json!(r.build.profile),
            compare: Refuse("profile"),
            line: Splits("profile"),
            why: "as the features",
            ..EXACT
        },
        Fact {
            key: "arms.engine",
            title: "engine",
            of: |_, arm| json!([arm.engine, arm.label]),
            alike: Alike::Engine,
            compare: Refuse(ENGINE),
            line: SplitsTwo(["engine", "label"]),
            resume: Resume::Given,
            why: "another engine or configuration; `--pair` compares two on purpose",
            ..EXACT
        },
        Fact {
            key: "version",
            title: "version",
            of: |_, arm| {
                let others = arm.version.iter().filter(|(name, _)| *name != "llm-bench");
                others.map(|(name, v)| (name.clone(), json!(v))).collect()
            },
            alike: Alike::Each,
            compare: Warn("version"),
            line: WithSession,
            why: "versions of the engine and its libraries; what a history follows",
            ..EXACT
        },
        Fact {
            key: "arms.precision",
            title: "precision",
            of: |_, arm| {
                let parts = arm.precision.as_ref().map(|p| [&p.weights, &p.compute, &p.kv]);
                parts.map_or(Value::Null, |parts| json!(parts))
            },
            alike: Alike::List,
            compare: Warn("precision"),
            resume: Resume::Given,
            why: "the reader must see it; it may be what the comparison is about",
            ..EXACT
        },
        Fact {
            key: "setting",
            title: "setting",
            of: |_, arm| {
                let others = arm.settings.iter().filter(|(name, _)| *name != "threads");
                others.map(|(name, v)| (name.clone(), v.clone())).collect()
            },
            alike: Alike::Each,
            compare: Warn("setting"),
            resume: Resume::Given,
            why: "what the engine chose; it follows from engine, version and machine",
            ..EXACT
        },
        Fact {
            key: "model.name",
            title: "model",
            of: |r, arm| json!(r.model_of(arm).name),
            line: Splits("model"),
            resume: Resume::Given,
            why: "the file's hash decides; lines are listed by name",
            ..EXACT
        },
        Fact {
            key: "model.sha256",
            title: "model file",
            of: |r, arm| json!(r.model_of(arm).sha256),
            alike: Alike::Digest,
            compare: Refuse("model_sha256"),
            line: Splits("model_sha256"),
            why: "other weights",
            ..EXACT
        },
        Fact {
            key: "model.quant",
            title: "quantization",
            of: |r, arm| json!(r.model_of(arm).quant),
            compare: Refuse("quant"),
            line: Splits("quant"),
            why: "other bytes are read",
            ..EXACT
        },
        Fact {
            key: "model.weights",
            title: "source of the weights",
            of: |r, arm| json!(r.model_of(arm).weights),
            line: Splits("weights"),
            why: "the file's hash decides; reports mark synthetic weights",
            ..EXACT
        },
        Fact {
            key: "workload.prompt_set",
            title: "name of the prompt set",
            of: |r, _| json!(r.workload.prompt_set),
            line: Splits("prompt_set"),
            resume: Resume::Given,
            why: "the hash decides; lines are listed by name",
            ..EXACT
        },
        Fact {
            key: "workload.sha256",
            title: "prompt set",
            of: |r, _| json!(r.workload.sha256),
            alike: Alike::Digest,
            compare: Refuse("prompt_set"),
            line: Splits("prompts_sha256"),
            why: "other tokens or lengths",
            ..EXACT
        },
        Fact {
            key: "arms.point.device",
            title: "device",
            of: |_, arm| json!(arm.point.device),
            compare: Refuse("device"),
            line: Splits("device"),
            resume: Resume::Given,
            why: "another processor does the work",
            ..EXACT
        },
        Fact {
            key: "arms.point.threads",
            title: "threads of the engines",
            of: |_, arm| json!(arm.point.threads),
            compare: Refuse("engine_threads"),
            line: Splits("threads"),
            resume: Resume::Given,
            why: "another share of the machine does the work",
            ..EXACT
        },
        Fact {
            key: "arms.point.batch",
            title: "sequences generated together",
            of: |_, arm| json!(arm.point.batch),
            compare: Refuse("batch"),
            line: Splits("batch"),
            resume: Resume::Given,
            why: "weights are read once for all sequences of a step; files of one sequence lack it",
            ..EXACT
        },
        Fact {
            key: "run.config.warmup",
            title: "warm-up generations",
            of: |r, _| number(r, "warmup"),
            compare: Refuse("warmup"),
            line: Splits("warmup"),
            resume: Resume::Given,
            why: "without warm-up, caches and compilers fill in what is measured",
            ..EXACT
        },
        Fact {
            key: "run.config.iterations",
            title: "generations in a launch",
            of: |r, _| number(r, "iterations"),
            compare: Refuse("iterations"),
            line: Splits("iterations"),
            resume: Resume::Given,
            why: "percentiles and maxima of a launch grow with its gaps, and its mean varies less",
            ..EXACT
        },
        Fact {
            key: "run.config.page_cache",
            title: "state of the page cache",
            of: |r, _| text(r, "page_cache"),
            compare: Refuse("page_cache"),
            line: Splits("page_cache"),
            resume: Resume::Given,
            why: "load and cold start then read the disk",
            ..EXACT
        },
        Fact {
            key: "run.config.delay_s",
            title: "pause before a launch",
            of: |r, _| json!(r.run.config.get("delay_s").and_then(Value::as_f64)),
            compare: Warn("delay"),
            resume: Resume::Given,
            why: "a pause cools the machine down",
            ..EXACT
        },
    ]
};

/// The field that holds engine and label.
const ENGINE: &str = "engine";

fn number(record: &Record, key: &str) -> Value {
    let found = record.run.config.get(key).and_then(Value::as_u64);
    json!(found.and_then(|n| u32::try_from(n).ok()))
}

fn text(record: &Record, key: &str) -> Value {
    json!(record.run.config.get(key).and_then(Value::as_str))
}

/// Whether a run asked for a cold page cache.
pub fn asked_for_cold_cache(record: &Record) -> bool {
    text(record, "page_cache") == "cold"
}

impl Fact {
    fn likeness(&self, a: &Value, b: &Value) -> Likeness {
        match (a.is_null(), b.is_null()) {
            (false, false) => self.alike.likeness(a, b),
            (true, true) => Likeness::Same,
            _ if self.later => Likeness::Same,
            _ => Likeness::Other,
        }
    }
}

/// What keeps launches of `now` from standing beside those of `then` in one resumed session, one
/// sentence each: `host.kernel: expected "6.8.0", found "6.9.1"`.
pub fn unlike(then: (&Record, &Arm), now: (&Record, &Arm)) -> Vec<String> {
    let differs = |fact: &Fact| {
        let (a, b) = ((fact.of)(then.0, then.1), (fact.of)(now.0, now.1));
        if fact.resume != Resume::Refuse || fact.likeness(&a, &b) == Likeness::Same {
            return None;
        }
        let key = match fact.alike {
            Alike::Each => format!("{} of {}", fact.key, now.1.engine),
            _ => fact.key.to_string(),
        };
        let [a, b] = [a, b].map(|v| fact.alike.exactly(&v));
        Some(format!("{key}: expected {a}, found {b}"))
    };
    FACTS.iter().filter_map(differs).collect()
}

#[cfg(test)]
mod tests;
