"""Sampling against its definition, and generations on a kept cache against those from an empty one."""

import json
import math

import numpy as np
import pytest

from answer import Sampling, answer, uniform
from test_model import TOKENS, build, write_tiny
from test_worker import Worker


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


def ask(model, prompt, n, reuse=False, sampling=None, stop=(), cancelled=lambda: False):
    seen = []
    out = answer(model, prompt, n, sampling, stop, reuse, lambda t, ns: seen.append((t, ns)), cancelled)
    assert seen == list(zip(out[0], out[2]))
    return out[0], out[3]


def test_a_kept_cache_changes_no_token(tmp_path):
    model = build(write_tiny(tmp_path / "m.gguf"))
    measured = model.generate(TOKENS[:9], 8)[0]
    assert ask(model, TOKENS[:9], 8, reuse=True) == (measured, 0)
    assert ask(model, TOKENS[:9], 8, reuse=True) == (measured, 8)
    longer = TOKENS[:9] + measured[:5] + TOKENS[20:26]
    cold, _ = ask(model, longer, 8)
    ask(model, TOKENS[:9], 8)
    assert ask(model, longer, 8, reuse=True) == (cold, 14)
    model.generate(TOKENS[:9], 2)
    assert ask(model, longer, 8, reuse=True) == (cold, 0), "nobody builds on a measured generation"
    assert ask(model, longer, 8, stop={cold[3]})[0] == cold[: cold.index(cold[3]) + 1]
    countdown = iter([False] * 3)
    assert ask(model, longer, 8, cancelled=lambda: next(countdown, True))[0] == cold[:3]
    drawn = [ask(model, longer, 8, sampling=Sampling(5.0, 1.0, seed))[0] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_worker_streams_and_is_cancelled(tmp_path):
    path = write_tiny(tmp_path / "m.gguf")
    with Worker() as worker:
        assert set(worker.ready["features"]) == {"stream", "stop", "sampling", "reuse", "cancel", "score", "context"}
        worker.load(path, half=False)
        reply = worker.ask(type="generate", id=7, prompt=TOKENS[:9], n=20, ignore_eos=True, stream=True, reuse=True)
        streamed = []
        while reply["type"] == "token":
            assert reply["id"] == 7
            streamed.append((reply["token"], reply["t_ns"]))
            reply = json.loads(worker.process.stdout.readline())
        assert streamed == list(zip(reply["tokens"], reply["t_tokens_ns"])) and len(streamed) == 20
        # A late cancel is no harm; one that waits before the generation begins ends it at once.
        worker.process.stdin.write('{"type":"cancel","id":7}\n{"type":"generate","id":8,"prompt":[1,2],"n":20,"stream":true}\n{"type":"cancel","id":8}\n')
        worker.process.stdin.flush()
        replies = [json.loads(worker.process.stdout.readline())]
        while replies[-1]["type"] == "token":
            replies.append(json.loads(worker.process.stdout.readline()))
        assert replies[-1]["id"] == 8 and replies[-1]["tokens"] == [r["token"] for r in replies[:-1]]
        assert worker.ask(type="memory")["type"] == "memory"
        error = worker.ask(type="generate", id=9, prompt=[1], n=2, sampling={"temperature": 0, "top_p": 1, "seed": 1})
        assert error["kind"] == "internal" and "temperature 0" in error["message"]
