"""BERT in OpenVINO: the compiled graphs of bert_graph.py."""

import numpy as np
import openvino as ov

from _shared import Encoder
from _shared.bert import BertConfig, normalized, padded
from _shared.gguf_reader import Gguf
from _shared.graph_engine import GraphEngine
from _shared.spans import Spans
from bert_graph import BertGraph


class Bert(Encoder):
    """A compiled model for texts of one length. Those for padded texts and for hidden states are made when needed."""

    @staticmethod
    def prepare(threads: int, options: dict) -> bool:
        """Keeps the number of threads for the models."""
        return GraphEngine.prepare(threads, options)

    def __init__(self, path: str, device: str, n_ctx: int, options: dict):
        stages = Spans(lambda: None)
        file = Gguf(path)
        self.config = c = BertConfig.from_gguf(file)
        self.n_ctx, self.vocab, self.compile_ns = min(n_ctx, c.context), c.vocab, 0
        self.kinds = {tensor.type for tensor in c.weights(file)}
        stages.end("parse")
        self.graph, self.core = BertGraph(file, c, self.n_ctx), ov.Core()
        stages.end("weights")
        self.precision = self._precision()
        self.requests = {False: self._compiled(False)}
        stages.end("compile")
        self.stages = stages.take()

    def _precision(self) -> str:
        """bf16 for 16-bit files if the processor has it."""
        narrow = self.kinds <= {"F16", "BF16"} and "BF16" in self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return "bf16" if narrow else "f32"

    def _compiled(self, masked: bool, states: bool = False) -> ov.InferRequest:
        settings = {"INFERENCE_PRECISION_HINT": self.precision, "INFERENCE_NUM_THREADS": GraphEngine.threads, "NUM_STREAMS": 1}
        return self.core.compile_model(self.graph.model(masked, states), "CPU", settings).create_infer_request()

    def _run(self, texts: list[list[int]], states: bool = False) -> list[np.ndarray]:
        batch = padded(texts)
        masked = not batch.even
        inputs = {"ids": batch.ids.astype(np.int32), "pool": batch.pool(self.config.pooling)[:, None]}
        if masked:
            inputs["mask"] = np.where(batch.real, np.float32(0), np.float32(-1e9))[:, None, None]
        if states:
            request = self._compiled(masked, states=True)
        else:
            request = self.requests.get(masked) or self._first(masked)
        request.infer({name: ov.Tensor(array) for name, array in inputs.items()})
        return [np.array(output.data) for output in request.output_tensors]

    def _first(self, masked: bool) -> ov.InferRequest:
        stage = Spans(lambda: None)
        self.requests[masked] = self._compiled(masked)
        stage.end("compile")
        self.compile_ns += stage.take()["compile"]
        return self.requests[masked]

    def encode(self, texts: list[list[int]]) -> np.ndarray:
        """The texts side by side."""
        vectors = self._run(texts)[0][:, 0]
        return vectors if self.config.labels else normalized(vectors)

    def hidden(self, texts: list[list[int]]) -> np.ndarray:
        """The same in a model of its own."""
        return np.stack(self._run(texts, states=True)[1:])[:, padded(texts).real]

    def facts(self) -> dict:
        """Types, and what was rounded."""
        notes, packed = [], self.kinds == {"Q8_0"}
        if packed:
            notes.append("The CPU plugin multiplies int8 activations, in groups of 32, with the file's own integers and float32 scales.")
        label = "q8_0" if packed else self.precision
        return {
            "precision": {"weights": label, "compute": "int8" if packed else self.precision, "kv": "none"},
            "settings": {"INFERENCE_PRECISION_HINT": self.precision},
            "notes": notes,
        }
