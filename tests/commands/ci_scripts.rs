//! Runs scripts/ci/*.sh like a job: the gate with its exit code, and the comment that is updated in
//! place, against a server that imitates GitHub's.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use crate::support::{PROGRAM, files, repository, text};
use serde_json::{Value, json};

const TOKEN: &str = "ghs_thisIsSecret1234567890";

fn script(name: &str) -> Command {
    let mut command = Command::new(repository("scripts/ci").join(name));
    command.current_dir(repository("")).env_remove("GITHUB_STEP_SUMMARY");
    command
}

/// What a script printed, on stdout and stderr.
fn printed(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

/// `gate.sh` over the tiny model with this program on both sides.
fn gate(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Output {
    let short = ["--model", "tiny", "-p", "64", "-n", "64", "-t", "1", "--primary", "decode_tps"];
    script("gate.sh")
        .arg("--baseline-bin")
        .arg(PROGRAM)
        .args(short)
        .args(args)
        .env("LLM_BENCH", PROGRAM)
        .env("LLM_BENCH_CACHE", dir.join("cache"))
        .env("OUT", dir.join("out"))
        .env("TMPDIR", dir)
        .env("GITHUB_STEP_SUMMARY", dir.join("summary.md"))
        .envs(env.iter().copied())
        .output()
        .unwrap()
}

#[test]
fn the_gate_script_ends_with_the_gates_exit_code_and_leaves_all_that_a_job_keeps() {
    let dir = tempfile::tempdir().unwrap();
    let slow = ["-r", "6", "--max-launches", "12", "--slow-candidate", "200%"];
    let output = gate(dir.path(), &slow, &[]);
    assert_eq!(output.status.code(), Some(1), "{}", printed(&output));
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(read("out/exit_code"), "1\n");
    assert!(read("summary.md").contains("### Performance gate: regressed"));
    assert!(read("out/comment.md").starts_with("<!-- llm-bench gate: Performance gate -->\n"));
    let verdict: Value = serde_json::from_str(&read("out/verdict.json")).unwrap();
    assert_eq!(verdict["outcome"], "regressed");
    assert_eq!(files(&dir.path().join("out/records")).len(), 1);
}

#[test]
fn an_inconclusive_gate_warns_or_fails_the_job_as_it_is_set() {
    let dir = tempfile::tempdir().unwrap();
    // Two launches never decide at this level, whatever their luck.
    let open = ["-r", "2", "--max-launches", "2", "--margin", "0.1%", "--alpha", "0.000001"];
    let output = gate(dir.path(), &open, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    assert!(printed(&output).contains("::warning title=Performance gate::inconclusive"));
    assert_eq!(std::fs::read_to_string(dir.path().join("out/exit_code")).unwrap(), "3\n");
    let output = gate(dir.path(), &open, &[("FAIL_ON_INCONCLUSIVE", "true")]);
    assert_eq!(output.status.code(), Some(3), "{}", printed(&output));
}

#[test]
fn the_gate_script_without_arguments_asks_for_the_base() {
    let dir = tempfile::tempdir().unwrap();
    let run = |base: Option<&str>| {
        let mut command = script("gate.sh");
        command.env("OUT", dir.path()).env_remove("BASE").env("LLM_BENCH", "/bin/false");
        command.envs(base.map(|b| ("BASE", b))).output().unwrap()
    };
    let output = run(None);
    assert!(!output.status.success() && printed(&output).contains("BASE: expected"));
    let output = run(Some("no-such-branch"));
    assert_eq!(output.status.code(), Some(2), "{}", printed(&output));
    assert!(printed(&output).contains("fetch the whole history"), "{}", printed(&output));
}

#[test]
fn the_gate_script_measures_on_the_card_of_a_runner_that_has_one() {
    let dir = tempfile::tempdir().unwrap();
    let program = |name: &str, code: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{code}\n")).unwrap();
        let done = Command::new("chmod").arg("+x").arg(&path).status().unwrap();
        assert!(done.success());
        path
    };
    let echo = program("echo-arguments", "echo \"$@\"");
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let asked = |device: &str, args: &[&str]| {
        let mut command = script("gate.sh");
        command.args(args).env("LLM_BENCH", &echo).env("OUT", dir.path().join("out"));
        let output = command.env("PATH", &path).env("DEVICE", device).output().unwrap();
        assert!(output.status.success(), "{}", printed(&output));
        text(&output.stdout)
    };
    let with = |device: &str| format!("--model tiny --device {device} ");
    let tiny = ["--model", "tiny"];
    program("nvidia-smi", "exit 9");
    assert!(asked("auto", &tiny).contains(&with("cpu")));
    program("nvidia-smi", "echo 'GPU 0: NVIDIA H100 (UUID: GPU-1)'");
    assert!(asked("auto", &tiny).contains(&with("cuda")));
    assert!(asked("cuda:1", &tiny).contains(&with("cuda:1")));
    assert!(!asked("", &tiny).contains("--device"));
    for own in [&["--device", "cpu"][..], &["--resume", "F"], &["--baseline", "F"]] {
        assert!(!asked("auto", own).contains("--device cuda"), "{own:?}");
    }
    assert!(asked("auto", &["--baseline-rev", "main"]).contains("--device cuda"));
}

/// The comments of a pull request, and every request about them.
#[derive(Default)]
struct Hub {
    comments: Vec<Value>,
    requests: Vec<String>,
    bad_authorization: bool,
    token_seen_in_a_command_line: bool,
}

/// Serves the comments of o/r#7 until the test ends; returns its address.
fn serve(hub: Arc<Mutex<Hub>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            answer(stream, &mut hub.lock().unwrap());
        }
    });
    address
}

fn answer(mut stream: TcpStream, hub: &mut Hub) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_string()),
        }
    }
    let header = |name: &str| {
        let line = head.iter().find(|l| l.to_ascii_lowercase().starts_with(name));
        line.map(|l| l[name.len()..].trim().to_string())
    };
    let length = header("content-length:").map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    hub.bad_authorization |= header("authorization:") != Some(format!("Bearer {TOKEN}"));
    hub.token_seen_in_a_command_line |= in_a_command_line();
    let mut words = head[0].split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    hub.requests.push(format!("{method} {path}"));
    let text = || serde_json::from_slice::<Value>(&body).unwrap()["body"].clone();
    let (status, reply) = match method {
        "GET" => {
            let page: usize = path.split("page=").last().unwrap().parse().unwrap();
            let all: Vec<Value> =
                hub.comments.iter().skip(100 * (page - 1)).take(100).cloned().collect();
            ("200 OK", Value::Array(all))
        }
        "POST" => {
            let id = hub.comments.len() as u64 + 1;
            hub.comments.push(json!({"id": id, "user": {"type": "Bot"}, "body": text()}));
            ("201 Created", json!({"id": id}))
        }
        "PATCH" => {
            let id: u64 = path.rsplit('/').next().unwrap().parse().unwrap();
            let comment = hub.comments.iter_mut().find(|c| c["id"] == id).unwrap();
            comment["body"] = text();
            ("200 OK", json!({"id": id}))
        }
        other => panic!("{other}"),
    };
    let reply = reply.to_string();
    let length = reply.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{reply}"
    )
    .unwrap();
}

/// Whether any process of this machine has the token among its arguments.
fn in_a_command_line() -> bool {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = processes.filter_map(|p| std::fs::read(p.path().join("cmdline")).ok());
    lines.into_iter().any(|line| String::from_utf8_lossy(&line).contains(TOKEN))
}

fn comment(api: &str, body: &Path) -> Output {
    script("comment.sh")
        .arg(body)
        .envs([("API", api), ("TOKEN", TOKEN), ("REPOSITORY", "o/r"), ("PULL_REQUEST", "7")])
        .output()
        .unwrap()
}

fn body(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("comment.md");
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_comment_is_added_once_and_then_updated_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Arc::new(Mutex::new(Hub::default()));
    let quoted = "> <!-- llm-bench gate: A -->\n> passed";
    hub.lock().unwrap().comments = vec![
        json!({"id": 1, "user": {"type": "User"}, "body": "<!-- llm-bench gate: A -->\nmine"}),
        json!({"id": 2, "user": {"type": "Bot"}, "body": quoted}),
    ];
    let api = serve(Arc::clone(&hub));
    let put = |text: &str| {
        let output = comment(&api, &body(dir.path(), text));
        assert!(output.status.success(), "{}", printed(&output));
        assert!(!printed(&output).contains(TOKEN), "{}", printed(&output));
    };
    put("<!-- llm-bench gate: A -->\nfirst \"quoted\" `code` $HOME");
    put("<!-- llm-bench gate: A -->\nsecond");
    put("<!-- llm-bench gate: B -->\nanother gate");
    let hub = hub.lock().unwrap();
    let bodies: Vec<&str> = hub.comments.iter().map(|c| c["body"].as_str().unwrap()).collect();
    assert_eq!(
        bodies[2..],
        ["<!-- llm-bench gate: A -->\nsecond", "<!-- llm-bench gate: B -->\nanother gate"]
    );
    assert_eq!(bodies[..2], ["<!-- llm-bench gate: A -->\nmine", quoted], "others' stay");
    let made: Vec<&str> = hub.requests.iter().map(|r| r.split(' ').next().unwrap()).collect();
    assert_eq!(made, ["GET", "POST", "GET", "PATCH", "GET", "POST"]);
    assert!(!hub.bad_authorization && !hub.token_seen_in_a_command_line);
}

#[test]
fn a_comment_is_found_beyond_the_first_page() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Arc::new(Mutex::new(Hub::default()));
    let other = |id: u64| json!({"id": id, "user": {"type": "User"}, "body": "a long talk"});
    let ours =
        json!({"id": 151, "user": {"type": "Bot"}, "body": "<!-- llm-bench gate: A -->\nold"});
    hub.lock().unwrap().comments = (1..=150).map(other).chain([ours]).collect();
    let api = serve(Arc::clone(&hub));
    let output = comment(&api, &body(dir.path(), "<!-- llm-bench gate: A -->\nnew"));
    assert!(output.status.success(), "{}", printed(&output));
    let hub = hub.lock().unwrap();
    assert_eq!(hub.comments.len(), 151);
    assert_eq!(hub.comments[150]["body"], "<!-- llm-bench gate: A -->\nnew");
}

#[test]
fn what_is_no_comment_of_a_gate_and_a_server_that_refuses_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let output = comment("http://127.0.0.1:9", &body(dir.path(), "no mark"));
    assert_eq!(output.status.code(), Some(2));
    assert!(printed(&output).contains("expected the mark"), "{}", printed(&output));
    let good = body(dir.path(), "<!-- llm-bench gate: A -->\nx");
    let odd = script("comment.sh")
        .arg(&good)
        .envs([("TOKEN", TOKEN), ("REPOSITORY", "o/r/../x"), ("PULL_REQUEST", "7; id")])
        .output()
        .unwrap();
    assert_eq!(odd.status.code(), Some(2));
    assert!(!printed(&odd).contains(TOKEN));
}

#[test]
fn the_workflows_pin_what_they_use_and_give_no_job_more_than_it_needs() {
    for path in files(&repository(".github/workflows")) {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.display();
        assert!(!text.contains("secrets."), "{name}");
        assert!(!text.contains("pull_request_target"), "{name}");
        for line in text.lines().filter(|l| l.contains("uses: ")) {
            let version = line.split('@').nth(1).unwrap_or_else(|| panic!("{name}: {line}"));
            let digits = version.split(' ').next().unwrap();
            let pinned = digits.len() == 40 && digits.chars().all(|c| c.is_ascii_hexdigit());
            assert!(pinned && line.contains(" # v"), "{name}: {line}");
        }
        // A job on our own machine runs a pull request's code, so it must not run for forks or have
        // write access.
        for job in text.split("\n  ").filter(|job| job.contains("self-hosted")) {
            assert!(!job.contains(": write"), "{name}");
        }
        if text.contains("self-hosted") && text.contains("pull_request:") {
            let own = "github.event.pull_request.head.repo.full_name == github.repository";
            assert!(text.contains(own), "{name}");
        }
    }
}
