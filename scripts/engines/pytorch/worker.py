"""The PyTorch engine's side of the llm-bench engine protocol: JSON lines, nothing else. The model is in model.py."""

import time

T_ENTRY_NS = time.monotonic_ns()

import json
import os
import select
import sys

PROTOCOL = 1
FEATURES = ["stream", "stop", "sampling", "reuse", "cancel", "score", "context"]
OPTIONS = {"compile": False, "half": True}

FIELDS = {
    "load": ("path", "device", "threads", "n_ctx"),
    "context": ("id", "tokens"),
    "generate": ("id", "prompt", "n"),
    "score": ("tokens", "logits_path"),
    "memory": (),
}


class Failure(Exception):
    """An error with the kind that the protocol knows it by."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


def main() -> int:
    """hello, imports, ready, then one answer a request until `bye` or the end of stdin."""
    # Whatever a library prints goes to stderr: the protocol keeps its own descriptor.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    die_with_parent()

    def send(message: dict) -> None:
        out.write(json.dumps(message, separators=(",", ":")) + "\n")
        out.flush()

    requests = Requests()
    line = next(requests, None)
    if line is None:
        return 0
    try:
        hello = parse(line)
        if hello.get("type") != "hello" or hello.get("protocol") != PROTOCOL:
            raise Failure("internal", f"expected hello of protocol {PROTOCOL}, found {line.strip()[:200]}")
        send({"type": "hello", "protocol": PROTOCOL, "engine": "pytorch", "pid": os.getpid(), "t_entry_ns": T_ENTRY_NS})
        engine = Engine(send, requests)
        send(engine.ready())
        for line in requests:
            request = parse(line)
            if request["type"] == "bye":
                return 0
            if request["type"] != "cancel":  # what was to be cancelled is done
                send(engine.answer(request))
    except Exception as error:
        failure = typed(error)
        send({"type": "error", "kind": failure.kind, "message": str(failure)})
        if failure.kind == "internal":
            raise
        return 1
    return 0


class Requests:
    """Lines of stdin, one by one; and whether the generation that runs has been cancelled meanwhile."""

    def __init__(self):
        self.lines: list[str] = []
        self.rest = bytearray()

    def __iter__(self):
        return self

    def __next__(self) -> str:
        while not self.lines:
            if not self._read():
                raise StopIteration
        return self.lines.pop(0)

    def _read(self) -> bool:
        """Waits for bytes; False at the end of stdin."""
        chunk = os.read(0, 1 << 16)
        if b"\n" not in chunk:
            self.rest += chunk
            return bool(chunk)
        whole, _, rest = (bytes(self.rest) + chunk).rpartition(b"\n")
        self.rest = bytearray(rest)
        self.lines += whole.decode("utf-8", "replace").split("\n")
        return True

    def cancelled(self, generation: int) -> bool:
        """Whether `cancel` for this generation has come, or stdin has ended. Never waits."""
        while select.select([0], [], [], 0)[0]:
            if not self._read():
                return True
        ours = lambda m: m["type"] == "cancel" and m.get("id") == generation
        return any(ours(parse(line)) for line in self.lines)


def parse(line: str) -> dict:
    """One message; `internal` when it is not a JSON object with a type."""
    try:
        message = json.loads(line)
    except ValueError as error:
        raise Failure("internal", f"expected one JSON object a line, found {line.strip()[:200]!r} ({error})") from error
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise Failure("internal", f"expected a JSON object with a 'type', found {line.strip()[:200]!r}")
    return message


def die_with_parent() -> None:
    """Linux: the kernel kills this process when the harness goes, however it went."""
    if sys.platform == "linux":
        import ctypes
        import signal

        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def typed(error: Exception) -> Failure:
    """The protocol's kind for any exception."""
    if isinstance(error, Failure):
        return error
    name, text = type(error).__name__, str(error)
    kinds = {"BadModel": "bad_model", "UnsupportedQuant": "unsupported_quant", "CompileFailed": "compile_failed"}
    if name in kinds:
        return Failure(kinds[name], text)
    if isinstance(error, MemoryError) or name == "OutOfMemoryError" or "can't allocate memory" in text:
        return Failure("oom", f"out of memory: {text or name}; try fewer positions (n_ctx) or a smaller quantization")
    return Failure("internal", f"{name}: {text}")


class Engine:
    """Imports PyTorch and answers requests. Holds at most one model."""

    def __init__(self, send, requests):
        self.send, self.requests = send, requests
        try:
            import numpy  # noqa: F401  the model needs it; better missed now than in a load
            import torch
        except ImportError as error:
            raise Failure("missing_dependency", f"cannot import torch and numpy ({error}); run `llm-bench engines install pytorch`") from error
        torch.set_num_interop_threads(1)
        import resident

        self.torch, self.model, self.resident = torch, None, resident
        self.free_at_ready = resident.allocator_free()
        self.compiler_bytes = 0  # held by what was imported or compiled after `ready`

    def ready(self) -> dict:
        """Versions and the widest instruction set in use."""
        torch = self.torch
        isa = torch.backends.cpu.get_cpu_capability().lower()
        if isa == "avx512" and torch.cpu._is_avx512_bf16_supported():
            isa = "avx512_bf16"
        versions = {"torch": torch.__version__, "python": sys.version.split()[0]}
        return {"type": "ready", "versions": versions, "threads": torch.get_num_threads(), "isa": isa, "features": FEATURES, "t_ns": time.monotonic_ns()}

    def answer(self, request: dict) -> dict:
        """The answer to one request."""
        answers = {"load": self.load, "context": self.context, "generate": self.generate, "score": self.score, "memory": self.memory}
        kind = request["type"]
        if kind not in answers:
            raise Failure("internal", f"expected one of {', '.join(answers)} or bye, found '{kind}'")
        if kind != "load" and self.model is None:
            raise Failure("internal", f"expected a load before '{kind}'")
        if missing := [field for field in FIELDS[kind] if field not in request]:
            raise Failure("internal", f"expected the fields {missing} in '{kind}'")
        return answers[kind](request)

    def load(self, request: dict) -> dict:
        """Opens the file and builds the model; every weight is on the device afterwards."""
        from gguf_reader import Gguf
        from model import Model

        torch = self.torch
        options = {**OPTIONS, **request.get("options", {})}
        if unknown := sorted(options.keys() - OPTIONS.keys()):
            raise Failure("internal", f"expected only the options {sorted(OPTIONS)}, found {unknown}")
        device, threads = request["device"], request["threads"]
        if device.startswith("cuda"):
            if not torch.cuda.is_available():
                raise Failure("missing_dependency", f"device '{device}': this torch sees no CUDA device")
        elif device != "cpu":
            raise Failure("internal", f"expected device cpu or cuda[:i], found '{device}'")
        if options["compile"]:  # an import, not a part of loading weights
            before = self.resident.private_in_use()
            import torch._dynamo
            import torch._inductor.config  # noqa: F401

            self._grew(before, self.resident.private_in_use())
        self.model = None
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("highest")
        begin = time.monotonic_ns()
        file = Gguf(request["path"])
        parsed = time.monotonic_ns()
        model = Model(file, device, request["n_ctx"], half=options["half"], compiled=options["compile"])
        model.sync()
        end = time.monotonic_ns()
        self.model = model
        return {
            "type": "loaded",
            "t_begin_ns": begin,
            "t_end_ns": end,
            "stages": {"parse": parsed - begin, "weights": end - parsed},
            "precision": model.precision(),
            "memory": model.memory(),
            "weight_bytes_per_token": model.bytes_per_token(),
            "settings": {"compile": options["compile"], "half": options["half"], "threads": threads, "kernels": model.kernels()},
            "notes": model.notes(),
        }

    def context(self, request: dict) -> dict:
        """Fills the cache with a context, for generations at that depth."""
        before, compiled = self._private() if self.model.compiled else None, self.model.compile_ns
        begin = time.monotonic_ns()
        self.model.fill(request["tokens"])
        end = time.monotonic_ns()
        if self.model.compile_ns != compiled:
            self._grew(before, self._private())
        positions = len(request["tokens"])
        return {"type": "context", "id": request["id"], "positions": positions, "t_begin_ns": begin, "t_end_ns": end}

    def generate(self, request: dict) -> dict:
        """Greedy, exactly `n` tokens, from an empty context or on the one that `context` left."""
        before = self._private() if self.model.compiled else None
        begin = time.monotonic_ns()
        if request.get("logits", "none") != "none":
            raise Failure("internal", f"expected logits 'none', found '{request['logits']}'; use score")
        if request["n"] < 1 or not (request.get("ignore_eos", True) or request.get("stop")):
            raise Failure("internal", "expected n of at least 1, and ignore_eos true or the ids in 'stop': this engine knows no others")
        compiled, profile, reused = self.model.compile_ns, bool(request.get("profile")), {}
        depth, answered = request.get("depth", 0), request.keys() & {"stream", "stop", "sampling", "reuse"}
        if depth and (answered or depth != len(self.model.held)):
            raise Failure("internal", f"depth {depth}: the context holds {len(self.model.held)} positions, for measured generations only")
        if answered:
            tokens, prefill_end, times, kept = self.watched(request)
            profile, reused = False, {"reused": kept}
        else:
            tokens, prefill_end, times = self.model.generate(request["prompt"], request["n"], profile, depth)
        answer = {
            "type": "generated",
            "id": request["id"],
            "tokens": tokens,
            "t_begin_ns": begin,
            "t_prefill_end_ns": prefill_end,
            "t_tokens_ns": times,
            **reused,
            **({"depth": depth} if depth else {}),
        }
        if self.model.compiled:
            answer |= {"compile_ns": self.model.compile_ns - compiled, "graphs": self.model.graphs}
            if answer["compile_ns"]:
                self._grew(before, self._private())
        if profile:
            answer["profile"] = self.model.profile()
        return answer

    def _private(self) -> int | None:
        """Private memory in use, without the KV cache, which grows when it is first written."""
        in_use, kv = self.resident.private_in_use(), self.model.memory().get("kv_resident_bytes")
        return None if in_use is None or kv is None else in_use - kv

    def _grew(self, before: int | None, after: int | None) -> None:
        if before is None or after is None or self.compiler_bytes is None:
            self.compiler_bytes = None
        else:
            self.compiler_bytes += max(after - before, 0)
    def watched(self, request: dict):
        """A generation that is streamed, sampled, stopped or built on the cache: what `answer` returns."""
        from answer import Sampling, answer

        sampling = request.get("sampling")
        try:
            sampling = sampling and Sampling(**sampling)
        except (TypeError, ValueError) as error:
            raise Failure("internal", f"sampling: {error}") from error
        emit = lambda token, ns: self.send({"type": "token", "id": request["id"], "token": token, "t_ns": ns})
        return answer(
            self.model,
            request["prompt"],
            request["n"],
            sampling,
            frozenset(request.get("stop", [])),
            request.get("reuse", False),
            emit if request.get("stream", False) else lambda *_: None,
            lambda: self.requests.cancelled(request["id"]),
        )

    def score(self, request: dict) -> dict:
        """Teacher-forced logits, float32 row by row, into the file that the harness names."""
        begin, rows = time.monotonic_ns(), 0
        tokens, first = request["tokens"], request.get("first", 0)
        decode_from = request.get("decode_from")
        together = len(tokens) if decode_from is None else min(decode_from, len(tokens))
        with open(request["logits_path"], "wb") as file:
            for part in self.model.score(tokens, first, together):
                part.numpy().astype("<f4", copy=False).tofile(file)
                rows += part.shape[0]
        end = time.monotonic_ns()
        answer = {"type": "scored", "id": request.get("id"), "positions": rows, "vocab": self.model.vocab}
        answer["decoded"] = len(tokens) - max(together, first)
        return answer | {"t_begin_ns": begin, "t_end_ns": end}

    def memory(self, _request: dict) -> dict:
        """Bytes by the engine's own book."""
        free, at_ready = self.resident.allocator_free(), self.free_at_ready
        book = {
            "resident_bytes": self.resident.status("VmRSS"),
            "compiler_bytes": self.compiler_bytes,
            "allocator_free_bytes": None if free is None or at_ready is None else max(free - at_ready, 0),
        }
        known = {name: size for name, size in book.items() if size is not None}
        return {"type": "memory", **self.model.memory(), **known}


if __name__ == "__main__":
    sys.exit(main())
