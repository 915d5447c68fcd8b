"""BERT in ONNX Runtime: the session over the graph of bert_graph.py."""

import numpy as np
import onnxruntime as ort

from _shared import Encoder
from _shared.bert import PRECISION, BertConfig, normalized, padded
from _shared.gguf_reader import Gguf
from _shared.graph_engine import GraphEngine
from _shared.spans import Spans
from bert_graph import BertGraph


class Bert(Encoder):
    """A session for vectors. The one for hidden states is made when somebody asks for them."""

    @staticmethod
    def prepare(threads: int, options: dict) -> bool:
        """Keeps the number of threads for the session."""
        return GraphEngine.prepare(threads, options)

    def __init__(self, path: str, device: str, n_ctx: int, options: dict):
        stages = Spans(lambda: None)
        self.file = Gguf(path)
        self.config = c = BertConfig.from_gguf(self.file)
        self.n_ctx, self.vocab = min(n_ctx, c.context), c.vocab
        self.kinds = {tensor.type for tensor in c.weights(self.file)}
        self.int8 = self.kinds == {"Q8_0"}
        stages.end("parse")
        graph = self._graph()
        stages.end("weights")
        self.session = self._session(graph)
        stages.end("session")
        self.stages = stages.take()

    def _graph(self, states: bool = False) -> BertGraph:
        return BertGraph(self.file, self.config, self.n_ctx, self.int8, GraphEngine.threads, states)

    def _session(self, graph: BertGraph) -> ort.InferenceSession:
        options, constants = ort.SessionOptions(), graph.constants
        options.intra_op_num_threads, options.inter_op_num_threads = GraphEngine.threads, 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        values = [ort.OrtValue.ortvalue_from_numpy(array) for array in constants.values()]
        options.add_external_initializers(list(constants), values)
        self.weight_bytes = sum(array.nbytes for array in constants.values())
        return ort.InferenceSession(graph.model(), options, providers=["CPUExecutionProvider"])

    def _inputs(self, texts: list[list[int]]) -> dict[str, np.ndarray]:
        batch = padded(texts)
        pool = batch.pool(self.config.pooling)[:, None]
        return {"ids": batch.ids.astype(np.int32), "lengths": batch.lengths.astype(np.int32), "pool": pool}

    def encode(self, texts: list[list[int]]) -> np.ndarray:
        """The texts side by side."""
        (vectors,) = self.session.run(["vectors"], self._inputs(texts))
        return vectors[:, 0] if self.config.labels else normalized(vectors[:, 0])

    def hidden(self, texts: list[list[int]]) -> np.ndarray:
        """The same in a session of its own."""
        graph = self._graph(states=True)
        states = self._session(graph).run(graph.states, self._inputs(texts))
        return np.stack(states)[:, padded(texts).real]

    def facts(self) -> dict:
        """Types, and what was rounded."""
        notes = []
        if self.int8:
            notes.append(
                "MatMulNBits at accuracy level 4 multiplies int8 activations with the file's own integers in 8 bits. Attention "
                "and norms are float32. Dynamic quantization is left out: one scale for a whole batch costs too much accuracy."
            )
        elif self.kinds != {"F32"}:
            notes.append("Weights other than Q8_0 are multiplied as float32.")
        return {
            "precision": {"weights": "q8_0", "compute": "int8", "kv": "none"} if self.int8 else PRECISION,
            "settings": {"accuracy_level": 4} if self.int8 else {},
            "notes": notes,
        }

    def memory(self) -> dict[str, int | None]:
        """Bytes of the constants; the session packs the weights among them."""
        return {"weights_mapped_bytes": 0, "weights_private_bytes": self.weight_bytes}
