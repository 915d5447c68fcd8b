"""Tests encoders against a BERT in float64, as the harness sees them.

Each runs where its package is installed: scripts/test starts this file in the environment of every such engine.
"""

import time
import tomllib
from importlib.util import find_spec

import numpy as np
import pytest

from _shared.test_bert_support import CONTEXT, DIM, LABELS, LAYERS, TEXTS, VOCAB, naive, write_bert
from _shared.test_support import ENGINES, Worker, nmse, write_tiny

# Variant: the folder, and the package that it needs.
VARIANTS = {"numpy": ("numpy", "numpy"), "onnxruntime": ("onnxruntime", "onnxruntime"), "openvino": ("openvino", "openvino")}
VARIANTS |= {"mlx": ("mlx", "mlx.core"), **dict.fromkeys(("pytorch-f32", "pytorch-eager"), ("pytorch", "torch"))}
COMPILED = {"pytorch": ("pytorch", "torch")}  # too slow for every test
FLOAT, ROUNDED = {"nmse": 1e-10, "cosine": 0.99999}, {"nmse": 1e-2, "cosine": 0.999}


def installed(package):
    """Whether it can be imported. The folder of an engine of that name is no package."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def parameter(variant):
    marks = [] if installed((VARIANTS | COMPILED)[variant][1]) else [pytest.mark.skip("not installed")]
    return pytest.param(variant, marks=marks)


@pytest.fixture(params=map(parameter, VARIANTS))
def load(request, tmp_path):
    """Starts the variant as its manifest says and loads a file; fixes the folder of its caches."""
    folder, _ = (VARIANTS | COMPILED)[request.param]
    manifest = tomllib.loads((ENGINES / folder / "engine.toml").read_text())
    environment = {**manifest.get("env", {}), "HOME": str(tmp_path), "OMP_NUM_THREADS": "2"}
    environment |= {name: str(tmp_path / name) for name in manifest.get("compile_cache_env", ())}
    workers, options = [], manifest["variants"][request.param].get("options", {})

    def loaded(path, refused=None, **more):
        workers.append(worker := Worker(folder, environment))
        assert "encode" in worker.ready["features"], worker.ready
        request = {"path": str(path), "device": "cpu", "threads": 2, "n_ctx": 40, "batch": 4, "options": options}
        worker.loaded = worker.ask(type="load", **request | more)
        assert (worker.loaded.get("kind"), worker.loaded["type"]) == (refused, "error" if refused else "loaded"), worker.loaded
        return worker

    yield loaded
    for worker in workers:
        worker.__exit__()


def encode(worker, texts, tmp_path):
    """Results `[texts, columns]` and hidden states `[layers + 1, tokens, dim]`."""
    files = {f"{name}_path": str(tmp_path / name) for name in ("vectors", "hidden")}
    sent = time.monotonic_ns()
    answer = worker.ask(type="encode", id=3, texts=texts, **files)
    assert (answer["type"], answer["id"], answer["rows"]) == ("encoded", 3, len(texts)), answer
    assert sent < answer["t_begin_ns"] < answer["t_end_ns"] < time.monotonic_ns()
    vectors = np.fromfile(files["vectors_path"], "<f4").reshape(len(texts), answer["columns"])
    return vectors, np.fromfile(files["hidden_path"], "<f4").reshape(LAYERS + 1, -1, DIM)


def agrees(results, path, limits, texts=TEXTS, **how):
    """Whether results and states are those of `naive`, text by text."""
    vectors, hidden = results
    at, agreed = 0, True
    for text, vector in zip(texts, vectors, strict=True):
        expected, states = naive(path, text, **how)
        cosine = vector @ expected / np.linalg.norm(vector) / np.linalg.norm(expected)
        agreed &= cosine >= limits["cosine"] and nmse(vector, expected) < limits["nmse"]
        for ours, theirs in zip(hidden[:, at : at + len(text)], states):
            agreed &= nmse(ours, theirs) < limits["nmse"]
        at += len(text)
    assert at == hidden.shape[1]
    return bool(agreed)


def limits(worker):
    return FLOAT if worker.loaded["precision"]["compute"] == "f32" else ROUNDED


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0"])
def test_vectors_and_states_are_those_of_a_naive_forward_pass(load, tmp_path, kind):
    path = write_bert(tmp_path / "m.gguf", kind)
    worker = load(path)
    assert worker.loaded["precision"]["kv"] == "none"
    assert kind != "F32" or worker.loaded["precision"] == {"weights": "f32", "compute": "f32", "kv": "none"}
    assert worker.ask(type="memory")["type"] == "memory"
    for texts in (TEXTS, TEXTS[:1], [TEXTS[0], TEXTS[0][::-1]]):
        assert agrees(encode(worker, texts, tmp_path), path, limits(worker), texts)


@pytest.mark.slow
@pytest.mark.parametrize("load", list(map(parameter, COMPILED)), indirect=True)
@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_a_compiled_forward_pass_gives_the_same_and_counts_its_compilation(load, tmp_path, kind):
    path = write_bert(tmp_path / "m.gguf", kind)
    worker = load(path)
    for texts in (TEXTS, [TEXTS[0], TEXTS[0][::-1]]):
        assert agrees(encode(worker, texts, tmp_path), path, limits(worker), texts)
        assert worker.ask(type="encode", id=1, texts=texts)["compile_ns"] == 0, "this shape is compiled"
    answer = worker.ask(type="encode", id=1, texts=TEXTS[:1])
    assert 0 < answer["compile_ns"] < answer["t_end_ns"] - answer["t_begin_ns"]


def test_a_wrong_forward_pass_does_not_agree(load, tmp_path):
    path = write_bert(tmp_path / "m.gguf")
    results = encode(load(path), TEXTS, tmp_path)
    assert agrees(results, path, ROUNDED)
    for wrong in ("mask", "types", "layers", "scale"):
        assert not agrees(results, path, ROUNDED, wrong=wrong), wrong
    assert not agrees(results, path, FLOAT, wrong="gelu")
    for pooling in (2, 3):
        assert not agrees(results, path, ROUNDED, pooling=pooling)


def test_texts_of_a_batch_get_what_they_get_alone(load, tmp_path):
    worker = load(write_bert(tmp_path / "m.gguf"))
    together, states = encode(worker, TEXTS, tmp_path)
    alone = [encode(worker, [text], tmp_path) for text in TEXTS]
    np.testing.assert_allclose(together, np.concatenate([vectors for vectors, _ in alone]), atol=2e-6)
    np.testing.assert_allclose(states, np.concatenate([hidden for _, hidden in alone], axis=1), atol=5e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=-1), 1, atol=1e-6)


@pytest.mark.parametrize("pooling", [2, 3])
def test_one_token_of_a_text_can_stand_for_it(load, tmp_path, pooling):
    path = write_bert(tmp_path / "m.gguf", pooling=pooling)
    results = encode(load(path), TEXTS, tmp_path)
    assert agrees(results, path, FLOAT, pooling=pooling) and not agrees(results, path, ROUNDED)


@pytest.mark.parametrize("activation, types", [("tanh", 2), ("relu", 0)])
def test_a_classifier_gives_logits(load, tmp_path, activation, types):
    path = write_bert(tmp_path / "m.gguf", activation=activation, types=types)
    results = encode(load(path), TEXTS, tmp_path)
    assert results[0].shape == (len(TEXTS), LABELS)
    assert agrees(results, path, FLOAT, activation=activation)
    assert not agrees(results, path, ROUNDED, activation={"tanh": "relu", "relu": "tanh"}[activation])


@pytest.mark.parametrize(
    "texts, why",
    [
        ([], "1 to 4 texts"),
        ([[1]] * 5, "1 to 4 texts"),
        ([[1], []], "found 0"),
        ([[VOCAB]], "ids from"),
        ([[-1]], "ids from"),
        ([[1] * 41], "found 41"),
    ],
)
def test_texts_that_cannot_be_run_are_refused(load, tmp_path, texts, why):
    answer = load(write_bert(tmp_path / "m.gguf")).ask(type="encode", id=1, texts=texts)
    assert (answer["type"], answer["kind"]) == ("error", "internal") and why in answer["message"], answer


def test_a_text_is_at_most_as_long_as_the_positions_of_the_file(load, tmp_path):
    path = write_bert(tmp_path / "m.gguf")
    worker, longest = load(path, n_ctx=99), [[5] * CONTEXT]
    assert agrees(encode(worker, longest, tmp_path), path, FLOAT, longest)
    assert "found 49" in worker.ask(type="encode", id=1, texts=[[5] * (CONTEXT + 1)])["message"]


def test_each_request_is_for_its_kind_of_model(load, tmp_path):
    bert, llama = write_bert(tmp_path / "b.gguf"), write_tiny(tmp_path / "l.gguf")
    for path, request in [(bert, {"type": "generate", "prompt": [1], "n": 1}), (llama, {"type": "encode", "texts": [[1]]})]:
        answer = load(path, batch=1).ask(id=1, **request)
        assert (answer["type"], answer["kind"]) == ("error", "unsupported"), answer


@pytest.mark.skipif(not installed("numpy"), reason="not installed")
@pytest.mark.parametrize(
    "how, why",
    [
        ({"skip": ("blk.1.attn_k.bias",)}, "blk.1.attn_k.bias"),
        ({"pooling": 9}, "pooling_type"),
        ({"activation": "swish"}, "classifier_activation"),
        ({"skip": ("token_embd_norm.bias",)}, "token_embd_norm.bias"),
    ],
)
def test_a_file_that_is_no_bert_is_a_typed_error(tmp_path, how, why):
    with Worker("numpy") as worker:
        answer = worker.load(write_bert(tmp_path / "m.gguf", **how))
    assert (answer["type"], answer["kind"]) == ("error", "bad_model") and why in answer["message"], answer
