"""The MAX graph of a LLaMA, made from a GGUF file: MAX's products of the file's own blocks, rotation by the file's own
frequencies, and attention over pages of keys and values, which belong to the caller.

Inputs: hidden states `x` `[tokens, dim]`, the `rows` of them whose logits are wanted, the
angles, and what MAX's kernels must know of the cache. Output: logits `[rows, vocab]`. Sizes that no weight fixes are
symbols, so one compilation serves every context and batch.
"""

import numpy as np
from max.driver import Buffer
from max.dtype import DType
from max.graph import BufferType, DeviceRef, Graph, TensorType, TensorValue, Weight, ops
from max.graph.quantization import QuantizationEncoding
from max.nn.attention import MHAMaskVariant
from max.nn.kernels import flash_attention_ragged, rope_split_store_ragged
from max.nn.kv_cache import MHAKVCacheParams, PagedCacheValues

from _shared.dequant import dequantize
from _shared.gguf_reader import Gguf, Tensor
from _shared.llama import Config

PAGE = 128  # positions, the fewest that MAX allows
BLOCKS = ("Q4_0", "Q4_K", "Q6_K")  # types of blocks that MAX multiplies
FLOATS = {"F32": DType.float32, "F16": DType.float16, "BF16": DType.bfloat16}
HOST = DeviceRef.CPU()


class Llama:
    """Builds `graph`, and `weights` for it by name."""

    def __init__(self, file: Gguf, config: Config):
        self.file, self.config = file, config
        self.weights: dict[str, Buffer] = {}
        self.sizes: dict[str, int] = {}  # bytes of the products' weights, by type in the file
        self.mapped = self.private = 0  # bytes of weights in the file's map, and in memory of this process
        self.copied: list[Tensor] = []  # what MAX reads only while it packs or stacks
        self.dequantized: list[str] = []  # types that MAX has no product for: they become f16
        sizes = {"n_kv_heads": config.kv_heads, "head_dim": config.head_dim, "num_layers": config.layers, "page_size": PAGE}
        self.cache = MHAKVCacheParams(DType.float32, devices=[HOST], **sizes)
        self.graph = self._graph()

    def _weight(self, name: str, array: np.ndarray, kind: DType) -> Weight:
        """A weight of the graph over the bytes of `array` `[rows, bytes]`."""
        shape = array.shape[0], array.shape[1] // kind.size_in_bytes
        self.weights[name] = Buffer.from_numpy(array).view(kind, shape)
        return Weight(name, kind, shape, HOST)

    def _linear(self, x: TensorValue, *tensors: Tensor) -> list[TensorValue]:
        """The products with each of the tensors; those of one type are one product. MAX stacks and packs such weights
        once, when it gets them."""
        kinds = {tensor.type for tensor in tensors}
        if len(kinds) > 1:
            return [self._linear(x, tensor)[0] for tensor in tensors]
        kind, parts = kinds.pop(), [tensor.raw for tensor in tensors]
        if dequantized := kind not in (*BLOCKS, *FLOATS):
            self.dequantized += [kind] * (kind not in self.dequantized)
            parts, kind = [dequantize(tensor).astype(np.float16).view(np.uint8) for tensor in tensors], "F16"
        size, stacked = sum(part.nbytes for part in parts), kind in BLOCKS or len(parts) > 1
        self.sizes[kind] = self.sizes.get(kind, 0) + size
        self.mapped += 0 if dequantized else size
        self.private += size * (stacked + dequantized)
        self.copied += tensors if stacked or dequantized else ()
        weights = [self._weight(tensor.name, part, FLOATS.get(kind, DType.uint8)) for tensor, part in zip(tensors, parts)]
        weight = ops.concat(weights, 0)
        if kind in BLOCKS:
            return [ops.qmatmul(QuantizationEncoding[kind], None, x, weight)]
        product = ops.matmul(ops.cast(x, weight.dtype), ops.transpose(weight, 0, 1))
        return [ops.cast(product, DType.float32)]

    def _norm(self, x: TensorValue, tensor: Tensor) -> TensorValue:
        return ops.rms_norm(x, ops.constant(dequantize(tensor)[0], DType.float32, HOST), self.config.eps)

    def _inputs(self) -> dict:
        """Types of the inputs by name."""
        host = lambda kind, *shape: TensorType(kind, shape, HOST)
        return {
            "x": host(DType.float32, "tokens", self.config.dim),
            "rows": host(DType.int64, "rows"),
            "angles": host(DType.float32, "positions", self.config.head_dim),
            "offsets": host(DType.uint32, "ends"),
            "kv_blocks": BufferType(DType.float32, ["pages", *self.cache.shape_per_block], HOST),
            "page_stride": host(DType.int64, 1),
            "cache_lengths": host(DType.uint32, "batch"),
            "lookup_table": host(DType.uint32, "batch", "columns"),
            "max_prompt_length": host(DType.uint32, 1),
            "max_cache_length": host(DType.uint32, 1),
            "attention_dispatch_metadata": host(DType.int64, 4),
        }

    def _graph(self) -> Graph:
        c, file, types = self.config, self.file, self._inputs()
        with Graph("llama", input_types=list(types.values())) as graph:
            given = dict(zip(types, graph.inputs))
            x, rows, angles, offsets = (given.pop(name).tensor for name in ("x", "rows", "angles", "offsets"))
            pages = given.pop("kv_blocks").buffer
            pages = PagedCacheValues(kv_blocks=pages, **{name: value.tensor for name, value in given.items()})
            for i in range(c.layers):
                t, layer = c.block(file, i), ops.constant(i, DType.uint32, HOST)
                h = self._norm(x, t["attn_norm"])
                qkv = self._linear(h, t["attn_q"], t["attn_k"], t["attn_v"])
                qkv = qkv[0] if len(qkv) == 1 else ops.concat(qkv, 1)
                q = rope_split_store_ragged(self.cache, qkv, offsets, angles, pages, layer, c.heads)
                q = q.reshape((-1, c.heads, c.head_dim))
                y = flash_attention_ragged(self.cache, q, offsets, pages, layer, MHAMaskVariant.CAUSAL_MASK, c.head_dim**-0.5)
                y = y.reshape((-1, c.heads * c.head_dim))
                if i == c.layers - 1:  # nothing after this attention needs the other rows
                    x, y = ops.gather(x, rows, 0), ops.gather(y, rows, 0)
                x = x + self._linear(y, t["attn_output"])[0]
                h = self._norm(x, t["ffn_norm"])
                both = self._linear(h, t["ffn_gate"], t["ffn_up"])
                gate, up = both if len(both) > 1 else ops.split(both[0], [c.ffn, c.ffn], 1)
                x = x + self._linear(ops.silu(gate) * up, t["ffn_down"])[0]
            x = self._norm(x, file.tensor("output_norm.weight", (1, c.dim)))
            head = file.tensor("token_embd.weight" if c.tied else "output.weight", (c.vocab, c.dim))
            graph.output(self._linear(x, head)[0])
        return graph
