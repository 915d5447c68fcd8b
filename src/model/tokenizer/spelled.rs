//! Tokens that are found in a text by their spelling, before it is split into words: user-defined
//! ones always, control tokens where they are asked for.

use super::ControlTokens;
use super::vocabulary::{Kind, Vocabulary};

/// A stretch of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragment<'t> {
    Token(u32),
    Text(&'t str),
}

struct Token {
    id: u32,
    text: String,
    control: bool,
    /// White space behind it belongs to it.
    strips_right: bool,
}

/// The tokens with a spelling, the longest first.
pub struct Spelled(Vec<Token>);

impl Spelled {
    pub fn new(vocabulary: &Vocabulary<'_>) -> Self {
        let kept = ["<unk>", "<s>", "<|endoftext|>"];
        let all = vocabulary.tokens.iter().zip(&vocabulary.kinds).zip(0u32..);
        let mut tokens: Vec<Token> = all
            .filter(|((text, _), _)| !text.is_empty())
            .filter_map(|((text, kind), id)| {
                let control = match kind {
                    Kind::Control | Kind::Unknown => true,
                    Kind::UserDefined => false,
                    Kind::Normal | Kind::Byte | Kind::Other => return None,
                };
                let strips_right = vocabulary.strips_right && !kept.contains(text);
                Some(Token { id, text: text.to_string(), control, strips_right })
            })
            .collect();
        tokens.sort_by_key(|t| std::cmp::Reverse(t.text.len()));
        Self(tokens)
    }

    /// Cuts a text at the tokens that it spells. As llama.cpp does it: one token after another, each
    /// through the whole text, so that a longer one wins over one further to the left.
    pub fn cut<'t>(&self, text: &'t str, control: ControlTokens) -> Vec<Fragment<'t>> {
        let mut fragments = Vec::new();
        if !text.is_empty() {
            fragments.push(Fragment::Text(text));
        }
        let wanted = |t: &&Token| !t.control || control == ControlTokens::Parse;
        for token in self.0.iter().filter(wanted) {
            let spells =
                |f: &Fragment<'_>| matches!(f, Fragment::Text(t) if t.contains(&token.text));
            if !fragments.iter().any(spells) {
                continue;
            }
            let mut cut = Vec::with_capacity(fragments.len() + 2);
            for fragment in fragments {
                let Fragment::Text(mut rest) = fragment else {
                    cut.push(fragment);
                    continue;
                };
                while let Some((before, after)) = rest.split_once(token.text.as_str()) {
                    if !before.is_empty() {
                        cut.push(Fragment::Text(before));
                    }
                    cut.push(Fragment::Token(token.id));
                    let space = |c: char| matches!(c, ' ' | '\t'..='\r');
                    rest = if token.strips_right { after.trim_start_matches(space) } else { after };
                }
                if !rest.is_empty() {
                    cut.push(Fragment::Text(rest));
                }
            }
            fragments = cut;
        }
        fragments
    }
}
