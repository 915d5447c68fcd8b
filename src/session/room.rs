//! Whether this machine can hold a model at all, computed before its file is made or fetched. What
//! does not fit is not tried: a machine that swaps measures its disk.

use std::path::Path;

use anyhow::Result;

use crate::allowance::{Tree, free_disk, free_memory};
use crate::device::Device;
use crate::engine::EngineSpec;
use crate::model::cache::CacheDir;
use crate::model::locate::{WeightsPolicy, has_quantized, is_path, package_path, synthetic_path};
use crate::model::quant::Quant;
use crate::model::registry::Registry;
use crate::model::synth::Sizes;
use crate::progress::say;
use crate::record::Model;
use crate::units::Bytes;

/// What is free, less what the files that were let in will take.
pub struct Room {
    memory: Option<Bytes>,
    disk: Option<Bytes>,
    sizes: Sizes,
    registry: Registry,
    cache: CacheDir,
    /// Whether smaller types of random weights are made of the F16 file.
    pub of_f16: bool,
    /// Names and sizes of the files that have to be made or fetched.
    to_come: Vec<(String, Bytes)>,
}

/// A model file that the machine would have to hold.
struct Need {
    file: Bytes,
    /// The cache of keys and values, 16 bits each.
    kv: Bytes,
    /// Whether the file is on the disk.
    is_here: bool,
}

impl Room {
    pub fn of_machine() -> Result<Self> {
        let cache = CacheDir::from_env()?;
        Ok(Self {
            memory: free_memory(&Tree::new("/")),
            disk: free_disk(cache.path()),
            sizes: Sizes::default(),
            registry: Registry::embedded()?,
            cache,
            of_f16: false,
            to_come: Vec::new(),
        })
    }

    /// Why a model with room for so many positions cannot be measured here; none if it can, and where
    /// its shapes are not known.
    pub fn refusal(
        &mut self,
        (spec, quant, weights): (&str, Option<Quant>, WeightsPolicy),
        positions: u64,
    ) -> Option<String> {
        let need = self.need(spec, quant, weights, positions)?;
        let name = [spec, &quant.map(|q| q.to_string()).unwrap_or_default()].join(" ");
        let all = Bytes(need.file.0.saturating_add(need.kv.0));
        if let Some(free) = self.memory.filter(|free| all > *free) {
            return Some(format!(
                "{} needs {all} of memory ({} of weights, {} for {positions} positions); {free} are \
                 free",
                name.trim(),
                need.file,
                need.kv
            ));
        }
        if need.is_here {
            return None;
        }
        if let Some(free) = self.disk.filter(|free| need.file > *free) {
            return Some(format!(
                "{} needs {} on the disk of {}; {free} are free: free some, or set LLM_BENCH_CACHE \
                 to another disk",
                name.trim(),
                need.file,
                self.cache.path().display()
            ));
        }
        self.disk = self.disk.map(|free| Bytes(free.0 - need.file.0));
        self.to_come.push((name.trim().into(), need.file));
        None
    }

    /// Says what has to be made or fetched before anything can be measured.
    pub fn announce(&self) {
        let all: u64 = self.to_come.iter().map(|(_, size)| size.0).sum();
        // A small file is there before the line is read.
        if all < 256 << 20 {
            return;
        }
        let files: Vec<String> =
            self.to_come.iter().map(|(name, size)| format!("{name} ({size})")).collect();
        let left = self.disk.map(|free| format!(", {free} stay free")).unwrap_or_default();
        let folder = self.cache.path().display();
        say(&format!(
            "to be made or fetched first: {}; {} in {folder}{left}",
            files.join(", "),
            Bytes(all)
        ));
    }

    fn need(
        &mut self,
        spec: &str,
        quant: Option<Quant>,
        weights: WeightsPolicy,
        positions: u64,
    ) -> Option<Need> {
        if is_path(spec) {
            let file = Bytes(Path::new(spec).metadata().ok()?.len());
            return Some(Need { file, kv: Bytes(0), is_here: true });
        }
        let model = self.registry.find(spec).ok()?;
        if let Some(package) = &model.pypi {
            let file = package_path(&self.cache, package).join(package.file_name());
            let size = Bytes(file.metadata().ok()?.len());
            return Some(Need { file: size, kv: Bytes(0), is_here: true });
        }
        let (arch, quant) = (model.arch.as_ref()?, quant.or(model.default_quant)?);
        let values = 2 * u64::from(arch.kv_width()) * u64::from(arch.n_layers);
        let kv = Bytes((2 * values).saturating_mul(positions));
        let made = synthetic_path(&self.cache, model, quant).metadata().ok();
        let is_used = weights != WeightsPolicy::Hub && (quant.is_float() || !self.of_f16);
        if let Some(made) = made.filter(|_| is_used) {
            return Some(Need { file: Bytes(made.len()), kv, is_here: true });
        }
        let file = self.sizes.file_size(arch, quant).ok()?;
        if self.of_f16 && has_quantized(&self.cache, model, quant) {
            return Some(Need { file, kv, is_here: true });
        }
        Some(Need { file, kv, is_here: false })
    }
}

/// Why the machine cannot hold a model in this engine, which makes the weights larger than the file.
pub fn too_large_in(engine: &EngineSpec, model: &Model, device: Device) -> Option<String> {
    let need = engine.makes_larger(model).filter(|_| device == Device::Cpu)?;
    let free = free_memory(&Tree::new("/")).filter(|free| need > *free)?;
    Some(format!(
        "{} holds {} bits of each weight: {} {} needs {need} of memory; {free} are free",
        engine.name, engine.min_bits, model.name, model.quant
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(memory: u64, disk: u64) -> Room {
        let mut room = Room::of_machine().unwrap();
        // An empty cache: nothing is made yet.
        room.cache = CacheDir::at(tempfile::tempdir().unwrap().path().join("none"));
        Room { memory: Some(Bytes(memory)), disk: Some(Bytes(disk)), ..room }
    }

    const GB: u64 = 1_000_000_000;

    fn ask(room: &mut Room, quant: Quant) -> Option<String> {
        room.refusal(("llama3-70b", Some(quant), WeightsPolicy::Auto), 1024)
    }

    #[test]
    fn a_model_that_is_larger_than_the_memory_is_refused_with_the_sum() {
        let why = ask(&mut room(24 * GB, 1000 * GB), Quant::F16).unwrap();
        // 70.55 G weights of two bytes; 2 · 2 · 8 · 128 · 80 · 1024 bytes of cache.
        assert!(why.contains("llama3-70b F16 needs 141 GB of memory"), "{why}");
        assert!(
            why.contains("336 MB for 1024 positions") && why.contains("24.0 GB are free"),
            "{why}"
        );
        assert_eq!(ask(&mut room(200 * GB, 1000 * GB), Quant::F16), None);
    }

    #[test]
    fn files_that_are_to_come_share_the_disk() {
        let mut room = room(200 * GB, 150 * GB);
        assert_eq!(ask(&mut room, Quant::F16), None);
        let why = ask(&mut room, Quant::Q8_0).unwrap();
        assert!(why.contains("on the disk") && why.contains("LLM_BENCH_CACHE"), "{why}");
    }

    #[test]
    fn what_is_not_known_is_tried() {
        let mut room = room(1, 1);
        let unknown = ("no-such-model", None, WeightsPolicy::Auto);
        assert_eq!(room.refusal(unknown, 1), None);
    }

    #[test]
    fn an_engine_that_widens_the_weights_needs_memory_for_that() {
        let engines = crate::engine::Registry::load().unwrap();
        let model = crate::analysis::testing::empty().model;
        let model = Model { n_params: 1 << 50, size_bytes: 1 << 40, ..model };
        let ask = |name: &str, device| too_large_in(engines.find(name).unwrap(), &model, device);
        let why = ask("pytorch-f32", Device::Cpu).unwrap();
        assert!(why.starts_with("pytorch-f32 holds 32 bits of each weight"), "{why}");
        assert!(ask("candle-f32", Device::Cpu).is_some());
        assert_eq!(ask("candle", Device::Cpu), None);
        assert_eq!(ask("pytorch-f32", Device::Cuda(0)), None);
        // A file of as many bits is held as it is.
        let float = Model { size_bytes: 1 << 60, ..model.clone() };
        assert_eq!(too_large_in(engines.find("pytorch-f32").unwrap(), &float, Device::Cpu), None);
    }
}
