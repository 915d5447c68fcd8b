"""Tests engines over one graph against a naive float64 LLaMA, as the harness sees them.

Each runs where its package is installed: scripts/test starts this file in the environment of every such engine.
"""

import tomllib
from importlib.util import find_spec

import numpy as np
import pytest

from _shared.test_support import ENGINES, TOKENS, VOCAB, Worker, naive_logits, nmse, write_tiny

PACKAGES = ("onnxruntime", "openvino")


def installed(package):
    """Whether it can be imported. The folder of an engine of that name is no package."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


@pytest.fixture(params=[e if installed(e) else pytest.param(e, marks=pytest.mark.skip("not installed")) for e in PACKAGES])
def start(request, tmp_path):
    """Starts the engine as its manifest says, with a folder for its cache and an empty home, and loads a file."""
    workers, manifest = [], tomllib.loads((ENGINES / request.param / "engine.toml").read_text())
    (tmp_path / "home").mkdir()
    environment = {**manifest.get("env", {}), "HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "home")}
    environment |= {name: str(tmp_path / name) for name in manifest.get("compile_cache_env", ())}

    def loaded(path, **more):
        worker = Worker(request.param, environment)
        workers.append(worker)
        answer = worker.ask(type="load", path=str(path), device="cpu", threads=2, n_ctx=64, **more)
        assert answer["type"] == "loaded", answer
        worker.loaded = answer
        return worker

    yield loaded
    for worker in workers:
        worker.__exit__()


def scores(worker, tmp_path, tokens=TOKENS, **more):
    """Logits `[positions, vocab]` of a `score`."""
    answer = worker.ask(type="score", id=1, tokens=tokens, logits_path=str(tmp_path / "logits"), **more)
    assert answer["type"] == "scored", answer
    return np.fromfile(tmp_path / "logits", np.float32).reshape(-1, VOCAB)


def generate(worker, prompt, n=8, **more):
    answer = worker.ask(type="generate", id=1, prompt=prompt, n=n, **more)
    assert answer["type"] == "generated", answer
    return answer


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "mix"])
def test_a_prompt_and_single_steps_give_the_logits_of_a_naive_forward_pass(start, tmp_path, kind):
    path = write_tiny(tmp_path / "m.gguf", kind)
    worker, expected = start(path), naive_logits(path, TOKENS)
    limit = {"f32": 1e-10, "bf16": 1e-3, "int8": 1e-3}[worker.loaded["precision"]["compute"]]
    assert nmse(scores(worker, tmp_path), expected) < limit
    assert nmse(scores(worker, tmp_path, decode_from=7), expected) < limit
    assert nmse(scores(worker, tmp_path, first=5, decode_from=30), expected[5:]) < limit


def test_a_second_load_computes_the_same_from_what_the_first_one_left(start, tmp_path):
    path = write_tiny(tmp_path / "m.gguf", "Q4_0")
    first = scores(start(path), tmp_path)
    assert np.array_equal(scores(start(path), tmp_path), first)


def test_a_context_and_kept_prefixes_change_no_token(start, tmp_path):
    worker = start(write_tiny(tmp_path / "m.gguf"))
    whole = generate(worker, TOKENS[:20])["tokens"]
    worker.ask(type="context", id=2, tokens=TOKENS[:13])
    for _ in range(2):
        assert generate(worker, TOKENS[13:20], depth=13)["tokens"] == whole
    assert generate(worker, TOKENS[:15], reuse=True)["reused"] == 13
    again = generate(worker, TOKENS[:20], reuse=True)
    assert (again["tokens"], again["reused"]) == (whole, 15)


@pytest.mark.parametrize("kind", ["F32", "Q4_0"])
def test_sequences_of_a_batch_get_the_tokens_that_they_get_alone(start, tmp_path, kind):
    path = write_tiny(tmp_path / "m.gguf", kind)
    prompts = [TOKENS[i : i + 9] for i in range(3)]
    alone = start(path)
    expected = [generate(alone, prompt)["tokens"] for prompt in prompts]
    answer = generate(start(path, batch=3), prompts[0], batch=3, others=prompts[1:])
    assert [answer["tokens"], *answer["others"]] == expected


def test_the_account_of_memory_holds_at_least_what_a_step_reads(start, tmp_path):
    worker = start(write_tiny(tmp_path / "m.gguf", "Q8_0"))
    memory = worker.ask(type="memory")
    assert memory["kv_bytes"] == 2 * 2 * 2 * 64 * 64 * 4  # layers, keys and values, kv_heads, n_ctx, head_dim
    held = memory["weights_mapped_bytes"] + memory["weights_private_bytes"]
    assert held >= worker.loaded["weight_bytes_per_token"] > 0


def test_nothing_is_written_into_the_home_folder(start, tmp_path):
    generate(start(write_tiny(tmp_path / "m.gguf")), TOKENS[:5])
    assert list((tmp_path / "home").iterdir()) == []


def test_a_damaged_cache_is_named(tmp_path):
    if not installed("onnxruntime"):
        pytest.skip("not installed")
    load = {"path": write_tiny(tmp_path / "m.gguf", "Q4_0"), "device": "cpu", "threads": 2, "n_ctx": 64}
    environment = {"ORT_DISABLE_TELEMETRY": "1", "LLM_BENCH_ONNX_CACHE": str(tmp_path / "cache")}
    with Worker("onnxruntime", environment) as worker:
        assert worker.ask(type="load", **load)["type"] == "loaded"
    (weights,) = (tmp_path / "cache").glob("*/weights.bin")
    weights.write_bytes(weights.read_bytes()[:-4096])
    with Worker("onnxruntime", environment) as worker:
        answer = worker.ask(type="load", **load)
    assert answer["kind"] == "compile_failed" and str(weights.parent) in answer["message"], answer
