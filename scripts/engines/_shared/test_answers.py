"""Sampling against its definition, and the token loop over an engine whose logits depend on its whole cache."""

import math

import numpy as np
import pytest

from _shared import BadModel, Engine, Failure
from _shared.engine import Server
from _shared.sampling import Sampling, uniform

TOKENS = list(range(3, 35))


def plain(logits, temperature, top_p, seed, step):
    """The definition in docs/PROTOCOL.md, number by number."""
    order = sorted((i for i, x in enumerate(logits) if x > -math.inf), key=lambda i: (-logits[i], i))
    weights = [math.exp((float(logits[i]) - float(logits[order[0]])) / temperature) for i in order]
    mass, kept, n = top_p * sum(weights), 0.0, 0
    while n < len(weights) and (n == 0 or kept < mass):
        kept += weights[n]
        n += 1
    target, total = uniform(seed, step) * kept, 0.0
    for i, weight in zip(order[:n], weights):
        total += weight
        if total > target:
            return i
    return order[n - 1]


def test_the_numbers_are_those_of_splitmix64():
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [uniform(1234567, step) for step in range(3)] == [(z >> 11) / 2**53 for z in published]


def test_draws_follow_the_definition():
    random = np.random.default_rng(5)
    for seed in range(200):
        logits = random.normal(0, 3, 97).astype(np.float32)
        logits[random.integers(97)] = logits[random.integers(97)]  # ties
        temperature, top_p = float(random.uniform(0.2, 3)), float(random.uniform(0.05, 1))
        for step in range(3):
            drawn = Sampling(temperature, top_p, seed).draw(logits, step)
            assert drawn == plain(logits.tolist(), temperature, top_p, seed, step)


def test_broken_logits_and_settings():
    nan, inf = float("nan"), float("inf")
    draw = lambda *logits: Sampling(1.0, 0.5, 3).draw(np.array(logits, np.float32), 0)
    assert draw(nan, nan) == 0 and draw(0.0, inf) == 1 and draw(1.0, nan, 9.0, -inf) == 2
    for temperature, top_p in [(0, 1), (nan, 1), (inf, 1), (1, 0), (1, 1.1)]:
        with pytest.raises(ValueError):
            Sampling(temperature, top_p, 0)


class Recall(Engine):
    """An engine whose cache is a list of tokens."""

    def __init__(self, *_):
        self.vocab, self.n_ctx, self.cache = 97, 64, []

    def facts(self):
        return {"precision": {}}

    def prefill(self, tokens, start):
        assert len(self.cache) >= start
        self.cache = self.cache[:start] + tokens
        return np.random.default_rng(self.cache).normal(0, 1, self.vocab).astype(np.float32)

    def decode(self, token, position):
        return self.prefill([token], position)


class Listener:
    """A harness that keeps the sent messages and cancels a generation after a number of tokens."""

    def __init__(self):
        self.sent, self.patience = [], 99

    def send(self, message):
        self.sent.append((message["token"], message["t_ns"]))

    def cancelled(self, generation):
        self.patience -= 1
        return self.patience < 0


@pytest.fixture
def server():
    server = Server(Listener(), Recall)
    server.answer({"type": "load", "path": "", "device": "cpu", "threads": 1, "n_ctx": 64})
    return server


def measured(server, prompt, n, **more):
    return server.answer({"type": "generate", "id": 1, "prompt": prompt, "n": n, **more})["tokens"]


def read(server, prompt, n, **more):
    server.harness.sent = []
    answer = server.answer({"type": "generate", "id": 1, "prompt": prompt, "n": n, "stream": True, **more})
    assert server.harness.sent == list(zip(answer["tokens"], answer["t_tokens_ns"]))
    return answer["tokens"], answer["reused"]


def test_a_kept_cache_changes_no_token(server):
    tokens = measured(server, TOKENS[:9], 8)
    assert read(server, TOKENS[:9], 8, reuse=True) == (tokens, 0)
    assert read(server, TOKENS[:9], 8, reuse=True) == (tokens, 8)
    longer = TOKENS[:9] + tokens[:5] + TOKENS[20:26]
    cold, _ = read(server, longer, 8)
    read(server, TOKENS[:9], 8)
    assert read(server, longer, 8, reuse=True) == (cold, 14)
    measured(server, TOKENS[:9], 2)
    assert read(server, longer, 8, reuse=True) == (cold, 0), "nobody builds on a measured generation"
    assert read(server, longer, 8, stop=[cold[3]])[0] == cold[: cold.index(cold[3]) + 1]
    settings = lambda seed: {"temperature": 5.0, "top_p": 1.0, "seed": seed}
    drawn = [read(server, longer, 8, sampling=settings(seed))[0] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    server.harness.patience = 3
    assert read(server, longer, 8)[0] == cold[:3]
    server.harness.patience = 99
    assert read(server, longer, 8, reuse=True) == (cold, len(longer) - 1)


def test_what_cannot_be_answered_is_refused(server):
    for prompt, n, more, why in [
        (TOKENS[:10], 55, {}, "n_ctx 64"),
        ([], 1, {}, "found 0"),
        ([97], 1, {}, "ids from 0 to 96"),
        ([-1], 1, {}, "ids from 0 to 96"),
        ([1], 0, {}, "n of at least 1"),
        ([1], 1, {"ignore_eos": False}, "ids in 'stop'"),
        ([1], 1, {"logits": "all"}, "use score"),
        ([1], 1, {"depth": 2}, "holds 0 positions"),
        ([1], 1, {"sampling": {"temperature": 0, "top_p": 1, "seed": 1}}, "temperature 0"),
        ([1], 1, {"sampling": {"heat": 1}}, "heat"),
    ]:
        with pytest.raises(Failure, match=why):
            measured(server, prompt, n, **more)


def test_logits_that_are_no_numbers_are_an_error_and_no_measurement(server):
    for bad in (math.nan, math.inf):
        good = server.engine.prefill

        def spoilt(tokens, start):
            row = good(tokens, start)
            row[5] = bad
            return row

        server.engine.prefill = spoilt
        with pytest.raises(BadModel, match="not finite"):
            measured(server, TOKENS[:9], 4)
        server.engine.prefill = good
        assert len(measured(server, TOKENS[:9], 4)) == 4
