#!/usr/bin/env python3
"""Checks the PyTorch engine on a card by itself: kernels against plain torch, compiled decoding against float32.

    python3 scripts/cuda/pytorch_check.py [--seconds S] [FILE.gguf ...]

It makes files of a small random LLaMA (two layers of LLaMA 3.2 1B's shapes), or takes those that are named. Each
part prints one line, also if another fails. Parts that would begin after S seconds (default 60) are skipped, and
say so. Without a card, or without torch, everything is a stated skip. Exit code 1 if a part failed.
"""

import argparse
import os
import struct
import sys
import tempfile
import time
from pathlib import Path

ENGINES = Path(__file__).resolve().parents[1] / "engines"
sys.path[:0] = [str(ENGINES), str(ENGINES / "pytorch")]
sys.dont_write_bytecode = True
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

BEGIN = time.monotonic()
DIM, LAYERS, HEADS, KV, FFN, VOCAB, N_CTX = 2048, 2, 32, 8, 8192, 32000, 2304
BLOCKS = {"F16": (1, 2), "Q8_0": (8, 34), "Q4_0": (2, 18)}  # ggml type id, bytes of 32 weights (F16: of one)
failed = []


def part(name, seconds, work, *args):
    """Runs one part and prints its line."""
    begin = time.monotonic()
    if begin - BEGIN > seconds:
        print(f"SKIP  {name}: {seconds:.0f} s are over", flush=True)
        return None
    try:
        said, result = work(*args)
        print(f"ok    {name}: {said} ({time.monotonic() - begin:.1f} s)", flush=True)
        return result
    except Exception as error:
        import traceback

        failed.append(name)
        print(f"FAIL  {name}: {type(error).__name__}: {str(error)[:600]}", flush=True)
        traceback.print_exc(limit=-6)
    return None


def random_rows(np, rng, kind, rows, cols, std):
    """Random weights of this type, uint8 `[rows, bytes of a row]`; a few million values, repeated."""
    n = rows * cols
    if kind == "F16":
        some = (rng.standard_normal(min(n, 1 << 22), np.float32) * std).astype(np.float16).view(np.uint8)
        return np.resize(some, n * 2).reshape(rows, -1)
    size = BLOCKS[kind][1]
    some = rng.integers(0, 256, (min(n // 32, 1 << 17), size), np.uint8)
    spread = std / (73.9 if kind == "Q8_0" else 4.61)
    some[:, :2] = (rng.uniform(0.5, 1.5, (len(some), 1)) * spread).astype(np.float16).view(np.uint8)
    return np.resize(some, (n // 32, size)).reshape(rows, -1)


def write_model(np, path, kind):
    """A GGUF file with random weights of this type."""
    rng = np.random.default_rng(7)
    text = lambda s: struct.pack("<Q", len(s)) + s.encode()
    number = lambda key, value: text(key) + struct.pack("<II", 4, value)
    real = lambda key, value: text(key) + struct.pack("<If", 6, value)
    pairs = [text("general.architecture") + struct.pack("<I", 8) + text("llama")]
    sizes = {"block_count": LAYERS, "embedding_length": DIM, "attention.head_count": HEADS, "attention.head_count_kv": KV}
    pairs += [number(f"llama.{key}", value) for key, value in sizes.items()]
    pairs += [real("llama.attention.layer_norm_rms_epsilon", 1e-5), real("llama.rope.freq_base", 500000.0)]
    tensors, head = [], DIM // HEADS

    def add(name, rows, cols, std, of=kind):
        data = (1 + 0.1 * rng.standard_normal(cols, np.float32)).view(np.uint8) if of == "F32" else None
        tensors.append((name, rows, cols, of, random_rows(np, rng, kind, rows, cols, std) if data is None else data))

    add("token_embd.weight", VOCAB, DIM, 0.05)
    add("output_norm.weight", 1, DIM, 0, "F32")
    for i in range(LAYERS):
        for name, rows, cols in [
            ("attn_q", DIM, DIM), ("attn_k", KV * head, DIM), ("attn_v", KV * head, DIM), ("attn_output", DIM, DIM),
            ("ffn_gate", FFN, DIM), ("ffn_up", FFN, DIM), ("ffn_down", DIM, FFN),
        ]:  # fmt: skip
            add(f"blk.{i}.{name}.weight", rows, cols, 1.5 * cols**-0.5)
        add(f"blk.{i}.attn_norm.weight", 1, DIM, 0, "F32")
        add(f"blk.{i}.ffn_norm.weight", 1, DIM, 0, "F32")
    header, offset = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs), 0
    for name, rows, cols, of, data in tensors:
        shape = [cols] if of == "F32" else [cols, rows]
        header += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0 if of == "F32" else BLOCKS[kind][0], offset)
        offset += -(-data.nbytes // 32) * 32
    with open(path, "wb") as file:
        file.write(header + bytes(-len(header) % 32))
        for *_, data in tensors:
            file.write(data.tobytes() + bytes(-data.nbytes % 32))
    return path


def timed(torch, work, times=20):
    """Median milliseconds of `work` on the device."""
    spent = []
    for _ in range(times):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        spent.append(begin.elapsed_time(end))
    return sorted(spent)[times // 2]


def nmse(np, found, expected):
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return ((found - expected) ** 2).sum() / (expected**2).sum()


def machine(torch):
    import triton

    data = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    ms = timed(torch, lambda: data.view(torch.float32).sum())
    said = f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}, python {sys.version.split()[0]}"
    return f"{said}; reads {data.nbytes / ms / 1e6:.0f} GB/s", data.nbytes / ms / 1e6


def products(torch, np):
    """Kernels against their definitions, on weights with odd numbers of groups."""
    import packed

    worst = 0.0
    for bits, group, offset in [(4, 32, False), (4, 32, True), (8, 32, False), (8, 32, True), (8, 16, False)]:
        for rows, cols in [(48, 288), (2056, 2048), (264, 8192)]:
            bias, on = 8 if bits == 4 else 128, lambda t: None if t is None else t.cuda()
            words = torch.randint(-(1 << 31), (1 << 31) - 1, (rows // 4, cols * bits // 32, 4), dtype=torch.int32)
            scales = torch.rand(rows // 4, cols // group, 4).half() / cols
            offsets = torch.rand_like(scales) if offset else None
            x, norm, residual = torch.randn(1, cols), torch.rand(cols), torch.randn(1, rows)
            for n, r, swiglu in [(None, None, False), (norm, None, True), (None, residual, False), (norm, residual, False)]:
                fixed = (rows, cols, bits, group, bias, 1e-5, swiglu)
                expected = packed.gemv(x, words, scales, offsets, n, r, *fixed)
                found = packed.gemv(x.cuda(), words.cuda(), scales.cuda(), on(offsets), on(n), on(r), *fixed)
                worst = max(worst, nmse(np, found.cpu(), expected))
            fixed = (rows, cols, bits, group, bias, torch.float16)
            expected = packed.dense_weights(words, scales, offsets, *fixed)
            found = packed.dense_weights(words.cuda(), scales.cuda(), on(offsets), *fixed)
            assert nmse(np, found.cpu(), expected) < 1e-7, (rows, cols, bits, "dense")
            assert worst < 1e-9, (rows, cols, bits, worst)
    return f"30 shapes and types, NMSE at most {worst:.0e}", None


def attention(torch, np):
    import packed

    worst, times = 0.0, []
    for heads, kv, dim, n_ctx in [(32, 8, 64, 2304), (6, 2, 48, 200), (8, 8, 128, 4100)]:
        q, k, v = torch.randn(heads, 1, dim), torch.randn(kv, n_ctx, dim).half(), torch.randn(kv, n_ctx, dim).half()
        for position in (0, 31, 32, n_ctx - 1):
            at = torch.tensor([position])
            found = packed.attend(q.cuda(), k.cuda(), v.cuda(), at.cuda()).cpu()
            worst = max(worst, nmse(np, found, packed.attend(q, k, v, at)))
        if heads == 32:
            given = [q.cuda(), k.cuda(), v.cuda()]
            for position in (16, 512, 2303):
                at = torch.tensor([position], device="cuda")
                times.append(f"{timed(torch, lambda: packed.attend(*given, at)) * 1e3:.0f} us at {position}")
    assert worst < 1e-9, worst
    return f"NMSE at most {worst:.0e}; one layer, with launches: {', '.join(times)}", None


def speeds(torch, read):
    """Each product of LLaMA 3.2 1B, several matrices in turn so that none is in the cache."""
    import packed

    said = []
    for name, bits, group in [("4-bit", 4, 32), ("8-bit", 8, 32)]:
        rates = []
        for rows, cols in [(3072, 2048), (2048, 2048), (16384, 2048), (2048, 8192), (128256, 2048)]:
            swiglu, shape = rows == 16384, (rows // 4, cols * bits // 32, 4)
            size = rows * cols * bits // 8 + rows * cols // group * 2
            many = max(2, (200 << 20) // size)
            some = lambda: torch.randint(-(1 << 31), (1 << 31) - 1, shape, dtype=torch.int32, device="cuda")
            words = [some() for _ in range(many)]
            scales = torch.rand(rows // 4, cols // group, 4, device="cuda").half()
            x = torch.randn(1, cols, device="cuda")
            out = torch.empty(1, rows // 2 if swiglu else rows, device="cuda")
            rest = (scales, None, None, None, out, cols, bits, group, 8, 0.0, swiglu)
            run = lambda: [packed.launch_gemv(x, w, *rest) for w in words]
            run()
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                run()
            rate = size * many / timed(torch, graph.replay, 7) / 1e6
            rates.append(f"{rows}x{cols} {rate:.0f}")
            del words, graph
        said.append(f"{name} " + ", ".join(rates))
    warps = sorted(set(packed._choices.values()))
    return f"GB/s in a graph: {'; '.join(said)} (read {read or 0:.0f}); warps chosen {warps}", None


def model(torch, np, path, read):
    """One file: loads it, checks compiled score and decode steps against float32, takes the times."""
    from model import Model

    rng = np.random.default_rng(1)
    begin = time.monotonic()
    compiled = Model(str(path), "cuda:0", N_CTX, {"half": True, "compile": True})
    torch.cuda.synchronize()
    load, size = time.monotonic() - begin, compiled.facts()["weight_bytes_per_token"]
    tokens = rng.integers(0, compiled.vocab, 96).tolist()
    begin = time.monotonic()
    score = np.concatenate(list(compiled.score(tokens, 0)))
    first = time.monotonic() - begin
    begin = time.monotonic()
    steps = [compiled.row(compiled.prefill(tokens[:64], 0))]
    steps += [compiled.row(compiled.decode(tokens[i], i)).copy() for i in range(64, 96)]
    second = time.monotonic() - begin
    graphs = compiled.graphs
    logits = compiled.prefill(tokens[:48], 0)
    ids, produced = compiled.greedy(logits, 48), []
    produced = [next(ids) for _ in range(24)]
    spent = []
    for _ in range(200):
        begin = time.perf_counter()
        next(ids)
        spent.append((time.perf_counter() - begin) * 1e3)
    step = sorted(spent)[100]
    prefill = {}
    for n in (16, 512, 2048):
        prompt = rng.integers(0, compiled.vocab, n).tolist()
        took = []
        for _ in range(4):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            compiled.prefill(prompt, 0)
            torch.cuda.synchronize()
            took.append(time.perf_counter() - begin)
        prefill[n] = sorted(took)[1] * 1e3
    ids = compiled.greedy(compiled.prefill(prompt, 0), 2048)
    next(ids), next(ids)
    deep = []
    for _ in range(100):
        begin = time.perf_counter()
        next(ids)
        deep.append((time.perf_counter() - begin) * 1e3)
    grown = compiled.graphs - graphs
    held = compiled.memory()
    del compiled, ids
    torch.cuda.empty_cache()
    plain = Model(str(path), "cuda:0", N_CTX, {"half": False, "compile": False})
    expected = np.concatenate(list(plain.score(tokens, 0)))
    teacher = np.concatenate(list(plain.score(tokens[:48] + produced, 0)))[47:-1]
    del plain
    torch.cuda.empty_cache()
    eager = Model(str(path), "cuda:0", N_CTX, {"half": True, "compile": False})
    ids = eager.greedy(eager.prefill(tokens[:48], 0), 48)
    begin = [next(ids) for _ in range(8)] and time.perf_counter()
    [next(ids) for _ in range(20)]
    eager_step = (time.perf_counter() - begin) * 50
    eager_score = np.concatenate(list(eager.score(tokens, 0)))
    del eager, ids
    torch.cuda.empty_cache()
    errors = nmse(np, score, expected), nmse(np, steps, expected[63:]), nmse(np, eager_score, expected)
    behind = (teacher.max(-1) - teacher[np.arange(len(produced)), produced]).max() / teacher.std()
    rate = size / step / 1e6
    share = f", {rate / read:.2f} of what the card reads" if read else ""
    said = (
        f"load {load:.2f} s; compile {first:.0f} + {second:.0f} s; NMSE score {errors[0]:.0e} decode {errors[1]:.0e} eager {errors[2]:.0e}; "
        f"step {step * 1e3:.0f} us ({rate:.0f} GB/s{share}), {sorted(deep)[50] * 1e3:.0f} us at 2048, eager {eager_step * 1e3:.0f} us; "
        f"prefill ms {', '.join(f'{n}: {ms:.2f}' for n, ms in prefill.items())}; compiled later: {grown}; device {held}"
    )
    assert max(errors) < 1e-3 and behind < 0.05, f"{said}; chosen tokens behind the best by {behind:.3f} standard deviations"
    return said, None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("files", nargs="*", type=Path)
    given = parser.parse_args()
    try:
        import numpy as np
        import torch
    except ImportError as error:
        print(f"SKIP  everything: {sys.executable} has no {error.name}")
        return 0
    if not torch.cuda.is_available():
        print(f"SKIP  everything: torch {torch.__version__} sees no CUDA device")
        return 0
    torch.set_float32_matmul_precision("highest")
    torch.manual_seed(3)
    at = given.seconds
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", folder + "/inductor")
        os.environ.setdefault("TRITON_CACHE_DIR", folder + "/triton")
        read = part("machine", at, machine, torch)
        with torch.inference_mode():
            part("products", at, products, torch, np)
            part("attention", at, attention, torch, np)
            part("speeds", at, speeds, torch, read)
        for path in given.files:
            part(path.name, at, model, torch, np, path, read)
        for kind in [] if given.files else BLOCKS:
            path = Path(folder) / f"{kind}.gguf"
            made = part(f"{kind} file", at, lambda: (f"{write_model(np, path, kind).stat().st_size / 1e6:.0f} MB", True))
            if made:
                part(kind, at, model, torch, np, path, read)
    print(f"{len(failed)} parts failed: {', '.join(failed)}" if failed else "no part failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
