"""The wire: JSON lines in and out, errors and their kinds, and `hello`. docs/PROTOCOL.md defines it."""

import time

T_ENTRY_NS = time.monotonic_ns()

import json
import os
import select
import sys

PROTOCOL = 1


class Failure(Exception):
    """An error that the harness shows. The message states what was expected, what was found and what to do."""

    kind = "internal"


class BadModel(Failure):
    """The file is not a usable GGUF."""

    kind = "bad_model"


class UnsupportedQuant(Failure):
    """A tensor is stored in a type that this engine cannot read."""

    kind = "unsupported_quant"


class Unsupported(Failure):
    """A feature that the engine offers, but not on this device or with these options."""

    kind = "unsupported"


class MissingDependency(Failure):
    """Something outside the engine is missing: a package, a device."""

    kind = "missing_dependency"


class CompileFailed(Failure):
    """The compiler could not build what the engine needs."""

    kind = "compile_failed"


def hello(engine: str) -> "Harness":
    """Answers `hello`. Call it first, before any import that takes time.

    From then on stdout belongs to the harness: whatever a library prints goes to stderr. An uncaught
    exception, for example from an import, is sent as an `error` and ends the process.
    """
    harness = Harness(engine)
    sys.excepthook = harness.fail
    die_with_parent()
    request = next(harness, None)
    if request is None:
        sys.exit(0)
    if request["type"] != "hello" or request.get("protocol") != PROTOCOL:
        raise Failure(f"expected hello of protocol {PROTOCOL}, found {str(request)[:200]}")
    harness.send({"type": "hello", "protocol": PROTOCOL, "engine": engine, "pid": os.getpid(), "t_entry_ns": T_ENTRY_NS})
    return harness


class Harness:
    """The other end of the pipe: an iterator over its requests, until `bye` or the end of stdin."""

    def __init__(self, engine: str):
        self.engine = engine
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._lines: list[str] = []
        self._rest = bytearray()

    def send(self, message: dict) -> None:
        """Writes one message."""
        self._out.write(json.dumps(message, separators=(",", ":")) + "\n")
        self._out.flush()

    def __iter__(self):
        return self

    def __next__(self) -> dict:
        while not self._lines:
            if not self._read():
                raise StopIteration
        request = parse(self._lines.pop(0))
        if request["type"] == "bye":
            raise StopIteration
        return request

    def _read(self) -> bool:
        """Waits for bytes; False at the end of stdin."""
        chunk = os.read(0, 1 << 16)
        if b"\n" not in chunk:
            self._rest += chunk
            return bool(chunk)
        whole, _, rest = (bytes(self._rest) + chunk).rpartition(b"\n")
        self._rest = bytearray(rest)
        self._lines += whole.decode("utf-8", "replace").split("\n")
        return True

    def cancelled(self, generation: int) -> bool:
        """Whether a `cancel` for this generation has arrived or stdin has ended. Never waits."""
        while select.select([0], [], [], 0)[0]:
            if not self._read():
                return True
        ours = lambda m: m["type"] == "cancel" and m.get("id") == generation
        return any(ours(parse(line)) for line in self._lines)

    def fail(self, _type, error, trace) -> None:
        """`sys.excepthook`: sends the error; writes a traceback to stderr if the kind explains nothing."""
        kind, message = "internal", f"{type(error).__name__}: {error}"
        if isinstance(error, Failure):
            kind, message = error.kind, str(error)
        elif isinstance(error, ImportError):
            kind, message = "missing_dependency", f"{error}; run `llm-bench engines install {self.engine}`"
        elif isinstance(error, MemoryError) or "OutOfMemory" in message or "can't allocate memory" in message:
            kind, message = "oom", f"out of memory: {message}; try fewer positions (n_ctx) or a smaller quantization"
        if kind == "internal":
            sys.__excepthook__(_type, error, trace)
        if isinstance(error, Exception):
            self.send({"type": "error", "kind": kind, "message": message})


def parse(line: str) -> dict:
    """One message; Failure if it is not a JSON object with a type."""
    try:
        message = json.loads(line)
    except ValueError as error:
        raise Failure(f"expected one JSON object a line, found {line.strip()[:200]!r} ({error})") from error
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise Failure(f"expected a JSON object with a 'type', found {line.strip()[:200]!r}")
    return message


def die_with_parent() -> None:
    """On Linux the kernel kills this process when the harness ends, for whatever reason."""
    if sys.platform == "linux":
        import ctypes
        import signal

        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
