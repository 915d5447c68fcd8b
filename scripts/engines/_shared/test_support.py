"""Helpers for the tests of engines: a tiny random model, an independent reference, a worker process."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np

from _shared.gguf_reader import TYPES

ENGINES = Path(__file__).parent.parent
DIM, LAYERS, HEADS, KV, HEAD, FFN, VOCAB = 256, 2, 4, 2, 64, 512, 304
ROPE_BASE, EPS = 10000.0, 1e-5
QTYPE = gguf.GGMLQuantizationType
TOKENS = np.random.default_rng(5).integers(0, VOCAB, 40).tolist()


def random_blocks(kind: str, rows: int, cols: int, seed: int = 0) -> np.ndarray:
    """Random bytes with finite scales, uint8 [rows, row bytes]."""
    rng = np.random.default_rng(seed)
    _, per_block, size = next(t for t in TYPES.values() if t[0] == kind)
    if per_block == 1:
        w = rng.standard_normal((rows, cols)).astype(np.float32)
        return gguf.quants.quantize(w, gguf.GGMLQuantizationType[kind]).view(np.uint8).reshape(rows, -1)
    b = rng.integers(0, 256, (rows, cols // per_block, size), dtype=np.uint8)
    half = lambda: rng.uniform(-0.1, 0.1, b.shape[:2]).astype(np.float16).view(np.uint8).reshape(*b.shape[:2], 2)
    at = {"Q6_K": (208,), "Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2)}.get(kind, (0,))
    for i in at:
        b[..., i : i + 2] = half()
    return b.reshape(rows, -1)


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
        if k in ("Q4_K", "Q6_K"):  # gguf-py cannot quantize these, so they get random blocks, scaled to fit
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
    """An independent reference: float64 numpy, one position and one head at a time."""
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


class Worker:
    """A worker process that has sent hello and ready."""

    def __init__(self, engine="numpy", env=None):
        command = [sys.executable, str(ENGINES / engine / "worker.py"), engine]
        environment = {**os.environ, "PYTHONPATH": str(ENGINES), **(env or {})}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.spawned = time.monotonic_ns()
        self.process = subprocess.Popen(command, text=True, env=environment, **pipes)
        self.hello = self.ask(type="hello", protocol=1)
        self.ready = self.answer()

    def send(self, *requests):
        self.process.stdin.write("".join(json.dumps(request) + "\n" for request in requests))
        self.process.stdin.flush()

    def answer(self):
        return json.loads(self.process.stdout.readline())

    def ask(self, **request):
        self.send(request)
        return self.answer()

    def load(self, path, /, **options):
        return self.ask(type="load", path=str(path), device="cpu", threads=2, n_ctx=64, options=options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            pipe.close()
