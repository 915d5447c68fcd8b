"""The OpenVINO graph of a LLaMA, made from a GGUF file: compressed weights that the CPU plugin fuses into its
products, rotation by the file's own frequencies, and paged attention, whose cache belongs to the caller.

Inputs: hidden states `x` `[tokens, dim]` and their `positions`, the `rows` of them whose logits are wanted, the
caches, and the pages of each sequence. Output: `logits` `[rows, vocab]`.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import openvino as ov
import openvino.opset16 as ops
from openvino.op import Constant, Parameter, _PagedAttentionExtension

from _shared.dequant import dequantize
from _shared.gguf_reader import Gguf, Tensor
from _shared.llama import Config
from _shared.nbits import layout, pack

PAGE = 32  # positions, as the CPU plugin wants it
CHUNK = 256  # rows filled at a time
FLOATS = {"F32": ov.Type.f32, "F16": ov.Type.f16, "BF16": ov.Type.bf16}
PAGES = ("past_lens", "subsequence_begins", "block_indices", "block_indices_begins")
F32, I32 = ov.Type.f32, ov.Type.i32


class Weight(NamedTuple):
    """Tensors of one type, stacked by rows, and the memory for them, which the model shares."""

    tensors: tuple[Tensor, ...]
    values: ov.Tensor
    scale: ov.Tensor | None = None
    offset: ov.Tensor | None = None


class Graph:
    """Builds `model`, and fills its weights."""

    def __init__(self, file: Gguf, config: Config, n_ctx: int, bf16: bool):
        """`bf16`: whether f16 weights become bf16 here. The plugin would keep them in both types."""
        self.file, self.config, self.n_ctx, self.bf16 = file, config, n_ctx, bf16
        self.inputs: list[Parameter] = []
        self.weights: list[Weight] = []
        self.model = self._model()

    def fill(self, threads: int) -> None:
        """Fills the weights of `model` from the file."""
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(self._fill, sorted(self.weights, key=lambda weight: -weight.values.byte_size)))

    def sizes(self) -> dict[str, int]:
        """Bytes of the weights, by type in the file."""
        sizes: dict[str, int] = {}
        for weight in self.weights:
            kind = weight.tensors[0].type
            sizes[kind] = sizes.get(kind, 0) + sum(part.byte_size for part in weight[1:] if part is not None)
        return sizes

    def _input(self, name: str, shape: list[int], kind=I32) -> Parameter:
        parameter = Parameter(kind, ov.PartialShape(shape))
        parameter.output(0).set_names({name})
        self.inputs.append(parameter)
        return parameter

    def _linear(self, x, *tensors: Tensor) -> list:
        """The products with each of the tensors. Those of one type are one product, which is split."""
        if len({t.type for t in tensors}) > 1:
            return [self._linear(x, tensor)[0] for tensor in tensors]
        product = self._dense(x, tensors) if tensors[0].type in FLOATS else self._packed(x, tensors)
        if len(tensors) == 1:
            return [product]
        split = ops.variadic_split(product, np.int64(-1), np.array([t.rows for t in tensors]))
        return [split.output(i) for i in range(len(tensors))]

    def _dense(self, x, tensors):
        """Weights in the file's float type."""
        kind = ov.Type.bf16 if self.bf16 else FLOATS[tensors[0].type]
        weight = Weight(tensors, ov.Tensor(kind, ov.Shape([sum(t.rows for t in tensors), tensors[0].cols])))
        self.weights.append(weight)
        constant = Constant(weight.values)
        if self.bf16:  # a product in bf16 by its types: widened weights would be folded into float32
            return ops.convert(ops.matmul(ops.convert(x, kind), constant, False, True), F32)
        return ops.matmul(x, constant if kind == F32 else ops.convert(constant, F32), False, True)

    def _packed(self, x, tensors):
        """Integers and scales, which the plugin takes as one compressed weight.

        It has int8 products only for weights that are symmetric around zero, so offsets meet the sums of groups.
        """
        form = layout(tensors)
        groups, kind = [form.rows, form.groups], {4: ov.Type.i4, 8: ov.Type.i8}[form.bits]
        values, scale = ov.Tensor(kind, ov.Shape([*groups, form.group])), ov.Tensor(F32, ov.Shape([*groups, 1]))
        offset = ov.Tensor(F32, ov.Shape(groups)) if form.offset else None
        self.weights.append(Weight(tensors, values, scale, offset))
        weight = ops.multiply(ops.convert(Constant(values), F32), Constant(scale))
        product = ops.matmul(x, ops.reshape(weight, np.array([form.rows, tensors[0].cols]), False), False, True)
        if offset is None:
            return product
        sums = ops.reduce_sum(ops.reshape(x, np.array([-1, form.groups, form.group]), False), np.array([2]), False)
        return ops.add(product, ops.matmul(sums, Constant(offset), False, True))

    def _order(self, tensor: Tensor) -> np.ndarray | None:
        """For queries and keys: first the even rows of each head, then the odd ones. A GGUF has the two numbers of a
        rotated pair beside each other, the plugin rotates halves."""
        if not tensor.name.endswith(("attn_q.weight", "attn_k.weight")):
            return None
        return np.arange(tensor.rows).reshape(-1, self.config.head_dim // 2, 2).swapaxes(1, 2).reshape(-1)

    def _fill(self, weight: "Weight") -> None:
        orders = [self._order(tensor) for tensor in weight.tensors]
        rows = sum(tensor.rows for tensor in weight.tensors)
        values = weight.values.data.view(np.uint8).reshape(rows, -1)
        if weight.scale is not None:
            pack(weight.tensors, values, weight.scale.data[..., 0], None if weight.offset is None else weight.offset.data, orders)
            np.bitwise_xor(values, 0x88 if layout(weight.tensors).bits == 4 else 0x80, out=values)  # 0…15 to -8…7
            return
        at = 0
        for tensor, order in zip(weight.tensors, orders):
            part = values[at : (at := at + tensor.rows)]
            for first in range(0, tensor.rows, CHUNK):
                rows = slice(first, first + CHUNK)
                raw = tensor.raw[rows] if order is None else tensor.raw[order[rows]]
                part[rows] = _rounded(raw) if self.bf16 and tensor.type == "F16" else raw
            tensor.release()

    def _norm(self, x, weight: Tensor):
        """RMS norm, in the form that the plugin fuses."""
        mean = ops.reduce_mean(ops.power(x, np.float32(2)), np.array([-1]), True)
        inverse = ops.divide(np.float32(1), ops.sqrt(ops.add(mean, np.float32(self.config.eps))))
        return ops.multiply(ops.multiply(x, inverse), ops.constant(dequantize(weight)))

    def _rotate(self, x, heads: int, cos, sin):
        """Rotates `[tokens, heads * head_dim]`, whose pairs are in two halves, in the form that the plugin fuses."""
        size, half = self.config.head_dim, self.config.head_dim // 2
        x = ops.reshape(x, np.array([-1, heads, 1, size]), False)
        halves = ops.variadic_split(x, np.int64(3), np.array([half, half]))
        turned = ops.concat([ops.multiply(halves.output(1), np.float32(-1)), halves.output(0)], -1)
        return ops.reshape(ops.add(ops.multiply(x, cos), ops.multiply(turned, sin)), np.array([-1, heads * size]), False)

    def _attention(self, i: int, q, k, v, pages: list, longest):
        """Writes keys and values into the pages and attends over them."""
        c, number, empty = self.config, np.int32, lambda kind: np.zeros(0, kind)
        cache = [-1, c.kv_heads, PAGE, c.head_dim]
        caches = [self._input(f"{name}{i}", cache, F32) for name in ("keys", "values")]
        inputs = [q, k, v, *caches, *pages, np.float32(c.head_dim**-0.5), number(0), empty(np.float32), longest, empty(np.int32)]
        inputs += [empty(np.int32), empty(np.int32), empty(np.float32)]  # rotation of pages
        inputs += [empty(np.float32), number(64), number(8), empty(np.float32)]  # sparse attention, sinks
        inputs += [number(0), empty(np.int32), empty(np.int32), empty(np.int32)]  # eviction of pages
        inputs += [empty(np.int32), empty(np.uint8), empty(np.int32)]  # kinds of tokens, biases
        nodes = [ops.constant(a) if isinstance(a, (np.ndarray, np.generic)) else a for a in inputs]
        node = _PagedAttentionExtension([a if isinstance(a, ov.Output) else a.output(0) for a in nodes])
        for name in ("k", "v"):
            node.rt_info[f"num_{name}_heads"], node.rt_info[f"{name}_head_size"] = c.kv_heads, c.head_dim
        return node.output(0)

    def _model(self) -> ov.Model:
        c, file = self.config, self.file
        x, rows, positions = self._input("x", [-1, c.dim], F32), self._input("rows", [-1]), self._input("positions", [-1])
        pages, longest = [self._input(name, [-1]) for name in PAGES], self._input("max_context_len", [])
        angles = np.concatenate([c.rope(self.n_ctx)] * 2, -1)[:, :, None, None]
        cos, sin = (ops.gather(ops.constant(angles[:, i]), positions, np.int64(0)) for i in (0, 1))
        for i in range(c.layers):
            t = c.block(file, i)
            h = self._norm(x, t["attn_norm"])
            q, k, v = self._linear(h, t["attn_q"], t["attn_k"], t["attn_v"])
            q, k = self._rotate(q, c.heads, cos, sin), self._rotate(k, c.kv_heads, cos, sin)
            attended = self._attention(i, q, k, v, pages, longest)
            if i == c.layers - 1:  # nothing after this attention needs the other rows
                x, attended = (ops.gather(a, rows, np.int64(0)) for a in (x, attended))
            x = ops.add(x, self._linear(attended, t["attn_output"])[0])
            h = self._norm(x, t["ffn_norm"])
            (gate,), (up,) = self._linear(h, t["ffn_gate"]), self._linear(h, t["ffn_up"])
            x = ops.add(x, self._linear(ops.multiply(ops.swish(gate), up), t["ffn_down"])[0])
        x = self._norm(x, file.tensor("output_norm.weight", (1, c.dim)))
        head = file.tensor("token_embd.weight" if c.tied else "output.weight", (c.vocab, c.dim))
        (logits,) = self._linear(x, head)
        logits.output(0).set_names({"logits"})
        return ov.Model([ops.result(logits)], self.inputs, "llama")


def _rounded(raw: np.ndarray) -> np.ndarray:
    """f16 as the nearest bf16, ties to even, both as bytes."""
    bits = raw.view(np.float16).astype(np.float32).view(np.uint32)
    return (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16).view(np.uint8)
