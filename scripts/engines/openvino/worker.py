"""LLaMA in OpenVINO: the compiled graph of graph.py, and pages of keys and values that every run writes in place.

The plugin's own cache of compiled models cannot serve here: a model that it leaves loses what paged attention must
know of its heads, and does not load.
"""

from _shared import hello, serve

harness = hello("openvino")

import os
import sys

# As if it were not installed: otherwise the import of openvino writes into the user's home and sends statistics.
sys.modules["openvino_telemetry"] = None

import numpy as np
import openvino as ov

from _shared.gguf_reader import Gguf
from _shared.graph_engine import CHUNK, FLOATS, GraphEngine
from _shared.nbits import notes_on_offsets
from _shared.spans import Spans
from bert import Bert
from graph import PAGE, PAGES, Graph


class OpenVino(GraphEngine):
    """A compiled model, and caches `[pages, kv_heads, page, head_dim]` of keys and of values for each layer.

    The pages of sequence i begin at i times the pages of one sequence.
    """

    @staticmethod
    def ready() -> dict:
        """The harness states the number of threads in the environment before `load` does."""
        version = ov.get_version().split("-")[0]
        return {"versions": {"openvino": version}, "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count()))}

    def build(self, file: Gguf, n_ctx: int, stages: Spans) -> None:
        """Compiles the graph and runs one token, in which the plugin packs the weights for its products."""
        core = ov.Core()
        self.precision = self._precision(core, file)
        graph = Graph(file, self.config, n_ctx, self.precision == "bf16")
        graph.fill(self.threads)
        stages.end("weights")
        given = graph.sizes()
        wider = {"F16": 2, "BF16": 2} if self.precision == "f32" else {}
        self.weight_sizes = {kind: size * wider.get(kind, 1) for kind, size in given.items()}
        self.options = {"INFERENCE_PRECISION_HINT": self.precision, "KV_CACHE_PRECISION": self.precision}
        settings = {**self.options, "INFERENCE_NUM_THREADS": self.threads, "NUM_STREAMS": 1}
        compiled = core.compile_model(graph.model, "CPU", settings)
        # The plugin keeps what it was given beside what it packs.
        self.mapped_bytes, self.private_bytes = 0, sum(given.values()) + sum(self.weight_sizes.values())
        stages.end("compile")
        self.request, self.pages, self.caches = compiled.create_infer_request(), -(-n_ctx // PAGE), {}
        for name in (f"{name}{i}" for i in range(self.config.layers) for name in ("keys", "values")):
            port = compiled.input(name)
            shape = [self.batch * self.pages, *(size.get_length() for size in list(port.partial_shape)[1:])]
            self.caches[name] = np.zeros([*shape, port.element_type.size], np.uint8)
            self.request.set_tensor(name, ov.Tensor(self.caches[name], shape, port.element_type))
        self.step(self.lookup([0] * self.batch), 0)
        stages.end("pack")

    @staticmethod
    def _precision(core: ov.Core, file: Gguf) -> str:
        """float32 beside int8 products, which a narrower type does not speed up; bf16 for 16-bit files if there is any."""
        dense = {tensor.type for tensor in file.tensors.values() if tensor.rows > 1} <= {"F16", "BF16"}
        return "bf16" if dense and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"

    def _infer(self, hidden: np.ndarray, rows, positions, begins, past: int, first: int) -> np.ndarray:
        """Runs tokens of the sequences from `first` on, each after `past` positions; `begins` is where each begins."""
        n, total = len(begins) - 1, past + begins[1]
        used = -(-total // PAGE)
        pages = (np.arange(first, first + n)[:, None] * self.pages + np.arange(used)).ravel()
        inputs = dict(zip(PAGES, ([past] * n, begins, pages, np.arange(n + 1) * used)))
        inputs |= {"rows": rows, "positions": positions, "max_context_len": total}
        self.request.set_tensor("x", ov.Tensor(hidden))
        for name, values in inputs.items():
            self.request.set_tensor(name, ov.Tensor(np.array(values, np.int32)))
        self.request.infer()
        return self.request.get_tensor("logits").data

    def run(self, hidden: np.ndarray, start: int, rows: range, sequence: int) -> np.ndarray:
        """A part of a prompt."""
        n = len(hidden)
        return self._infer(hidden, rows, range(start, start + n), [0, n], start, sequence).copy()

    def step(self, hidden: np.ndarray, position: int) -> np.ndarray:
        """One token of each sequence."""
        each = range(self.batch)
        return self._infer(hidden, each, [position] * self.batch, range(self.batch + 1), position, 0)

    def facts(self) -> dict:
        """What is multiplied; a decode step reads all of it, and of the embedding only a row."""
        kinds, notes = self.weight_sizes, []
        packed = [kind.lower() for kind in kinds if kind not in FLOATS]
        if packed:
            notes.append(
                "The CPU plugin multiplies int8 activations, in groups of 32, with the file's own integers and float32 scales; "
                "weights with groups of 16 (Q6_K) it multiplies with float32 activations."
            )
        notes += notes_on_offsets(kinds)
        labels = packed + [self.precision] * (len(packed) < len(kinds))
        return {
            "precision": {"weights": "+".join(labels), "compute": "int8" if packed else self.precision, "kv": self.precision},
            "weight_bytes_per_token": sum(kinds.values()),
            "settings": {"attention": "paged", "chunk": CHUNK, **self.options},
            "notes": notes,
        }


serve(harness, OpenVino, Bert)
