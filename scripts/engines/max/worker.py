"""LLaMA in MAX: the compiled graph of graph.py, and pages of keys and values that every run writes in place."""

from _shared import CompileFailed, hello, serve

harness = hello("max")

import os
from importlib.metadata import version

import numpy as np
from max.driver import CPU, Buffer
from max.engine import InferenceSession

from _shared.gguf_reader import Gguf
from _shared.graph_engine import CHUNK, GraphEngine
from _shared.spans import Spans
from graph import BLOCKS, PAGE, Llama


class Max(GraphEngine):
    """A model, and one array of pages for all layers. Page i of sequence s is number `s * pages + i`."""

    @staticmethod
    def ready() -> dict:
        """MAX starts a thread for each processor of the set that the harness gives it. Its own setting does not work:
        `InferenceSession(num_threads=…)` ends the process, because the device for it exists already."""
        return {"versions": {"max": version("max")}, "threads": len(os.sched_getaffinity(0))}

    def build(self, file: Gguf, n_ctx: int, stages: Spans) -> None:
        """Compiles the graph, or gets it from MAX's cache, and packs the weights."""
        c, session, llama = self.config, InferenceSession(devices=[CPU()]), Llama(file, self.config)
        stages.end("graph")
        try:
            compiled = session.compile(llama.graph)
        except Exception as error:
            raise CompileFailed(f"MAX does not compile the graph: {error.__cause__ or error}") from error
        stages.end("compile")
        self.model = session.init(compiled, weights_registry=llama.weights)
        self.weight_sizes, self.dequantized = llama.sizes, llama.dequantized
        self.mapped_bytes, self.private_bytes = llama.mapped, llama.private
        for tensor in llama.copied:
            tensor.release()
        stages.end("pack")
        self.pages = -(-n_ctx // PAGE)
        self.caches = {"keys and values": np.zeros([self.batch * self.pages, *llama.cache.shape_per_block], np.float32)}
        self.kv_blocks = Buffer.from_numpy(self.caches["keys and values"])
        self.angles = c.rope(n_ctx).transpose(0, 2, 1).reshape(n_ctx, -1)  # cos and sin of a pair beside each other
        # Kernels read whole vectors from a row of this table, so it is wider than the pages.
        self.table = np.zeros((self.batch, self.pages // 8 * 8 + 24), np.uint32)
        self.table[:, : self.pages] = np.arange(self.batch * self.pages).reshape(self.batch, -1)
        self.packed = np.array([-1], np.int64)  # pages follow one another without gaps
        stages.end("cache")

    def _execute(self, hidden: np.ndarray, rows, past: int, sequences: slice) -> np.ndarray:
        """Runs as many tokens of each of the sequences, all after `past` positions."""
        table, ids = self.table[sequences], lambda *values: np.array(values, np.uint32)
        n, length = len(table), len(hidden) // len(table)
        offsets, lengths = np.arange(n + 1, dtype=np.uint32) * np.uint32(length), np.full(n, past, np.uint32)
        dispatch = np.array([n, length, 1, past + length])
        cache = [self.kv_blocks, self.packed, lengths, table, ids(length), ids(past + length), dispatch]
        return self.model.execute(hidden, np.array(rows), self.angles, offsets, *cache)[0].to_numpy()

    def run(self, hidden: np.ndarray, start: int, rows: range, sequence: int) -> np.ndarray:
        """A part of a prompt."""
        return self._execute(hidden, rows, start, slice(sequence, sequence + 1))

    def step(self, hidden: np.ndarray, position: int) -> np.ndarray:
        """One token of each sequence."""
        return self._execute(hidden, range(self.batch), position, slice(None))

    def facts(self) -> dict:
        """What is multiplied; a decode step reads all of it, and of the embedding only a row."""
        kinds, notes = list(self.weight_sizes), []
        packed = [kind for kind in kinds if kind in BLOCKS]
        floats = [kind.lower() for kind in kinds if kind not in BLOCKS]
        if packed:
            groups = ", ".join(f"in groups of {32 if kind == 'Q4_0' else 256} for {kind}" for kind in packed)
            notes.append(f"MAX multiplies the file's own blocks with int8 activations, {groups}.")
        if self.dequantized:
            notes.append(f"MAX has no product for {', '.join(self.dequantized)}: such weights are rounded to f16 when loaded.")
        if floats and floats != ["f32"]:
            notes.append("A product of 16-bit weights rounds its activations and its result to the type of the weights.")
        narrow = next((kind for kind in ("bf16", "f16") if kind in floats), "f32")
        return {
            "precision": {"weights": "+".join(kind.lower() for kind in kinds), "compute": "int8" if packed else narrow, "kv": "f32"},
            "weight_bytes_per_token": sum(self.weight_sizes.values()),
            "settings": {"attention": "paged", "chunk": CHUNK, "page": PAGE},
            "notes": notes,
        }


serve(harness, Max)
