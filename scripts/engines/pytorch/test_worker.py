"""The worker as the harness sees it: a process, its descriptors, its answers and its typed errors."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from test_model import TOKENS, VOCAB, build, nmse, scores, write_tiny

WORKER = Path(__file__).with_name("worker.py")


class Worker:
    """A worker process that has said hello and ready."""

    def __init__(self, *python_args, env=None):
        command = [sys.executable, *python_args, str(WORKER)]
        self.spawned = time.monotonic_ns()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}
        )
        self.hello = self.ask(type="hello", protocol=1)
        self.ready = json.loads(self.process.stdout.readline())

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def load(self, path, **options):
        return self.ask(type="load", path=str(path), device="cpu", threads=2, n_ctx=64, options=options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            pipe.close()


def test_a_conversation(tmp_path):
    path = write_tiny(tmp_path / "m.gguf")
    with Worker() as worker:
        assert worker.hello["pid"] == worker.process.pid and worker.hello["engine"] == "pytorch"
        assert worker.spawned < worker.hello["t_entry_ns"] < worker.ready["t_ns"] < time.monotonic_ns()
        assert worker.ready["type"] == "ready" and "torch" in worker.ready["versions"]
        sent = time.monotonic_ns()
        loaded = worker.load(path, compile=False, half=False)
        assert sent < loaded["t_begin_ns"] < loaded["t_end_ns"] < time.monotonic_ns()
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
        out = tmp_path / "logits.f32"
        scored = worker.ask(type="score", id=2, tokens=TOKENS, logits_path=str(out), first=3)
        assert (scored["positions"], scored["vocab"]) == (len(TOKENS) - 3, VOCAB)
        logits = np.fromfile(out, "<f4").reshape(-1, VOCAB)
        assert nmse(logits, scores(build(path), TOKENS)[3:]) < 1e-12
        assert worker.ask(type="memory")["type"] == "memory"
        worker.process.stdin.write('{"type":"bye"}\n')
        worker.process.stdin.flush()
        assert worker.process.wait(10) == 0


@pytest.mark.parametrize("half", [False, True])
def test_a_context_that_came_apart_gives_the_tokens_of_the_whole_prompt(tmp_path, half):
    path = write_tiny(tmp_path / "m.gguf")
    ask = lambda worker, **more: worker.ask(type="generate", id=9, n=6, ignore_eos=True, **more)
    with Worker() as worker:
        assert "context" in worker.ready["features"]
        worker.load(path, half=half)
        whole = ask(worker, prompt=TOKENS[:12])
        assert "depth" not in whole
        for depth in (1, 7, 11):
            filled = worker.ask(type="context", id=1, tokens=TOKENS[:depth])
            assert (filled["type"], filled["id"], filled["positions"]) == ("context", 1, depth)
            assert filled["t_begin_ns"] < filled["t_end_ns"] < time.monotonic_ns()
            for _ in range(2):  # it stays for the generations behind it
                apart = ask(worker, prompt=TOKENS[depth:12], depth=depth)
                assert (apart["tokens"], apart["depth"]) == (whole["tokens"], depth)
        assert ask(worker, prompt=TOKENS[:12])["tokens"] == whole["tokens"]
        error = ask(worker, prompt=TOKENS[11:12], depth=11)
        assert error["kind"] == "internal" and "holds 0 positions" in error["message"]


@pytest.mark.parametrize("half", [False, True])
def test_stages_add_up_to_less_than_the_time_of_their_phase(tmp_path, half):
    path = write_tiny(tmp_path / "m.gguf")
    with Worker() as worker:
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

    import resident

    size = 64 * mmap.PAGESIZE
    memory = np.frombuffer(mmap.mmap(-1, size), np.uint8)
    assert resident.in_memory(memory.ctypes.data, size) == 0
    memory[: size // 2] = 1
    assert resident.in_memory(memory.ctypes.data, size) == size // 2
    assert resident.in_memory(memory.ctypes.data + 10, 100) == 100
    assert resident.in_memory(0, 0) == 0


def test_a_stray_print_goes_to_stderr(tmp_path):
    (tmp_path / "torch.py").write_text("import os; print('stray', flush=True); os.system('echo stray child')\nraise ImportError('a test')\n")
    process = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import runpy; runpy.run_path({str(WORKER)!r}, run_name='__main__')"],
        input='{"type":"hello","protocol":1}\n', capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    lines = [json.loads(line) for line in process.stdout.splitlines()]
    assert [line["type"] for line in lines] == ["hello", "error"]
    assert lines[1]["kind"] == "missing_dependency" and "a test" in lines[1]["message"]
    assert "stray child" in process.stderr


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
        error = worker.load(damaged(tmp_path, what), half=False)
        assert (error["type"], error["kind"]) == ("error", kind) and message in error["message"]
        assert worker.process.wait(10) != 0


@pytest.mark.parametrize(
    "request_",
    [
        {"type": "load", "path": "x", "device": "cpu", "threads": 2, "n_ctx": 8, "options": {"speed": 11}},
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


@pytest.mark.slow
def test_a_missing_compiler_is_compile_failed(tmp_path):
    path = write_tiny(tmp_path / "m.gguf", "Q8_0")
    with Worker(env={"CXX": "/nonexistent/g++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "PATH": "/nonexistent"}) as worker:
        worker.load(path, compile=True, half=True)
        error = worker.ask(type="generate", id=1, prompt=[1, 2, 3], n=4, ignore_eos=True, logits="none")
        assert error["type"] == "error" and error["kind"] == "compile_failed", error
