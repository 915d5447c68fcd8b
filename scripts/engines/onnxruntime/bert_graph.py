"""The ONNX graph of a BERT, made from a GGUF file, in the fused operators of ONNX Runtime's own optimizer for BERT.

Inputs: `ids` `[batch, T]`, the `lengths` of the texts, and the weights `pool` `[batch, 1, T]` of their tokens in the
result. Output: `vectors` `[batch, 1, columns]`, not divided by their length.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from onnx import TensorProto, helper

from _shared.bert import BertConfig
from _shared.dequant import dequantize
from _shared.gguf_reader import Gguf, Tensor
from _shared.nbits import layout, pack
from graph import outside

FLOAT, INT32 = TensorProto.FLOAT, TensorProto.INT32


class BertGraph:
    """The nodes, and the constants by name. `int8`: products of Q8_0 weights, which round the hidden states.

    Dynamic quantization (`QAttention` with `DynamicQuantizeMatMul`) has one scale for the states of a whole batch. On
    MiniLM it gave vectors with a cosine of 0.978 to 0.993 to those in float32, too far off to stand beside the others.
    """

    def __init__(self, file: Gguf, config: BertConfig, n_ctx: int, int8: bool, threads: int, states: bool = False):
        """`states`: also gives the hidden states, as `state0`…"""
        self.file, self.config, self.int8 = file, config, int8
        self.nodes: list = []
        self.pending: dict[str, tuple[Tensor, ...]] = {}  # weights that are multiplied, stacked by rows
        self.constants: dict[str, np.ndarray] = {}
        self.states = [f"state{i}" for i in range(config.layers + 1)] if states else []
        self._build(n_ctx)
        with ThreadPoolExecutor(threads) as pool:
            for found in pool.map(self._packed, self.pending.items()):
                self.constants |= found

    def _node(self, kind: str, inputs: list[str], *outputs: str, domain: str = "com.microsoft", **attributes) -> str:
        outputs = outputs or (f"{kind}_{len(self.nodes)}",)
        self.nodes.append(helper.make_node(kind, inputs, outputs, domain=domain, **attributes))
        return outputs[0]

    def _vector(self, *tensors: Tensor) -> str:
        """Biases of some products, one after the other, or a norm."""
        self.constants[tensors[0].name] = np.concatenate([dequantize(tensor)[0] for tensor in tensors])
        return tensors[0].name

    def _build(self, n_ctx: int) -> None:
        c, found = self.config, self.config.embeddings(self.file)
        self.constants |= {"tokens": dequantize(found["token_embd"]), "first": c.first(self.file, n_ctx)}
        norm = [self._vector(found["token_embd_norm"]), self._vector(found["token_embd_norm.bias"])]
        inputs = ["ids", "", "tokens", "first", "", *norm]
        x = self._node("EmbedLayerNormalization", inputs, "state0", "unused", epsilon=c.eps)
        for i in range(c.layers):
            t = c.block(self.file, i)
            x = self._norm(self._product(self._attention(x, t), t["attn_output"]), x, t, "attn_output", "attn_output_norm")
            up = self._node("BiasGelu", [self._product(x, t["ffn_up"]), self._vector(t["ffn_up.bias"])])
            x = self._norm(self._product(up, t["ffn_down"]), x, t, "ffn_down", "layer_output_norm", f"state{i + 1}")
        pooled = self._node("MatMul", ["pool", x], *(() if c.labels else ("vectors",)), domain="")
        if c.labels:
            t = c.classifier(self.file)
            inner = self._dense(pooled, t, "cls")
            active = self._node({"tanh": "Tanh", "relu": "Relu"}[c.activation], [inner], domain="")
            self._dense(active, t, "cls.output", "vectors")

    def _norm(self, y: str, x: str, t: dict[str, Tensor], linear: str, norm: str, *output: str) -> str:
        """The norm of the sum of a product, its bias and the residual stream."""
        vectors = [self._vector(t[name]) for name in (norm, f"{norm}.bias", f"{linear}.bias")]
        return self._node("SkipLayerNormalization", [y, x, *vectors], *output, epsilon=self.config.eps)

    def _attention(self, x: str, t: dict[str, Tensor]) -> str:
        """Attention of whole texts, with the products for queries, keys and values."""
        names, heads = ("attn_q", "attn_k", "attn_v"), self.config.heads
        tensors, bias = [t[name] for name in names], self._vector(*(t[f"{name}.bias"] for name in names))
        if not self.int8:
            return self._node("Attention", [x, self._weight(*tensors), bias, "lengths"], num_heads=heads)
        parts = [f"{x}.{name}" for name in names]
        self._node("Split", [self._product(x, *tensors)], *parts, domain="", axis=-1, num_outputs=3)
        return self._node("MultiHeadAttention", [*parts, bias, "lengths"], num_heads=heads)

    def _product(self, x: str, *tensors: Tensor) -> str:
        weight = self._weight(*tensors)
        if not self.int8:
            return self._node("MatMul", [x, weight], domain="")
        form = layout(tensors)
        sizes = {"N": form.rows, "K": tensors[0].cols, "bits": form.bits, "block_size": form.group}
        return self._node("MatMulNBits", [x, weight, f"{weight}.scale"], accuracy_level=4, **sizes)

    def _dense(self, x: str, t: dict[str, Tensor], name: str, *output: str) -> str:
        """A layer of the classifier, which is small: in float32."""
        self.constants[t[name].name] = np.ascontiguousarray(dequantize(t[name]).T)
        product = self._node("MatMul", [x, t[name].name], domain="")
        return self._node("Add", [product, self._vector(t[f"{name}.bias"])], *output, domain="")

    def _weight(self, *tensors: Tensor) -> str:
        self.pending[tensors[0].name] = tensors
        return tensors[0].name

    def _packed(self, item: tuple[str, tuple[Tensor, ...]]) -> dict[str, np.ndarray]:
        """Float weights as `[cols, rows]`, or the file's integers with their scales."""
        name, tensors = item
        if not self.int8:
            return {name: np.ascontiguousarray(np.concatenate([dequantize(tensor) for tensor in tensors]).T)}
        form = layout(tensors)
        q, scale = np.empty((form.rows, form.row_bytes), np.uint8), np.empty((form.rows, form.groups), np.float32)
        pack(tensors, q, scale, None)
        return {name: q.reshape(form.rows, form.groups, -1), f"{name}.scale": scale}

    def model(self) -> bytes:
        """The graph as a file without the values of the constants."""
        c, value = self.config, helper.make_tensor_value_info
        inputs = [value("ids", INT32, ["batch", "T"]), value("lengths", INT32, ["batch"]), value("pool", FLOAT, ["batch", 1, "T"])]
        outputs = [value("vectors", FLOAT, ["batch", 1, c.labels or c.dim])]
        outputs += [value(name, FLOAT, ["batch", "T", c.dim]) for name in self.states]
        graph = helper.make_graph(self.nodes, "bert", inputs, outputs, [outside(*item) for item in self.constants.items()])
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
