"""Tests the choice of paths: the fastest right one is taken, wrong ones are out, findings are kept, names are checked.

To see what another processor would choose, hold this one to its instructions; the harness hands these variables on:

    ATEN_CPU_CAPABILITY=avx2 DNNL_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 TORCHINDUCTOR_CPP_MARCH=znver3 llm-bench run …
"""

import json

import pytest
import torch

import linear
import probe
from _shared import Unsupported
from _shared.gguf_reader import Tensor
from _shared.test_support import TOKENS, Worker, nmse, random_blocks, write_tiny
from linear import PATHS, Choice, Dense, Int4Pack, Tiles
from model import Model
from probe import Found, decide, measure
from test_model import build, generate, scores

BF16, F32 = torch.bfloat16, torch.float32
PLENTY = {"decode": {"tiles": 4.0, "bf16": 1.0, "f16": 0.95, "f32": 2.0}, "wrong": {}}
PLENTY["prefill"] = {"tiles/bf16": 90.0, "tiles/f32": 40.0, "bf16/bf16": 70.0, "bf16/f32": 30.0, "f16/f32": 28.0, "f32/f32": 25.0}


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """Nothing is kept in the user's cache, and the weights of the tiny model are enough."""
    monkeypatch.setenv("LLM_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(probe, "SMALL", 1 << 14)
    monkeypatch.setattr(probe, "BEYOND_CACHE", 1 << 20)
    monkeypatch.setattr(Model, "found", None)


def weights(kind, rows=128, cols=512):
    return Tensor("t", kind, rows, cols, random_blocks(kind, rows, cols))


def test_the_fastest_path_is_taken_with_its_fastest_products():
    assert decide(PLENTY, ["tiles", "bf16", "f32"]) == Choice("bf16", F32)
    assert decide(PLENTY, ["tiles"]) == Choice("tiles", F32)


def test_a_later_path_must_be_clearly_faster():
    assert decide(PLENTY, list(PATHS)) == Choice("bf16", F32)
    faster = {**PLENTY, "decode": {**PLENTY["decode"], "f16": 0.5}}
    assert decide(faster, list(PATHS)) == Choice("f16", F32)


def test_slow_prefill_counts_as_much_as_the_steps_that_it_costs():
    two = {"decode": {"bf16": 1.0, "f32": 1.2}, "prefill": {"bf16/bf16": 100.0, "f32/f32": 20.0}, "wrong": {}}
    assert decide(two, ["bf16", "f32"]) == Choice("f32", F32)


def test_a_forced_path_is_taken_where_it_fits_even_without_measurements():
    assert decide(PLENTY, list(PATHS), "tiles") == Choice("tiles", F32)
    assert decide(None, ["bf16", "f16"], "f16") == Choice("f16", BF16)
    assert decide(PLENTY, ["bf16"], "tiles") == Choice("bf16", F32)
    assert decide(None, ["bf16"]) is None


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "F16"])
def test_every_right_path_is_measured_without_a_compiler(kind):
    found = measure(weights(kind), compiled=False)
    expected = {"int4pack", "bf16"} if kind == "Q4_0" else {"bf16"}
    assert found["decode"].keys() == expected and not found["wrong"]
    assert {"bf16/bf16", "bf16/f32"} <= found["prefill"].keys()


def test_a_path_with_a_wrong_product_is_out_with_the_reason(monkeypatch):
    gemv = Int4Pack.gemv
    monkeypatch.setattr(Int4Pack, "gemv", lambda self, x: 1.1 * gemv(self, x))
    found = measure(weights("Q4_0"), compiled=False)
    assert found["decode"].keys() == {"bf16"}
    assert found["wrong"]["int4pack"].startswith("NMSE of its product 9.9e-03, limit 1e-03 for bf16")


def test_a_path_that_fails_is_out_with_the_reason(monkeypatch):
    def fails(self, x):
        raise RuntimeError("no such kernel here\nand more")

    monkeypatch.setattr(Int4Pack, "gemv", fails)
    assert measure(weights("Q4_0"), compiled=False)["wrong"] == {"int4pack": "RuntimeError: no such kernel here"}


def test_findings_are_kept_by_file_and_shared_by_files_of_one_shape(tmp_path, monkeypatch):
    path = write_tiny(tmp_path / "m.gguf", "Q4_0")
    first = Found(path, compiled=False)
    assert first.seconds > 0 and first.measured.keys() == {"Q4_0"}

    def never(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(probe, "measure", never)
    again = Found(write_tiny(tmp_path / "other.gguf", "Q4_0", seed=1), compiled=False)
    assert again.measured == first.measured
    monkeypatch.setattr(probe, "Gguf", never)
    last = Found(path, compiled=False)
    assert last.seconds is None and last.measured == first.measured


@pytest.mark.parametrize("damage", ["", "[]", '{"types": {}}', "entry", "\x00\xff"])
def test_damaged_findings_are_measured_again(tmp_path, damage):
    path = write_tiny(tmp_path / "m.gguf", "Q4_0")
    Found(path, compiled=False)
    (store,) = (tmp_path / "cache/probe").iterdir()
    if damage == "entry":
        known = json.loads(store.read_text())
        next(iter(known["types"].values()))["decode"]["bf16"] = "fast"
        damage = json.dumps(known)
    store.write_text(damage)
    assert Found(path, compiled=False).seconds > 0
    assert Found(path, compiled=False).seconds is None


def test_findings_of_other_kernels_are_others(monkeypatch):
    before = probe._store(False)
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "AVX2")
    assert len({before, probe._store(False), probe._store(True)}) == 3


def test_a_folder_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    found = Found(write_tiny(tmp_path / "m.gguf", "Q4_0"), compiled=False)
    found.choice("Q4_0", 64)
    assert "not kept" in found.notes()[-1]


@pytest.mark.parametrize(
    "options, words",
    [
        ({"path": "quick"}, "expected one of int4pack, tiles, bf16, f16, f32"),
        ({"path": "int4pack"}, "no layer of this file can take it here; there are bf16"),
        ({"path": "bf16", "half": False}, "expected pytorch or pytorch-eager"),
    ],
)
def test_a_path_that_is_unknown_or_that_nothing_can_take_is_refused_with_the_list(tmp_path, options, words):
    path = write_tiny(tmp_path / "m.gguf", "Q8_0")
    with Worker("pytorch", {"LLM_BENCH_CACHE": str(tmp_path / "cache")}) as worker:
        error = worker.load(path, **options)
    assert error["kind"] == "unsupported" and words in error["message"], error


def test_the_record_says_which_path_was_taken_and_why(tmp_path):
    path = write_tiny(tmp_path / "m.gguf", "Q4_0")
    with Worker("pytorch", {"LLM_BENCH_CACHE": str(tmp_path / "cache")}) as worker:
        loaded = worker.load(path, half=True, path="bf16")
    assert loaded["settings"]["path"] == "bf16" and loaded["settings"]["path of Q4_0"].startswith("bf16, prefill")


def test_the_notes_hold_the_times(tmp_path):
    found = Found(write_tiny(tmp_path / "m.gguf", "Q4_0"), compiled=False)
    found.choice("Q4_0", 64)
    assert "decode int4pack " in found.notes()[0] and "x" in found.notes()[0] and "s before the load" in found.notes()[1]


@pytest.mark.parametrize("products", [BF16, F32])
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q6_K", "F16"])
def test_paths_multiply_like_dequantized_weights(kind, products):
    tensor = weights(kind)
    x, exact = torch.randn(5, 512), Dense([tensor], F32, "cpu")
    for path, make in PATHS.items():
        if linear.fits(path, kind, tensor.rows):
            layer = make([tensor], Choice(path, products))
            assert nmse(layer.gemv(x[:1]).float(), exact.gemv(x[:1])) < probe.LIMITS[layer.compute], path
            assert nmse(layer.gemm(x).float(), exact.gemm(x)) < probe.LIMITS[layer.compute], path


def test_arithmetic_is_declared_by_the_coarsest_product():
    compute = lambda path, kind, products: PATHS[path]([weights(kind)], Choice(path, products)).compute
    assert [compute("tiles", "Q8_0", p) for p in (BF16, F32)] == ["bf16", "f32"]
    assert [compute("tiles", "Q6_K", F32), compute("f16", "Q8_0", F32), compute("f16", "F16", F32)] == ["f16", "f16", "f32"]
    assert [compute("bf16", "F16", F32), compute("f32", "Q4_0", F32)] == ["bf16", "f32"]


@pytest.mark.slow
@pytest.mark.parametrize("path", ["tiles", "f16", "f32"])
def test_a_model_over_a_forced_path_agrees_with_float32(tmp_path, monkeypatch, path):
    file = write_tiny(tmp_path / "m.gguf", "Q8_0")
    teacher = build(file)
    found = Found.__new__(Found)
    found.compiled, found.forced, found.taken, found.seconds, found.entries = True, path, {}, None, {"Q8_0": "Q8_0 304x256"}
    found.measured = {"Q8_0": PLENTY}
    monkeypatch.setattr(Model, "found", found)
    model = build(file, half=True, compiled=True)
    declared = model.facts()["precision"]
    assert "bf16" not in declared.values(), declared  # PLENTY's prefill is fastest in float32
    prompt = TOKENS[:9]
    tokens = generate(model, prompt, 6)
    assert nmse(scores(model, prompt), scores(teacher, prompt)) < 1e-5
    decoded = [model.row(model.decode(t, len(prompt) + i)) for i, t in enumerate(tokens)]
    assert nmse(decoded, scores(teacher, prompt + tokens)[len(prompt) :]) < 1e-5
    assert Tiles in {type(w) for w in model.weights()} or path != "tiles"
