"""An engine over one graph of a runtime: hidden states of some tokens go in, logits of the wanted rows come out.

What such engines have in common is here: a prompt in parts, teacher-forced scores, several sequences, and rows of the
embedding straight from the file, which needs no graph.
"""

import hashlib
import os
import platform
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from .dequant import dequantize
from .engine import Engine
from .gguf_reader import Gguf
from .llama import Config
from .memory import in_memory
from .spans import Spans

CHUNK = 256  # positions of a prompt that run together: limits the memory for attention and scores
FLOATS = ("F32", "F16", "BF16")


class GraphEngine(Engine):
    """A runtime implements `build`, `run` and `step`, and describes its weights in `facts`."""

    features = (*Engine.features, "batch")
    batch = 1
    threads = 1
    caches: dict[str, np.ndarray]  # keys and values by name, written by every run
    weight_sizes: dict[str, int]  # bytes that a decode step reads, by the type of the weights in the file
    mapped_bytes: int  # of weights, in mapped files
    private_bytes: int  # of weights, with copies that are held and not read

    def build(self, file: Gguf, n_ctx: int, stages: Spans) -> None:
        """Makes what runs, and the caches; ends the stages of loading."""
        raise NotImplementedError

    def run(self, hidden: np.ndarray, start: int, rows: range, sequence: int) -> np.ndarray:
        """A part `[tokens, dim]` of the prompt of a sequence, from position `start` on; returns logits `[rows, vocab]`."""
        raise NotImplementedError

    def step(self, hidden: np.ndarray, position: int) -> np.ndarray:
        """One token of each sequence, `[batch, dim]`; returns logits `[batch, vocab]`, valid until the next step."""
        raise NotImplementedError

    @classmethod
    def prepare(cls, threads: int, options: dict) -> bool:
        """Keeps the number of threads for `build`."""
        GraphEngine.threads = threads
        return False

    @classmethod
    def batched(cls, batch: int, device: str) -> type[Engine]:
        """The same with a cache for each sequence."""
        return type(cls.__name__, (cls,), {"batch": batch})

    def __init__(self, path: str, device: str, n_ctx: int, options: dict):
        stages = Spans(self.sync)
        file = Gguf(path)
        self.config, self.embedding = Config.from_gguf(file), file.tensor("token_embd.weight")
        self.n_ctx, self.vocab = n_ctx, self.config.vocab
        stages.end("parse")
        self.build(file, n_ctx, stages)
        self.stages = stages.take()

    def lookup(self, ids: list[int]) -> np.ndarray:
        """Rows of the embedding, float32 `[ids, dim]`."""
        return dequantize(replace(self.embedding, rows=len(ids), raw=self.embedding.raw[ids]))

    def _parts(self, tokens: list[int], start: int):
        """The hidden states of each part of a prompt, with the position of its first token."""
        for first in range(0, len(tokens), CHUNK):
            yield start + first, self.lookup(tokens[first : first + CHUNK])

    def prefill(self, tokens: list[int], start: int, sequence: int = 0) -> np.ndarray:
        """Logits `[vocab]` of the last position."""
        for first, hidden in self._parts(tokens, start):
            logits = self.run(hidden, first, range(len(hidden) - 1, len(hidden)), sequence)
        return logits[0]

    def decode(self, token: int, position: int) -> np.ndarray:
        """Logits `[vocab]` after one token."""
        return self.step(self.lookup([token]), position)[0]

    def score(self, tokens: list[int], first: int):
        """Logits of positions `first`…, some rows at a time."""
        for start, hidden in self._parts(tokens, 0):
            wanted = max(first - start, 0)
            rows = range(min(wanted, len(hidden) - 1), len(hidden))
            yield self.run(hidden, start, rows, 0)[wanted - rows.start :]

    def prefill_batch(self, prompts: list[list[int]]) -> np.ndarray:
        """Logits `[batch, vocab]` of the last positions, prompt by prompt."""
        return np.stack([self.prefill(prompt, 0, i) for i, prompt in enumerate(prompts)])

    def greedy_batch(self, logits: np.ndarray, position: int):
        """One id of each sequence, step by step."""
        while True:
            tokens = logits.argmax(-1).tolist()
            yield tokens
            logits = self.step(self.lookup(tokens), position)
            position += 1

    def memory(self) -> dict[str, int | None]:
        """Bytes of weights, mapped or private, and of the caches."""
        resident = [in_memory(cache.ctypes.data, cache.nbytes) for cache in self.caches.values()]
        return {
            "weights_mapped_bytes": self.mapped_bytes,
            "weights_private_bytes": self.private_bytes,
            "kv_bytes": sum(cache.nbytes for cache in self.caches.values()),
            "kv_resident_bytes": None if None in resident else sum(resident),
        }


def processor() -> str:
    """A name for this kind of processor: weights that are packed for one are wrong on another."""
    text = platform.machine() + platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            text += "".join(sorted({line for line in file if line.startswith(("model", "cpu family", "flags", "Features"))}))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@contextmanager
def unfinished(folder: str, room: int):
    """A folder to fill, which gets the name `folder` once that is done; None without a name, or if the disk has less
    than `room` bytes free. If another process was faster, its folder stays."""
    if folder:
        os.makedirs(os.path.dirname(folder), exist_ok=True)
    if not folder or shutil.disk_usage(os.path.dirname(folder)).free < room:
        yield None
        return
    place = tempfile.mkdtemp(dir=os.path.dirname(folder))
    try:
        yield place
        os.rename(place, folder)
    except OSError:
        if not os.path.isdir(folder):
            raise
    finally:
        shutil.rmtree(place, ignore_errors=True)
