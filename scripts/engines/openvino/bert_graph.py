"""The OpenVINO graph of a BERT, made from a GGUF file, in the forms that the CPU plugin fuses.

Inputs: `ids` `[batch, T]`, the weights `pool` `[batch, 1, T]` of the tokens in the result and, if asked for, what `mask`
`[batch, 1, 1, T]` adds to the scores. Output: `vectors` `[batch, 1, columns]`, not divided by their length.
"""

import numpy as np
import openvino as ov
import openvino.opset16 as ops
from openvino.op import Constant, Parameter

from _shared.bert import BertConfig
from _shared.dequant import dequantize
from _shared.gguf_reader import Gguf, Tensor
from _shared.nbits import layout, pack

F32 = ov.Type.f32


class BertGraph:
    """Builds models over one set of constants."""

    def __init__(self, file: Gguf, config: BertConfig, n_ctx: int):
        self.file, self.config = file, config
        found = config.embeddings(file)
        self.tokens, self.first = self._constant(dequantize(found["token_embd"])), self._constant(config.first(file, n_ctx))
        self.norm = self._norms(found, "token_embd_norm")
        self.layers = [self._layer(config.block(file, i)) for i in range(config.layers)]
        self.classifier = self._layer(config.classifier(file)) if config.labels else {}

    @staticmethod
    def _constant(values: np.ndarray):
        return ops.constant(np.ascontiguousarray(values))

    def _norms(self, t: dict[str, Tensor], name: str) -> tuple:
        return tuple(self._constant(dequantize(t[part])[0]) for part in (name, f"{name}.bias"))

    def _layer(self, t: dict[str, Tensor]) -> dict[str, tuple]:
        """Weight and bias by name; those of queries, keys and values together are `qkv`."""
        found = {}
        if "attn_q" in t:
            names = ("attn_q", "attn_k", "attn_v")
            found["qkv"] = self._linear([t.pop(name) for name in names], [t.pop(f"{name}.bias") for name in names])
        for name in [name for name in t if not name.endswith(".bias")]:
            norm = name.endswith("norm")
            found[name] = self._norms(t, name) if norm else self._linear([t[name]], [t[f"{name}.bias"]])
        return found

    def _linear(self, tensors: list[Tensor], biases: list[Tensor]) -> tuple:
        bias = self._constant(np.concatenate([dequantize(b)[0] for b in biases]))
        if {tensor.type for tensor in tensors} != {"Q8_0"}:
            return self._constant(np.concatenate([dequantize(tensor) for tensor in tensors])), bias
        form = layout(tuple(tensors))
        values = ov.Tensor(ov.Type.i8, ov.Shape([form.rows, form.groups, form.group]))
        scale = np.empty((form.rows, form.groups), np.float32)
        q = values.data.view(np.uint8).reshape(form.rows, -1)
        pack(tensors, q, scale, None)
        np.bitwise_xor(q, 0x80, out=q)  # 0…255 to -128…127
        weight = ops.multiply(ops.convert(Constant(values), F32), ops.constant(scale[..., None]))
        return ops.reshape(weight, np.array([form.rows, tensors[0].cols]), False), bias

    def model(self, masked: bool, states: bool = False) -> ov.Model:
        """The graph for padded texts or for those of one length; `states` makes every hidden state a result."""
        c, inputs = self.config, []

        def take(name, shape, kind=F32):
            inputs.append(Parameter(kind, ov.PartialShape(shape)))
            inputs[-1].output(0).set_names({name})
            return inputs[-1]

        ids, pool = take("ids", [-1, -1], ov.Type.i32), take("pool", [-1, 1, -1])
        mask = take("mask", [-1, 1, 1, -1]) if masked else None
        length = ops.gather(ops.shape_of(ids, "i32"), np.array([1], np.int32), np.int64(0))
        added = ops.slice(self.first, np.array([0], np.int32), length, np.array([1], np.int32), np.array([0], np.int32))
        x = self._norm(ops.add(ops.gather(self.tokens, ids, np.int64(0)), added), self.norm)
        hidden = [x]
        for w in self.layers:
            attended = self._attention(self._product(x, w["qkv"]), mask)
            x = self._norm(ops.add(self._product(attended, w["attn_output"]), x), w["attn_output_norm"])
            up = ops.gelu(self._product(x, w["ffn_up"]), "erf")
            x = self._norm(ops.add(self._product(up, w["ffn_down"]), x), w["layer_output_norm"])
            hidden.append(x)
        y = ops.matmul(pool, x, False, False)
        if c.labels:
            y = self._product(y, self.classifier["cls"])
            y = self._product(ops.tanh(y) if c.activation == "tanh" else ops.relu(y), self.classifier["cls.output"])
        return ov.Model([ops.result(a) for a in (y, *(hidden if states else []))], inputs, "bert")

    @staticmethod
    def _product(x, linear: tuple):
        weight, bias = linear
        return ops.add(ops.matmul(x, weight, False, True), bias)

    def _norm(self, x, norm: tuple):
        normed = ops.mvn(x, np.array([-1]), True, float(max(self.config.eps, 1e-12)), "inside_sqrt")
        return ops.add(ops.multiply(normed, norm[0]), norm[1])

    def _attention(self, qkv, mask):
        """Attention of whole texts: `[batch, T, 3 * dim]` to `[batch, T, dim]`."""
        c = self.config
        parts = ops.variadic_split(qkv, np.int64(-1), np.array([c.dim] * 3))
        heads = np.array([0, 0, c.heads, c.head_dim])
        q, k, v = (ops.transpose(ops.reshape(parts.output(i), heads, True), np.array([0, 2, 1, 3])) for i in range(3))
        if mask is None:
            y = ops.scaled_dot_product_attention(q, k, v)
        else:
            y = ops.scaled_dot_product_attention(q, k, v, mask)
        return ops.reshape(ops.transpose(y, np.array([0, 2, 1, 3])), np.array([0, 0, c.dim]), True)
