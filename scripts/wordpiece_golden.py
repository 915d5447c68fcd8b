#!/usr/bin/env python3
"""Texts and their ids by Hugging Face's tokenizers, for the WordPiece test of src/model/tokenizer.

    python3 -m venv VENV && VENV/bin/pip install tokenizers==0.23.1 transformers
    VENV/bin/python scripts/wordpiece_golden.py --texts 300 > tests/data/wordpiece.jsonl
    VENV/bin/python scripts/wordpiece_golden.py --texts 10000 --seed 2 > /tmp/many.jsonl
    LLM_BENCH_WORDPIECE=/tmp/many.jsonl cargo test --lib -- --ignored wordpiece

Each line is {"text", "ids"} with [CLS] and [SEP]. The tokenizer is the one that transformers makes
of bert-base-uncased's vocab.txt; special tokens that a text spells are tokens there.
"""

import argparse
import json
import random
import sys
from pathlib import Path

VOCABULARY = Path(__file__).parent.parent / "models/vocab/bert-uncased.txt"

WORDS = """the encoder reads whole texts unbelievably antidisestablishmentarianism playing played tokens
don't isn't it's O'Neill e-mail U.S.A. 3.14159 1,000,000 2026-11-28 http://example.org/a?b=c&d=%20
user@example.com C++ f(x)=x² naïve café résumé Übergröße Straße İstanbul ÅNGSTRÖM ﬁne ﬂow ½ № ™ æther
œuvre Ελληνικά ΌΣΟΣ русский Ёлка עִבְרִית العَرَبِيَّة हिन्दी ภาษาไทย 中文 漢字 日本語 カタカナ ひらがな 한국어 𠀀𠀁 豈
😀 👩‍👩‍👧‍👦 🇩🇪 ❤️ 🤷🏽‍♀️ … — – “quoted” ‘single’ «guillemets» ¿qué? ¡hola! `code` ~tilde^ $5 €10 £3 ¥7
[CLS] [SEP] [MASK] [PAD] [UNK] [unused5] ##ing ## # ▁low </s> <|endoftext|>""".split()

# Blanks, controls, joiners, marks and characters outside the planes of everyday text.
ODD = [
    " ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\u3000", "\u2028", "\u0085", "\x0b", "\x0c",
    "\x00", "\x01", "\x1b", "\x7f", "\u200b", "\u200d", "\ufeff", "\u00ad", "\ufffd", "\u0301",
    "\u0308", "\u0327", "\u20dd", "\ue000", "\U000f0000", "\U0001f9e0", "\u0378", "\u2060",
]

# Ranges of letters, signs and ideographs that single characters are drawn from.
RANGES = [
    (0x21, 0x7E), (0xA1, 0x24F), (0x250, 0x2AF), (0x370, 0x3FF), (0x400, 0x4FF), (0x5D0, 0x5EA),
    (0x621, 0x64A), (0x900, 0x97F), (0xE01, 0xE5B), (0x1E00, 0x1EFF), (0x2010, 0x205E),
    (0x2070, 0x209C), (0x2190, 0x21FF), (0x2460, 0x24FF), (0x2600, 0x27BF), (0x3041, 0x30FF),
    (0x3400, 0x3500), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFAFF), (0xFB00, 0xFB4F),
    (0xFF01, 0xFFEE), (0x1D400, 0x1D7FF), (0x1F300, 0x1F64F), (0x20000, 0x20100),
]  # fmt: skip


def character(rng):
    low, high = rng.choice(RANGES)
    return chr(rng.randint(low, high))


def piece(rng, vocabulary):
    kind = rng.random()
    if kind < 0.35:
        return rng.choice(WORDS)
    if kind < 0.6:
        word = rng.choice(vocabulary).removeprefix("##")
        return rng.choice([word, word.upper(), word.capitalize(), word + rng.choice(vocabulary)])
    if kind < 0.7:
        return "".join(character(rng) for _ in range(rng.randint(1, 6)))
    if kind < 0.8:
        return rng.choice(ODD)
    if kind < 0.9:
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(1, 20)))
    if kind < 0.92:
        return rng.choice("aé漢") * rng.choice([99, 100, 101, 150])
    return str(rng.randint(0, 10 ** rng.randint(1, 12)))


def text(rng, vocabulary):
    """A few pieces with or without spaces between them; no surrogates, which are no text."""
    gap = rng.choice([" ", " ", " ", "", "-", "  "])
    return gap.join(piece(rng, vocabulary) for _ in range(rng.randint(0, 14)))


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    arguments.add_argument("--texts", type=int, default=300)
    arguments.add_argument("--seed", type=int, default=1)
    arguments = arguments.parse_args()

    from tokenizers import Tokenizer
    from transformers import BertTokenizerFast
    from transformers.utils import logging

    logging.set_verbosity_error()
    tokens = VOCABULARY.read_text(encoding="utf-8").splitlines()
    made = BertTokenizerFast(vocab={t: i for i, t in enumerate(tokens)}, do_lower_case=True)
    tokenizer = Tokenizer.from_str(made.backend_tokenizer.to_str())
    rng = random.Random(arguments.seed)
    texts = {"": None}
    while len(texts) < arguments.texts:
        texts[text(rng, tokens)] = None
    for one in texts:
        row = {"text": one, "ids": tokenizer.encode(one).ids}
        sys.stdout.write(json.dumps(row, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
