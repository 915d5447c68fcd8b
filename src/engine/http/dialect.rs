//! What servers of one interface do differently: which route and fields a request has, and what a
//! chunk of the answer says. Everything here is data to data.

use serde_json::{Value, json};

use super::client::error_of;
use super::tokens::Chunk;

/// The route that a prompt takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// A prompt is continued as it is.
    Completions,
    /// A prompt becomes a message of a chat, in the server's own template.
    Chat,
}

/// Servers whose extensions are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    LlamaServer,
    Vllm,
    Sglang,
    /// What OpenAI's interface says and nothing else.
    Other,
}

impl Kind {
    /// The kind that a list of models tells of.
    pub fn of(models: &Value) -> Self {
        let owner = models.pointer("/data/0/owned_by").and_then(Value::as_str);
        match owner.unwrap_or_default() {
            "llamacpp" => Self::LlamaServer,
            "vllm" => Self::Vllm,
            "sglang" => Self::Sglang,
            _ => Self::Other,
        }
    }

    /// For the record.
    pub fn name(self) -> &'static str {
        match self {
            Self::LlamaServer => "llama-server",
            Self::Vllm => "vLLM",
            Self::Sglang => "SGLang",
            Self::Other => "not known",
        }
    }

    /// Where it says which version it is, and the field that holds it.
    pub fn version(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::LlamaServer => Some(("/props", "/build_info")),
            Self::Vllm => Some(("/version", "/version")),
            Self::Sglang => Some(("/get_server_info", "/version")),
            Self::Other => None,
        }
    }
}

/// A prompt in the form that the server takes.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    Ids(Vec<u32>),
    Text(String),
}

/// How one server is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Dialect {
    pub kind: Kind,
    pub api: Api,
    /// The model's name there.
    pub model: String,
    /// Whether prompts go as ids.
    pub ids: bool,
}

impl Dialect {
    /// The route under the server's address.
    pub fn path(&self) -> &'static str {
        match (self.api, self.kind) {
            (Api::Chat, _) => "/v1/chat/completions",
            // Its own route says the ids of tokens; the common one does not.
            (Api::Completions, Kind::LlamaServer) => "/completion",
            (Api::Completions, _) => "/v1/completions",
        }
    }

    /// Whether it goes on behind the token that ends a text.
    pub fn ignores_end(&self) -> bool {
        self.kind != Kind::Other
    }

    /// Whether each chunk says how many tokens there are so far. Otherwise only the last may.
    pub fn counts_as_it_goes(&self) -> bool {
        match self.kind {
            Kind::LlamaServer => self.api == Api::Completions,
            Kind::Vllm | Kind::Sglang => true,
            Kind::Other => false,
        }
    }

    /// The request for exactly `n` tokens, the likeliest each time, from an empty cache; `salt` is
    /// another one for each request.
    pub fn body(&self, prompt: Prompt, n: u32, salt: &str) -> Value {
        let prompt = match prompt {
            Prompt::Ids(ids) => json!(ids),
            Prompt::Text(text) => json!(text),
        };
        let mut body = json!({ "model": self.model, "stream": true, "temperature": 0 });
        let fields = body.as_object_mut().expect("an object");
        let mut put = |name: &str, value: Value| drop(fields.insert(name.into(), value));
        match self.api {
            Api::Chat => put("messages", json!([{ "role": "user", "content": prompt }])),
            Api::Completions => put("prompt", prompt),
        }
        let own = self.path() == "/completion";
        put(if own { "n_predict" } else { "max_tokens" }, n.into());
        if !own {
            put(
                "stream_options",
                match self.counts_as_it_goes() {
                    true => json!({ "include_usage": true, "continuous_usage_stats": true }),
                    false => json!({ "include_usage": true }),
                },
            );
        }
        if self.ignores_end() {
            put("ignore_eos", true.into());
        }
        match self.kind {
            Kind::LlamaServer => {
                put("cache_prompt", false.into());
                put("return_tokens", true.into());
                // The defaults of a server may penalize what was said before.
                put("repeat_penalty", 1.0.into());
            }
            Kind::Vllm => {
                put("return_token_ids", true.into());
                // Blocks of the cache are found again only with the same salt.
                put("cache_salt", salt.into());
                if self.ids {
                    put("add_special_tokens", false.into());
                }
            }
            Kind::Sglang | Kind::Other => {}
        }
        body
    }

    /// What an event says.
    ///
    /// # Errors
    /// The server's own error, in its words.
    pub fn chunk(&self, event: &Value) -> Result<Chunk, String> {
        if let Some(error) = error_of(event) {
            return Err(error);
        }
        let number = |at: &str| event.pointer(at).and_then(Value::as_u64).map(|n| n as u32);
        let text = |at: &str| event.pointer(at).and_then(Value::as_str).unwrap_or_default().len();
        let ids = |at: &str| -> Vec<u32> {
            let list = event.pointer(at).and_then(Value::as_array);
            list.into_iter().flatten().filter_map(|id| Some(id.as_u64()? as u32)).collect()
        };
        if self.path() == "/completion" {
            let stopped = event.get("stop").and_then(Value::as_bool).unwrap_or(false);
            return Ok(Chunk {
                bytes: text("/content"),
                ids: ids("/tokens"),
                total: number("/tokens_predicted"),
                prompt: number("/tokens_evaluated"),
                cached: number("/timings/cache_n"),
                end: stopped.then(|| {
                    let why = event.get("stop_type").and_then(Value::as_str);
                    why.unwrap_or("stop").to_string()
                }),
            });
        }
        let bytes = match self.api {
            Api::Completions => text("/choices/0/text"),
            Api::Chat => {
                let of = |name: &str| text(&format!("/choices/0/delta/{name}"));
                let call = event.pointer("/choices/0/delta/tool_calls").filter(|c| !c.is_null());
                of("content")
                    + of("reasoning_content").max(of("reasoning"))
                    + call.map_or(0, |call| call.to_string().len())
            }
        };
        let end = event.pointer("/choices/0/finish_reason").and_then(Value::as_str);
        Ok(Chunk {
            bytes,
            ids: ids("/choices/0/token_ids"),
            total: number("/usage/completion_tokens"),
            prompt: number("/usage/prompt_tokens"),
            cached: number("/usage/prompt_tokens_details/cached_tokens")
                .or_else(|| number("/timings/cache_n")),
            end: end.map(str::to_string),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialect(kind: Kind, api: Api) -> Dialect {
        Dialect { kind, api, model: "m".into(), ids: kind != Kind::Other }
    }

    #[test]
    fn servers_are_known_by_the_owner_of_their_models() {
        for (owner, kind) in [
            ("llamacpp", Kind::LlamaServer),
            ("vllm", Kind::Vllm),
            ("sglang", Kind::Sglang),
            ("me", Kind::Other),
        ] {
            assert_eq!(Kind::of(&json!({ "data": [{ "id": "m", "owned_by": owner }] })), kind);
        }
        assert_eq!(Kind::of(&json!({ "data": [] })), Kind::Other);
    }

    #[test]
    fn each_server_gets_the_fields_that_it_knows() {
        let ids = || Prompt::Ids(vec![1, 2]);
        let body = dialect(Kind::LlamaServer, Api::Completions).body(ids(), 5, "s");
        assert_eq!((&body["prompt"], &body["n_predict"]), (&json!([1, 2]), &json!(5)));
        assert_eq!((&body["cache_prompt"], &body["ignore_eos"]), (&json!(false), &json!(true)));
        let body = dialect(Kind::Vllm, Api::Completions).body(ids(), 5, "s");
        assert_eq!((&body["max_tokens"], &body["cache_salt"]), (&json!(5), &json!("s")));
        assert_eq!(body["stream_options"]["continuous_usage_stats"], json!(true));
        let body = dialect(Kind::Other, Api::Chat).body(Prompt::Text("a".into()), 5, "s");
        assert_eq!(body["messages"], json!([{ "role": "user", "content": "a" }]));
        let names: Vec<&String> = body.as_object().unwrap().keys().collect();
        assert_eq!(
            names,
            ["model", "stream", "temperature", "messages", "max_tokens", "stream_options"]
        );
    }

    #[test]
    fn a_role_alone_is_no_token_and_reasoning_is() {
        let chat = dialect(Kind::Other, Api::Chat);
        let bytes =
            |delta: Value| chat.chunk(&json!({ "choices": [{ "delta": delta }] })).unwrap().bytes;
        assert_eq!(bytes(json!({ "role": "assistant", "content": "" })), 0);
        assert_eq!(bytes(json!({ "role": "assistant", "content": null })), 0);
        assert_eq!(bytes(json!({ "reasoning_content": "hm" })), 2);
        assert_eq!(bytes(json!({ "reasoning": "hm", "reasoning_content": "hm" })), 2);
        assert_eq!(bytes(json!({ "content": "hm" })), 2);
    }

    #[test]
    fn an_error_inside_a_stream_is_the_servers_own() {
        let chat = dialect(Kind::Other, Api::Chat);
        for event in [
            json!({ "error": { "message": "no room", "code": 500 } }),
            json!({ "error": "no room" }),
            json!({ "object": "error", "message": "no room" }),
        ] {
            assert_eq!(chat.chunk(&event).unwrap_err(), "no room");
        }
        assert!(chat.chunk(&json!({ "error": null, "choices": [] })).is_ok());
    }
}
