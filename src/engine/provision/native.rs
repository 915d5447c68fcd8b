//! Builds a native engine from its folder, once per folder and kind of processor. Checks the
//! build's needs first, runs its steps in a separate folder with a venv of pinned tools, and keeps
//! only the program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::step::run_step;
use super::{Provisioner, make_venv, short_hash};
use crate::device::DeviceKind;
use crate::engine::registry::{CudaBuild, EngineFolder, MANIFEST, Native};
use crate::environment::{self, Purpose};

impl Provisioner {
    /// The program of a native engine. Builds it if it is missing.
    pub(super) fn native(
        &self,
        folder: &EngineFolder,
        native: &Native,
        say: &dyn Fn(&str),
    ) -> Result<PathBuf> {
        let name = &folder.manifest.name;
        let sources = folder.sources()?;
        // Only these parts of the manifest affect the program.
        let commands: Vec<_> = native.steps.iter().map(|step| &step.run).collect();
        let cuda = native.cuda.as_ref().filter(|_| self.device == DeviceKind::Cuda);
        let of_cuda = cuda.map(|build| format!("{:?} ", build.arguments)).unwrap_or_default();
        let recipe = format!("{} {commands:?} {of_cuda}{}", native.program, processor());
        let mut parts = vec![recipe.as_bytes()];
        for (file, bytes) in sources.iter().filter(|(file, _)| file != MANIFEST) {
            parts.extend([file.as_bytes(), bytes]);
        }
        let program = Path::new(&native.program).file_name().unwrap_or_default();
        let program = program.to_string_lossy().into_owned();
        let home = self.once(name, &short_hash(&parts), &program, say, |home| {
            check_needs(name, &native.needs, &native.advice, &[])?;
            if let Some(build) = cuda {
                check_needs(name, &build.needs, &build.advice, &cuda_folders())?;
            }
            let source = std::path::absolute(self.unpacked(folder)?)?;
            let made = build(folder, native, cuda, &source, home, say);
            // The build leaves hundreds of megabytes that nobody needs, whether it succeeds or not.
            let build = home.join("build");
            if build.exists() {
                std::fs::remove_dir_all(&build)
                    .with_context(|| format!("cannot remove {}", build.display()))?;
            }
            made
        })?;
        Ok(home.join(program))
    }
}

/// Runs the steps in `home/build` and moves the program to `home`.
fn build(
    folder: &EngineFolder,
    native: &Native,
    cuda: Option<&CudaBuild>,
    source: &Path,
    home: &Path,
    say: &dyn Fn(&str),
) -> Result<()> {
    let dir = home.join("build");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut path = environment::search_path();
    if let Some(requirements) = &native.requirements {
        let venv = home.join("build").join("venv");
        make_venv(folder, requirements, &venv, say)?;
        let tools = std::iter::once(venv.join("bin")).chain(std::env::split_paths(&path));
        path = std::env::join_paths(tools).context("PATH cannot be extended")?;
    }
    if cuda.is_some() {
        let tools = std::env::split_paths(&path).chain(cuda_folders());
        path = std::env::join_paths(tools).context("PATH cannot be extended")?;
    }
    for step in &native.steps {
        let filled = |word: &String| {
            let word = word.replace("{folder}", &source.to_string_lossy());
            word.replace("{build}", &dir.to_string_lossy())
        };
        let of_cuda = cuda.map(|build| &build.arguments[..]).unwrap_or_default();
        let words = step.run.iter().flat_map(|word| match word == "{cuda}" {
            true => of_cuda,
            false => std::slice::from_ref(word),
        });
        let words: Vec<String> = words.map(filled).collect();
        // The tools of the venv come first, also for the step's own program.
        let tool = std::env::split_paths(&path).map(|folder| folder.join(&words[0]));
        let tool = tool.filter(|_| !words[0].contains('/')).find(|tool| tool.is_file());
        let program = tool.unwrap_or_else(|| dir.join(&words[0]));
        let mut command = environment::command(program, Purpose::Install);
        command.args(&words[1..]).current_dir(&dir).env("PATH", &path);
        run_step(&mut command, &step.what, &step.advice, say)?;
    }
    let made = dir.join(&native.program);
    let target = home.join(made.file_name().unwrap_or_default());
    std::fs::rename(&made, &target)
        .with_context(|| format!("the build left no {} in {}", native.program, dir.display()))
}

/// Where CUDA's toolkit puts its programs if they are not on `PATH`.
fn cuda_folders() -> Vec<PathBuf> {
    let named = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os);
    let homes = named.map(PathBuf::from).chain([PathBuf::from("/usr/local/cuda")]);
    homes.map(|home| home.join("bin")).filter(|bin| bin.is_absolute() && bin.is_dir()).collect()
}

/// Checks that the build's needs are met, by `PATH` or in `folders`. The error names what is
/// missing and how to get it.
fn check_needs(
    name: &str,
    needs: &BTreeMap<String, Vec<String>>,
    advice: &str,
    folders: &[PathBuf],
) -> Result<()> {
    for (what, programs) in needs {
        let named = programs.iter().filter_map(|p| {
            let variable = p.strip_prefix('$')?;
            let value = std::env::var(variable).ok().filter(|v| !v.trim().is_empty())?;
            Some((format!("{variable}={value}"), value.split_whitespace().next()?.to_string()))
        });
        let looked_for: Vec<(String, String)> = match named.collect::<Vec<_>>() {
            named if !named.is_empty() => named,
            _ => {
                let programs = programs.iter().filter(|p| !p.starts_with('$'));
                programs.map(|p| (p.clone(), p.clone())).collect()
            }
        };
        let there = |program: &str| {
            let places = folders.iter().map(|folder| folder.join(program));
            std::iter::once(PathBuf::from(program))
                .chain(places)
                .any(|p| environment::find(&p).is_some())
        };
        if !looked_for.iter().any(|(_, program)| there(program)) {
            let names: Vec<&str> = looked_for.iter().map(|(name, _)| name.as_str()).collect();
            bail!(
                "building {name} needs {what}: found none on PATH{} (looked for {}); {}",
                if folders.is_empty() { "" } else { " or in CUDA's folder" },
                names.join(", "),
                advice
            );
        }
    }
    Ok(())
}

/// The instruction sets of the first processor, as the kernel names them: the compiler may use them
/// all. Machines that share a cache each get the program for their kind.
pub(super) fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let sets = text.lines().find(|l| l.starts_with("flags") || l.starts_with("Features"));
    format!("{} {}", std::env::consts::ARCH, sets.unwrap_or_default())
}
