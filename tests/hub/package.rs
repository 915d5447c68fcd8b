//! The environment as `huggingface_hub` itself reads it, variable by variable. `scripts/test`
//! installs the package and runs this.

use std::path::PathBuf;
use std::process::Command;

use llm_bench::model::hub::HubConfig;

const ASK: &str = "\
import sys
sys.path.insert(0, sys.argv[1])
from huggingface_hub import constants, get_token
print(constants.HF_HUB_CACHE, constants.ENDPOINT, constants.HF_HUB_OFFLINE, get_token(), sep='\\n')";

#[test]
#[ignore = "needs huggingface_hub: LLM_BENCH_TEST_TOOLS and LLM_BENCH_TEST_PYTHON"]
fn the_environment_is_read_as_the_package_reads_it() {
    let tools = std::env::var("LLM_BENCH_TEST_TOOLS").expect("the folder of the package");
    let python = std::env::var("LLM_BENCH_TEST_PYTHON").expect("a Python");
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    for folder in ["hf", ".cache/huggingface"] {
        std::fs::create_dir_all(at(folder)).unwrap();
        std::fs::write(at(&format!("{folder}/token")), format!(" hf_of_{folder}\n")).unwrap();
    }
    std::fs::write(at("a token"), "hf_of_a_file\r\n").unwrap();
    let (hf, token) = (at("hf"), at("a token"));
    let cases: &[&[(&str, &str)]] = &[
        &[],
        &[("HF_HOME", "~/hf")],
        &[("HF_HOME", "~")],
        &[("HF_HOME", "$HOME/hf")],
        &[("HF_HOME", "${HOME}/hf"), ("HF_TOKEN", " hf_named\n")],
        &[("HF_HOME", "$HF_NONE/hf")],
        &[("HF_HOME", "${HF_NONE")],
        &[("HF_HOME", "/a$$HOME/b$/c")],
        &[("HF_HOME", &hf), ("HF_TOKEN_PATH", &token)],
        &[("HF_TOKEN_PATH", "~/a token")],
        &[("HF_TOKEN_PATH", "$HOME/hf/token"), ("HUGGING_FACE_HUB_TOKEN", "hf_old")],
        &[("HF_TOKEN", "hf_new"), ("HUGGING_FACE_HUB_TOKEN", "hf_old")],
        &[("HUGGINGFACE_HUB_CACHE", "~/old")],
        &[("HUGGINGFACE_HUB_CACHE", "$HOME/old"), ("HF_HUB_CACHE", "/new")],
        &[("HF_HUB_CACHE", "~/new$HF_NONE")],
        &[("XDG_CACHE_HOME", "/x")],
        &[("XDG_CACHE_HOME", "/x"), ("HF_HOME", &hf)],
        &[("HF_ENDPOINT", "https://mirror.example///")],
        &[("HF_HUB_OFFLINE", "1")],
        &[("HF_HUB_OFFLINE", "Yes")],
        &[("HF_HUB_OFFLINE", "0")],
        &[("TRANSFORMERS_OFFLINE", "true")],
        &[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")],
    ];
    for vars in cases {
        let mut ask = Command::new(&python);
        ask.args(["-I", "-c", ASK, &tools]).current_dir("/").env_clear();
        let out = ask.env("HOME", home.path()).envs(vars.iter().copied()).output().unwrap();
        let package = String::from_utf8(out.stdout).unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));

        let var = |name: &str| match name {
            "HOME" => Some(home.path().to_str().unwrap().to_owned()),
            _ => vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()),
        };
        let ours = HubConfig::from_vars(&var, &|| Ok(PathBuf::from(home.path()))).unwrap();
        let token = ours.token.as_ref().map_or("None", |token| token.secret());
        let offline = if ours.offline { "True" } else { "False" };
        let ours = format!("{}\n{}\n{offline}\n{token}\n", ours.cache_dir.display(), ours.endpoint);
        // The package joins paths as text; a relative one is the current folder's, here `/`.
        let package = match package.starts_with('/') {
            true => package,
            false => format!("{}/{package}", std::env::current_dir().unwrap().display()),
        };
        assert_eq!(ours, package, "{vars:?}");
    }
}
