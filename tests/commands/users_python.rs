//! `--python` and `LLM_BENCH_PYTHON`: an environment of the user's in place of an installation, what
//! the record states of it, and the one error where it lacks a package.

use std::path::{Path, PathBuf};
use std::process::Command;

use llm_bench::record::Record;

use crate::support::{done, llm_bench, only_record, refused, text};

/// An engine that imports a package, which it pins.
fn engine(dir: &Path) -> PathBuf {
    let engine = dir.join("engine");
    std::fs::create_dir(&engine).unwrap();
    let manifest = "name = 'needy'\nsummary = 's'\nscript = 'worker.py'\n\
        requirements = 'pins.txt'\npackages = ['thing']\n[variants.needy]\nsummary = 's'\n";
    std::fs::write(engine.join("engine.toml"), manifest).unwrap();
    std::fs::write(engine.join("pins.txt"), "thing==1.0\nother==2.0\n").unwrap();
    let worker = "import sys\n\
        from _shared import hello, serve, Engine\n\
        harness = hello('needy')\n\
        import thing\n\
        class Needy(Engine):\n\
        \x20   features = ()\n\
        \x20   def __init__(self, path, device, n_ctx, options):\n\
        \x20       self.n_ctx, self.vocab = n_ctx, 1 << 31\n\
        \x20   def facts(self):\n\
        \x20       none = {'weights': 'none', 'compute': 'none', 'kv': 'none'}\n\
        \x20       return {'precision': none, 'notes': [f'isolated {sys.flags.isolated} {thing.WORD}']}\n\
        \x20   def prefill(self, tokens, start):\n\
        \x20       return tokens\n\
        \x20   def decode(self, token, position):\n\
        \x20       return [token]\n\
        \x20   def pick(self, tokens):\n\
        \x20       return tokens[-1]\n\
        serve(harness, Needy)\n";
    std::fs::write(engine.join("worker.py"), worker).unwrap();
    engine
}

/// A virtual environment; the package is put into it as an installer would.
fn environment(dir: &Path, with_package: bool) -> PathBuf {
    let venv = dir.join("venv");
    let mut make = Command::new("python3");
    make.args(["-I", "-m", "venv", "--without-pip"]).arg(&venv);
    done(make.output().unwrap());
    if with_package {
        let lib = std::fs::read_dir(venv.join("lib")).unwrap().next().unwrap().unwrap().path();
        let site = lib.join("site-packages");
        std::fs::write(site.join("thing.py"), "WORD = 'from the environment'\n").unwrap();
        let info = site.join("thing-3.1+local.dist-info");
        std::fs::create_dir(&info).unwrap();
        let metadata = "Metadata-Version: 2.1\nName: thing\nVersion: 3.1+local\n";
        std::fs::write(info.join("METADATA"), metadata).unwrap();
    }
    venv.join("bin/python3")
}

const RUN: [&str; 13] = [
    "run",
    "--model",
    "tiny",
    "--engine",
    "needy",
    "-p",
    "8",
    "-n",
    "2",
    "-r",
    "1",
    "--no-verify",
    "--no-install",
];

#[test]
fn an_engine_runs_in_the_environment_that_is_named_and_the_record_says_so() {
    for by_option in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (engine, python) = (engine(dir.path()), environment(dir.path(), true));
        // Also by a relative path.
        let named = ["--python", "venv/bin/python3"];
        let args = [&RUN[..], if by_option { &named } else { &[] }].concat();
        let mut command = llm_bench(dir.path(), &args);
        command.env("LLM_BENCH_ENGINES", &engine).env_remove("LLM_BENCH_PYTHON");
        if !by_option {
            command.env("LLM_BENCH_PYTHON", &python);
        }
        done(command.output().unwrap());
        let record = Record::read(&only_record(dir.path())).unwrap();
        let arm = &record.arms[0];
        assert_eq!(arm.launches[0].error, None);
        assert_eq!(arm.version["thing"], "3.1+local");
        assert!(arm.notes.contains(&"isolated 1 from the environment".into()), "{:?}", arm.notes);
        let note = arm.notes.iter().find(|n| n.starts_with("Environment of the user's")).unwrap();
        let differs = "venv/bin/python3: thing 3.1+local, not 1.0.";
        assert!(note.ends_with(differs), "{note}");
    }
}

#[test]
fn an_environment_without_the_package_is_one_error_with_the_next_command() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, _) = (engine(dir.path()), environment(dir.path(), false));
    let with = |args: &[&str]| {
        let mut command = llm_bench(dir.path(), args);
        command.env("LLM_BENCH_ENGINES", &engine).env_remove("LLM_BENCH_PYTHON").output().unwrap()
    };
    let words = ["has no thing", "python3 -m pip install thing", "--python"];
    let run = with(&[&RUN[..], &["--python", "venv/bin/python3"]].concat());
    assert_eq!(run.status.code(), Some(2));
    assert!(text(&run.stderr).contains("has no thing"), "{}", text(&run.stderr));
    refused(with(&["engines", "install", "needy", "--python", "venv/bin/python3"]), &words);
    let no_python = ["--python /bin/cat, which is not a Python"];
    refused(with(&["engines", "install", "needy", "--python", "/bin/cat"]), &no_python);
    let list = done(with(&["engines", "list", "--python", "venv/bin/python3"]));
    let line = list.lines().find(|l| l.starts_with("needy")).unwrap();
    assert!(line.contains("not installed"), "{line}");
}

#[test]
fn a_file_of_the_current_folder_names_no_python() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path());
    std::fs::write(dir.path().join("llm-bench.toml"), "[run]\npython = 'venv/bin/python3'\n")
        .unwrap();
    let mut command = llm_bench(dir.path(), &RUN);
    let output = command.env("LLM_BENCH_ENGINES", &engine).output().unwrap();
    refused(output, &["llm-bench.toml:2", "python", "it names a program to run"]);
}
