//! What others wrote runs nothing and writes nothing unasked: the configuration file of a folder,
//! Python files in it, a result file, a git repository, a database. And what is secret stays out
//! of engines, logs and records.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::{
    self, PROGRAM, done, edit_json, files, llm_bench, only_record, output, refused, repository,
    send, text, wait_for_launches, with_fakes,
};
use llm_bench::record::Record;
use rustix::process::Signal;

/// A folder with a neighbour that nothing may touch, and a program that leaves a trace.
struct Folder {
    outer: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        let folder = Self { outer: tempfile::tempdir().unwrap() };
        std::fs::create_dir_all(folder.path()).unwrap();
        std::fs::write(folder.outside(), "precious").unwrap();
        folder.program("trap", "");
        folder
    }

    fn path(&self) -> PathBuf {
        self.outer.path().join("folder")
    }

    fn outside(&self) -> PathBuf {
        self.outer.path().join("outside.txt")
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// A program of the folder that leaves a trace and then runs `then`.
    fn program(&self, name: &str, then: &str) {
        let script = format!("#!/bin/sh\ntouch '{}'\n{then}\n", self.trace().display());
        // By another process: what this one has open for writing cannot be started meanwhile.
        let write = "mkdir -p \"${0%/*}\" && printf %s \"$1\" > \"$0\" && chmod +x \"$0\"";
        let mut made = Command::new("sh");
        made.args(["-c", write]).arg(self.path().join(name)).arg(script);
        assert!(made.status().unwrap().success());
    }

    fn trace(&self) -> PathBuf {
        self.outer.path().join("sprung")
    }

    fn nothing_happened(&self, when: &str) {
        assert!(!self.trace().exists(), "{when}: a program of the folder was started");
        assert_eq!(std::fs::read_to_string(self.outside()).unwrap(), "precious", "{when}");
        let beside = files(self.outer.path());
        assert_eq!(beside, [self.path(), self.outside()], "{when}: something was written outside");
    }
}

// ---- the configuration file ----

#[test]
fn a_folders_file_names_no_program_no_path_outside_and_switches_no_protection_off() {
    let folder = Folder::new();
    std::os::unix::fs::symlink("..", folder.path().join("up")).unwrap();
    std::os::unix::fs::symlink("../new", folder.path().join("dangling")).unwrap();
    let outside = folder.outside().display().to_string();
    let cases: &[(&[&str], &str, String)] = &[
        (&["gate"], "gate", "baseline-bin = './trap'".into()),
        (&["gate"], "gate", "candidate_bin = 'trap'".into()),
        (&["gate"], "gate", "baseline-rev = 'HEAD'".into()),
        (&["gate"], "gate", "candidate-rev = 'HEAD'".into()),
        (&["gate"], "gate", "resume = 'results/gate.json'".into()),
        (&["gate"], "gate", format!("verdict = '{outside}'")),
        (&["gate"], "gate", "summary = '../outside.txt'".into()),
        (&["gate"], "gate", "comment = 'up/outside.txt'".into()),
        (&["gate"], "gate", "verdict = 'Makefile'".into()),
        (&["gate"], "gate", "baseline = '../outside.txt'".into()),
        (&["gate"], "gate", "force-incomparable = true".into()),
        (&["run", "--list"], "run", "output-dir = '..'".into()),
        (&["run", "--list"], "run", "output_dir = 'up'".into()),
        (&["run", "--list"], "run", "output-dir = 'dangling'".into()),
        (&["run", "--list"], "run", "output-dir = 'x/../../y'".into()),
        (&["run", "--list"], "run", "output-dir = '.git/hooks'".into()),
        (&["run", "--list"], "run", format!("model = '{outside}'")),
        (&["run", "--list"], "run", "model = 'up/m.gguf'".into()),
        (&["run", "--list"], "run", "prompts = '../outside.txt'".into()),
        (&["run", "--list"], "run", "resume = 'x.json'".into()),
        (&["track", "--list"], "track", "history-db = '../h.sqlite'".into()),
        (&["generate"], "generate", format!("prompt-file = '{outside}'")),
        (
            &["models", "quantize", "tiny", "--to", "q8_0"],
            "models.quantize",
            format!("out = '{outside}'"),
        ),
        (&["models", "quantize", "tiny", "--to", "q8_0"], "models.quantize", "force = true".into()),
        (
            &["models", "quantize", "tiny", "--to", "q8_0"],
            "models.quantize",
            "out-dir = '..'".into(),
        ),
        (&["models", "synth", "tiny"], "models.synth", "out = '../m.gguf'".into()),
        (&["history", "export"], "history.export", "output = '../outside.txt'".into()),
        (&["history", "plot", "decode_tps"], "history.plot", "output = '../p.svg'".into()),
    ];
    for (args, table, line) in cases {
        folder.write("llm-bench.toml", &format!("[{table}]\n{line}\n"));
        let key = line.split(' ').next().unwrap().replace('_', "-");
        let out = output(&folder.path(), args);
        refused(out, &["llm-bench.toml:2: ", &key, "--config llm-bench.toml", &format!("--{key}")]);
        folder.nothing_happened(line);
        // Whoever names the file means it.
        let named = [&["--config", "llm-bench.toml"], *args, &["--print-config"]].concat();
        let named = done(output(&folder.path(), &named));
        assert!(named.contains(&format!("\n{key} = ")), "{named}");
    }
    folder.nothing_happened("after all of them");
}

#[test]
fn a_folders_file_sets_what_is_measured_and_names_files_inside() {
    let folder = Folder::new();
    std::fs::copy(repository("models/tiny.gguf"), folder.path().join("mine.gguf")).unwrap();
    let toml =
        "[run]\nmodel = './mine.gguf'\nengine = 'candle'\noutput-dir = 'a/b'\nlaunches = 3\n";
    folder.write("llm-bench.toml", toml);
    let out = output(&folder.path(), &["run", "--list"]);
    let plan = done(&out);
    assert_eq!(plan.matches("candle #").count(), 3, "{plan}");
    let said = text(&out.stderr);
    let line = said.lines().find(|l| l.contains("llm-bench.toml")).unwrap();
    for key in ["model", "engine", "output-dir", "launches"] {
        assert!(line.contains(key), "{said}");
    }
    assert!(!plan.contains("settings from"), "{plan}");
    // Every option as a file, read back from the folder.
    for command in [&["run"][..], &["generate"], &["models", "quantize", "x", "--to", "f16"]] {
        let shown = done(output(&folder.path(), &[command, &["--print-config"]].concat()));
        folder.write("llm-bench.toml", &shown);
        done(output(&folder.path(), &[command, &["--print-config"]].concat()));
    }
}

#[test]
fn saying_which_file_was_read_leaves_json_on_stdout_whole() {
    let folder = Folder::new();
    folder.write("llm-bench.toml", "[compare]\noutput = 'json'\nall = true\n");
    let file = repository("tests/data/compare/llama_bench.json");
    let file = file.to_str().unwrap();
    let out = output(&folder.path(), &["compare", file, file]);
    serde_json::from_str::<serde_json::Value>(&done(&out)).unwrap();
    assert!(text(&out.stderr).contains("settings from llm-bench.toml: all, output"));
}

#[test]
fn the_users_own_file_sets_everything_and_the_folders_file_comes_before_it() {
    let folder = Folder::new();
    let home = tempfile::tempdir().unwrap();
    let own = home.path().join("llm-bench");
    std::fs::create_dir(&own).unwrap();
    let toml = "[run]\nmodel = 'tiny'\noutput-dir = '/tmp/anywhere'\nlaunches = 7\n";
    std::fs::write(own.join("llm-bench.toml"), toml).unwrap();
    folder.write("llm-bench.toml", "[run]\nlaunches = 3\n");
    let config = |args: &[&str]| {
        let mut command = llm_bench(&folder.path(), &[&["run", "--print-config"], args].concat());
        done(command.env("XDG_CONFIG_HOME", home.path()).output().unwrap())
    };
    let shown = config(&[]);
    for line in ["model = \"tiny\"", "output-dir = \"/tmp/anywhere\"", "launches = 3"] {
        assert!(shown.contains(line), "{shown}");
    }
    assert!(config(&["-r", "5"]).contains("launches = 5"));
    let none = config(&["--config", "none"]);
    assert!(none.contains("# launches =") && none.contains("output-dir = \"results\""), "{none}");
    // A relative folder of settings is none.
    let mut command = llm_bench(home.path(), &["run", "--print-config"]);
    let shown = done(command.env("XDG_CONFIG_HOME", ".").output().unwrap());
    assert!(shown.contains("# launches ="), "{shown}");
}

// ---- Python ----

/// An engine with an empty list of packages that says what surrounds it.
fn surveyor(dir: &Path) -> PathBuf {
    let engine = dir.join("surveyor");
    std::fs::create_dir_all(&engine).unwrap();
    let manifest = "name = 'surveyor'\nsummary = 's'\nscript = 'worker.py'\n\
                    requirements = 'pins.txt'\n[variants.surveyor]\nsummary = 's'\n";
    std::fs::write(engine.join("engine.toml"), manifest).unwrap();
    std::fs::write(engine.join("pins.txt"), "# none\n").unwrap();
    let worker = "import json, os, sys, helper\n\
        from _shared import hello, serve, Engine\n\
        harness = hello('surveyor')\n\
        class Surveyor(Engine):\n\
        \x20   features, options = (), {}\n\
        \x20   @staticmethod\n\
        \x20   def ready():\n\
        \x20       seen = open(f'/proc/{os.getppid()}/environ', 'rb').read().split(b'\\0')\n\
        \x20       mine = [v for v in seen if v.startswith((b'HF_', b'DB_', b'https_proxy'))]\n\
        \x20       print('environment', json.dumps(dict(os.environ)), file=sys.stderr)\n\
        \x20       print('flags', sys.flags.isolated, os.getcwd(), sys.path, file=sys.stderr)\n\
        \x20       print('of the harness', mine, file=sys.stderr)\n\
        \x20       return {'versions': {'seen': repr(mine)}, 'threads': 1}\n\
        \x20   def __init__(self, path, device, n_ctx, options):\n\
        \x20       raise RuntimeError(f'as I said: {helper.WORD}')\n\
        serve(harness, Surveyor)\n";
    std::fs::write(engine.join("worker.py"), worker).unwrap();
    std::fs::write(engine.join("helper.py"), "WORD = 'from its own folder'\n").unwrap();
    engine
}

const SURVEY: &[&str] = &[
    "run",
    "--model",
    "tiny",
    "--engine",
    "surveyor,candle",
    "-p",
    "8",
    "-n",
    "4",
    "-r",
    "1",
    "--no-verify",
    "-t",
    "1",
];

#[test]
fn no_python_file_of_the_current_folder_is_ever_run() {
    let folder = Folder::new();
    let trap = format!("open({:?}, 'w')\n", folder.trace());
    for module in [
        "venv",
        "pip",
        "ensurepip",
        "sitecustomize",
        "usercustomize",
        "json",
        "runpy",
        "encodings",
        "_shared",
        "helper",
        "os",
        "site",
    ] {
        folder.write(&format!("{module}.py"), &trap);
    }
    for package in ["venv", "pip", "encodings"] {
        folder.write(&format!("planted/{package}/__init__.py"), &trap);
        folder.write(&format!("planted/{package}/__main__.py"), &trap);
    }
    for program in ["python3", "python", "git", "sh", "cc"] {
        folder.program(program, "");
    }
    let engine = surveyor(folder.outer.path());
    let here = folder.path();
    let path = format!(":.:{}", std::env::var("PATH").unwrap());
    let with = |args: &[&str]| -> Output {
        let mut command = llm_bench(&here, args);
        command.env("LLM_BENCH_ENGINES", &engine).env("PATH", &path).env_remove("LLM_BENCH_PYTHON");
        command.env("PYTHONPATH", format!("{}:{}", here.display(), here.join("planted").display()));
        command.env("PYTHONSTARTUP", here.join("venv.py")).env("PYTHONUSERBASE", &here);
        command.env("PYTHONHOME", "/nowhere");
        command.output().unwrap()
    };
    assert!(done(with(&["engines", "install", "surveyor"])).contains("surveyor: ready"));
    let out = with(SURVEY);
    assert!(!folder.trace().exists(), "{}", text(&out.stderr));
    done(out);
    let record = Record::read(&only_record(&here)).unwrap();
    let error = record.arms[0].launches[0].error.as_ref().unwrap();
    assert!(error.message.contains("as I said: from its own folder"), "{error:?}");
    let tail = error.stderr_tail.as_ref().unwrap();
    assert!(tail.contains("flags 1 / "), "isolated, in a neutral folder: {tail}");
    assert!(!tail.contains(&here.join("planted").display().to_string()), "{tail}");
}

// ---- secrets ----

#[test]
fn an_engine_gets_no_secret_and_what_it_finds_elsewhere_is_masked() {
    let folder = Folder::new();
    let engine = surveyor(folder.outer.path());
    let here = folder.path();
    let secrets = [
        ("HF_TOKEN", "hf_madeUpForThisTestOnly0123456789"),
        ("AWS_SECRET_ACCESS_KEY", "wJalrMadeUpKey/K7MDENG"),
        ("GITHUB_TOKEN", "ghx-not-a-known-form"),
        ("DB_PASSWORD", "hunter22"),
        ("https_proxy", "http://me:sesame99@127.0.0.1:9"),
        ("HF_ENDPOINT", "http://user:open-sesame@127.0.0.1:9"),
        ("MY_API_KEY", "0123456789abcdef"),
    ];
    let plain = [("OMP_PROC_BIND", "close"), ("CUDA_VISIBLE_DEVICES", "0"), ("NAMED", "passed on")];
    let run = |args: &[&str]| -> Output {
        let mut command = llm_bench(&here, args);
        command.env("LLM_BENCH_ENGINES", &engine).env("LLM_BENCH_PASS_ENV", "OTHER, NAMED");
        command.envs(secrets).envs(plain).output().unwrap()
    };
    done(run(&["engines", "install", "surveyor"]));
    let out = run(&[SURVEY, &["-o", "json", "-vv"]].concat());
    let record = std::fs::read_to_string(only_record(&here)).unwrap();
    let shown = [done(&out), text(&out.stderr), record.clone()];
    for (name, secret) in secrets {
        let secret = secret
            .split_once("://")
            .map_or(secret, |(_, rest)| rest.split(['@', ':']).nth(1).unwrap());
        for place in &shown {
            assert!(!place.contains(secret), "{name} shows in {place}");
        }
    }
    assert!(record.contains("***"), "what the engine read of ours is there, masked: {record}");
    let tail = Record::read(&only_record(&here)).unwrap();
    let tail = tail.arms[0].launches[0].error.as_ref().unwrap().stderr_tail.clone().unwrap();
    let of_engine = tail.lines().find(|l| l.starts_with("environment")).unwrap();
    for (name, value) in plain {
        assert!(of_engine.contains(name) && of_engine.contains(value), "{of_engine}");
    }
    for (name, _) in secrets {
        assert!(!of_engine.contains(&format!("{name}\"")), "{name} reached the engine");
    }
}

#[test]
fn a_password_in_the_hubs_address_shows_in_no_error() {
    let dir = tempfile::tempdir().unwrap();
    for address in ["http://user:open-sesame@127.0.0.1:9", "no address: user:open-sesame@host"] {
        let mut command = llm_bench(dir.path(), &["models", "pull", "llama3-1b"]);
        command.env("HF_ENDPOINT", address).env("HF_HOME", dir.path());
        let out = command.output().unwrap();
        let stderr = text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{stderr}");
        assert!(address.starts_with("no ") || !stderr.contains("sesame"), "{stderr}");
    }
}

// ---- result files ----

#[test]
fn a_gates_file_starts_no_program_that_the_command_line_does_not_name() {
    let folder = Folder::new();
    let here = folder.path();
    folder.program("trap", &format!("exec '{PROGRAM}' \"$@\""));
    let args = [
        "gate",
        "--baseline-bin",
        PROGRAM,
        "-r",
        "4",
        "--max-launches",
        "4",
        "--delay",
        "0.3",
        "--model",
        "tiny",
        "-p",
        "8",
        "-n",
        "4",
        "-t",
        "1",
        "--primary",
        "decode_tps",
        "--margin",
        "60%",
    ];
    let mut gate = with_fakes(&here, &args);
    let mut child = gate.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let file = wait_for_launches(&here, 2);
    send(&child, Signal::KILL);
    child.wait().unwrap();
    let sha256 = |path: &Path| {
        let sum = Command::new("sha256sum").arg(path).output().unwrap();
        text(&sum.stdout).split(' ').next().unwrap().to_string()
    };
    let trap = here.join("trap");
    let original = std::fs::read(&file).unwrap();
    edit_json(&file, |r| {
        let baseline = &mut r["run"]["config"]["gate"]["baseline"];
        baseline["path"] = trap.to_str().unwrap().into();
        baseline["sha256"] = sha256(&trap).into();
        baseline["what"] = "\u{1b}[31mold".into();
    });
    let shown = file.to_str().unwrap();
    let advice = format!("--baseline-bin {}", trap.display());
    refused(output(&here, &["gate", "--resume", shown]), &["baseline", "--resume", &advice]);
    assert!(!folder.trace().exists(), "the program of the file was started");

    // Another program than the one that was measured is refused, named or not.
    std::fs::write(&file, original).unwrap();
    let named = ["gate", "--resume", shown, "--baseline-bin", trap.to_str().unwrap()];
    refused(output(&here, &named), &["expected the program that was measured"]);
    let named = ["gate", "--resume", shown, "--baseline-bin", PROGRAM, "-o", "json"];
    let out = output(&here, &named);
    assert!(matches!(out.status.code(), Some(0 | 1 | 3)), "{}", text(&out.stderr));
    assert!(Record::read(&file).unwrap().run.complete);
}

// ---- the home folder ----

#[test]
fn without_a_home_folder_nothing_in_the_current_one_takes_its_place() {
    let folder = Folder::new();
    let here = folder.path();
    let command = |args: &[&str]| {
        let mut command = llm_bench(&here, args);
        for name in ["HOME", "LLM_BENCH_CACHE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME"] {
            command.env_remove(name);
        }
        command
    };
    // The planted cache is not looked at: a home folder comes from the password database.
    folder.write(".cache/huggingface/token", "hf_planted\n");
    folder.write(".config/llm-bench/llm-bench.toml", "[run]\nlaunches = 99\n");
    for set in
        [&[][..], &[("HOME", "")], &[("XDG_CACHE_HOME", ".cache"), ("XDG_CONFIG_HOME", ".config")]]
    {
        let before = files(&here.join(".cache"));
        let mut list = command(&["engines", "list"]);
        done(list.envs(set.iter().copied()).output().unwrap());
        let mut config = command(&["run", "--print-config"]);
        let shown = done(config.envs(set.iter().copied()).output().unwrap());
        assert!(shown.contains("# launches ="), "{shown}");
        assert_eq!(files(&here.join(".cache")), before, "{set:?}");
    }
    let mut relative = command(&["engines", "list"]);
    refused(
        relative.env("HOME", ".").output().unwrap(),
        &["HOME", "absolute path", "LLM_BENCH_CACHE"],
    );
}

// ---- what reaches the terminal ----

/// Whether no control character but those of lines and tables is in it.
fn is_harmless(text: &str) -> bool {
    let hidden = |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().all(|c| c == '\n' || c == '\t' || !c.is_control() && !hidden(c))
}

#[test]
fn texts_of_a_model_file_reach_the_terminal_as_text() {
    let dir = tempfile::tempdir().unwrap();
    let evil = "\u{1b}[2J\u{9b}31m\nerror: forged\r\u{202e}\u{7}";
    // The file's name says as much as its metadata.
    let tiny = std::fs::read(repository("models/tiny.gguf")).unwrap();
    let named = format!("a{evil}.gguf");
    std::fs::write(dir.path().join(&named), &tiny).unwrap();
    let at = tiny.windows(5).position(|w| w == b"llama").unwrap();
    let mut arch = tiny.clone();
    arch[at..at + 5].copy_from_slice(b"l\x1b\n[m");
    std::fs::write(dir.path().join("arch.gguf"), arch).unwrap();
    for file in [&*named, "arch.gguf"] {
        for args in [
            &["models", "inspect", file][..],
            &["models", "inspect", file, "--json"],
            &["models", "tokenize", file, "text"],
            &["models", "quantize", file, "--to", "q8_0", "--out-dir", "made"],
            &["run", "-m", file, "--list", "--engine", "candle"],
            &[
                "run",
                "-m",
                file,
                "--engine",
                "candle",
                "-r",
                "1",
                "-p",
                "4",
                "-n",
                "4",
                "--no-verify",
            ],
            &["verify", "-m", file, "--engine", "candle", "--reference", "candle-f32"],
            &["generate", "-m", file, "--prompt", "a", "-n", "4", "--timing"],
        ] {
            let out = output(dir.path(), args);
            let (shown, said) = (text(&out.stdout), text(&out.stderr));
            assert!(is_harmless(&shown) && is_harmless(&said), "{args:?}: {shown:?} {said:?}");
            let forged = |line: &str| line.trim_start().starts_with("error: forged");
            assert!(!shown.lines().chain(said.lines()).any(forged), "{args:?}: {shown} {said}");
            assert!(!said.contains("panicked"), "{said}");
        }
    }
}

#[test]
fn commands_to_paste_hold_for_any_name_of_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let folder = "it's; touch sprung $(touch sprung)";
    let args = [
        "run",
        "--model",
        "tiny",
        "--engine",
        "fake-slow",
        "-p",
        "4",
        "-n",
        "4",
        "-t",
        "1",
        "-r",
        "50",
        "--no-verify",
        "--output-dir",
        folder,
    ];
    let mut run = with_fakes(dir.path(), &args);
    let mut child = run.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let written = || files(&dir.path().join(folder)).into_iter().any(|f| f.extension().is_some());
    support::wait_until("a launch", || {
        assert!(child.try_wait().unwrap().is_none(), "it ended");
        written()
    });
    let said = text(&support::stop(child, Signal::INT).stderr);
    let command = said.split('`').nth(1).unwrap().to_string();
    let rest = command.strip_prefix("llm-bench ").unwrap();
    // A shell reads the command as words, and starts nothing else.
    let mut shell = Command::new("sh");
    let words = shell
        .current_dir(dir.path())
        .args(["-c", &format!("printf '%s\\n' {rest}")])
        .output()
        .unwrap();
    let words: Vec<String> = text(&words.stdout).lines().map(String::from).collect();
    assert_eq!(words[..2], ["run", "--resume"], "{command}");
    assert!(dir.path().join(&words[2]).is_file(), "{words:?}");
    assert!(!dir.path().join("sprung").exists());
}
