"""The interface of an engine, and `serve`, which answers the harness with it.

Everything that all engines have in common is here: timestamps, the token loop, the contents of the cache,
sampling, streams, memory. An engine loads a file, runs a prompt and runs single tokens.
"""

import math
import sys
import time
from itertools import count

from . import tokenizer
from .encoder import Encoder
from .memory import Book, private_in_use, status
from .protocol import BadModel, Failure, Harness, Unsupported
from .spans import OFF, Spans

FIELDS = {
    "load": ("path", "device", "threads", "n_ctx"),
    "context": ("id", "tokens"),
    "generate": ("id", "prompt", "n"),
    "score": ("tokens", "logits_path"),
    "encode": ("id", "texts"),
    "tokenize": ("id", "texts"),
    "memory": (),
}
READ = {"stream", "stop", "sampling", "reuse"}  # a generation with one of these is for a reader, not measured


class Engine:
    """One loaded model with one KV cache; each engine implements it.

    Logits are whatever `prefill` and `decode` return: they may stay on the device until `pick` or `row`.
    The cache may hold positions after the current one; attention must not read them.
    """

    # Leave out sampling without numpy, and score without a `score` method. Add batch with `batched`.
    features = ("stream", "stop", "sampling", "reuse", "cancel", "score", "context")
    devices = ("cpu",)
    options: dict = {}  # the switches that `load` takes, with their defaults
    profiles = False  # whether the engine ends the stages of `spans`
    spans = OFF
    compile_ns: int | None = None  # time spent in compilation so far; None if nothing is compiled
    vocab: int
    n_ctx: int
    stages: dict[str, int] = {}  # nanoseconds of loading, by name

    @staticmethod
    def ready() -> dict:
        """Facts before anything is loaded: `versions` by name and, if known, `threads` and `isa`."""
        return {"versions": {}}

    @staticmethod
    def prepare(threads: int, options: dict) -> bool:
        """Runs what precedes the timed part of `load`, such as imports; returns whether it imported a compiler."""
        return False

    @classmethod
    def choose(cls, path: str, device: str, options: dict) -> None:
        """Measures, after `prepare`, what a choice for this file needs; it is not part of the timed load either."""

    def __init__(self, path: str, device: str, n_ctx: int, options: dict):
        """Loads; returns when every weight is usable on the device. Sets `vocab` and `n_ctx`."""
        raise NotImplementedError

    def facts(self) -> dict:
        """Facts about the loaded model: `precision` and, if known, `weight_bytes_per_token`, `settings`, `notes`."""
        raise NotImplementedError

    @classmethod
    def batched(cls, batch: int, device: str) -> type["Engine"]:
        """The class that runs `batch` sequences together, with a cache for each and these two methods."""
        raise NotImplementedError

    def prefill_batch(self, prompts: list[list[int]]):
        """Runs one prompt for each sequence, all of one length; returns the logits of their last tokens."""
        raise NotImplementedError

    def greedy_batch(self, logits, position: int):
        """`greedy` for all sequences: yields one id of each, in order. All are at one position."""
        raise NotImplementedError

    def fill(self, tokens: list[int]) -> None:
        """Runs a context from position 0; nobody needs its logits."""
        self.prefill(tokens, 0)

    def prefill(self, tokens: list[int], start: int):
        """Runs `tokens` at positions `start`… after those in the cache; returns the last token's logits."""
        raise NotImplementedError

    def decode(self, token: int, position: int):
        """Runs one token; returns its logits."""
        raise NotImplementedError

    def pick(self, logits) -> int:
        """The id of the largest logit, the first among equals."""
        return int(logits.argmax())

    def row(self, logits):
        """The logits on the host: float32 `[vocab]`, a numpy array if the engine offers `sampling`."""
        return logits

    def score(self, tokens: list[int], first: int):
        """Runs `tokens` from position 0; yields float32 `[rows, vocab]` on the host, for positions `first`…"""
        raise NotImplementedError

    def greedy(self, logits, position: int):
        """Yields ids without end, each as soon as it is on the host. `position` belongs to the first one."""
        for position in count(position):
            token = self.pick(logits)
            yield token
            logits = self.decode(token, position)

    def sync(self) -> None:
        """Waits for the device."""

    def memory(self) -> dict[str, int | None]:
        """Bytes by the engine's own account: `weights_mapped_bytes`, `weights_private_bytes`, `kv_bytes`,
        `kv_resident_bytes`, `activation_bytes`; None if unknown."""
        return {}

    def watch(self, spans) -> None:
        """Gives `spans` the time of each stage from now on."""
        self.spans = spans

    def weight_bytes(self) -> dict[str, int]:
        """Bytes of weights that one decode step reads, by stage."""
        return {}


def serve(harness: Harness, engine: type[Engine], encoder: type[Encoder] | None = None) -> None:
    """Sends `ready`, then answers one request after another until the harness says `bye`.

    A file of the architecture `bert` is for the `encoder`, every other one for the `engine`.
    """
    server = Server(harness, engine, encoder)
    ready = engine.ready()
    ready["versions"] = {**ready["versions"], "python": sys.version.split()[0]}
    features = [*engine.features, *(["encode"] if encoder else []), *(["tokenize"] if tokenizer.is_here() else [])]
    harness.send({"type": "ready", **ready, "features": features, "t_ns": time.monotonic_ns()})
    for request in harness:
        if request["type"] != "cancel":  # the generation to cancel has already ended
            harness.send(server.answer(request))


class Server:
    """Answers requests with an engine. Prints and sends nothing between two timestamps."""

    def __init__(self, harness: Harness, kind: type[Engine], encoder: type[Encoder] | None = None):
        self.harness, self.kind, self.encoder, self.book = harness, kind, encoder, Book()
        self.engine: Engine | Encoder | None = None
        self.held: list[int] = []  # the tokens in the cache; empty if no generation may build on them
        self.batch = 1  # sequences that the model was loaded for
        self.path, self.texts = "", None  # the loaded file, and its tokenizer once a text has come

    def answer(self, request: dict) -> dict:
        """The answer to one request."""
        kind = request["type"]
        if kind not in FIELDS:
            raise Failure(f"expected one of {', '.join(FIELDS)} or bye, found '{kind}'")
        if kind != "load" and self.engine is None:
            raise Failure(f"expected a load before '{kind}'")
        if missing := [field for field in FIELDS[kind] if field not in request]:
            raise Failure(f"expected the fields {missing} in '{kind}'")
        if kind in ("context", "generate", "score", "encode") and (kind == "encode") != isinstance(self.engine, Encoder):
            raise Unsupported(f"'{kind}': the loaded model is {'no' if kind == 'encode' else 'an'} encoder")
        return getattr(self, kind)(request)

    def load(self, request: dict) -> dict:
        """Opens the file and builds the model."""
        kind, device, threads = self._kind(request["path"]), request["device"], request["threads"]
        options = {**kind.options, **request.get("options", {})}
        if unknown := sorted(options.keys() - kind.options.keys()):
            raise Failure(f"expected only the options {sorted(kind.options)}, found {unknown}")
        if device.split(":")[0] not in kind.devices:
            raise Failure(f"expected a device of {', '.join(kind.devices)}, found '{device}'")
        self.engine, self.held, before = None, [], private_in_use()
        self.path, self.texts = request["path"], None
        if kind.prepare(threads, options):
            self.book.compiled(before, private_in_use())
        self.batch = request.get("batch", 1)
        if self.batch > 1:
            kind = kind.batched(self.batch, device)
        kind.choose(request["path"], device, options)
        begin = time.monotonic_ns()
        engine = kind(request["path"], device, request["n_ctx"], options)
        end = time.monotonic_ns()
        self.engine, facts = engine, engine.facts()
        given = {name: value for name, value in options.items() if value is not None}
        facts["settings"] = {**given, "threads": threads, **facts.get("settings", {})}
        times = {"t_begin_ns": begin, "t_end_ns": end, "stages": engine.stages}
        return {"type": "loaded", **times, "memory": self._known(), **facts}

    def _kind(self, path: str) -> type[Engine] | type[Encoder]:
        """What runs the file. One that cannot be read is for the engine, which says why when it loads it."""
        if self.encoder is None:
            return self.kind
        from .gguf_reader import Gguf

        try:
            return self.encoder if Gguf.architecture(path) == "bert" else self.kind
        except Failure:
            return self.kind

    def context(self, request: dict) -> dict:
        """Fills the cache with a context for generations at that depth."""
        tokens, before, compiled = request["tokens"], self._private(), self.engine.compile_ns
        begin = time.monotonic_ns()
        self._check(tokens, 0)
        self.held = []
        self.engine.fill(tokens)
        self.engine.sync()
        end = time.monotonic_ns()
        self.held = list(tokens)
        self._compiled(before, compiled)
        return {"type": "context", "id": request["id"], "positions": len(tokens), "t_begin_ns": begin, "t_end_ns": end}

    def generate(self, request: dict) -> dict:
        """A measured generation: greedy, exactly `n` ids, from an empty cache or after the context in it. Or one for
        a reader: sampled, streamed, stopped, cancelled, and built on the part of the prompt in the cache."""
        if request.get("batch", 1) != 1 or self.batch != 1:
            return self._together(request)
        engine, before, compiled = self.engine, self._private(), self.engine.compile_ns
        begin = time.monotonic_ns()
        prompt, n, stop = request["prompt"], request["n"], frozenset(request.get("stop", ()))
        depth, read = request.get("depth", 0), bool(request.keys() & READ)
        if request.get("logits", "none") != "none":
            raise Failure(f"expected logits 'none', found '{request['logits']}'; use score")
        if n < 1 or not (request.get("ignore_eos", True) or stop):
            raise Failure("expected n of at least 1, and ignore_eos true or the ids in 'stop': this engine knows no others")
        if depth and (read or depth != len(self.held)):
            raise Failure(f"depth {depth}: the context holds {len(self.held)} positions, for measured generations only")
        self._check(prompt, n + depth)
        reused, held, stream = 0, self.held[:depth], request.get("stream", False)
        if request.get("reuse"):
            same = [a == b for a, b in zip(self.held, prompt)] + [False]
            reused = min(same.index(False), len(prompt) - 1)
        draw = self._draw(request["sampling"]) if request.get("sampling") else engine.greedy
        spans, profile = OFF, {}
        if request.get("profile") and engine.profiles and not read:
            spans = Spans(engine.sync)
            engine.watch(spans)

        self.held = []
        logits = engine.prefill(prompt[reused:], depth + reused)
        engine.sync()
        prefill_end = time.monotonic_ns()
        tokens, times, ids = [], [], draw(logits, depth + len(prompt))
        while len(tokens) < n and not (read and self.harness.cancelled(request["id"])):
            tokens.append(next(ids))
            spans.end("sampling")
            times.append(time.monotonic_ns())
            if len(tokens) == 1:
                profile["prefill_ns"] = spans.take()
            spans.resume()
            if stream:
                self.harness.send({"type": "token", "id": request["id"], "token": tokens[-1], "t_ns": times[-1]})
            if tokens[-1] in stop:
                break

        self._check_finite(logits)
        self.held = prompt + tokens[:-1] if read else held  # the last token did not run
        answer = {"type": "generated", "id": request["id"], "tokens": tokens, "t_begin_ns": begin}
        answer |= {"t_prefill_end_ns": prefill_end, "t_tokens_ns": times}
        answer |= {"reused": reused} if read else {"depth": depth} if depth else {}
        if compiled is not None:
            answer["compile_ns"] = self._compiled(before, compiled)
        if spans is not OFF:
            engine.watch(OFF)
            answer["profile"] = {**profile, "decode_ns": spans.take(), "decode_weight_bytes": engine.weight_bytes()}
        return answer

    def _together(self, request: dict) -> dict:
        """A measured generation of several sequences together."""
        engine, before, compiled = self.engine, self._private(), self.engine.compile_ns
        begin = time.monotonic_ns()
        prompts, n = [request["prompt"], *request.get("others", ())], request["n"]
        if request.keys() & READ or request.get("depth") or n < 1:
            raise Failure("a batch is for measured generations of at least one token, without depth")
        if not len(prompts) == request.get("batch", 1) == self.batch or len({len(prompt) for prompt in prompts}) != 1:
            raise Failure(f"expected {self.batch} prompts of one length, as loaded, found {[len(p) for p in prompts]}")
        for prompt in prompts:
            self._check(prompt, n)
        spans, profile = OFF, {}
        if request.get("profile") and engine.profiles:
            spans = Spans(engine.sync)
            engine.watch(spans)
        self.held = []
        logits = engine.prefill_batch(prompts)
        engine.sync()
        prefill_end = time.monotonic_ns()
        steps, times, ids = [], [], engine.greedy_batch(logits, len(prompts[0]))
        while len(steps) < n:
            steps.append(next(ids))
            spans.end("sampling")
            times.append(time.monotonic_ns())
            if len(steps) == 1:
                profile["prefill_ns"] = spans.take()
            spans.resume()
        for row in logits:
            self._check_finite(row)
        tokens = [list(sequence) for sequence in zip(*steps)]
        answer = {"type": "generated", "id": request["id"], "tokens": tokens[0], "others": tokens[1:]}
        answer |= {"t_begin_ns": begin, "t_prefill_end_ns": prefill_end, "t_tokens_ns": times}
        if compiled is not None:
            answer["compile_ns"] = self._compiled(before, compiled)
        if spans is not OFF:
            engine.watch(OFF)
            answer["profile"] = {**profile, "decode_ns": spans.take(), "decode_weight_bytes": engine.weight_bytes()}
        return answer

    def _draw(self, settings: dict):
        """`Engine.greedy` with sampling."""
        from .sampling import Sampling

        try:
            sampling = Sampling(**settings)
        except (TypeError, ValueError) as error:
            raise Failure(f"sampling: {error}") from error

        def drawn(logits, position):
            for step in count():
                token = sampling.draw(self.engine.row(logits), step)
                yield token
                logits = self.engine.decode(token, position + step)

        return drawn

    def score(self, request: dict) -> dict:
        """Writes teacher-forced logits, float32 row by row, to the file that the harness names."""
        engine, tokens, begin = self.engine, request["tokens"], time.monotonic_ns()
        first, together = request.get("first", 0), request.get("decode_from")
        together = len(tokens) if together is None else min(together, len(tokens))
        self._check(tokens, 0)
        self.held = []
        size = 0  # counted: a pipe has no position
        with open(request["logits_path"], "wb") as file:
            for part in engine.score(tokens[:together], first) if together else ():
                size += file.write(part)
            for position in range(together, len(tokens)):
                logits = engine.decode(tokens[position], position)
                if position >= first:
                    size += file.write(engine.row(logits))
        end = time.monotonic_ns()
        answer = {"type": "scored", "id": request.get("id"), "positions": size // (4 * engine.vocab), "vocab": engine.vocab}
        return answer | {"decoded": len(tokens) - max(together, first), "t_begin_ns": begin, "t_end_ns": end}

    def encode(self, request: dict) -> dict:
        """One vector for each text of a batch, on the host."""
        engine, before, compiled = self.engine, self._private(), self.engine.compile_ns
        begin = time.monotonic_ns()
        texts = request["texts"]
        if not 1 <= len(texts) <= self.batch:
            raise Failure(f"expected 1 to {self.batch} texts, as loaded, found {len(texts)}")
        for text in texts:
            self._check(text, 0)
        vectors = engine.encode(texts)
        end = time.monotonic_ns()
        rows, columns = vectors.shape
        if not (math.isfinite(vectors.max()) and math.isfinite(vectors.min())):
            raise BadModel("the results are not finite numbers: a weight is not, or what is computed overflows")
        answer = {"type": "encoded", "id": request["id"], "rows": rows, "columns": columns, "t_begin_ns": begin, "t_end_ns": end}
        if compiled is not None:
            answer["compile_ns"] = self._compiled(before, compiled)
        for path, results in ("vectors_path", lambda: vectors), ("hidden_path", lambda: engine.hidden(texts)):
            if request.get(path):
                with open(request[path], "wb") as file:
                    file.write(results().tobytes())
        return answer

    def tokenize(self, request: dict) -> dict:
        """The ids of texts, by a tokenizer that is made before the clock starts."""
        texts = request["texts"]
        self.texts = self.texts or tokenizer.Tokenizer(self.path)
        begin = time.monotonic_ns()
        ids = self.texts.ids(texts)
        end = time.monotonic_ns()
        answer = {"type": "tokenized", "id": request["id"], "counts": [len(text) for text in ids]}
        answer |= {"tokenizer": self.texts.name, "threads": self.texts.threads(texts), "t_begin_ns": begin, "t_end_ns": end}
        return answer | ({"ids": ids} if request.get("ids") else {})

    def memory(self, _request: dict) -> dict:
        """Bytes by the engine's own account, and the growth since `ready`."""
        return {"type": "memory", **self._known(resident_bytes=status("VmRSS"), **self.book.grown())}

    def _known(self, **more: int | None) -> dict[str, int]:
        return {name: size for name, size in {**self.engine.memory(), **more}.items() if size is not None}

    def _check(self, tokens: list[int], room: int) -> None:
        engine = self.engine
        if not tokens or len(tokens) + room > engine.n_ctx:
            raise Failure(f"expected 1 to {engine.n_ctx - room} tokens (n_ctx {engine.n_ctx}), found {len(tokens)}")
        if min(tokens) < 0 or max(tokens) >= engine.vocab:
            raise Failure(f"expected ids from 0 to {engine.vocab - 1}, found {min(tokens)} to {max(tokens)}")

    def _check_finite(self, logits) -> None:
        row = self.engine.row(logits)
        if hasattr(row, "max") and not (math.isfinite(row.max()) and math.isfinite(row.min())):
            raise BadModel("the logits of the prompt are not finite numbers: a weight is not, or what is computed overflows")

    def _private(self) -> int | None:
        """Private memory in use, without the KV cache, which grows when first written."""
        if self.engine.compile_ns is None:
            return None
        in_use, kv = private_in_use(), self.engine.memory().get("kv_resident_bytes")
        kv = 0 if isinstance(self.engine, Encoder) else kv
        return None if in_use is None or kv is None else in_use - kv

    def _compiled(self, before: int | None, compiled: int | None) -> int | None:
        """Nanoseconds of compilation since `compiled`; also records the memory that compilation left."""
        if compiled is None:
            return None
        if self.engine.compile_ns != compiled:
            self.book.compiled(before, self._private())
        return self.engine.compile_ns - compiled
