"""Tests candle's kernels in torch: against dequantized weights and torch's attention, in a model, and the way back to torch.

LLM_BENCH_KERNELS names the library that `cargo build` made.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from _shared import MissingDependency, Unsupported
from _shared.gguf_reader import TYPES, Gguf, Tensor
from _shared.test_support import TOKENS, Worker, naive_logits, nmse, random_blocks, write_tiny
from linear import Dense
from model import Model
from test_model import KINDS, build, generate, scores

if "LLM_BENCH_KERNELS" not in os.environ:
    pytest.skip("LLM_BENCH_KERNELS does not name candle's kernels", allow_module_level=True)

import abi
from abi import Kernels, kernels
from candle import CandleModel, Mapped, attention
from hybrid import product

OPTIONS = {"half": False, "compile": False, "library": "candle"}


def candle(path):
    return Model(path, "cpu", 70, OPTIONS)


@pytest.mark.parametrize("kind", [name for name, *_ in TYPES.values()])
def test_products_are_those_of_dequantized_weights(kind):
    tensors = [Tensor("t", kind, rows, 512, random_blocks(kind, rows, 512, rows)) for rows in (64, 33)]
    dense, layer = Dense(tensors, torch.float32, "cpu"), Mapped(tensors)
    x = torch.randn(20, 512, generator=torch.Generator().manual_seed(1))
    limit = 1e-3 if "int8" in layer.compute or kernels().note else 1e-11
    for rows in (x[:1], x, x.T.contiguous().T):
        assert nmse(layer.gemm(rows), dense.gemm(rows)) < limit
    assert layer.error() < layer.wrong
    assert nmse(layer.lookup(torch.tensor([0, 7, 63])), dense.lookup(torch.tensor([0, 7, 63]))) < 1e-11
    before = layer.gemm(x[:1])
    kept = before.clone()
    layer.gemm(x[1:2])
    assert torch.equal(before, kept), "an output keeps its own memory"


def test_weights_are_read_where_the_file_is_mapped(tmp_path):
    path = write_tiny(tmp_path / "m.gguf", "Q8_0")
    tensor, model = Gguf(path).tensor("blk.0.ffn_down.weight"), candle(path)
    layer, x = Mapped([tensor]), torch.ones(1, tensor.cols)
    before = layer.gemm(x)
    tensor.raw[:] = 0  # the map is private: the file keeps its bytes
    assert before.abs().min() > 0 and layer.gemm(x).abs().max() == 0
    files = sum(t.raw.nbytes for t in Gguf(path).tensors.values() if t.rows > 1)
    memory = model.memory()
    assert (memory["weights_mapped_bytes"], memory["weights_private_bytes"]) == (files, 0)
    assert memory["kv_bytes"] == 2 * 2 * 2 * 80 * 64 * 2, "layers, keys and values, heads, whole spans, f16"


def test_a_type_that_the_kernels_lack_and_bad_lengths_have_their_reason():
    tensor = Tensor("t", "Q8_0", 64, 512, random_blocks("Q8_0", 64, 512))
    with pytest.raises(RuntimeError, match="expected 34816 bytes"):
        Mapped([Tensor("t", "Q8_0", 64, 512, tensor.raw[:63])])
    with pytest.raises(RuntimeError, match="tokens of 512 values"):
        Mapped([tensor]).gemm(torch.ones(1, 511))
    cache = lambda n: torch.zeros(2, n, 64, dtype=torch.half)
    with pytest.raises(TypeError, match="of one shape"):
        attention(torch.ones(1, 512), cache(32), cache(16), torch.ones(1, 2, 32), 4, 0)
    with pytest.raises(RuntimeError, match="position 32: the cache has 32"):
        attention(torch.ones(1, 512), cache(32), cache(32), torch.ones(1, 2, 32), 4, 32)


def test_torch_knows_the_operations():
    tests = ("test_schema", "test_faketensor")
    layer = Mapped([Tensor("t", "Q8_0", 64, 512, random_blocks("Q8_0", 64, 512))])
    torch.library.opcheck(product, (torch.randn(3, 512), layer.number), test_utils=tests)
    cache = [torch.zeros(2, 32, 64, dtype=torch.half) for _ in range(2)]
    torch.library.opcheck(attention, (torch.randn(3, 512), *cache, torch.ones(3, 2, 32), 4, 0), test_utils=tests)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_close_to_float32_in_prefill_and_decode(tmp_path, kind):
    path = write_tiny(tmp_path / "m.gguf", kind)
    model, expected = candle(path), naive_logits(path, TOKENS)
    assert isinstance(model, CandleModel) and not model.kept and model.attends
    limit = 1e-3 if kind in ("Q8_0", "Q4_0", "mix") or kernels().note else 1e-5
    assert nmse(scores(model, TOKENS), expected) < limit
    seen = [model.row(model.prefill(TOKENS[:5], 0)), model.row(model.prefill(TOKENS[5:9], 5))]
    seen += [model.row(model.decode(TOKENS[i], i)) for i in range(9, len(TOKENS))]
    assert nmse(seen, expected[[4, *range(8, len(TOKENS))]]) < limit
    precision = model.facts()["precision"]
    assert precision["compute"] == ("int8" if kind in ("Q8_0", "Q4_0", "mix") else "f32") and precision["kv"] == "f16"
    if kind == "F32":
        assert generate(model, TOKENS[:9], 12) == generate(build(path), TOKENS[:9], 12)


def test_a_wrong_product_is_found_and_left_to_torch_with_the_reason(tmp_path, monkeypatch):
    path = write_tiny(tmp_path / "m.gguf", "Q4_0")
    run = Mapped.run
    # The kernels' own products, of one shape of layer with two rows exchanged.
    monkeypatch.setattr(Mapped, "run", lambda self, x: run(self, x).roll(1, 1) if self.cols == 512 else run(self, x))
    model = candle(path)
    notes = model.facts()["notes"]
    assert any("2 layers are torch's: candle's product has a relative error of" in note for note in notes), notes
    assert model.memory()["weights_private_bytes"] == 2 * 256 * 512 * 4
    assert nmse(scores(model, TOKENS), scores(build(path), TOKENS)) < 1e-3


def test_a_wrong_attention_is_found_and_left_to_torch_with_the_reason(tmp_path, monkeypatch):
    path = write_tiny(tmp_path / "m.gguf", "F32")
    library = kernels()
    attend = library.attend  # one position too late: zeros come before
    monkeypatch.setattr(library, "attend", lambda *a: attend(*a[:7], a[7] + 1, *a[8:]))
    model = candle(path)
    assert any("2 layers are torch's: candle's attention" in note for note in model.facts()["notes"])
    assert model.facts()["precision"]["kv"] == "f32" and model.memory()["kv_bytes"] == 2 * 2 * 2 * 70 * 64 * 4
    if not library.note:
        assert nmse(scores(model, TOKENS), scores(build(path), TOKENS)) < 1e-9
    assert generate(model, TOKENS[:9], 12) == generate(build(path), TOKENS[:9], 12)


def test_a_weight_that_is_not_finite_is_not_hidden_by_rounding(tmp_path):
    path = write_tiny(tmp_path / "m.gguf", "Q8_0")
    model = candle(path)
    model.layers[1].ffn_norm[3] = np.inf
    assert np.isnan(model.row(model.prefill(TOKENS[:5], 0))).all()


def test_what_the_variant_does_not_offer_is_refused(tmp_path):
    path = write_tiny(tmp_path / "m.gguf", "Q8_0")
    with pytest.raises(Unsupported, match="one sequence"):
        Model.batched(2, "cpu")(path, "cpu", 64, OPTIONS)
    with pytest.raises(Unsupported, match="candle or tinygrad"):
        Model(path, "cpu", 64, {**OPTIONS, "library": "other"})


def test_a_missing_library_is_named_with_the_command_that_makes_it(tmp_path, monkeypatch):
    path = write_tiny(tmp_path / "m.gguf", "Q8_0")
    for folder, command in (("release", "`cargo build --release`"), ("debug", "`cargo build`")):
        missing = tmp_path / folder / "libllm_bench_kernels.so"
        with Worker("pytorch", {"LLM_BENCH_KERNELS": str(missing)}) as worker:
            answer = worker.load(path, **OPTIONS)
        assert answer["type"] == "error" and answer["kind"] == "missing_dependency", answer
        assert str(missing) in answer["message"] and command in answer["message"]


def test_no_library_but_that_of_this_version_at_a_whole_path_is_opened(tmp_path, monkeypatch):
    library = Path(os.environ["LLM_BENCH_KERNELS"])
    monkeypatch.chdir(library.parent)
    for path in (Path(library.name), Path("")):
        with pytest.raises(MissingDependency, match="expected the path"):
            Kernels(path, 1)
    other = tmp_path / library.name
    other.write_bytes(b"no library")
    with pytest.raises(MissingDependency, match="cannot load"):
        Kernels(other, 1)
    monkeypatch.setattr(abi, "ABI", abi.ABI + 1)
    with pytest.raises(MissingDependency, match="expected version 2 of candle's kernels, found 1; run `cargo build"):
        Kernels(library, 1)
