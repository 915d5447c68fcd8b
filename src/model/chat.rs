//! Turns a conversation into token ids through the chat template that the GGUF file carries. The
//! text of a message can never become a control token, whatever it spells.

pub mod jinja;
mod json;
mod python;
pub mod renderer;

use self::jinja::{Conversation, Outcome, Task};
use super::gguf::GgufFile;
use super::tokenizer::{ControlTokens, Place, Tokenizer};

/// The author of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    System,
    User,
    Assistant,
}

impl Role {
    /// The name that templates know.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub role: Role,
    pub text: String,
    /// The ids of an answer as the model generated them, without the end of the turn. The same text
    /// has other tokenizations, and the cache holds this one.
    pub ids: Option<Vec<u32>>,
}

impl Message {
    pub fn new(role: Role, text: impl Into<String>) -> Self {
        Self { role, text: text.into(), ids: None }
    }
}

/// Why a conversation cannot be turned into ids.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    #[error(
        "{file}: no chat template (tokenizer.chat_template), and the vocabulary has not LLaMA 3's \
         control tokens. Use a chat model's file, or `generate --prompt` for plain text"
    )]
    NoTemplate { file: String },
    #[error("{file}: the chat template cannot be used: {reason}")]
    Template { file: String, reason: String },
    #[error("the chat template refuses this conversation: {reason}")]
    Render { reason: String },
    #[error(
        "the chat template would turn text of a message into control tokens; the message is \
         refused"
    )]
    Forged,
    #[error("cannot tokenize: {0}")]
    Tokenize(String),
}

/// The source of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// `tokenizer.chat_template` of the file.
    File,
    /// The file has none; its vocabulary has the control tokens of LLaMA 3.
    Llama3,
}

/// LLaMA 3's template, for files that carry none.
const LLAMA3: &str = "{{ bos_token }}{% for m in messages %}\
{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}\
{% endfor %}{% if add_generation_prompt %}\
{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}";

/// A compiled template, with the tokenizer's names for special tokens.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    pub origin: Origin,
    /// `bos_token` and the like.
    tokens: Vec<(String, String)>,
    /// The token that the template writes behind an answer.
    turn_end: Option<u32>,
    file: String,
}

impl ChatTemplate {
    /// The file's own template, or LLaMA 3's if the vocabulary fits it.
    pub fn find(file: &GgufFile, tokenizer: &Tokenizer) -> Result<Self, ChatError> {
        let name = || file.path().display().to_string();
        let (source, origin) = match file.text("tokenizer.chat_template") {
            Some(source) if !source.trim().is_empty() => (source.to_string(), Origin::File),
            _ => {
                let control = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"];
                let fits = |t: &&str| tokenizer.id_of(t).is_some_and(|id| tokenizer.is_control(id));
                if !control.iter().all(fits) {
                    return Err(ChatError::NoTemplate { file: name() });
                }
                (LLAMA3.to_string(), Origin::Llama3)
            }
        };
        let mut template = Self::new(source, origin, tokenizer);
        template.file = name();
        template.turn_end = template.find_turn_end(tokenizer)?;
        Ok(template)
    }

    fn new(source: String, origin: Origin, tokenizer: &Tokenizer) -> Self {
        let named = [
            ("bos_token", tokenizer.bos()),
            ("eos_token", tokenizer.eos()),
            ("unk_token", tokenizer.unknown()),
            ("pad_token", tokenizer.padding()),
        ];
        let spelled = |(name, id): (&str, Option<u32>)| {
            // Templates write begin and end without asking whether there are such.
            let always = name == "bos_token" || name == "eos_token";
            let text = id.map(|id| tokenizer.decode(&[id])).or(always.then(String::new))?;
            Some((name.to_owned(), text))
        };
        let tokens = named.into_iter().filter_map(spelled).collect();
        Self { source, origin, tokens, turn_end: None, file: String::new() }
    }

    /// The ids that end an answer: those of the vocabulary, and the template's own.
    pub fn ends(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        let mut ends = tokenizer.ends().to_vec();
        ends.extend(self.turn_end.filter(|id| !ends.contains(id)));
        ends
    }

    /// The token that the template writes behind an answer, if it writes one; an error where the
    /// template does not compile. A template may refuse the trial.
    fn find_turn_end(&self, tokenizer: &Tokenizer) -> Result<Option<u32>, ChatError> {
        let mark = Mark::new().inside;
        let trial = [(Role::User, "x"), (Role::Assistant, mark.as_str())];
        let messages = trial.map(|(role, text)| (role.name().to_owned(), text.to_owned()));
        let conversation = Conversation { messages: messages.to_vec(), opens: false };
        let rendered = self.render(vec![conversation])?;
        let Some(Ok(text)) = rendered.first() else { return Ok(None) };
        let Some((_, behind)) = text.split_once(&mark) else { return Ok(None) };
        let ids = tokenizer.encode_piece(behind.trim_start(), ControlTokens::Parse);
        let first = ids.ok().and_then(|ids| ids.first().copied());
        Ok(first.filter(|id| tokenizer.is_spelled(*id) && Some(*id) != tokenizer.bos()))
    }

    /// The ids of a conversation up to the point where the assistant speaks next.
    ///
    /// A template renders one string, in which a message could spell `<|eot_id|>`. So unguessable
    /// marks go around each message and inside each spelling of a control token, which breaks the
    /// spelling. Any control token in the result then comes from the template, and the marks are
    /// removed from the text between them. As a last check, the control tokens must equal those of
    /// the same conversation with harmless texts, whatever the template did to the strings.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
    ) -> Result<Vec<u32>, ChatError> {
        let spellings = Spellings::of(tokenizer);
        let mark = Mark::new();
        let marked: Vec<String> = (0..)
            .zip(messages)
            .map(|(i, m)| mark.wrap(i, &spellings.broken(&m.text, &mark.inside)))
            .collect();
        let harmless: Vec<String> = messages
            .iter()
            .map(|m| if m.text.trim().is_empty() { m.text.clone() } else { "x".into() })
            .collect();
        let conversation = |texts: Vec<String>| {
            let roles = messages.iter().map(|m| m.role.name().to_owned());
            Conversation { messages: roles.zip(texts).collect(), opens: true }
        };
        let both = self.render(vec![conversation(marked), conversation(harmless)])?;
        let mut both = both.into_iter().map(|r| r.map_err(|reason| ChatError::Render { reason }));
        let mut next = || both.next().unwrap_or_else(|| Ok(String::new()));
        let (rendered, harmless) = (next()?, next()?);
        let skeleton = spellings.split(&harmless);
        let pieces = spellings.split(&rendered);
        if !controls(&pieces).eq(controls(&skeleton)) {
            return Err(ChatError::Forged);
        }

        let failed = |e: tokenizers::Error| ChatError::Tokenize(e.to_string());
        let mut ids = Vec::new();
        for piece in &pieces {
            match piece {
                Piece::Control(id) => ids.push(*id),
                Piece::Text(text) => {
                    let mut place = Place::Start;
                    for part in mark.parts(text, messages) {
                        match part {
                            Part::Ids(given) => ids.extend_from_slice(given),
                            Part::Text(text) if text.is_empty() => continue,
                            Part::Text(text) => ids.extend(
                                tokenizer
                                    .encode_at(place, &text, ControlTokens::AsText)
                                    .map_err(failed)?,
                            ),
                        }
                        place = Place::Inside;
                    }
                }
            }
        }
        let bos = tokenizer.bos().filter(|bos| tokenizer.adds_bos() && ids.first() != Some(bos));
        ids.splice(..0, bos);
        Ok(ids)
    }

    /// Renders conversations, each for itself.
    fn render(&self, all: Vec<Conversation>) -> Result<Vec<Result<String, String>>, ChatError> {
        let task =
            Task { source: self.source.clone(), tokens: self.tokens.clone(), conversations: all };
        // The tests of this crate are not the program that renders.
        let outcome =
            if cfg!(test) { Ok(jinja::run(&task, jinja::FUEL)) } else { renderer::ask(&task) };
        match outcome {
            Ok(Outcome::Rendered(texts)) => Ok(texts),
            Ok(Outcome::Broken(reason)) | Err(reason) => {
                Err(ChatError::Template { file: self.file.clone(), reason })
            }
        }
    }
}

/// A stretch of a rendered conversation.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'t> {
    Control(u32),
    Text(&'t str),
}

fn controls<'p>(pieces: &'p [Piece<'_>]) -> impl Iterator<Item = u32> + 'p {
    pieces.iter().filter_map(|p| match p {
        Piece::Control(id) => Some(*id),
        Piece::Text(_) => None,
    })
}

/// The control tokens that are recognized by their spelling, the longest first.
struct Spellings<'t>(Vec<(u32, &'t str)>);

impl<'t> Spellings<'t> {
    fn of(tokenizer: &'t Tokenizer) -> Self {
        let utf8 = |(id, bytes)| Some((id, std::str::from_utf8(bytes).ok()?));
        let spelled = tokenizer.control_tokens().filter_map(utf8);
        let mut all: Vec<(u32, &str)> = spelled.filter(|(_, s)| !s.is_empty()).collect();
        all.sort_by_key(|(_, s)| std::cmp::Reverse(s.len()));
        Self(all)
    }

    /// The first token that `text` starts with.
    fn at(&self, text: &str) -> Option<(u32, &'t str)> {
        self.0.iter().find(|(_, s)| text.starts_with(s)).copied()
    }

    /// Splits a text at its control tokens.
    fn split<'s>(&self, text: &'s str) -> Vec<Piece<'s>> {
        let mut pieces = Vec::new();
        let (mut begin, mut at) = (0, 0);
        while at < text.len() {
            match self.at(&text[at..]) {
                Some((id, spelling)) => {
                    if begin < at {
                        pieces.push(Piece::Text(&text[begin..at]));
                    }
                    pieces.push(Piece::Control(id));
                    at += spelling.len();
                    begin = at;
                }
                None => at += text[at..].chars().next().map_or(1, char::len_utf8),
            }
        }
        if begin < text.len() {
            pieces.push(Piece::Text(&text[begin..]));
        }
        pieces
    }

    /// The text with `mark` inserted after the first character of each control token that it
    /// spells.
    fn broken(&self, text: &str, mark: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for (at, c) in text.char_indices() {
            out.push(c);
            if self.at(&text[at..]).is_some() {
                out.push_str(mark);
            }
        }
        out
    }
}

/// Marks that nobody can guess: a random number between private-use characters.
struct Mark {
    secret: String,
    inside: String,
}

/// What became of a message: its own ids, or text.
enum Part<'m> {
    Ids(&'m [u32]),
    Text(String),
}

const OPEN: char = '\u{e000}';
const CLOSE: char = '\u{e001}';

impl Mark {
    fn new() -> Self {
        let secret = format!("{OPEN}{:039}", rand::random::<u128>());
        let inside = format!("{secret}{CLOSE}");
        Self { secret, inside }
    }

    /// The mark at the beginning or end of message `i`.
    fn edge(&self, i: usize, end: bool) -> String {
        let side = if end { "e" } else { "b" };
        format!("{}{side}{i}{CLOSE}", self.secret)
    }

    /// Marks a text inside its outer white space, so that `trim` still sees the white space.
    fn wrap(&self, i: usize, text: &str) -> String {
        let inner = text.trim();
        if inner.is_empty() {
            return text.to_string();
        }
        let (before, after) = text.split_at(text.len() - text.trim_start().len());
        let after = &after[inner.len()..];
        format!("{before}{}{inner}{}{after}", self.edge(i, false), self.edge(i, true))
    }

    /// The text without marks; an answer that the template left unchanged becomes its own ids.
    fn parts<'m>(&self, text: &str, messages: &'m [Message]) -> Vec<Part<'m>> {
        let mut parts = Vec::new();
        let mut rest = text;
        for (i, message) in messages.iter().enumerate() {
            let Some(ids) = &message.ids else { continue };
            let (begin, end) = (self.edge(i, false), self.edge(i, true));
            let Some((before, inner)) = rest.split_once(&begin) else { continue };
            let Some((inner, after)) = inner.split_once(&end) else { continue };
            let same = self.unmarked(inner) == message.text;
            let outside = |c: Option<char>| c.is_none_or(|c| !c.is_whitespace());
            // White space that the template kept around the answer belongs to its ids, so they do
            // not fit `inner` alone.
            if !same || message.text.is_empty() || !outside(after.chars().next()) {
                continue;
            }
            parts.push(Part::Text(self.unmarked(before)));
            parts.push(Part::Ids(ids));
            rest = after;
        }
        parts.push(Part::Text(self.unmarked(rest)));
        parts
    }

    fn unmarked(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut parts = text.split(&self.secret);
        out.push_str(parts.next().unwrap_or_default());
        for part in parts {
            out.push_str(part.split_once(CLOSE).map_or(part, |(_, text)| text));
        }
        out
    }
}

#[cfg(test)]
mod tests;
