"""Tests what runs on CUDA as far as a CPU can: the kernels in Triton's interpreter, the rest as it is."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import packed
from _shared.engine import Server
from _shared.gguf_reader import Tensor
from _shared.test_support import TOKENS, nmse, random_blocks, write_tiny
from cuda_model import CudaModel
from linear import Dense
from model import Model
from packed import DeviceDense, Packed, Upload, attend, dense_weights, launch_attend, launch_gemv, parts_of

KINDS = ["Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0", "IQ4_NL"]
INTERPRETED = "TRITON_INTERPRET" in os.environ  # Triton reads it when a kernel is defined


def blocks(kind, *rows):
    cols = 512 if "K" in kind else 288  # 288: a field of words ends within a group
    return [Tensor("t", kind, n, cols, random_blocks(kind, n, cols, n)) for n in rows]


def options(cols):
    norm = {"norm": torch.randn(cols), "eps": 1e-5}
    return [{}, norm, {"residual": torch.randn(1, 64)}, {**norm, "swiglu": True}]


@pytest.mark.parametrize("kind", KINDS)
def test_packed_weights_are_the_dequantized_ones(kind):
    tensors = blocks(kind, 24, 40)
    weights, dense = Packed(tensors, torch.float32, Upload("cpu")), Dense(tensors, torch.float32, "cpu")
    limit = 1e-11 if kind in ("Q4_0", "Q5_0", "Q8_0", "IQ4_NL") else 1e-6
    x, ids = torch.randn(5, weights.cols), torch.tensor([0, 23, 24, 63])
    assert nmse(weights.gemv(x[:1]), dense.gemv(x[:1])) < limit
    assert nmse(weights.gemm(x), dense.gemm(x)) < limit
    assert nmse(weights.lookup(ids), dense.lookup(ids)) < limit
    assert nmse(DeviceDense(tensors, torch.float32, Upload("cpu")).weight, dense.weight) < 1e-11
    assert nmse(DeviceDense(tensors, torch.float32, Upload("cpu")).fused(x[:1]), dense.gemv(x[:1])) < 1e-11


def test_the_kernels_agree_with_what_defines_them():
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "interpreted", __file__]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.skipif(not INTERPRETED, reason="runs within the test above")
@pytest.mark.parametrize("kind", KINDS)
def test_interpreted_products(kind):
    from kernels import dense_kernel

    w = Packed(blocks(kind, 24, 40), torch.float32, Upload("cpu"))
    x = torch.randn(1, w.cols)
    for given in options(w.cols):
        expected = w.fused(x, **given)
        out = torch.full_like(expected, float("nan"))
        given = {"norm": None, "residual": None, "eps": 0.0, "swiglu": False, **given}
        shape = {"cols": w.cols, "bits": w.bits, "group": w.group, "bias": w.bias}
        launch_gemv(x, w.words, w.scales, w.offsets, out=out, **shape, **given, choice=1)
        assert nmse(out, expected) < 1e-11, given
    out, length = torch.full((64, w.cols), float("nan")), w.cols * w.bits // 32
    offsets = {"OFFSETS": w.offsets is not None, "BLOCK": 32}
    given = (w.words, w.scales, w.scales if w.offsets is None else w.offsets, out, 64, w.cols)
    dense_kernel[(16, -(-length // 32))](*given, BITS=w.bits, GROUP=w.group, BIAS=w.bias, **offsets)
    assert nmse(out, dense_weights(w.words, w.scales, w.offsets, 64, w.cols, w.bits, w.group, w.bias, torch.float32)) < 1e-11


@pytest.mark.skipif(not INTERPRETED, reason="runs within the test above")
@pytest.mark.parametrize("heads, kv, dim, n_ctx", [(4, 2, 64, 100), (6, 2, 48, 200), (8, 8, 64, 33), (3, 1, 16, 3000)])
def test_interpreted_attention(heads, kv, dim, n_ctx):
    q, k, v = torch.randn(heads, 1, dim), torch.randn(kv, n_ctx, dim).half(), torch.randn(kv, n_ctx, dim).half()
    for position in (0, 31, 32, n_ctx - 1):
        at = torch.tensor([position])
        expected = attend(q, k, v, at)
        keys, values = k.clone(), v.clone()
        keys[:, position + 1 :] = values[:, position + 1 :] = float("nan")  # what was never written is not read
        out = torch.full_like(expected, float("nan"))
        launch_attend(q, keys, values, at, out)
        assert nmse(out, expected) < 1e-10, position


def test_the_cache_is_split_into_at_most_64_chunks_that_cover_it():
    for n_ctx in [1, 31, 32, 33, 512, 2048, 2049, 4097, 131072, 131073]:
        parts, chunk = parts_of(n_ctx)
        assert parts <= 64 and (parts - 1) * chunk < n_ctx <= parts * chunk


def build(path, half=True, compiled=False):
    return CudaModel(path, "cpu", 64, {"half": half, "compile": compiled})


def scores(model, tokens=TOKENS):
    return np.concatenate(list(model.score(tokens, 0)))


def generate(model, prompt, n):
    server = Server(None, Model)
    server.engine = model
    return server.answer({"type": "generate", "id": 1, "prompt": prompt, "n": n})["tokens"]


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "mix"])
def test_the_model_of_the_device_computes_what_the_one_of_the_cpu_does(tmp_path, kind):
    path = write_tiny(tmp_path / "m.gguf", kind)
    reference = scores(Model(path, "cpu", 64, {"half": False, "compile": False}))
    assert nmse(scores(build(path, half=False)), reference) < 1e-11
    assert nmse(scores(build(path)), reference) < (1e-3 if kind == "BF16" else 1e-5)
    model = build(path)
    seen = [model.row(model.prefill(TOKENS[:5], 0)), model.row(model.prefill(TOKENS[5:9], 5))]
    seen += [model.row(model.decode(TOKENS[i], i)) for i in range(9, len(TOKENS))]
    assert nmse(seen, reference[[4, *range(8, len(TOKENS))]]) < (1e-3 if kind == "BF16" else 1e-5)
    tokens = generate(model, TOKENS[:9], 8)
    assert tokens == generate(build(path), TOKENS[:9], 8)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_0", "mix"])
def test_the_compiled_step_agrees_and_other_lengths_compile_nothing(tmp_path, kind):
    path = write_tiny(tmp_path / "m.gguf", kind)
    reference = scores(Model(path, "cpu", 64, {"half": False, "compile": False}))
    model = build(path, compiled=True)
    assert nmse(scores(model), reference) < 1e-5
    seen = [model.row(model.prefill(TOKENS[:5], 0))]
    seen += [model.row(model.decode(TOKENS[i], i)).copy() for i in range(5, len(TOKENS))]
    assert nmse(seen, reference[4:]) < 1e-5
    graphs = model.graphs
    # Types of a layer differ in a mix of types only; every kind is compiled once.
    assert 0 < graphs <= 5 + (6 if kind == "mix" else 0) and model.compile_ns > 0
    tokens = generate(model, TOKENS[:9], 8)
    teacher = scores(Model(path, "cpu", 64, {"half": False, "compile": False}), TOKENS[:9] + tokens)[8:-1]
    assert (teacher.max(-1) - teacher[np.arange(8), tokens] < 0.05 * teacher.std()).all()
    assert generate(model, TOKENS[:23], 4) and generate(model, TOKENS[:9], 8) == tokens
    assert model.graphs == graphs
    assert ("Packed" in model.kernels()) == (kind != "F16")


def test_a_cuda_device_that_is_not_there_is_said(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    path = write_tiny(tmp_path / "m.gguf")
    with pytest.raises(Exception, match="sees no CUDA device; use --device cpu"):
        Model(path, "cuda:0", 64, {"half": True, "compile": False})
    assert packed.CHOICES
