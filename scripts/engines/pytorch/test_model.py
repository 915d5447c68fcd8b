"""The model against a naive float64 LLaMA, on a tiny random one; prefill, decode, score, packed weights, compile."""

import gguf
import numpy as np
import pytest
import torch

from dequant import as_torch, dequantize
from gguf_reader import BadModel, Gguf, Tensor
from linear import Dense, Int4Pack, Tiles, int4pack
from model import Model
from test_reader import random_blocks

DIM, LAYERS, HEADS, KV, HEAD, FFN, VOCAB = 256, 2, 4, 2, 64, 512, 304
ROPE_BASE, EPS = 10000.0, 1e-5
QTYPE = gguf.GGMLQuantizationType


def write_tiny(path, kind="F32", skip=(), seed=0, vocab=VOCAB):
    """A random LLaMA with rope_freqs and tied embeddings; `kind` "mix" uses Q4_K with Q6_K and Q8_0."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(DIM)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV)
    writer.add_layer_norm_rms_eps(EPS)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_rope_dimension_count(HEAD)
    writer.add_context_length(128)

    def plain(name, values):
        if name not in skip:
            writer.add_tensor(name, values.astype(np.float32))

    def matrix(name, rows, cols, std, mixed="Q4_K"):
        if name in skip:
            return
        k = mixed if kind == "mix" else kind
        if k in ("Q4_K", "Q6_K"):  # gguf-py cannot quantize these: random blocks, scaled to fit
            raw = random_blocks(k, rows, cols, rng.integers(1 << 30))
            blocks = raw.reshape(rows, -1, 144 if k == "Q4_K" else 210)
            d = np.full(blocks.shape[:2] + (1,), std / (190 if k == "Q4_K" else 1370), np.float16)
            if k == "Q4_K":  # scales and minima alike, so that weights are centred: 37 in four groups, 45 in four
                blocks[..., 0:2], blocks[..., 2:4] = d.view(np.uint8), (d * np.float16(7.5)).view(np.uint8)
                blocks[..., 4:12], blocks[..., 12:16] = 37 | 2 << 6, 0xDD
            else:
                blocks[..., 208:210] = d.view(np.uint8)
        else:
            raw = gguf.quants.quantize(rng.normal(0, std, (rows, cols)).astype(np.float32), QTYPE[k])
        writer.add_tensor(name, raw, raw_dtype=QTYPE[k])

    matrix("token_embd.weight", vocab, DIM, 0.3, "Q6_K")
    plain("output_norm.weight", rng.normal(1, 0.1, DIM))
    plain("rope_freqs.weight", np.linspace(1, 8, HEAD // 2))
    for i in range(LAYERS):
        b = f"blk.{i}."
        plain(b + "attn_norm.weight", rng.normal(1, 0.1, DIM))
        plain(b + "ffn_norm.weight", rng.normal(1, 0.1, DIM))
        matrix(b + "attn_q.weight", HEADS * HEAD, DIM, 0.1)
        matrix(b + "attn_k.weight", KV * HEAD, DIM, 0.1)
        matrix(b + "attn_v.weight", KV * HEAD, DIM, 0.06, "Q6_K")
        matrix(b + "attn_output.weight", DIM, HEADS * HEAD, 0.06)
        matrix(b + "ffn_gate.weight", FFN, DIM, 0.06)
        matrix(b + "ffn_up.weight", FFN, DIM, 0.06)
        matrix(b + "ffn_down.weight", DIM, FFN, 0.05, "Q8_0")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


def naive_logits(path, tokens):
    """The same function, written again: float64 numpy, one position and one head at a time."""
    reader = gguf.GGUFReader(path)
    weight = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float64) for t in reader.tensors}
    norm = lambda x, w: x / np.sqrt(np.mean(x * x) + EPS) * w
    inv = np.array([ROPE_BASE ** (-2 * i / HEAD) / weight["rope_freqs.weight"][i] for i in range(HEAD // 2)])

    def rotate(v, position):
        out = v.copy()
        for i in range(HEAD // 2):
            c, s = np.cos(position * inv[i]), np.sin(position * inv[i])
            out[2 * i], out[2 * i + 1] = v[2 * i] * c - v[2 * i + 1] * s, v[2 * i] * s + v[2 * i + 1] * c
        return out

    past = [([], []) for _ in range(LAYERS)]
    logits = []
    for position, token in enumerate(tokens):
        x = weight["token_embd.weight"][token]
        for i in range(LAYERS):
            w = lambda name: weight[f"blk.{i}.{name}.weight"]
            h = norm(x, w("attn_norm"))
            q, k, v = (w(n) @ h for n in ("attn_q", "attn_k", "attn_v"))
            past[i][0].append([rotate(k[j * HEAD : (j + 1) * HEAD], position) for j in range(KV)])
            past[i][1].append([v[j * HEAD : (j + 1) * HEAD] for j in range(KV)])
            mixed = []
            for j in range(HEADS):
                query, group = rotate(q[j * HEAD : (j + 1) * HEAD], position), j // (HEADS // KV)
                scores = np.array([query @ keys[group] for keys in past[i][0]]) / np.sqrt(HEAD)
                p = np.exp(scores - scores.max())
                mixed.append(sum(a * values[group] for a, values in zip(p / p.sum(), past[i][1])))
            x = x + w("attn_output") @ np.concatenate(mixed)
            h = norm(x, w("ffn_norm"))
            gate = w("ffn_gate") @ h
            x = x + w("ffn_down") @ (gate / (1 + np.exp(-gate)) * (w("ffn_up") @ h))
        logits.append(weight["token_embd.weight"] @ norm(x, weight["output_norm.weight"]))
    return np.array(logits)


def nmse(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return ((a - b) ** 2).sum() / (b**2).sum()


def build(path, half=False, compiled=False, n_ctx=64):
    return Model(Gguf(path), "cpu", n_ctx, half, compiled)


def scores(model, tokens):
    return torch.cat(list(model.score(tokens, 0, len(tokens)))).numpy()


TOKENS = np.random.default_rng(5).integers(0, VOCAB, 40).tolist()
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
    seen = []
    inner = model._last_logits
    model._last_logits = lambda *args: seen.append(inner(*args)) or seen[-1]
    model.prefill(torch.tensor(TOKENS[:5]))
    for i in range(5, len(TOKENS)):
        model.decode_one_token(torch.tensor(TOKENS[i : i + 1]), torch.tensor([i]))
    assert nmse(torch.stack(seen).numpy(), teacher[4:]) < (1e-3 if half else 1e-11)


def test_generate_gives_the_greedy_tokens_of_score_and_forgets_the_prompt_before(tmp_path):
    model = build(write_tiny(tmp_path / "m.gguf"))
    tokens, prefill_end, times = model.generate(TOKENS[:9], 12)
    assert len(tokens) == len(times) == 12 and sorted([prefill_end, *times]) == [prefill_end, *times]
    teacher = scores(model, TOKENS[:9] + tokens)
    assert tokens == teacher[8:-1].argmax(-1).tolist()
    model.generate(TOKENS[20:37], 8)
    assert model.generate(TOKENS[:9], 12)[0] == tokens


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
    file = Gguf(write_tiny(tmp_path / "m.gguf"))
    tensor = file.tensor("token_embd.weight")
    assert dequantize(tensor, torch.float32).data_ptr() == tensor.raw.ctypes.data
    assert build(file.path).memory()["weights_private_bytes"] == 0
    assert as_torch(tensor).dtype == torch.float32


@pytest.mark.parametrize("missing", ["token_embd.weight", "blk.1.ffn_up.weight", "blk.0.attn_norm.weight"])
def test_a_missing_tensor_is_named(tmp_path, missing):
    with pytest.raises(BadModel, match=missing):
        build(write_tiny(tmp_path / "m.gguf", skip=(missing,)))


def test_a_prompt_longer_than_the_context_is_refused(tmp_path):
    model = build(write_tiny(tmp_path / "m.gguf"), n_ctx=16)
    with pytest.raises(ValueError, match="n_ctx 16"):
        model.generate(TOKENS[:10], 7)
    with pytest.raises(ValueError, match="ids"):
        model.generate([VOCAB], 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["F16", "Q8_0", "mix"])
def test_compiled_decoding_agrees_with_float32_and_compiles_once(tmp_path, kind):
    path = write_tiny(tmp_path / "m.gguf", kind)
    reference, model = build(path), build(path, half=True, compiled=True)
    prompt = TOKENS[:9]
    tokens, *_ = model.generate(prompt, 12)
    teacher = scores(reference, prompt + tokens)[8:-1]
    best = teacher.max(-1)
    chosen = teacher[np.arange(12), tokens]
    assert (best - chosen < 0.1 * teacher.std()).all()  # the same token, or a near tie
    graphs = model.graphs
    assert graphs > 0 and model.compile_ns > 0
    model.generate(TOKENS[:23], 12)
    assert model.graphs == graphs, "another prompt length must not compile again"
    assert model.generate(prompt, 12)[0] == tokens
