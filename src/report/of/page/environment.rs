//! Everything that a reader needs to judge or repeat a result: machine, build, files, command,
//! settings, engines, and the machine around each launch.

use serde_json::Value;

use super::names::Names;
use crate::number::{Form, count, text};
use crate::record::{Arm, Launch, Model, Record, Status};
use crate::report::document::{Block, Cell, Column, Document, Level, Table, joined};
use crate::text::clean;
use crate::units::{Bytes, BytesPerSecond};

pub fn add(document: &mut Document, record: &Record, names: &Names) {
    document.push(Block::Heading(Level::Part, "Environment".into()));
    document.push(Block::Heading(Level::Detail, "Machine".into()));
    document.push(Block::Facts(machine(record)));
    document.push(Block::Heading(Level::Detail, "Build and run".into()));
    document.push(Block::Facts(run(record)));
    document.push(Block::Heading(Level::Detail, "Model files".into()));
    document.push(Block::Facts(models(record)));
    let engines = Block::Facts(engines(record, names));
    document.push(Block::Fold("Engines: versions, precision, settings".into(), vec![engines]));
    let settings = Block::Facts(settings(&record.run.config));
    document.push(Block::Fold("Every setting in force".into(), vec![settings]));
    let launches = Block::Table(launches(record, names));
    document.push(Block::Fold("The machine around each launch".into(), vec![launches]));
}

/// Facts without those that are not known.
fn facts(all: Vec<(&str, Option<String>)>) -> Vec<(String, String)> {
    let known = |(name, fact): (&str, Option<String>)| {
        let fact = clean(&fact?);
        (!fact.is_empty()).then(|| (name.to_string(), fact))
    };
    all.into_iter().filter_map(known).collect()
}

fn machine(record: &Record) -> Vec<(String, String)> {
    let h = &record.host;
    let rate = |rate: Option<f64>| rate.map(|rate| BytesPerSecond(rate).to_string());
    let mut all = vec![
        ("Processor", Some(h.cpu_model.clone())),
        ("Family", h.cpu_id.clone()),
        ("Caches", h.cpu_caches.clone()),
        ("Cores, threads", Some(format!("{} cores, {} threads usable", h.cores, h.threads))),
        ("Instruction sets", Some(h.isa.join(", "))),
        ("Memory", Some(Bytes(h.ram_bytes).to_string())),
        ("Read bandwidth", rate(h.measured_read_bandwidth_bytes_per_s)),
        ("Bandwidth by", h.bandwidth_method.clone()),
        ("System", Some(joined([h.os.clone(), h.kernel.clone()]))),
        ("Governor", h.governor.clone()),
        ("Virtualization", h.virtualization.clone()),
        ("Processor quota", h.processor_quota.map(|q| text(q, Form::Significant))),
        ("Load before", h.load_average_1m.map(|x| text(x, Form::Fixed(2)))),
        ("Clock reading", h.timer_overhead_ns.map(|ns| format!("{} ns", text(ns, Form::Fixed(0))))),
    ];
    for gpu in &h.gpu {
        let parts = [
            gpu.name.clone(),
            if gpu.memory_bytes > 0 { Bytes(gpu.memory_bytes).to_string() } else { String::new() },
            gpu.driver.as_ref().map(|d| format!("driver {d}")).unwrap_or_default(),
            rate(gpu.measured_read_bandwidth_bytes_per_s)
                .map(|r| format!("reads {r}"))
                .unwrap_or_default(),
            gpu.unmeasured.clone().unwrap_or_default(),
        ];
        all.push(("Card", Some(joined(parts))));
    }
    facts(all)
}

fn run(record: &Record) -> Vec<(String, String)> {
    let (run, build) = (&record.run, &record.build);
    let commit = build.git_commit.as_ref().map(|commit| match build.git_dirty {
        Some(true) => format!("{commit}, with changes that were not committed"),
        _ => commit.clone(),
    });
    let features = (!build.features.is_empty()).then(|| build.features.join(", "));
    let resumed = run.resumed.iter().map(|r| r.at.clone()).collect::<Vec<_>>().join(", ");
    facts(vec![
        ("Command", Some(run.command.clone())),
        ("Started", Some(run.started_at.clone())),
        ("Resumed", Some(resumed)),
        ("Session", Some(run.id.clone())),
        ("Seed", Some(run.seed.to_string())),
        (
            "Workload",
            Some(format!("{}, sha256 {}", record.workload.prompt_set, record.workload.sha256)),
        ),
        ("llm-bench", Some(build.version.clone())),
        ("Commit", commit),
        ("Target, profile", Some(joined([build.target_cpu.clone(), build.profile.clone()]))),
        ("Features", features),
        ("Program", build.executable_sha256.as_ref().map(|sha| format!("sha256 {sha}"))),
    ])
}

fn models(record: &Record) -> Vec<(String, String)> {
    let fact = |model: &&Model| {
        let parts = [
            format!("weights from {}", super::super::weights(model.weights)),
            format!("{} parameters", model.n_params),
            Bytes(model.size_bytes).to_string(),
            format!("sha256 {}", model.sha256),
            model.file.clone(),
        ];
        (joined([model.name.clone(), model.quant.clone()]), joined(parts))
    };
    record.models().iter().map(fact).collect()
}

fn engines(record: &Record, names: &Names) -> Vec<(String, String)> {
    let fact = |arm: &Arm| {
        let precision = arm
            .precision
            .as_ref()
            .map(|p| format!("weights {}, compute {}, KV cache {}", p.weights, p.compute, p.kv));
        let versions = arm.version.iter().map(|(name, version)| format!("{name} {version}"));
        let options = arm.point.options.iter().map(|(key, value)| setting(key, value));
        let settings = arm.settings.iter().map(|(key, value)| setting(key, value)).chain(options);
        let parts = [
            arm.point.device.map(|device| device.to_string()),
            arm.point.threads.map(|n| count(n as usize, "thread")),
            arm.point.batch.map(|n| format!("batch {n}")),
            precision,
        ];
        let parts = parts.into_iter().flatten().chain(versions).chain(settings);
        (names.name(arm), joined(parts))
    };
    record.arms.iter().map(fact).collect()
}

fn setting(key: &str, value: &Value) -> String {
    match value {
        Value::String(text) => format!("{key} {text}"),
        value => format!("{key} {value}"),
    }
}

/// `workload.iterations: 2`, for nested settings too.
fn settings(config: &Value) -> Vec<(String, String)> {
    fn walk(path: &str, value: &Value, found: &mut Vec<(String, String)>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    walk(&path, value, found);
                }
            }
            Value::Null => {}
            Value::String(text) => found.push((clean(path), clean(text))),
            value => found.push((clean(path), clean(&value.to_string()))),
        }
    }
    let mut found = Vec::new();
    walk("", config, &mut found);
    found
}

fn launches(record: &Record, names: &Names) -> Table {
    let mut table = Table::new([
        Column::left("Launch"),
        Column::right("Order"),
        Column::left("Began"),
        Column::left("State"),
        Column { note: "resident".into(), ..Column::right("Page cache") },
        Column { note: "before".into(), ..Column::right("Others") },
        Column { note: "by the host".into(), ..Column::right("Stolen") },
        Column { note: "MHz".into(), ..Column::right("Clock") },
        Column { note: "GB/s, before, after".into(), ..Column::right("Bandwidth") },
        Column::left("Compile cache"),
    ]);
    table.stub = 1;
    for arm in &record.arms {
        arm.launches.iter().for_each(|launch| table.push(one_launch(arm, launch, names)));
    }
    table
}

fn one_launch(arm: &Arm, launch: &Launch, names: &Names) -> Vec<Cell> {
    let e = &launch.environment;
    let share = |x: Option<f64>| Cell::maybe(x, Form::Percent(1));
    let state = match (launch.status, e.disturbed || e.is_disturbed()) {
        (Status::Failed, _) => "failed",
        (Status::Ok, true) => "ok, disturbed",
        (Status::Ok, false) => "ok",
    };
    let both = e
        .read_bandwidth_bytes_per_s
        .map(|both| both.map(|rate| text(rate / 1e9, Form::Significant)).join(", "));
    vec![
        format!("{} #{}", names.name(arm), launch.index + 1).into(),
        launch.order.into(),
        clean(&launch.started_at).into(),
        state.into(),
        share(e.page_cache_resident),
        share(e.busy_before),
        share(e.steal),
        Cell::maybe(e.cpu_mhz, Form::Fixed(0)),
        both.into(),
        e.compile_cache.as_deref().map(clean).into(),
    ]
}
