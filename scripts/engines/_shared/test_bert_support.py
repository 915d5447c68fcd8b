"""Helpers for the tests of encoders: a tiny random BERT, and a forward pass in float64 that can be made wrong."""

import math

import gguf
import numpy as np

from _shared.test_support import QTYPE

DIM, LAYERS, HEADS, FFN, VOCAB, CONTEXT, LABELS, EPS = 64, 3, 4, 128, 96, 48, 3, 1e-12
random = np.random.default_rng(6)
TEXTS = [random.integers(0, VOCAB, n).tolist() for n in (17, 1, 32, 9)]


def write_bert(path, kind="F32", pooling=1, types=2, activation=None, skip=(), **keys):
    """A random BERT; with an `activation` it is a classifier. `keys` are more metadata, dots written as `__`."""
    rng = np.random.default_rng(7)
    writer = gguf.GGUFWriter(str(path), "bert")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(DIM)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(EPS)
    writer.add_causal_attention(False)
    if activation:
        writer.add_string("llm_bench.classifier_activation", activation)
    else:
        writer.add_uint32("bert.pooling_type", pooling)
    for key, value in keys.items():
        writer.add_key_value(key.replace("__", "."), value, gguf.GGUFValueType.get_type(value))

    def add(name, values, k="F32"):
        if name not in skip:
            writer.add_tensor(name, gguf.quants.quantize(values.astype(np.float32), QTYPE[k]), raw_dtype=QTYPE[k])

    def norm(name):
        add(f"{name}.weight", rng.normal(1, 0.2, DIM))
        add(f"{name}.bias", rng.normal(0, 0.2, DIM))

    def linear(name, rows, cols, std):
        add(f"{name}.weight", rng.normal(0, std, (rows, cols)), kind)
        add(f"{name}.bias", rng.normal(0, 0.2, rows))

    add("token_embd.weight", rng.normal(0, 1, (VOCAB, DIM)), kind)
    add("position_embd.weight", rng.normal(0, 0.5, (CONTEXT, DIM)), "F16" if kind == "F16" else "F32")
    if types:
        add("token_types.weight", rng.normal(0, 0.5, (types, DIM)))
    norm("token_embd_norm")
    for i in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            linear(f"blk.{i}.{name}", DIM, DIM, 0.15)
        linear(f"blk.{i}.ffn_up", FFN, DIM, 0.15)
        linear(f"blk.{i}.ffn_down", DIM, FFN, 0.1)
        norm(f"blk.{i}.attn_output_norm")
        norm(f"blk.{i}.layer_output_norm")
    if activation:
        linear("cls", DIM, DIM, 0.15)
        linear("cls.output", LABELS, DIM, 0.15)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


def naive(path, text, pooling=1, activation=None, wrong=None):
    """The result and the hidden states `[layers + 1, tokens, dim]` of a text, head by head in float64.

    `wrong`: "mask" sees eight positions of padding, "types" adds no token types, "layers" runs the layers backwards,
    "gelu" is the approximation by tanh, "scale" divides scores by the root of the whole width.
    """
    weight = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float64) for t in gguf.GGUFReader(path).tensors}
    linear = lambda name, x: x @ weight[f"{name}.weight"].T + weight[f"{name}.bias"]
    erf = np.vectorize(math.erf)
    root = np.sqrt(DIM if wrong == "scale" else DIM // HEADS)

    def norm(name, x):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * weight[f"{name}.weight"] + weight[f"{name}.bias"]

    def gelu(x):
        if wrong == "gelu":
            return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        return x / 2 * (1 + erf(x / np.sqrt(2)))

    ids = text + [0] * 8 if wrong == "mask" else text
    x = weight["token_embd.weight"][ids] + weight["position_embd.weight"][: len(ids)]
    if "token_types.weight" in weight and wrong != "types":
        x = x + weight["token_types.weight"][0]
    states = [norm("token_embd_norm", x)]
    for i in range(LAYERS)[:: -1 if wrong == "layers" else 1]:
        x, b = states[-1], f"blk.{i}."
        q, k, v = (linear(f"{b}attn_{n}", x) for n in "qkv")
        mixed = []
        for at in range(0, DIM, DIM // HEADS):
            part = slice(at, at + DIM // HEADS)
            p = np.exp(q[:, part] @ k[:, part].T / root)
            mixed.append(p / p.sum(-1, keepdims=True) @ v[:, part])
        x = norm(f"{b}attn_output_norm", x + linear(f"{b}attn_output", np.concatenate(mixed, -1)))
        states.append(norm(f"{b}layer_output_norm", x + linear(f"{b}ffn_down", gelu(linear(f"{b}ffn_up", x)))))
    states = np.array(states)[:, : len(text)]
    x = states[-1]
    if activation:
        inner = linear("cls", x[0])
        return linear("cls.output", np.tanh(inner) if activation == "tanh" else inner.clip(0)), states
    pooled = {1: x.mean(0), 2: x[0], 3: x[-1]}[pooling]
    return pooled / np.linalg.norm(pooled), states
