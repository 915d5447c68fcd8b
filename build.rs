//! Records in the program what it is built from: commit, target processor, profile. Also rebuilds
//! it when an embedded folder changes.

use std::process::Command;

fn main() {
    for path in
        ["src", "crates", "prompts", "models", "scripts/engines", "Cargo.toml", ".git/logs/HEAD"]
    {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rustc-env=LLM_BENCH_TARGET_CPU={}", target_cpu());
    println!(
        "cargo::rustc-env=LLM_BENCH_PROFILE={}",
        if std::env::var("OPT_LEVEL").is_ok_and(|o| o == "3") { "release" } else { "debug" }
    );
    if let Some(commit) = git(&["rev-parse", "HEAD"]) {
        println!("cargo::rustc-env=LLM_BENCH_GIT_COMMIT={commit}");
        let dirty = git(&["status", "--porcelain"]).is_some_and(|s| !s.is_empty());
        println!("cargo::rustc-env=LLM_BENCH_GIT_DIRTY={dirty}");
    }
}

/// The `-C target-cpu` in force, or the target's default.
fn target_cpu() -> String {
    let flags = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let cpu = flags.split('\x1f').find_map(|f| {
        let f = f.strip_prefix("-C").unwrap_or(f);
        f.trim().strip_prefix("target-cpu=")
    });
    cpu.map_or_else(|| "generic".to_string(), str::to_string)
}

fn git(args: &[&str]) -> Option<String> {
    let out = Command::new("git").args(args).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_string())
}
