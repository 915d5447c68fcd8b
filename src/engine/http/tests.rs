//! The connection against a server that keeps to a schedule, and against one that lies.

use std::time::Duration;

use super::*;
use crate::engine::{Engine, Stamped};
use crate::protocol::Ready;

#[path = "../../../tests/mock/server.rs"]
#[allow(dead_code)] // The tests of commands use the rest.
mod mock;

use mock::{Answer, Mock, Part, event};

const VLLM: &str = r#"{"data":[{"id":"m","owned_by":"vllm"}]}"#;
const OTHER: &str = r#"{"data":[{"id":"m","owned_by":"me"}]}"#;

/// A server with this list of models that answers every prompt with these parts.
fn serving(models: &'static str, parts: Vec<Part>) -> Mock {
    answering(models, move || Answer::stream(parts.clone()))
}

fn answering(models: &'static str, answer: impl Fn() -> Answer + Send + Sync + 'static) -> Mock {
    Mock::start(move |request| match &*request.path {
        "/v1/models" => Answer::json(models),
        "/version" => Answer::json(r#"{"version":"1.2.3"}"#),
        _ => answer(),
    })
}

fn engine(mock: &Mock, limit: Duration) -> Engine {
    let endpoint = mock.url.parse().unwrap();
    let deadlines = Deadlines::all(limit);
    let http = Http::to(&endpoint, &deadlines).unwrap();
    Engine::over(Box::new(http), deadlines, Ready::default())
}

fn load(engine: &mut Engine, options: &[(&str, &str)]) -> Result<Stamped<Loaded>, Failure> {
    let options = options.iter().map(|(name, value)| (name.to_string(), Value::from(*value)));
    engine.load(Load {
        path: concat!(env!("CARGO_MANIFEST_DIR"), "/models/none.gguf").into(),
        device: "cpu".into(),
        threads: 1,
        n_ctx: 64,
        batch: 1,
        options: options.collect(),
    })
}

/// Asks for `n` tokens behind a prompt of three.
fn generate(mock: &Mock, n: u32, limit: Duration) -> Result<(Stamped<Generated>, bool), Failure> {
    let mut engine = engine(mock, limit);
    load(&mut engine, &[("prompt", "ids")])?;
    let generated = engine.generate(Generate::greedy(1, vec![5, 6, 7], n), Some(100))?;
    let ids = engine.observes().ids;
    engine.bye()?;
    Ok((generated, ids))
}

const LONG: Duration = Duration::from_secs(60);

/// Why a launch against this server failed.
fn failure(mock: &Mock, n: u32, limit: Duration) -> (FailureKind, String) {
    match generate(mock, n, limit) {
        Err(Failure::Engine(e)) => (e.kind, e.message),
        other => panic!("{other:?}"),
    }
}

/// A chunk of vLLM: `total` tokens so far, of which these are new.
fn chunk(total: u32, ids: &[u32], end: Option<&str>) -> Part {
    event(
        &serde_json::json!({
            "choices": [{ "text": "x", "token_ids": ids, "finish_reason": end }],
            "usage": { "prompt_tokens": 3, "completion_tokens": total },
        })
        .to_string(),
    )
}

fn text(text: &str, end: Option<&str>) -> Part {
    event(&serde_json::json!({ "choices": [{ "text": text, "finish_reason": end }] }).to_string())
}

fn usage(tokens: u32) -> Part {
    let usage = serde_json::json!({ "prompt_tokens": 3, "completion_tokens": tokens });
    event(&serde_json::json!({ "choices": [], "usage": usage }).to_string())
}

fn done() -> Part {
    event("[DONE]")
}

#[test]
fn ids_and_times_are_those_of_the_stream() {
    let at = |ms| Part::Until(Duration::from_millis(ms));
    let parts = vec![
        event(
            r#"{"choices":[{"text":"","token_ids":[]}],"usage":{"prompt_tokens":3,"completion_tokens":0}}"#,
        ),
        Part::Bytes(b": still here\n\n".to_vec()),
        at(40),
        chunk(1, &[8], None),
        at(80),
        chunk(3, &[9, 10], None),
        at(100),
        chunk(4, &[11], Some("length")),
        done(),
    ];
    let mock = serving(VLLM, parts);
    let (generated, ids) = generate(&mock, 4, LONG).unwrap();
    assert!(ids);
    assert_eq!(generated.value.tokens, [8, 9, 10, 11]);
    let g = &generated.value;
    let ms: Vec<f64> = g.t_tokens_ns.iter().map(|t| (t - g.t_begin_ns) as f64 / 1e6).collect();
    // A busy machine may be late, never early.
    for (found, due) in ms.iter().zip([40.0, 60.0, 80.0, 100.0]) {
        assert!(*found >= due - 0.5, "{ms:?}");
    }
    assert!((ms[1] - (ms[0] + ms[2]) / 2.0).abs() < 0.01, "{ms:?}");
    let seen = mock.seen();
    let request: Value = serde_json::from_str(&seen.last().unwrap().body).unwrap();
    assert_eq!(request["prompt"], serde_json::json!([5, 6, 7]));
    assert_eq!((&request["max_tokens"], &request["ignore_eos"]), (&4.into(), &true.into()));
}

#[test]
fn a_server_that_runs_elsewhere_shows_no_load_no_process_and_its_version() {
    let mock = serving(VLLM, vec![chunk(1, &[1], Some("length")), done()]);
    let mut engine = engine(&mock, LONG);
    let loaded = load(&mut engine, &[]).unwrap().value;
    let observes = engine.observes();
    assert!(observes.spawned.is_none() && observes.pid.is_none() && !observes.clock);
    assert_eq!(loaded.settings["version"], "1.2.3");
    assert_eq!(loaded.settings["server"], "vLLM");
}

#[test]
fn text_that_is_split_inside_a_character_or_an_event_is_put_together() {
    let whole =
        "data: {\"choices\":[{\"text\":\"ä\",\"finish_reason\":\"length\"}]}\n\n".as_bytes();
    let parts = (0..whole.len()).map(|i| Part::Bytes(whole[i..=i].to_vec()));
    let mock = serving(OTHER, parts.chain([usage(1), done()]).collect());
    let (generated, ids) = generate(&mock, 1, LONG).unwrap();
    assert_eq!(generated.value.t_tokens_ns.len(), 1);
    assert!(!ids && generated.value.tokens.is_empty());
}

#[test]
fn fewer_tokens_than_asked_are_refused() {
    let mock = serving(VLLM, vec![chunk(2, &[1, 2], Some("length")), done()]);
    let (kind, message) = failure(&mock, 3, LONG);
    assert_eq!(kind, FailureKind::WrongTokens);
    assert!(message.contains("asked for 3 tokens, got 2"), "{message}");
}

#[test]
fn usage_that_disagrees_is_a_lie() {
    let parts = vec![text("a", None), text("b", None), text("c", Some("length")), usage(2), done()];
    let (kind, message) = failure(&serving(OTHER, parts), 3, LONG);
    assert_eq!(kind, FailureKind::Lied);
    assert!(message.contains("usage says 2 tokens, 3 came"), "{message}");
    let prompt = r#"{"choices":[{"text":"a","finish_reason":"length"}],"usage":{"prompt_tokens":9,"completion_tokens":1}}"#;
    let (kind, message) = failure(&serving(OTHER, vec![event(prompt), done()]), 1, LONG);
    assert_eq!(kind, FailureKind::Lied);
    assert!(message.contains("a prompt of 3 tokens, it counts 9"), "{message}");
}

#[test]
fn a_prompt_out_of_the_cache_is_refused() {
    let event = event(
        r#"{"choices":[{"text":"a","token_ids":[1],"finish_reason":"length"}],"usage":{"prompt_tokens":3,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":2}}}"#,
    );
    let (kind, message) = failure(&serving(VLLM, vec![event, done()]), 1, LONG);
    assert_eq!(kind, FailureKind::Unsupported);
    assert!(message.contains("took 2 of 3 prompt tokens from its cache"), "{message}");
}

#[test]
fn an_error_is_the_servers_own_word_whatever_the_status() {
    let error = r#"{"error":{"message":"no room for it","type":"x"}}"#;
    for answer in [
        Answer::json(error),
        Answer::of("503 Service Unavailable", "application/json", vec![Part::Bytes(error.into())]),
        Answer::of("500 Oops", "text/html", vec![Part::Bytes(b"no room for it".to_vec())]),
        Answer::stream(vec![event(error)]),
    ] {
        let mock = answering(VLLM, move || answer.clone());
        let (kind, message) = failure(&mock, 1, LONG);
        assert_eq!(kind, FailureKind::ServerError, "{message}");
        assert!(message.contains("no room for it"), "{message}");
    }
}

#[test]
fn a_stall_ends_with_the_deadline_and_a_cut_stream_is_named() {
    let stall = vec![chunk(1, &[1], None), Part::Until(LONG)];
    let (kind, _) = failure(&serving(VLLM, stall), 2, Duration::from_millis(300));
    assert_eq!(kind, FailureKind::Timeout);
    let (kind, message) = failure(&serving(VLLM, vec![chunk(1, &[1], None), Part::Cut]), 2, LONG);
    assert_eq!(kind, FailureKind::Protocol);
    assert!(message.contains("cut"), "{message}");
    // An orderly end in the middle.
    let (kind, message) = failure(&serving(VLLM, vec![chunk(1, &[1], None)]), 2, LONG);
    assert_eq!(kind, FailureKind::Protocol);
    assert!(message.contains("cut after 1 of 2 tokens"), "{message}");
}

#[test]
fn an_endless_stream_and_a_huge_event_are_left() {
    let endless = vec![Part::Endless(b"data: {\"choices\":[{\"text\":\"x\"}]}\n\n".to_vec())];
    let (kind, message) = failure(&serving(OTHER, endless), 5, LONG);
    assert_eq!(kind, FailureKind::WrongTokens, "{message}");
    let huge = vec![Part::Endless(vec![b'x'; 1 << 20])];
    let (kind, message) = failure(&serving(OTHER, huge), 5, LONG);
    assert_eq!(kind, FailureKind::Protocol);
    assert!(message.contains("an event of more than"), "{message}");
    let pings = vec![Part::Endless(b": ping\n\n".to_vec())];
    let (kind, _) = failure(&serving(OTHER, pings), 5, Duration::from_millis(300));
    assert_eq!(kind, FailureKind::Timeout);
}

#[test]
fn a_redirect_is_not_followed() {
    let other = serving(VLLM, vec![chunk(1, &[1], Some("length")), done()]);
    let to = format!("location: {}/v1/completions", other.url);
    let mock = answering(VLLM, move || {
        let mut answer = Answer::of("307 Temporary Redirect", "text/plain", Vec::new());
        answer.headers.push(to.clone());
        answer
    });
    let (kind, message) = failure(&mock, 1, LONG);
    assert_eq!(kind, FailureKind::ServerError);
    assert!(message.contains("not followed"), "{message}");
    assert!(other.seen().is_empty(), "the key and the prompt went elsewhere");
}

#[test]
fn a_compressed_stream_is_refused() {
    let compressed = |encoding: &'static str| {
        answering(VLLM, move || {
            let mut answer = Answer::stream(vec![Part::Bytes(vec![0x1f, 0x8b, 8, 0])]);
            answer.headers.push(format!("content-encoding: {encoding}"));
            answer
        })
    };
    let mock = compressed("br");
    let (kind, message) = failure(&mock, 1, LONG);
    assert_eq!(kind, FailureKind::Protocol);
    assert!(message.contains("compressed (br)"), "{message}");
    // gzip is read, because what downloads models reads it; one that is broken fails.
    let (kind, message) = failure(&compressed("gzip"), 1, LONG);
    assert_eq!(kind, FailureKind::Protocol);
    assert!(message.contains("gzip"), "{message}");
    let asked = &mock.seen().last().unwrap().headers.clone();
    assert!(asked.contains(&"accept-encoding: identity".to_string()), "{asked:?}");
}

#[test]
fn a_connection_that_the_server_closed_meanwhile_is_opened_again() {
    let mock = serving(VLLM, vec![chunk(1, &[1], Some("length")), done(), Part::Hangup]);
    let mut engine = engine(&mock, LONG);
    load(&mut engine, &[]).unwrap();
    for id in 1..=3 {
        engine.generate(Generate::greedy(id, vec![5, 6, 7], 1), Some(100)).unwrap();
    }
    engine.bye().unwrap();
}

#[test]
fn nobody_at_an_address_is_said_at_once() {
    let port = free_port().unwrap();
    let endpoint = format!("http://127.0.0.1:{port}").parse().unwrap();
    let http = Http::to(&endpoint, &Deadlines::default()).unwrap();
    let mut engine = Engine::over(Box::new(http), Deadlines::default(), Ready::default());
    match load(&mut engine, &[]) {
        Err(Failure::Engine(e)) => assert_eq!(e.kind, FailureKind::Unreachable, "{e:?}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_model_is_chosen_by_name_where_there_are_several() {
    let models = |names: &[&str]| -> Value {
        let list: Vec<Value> = names.iter().map(|n| serde_json::json!({ "id": n })).collect();
        serde_json::json!({ "data": list })
    };
    assert_eq!(named(&models(&["a"]), None).unwrap(), "a");
    assert_eq!(named(&models(&["a", "b"]), Some("b")).unwrap(), "b");
    assert!(named(&models(&["a", "b"]), None).unwrap_err().contains("a, b"));
    assert!(named(&models(&["a"]), Some("c")).unwrap_err().contains("the server has a"));
}

/// What the client adds to a schedule of 256 streams and 10,000 tokens a second. It judges nothing,
/// because a machine may be busy: `cargo test --release --lib what_the_client_adds -- --ignored
/// --nocapture`.
#[test]
#[ignore = "prints figures of an idle machine"]
fn what_the_client_adds() {
    use crate::protocol::{Arrivals, Serve};
    const USERS: u32 = 256;
    const TOKENS: u32 = 40;
    let (first, step) = (Duration::from_millis(50), Duration::from_micros(25_600));
    let parts = (1..=TOKENS).flat_map(|i| {
        let end = (i == TOKENS).then_some("length");
        [Part::Until(first + step * (i - 1)), chunk(i, &[i], end)]
    });
    let mock = serving(VLLM, parts.chain([done()]).collect());
    let mut engine = engine(&mock, LONG);
    load(&mut engine, &[]).unwrap();
    let count = 4 * USERS as usize;
    let serve = Serve {
        id: engine.next_id(),
        prompts: vec![vec![5, 6, 7]; count],
        n: vec![TOKENS; count],
        arrivals: Arrivals::Users(USERS),
        for_ns: None,
    };
    let served = engine.serve(serve).unwrap().value;
    assert!(served.requests.iter().all(|r| r.error.is_none()), "{:?}", served.requests[0]);
    // The first request of each user opens a connection.
    let warm = &served.requests[USERS as usize..];
    let ms = |ns: u64| ns as f64 / 1e6;
    let ttft = warm.iter().map(|r| ms(r.token_ns[0] - r.sent_ns));
    let gaps = warm.iter().flat_map(|r| r.token_ns.windows(2).map(|w| ms(w[1] - w[0])));
    let whole = ms(served.t_end_ns - served.t_begin_ns) / 1e3;
    println!("{:.0} tokens/s", f64::from(TOKENS) * count as f64 / whole);
    for (name, due, found) in
        [("TTFT", 50.0, ttft.collect::<Vec<_>>()), ("ITL", 25.6, gaps.collect())]
    {
        let sample = crate::stats::Sample::new(&found).unwrap();
        println!(
            "{name}: due {due} ms, mean {:.3}, p50 {:.3}, p95 {:.3}, p99 {:.3}",
            sample.mean(),
            sample.quantile(0.5),
            sample.quantile(0.95),
            sample.quantile(0.99)
        );
    }
    let cpu = served.client_cpu_ns.unwrap();
    println!("client and server together: {:.2} cores", ms(cpu) / 1e3 / whole);
}
