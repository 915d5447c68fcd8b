"""Tests Python engines from the harness's side: a process, its descriptors, its answers and its typed errors."""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from _shared.test_support import ENGINES, TOKENS, VOCAB, Worker, naive_logits, nmse, write_tiny

EXACT = [("numpy", {}), ("pytorch", {"compile": False, "half": False})]
ALL = [*EXACT, ("pytorch", {"compile": False, "half": True})]


@pytest.mark.parametrize("engine, options", EXACT)
def test_a_conversation(tmp_path, engine, options):
    path = write_tiny(tmp_path / "m.gguf", "Q4_0")
    with Worker(engine) as worker:
        assert worker.hello["pid"] == worker.process.pid and worker.hello["engine"] == engine
        assert worker.spawned < worker.hello["t_entry_ns"] < worker.ready["t_ns"] < time.monotonic_ns()
        assert worker.ready["type"] == "ready" and worker.ready["versions"].keys() > {"python"}
        features = {"stream", "stop", "sampling", "reuse", "cancel", "score", "context", "encode"}
        assert set(worker.ready["features"]) == features | ({"batch"} if engine == "pytorch" else set())
        sent = time.monotonic_ns()
        loaded = worker.load(path, **options)
        assert loaded["type"] == "loaded", loaded
        assert sent < loaded["t_begin_ns"] < loaded["t_end_ns"] < time.monotonic_ns()
        assert loaded["stages"].keys() == {"parse", "weights"}
        assert sum(loaded["stages"].values()) <= loaded["t_end_ns"] - loaded["t_begin_ns"]
        assert loaded["precision"] == {"weights": "f32", "compute": "f32", "kv": "f32"}
        assert loaded["memory"]["kv_bytes"] == 2 * 2 * 2 * 64 * 64 * 4
        answers = []
        for n in (1, 7, 7):
            sent = time.monotonic_ns()
            a = worker.ask(type="generate", id=n, prompt=TOKENS[:9], n=n, ignore_eos=True, logits="none")
            times = [sent, a["t_begin_ns"], a["t_prefill_end_ns"], *a["t_tokens_ns"], time.monotonic_ns()]
            assert times == sorted(times) and len(a["tokens"]) == len(a["t_tokens_ns"]) == n and a["id"] == n
            assert all(0 <= t < VOCAB for t in a["tokens"])
            answers.append(a["tokens"])
        assert answers[1] == answers[2] and answers[0] == answers[1][:1]
        out, expected = tmp_path / "logits.f32", naive_logits(path, TOKENS)
        for decode_from, decoded in ((None, 0), (20, 20), (2, 37)):
            scored = worker.ask(type="score", id=2, tokens=TOKENS, logits_path=str(out), first=3, decode_from=decode_from)
            assert (scored["positions"], scored["vocab"], scored["decoded"]) == (len(TOKENS) - 3, VOCAB, decoded)
            assert nmse(np.fromfile(out, "<f4").reshape(-1, VOCAB), expected[3:]) < 1e-11
        assert worker.ask(type="memory")["type"] == "memory"
        worker.send({"type": "bye"})
        assert worker.process.wait(10) == 0


@pytest.mark.parametrize("engine, options", EXACT)
def test_scores_go_through_a_pipe_too(tmp_path, engine, options):
    path, pipe = write_tiny(tmp_path / "m.gguf"), tmp_path / "logits"
    os.mkfifo(pipe)
    with Worker(engine) as worker:
        worker.load(path, **options)
        worker.send({"type": "score", "id": 3, "tokens": TOKENS, "logits_path": str(pipe), "decode_from": 30})
        rows = np.frombuffer(pipe.read_bytes(), "<f4").reshape(-1, VOCAB)
        scored = worker.answer()
    assert (scored["type"], scored.get("positions")) == ("scored", len(TOKENS)), scored
    assert nmse(rows, naive_logits(path, TOKENS)) < 1e-11


@pytest.mark.parametrize("engine, options", ALL)
def test_a_context_that_came_apart_gives_the_tokens_of_the_whole_prompt(tmp_path, engine, options):
    path = write_tiny(tmp_path / "m.gguf")
    ask = lambda worker, **more: worker.ask(type="generate", id=9, n=6, ignore_eos=True, **more)
    with Worker(engine) as worker:
        worker.load(path, **options)
        whole = ask(worker, prompt=TOKENS[:12])
        assert "depth" not in whole
        for depth in (1, 7, 11):
            filled = worker.ask(type="context", id=1, tokens=TOKENS[:depth])
            assert (filled["type"], filled["id"], filled["positions"]) == ("context", 1, depth)
            assert filled["t_begin_ns"] < filled["t_end_ns"] < time.monotonic_ns()
            for _ in range(2):  # the context stays for later generations
                apart = ask(worker, prompt=TOKENS[depth:12], depth=depth)
                assert (apart["tokens"], apart["depth"]) == (whole["tokens"], depth)
        assert ask(worker, prompt=TOKENS[:12])["tokens"] == whole["tokens"]


def test_a_worker_streams_and_is_cancelled(tmp_path):
    path = write_tiny(tmp_path / "m.gguf")
    with Worker() as worker:
        worker.load(path)
        reply = worker.ask(type="generate", id=7, prompt=TOKENS[:9], n=20, ignore_eos=True, stream=True, reuse=True)
        streamed = []
        while reply["type"] == "token":
            assert reply["id"] == 7
            streamed.append((reply["token"], reply["t_ns"]))
            reply = worker.answer()
        assert streamed == list(zip(reply["tokens"], reply["t_tokens_ns"])) and len(streamed) == 20
        # A late cancel has no effect; one that arrives before the generation begins ends it at
        # once.
        late, early = {"type": "cancel", "id": 7}, {"type": "cancel", "id": 8}
        worker.send(late, {"type": "generate", "id": 8, "prompt": [1, 2], "n": 20, "stream": True}, early)
        replies = [worker.answer()]
        while replies[-1]["type"] == "token":
            replies.append(worker.answer())
        assert replies[-1]["id"] == 8 and replies[-1]["tokens"] == [r["token"] for r in replies[:-1]]
        assert worker.ask(type="memory")["type"] == "memory"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_counts_pages_that_were_touched_and_what_malloc_keeps(tmp_path):
    path = write_tiny(tmp_path / "m.gguf")
    with Worker() as worker:
        worker.load(path)
        worker.ask(type="generate", id=1, prompt=TOKENS[:9], n=6, ignore_eos=True)
        book = worker.ask(type="memory")
    assert 0 < book["kv_resident_bytes"] <= book["kv_bytes"]
    assert book["compiler_bytes"] == 0, "nothing was compiled"
    assert book["allocator_free_bytes"] >= 0 and book["resident_bytes"] > 1 << 20


def test_untouched_pages_are_not_in_memory():
    import mmap

    from _shared import memory as resident

    size = 64 * mmap.PAGESIZE
    pages = np.frombuffer(mmap.mmap(-1, size), np.uint8)
    assert resident.in_memory(pages.ctypes.data, size) == 0
    pages[: size // 2] = 1
    assert resident.in_memory(pages.ctypes.data, size) == size // 2
    assert resident.in_memory(pages.ctypes.data + 10, 100) == 100
    assert resident.in_memory(0, 0) == 0


def test_a_stray_print_goes_to_stderr_and_a_missing_package_is_named(tmp_path):
    (tmp_path / "numpy.py").write_text("import os; print('stray', flush=True); os.system('echo stray child')\nimport no_such_package\n")
    with Worker(env={"PYTHONPATH": f"{tmp_path}:{ENGINES}"}) as worker:
        assert worker.hello["type"] == "hello" and worker.ready["kind"] == "missing_dependency"
        for words in ("no_such_package", "llm-bench engines install numpy"):
            assert words in worker.ready["message"]
        assert worker.process.wait(10) != 0
        stderr = worker.process.stderr.read()
        assert "stray\n" in stderr and "stray child" in stderr


def damaged(tmp_path, what):
    path = Path(write_tiny(tmp_path / "m.gguf", skip=("blk.1.attn_k.weight",) if what == "missing" else ()))
    if what == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if what == "quant":
        data = path.read_bytes()
        at = data.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4 + 16
        path.write_bytes(data[:at] + (16).to_bytes(4, "little") + data[at + 4 :])
    return path


@pytest.mark.parametrize(
    "what, kind, message",
    [("truncated", "bad_model", "truncated"), ("missing", "bad_model", "blk.1.attn_k"), ("quant", "unsupported_quant", "attn_q")],
)
def test_a_damaged_file_is_a_typed_error(tmp_path, what, kind, message):
    with Worker() as worker:
        error = worker.load(damaged(tmp_path, what))
        assert (error["type"], error["kind"]) == ("error", kind) and message in error["message"]
        assert worker.process.wait(10) != 0


@pytest.mark.parametrize(
    "request_",
    [
        {"type": "load", "path": "x", "device": "cpu", "threads": 2, "n_ctx": 8, "options": {"speed": 11}},
        {"type": "load", "path": "x", "device": "tpu", "threads": 2, "n_ctx": 8},
        {"type": "dance"},
        {"type": "memory"},
        {"type": "load"},
    ],
)
def test_a_wrong_request_is_an_internal_error(request_):
    with Worker() as worker:
        error = worker.ask(**request_)
        assert (error["type"], error["kind"]) == ("error", "internal"), error


def test_the_end_of_stdin_ends_the_process():
    with Worker() as worker:
        worker.process.stdin.close()
        assert worker.process.wait(10) == 0
