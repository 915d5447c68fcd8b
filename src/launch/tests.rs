//! The axes of a launch, each with a fake behind its trait: a task without tokens, a connection
//! that shows neither process nor ids, a sensor that only listens.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock, Mutex};

use super::*;
use crate::engine::provision::Provisioner;
use crate::engine::{Broken, Connection, Observes, Pid, Registry};
use crate::metric::Metric;
use crate::plan;
use crate::protocol::{Feature, Generated, Loaded, MemoryBook, Ready, Reply, Request};
use crate::record::{Model, PromptRun, Role, WeightsSource};
use crate::sensors::{Mark, Sensor};
use crate::task::Running;
use crate::task::generate::Generation;
use crate::units::MonoNs;
use crate::workload::{Prompt, Workload};

/// An engine in this process, which answers at once.
struct Fake {
    observes: Observes,
    answers: VecDeque<Reply>,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Connection for Fake {
    fn observes(&self) -> Observes {
        self.observes
    }

    fn send(&mut self, request: Request) {
        let now = || MonoNs::now().0;
        let ids = |n: u32| if self.observes.ids { (0..n).collect() } else { Vec::new() };
        self.answers.extend(match &request {
            Request::Load(_) => Some(Reply::Loaded(Box::new(Loaded {
                t_begin_ns: now(),
                t_end_ns: now(),
                weight_bytes_per_token: Some(1000),
                ..Loaded::default()
            }))),
            Request::Generate(g) => Some(Reply::Generated(Generated {
                id: g.id,
                tokens: ids(g.n),
                others: g.others.iter().map(|_| ids(g.n)).collect(),
                t_begin_ns: now(),
                t_prefill_end_ns: self.observes.clock.then(now),
                t_tokens_ns: (0..g.n).map(|_| MonoNs::now().0).collect(),
                compile_ns: None,
                depth: None,
                reused: None,
                profile: None,
            })),
            Request::Memory => {
                let book = MemoryBook { kv_bytes: Some(7), ..MemoryBook::default() };
                Some(Reply::Memory(book))
            }
            _ => None,
        });
        self.requests.lock().unwrap().push(request);
    }

    fn next(&mut self, _: Duration) -> Result<Option<(MonoNs, Reply)>, Broken> {
        Ok(self.answers.pop_front().map(|reply| (MonoNs::now(), reply)))
    }

    fn abort(&mut self) -> Option<String> {
        None
    }

    fn close(&mut self, _: Duration) -> Result<Vec<String>, Broken> {
        Ok(Vec::new())
    }
}

fn fake(observes: Observes, requests: &Arc<Mutex<Vec<Request>>>) -> Result<Engine, Failure> {
    let requests = Arc::clone(requests);
    let connection = Fake { observes, answers: VecDeque::new(), requests };
    Ok(Engine::over(Box::new(connection), Deadlines::default(), Ready::default()))
}

/// A task that generates nothing: the round trips of a question.
struct Asking(u32);

impl Task for Asking {
    type Answer = ();

    fn script(&self, launch: &mut Running<'_>) -> Result<(), Failure> {
        for iteration in 0..self.0 {
            let begin = MonoNs::now();
            launch.engine.memory()?;
            launch.mark(Mark::WindowBegin, begin);
            launch.mark(Mark::WindowEnd, MonoNs::now());
            launch.keep(PromptRun { iteration, id: "q".into(), ..PromptRun::new(Role::Measured) });
        }
        launch.finished()
    }

    fn metrics(&self, measured: &mut Measured<'_>) {
        let n = measured.launch.prompts.len() as f64;
        measured.launch.metrics.insert(Metric::E2eTps, n);
    }
}

/// Records the marks that it receives.
struct Listening(Arc<Mutex<Vec<(Mark, MonoNs)>>>);

impl Sensor for Listening {
    fn mark(&mut self, mark: Mark, at: MonoNs) {
        self.0.lock().unwrap().push((mark, at));
    }

    fn end(self: Box<Self>, launch: &mut Launch) {
        launch.environment.temperature_c = Some(self.0.lock().unwrap().len() as f64);
    }
}

fn model() -> Model {
    Model {
        name: "fake".into(),
        file: "fake.gguf".into(),
        sha256: String::new(),
        quant: "F16".into(),
        weights: WeightsSource::File,
        n_params: 1,
        size_bytes: 1,
        n_vocab: Some(2),
        weight_bytes_per_token: None,
        weights_per_token: None,
        kv_values_per_position: Some(10),
        context_length: None,
    }
}

fn workload() -> Workload {
    let prompt = |id: &str| Prompt {
        id: id.into(),
        category: None,
        why: None,
        n_gen: 8,
        context: Vec::new(),
        ids: vec![1, 1],
        others: Vec::new(),
        texts: Vec::new(),
    };
    Workload::new("fake", vec![prompt("a"), prompt("b")])
}

struct Launched {
    outcome: Outcome,
    requests: Vec<Request>,
    marks: Vec<(Mark, MonoNs)>,
}

impl Launched {
    fn has(&self, metric: Metric) -> bool {
        self.outcome.launch.metrics.contains_key(&metric)
    }
}

/// Runs one launch of `task` over a fake connection, on a model file that exists.
fn launched(task: &dyn Task<Answer = ()>, observes: Observes) -> Launched {
    launched_on(Device::Cpu, Some(BytesPerSecond(1e9)), task, observes)
}

fn launched_on(
    device: Device,
    known_bandwidth: Option<BytesPerSecond>,
    task: &dyn Task<Answer = ()>,
    observes: Observes,
) -> Launched {
    let folder = tempfile::tempdir().unwrap();
    let model_path = folder.path().join("fake.gguf");
    std::fs::write(&model_path, [0; 100]).unwrap();
    let registry = Registry::load().unwrap();
    let engine = registry.find("candle").unwrap();
    let provisioner = Provisioner::new(folder.path().into(), false).unwrap();
    let installed = provisioner.provide(engine, "", &|_| {}).unwrap();
    let settings = Settings {
        model_path,
        stamp: None,
        device,
        threads: 1,
        batch: 1,
        n_ctx: 64,
        page_cache: PageCache::Warm,
        deadlines: Deadlines::default(),
        idle_window: Duration::ZERO,
        read_bandwidth: false,
        known_bandwidth,
        macs: [("f32".to_string(), 1e9)].into(),
    };
    let subject = Subject { engine, installed: &installed, task, settings: &settings };
    let (requests, marks) = (Arc::default(), Arc::default());
    let mut sensors = Sensors::default();
    sensors.add(Listening(Arc::clone(&marks)));
    let outcome = over(&subject, (3, 5), |_| fake(observes, &requests), sensors).unwrap();
    let (requests, marks) = (requests.lock().unwrap().clone(), marks.lock().unwrap().clone());
    Launched { outcome, requests, marks }
}

fn everything() -> Observes {
    let pid = Some(Pid(std::process::id()));
    Observes { spawned: Some(MonoNs::now()), pid, ids: true, clock: true }
}

#[test]
fn a_task_without_tokens_runs_from_start_to_end() {
    let launched = launched(&Asking(3), everything());
    let launch = &launched.outcome.launch;
    assert_eq!((launch.status, launch.index, launch.order), (Status::Ok, 3, 5));
    assert_eq!(launch.metrics[&Metric::E2eTps], 3.0);
    assert!(launched.has(Metric::ModelLoad) && !launched.has(Metric::PeakHostBytes));
    assert!(launch.memory.peak_host_bytes.is_some() && launch.memory.book.kv_bytes == Some(7));
    let json = serde_json::to_value(&launch.prompts[2]).unwrap();
    for token_fact in ["n_gen", "token_ns", "tokens_hash", "tokens", "begin_ns"] {
        assert!(json.get(token_fact).is_none(), "{token_fact} in {json}");
    }
    let generated = |r: &Request| matches!(r, Request::Generate(_));
    assert!(!launched.requests.iter().any(generated));
}

fn generation<'a>(model: &'a Model, workload: &'a Workload) -> Generation<'a> {
    static TWICE: LazyLock<plan::Workload> = LazyLock::new(|| plan::Workload::repeated(1, 2));
    Generation { model, workload, plan: &TWICE, batch: 1, profile: true }
}

#[test]
fn a_connection_without_process_ids_and_clock_has_no_value_that_needs_them() {
    let (model, workload) = (model(), workload());
    let task = generation(&model, &workload);
    // The fake's ids exceed this vocabulary, so a launch that sees them fails.
    let seen = launched(&task, everything());
    let error = seen.outcome.launch.error.unwrap();
    assert_eq!(error.kind, FailureKind::WrongTokens);
    assert!(seen.outcome.launch.metrics.is_empty());

    let blind = launched(&task, Observes::default());
    let launch = &blind.outcome.launch;
    assert_eq!(launch.status, Status::Ok, "{:?}", launch.error);
    for metric in [
        Metric::ColdStartTtft,
        Metric::ModelLoad,
        Metric::PrefillTps,
        Metric::PeakHostBytes,
        Metric::TpsPerGb,
        Metric::Mbu,
    ] {
        assert!(!blind.has(metric), "{metric}");
    }
    for metric in [Metric::FirstGenerateTtft, Metric::Ttft, Metric::DecodeTps] {
        assert!(blind.has(metric), "{metric}");
    }
    assert!(launch.timeline_ns.is_empty());
    let only_the_book = MemoryBook { kv_bytes: Some(7), ..MemoryBook::default() };
    assert_eq!(launch.memory, crate::record::Memory { book: only_the_book, ..Default::default() });
    let runs = &launch.prompts;
    assert_eq!(runs.len(), 1 + 2 + 1 + 2 + 2);
    assert!(runs.iter().all(|r| r.tokens.is_none() && r.tokens_hash.is_none()));
    assert!(runs.iter().all(|r| r.begin_ns.is_none() && !r.token_ns.is_empty()));
}

#[test]
fn the_same_connection_with_everything_has_them() {
    let (model, workload) = (Model { n_vocab: Some(100), ..model() }, workload());
    let launched = launched(&generation(&model, &workload), everything());
    for metric in
        [Metric::ColdStartTtft, Metric::ModelLoad, Metric::PeakHostBytes, Metric::Ttft, Metric::Mbu]
    {
        assert!(launched.has(metric), "{metric}");
    }
    let launch = launched.outcome.launch;
    for name in ["load_begin", "load_end", "first_token"] {
        assert!(launch.timeline_ns.contains_key(name), "{name}");
    }
    let sum: i64 = launch.memory.breakdown.iter().map(|part| part.bytes).sum();
    assert_eq!(sum, launch.memory.peak_host_bytes.unwrap() as i64);
    let precision = launched.outcome.identity.precision;
    assert!(precision.is_some());
    assert_eq!(launched.outcome.identity.settings["weight_bytes_per_token"], 1000);
}

#[test]
fn a_launch_on_a_card_has_its_state_and_an_mbu_only_with_the_cards_own_bandwidth() {
    let (model, workload) = (Model { n_vocab: None, ..model() }, workload());
    let task = generation(&model, &workload);
    let card = Device::Cuda(0);
    let with = launched_on(card, Some(BytesPerSecond(1e12)), &task, everything());
    let without = launched_on(card, None, &task, everything());
    assert!(with.has(Metric::Mbu) && !without.has(Metric::Mbu));
    for launched in [with, without] {
        let launch = launched.outcome.launch;
        assert_eq!(launch.status, Status::Ok, "{:?}", launch.error);
        // Without a card, the reason why nothing was read.
        assert!(launch.environment.gpu.is_some());
        let of_host = launch.memory.breakdown.iter().map(|part| part.part);
        assert!(!of_host.collect::<Vec<_>>().contains(&crate::record::Part::KvCache));
    }
}

#[test]
fn a_sensor_hears_of_each_decode_window_in_order() {
    let (model, workload) = (Model { n_vocab: None, ..model() }, workload());
    let launched = launched(&generation(&model, &workload), everything());
    let marks: Vec<Mark> = launched.marks.iter().map(|(mark, _)| *mark).collect();
    let window = [Mark::Submit, Mark::WindowBegin, Mark::WindowEnd];
    let expected =
        [&[Mark::Ready, Mark::Loaded][..], &window.repeat(4), &[Mark::Finished]].concat();
    assert_eq!(marks, expected);
    assert!(launched.marks.is_sorted_by_key(|(_, at)| *at), "{:?}", launched.marks);
    let launch = &launched.outcome.launch;
    let measured = launch.prompts.iter().filter(|run| run.role == Role::Measured);
    let windows = launched.marks[2..].chunks(3).filter(|marks| marks[0].0 == Mark::Submit);
    for (run, marks) in measured.zip(windows) {
        let decode = run.token_ns[7] - run.token_ns[0];
        assert_eq!(marks[2].1.0 - marks[1].1.0, decode, "first token to last, no more and no less");
        assert_eq!(marks[2].1.0 - marks[0].1.0, run.token_ns[7], "submit to last token");
    }
    assert_eq!(launch.environment.temperature_c, Some(15.0), "it ends after the machine's sensors");
}

#[test]
fn an_engine_that_lacks_a_feature_of_the_task_is_not_asked() {
    let (model, workload) = (model(), workload());
    let batch = Generation { batch: 4, ..generation(&model, &workload) };
    let launched = launched(&batch, everything());
    let error = launched.outcome.launch.error.unwrap();
    assert_eq!(error.kind, FailureKind::Unsupported);
    assert_eq!(error.message, "it does not name `batch` among its features");
    assert!(launched.requests.is_empty(), "{:?}", launched.requests);
    assert_eq!(batch.needs(), [Feature::Batch]);
}
