"""The tokenizer of Python engines: Hugging Face's `tokenizers`, made from the vocabulary of a GGUF file.

The package is in the user's environment, or in the folder that LLM_BENCH_TOKENIZERS names, where the harness puts it
for the engines that it installs. No text becomes a control token, as in the harness.
"""

import os
import sys
from importlib.util import find_spec

from .protocol import BadModel, Unsupported

if os.environ.get("LLM_BENCH_TOKENIZERS"):
    sys.path.append(os.environ["LLM_BENCH_TOKENIZERS"])

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # llama_token_type
WORD_START = "\u2581"  # how GGUF marks the start of a WordPiece word
LONGEST_WORD = 100  # characters; a longer one is the unknown token

CONTRACTIONS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# How text is cut into words, by `tokenizer.ggml.pre`: an expression, `digits` for single digits before GPT-2's own
# expression, or nothing for that one alone; whether a word in the vocabulary is taken whole; whether a text begins
# with begin-of-text where the file does not say. The other names of llama.cpp are not here.
CUTS = {
    "llama-bpe": (CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + REST, True, True),
    "qwen2": (CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + REST, False, False),
    "smollm": ("digits", False, False),
    "gpt-2": (None, False, False),
}


def is_here() -> bool:
    """Whether it can be made here, which the reader of the file's vocabulary needs numpy for. Imports neither."""
    return all(find_spec(package) is not None for package in ("numpy", "tokenizers"))


class Tokenizer:
    """Texts to ids, for one file."""

    def __init__(self, path: str):
        import tokenizers

        from .gguf_reader import Gguf

        self.name = f"tokenizers {tokenizers.__version__} (Hugging Face)"
        self._tokenizer = build(Gguf.vocabulary(path), path)

    def ids(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text, with the special tokens around them."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)]

    @staticmethod
    def threads(texts: list[str]) -> int:
        """How many of the package's threads share a batch; the harness limits them."""
        return 1 if len(texts) == 1 else int(os.environ.get("RAYON_NUM_THREADS") or os.cpu_count() or 1)


def build(metadata: dict, path: str):
    """The package's tokenizer of these metadata, whose arrays of strings are lists."""
    from tokenizers import AddedToken, processors

    model = metadata.get("tokenizer.ggml.model")
    if model not in ("gpt2", "bert"):
        raise Unsupported(f"{path}: expected tokenizer.ggml.model 'gpt2' or 'bert', found {model!r}")
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not tokens:
        raise BadModel(f"{path}: expected tokenizer.ggml.tokens, found none")
    kinds = metadata.get("tokenizer.ggml.token_type")
    kinds = [1] * len(tokens) if kinds is None else [int(kind) for kind in kinds]
    if len(kinds) != len(tokens):
        raise BadModel(f"{path}: expected {len(tokens)} token types, found {len(kinds)}")
    number = lambda *names: next((n for name in names if (n := metadata.get(f"tokenizer.ggml.{name}_token_id")) is not None), None)
    flag = lambda name, default: bool(metadata.get(f"tokenizer.ggml.{name}", default))
    if model == "bert":
        made = _word_piece(tokens, kinds, number("unknown"), metadata, path)
        around = number("cls", "bos"), number("seperator", "eos")  # llama.cpp spells it so
        missing = None in around
    else:
        made, adds_bos = _byte_pairs(tokens, kinds, metadata, path)
        begin, end = flag("add_bos_token", adds_bos), flag("add_eos_token", False)
        around = number("bos") if begin else None, number("eos") if end else None
        missing = (begin, end) != tuple(id is not None for id in around)
        added = [token for token, kind in zip(tokens, kinds) if kind == USER_DEFINED]
        made.add_tokens([AddedToken(token, normalized=False) for token in added])
    if missing:
        raise BadModel(f"{path}: expected the ids of the tokens around a text, found {around}")
    named = [(name, id) for name, id in zip(("begin", "end"), around) if id is not None]
    if named:
        pieces = ["begin" if around[0] is not None else "", "$A", "end" if around[1] is not None else ""]
        single = " ".join(piece for piece in pieces if piece)
        made.post_processor = processors.TemplateProcessing(single=single, special_tokens=named)
    return made


def _word_piece(tokens: list[str], kinds: list[int], unknown: int | None, metadata: dict, path: str):
    """BERT's: text is cleaned, made lowercase, cut at spaces and punctuation; words become pieces from the left."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    if unknown is None or not 0 <= unknown < len(tokens):
        raise BadModel(f"{path}: expected tokenizer.ggml.unknown_token_id below {len(tokens)}, found {unknown}")
    pieces = {}
    for id, (token, kind) in enumerate(zip(tokens, kinds)):
        special = kind in (UNKNOWN, CONTROL)
        if not special or id == unknown:
            piece = token if special else token.removeprefix(WORD_START) if token.startswith(WORD_START) else f"##{token}"
            pieces.setdefault(piece, id)
    made = Tokenizer(models.WordPiece(vocab=pieces, unk_token=tokens[unknown], max_input_chars_per_word=LONGEST_WORD))
    lowercase = bool(metadata.get("llm_bench.lowercase", True))
    made.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return made


def _byte_pairs(tokens: list[str], kinds: list[int], metadata: dict, path: str):
    """Byte-level BPE, and whether a text begins with begin-of-text where the file does not say."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    pre = metadata.get("tokenizer.ggml.pre")
    if pre not in CUTS:
        raise Unsupported(f"{path}: expected tokenizer.ggml.pre to be one of {', '.join(CUTS)}, found {pre!r}")
    cut, whole_words, adds_bos = CUTS[pre]
    pairs = (tuple(merge.split(" ")) for merge in metadata.get("tokenizer.ggml.merges") or ())
    merges = list(dict.fromkeys(pairs))
    if wrong := next((pair for pair in merges if len(pair) != 2), None):
        raise BadModel(f"{path}: expected merges of two pieces, found {' '.join(wrong)!r}")
    joined = {first + second for first, second in merges}
    text = {t: id for id, (t, kind) in enumerate(zip(tokens, kinds)) if kind not in (UNKNOWN, CONTROL) or t in joined}
    made = Tokenizer(models.BPE(vocab=text, merges=merges, ignore_merges=whole_words))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cut in (None, "digits"))
    if cut is None:
        made.pre_tokenizer = byte_level
    else:
        first = pre_tokenizers.Digits(individual_digits=True) if cut == "digits" else pre_tokenizers.Split(Regex(cut), "isolated")
        made.pre_tokenizer = pre_tokenizers.Sequence([first, byte_level])
    return made, adds_bos
