"""Tests the PyTorch model against a naive float64 LLaMA: prefill, decode, packed weights, stages, compile."""

import numpy as np
import pytest
import torch

from _shared import BadModel
from _shared.engine import Server
from _shared.gguf_reader import Gguf, Tensor
from _shared.test_support import TOKENS, Worker, naive_logits, nmse, random_blocks, write_tiny
from linear import Dense, Int4Pack, Tiles, as_torch, dense, int4pack
from model import Model


def build(path, half=False, compiled=False, n_ctx=64):
    return Model(path, "cpu", n_ctx, {"half": half, "compile": compiled})


def scores(model, tokens):
    return np.concatenate(list(model.score(tokens, 0)))


def generate(model, prompt, n):
    server = Server(None, Model)
    server.engine = model
    return server.answer({"type": "generate", "id": 1, "prompt": prompt, "n": n})["tokens"]


KINDS = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "mix"]


@pytest.mark.parametrize("kind", KINDS)
def test_f32_equals_a_naive_forward_pass(tmp_path, kind):
    path = write_tiny(tmp_path / "m.gguf", kind)
    logits = scores(build(path), TOKENS)
    expected = naive_logits(path, TOKENS)
    assert logits.std() > 0.5
    assert nmse(logits, expected) < 1e-11


@pytest.mark.parametrize("kind", KINDS)
def test_sixteen_bit_and_packed_weights_stay_close_to_f32(tmp_path, kind):
    path = write_tiny(tmp_path / "m.gguf", kind)
    error = nmse(scores(build(path, half=True), TOKENS), scores(build(path), TOKENS))
    print(f"{kind}: NMSE {error:.1e}")
    assert error < 1e-3


@pytest.mark.parametrize("kind", ["F32", "Q4_0", "mix"])
@pytest.mark.parametrize("half", [False, True])
def test_prefill_and_decode_agree_with_score_at_every_position(tmp_path, kind, half):
    model = build(write_tiny(tmp_path / "m.gguf", kind), half)
    teacher = scores(model, TOKENS)
    seen = [model.row(model.prefill(TOKENS[:5], 0))]
    seen += [model.row(model.decode(TOKENS[i], i)) for i in range(5, len(TOKENS))]
    assert nmse(seen, teacher[4:]) < (1e-3 if half else 1e-11)


def test_generate_gives_the_greedy_tokens_of_score_and_forgets_the_prompt_before(tmp_path):
    model = build(write_tiny(tmp_path / "m.gguf"))
    tokens = generate(model, TOKENS[:9], 12)
    assert tokens == scores(model, TOKENS[:9] + tokens)[8:-1].argmax(-1).tolist()
    generate(model, TOKENS[20:37], 8)
    assert generate(model, TOKENS[:9], 12) == tokens


def together(path, prompts, n, half=False, compiled=False):
    model = Model.batched(len(prompts), "cpu")(path, "cpu", 64, {"half": half, "compile": compiled})
    server = Server(None, Model)
    server.engine, server.batch = model, len(prompts)
    request = {"type": "generate", "id": 1, "prompt": prompts[0], "n": n, "batch": len(prompts), "others": prompts[1:]}
    answer = server.answer(request)
    return [answer["tokens"], *answer["others"]], model


@pytest.mark.parametrize("kind", ["F32", "F16", "Q4_0", "Q8_0"])
@pytest.mark.parametrize("batch", [2, 5])
def test_sequences_of_a_batch_get_the_tokens_that_they_get_alone(tmp_path, kind, batch):
    path = write_tiny(tmp_path / "m.gguf", kind)
    prompts = [TOKENS[i : i + 9] for i in range(batch)]
    tokens, model = together(path, prompts, 12)
    alone = build(path)
    assert tokens == [generate(alone, prompt, 12) for prompt in prompts]
    assert len({tuple(ids) for ids in tokens}) > 1
    assert model.memory()["kv_bytes"] == batch * alone.memory()["kv_bytes"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["F16", "Q4_0", "Q8_0"])
@pytest.mark.parametrize("batch", [2, 8])
def test_a_compiled_batch_agrees_with_float32(tmp_path, kind, batch):
    path = write_tiny(tmp_path / "m.gguf", kind)
    prompts = [TOKENS[i : i + 9] for i in range(batch)]
    tokens, model = together(path, prompts, 12, half=True, compiled=True)
    reference = build(path)
    for prompt, ids in zip(prompts, tokens):
        teacher = scores(reference, prompt + ids)[8:-1]
        chosen = teacher[np.arange(12), ids]
        assert (teacher.max(-1) - chosen < 0.1 * teacher.std()).all()  # the same token, or a near tie
    assert model.graphs > 0


def test_rope_freqs_matter(tmp_path):
    with_table = scores(build(write_tiny(tmp_path / "a.gguf")), TOKENS)
    without = scores(build(write_tiny(tmp_path / "b.gguf", skip=("rope_freqs.weight",))), TOKENS)
    assert nmse(without, with_table) > 1e-2


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0"])
def test_tiles_multiply_like_dequantized_weights(kind):
    tensors = [Tensor("t", kind, rows, 512, random_blocks(kind, rows, 512, rows)) for rows in (64, 128)]
    dense, tiles = Dense(tensors, torch.float32, "cpu"), Tiles(tensors)
    x = torch.randn(5, 512)
    limit = 1e-11 if "K" not in kind else 1e-6
    assert nmse(tiles.gemv(x[:1]), dense.gemv(x[:1])) < limit
    assert nmse(tiles.lookup(torch.tensor([0, 77, 191])), dense.lookup(torch.tensor([0, 77, 191]))) < limit
    assert nmse(tiles.gemm(x.bfloat16()).float(), dense.gemm(x)) < 1e-4


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q4_K"])
def test_int4pack_multiplies_like_dequantized_weights(kind):
    tensors = [Tensor("t", kind, rows, 512, random_blocks(kind, rows, 512, rows)) for rows in (64, 128)]
    x = torch.randn(5, 512)
    assert nmse(Int4Pack(tensors).gemm(x.bfloat16()).float(), Dense(tensors, torch.float32, "cpu").gemm(x)) < 1e-4


def test_int4pack_has_the_layout_of_aten():
    q = torch.randint(0, 16, (192, 96), dtype=torch.uint8)
    expected = torch.ops.aten._convert_weight_to_int4pack_for_cpu(q.int(), 1)
    assert torch.equal(int4pack(q), expected.view(192, 48))


def test_a_float_tensor_of_the_right_type_is_not_copied(tmp_path):
    path = write_tiny(tmp_path / "m.gguf")
    tensor = Gguf(path).tensor("token_embd.weight")
    assert dense(tensor, torch.float32).data_ptr() == tensor.raw.ctypes.data
    assert build(path).memory()["weights_private_bytes"] == 0
    assert as_torch(tensor).dtype == torch.float32


@pytest.mark.parametrize("missing", ["token_embd.weight", "blk.1.ffn_up.weight", "blk.0.attn_norm.weight"])
def test_a_missing_tensor_is_named(tmp_path, missing):
    with pytest.raises(BadModel, match=missing):
        build(write_tiny(tmp_path / "m.gguf", skip=(missing,)))


@pytest.mark.parametrize("half", [False, True])
def test_stages_add_up_to_less_than_the_time_of_their_phase(tmp_path, half):
    path = write_tiny(tmp_path / "m.gguf")
    with Worker("pytorch") as worker:
        worker.load(path, half=half)
        plain = worker.ask(type="generate", id=1, prompt=TOKENS[:9], n=6, ignore_eos=True)
        profiled = worker.ask(type="generate", id=2, prompt=TOKENS[:9], n=6, ignore_eos=True, profile=True)
    assert "profile" not in plain and plain["tokens"] == profiled["tokens"]
    begin, (first, *_, last) = profiled["t_begin_ns"], profiled["t_tokens_ns"]
    for phase, whole in (("prefill_ns", first - begin), ("decode_ns", last - first)):
        stages = profiled["profile"][phase]
        assert stages.keys() == {"embedding", "norm", "projections", "attention", "mlp", "head", "sampling"}
        assert 0 < sum(stages.values()) <= whole
    assert profiled["profile"]["decode_weight_bytes"].keys() == {"projections", "mlp", "head"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["F16", "Q8_0", "mix"])
def test_compiled_decoding_agrees_with_float32_and_compiles_once(tmp_path, kind):
    path = write_tiny(tmp_path / "m.gguf", kind)
    reference, model = build(path), build(path, half=True, compiled=True)
    prompt = TOKENS[:9]
    tokens = generate(model, prompt, 12)
    teacher = scores(reference, prompt + tokens)[8:-1]
    best = teacher.max(-1)
    chosen = teacher[np.arange(12), tokens]
    assert (best - chosen < 0.1 * teacher.std()).all()  # the same token, or a near tie
    graphs = model.graphs
    assert graphs > 0 and model.compile_ns > 0
    generate(model, TOKENS[:23], 12)
    assert model.graphs == graphs, "another prompt length must not compile again"
    assert generate(model, prompt, 12) == tokens


@pytest.mark.slow
def test_a_missing_compiler_is_compile_failed(tmp_path):
    path = write_tiny(tmp_path / "m.gguf", "Q8_0")
    env = {"CXX": "/nonexistent/g++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "PATH": "/nonexistent"}
    with Worker("pytorch", env) as worker:
        worker.load(path, compile=True, half=True)
        error = worker.ask(type="generate", id=1, prompt=[1, 2, 3], n=4, ignore_eos=True, logits="none")
        assert error["type"] == "error" and error["kind"] == "compile_failed", error
