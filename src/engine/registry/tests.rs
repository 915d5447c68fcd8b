//! Tests of the registry: manifests, names, what an engine takes.

use super::*;

#[test]
fn the_embedded_engines_parse_and_are_found() {
    let registry = Registry::load().unwrap();
    for name in ["candle", "candle-stock", "pytorch", "pytorch-eager", "pytorch-f32"] {
        assert_eq!(registry.find(name).unwrap().name, name);
    }
}

#[test]
fn a_known_difference_holds_for_its_file_types_and_its_variant() {
    let registry = Registry::load().unwrap();
    let most = |name: &str, quant: &str| {
        registry.find(name).unwrap().known_difference(quant).map(|known| known.nmse)
    };
    assert_eq!(most("llama.cpp", "Q4_K_M"), Some(Some(2e-3)));
    assert_eq!(most("llama.cpp", "Q8_0"), None);
    assert_eq!(most("llama.cpp", "F16"), None);
    assert_eq!(most("llama.cpp-flash", "f16"), Some(Some(5e-5)));
    assert_eq!(most("candle-stock", "Q8_0"), Some(None), "another function, with every file");
    assert_eq!(most("pytorch", "Q4_K_M"), None);
}

#[test]
fn an_engine_refuses_a_device_and_a_file_type_that_its_manifest_does_not_declare() {
    let registry = Registry::load().unwrap();
    let (candle, stock) =
        (registry.find("candle").unwrap(), registry.find("candle-stock").unwrap());
    let cuda = Device::Cuda(1);
    assert!(candle.refusal("Q4_0", Device::Cpu).is_none());
    assert!(candle.refusal("Q4_0", cuda).is_none());
    let (kind, message) = stock.refusal("Q4_0", cuda).unwrap();
    assert_eq!(kind, FailureKind::Unsupported);
    assert_eq!(message, "candle-stock runs on cpu; asked for cuda:1");
    let only_f16 = EngineSpec { quants: vec!["F16".into()], ..candle.clone() };
    let (kind, message) = only_f16.refusal("Q4_0", Device::Cpu).unwrap();
    assert_eq!(kind, FailureKind::UnsupportedQuant);
    assert_eq!(message, "candle takes F16; this file is Q4_0");
    assert!(only_f16.refusal("f16", Device::Cpu).is_none());
    assert!(check_device(&[candle.clone(), stock.clone()], cuda).is_ok());
    let error = check_device(std::slice::from_ref(stock), cuda).unwrap_err().to_string();
    assert_eq!(error, "--device cuda:1: no engine has it: candle-stock runs on cpu");
}

#[test]
fn a_variant_that_quantizes_takes_its_own_files_and_is_compared_with_one_that_does_not() {
    let registry = Registry::load().unwrap();
    for name in ["pytorch-bnb-nf4", "pytorch-bnb-int8"] {
        let engine = registry.find(name).unwrap();
        for quant in ["F16", "BF16", "F32"] {
            assert_eq!(engine.refusal(quant, Device::Cpu), None, "{name}: {quant}");
        }
        for quant in ["Q8_0", "Q4_K_M"] {
            let (kind, message) = engine.refusal(quant, Device::Cpu).unwrap();
            assert_eq!(kind, FailureKind::UnsupportedQuant);
            assert_eq!(message, format!("{name} takes F32, F16, BF16; this file is {quant}"));
        }
        let reference = engine.reference();
        assert_eq!((reference.name.as_str(), &reference.family), ("pytorch-eager", &engine.family));
        assert!(!reference.options.contains_key("bnb") && engine.options.contains_key("bnb"));
    }
    let eager = registry.find("pytorch-eager").unwrap();
    assert_eq!(eager.refusal("Q8_0", Device::Cpu), None);
    assert_eq!(eager.reference().name, eager.name);
}

#[test]
fn a_reference_is_another_variant_of_the_folder() {
    let manifest = |reference: &str| {
        let text = format!(
            "name='x'\nsummary='s'\nscript='w.py'\n[variants.a]\nsummary='s'\n\
             [variants.b]\nsummary='s'\nreference='{reference}'\n"
        );
        let files = Files::OnDisk(PathBuf::from("/nowhere"));
        EngineFolder::parse(&text, files, "x/engine.toml").map_err(|e| format!("{e:#}"))
    };
    assert!(manifest("a").is_ok());
    for name in ["b", "c", "candle"] {
        let error = manifest(name).unwrap_err();
        assert!(error.contains("variant b") && error.contains(name), "{error}");
    }
}

#[test]
fn a_misspelt_engine_gets_the_nearest_name() {
    let error = Registry::load().unwrap().find("candel").unwrap_err().to_string();
    assert!(error.contains("did you mean \"candle\""), "{error}");
}

#[test]
fn names_and_files_that_lead_out_of_their_folder_are_refused() {
    let manifest = |name: &str, script: &str, variant: &str| {
        let text = format!(
            "name={name:?}\nsummary='s'\nscript={script:?}\n[variants.{variant:?}]\nsummary='s'"
        );
        let files = Files::OnDisk(PathBuf::from("/nowhere"));
        EngineFolder::parse(&text, files, "x/engine.toml").map_err(|e| format!("{e:#}"))
    };
    assert!(manifest("x", "w.py", "x-fast").is_ok());
    for (name, script, variant) in [
        ("../../x", "w.py", "x"),
        ("", "w.py", "x"),
        ("..", "w.py", "x"),
        ("x", "../w.py", "x"),
        ("x", "/bin/w.py", "x"),
        ("x", "", "x"),
        ("x", "w.py", "a/b"),
        ("x", "w.py", "\u{1b}[31m"),
    ] {
        let error = manifest(name, script, variant).unwrap_err();
        assert!(error.contains("x/engine.toml") && error.contains("expected"), "{error}");
    }
}

#[test]
fn shared_code_is_embedded_and_is_no_engine() {
    let names: Vec<_> = shared().unwrap().sources().unwrap().into_iter().map(|f| f.0).collect();
    assert!(names.contains(&"__init__.py".into()) && names.contains(&"engine.py".into()));
    assert!(!names.iter().any(|n| n.starts_with("test_")), "{names:?}");
    let engines = Registry::load().unwrap();
    assert!(engines.all().iter().all(|e| !e.name.starts_with('_') && e.family != SHARED));
    assert!(engines.find("numpy").unwrap().only_named());
}

#[test]
fn all_names_every_engine_once() {
    let engines = Registry::load().unwrap();
    let names = |given: &[&str]| -> Vec<String> {
        let given: Vec<String> = given.iter().map(|n| n.to_string()).collect();
        engines.named(&given).unwrap().into_iter().map(|e| e.name).collect()
    };
    let every: Vec<String> = engines.all().iter().map(|e| e.name.clone()).collect();
    assert_eq!(names(&["all", "candle"]), every);
    assert_eq!(names(&["numpy", "all"])[0], "numpy");
    assert_eq!(names(&["candle", "candle"]), ["candle"]);
    let text = "name='x'\nsummary='s'\nscript='w.py'\n[variants.all]\nsummary='s'\n";
    let files = Files::OnDisk(PathBuf::from("/nowhere"));
    let error = EngineFolder::parse(text, files, "x/engine.toml").unwrap_err().to_string();
    assert!(error.contains("names every engine"), "{error}");
}

#[test]
fn a_manifest_with_a_typo_is_refused_with_its_place() {
    let text = "name='x'\nsummary='s'\nscrpit='w.py'\n[variants.x]\nsummary='s'\n";
    let files = Files::OnDisk(PathBuf::from("/nowhere"));
    let error = format!("{:#}", EngineFolder::parse(text, files, "x/engine.toml").unwrap_err());
    assert!(error.contains("x/engine.toml") && error.contains("scrpit"), "{error}");
}

#[test]
fn an_option_is_of_one_engine_and_replaces_the_manifests() {
    let option: EngineOption = "pytorch:path=bf16".parse().unwrap();
    assert_eq!((option.engine.as_str(), option.key.as_str()), ("pytorch", "path"));
    assert_eq!(option.value, serde_json::json!("bf16"));
    let compile: EngineOption = "pytorch:compile=false".parse().unwrap();
    let mut registry = Registry::load().unwrap();
    registry.set(&compile).unwrap();
    let engine = registry.find("pytorch").unwrap();
    assert_eq!(engine.options["compile"], serde_json::json!(false));
    assert_eq!(engine.options["half"], serde_json::json!(true));
    assert_eq!(engine.set.len(), 1);
    assert!(registry.find("pytorch-eager").unwrap().set.is_empty());
    for text in ["pytorch", "pytorch:path", ":path=x", "path=x", "pytorch:=x"] {
        assert!(text.parse::<EngineOption>().is_err(), "{text}");
    }
    let unknown = registry.set(&"pytroch:path=bf16".parse().unwrap()).unwrap_err();
    assert!(format!("{unknown:#}").contains("did you mean \"pytorch\""), "{unknown:#}");
}
