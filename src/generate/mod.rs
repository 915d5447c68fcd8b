//! `generate`: one prompt's text as it comes, or a chat, from any engine. For a look at what a
//! model says; `run` measures.

mod chat;
mod figures;
mod session;
mod terminal;

use std::io::{IsTerminal, Read, Write};

use anyhow::{Context, Result, bail};

use self::figures::{Figures, Live};
use self::session::{Ask, End, Session};
use self::terminal::TextOut;
use crate::cli::GenerateArgs;
use crate::engine::Registry;
use crate::engine::registry::check_device;
use crate::model::synth::Random;
use crate::model::tokenizer::Tokenizer;
use crate::progress::say;
use crate::protocol::Sampling;
use crate::sensors::gpu;
use crate::session::find::{Found, find_model};

/// Tokens of a completion where the user does not say.
const GEN_LEN: u32 = 128;

pub fn run(args: &GenerateArgs) -> Result<()> {
    check(args)?;
    let prompt = if args.interactive { None } else { Some(prompt(args)?) };
    let registry = Registry::load()?;
    let engine = registry.find(&args.engine)?;
    check_device(std::slice::from_ref(engine), args.device)?;
    gpu::check(args.device)?;
    let quant = args.quant.as_deref().map(str::parse).transpose()?;
    let found = find_model(&args.model, quant, args.weights, Random::PLAIN)?;
    let longest = found.model.context_length.unwrap_or(u32::MAX);
    if let Some(n) = args.n_ctx.filter(|n| *n > longest) {
        bail!("--n-ctx {n}: the context of this model is {longest}");
    }
    let tokenizer = found.tokenizer()?;
    match prompt {
        Some(text) => complete(args, engine, &found, &tokenizer, &text),
        None => chat::run(args, engine, &found, &tokenizer),
    }
}

/// What clap cannot check.
fn check(args: &GenerateArgs) -> Result<()> {
    let t = args.temperature;
    if !(t.is_finite() && t >= 0.0) {
        bail!("--temperature {t}: expected a number, 0 or more");
    }
    let p = args.top_p;
    if !(p > 0.0 && p <= 1.0) {
        bail!("--top-p {p}: expected a number above 0 and at most 1");
    }
    if t == 0.0 && p < 1.0 {
        say("note: --top-p does nothing at --temperature 0, which takes the likeliest token");
    }
    Ok(())
}

/// The prompt as the user gave it. Files and pipes end in a newline that is not meant.
fn prompt(args: &GenerateArgs) -> Result<String> {
    let without_end = |text: String| match text.strip_suffix('\n') {
        Some(rest) => rest.strip_suffix('\r').unwrap_or(rest).to_string(),
        None => text,
    };
    let (text, whence) = if let Some(text) = &args.prompt {
        (text.clone(), "--prompt".to_string())
    } else if let Some(path) = &args.prompt_file {
        let whence = format!("--prompt-file {}", path.display());
        let bytes = std::fs::read(path).with_context(|| format!("{whence}: cannot read"))?;
        (without_end(utf8(bytes, &whence)?), whence)
    } else if std::io::stdin().is_terminal() {
        bail!(
            "no prompt: give --prompt TEXT, --prompt-file FILE, a text on stdin, or --interactive"
        );
    } else {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).context("stdin: cannot read")?;
        (without_end(utf8(bytes, "stdin")?), "stdin".to_string())
    };
    if text.is_empty() {
        bail!("{whence}: the prompt is empty; expected some text");
    }
    Ok(text)
}

fn utf8(bytes: Vec<u8>, whence: &str) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        anyhow::anyhow!("{whence}: expected UTF-8 text, found another byte at offset {at}")
    })
}

fn sampling(args: &GenerateArgs) -> Option<Sampling> {
    (args.temperature > 0.0).then_some(Sampling {
        temperature: args.temperature,
        top_p: args.top_p,
        seed: args.seed,
    })
}

/// Continues one prompt.
fn complete(
    args: &GenerateArgs,
    engine: &crate::engine::EngineSpec,
    found: &Found,
    tokenizer: &Tokenizer,
    text: &str,
) -> Result<()> {
    let prompt = tokenizer.encode(text).map_err(|e| anyhow::anyhow!("cannot tokenize: {e}"))?;
    let n_prompt = prompt.len() as u32;
    let wanted = args.gen_len.unwrap_or(GEN_LEN);
    let all = n_prompt.saturating_add(wanted).checked_next_multiple_of(256).unwrap_or(u32::MAX);
    let n_ctx = args.n_ctx.unwrap_or(all.min(found.model.context_length.unwrap_or(u32::MAX)));
    if n_prompt >= n_ctx {
        bail!(
            "the prompt has {n_prompt} tokens, the context {n_ctx}: shorten it, or use another \
               model or --n-ctx"
        );
    }
    let n = wanted.min(n_ctx - n_prompt);
    if n < wanted && args.gen_len.is_some() {
        say(&format!(
            "note: -n {wanted}: after {n_prompt} tokens the context of {n_ctx} has room for {n}"
        ));
    }
    let mut session = Session::start(args, engine, found, n_ctx)?;
    let stop = if args.ignore_eos { &[][..] } else { tokenizer.ends() };

    let mut out = TextOut::new(tokenizer);
    let mut live = Live::new(args.timing);
    let ask = Ask { prompt, n, stop, sampling: sampling(args), reuse: false };
    let answer = session.ask(ask, &mut |token| {
        live.token();
        out.token(token)
    });
    live.close();
    let ended = out.end();
    let answer = answer?;
    ended?;
    std::io::stdout().flush()?;
    if args.timing {
        let limit = if n < wanted { End::Context } else { End::Length };
        let end = if answer.end == End::Length { limit } else { answer.end };
        let figures = Figures::of(&answer, n_prompt, session.load_time(), end);
        say(&figures.lines());
    }
    if answer.end == End::Cancelled {
        bail!("stopped after {} tokens", answer.tokens.len());
    }
    session.end()
}
