//! Engines that are built on this machine, through the real command: built once, built again when
//! the folder changes, one clear error if the compiler is missing, and nothing left behind by a
//! build that failed or was stopped. The engine here is a shell script around the fake one, and so
//! is its build; scripts/test builds the real one.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::{self, files, only_record, stop, text, wait_until};
use llm_bench::record::{Record, Status};
use rustix::process::Signal;

/// A folder with an engine whose build counts itself in `built`.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(native: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(folder.engine()).unwrap();
        let fake = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/engines/fake/fake.py");
        let build = format!(
            "#!/bin/sh\nset -e\necho x >> '{}'\nmkdir out\n\
             printf '#!/bin/sh\\nexec python3 {fake} \"$1\"\\n' > out/engine\n\
             chmod +x out/engine\necho 'big' > object.o\n",
            folder.path("built").display()
        );
        folder.write("build.sh", &build);
        folder.write(
            "engine.toml",
            &format!(
                "name = 'native'\nsummary = 's'\n{native}\n\
                 [variants.fake-honest]\nsummary = 'built here'\n"
            ),
        );
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn engine(&self) -> PathBuf {
        self.path("engine")
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.engine().join(name), text).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = support::llm_bench(self.0.path(), args);
        command.env("LLM_BENCH_ENGINES", self.engine()).env_remove("CXX");
        command
    }

    fn llm_bench(&self, args: &[&str]) -> (Output, String) {
        let output = self.command(args).output().unwrap();
        let stderr = text(&output.stderr);
        (output, stderr)
    }

    fn install(&self) -> (Output, String) {
        self.llm_bench(&["engines", "install", "fake-honest"])
    }

    /// How often the engine was built.
    fn builds(&self) -> usize {
        std::fs::read_to_string(self.path("built")).map_or(0, |text| text.lines().count())
    }

    /// Files and folders of the installations, without the lock.
    fn installed(&self) -> Vec<PathBuf> {
        files(&self.path("cache/engines")).iter().flat_map(|home| files(home)).collect()
    }
}

const BY_SHELL: &str = "[native]\nprogram = 'out/engine'\n\
    steps = [{ what = 'building the engine', run = ['sh', '{folder}/build.sh'] }]";

#[test]
fn a_native_engine_is_built_once_and_then_measured() {
    let folder = Folder::new(BY_SHELL);
    let (output, stderr) = folder.install();
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("building the engine") && stderr.contains("is installed"), "{stderr}");
    let names: Vec<_> =
        folder.installed().iter().map(|p| p.file_name().unwrap().to_owned()).collect();
    assert_eq!(names, [".complete", "engine"], "only the program stays");

    let run = ["run", "--model", "tiny", "--engine", "fake-honest", "-p", "8", "-n", "4"];
    let (output, stderr) = folder.llm_bench(&[&run[..], &["-r", "1", "--no-verify"]].concat());
    assert!(output.status.success(), "{stderr}");
    assert_eq!(folder.builds(), 1, "{stderr}");
    let record = Record::read(&only_record(folder.0.path())).unwrap();
    assert_eq!(record.arms[0].launches[0].status, Status::Ok);
}

#[test]
fn it_is_built_again_when_its_folder_changes() {
    let folder = Folder::new(BY_SHELL);
    assert!(folder.install().0.status.success());
    folder.write("worker.cpp", "int main() {}");
    assert!(folder.install().0.status.success());
    assert_eq!(folder.builds(), 2);
    assert!(folder.install().0.status.success());
    assert_eq!(folder.builds(), 2);
}

#[test]
fn a_missing_compiler_is_one_error_that_says_what_to_do() {
    let needs = "[native]\nprogram = 'out/engine'\nadvice = 'install one'\n\
        needs = { 'a C++ compiler' = ['$CXX', 'no-such-c++'] }\n\
        steps = [{ what = 'building the engine', run = ['sh', '{folder}/build.sh'] }]";
    let folder = Folder::new(needs);
    let (output, stderr) = folder.install();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    for word in ["native", "a C++ compiler", "no-such-c++", "install one"] {
        assert!(stderr.contains(word), "{word} in {stderr}");
    }
    let (output, _) = folder.llm_bench(&["engines", "list"]);
    let listed = text(&output.stdout);
    let line = listed.lines().find(|l| l.starts_with("fake-honest")).unwrap();
    assert!(line.contains("not installed") && line.contains("a C++ compiler"), "{line}");

    let named = |compiler: &str| {
        let mut command = folder.command(&["engines", "install", "fake-honest"]);
        command.env("CXX", compiler).output().unwrap()
    };
    let wrong = named("/no/such/compiler -O2");
    let stderr = text(&wrong.stderr);
    assert!(stderr.contains("CXX=/no/such/compiler -O2"), "{stderr}");
    assert_eq!(folder.builds(), 0);
    assert!(named("sh -O2").status.success(), "the variable names one that is there");
}

#[test]
fn a_build_that_fails_shows_the_first_complaint_and_leaves_nothing() {
    let fails = "[native]\nprogram = 'out/engine'\nsteps = [\
        { what = 'building the engine', run = ['sh', '{folder}/build.sh'] }, \
        { what = 'compiling', run = ['sh', '-c', 'echo a.cpp:7: error: no; echo late; exit 1'], \
          advice = 'name another compiler' }]";
    let folder = Folder::new(fails);
    let (output, stderr) = folder.install();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    for word in ["compiling failed", "a.cpp:7: error: no", "name another compiler"] {
        assert!(stderr.contains(word), "{word} in {stderr}");
    }
    assert_eq!(folder.installed(), [] as [PathBuf; 0]);
    assert_eq!(folder.install().0.status.code(), Some(2));
    assert_eq!(folder.builds(), 2, "an unfinished build is no installation");
}

#[test]
fn a_build_without_its_program_is_refused() {
    let empty = "[native]\nprogram = 'out/other'\n\
        steps = [{ what = 'building the engine', run = ['sh', '{folder}/build.sh'] }]";
    let (output, stderr) = Folder::new(empty).install();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("the build left no out/other"), "{stderr}");
}

#[test]
fn a_build_that_is_stopped_leaves_no_process_and_no_files() {
    let slow = "[native]\nprogram = 'out/engine'\nsteps = [\
        { what = 'building the engine', run = ['sh', '{folder}/build.sh'] }, \
        { what = 'waiting', run = ['sh', '-c', 'echo $$ > {folder}/../pid; sleep 1000; true'] }]";
    let folder = Folder::new(slow);
    let mut command = folder.command(&["engines", "install", "fake-honest"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pid = 0u32;
    wait_until("the build", || {
        let text = std::fs::read_to_string(folder.path("pid")).unwrap_or_default();
        text.trim().parse().map(|n| pid = n).is_ok()
    });
    stop(child, Signal::INT);
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "the build's process lives on");
    assert_eq!(folder.installed(), [] as [PathBuf; 0]);
}

#[test]
fn a_manifest_has_a_script_or_a_build_and_not_both() {
    for both in ["script = 'w.py'\n[native]\nprogram = 'x'\nsteps = []", ""] {
        let (output, stderr) = Folder::new(both).install();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("either script"), "{stderr}");
    }
}

#[test]
fn a_build_for_cuda_is_another_one_and_needs_its_compiler() {
    let folder = Folder::new(&format!(
        "devices = ['cpu', 'cuda']\n{}\n[native.cuda]\nneeds = {{ 'a CUDA compiler' = ['some-nvcc'] }}\n\
         advice = 'install it'\narguments = ['-DWITH=CUDA', 'more']\n",
        BY_SHELL.replace("build.sh']", "build.sh', '{cuda}', 'last']")
    ));
    let script = std::fs::read_to_string(folder.engine().join("build.sh")).unwrap();
    let with_words = format!("{script}echo \"$@\" > '{}'\n", folder.path("words").display());
    folder.write("build.sh", &with_words);
    let words = || std::fs::read_to_string(folder.path("words")).unwrap();
    assert!(folder.install().0.status.success());
    assert_eq!((folder.builds(), words().trim()), (1, "last"));

    let install = ["engines", "install", "fake-honest", "--cuda"];
    let missing = folder.command(&install).env("CUDA_HOME", "/nowhere").output().unwrap();
    let words_of_error = ["a CUDA compiler", "some-nvcc", "install it"];
    support::refused(missing, &words_of_error);

    let bin = folder.path("toolkit/bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::write(bin.join("some-nvcc"), "#!/bin/sh\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(bin.join("some-nvcc"), mode).unwrap();
    let mut command = folder.command(&install);
    support::done(command.env("CUDA_HOME", folder.path("toolkit")).output().unwrap());
    assert_eq!((folder.builds(), words().trim()), (2, "-DWITH=CUDA more last"));
    // Both stay.
    assert!(folder.install().0.status.success());
    assert_eq!(folder.builds(), 2);
}
