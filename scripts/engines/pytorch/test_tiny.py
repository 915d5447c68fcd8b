"""Tests the products that tinygrad compiles, in torch: against dequantized weights, in a model, and the way back to torch."""

import os
import tempfile

os.environ |= {"XDG_CACHE_HOME": tempfile.mkdtemp(), "DEV": "CPU", "NUM_CPU_THREADS": "2", "PARALLEL": "0"}

import pytest
import torch

from _shared import Unsupported
from _shared.gguf_reader import Tensor
from _shared.test_support import TOKENS, nmse, random_blocks, write_tiny
from hybrid import product
from linear import Dense
from model import Model
from test_model import build, generate, scores
from tiny import Tiny


def tinygrad(path):
    return Model(path, "cpu", 64, {"half": False, "compile": False, "library": "tinygrad"})


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_K", "Q5_1", "Q6_K", "Q8_0"])
def test_products_are_those_of_dequantized_weights(kind):
    tensors = [Tensor("t", kind, rows, 512, random_blocks(kind, rows, 512, rows)) for rows in (64, 48)]
    dense, layer = Dense(tensors, torch.float32, "cpu"), Tiny(tensors)
    x = torch.randn(20, 512, generator=torch.Generator().manual_seed(1))
    limit = 1e-11 if "K" not in kind else 1e-6
    for rows in (x[:1], x):
        assert nmse(layer.gemm(rows), dense.gemm(rows)) < limit
    before = layer.gemm(x[:1])
    kept = before.clone()
    layer.gemm(x[1:2])
    assert torch.equal(before, kept), "an output keeps its own memory"
    assert nmse(layer.lookup(torch.tensor([0, 7, 63])), dense.lookup(torch.tensor([0, 7, 63]))) < 1e-11


def test_torch_can_compile_around_the_operation():
    layer = Tiny([Tensor("t", "Q8_0", 64, 512, random_blocks("Q8_0", 64, 512))])
    torch.library.opcheck(product, (torch.randn(3, 512), layer.number), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("kind", ["Q4_0", "mix"])
def test_a_model_is_the_float32_one(tmp_path, kind):
    path = write_tiny(tmp_path / "m.gguf", kind)
    model, plain = tinygrad(path), build(path)
    assert not model.kept and model.facts()["precision"]["compute"] == "f32"
    assert nmse(scores(model, TOKENS), scores(plain, TOKENS)) < (1e-11 if kind == "Q4_0" else 1e-5)
    assert model.compile_ns > 0
    if kind == "Q4_0":
        assert generate(model, TOKENS[:9], 12) == generate(plain, TOKENS[:9], 12)


def test_a_wrong_product_is_left_to_torch_with_the_reason(tmp_path, monkeypatch):
    path = write_tiny(tmp_path / "m.gguf", "Q4_0")
    monkeypatch.setattr(Tiny, "error", lambda self: 0.5 if self.cols == 512 else 0.0)
    model = tinygrad(path)
    assert any("2 layers are torch's: tinygrad's product has a relative error of 5e-01" in note for note in model.facts()["notes"])
    assert nmse(scores(model, TOKENS), scores(build(path), TOKENS)) < 1e-11
    with pytest.raises(Unsupported, match="one sequence"):
        Model.batched(2, "cpu")(path, "cpu", 64, {"half": False, "compile": False, "library": "tinygrad"})


def test_float_weights_stay_torchs(tmp_path):
    model = tinygrad(write_tiny(tmp_path / "m.gguf", "F16"))
    assert "float weights" in model.facts()["notes"][-1]
