"""The ONNX graph of a LLaMA, made from a GGUF file: MatMulNBits over the file's own integers, and attention with
its cache in one node.

Inputs: hidden states `x` `[batch, T, dim]`, the `rows` of them whose logits are wanted, the cache, the `last` position
of each sequence and the `total` number of positions. Outputs: `logits` `[batch, rows, vocab]`, and the cache in place.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from onnx import TensorProto, helper

from _shared.dequant import dequantize
from _shared.gguf_reader import Gguf, Tensor
from _shared.graph_engine import FLOATS
from _shared.llama import Config
from _shared.nbits import layout, pack

FLOAT = TensorProto.FLOAT


class Graph:
    """The nodes, and where their constants come from."""

    def __init__(self, file: Gguf, config: Config, n_ctx: int):
        self.file, self.config, self.n_ctx = file, config, n_ctx
        self.nodes: list = []
        self.weights: dict[str, tuple[Tensor, ...]] = {}  # tensors of one type, stacked by rows
        self.vectors: list[Tensor] = []
        self._layers()

    def _node(self, kind: str, inputs: list[str], *outputs: str, domain: str = "", **attributes) -> str:
        outputs = outputs or (f"{kind}_{len(self.nodes)}",)
        self.nodes.append(helper.make_node(kind, inputs, outputs, domain=domain, **attributes))
        return outputs[0]

    def _contrib(self, *arguments, **attributes) -> str:
        return self._node(*arguments, domain="com.microsoft", **attributes)

    def _layers(self) -> None:
        c = self.config
        x, mixed = "x", None
        for i in range(c.layers):
            t = c.block(self.file, i)
            x, h = self._norm(x, mixed, t["attn_norm"])
            qkv = self._linear(f"qkv{i}", h, t["attn_q"], t["attn_k"], t["attn_v"])
            qkv += [""] * (3 - len(qkv))
            inputs = [*qkv, f"keys{i}", f"values{i}", "last", "total", "cos", "sin"]
            outputs = f"attended{i}", f"new_keys{i}", f"new_values{i}"
            sizes = {"num_heads": c.heads, "kv_num_heads": c.kv_heads, "do_rotary": 1, "rotary_interleaved": 1}
            attended = self._contrib("GroupQueryAttention", inputs, *outputs, **sizes)
            if i == c.layers - 1:  # nothing after this attention needs the other rows
                x, attended = (self._node("Gather", [a, "rows"], axis=1) for a in (x, attended))
            (mixed,) = self._linear(f"output{i}", attended, t["attn_output"])
            x, h = self._norm(x, mixed, t["ffn_norm"])
            gate_up = self._linear(f"gate_up{i}", h, t["ffn_gate"], t["ffn_up"])
            if len(gate_up) == 1:
                halves = f"gate{i}", f"up{i}"
                self._node("Split", gate_up, *halves, axis=2, num_outputs=2)
                gate_up = halves
            silu = self._contrib("QuickGelu", [gate_up[0]], alpha=1.0)
            (mixed,) = self._linear(f"down{i}", self._node("Mul", [silu, gate_up[1]]), t["ffn_down"])
        _, h = self._norm(x, mixed, self.file.tensor("output_norm.weight", (1, c.dim)))
        head = self.file.tensor("token_embd.weight" if c.tied else "output.weight", (c.vocab, c.dim))
        self._linear("logits", h, head)

    def _norm(self, x: str, mixed: str | None, weight: Tensor) -> tuple[str, str]:
        """The residual stream with `mixed` added, and its RMS norm."""
        self.vectors.append(weight)
        if mixed is None:
            return x, self._node("SimplifiedLayerNormalization", [x, weight.name], epsilon=self.config.eps, axis=-1)
        normed, total = f"normed_{len(self.nodes)}", f"sum_{len(self.nodes)}"
        outputs = normed, "", "", total
        self._contrib("SkipSimplifiedLayerNormalization", [x, mixed, weight.name], *outputs, epsilon=self.config.eps)
        return total, normed

    def _linear(self, name: str, x: str, *tensors: Tensor) -> list[str]:
        """The products with `tensors`: one output for all of them if their types agree, otherwise one for each."""
        kinds = {t.type for t in tensors}
        if len(kinds) > 1 or (len(tensors) > 1 and kinds <= {*FLOATS}):
            return [self._linear(f"{name}_{j}", x, tensor)[0] for j, tensor in enumerate(tensors)]
        self.weights[name] = tensors
        if kinds <= {*FLOATS}:
            return [self._contrib("FusedMatMul", [x, f"{name}.weight"], name, transB=1)]
        form = layout(tensors)
        sizes = {"N": form.rows, "K": tensors[0].cols, "bits": form.bits, "block_size": form.group}
        inputs, product = [x, f"{name}.q", f"{name}.scale"], f"{name}.product" if form.offset else name
        self._contrib("MatMulNBits", inputs, product, accuracy_level=4, **sizes)
        if form.offset:  # the operator has no zero point between integers, so offsets meet the sums of groups
            grouped = self._node("Reshape", [x, self._integers(0, 0, form.groups, form.group)])
            sums = self._node("ReduceSum", [grouped, self._integers(3)], keepdims=0)
            self._node("Add", [product, self._node("MatMul", [sums, f"{name}.offset"])], name)
        return [name]

    def _integers(self, *values: int) -> str:
        return self._node("Constant", [], value_ints=values)

    def sizes(self) -> dict[str, int]:
        """Bytes of the weights as they are multiplied, by type: integers, and a scale and a correction for each group."""
        sizes: dict[str, int] = {}
        for tensors in self.weights.values():
            kind, size = tensors[0].type, sum(4 * t.rows * t.cols for t in tensors)
            if kind not in FLOATS:
                form = layout(tensors)
                size = form.rows * (form.row_bytes + form.groups * 4 * (3 if form.offset else 2))
            sizes[kind] = sizes.get(kind, 0) + size
        return sizes

    def scale_bytes(self) -> int:
        """Bytes of the scales as `constants` has them; a session holds them beside those that it packs."""
        forms = [layout(tensors) for tensors in self.weights.values() if tensors[0].type not in FLOATS]
        return sum(4 * form.rows * form.groups for form in forms)

    def constants(self, threads: int) -> dict[str, np.ndarray]:
        """The weights as the operators take them, by name."""
        angles = self.config.rope(self.n_ctx)
        found = {"cos": np.ascontiguousarray(angles[:, 0]), "sin": np.ascontiguousarray(angles[:, 1])}
        found |= {tensor.name: dequantize(tensor)[0] for tensor in self.vectors}
        largest_first = sorted(self.weights, key=lambda name: -sum(t.rows * t.cols for t in self.weights[name]))
        with ThreadPoolExecutor(threads) as pool:
            for parts in pool.map(self._packed, largest_first):
                found |= parts
        return found

    def _packed(self, name: str) -> dict[str, np.ndarray]:
        tensors = self.weights[name]
        if tensors[0].type in FLOATS:
            (tensor,) = tensors
            dense = dequantize(tensor)
            if tensor.type != "F32":  # that stays in the file's map
                tensor.release()
            return {f"{name}.weight": dense}
        form = layout(tensors)
        q, scale = np.empty((form.rows, form.row_bytes), np.uint8), np.empty((form.rows, form.groups), np.float32)
        offset = np.empty_like(scale) if form.offset else None
        pack(tensors, q, scale, offset)
        found = {f"{name}.q": q.reshape(form.rows, form.groups, -1), f"{name}.scale": scale}
        return found if offset is None else found | {f"{name}.offset": np.ascontiguousarray(offset.T)}

    def model(self, constants: dict[str, np.ndarray]) -> bytes:
        """The graph as a file without the values of the constants."""
        c, value = self.config, helper.make_tensor_value_info
        inputs = [value("x", FLOAT, ["batch", "T", c.dim]), value("rows", TensorProto.INT64, ["rows"])]
        inputs += [value("last", TensorProto.INT32, ["batch"]), value("total", TensorProto.INT32, [])]
        outputs = [value("logits", FLOAT, ["batch", "rows", c.vocab])]
        for name in (f"{name}{i}" for i in range(c.layers) for name in ("keys", "values")):
            cache = ["batch", c.kv_heads, self.n_ctx, c.head_dim]
            inputs.append(value(name, FLOAT, cache))
            outputs.append(value(f"new_{name}", FLOAT, cache))
        graph = helper.make_graph(self.nodes, "llama", inputs, outputs, [outside(*item) for item in constants.items()])
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def outside(name: str, values: np.ndarray) -> TensorProto:
    """A constant whose values the session gets beside the graph, as a file of its own in memory."""
    tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(values.dtype), dims=values.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in {"location": name, "offset": "0", "length": str(values.nbytes)}.items():
        tensor.external_data.add(key=key, value=text)
    return tensor
