//! How text is cut into words before byte-pair encoding, by the name that a GGUF file carries
//! (`tokenizer.ggml.pre`). Names, expressions and defaults are those of llama.cpp's
//! `llama-vocab.cpp`, because its ids are the reference.
//!
//! The expressions run on the `regex` crate: it has no limit on backtracking beyond which the rest of
//! a text would silently stay one word. It knows no look-ahead, so `\s+(?!\S)|\s+`, which leaves the
//! last space of a run to the word behind it, is written as the group `(\s+)`, and [`Splitter`] gives
//! that space back.

use regex::Regex;

/// One way to cut text.
#[derive(Debug, Clone, Copy)]
pub struct PreTokenizer {
    names: &'static [&'static str],
    /// Applied one after the other, each to the pieces that the one before left.
    expressions: &'static [&'static str],
    /// A word that is in the vocabulary is that token, whatever the merges say.
    pub whole_words: bool,
    /// Prompts begin with begin-of-text where the file does not say.
    pub add_bos: bool,
    /// Text stays UTF-8, with U+2581 for spaces, instead of GPT-2's alphabet of bytes.
    pub raw: bool,
}

#[derive(Debug)]
struct Expression {
    regex: Regex,
    /// It has the group for white space.
    gives_back: bool,
}

const fn cut(names: &'static [&'static str], expressions: &'static [&'static str]) -> PreTokenizer {
    PreTokenizer { names, expressions, whole_words: false, add_bos: false, raw: false }
}

impl PreTokenizer {
    const fn whole_words(self) -> Self {
        Self { whole_words: true, ..self }
    }

    const fn with_bos(self) -> Self {
        Self { add_bos: true, ..self }
    }

    const fn raw(self) -> Self {
        Self { raw: true, ..self }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|pre| pre.names.contains(&name))
    }

    /// All names.
    pub fn names() -> Vec<&'static str> {
        ALL.iter().flat_map(|pre| pre.names).copied().collect()
    }
}

/// `'s`, `'re` and the like, in any case.
macro_rules! contractions {
    () => {
        r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    };
}

/// What all of LLaMA 3's kin share behind letters and digits.
macro_rules! rest {
    () => {
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|(\s+)"
    };
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|(\s+)";
const LLAMA3: &str = concat!(contractions!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}", rest!());
const QWEN2: &str = concat!(contractions!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}", rest!());
const LETTERS_OR_MARKS: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|(\s+)"
);
/// Only ASCII letters have a case here, as llama.cpp computes it.
macro_rules! cased {
    ($suffix:expr, $digits:literal) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]*[\p{L}&&[^A-Z]]+",
            $suffix,
            r"|[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]+[\p{L}&&[^A-Z]]*",
            $suffix,
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|(\s+)"
        )
    };
}
const GPT4O: &str =
    cased!(r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?", r"|\p{N}{1,3}");
const LINES: &str = r"[^\n]+|[\n]+";
const HAN_OR_KANA: &str = r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+";

static ALL: [PreTokenizer; 28] = [
    cut(
        &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        &[LLAMA3],
    )
    .whole_words()
    .with_bos(),
    cut(&["dbrx", "smaug-bpe", "chatglm-bpe"], &[LLAMA3]),
    cut(&["glm4", "glm5"], &[LLAMA3]).whole_words(),
    cut(&["default"], &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
    cut(
        &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
            "exaone4",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
        ],
        &[GPT2],
    ),
    cut(
        &[
            "smollm",
            "starcoder",
            "refact",
            "command-r",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        &[r"\p{N}", GPT2],
    ),
    cut(
        &[
            "qwen2",
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "stablelm2",
            "hunyuan",
            "megrez",
            "grok-2",
            "solar-open",
        ],
        &[QWEN2],
    ),
    cut(
        &["qwen35"],
        &[concat!(
            contractions!(),
            r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|(\s+)"
        )],
    ),
    cut(&["tekken"], &[cased!("", r"|\p{N}")]).whole_words().with_bos(),
    cut(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], &[GPT4O]),
    cut(
        &["granite-embed-multi-97m"],
        &[concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}&&[^a-z]]*[\p{L}\p{M}&&[^A-Z]]+",
            contractions!(),
            r"?|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}&&[^a-z]]+[\p{L}\p{M}&&[^A-Z]]*",
            contractions!(),
            r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|(\s+)"
        )],
    )
    .whole_words(),
    cut(
        &["deepseek-llm"],
        &[
            r"[\r\n]",
            concat!(
                r"\s?[",
                r"A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}",
                r"\x{1C4}-\x{293}\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}",
                r"\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}",
                r"\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}",
                r"\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}",
                r"\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}",
                r"\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}",
                r"\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}",
                r"\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}",
                r"\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}",
                r"\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}",
                r"\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}",
                r"\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}",
                r"\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}",
                r"\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}",
                r"\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}",
                r"\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}",
                r"\x{1E900}-\x{1E943}",
                r"]+"
            ),
            r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+",
            r"\s+$",
            r"[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+",
            r"\p{N}+",
        ],
    ),
    cut(
        &["deepseek-coder"],
        &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+", r"\p{N}"],
    ),
    cut(
        &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        &[r"\p{N}{1,3}", HAN_OR_KANA, LETTERS_OR_MARKS],
    ),
    cut(
        &["spark2_5"],
        &[
            r"\p{N}{1,3}",
            HAN_OR_KANA,
            concat!(
                r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
                r"| ?[\p{P}\p{S}]+|[\r\n]|(\s+)"
            ),
            r"\p{N}",
        ],
    ),
    cut(
        &["youtu"],
        &[
            r"[\x{AC00}-\x{D7A3}\x{3131}-\x{318E}]+|[\x{FF01}\x{2026}\x{201C}\x{201D}\x{2018}\x{2019}\x{2014}\x{FF1A}\x{FF1B}\x{FF0C}\x{3001}-\x{303F}\x{FE30}-\x{FE4F}]+|[\x{3105}-\x{312F}]+|[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+",
            // The case of letters counts for nothing here, as llama.cpp computes it.
            concat!(
                r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]*[\p{L}\p{M}]+",
                contractions!(),
                r"?|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+[\p{L}\p{M}]*",
                contractions!(),
                r"?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|(\s+)"
            ),
        ],
    )
    .whole_words(),
    cut(&["falcon"], &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"]),
    cut(&["poro-chat", "bloom", "gpt3-finnish"], &[r" ?[^(\s|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{964}\x{6D4}\x{60C})]+"]),
    cut(&["viking"], &[r" ?[^(\s|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{964}\x{6D4}\x{60C})]+", r"\p{N}"]),
    cut(
        &["chameleon"],
        &[
            "<sentinel:[0-9]+>",
            "IMGIMG[A-I]{1,4}Z",
            r"[\t\n]|    |  ",
            r"\p{N}",
            r"[\p{P}!-/:-@\[-`{-~]",
            GPT2,
        ],
    )
    .with_bos(),
    cut(
        &["bailingmoe", "bailingmoe2", "llada-moe"],
        &[concat!(
            r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|(\s+)"
        )],
    ),
    cut(
        &["seed-coder"],
        &[concat!(
            contractions!(),
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|(\s+)"
        )],
    ),
    cut(&["ufakzeka"], &[concat!(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}", rest!())]),
    cut(&["laguna"], &[LINES, QWEN2]),
    cut(
        &["exaone-moe"],
        &[concat!(
            contractions!(),
            r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}",
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|(\s+)"
        )],
    ),
    cut(
        &["minicpm5"],
        &[r"\p{N}{1,3}", concat!(contractions!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+", rest!())],
    )
    .whole_words(),
    cut(&["gemma4", "granite-embed-multi-311m"], &[LINES]).raw().with_bos(),
    cut(&["sarvam-moe"], &[LINES]).raw(),
];

/// Cuts text.
#[derive(Debug)]
pub struct Splitter(Vec<Expression>);

impl Splitter {
    pub fn new(pre: &PreTokenizer) -> Self {
        let compile = |source: &&str| {
            let regex = Regex::new(source).expect("a test compiles every expression");
            Expression { gives_back: regex.captures_len() > 1, regex }
        };
        Self(pre.expressions.iter().map(compile).collect())
    }

    /// The words of a text, in order, nothing left out.
    pub fn split<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut pieces = vec![text];
        for expression in &self.0 {
            let mut cut = Vec::with_capacity(pieces.len());
            for piece in pieces {
                expression.split(piece, &mut cut);
            }
            pieces = cut;
        }
        pieces.retain(|piece| !piece.is_empty());
        pieces
    }
}

impl Expression {
    /// Adds matches and what lies between them.
    fn split<'t>(&self, text: &'t str, out: &mut Vec<&'t str>) {
        let mut places = self.regex.capture_locations();
        let mut done = 0;
        while let Some(found) = self.find(text, done, &mut places) {
            if done < found.start {
                out.push(&text[done..found.start]);
            }
            out.push(&text[found.clone()]);
            done = found.end;
        }
        if done < text.len() {
            out.push(&text[done..]);
        }
    }

    fn find(
        &self,
        text: &str,
        from: usize,
        places: &mut regex::CaptureLocations,
    ) -> Option<std::ops::Range<usize>> {
        if !self.gives_back {
            return self.regex.find_at(text, from).map(|m| m.range());
        }
        let found = self.regex.captures_read_at(places, text, from)?.range();
        if places.get(1).is_some() && found.end < text.len() {
            // White space before a word: the last of several goes with the word.
            let (last, _) = text[found.clone()].char_indices().next_back()?;
            if last > 0 {
                return Some(found.start..found.start + last);
            }
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words<'t>(name: &str, text: &'t str) -> Vec<&'t str> {
        Splitter::new(PreTokenizer::named(name).unwrap()).split(text)
    }

    #[test]
    fn every_expression_compiles_and_loses_nothing() {
        let text = "Hello  it's 12345 «ÉTÉ» \r\n\n\t漢字 नमस्ते 가나 <a@b.c>!! \u{85}\u{a0} x  ";
        let mut names = PreTokenizer::names();
        for pre in &ALL {
            assert_eq!(Splitter::new(pre).split(text).concat(), text, "{:?}", pre.names);
        }
        let n = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), n, "a name stands in two places");
    }

    #[test]
    fn names_that_share_a_split_share_it_and_others_differ() {
        let text = "I'LL pay 12345 now";
        let llama = ["I", "'LL", " pay", " ", "123", "45", " now"];
        for name in ["llama-bpe", "falcon3", "pixtral", "smaug-bpe", "dbrx"] {
            assert_eq!(words(name, text), llama, "{name}");
        }
        assert_eq!(
            words("qwen2", text),
            ["I", "'LL", " pay", " ", "1", "2", "3", "4", "5", " now"]
        );
        assert_eq!(words("gpt-2", text), ["I", "'", "LL", " pay", " 12345", " now"]);
        let smollm = ["I", "'", "LL", " pay", " ", "1", "2", "3", "4", "5", " now"];
        assert_eq!(words("smollm", text), smollm);
        assert_eq!(words("tekken", "camelCase"), ["camel", "Case"]);
    }

    #[test]
    fn the_last_space_of_a_run_goes_with_the_word_and_runs_have_no_limit() {
        assert_eq!(words("llama-bpe", "a   b  "), ["a", "  ", " b", "  "]);
        assert_eq!(words("gpt-2", "a\n\nb"), ["a", "\n", "\n", "b"]);
        let long = format!("{}x", " ".repeat(2_000_000));
        assert_eq!(words("llama-bpe", &long)[1], " x");
        let letters = "é".repeat(2_000_000);
        assert_eq!(words("tekken", &letters).len(), 1);
    }
}
