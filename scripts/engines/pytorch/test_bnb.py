"""Tests the layers that bitsandbytes quantizes: their error, what they hold, and the model made of them."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from _shared import Unsupported, UnsupportedQuant
from _shared.gguf_reader import Tensor
from _shared.test_support import TOKENS, Worker, nmse, random_blocks, write_tiny
from bnb import KINDS, Nf4
from cuda_model import CudaModel
from linear import Dense, Stacked
from model import Model
from test_model import build, generate, scores

# The relative error of a product, of standard normal weights and activations.
ERROR = {"nf4": 0.12, "int8": 0.02}
BYTES = {"nf4": (0.51, 0.57), "int8": (1.0, 1.02)}  # of a weight


def quantized(path, kind, model=Model):
    return model(path, "cpu", 64, {"half": True, "compile": False, "bnb": kind})


def relative(y, expected):
    return nmse(y.float(), expected) ** 0.5


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_product_is_as_far_from_float32_as_the_format_is_coarse(kind, dtype):
    tensors = [Tensor("t", dtype, rows, 512, random_blocks(dtype, rows, 512, rows)) for rows in (64, 128)]
    exact, layer = Dense(tensors, torch.float32, "cpu"), KINDS[kind](tensors, torch.bfloat16, "cpu")
    x = torch.randn(128, 512, generator=torch.Generator().manual_seed(1)).bfloat16()
    for rows in (x[:1], x):
        y = layer.gemm(rows)
        assert y.dtype == torch.bfloat16 and y.shape == (len(rows), 192)
        assert 1e-3 < relative(y, exact.gemm(rows)) < ERROR[kind]
    least, most = BYTES[kind]
    assert least < layer.private_bytes / exact.weight.numel() < most and layer.mapped_bytes == 0


def test_a_column_with_outliers_does_not_cost_int8_the_others():
    tensor, others = Tensor("t", "F16", 64, 512, random_blocks("F16", 64, 512)), torch.arange(512) != 7
    exact, layer = Dense([tensor], torch.float32, "cpu"), KINDS["int8"]([tensor], torch.bfloat16, "cpu")
    x = torch.randn(4, 512, generator=torch.Generator().manual_seed(1))
    x[:, 7] = 100.0
    y = layer.gemm(x) - x[:, 7:8] * exact.weight[:, 7]
    assert relative(y, exact.gemm(x * others)) < 5 * ERROR["int8"]


def test_shapes_that_a_kernel_does_not_take_are_multiplied_otherwise_or_refused():
    tensor = lambda rows, cols: Tensor("t", "F16", rows, cols, random_blocks("F16", rows, cols))
    layer, x = Nf4([tensor(48, 512)], torch.bfloat16, "cpu"), torch.randn(3, 512).bfloat16()
    assert not layer.packs
    assert relative(layer.gemm(x), Dense([tensor(48, 512)], torch.float32, "cpu").gemm(x)) < ERROR["nf4"]
    with pytest.raises(Unsupported, match="544"):
        Nf4([tensor(64, 544)], torch.bfloat16, "cpu")


@pytest.mark.parametrize("model", [Model, CudaModel])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_decodes_what_it_scores_and_says_what_it_is(tmp_path, kind, model):
    path = write_tiny(tmp_path / "m.gguf", "F16")
    loaded = quantized(path, kind, model)
    teacher = scores(loaded, TOKENS)
    assert np.isfinite(teacher).all()
    seen = [loaded.row(loaded.prefill(TOKENS[:5], 0))]
    seen += [loaded.row(loaded.decode(TOKENS[i], i)) for i in range(5, len(TOKENS))]
    assert nmse(seen, teacher[4:]) < 5e-3
    facts = loaded.facts()
    sixteen = "f16" if model is CudaModel else "bf16"
    compute = "int8" if kind == "int8" else sixteen
    assert facts["precision"] == {"weights": f"{kind}+{sixteen}", "compute": compute, "kv": sixteen}
    assert facts["settings"]["bitsandbytes"] and kind in facts["notes"][-1]
    tokens = generate(loaded, TOKENS[:9], 12)
    generate(loaded, TOKENS[20:37], 8)
    assert generate(loaded, TOKENS[:9], 12) == tokens


def test_nf4_is_farther_from_sixteen_bits_than_int8_and_holds_less(tmp_path):
    path = write_tiny(tmp_path / "m.gguf", "F16")
    sixteen = build(path, half=True)
    models = [quantized(path, kind) for kind in ("int8", "nf4")]
    int8, nf4 = (nmse(scores(model, TOKENS), scores(sixteen, TOKENS)) for model in models)
    print(f"NMSE: int8 {int8:.1e}, nf4 {nf4:.1e}")
    assert 1e-5 < int8 < nf4 / 4 and nf4 < 0.2
    held = [sum(model.memory()[f"weights_{kind}_bytes"] for kind in ("mapped", "private")) for model in (sixteen, *models)]
    read = [model.facts()["weight_bytes_per_token"] for model in (sixteen, *models)]
    assert held[0] > held[1] > held[2] and read[0] > read[1] > read[2]
    assert not isinstance(models[0].layers[0].qkv, Stacked)


def test_a_quantized_file_and_a_compiled_variant_are_refused(tmp_path):
    path = write_tiny(tmp_path / "m.gguf", "Q8_0")
    with pytest.raises(UnsupportedQuant, match="Q8_0"):
        quantized(path, "nf4")
    with Worker("pytorch") as worker:
        error = worker.load(path, bnb="nf4", compile=True)
        assert error["kind"] == "unsupported" and "compile" in error["message"], error


LOADED = """
import json, sys
from _shared.protocol import hello
import model
names = lambda: sorted({name.split(".")[0] for name in sys.modules} & {"bitsandbytes", "bnb", "packaging"})
before = names()
model.Model.prepare(1, {"compile": False, "half": True, "bnb": None})
plain = names()
model.Model.prepare(1, {"compile": False, "half": True, "bnb": "int8"})
import kernels  # our own, which bitsandbytes must not have taken for a package
print(json.dumps([before, plain, names(), kernels.__file__]))
"""


def test_other_variants_do_not_import_bitsandbytes(tmp_path):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", LOADED], env=env, capture_output=True, text=True)
    before, plain, after, ours = json.loads(done.stdout)
    assert before == plain == [] and "bitsandbytes" in after, done.stderr
    assert ours.endswith("pytorch/kernels.py") and done.stderr == ""
