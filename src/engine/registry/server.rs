//! `[server]` of `engine.toml`: how a server is started and when it is ready.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::protocol::Load;

/// How the harness starts a server.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerRecipe {
    /// The arguments of the program. `{model}`, `{port}`, `{threads}`, `{batch}` (requests at once),
    /// `{n_ctx}` (positions of each) and `{n_ctx_of_all}` in them are replaced.
    pub arguments: Vec<String>,
    /// The path that answers 200 once the server takes requests.
    pub health: String,
    /// Options of the engine that become arguments: name → arguments, in which `{value}` is replaced.
    #[serde(default)]
    pub options: BTreeMap<String, Vec<String>>,
}

impl ServerRecipe {
    /// Describes what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        if !self.health.starts_with('/') {
            return Err(format!("health = {:?}: expected a path such as /health", self.health));
        }
        for word in ["{model}", "{port}"] {
            if !self.arguments.iter().any(|argument| argument.contains(word)) {
                return Err(format!("arguments: expected one with {word}"));
            }
        }
        Ok(())
    }

    /// The arguments of one launch.
    pub fn arguments(&self, load: &Load, port: u16) -> Vec<String> {
        let words = [
            ("{model}", load.path.clone()),
            ("{port}", port.to_string()),
            ("{threads}", load.threads.to_string()),
            ("{n_ctx}", load.n_ctx.to_string()),
            ("{n_ctx_of_all}", load.n_ctx.saturating_mul(load.batch).to_string()),
            ("{batch}", load.batch.to_string()),
        ];
        let filled = |argument: &String| {
            words.iter().fold(argument.clone(), |text, (word, value)| text.replace(word, value))
        };
        self.arguments.iter().map(filled).chain(self.of_options(&load.options)).collect()
    }

    fn of_options(&self, set: &Map<String, Value>) -> Vec<String> {
        let arguments = |(name, arguments): (&String, &Vec<String>)| {
            let value = set.get(name)?;
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_string);
            Some(arguments.iter().map(|a| a.replace("{value}", &value)).collect::<Vec<_>>())
        };
        self.options.iter().filter_map(arguments).flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_and_options_are_filled_in() {
        let recipe: ServerRecipe = toml::from_str(
            "arguments = ['-m', '{model}', '--port={port}', '-c', '{n_ctx}']\nhealth = '/health'\n\
             options.parallel = ['-np', '{value}']",
        )
        .unwrap();
        recipe.check().unwrap();
        let load = Load {
            path: "/a b.gguf".into(),
            device: "cpu".into(),
            threads: 2,
            n_ctx: 64,
            batch: 1,
            options: [("parallel".to_string(), Value::from(4))].into_iter().collect(),
        };
        let expected = ["-m", "/a b.gguf", "--port=8080", "-c", "64", "-np", "4"];
        assert_eq!(recipe.arguments(&load, 8080), expected);
    }

    #[test]
    fn a_recipe_that_names_no_port_is_refused() {
        let recipe: ServerRecipe =
            toml::from_str("arguments = ['{model}']\nhealth = '/health'").unwrap();
        assert!(recipe.check().unwrap_err().contains("{port}"));
    }
}
