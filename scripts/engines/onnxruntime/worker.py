"""LLaMA in ONNX Runtime: the session over the graph of graph.py, and caches that every run writes in place."""

from _shared import CompileFailed, hello, serve

harness = hello("onnxruntime")

import os

import numpy as np
import onnxruntime as ort

from _shared.gguf_reader import Gguf
from _shared.graph_engine import CHUNK, FLOATS, GraphEngine, processor, unfinished
from _shared.nbits import notes_on_offsets
from _shared.spans import Spans
from bert import Bert
from graph import Graph

FOLDER = "LLM_BENCH_ONNX_CACHE"  # names the folder for graphs with weights that a session has packed
SAVING = {
    "session.save_external_prepacked_constant_initializers": "1",
    "session.optimized_model_external_initializers_file_name": "weights.bin",
    "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
}

ROOM = 10  # the folder gets weights only if the disk has so many times their size free
PROVIDERS = ["CPUExecutionProvider"]

value = ort.OrtValue.ortvalue_from_numpy  # shares the memory of the array


class OnnxRuntime(GraphEngine):
    """A session, and caches `[batch, kv_heads, n_ctx, head_dim]` of keys and of values for each layer."""

    @staticmethod
    def ready() -> dict:
        """The harness states the number of threads in the environment before `load` does."""
        return {"versions": {"onnxruntime": ort.__version__}, "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count()))}

    def build(self, file: Gguf, n_ctx: int, stages: Spans) -> None:
        """The session, and a binding of inputs and outputs for each sequence and for one step of all."""
        c = self.config
        graph = Graph(file, c, n_ctx)
        self.weight_sizes = graph.sizes()
        self.session = self._session(graph, os.environ.get(FOLDER), stages)
        total = sum(self.weight_sizes.values())
        self.mapped_bytes = total if self.cached else self.weight_sizes.get("F32", 0)  # those stay in the GGUF's map
        self.private_bytes = 0 if self.cached else total - self.mapped_bytes + graph.scale_bytes()
        shape, names = (self.batch, c.kv_heads, n_ctx, c.head_dim), ("keys", "values")
        self.caches = {f"{name}{i}": np.zeros(shape, np.float32) for i in range(c.layers) for name in names}
        self.prompts = [self._binding(slice(i, i + 1)) for i in range(self.batch)]
        self.all = self._binding(slice(None))
        self.x, self.logits = np.empty((self.batch, 1, c.dim), np.float32), np.empty((self.batch, 1, c.vocab), np.float32)
        self.last, self.total = np.empty(self.batch, np.int32), np.empty((), np.int32)
        self._bind(self.all, self.x, np.zeros(1, np.int64), self.last, self.total, self.logits)
        stages.end("cache")

    def _session(self, graph: Graph, folder: str | None, stages: Spans) -> ort.InferenceSession:
        """With a folder the session comes from there, or leaves its packed weights there for the next load."""
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        # Packed float weights would be a second copy of four bytes each, in memory and on the disk.
        floats = self.weight_sizes.keys() <= {*FLOATS}
        options.add_session_config_entry("session.disable_prepacking", "1" if floats else "0")
        packed = os.path.join(folder, f"packed-{processor()}") if folder and not floats else ""
        self.cached = os.path.isdir(packed)
        if self.cached:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # it was optimized when saved
            try:
                session = ort.InferenceSession(os.path.join(packed, "model.onnx"), options, providers=PROVIDERS)
            except Exception as error:
                raise CompileFailed(f"{packed} is damaged ({str(error)[:300]}): remove it, the next load makes it anew") from error
            stages.end("session")
            return session
        constants = graph.constants(self.threads)
        stages.end("weights")
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        if floats:  # the session uses their memory; what it packs, it copies
            self.constants = constants
            options.add_session_config_entry("session.use_external_initializer_file_buffers_directly", "1")
            arrays = [array.reshape(-1).view(np.uint8) for array in constants.values()]
            options.add_external_initializers_from_files_in_memory(list(constants), arrays, [array.nbytes for array in arrays])
        else:
            options.add_external_initializers(list(constants), [value(array) for array in constants.values()])
        with unfinished(packed, ROOM * sum(self.weight_sizes.values())) as place:
            if place:
                options.optimized_model_filepath = os.path.join(place, "model.onnx")
                for key, text in SAVING.items():
                    options.add_session_config_entry(key, text)
            session = ort.InferenceSession(graph.model(constants), options, providers=PROVIDERS)
        stages.end("session")
        return session

    def _binding(self, sequences: slice) -> ort.IOBinding:
        """The caches of some sequences as inputs and outputs."""
        binding = self.session.io_binding()
        for name, cache in self.caches.items():
            binding.bind_ortvalue_input(name, value(cache[sequences]))
            binding.bind_ortvalue_output(f"new_{name}", value(cache[sequences]))
        return binding

    @staticmethod
    def _bind(binding: ort.IOBinding, x, rows, last, total, logits) -> None:
        for name, array in {"x": x, "rows": rows, "last": last, "total": total}.items():
            binding.bind_ortvalue_input(name, value(array))
        binding.bind_ortvalue_output("logits", value(logits))

    def run(self, hidden: np.ndarray, start: int, rows: range, sequence: int) -> np.ndarray:
        """A part of a prompt, with arrays of its own."""
        end, logits = start + len(hidden), np.empty((1, len(rows), self.vocab), np.float32)
        last, total = np.array([end - 1], np.int32), np.array(end, np.int32)
        self._bind(self.prompts[sequence], hidden[None], np.array(rows, np.int64), last, total, logits)
        self.session.run_with_iobinding(self.prompts[sequence])
        return logits[0]

    def step(self, hidden: np.ndarray, position: int) -> np.ndarray:
        """One token of each sequence, in arrays that stay bound."""
        self.x[:, 0], self.last[:], self.total[...] = hidden, position, position + 1
        self.session.run_with_iobinding(self.all)
        return self.logits[:, 0]

    def facts(self) -> dict:
        """What is multiplied; a decode step reads all of it, and of the embedding only a row."""
        kinds = self.weight_sizes
        labels = dict.fromkeys("f32" if kind in FLOATS else kind.lower() for kind in kinds)
        packed, notes = [label for label in labels if label != "f32"], []
        if packed:
            notes.append(
                "MatMulNBits at accuracy level 4 multiplies int8 activations with the file's own integers, in 4 or 8 bits; "
                "each group has two float32 beside it, its scale and the kernel's correction."
            )
        notes += notes_on_offsets(kinds)
        if not {"F16", "BF16"}.isdisjoint(kinds):
            notes.append("ONNX Runtime has no 16-bit products on x86: 16-bit weights are multiplied as float32.")
        return {
            "precision": {"weights": "+".join(labels), "compute": "int8" if packed else "f32", "kv": "f32"},
            "weight_bytes_per_token": sum(kinds.values()),
            "settings": {"accuracy_level": 4, "chunk": CHUNK},
            "notes": notes,
        }


serve(harness, OnnxRuntime, Bert)
