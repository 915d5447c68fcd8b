//! Greedy tokens of the shipped tiny model against the golden ones: the check behind
//! `engines check`.

use std::path::Path;

use anyhow::{Result, bail};

use super::failed;
use crate::device::Device;
use crate::engine::provision::Installed;
use crate::engine::{Deadlines, Engine, EngineSpec};
use crate::model::golden;
use crate::protocol::{Context, Feature, Generate, Load};

/// Asks the engine for every golden text of the model file at `path`; a sentence on what agreed.
///
/// # Errors
/// The engine failed, or more differs than its arithmetic explains.
pub fn check(
    engine: &EngineSpec,
    installed: &Installed,
    path: &Path,
    n_vocab: Option<u32>,
) -> Result<String> {
    let failed = |f| failed(&engine.name, f);
    let load = Load {
        path: path.to_string_lossy().into_owned(),
        device: Device::Cpu.to_string(),
        threads: 1,
        n_ctx: golden::N_CTX,
        batch: 1,
        options: engine.options.clone(),
    };
    let mut process = Engine::open(installed, &load, Deadlines::default()).map_err(failed)?;
    let holds_context = process.has(Feature::Context);
    let loaded = process.load(load).map_err(failed)?.value;
    let (mut same, mut all) = (0, 0);
    for case in golden::cases()? {
        // Whole, and with its first half as a context, which must make no difference.
        let half = holds_context.then_some(case.prompt.len() / 2).filter(|half| *half > 0);
        for depth in [Some(0), half].into_iter().flatten() {
            let (context, prompt) = case.prompt.split_at(depth);
            if depth > 0 {
                let id = process.next_id();
                process.context(Context { id, tokens: context.to_vec() }).map_err(failed)?;
            }
            let id = process.next_id();
            let request = Generate {
                depth: depth as u32,
                ..Generate::greedy(id, prompt.to_vec(), case.tokens.len() as u32)
            };
            let got = process.generate(request, n_vocab).map_err(failed)?.value.tokens;
            // A server may not tell every id.
            all += case.tokens.len();
            same += got.iter().zip(&case.tokens).take_while(|(a, b)| a == b).count();
        }
    }
    process.bye().map_err(failed)?;
    let p = loaded.precision;
    let seen = format!(
        "{same} of {all} golden tokens{} (weights {}, compute {}, KV {})",
        if holds_context { ", half of them behind a context" } else { "" },
        p.weights,
        p.compute,
        p.kv
    );
    // 16-bit arithmetic may decide a near tie the other way, and then the rest of that text
    // differs; float32 may not. An engine that computes something else differs at once.
    if same == all || (p.compute != "f32" && 2 * same >= all) { Ok(seen) } else { bail!(seen) }
}
