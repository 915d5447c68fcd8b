"""LLaMA 3 from a GGUF file: load, prefill, decode_one_token, score. No protocol in here.

The KV cache is allocated once for n_ctx positions. Prefill is always eager (its length changes from
prompt to prompt); the decode step, with the argmax in it, is what `torch.compile` gets: one graph,
the position is a tensor, so it is compiled once.
"""

import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from dequant import dequantize
from gguf_reader import BadModel, Gguf
from linear import FOUR_BIT, Tiles, dense_tiles, make_linear, materialize
from resident import in_memory
from spans import OFF, Spans

HEAD_TILES = 1024  # tiles of the output head multiplied at a time
SCORE_ROWS = 64  # positions whose logits are computed at a time: 33 MB at a vocabulary of 128256


class CompileFailed(Exception):
    """torch.compile could not build the decode step."""


@dataclass
class Config:
    """What the metadata says. All counts are in elements."""

    layers: int
    dim: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    rope_base: float

    @classmethod
    def from_gguf(cls, file: Gguf) -> "Config":
        """Reads the `llama.*` keys; BadModel when one is missing or they contradict each other."""
        if (found := file.metadata.get("general.architecture")) != "llama":
            raise BadModel(f"{file.path}: expected general.architecture 'llama', found {found!r}")
        dim, heads = file.require("llama.embedding_length"), file.require("llama.attention.head_count")
        kv_heads = file.metadata.get("llama.attention.head_count_kv", heads)
        head_dim = file.metadata.get("llama.attention.key_length", dim // heads if heads else 0)
        rotated = file.metadata.get("llama.rope.dimension_count", head_dim)
        layers = file.require("llama.block_count")
        if not (dim > 0 and heads > 0 and layers > 0 and kv_heads > 0 and head_dim > 0) or heads % kv_heads:
            raise BadModel(
                f"{file.path}: expected positive sizes and heads divisible by kv heads, found "
                f"{layers} layers, width {dim}, {heads} heads, {kv_heads} kv heads"
            )
        if rotated != head_dim or head_dim % 2:
            raise BadModel(f"{file.path}: expected rope over a whole, even head of {head_dim}, found {rotated}")
        eps = file.require("llama.attention.layer_norm_rms_epsilon", float)
        base = file.metadata.get("llama.rope.freq_base", 10000.0)
        return cls(layers, dim, heads, kv_heads, head_dim, eps, base)


@dataclass
class Layer:
    """One transformer block and its part of the KV cache, `[kv_heads, n_ctx, head_dim]` each."""

    attn_norm: torch.Tensor
    qkv: object
    attn_output: object
    ffn_norm: torch.Tensor
    gate_up: object
    down: object
    k_cache: torch.Tensor
    v_cache: torch.Tensor


class Model:
    """A loaded model. Weights never change; the cache is overwritten by every prompt."""

    def __init__(self, file: Gguf, device: str, n_ctx: int, half: bool, compiled: bool):
        self.config = c = Config.from_gguf(file)
        self.device, self.n_ctx, self.compiled = device, n_ctx, compiled
        on_cpu = device == "cpu"
        # bf16 on the CPU: it has instructions for it, f16 products there are 17 times slower. f16 on CUDA.
        self.dtype = (torch.bfloat16 if on_cpu else torch.float16) if half else torch.float32
        make = lambda *t: make_linear(list(t), self.dtype, device, tiles=half and on_cpu and compiled, int4=half and on_cpu)
        embedding = file.tensor("token_embd.weight")
        self.vocab = embedding.rows
        if embedding.cols != c.dim:
            raise BadModel(f"{file.path}: expected rows of {c.dim} in token_embd.weight, found {embedding.cols}")
        tied = "output.weight" not in file.tensors
        # ATen's int4 kernel cannot look rows up, so the embedding is dense where tiles are not used.
        self.embedding = make_linear([embedding], self.dtype, device, tiles=half and on_cpu and compiled, int4=False)
        self.head = self.embedding if tied else make(file.tensor("output.weight", (self.vocab, c.dim)))
        self.output_norm = self._vector(file, "output_norm.weight")
        tiled = isinstance(self.head, Tiles)
        # Tiles have f16 scales. Inductor does not vectorise a kernel with both f16 and bf16 in it, so
        # decoding over tiles computes in f32 with a cache of f16; over dense weights all is of their type.
        self.decode_dtype = torch.float32 if tiled else self.dtype
        packed = file.tensor("blk.0.attn_q.weight").type in FOUR_BIT  # Int4Pack: bf16 in and out
        self.kv_dtype = torch.float16 if tiled and not packed else self.dtype
        # In pieces, because sums by groups of a whole vocabulary (65 MB) would leave the cache and be slow.
        self.head_pieces = self.head.pieces(HEAD_TILES) if tiled else [self.head]
        q_rows, kv_rows = c.heads * c.head_dim, c.kv_heads * c.head_dim
        ffn = file.tensor("blk.0.ffn_gate.weight").rows
        self.layers = []
        for i in range(c.layers):
            get = lambda name, rows, cols: file.tensor(f"blk.{i}.{name}.weight", (rows, cols))
            cache = lambda: torch.zeros(c.kv_heads, n_ctx, c.head_dim, dtype=self.kv_dtype, device=device)
            self.layers.append(
                Layer(
                    self._vector(file, f"blk.{i}.attn_norm.weight"),
                    make(get("attn_q", q_rows, c.dim), get("attn_k", kv_rows, c.dim), get("attn_v", kv_rows, c.dim)),
                    make(get("attn_output", c.dim, q_rows)),
                    self._vector(file, f"blk.{i}.ffn_norm.weight"),
                    make(get("ffn_gate", ffn, c.dim), get("ffn_up", ffn, c.dim)),
                    make(get("ffn_down", c.dim, ffn)),
                    cache(),
                    cache(),
                )
            )
        self.rope = self._rope_table(file)
        self.positions = torch.arange(n_ctx, device=device)
        self._decode, self._layer = self._decode_step, self._decode_layer
        self._logits = self._decode_logits
        self.held: list[int] = []  # the tokens in the cache; empty where nobody may build on them
        self.compile_ns = self.graphs = 0
        self._wrapped = False
        # Three, because a compiled function must see the same one for ever: in a layer, in a step, around it.
        self.layer_spans = self.step_spans = self.spans = OFF
        self._profile = {}

    def _vector(self, file: Gguf, name: str) -> torch.Tensor:
        return dequantize(file.tensor(name, (1, self.config.dim)), torch.float32).view(-1).to(self.device)

    def _rope_table(self, file: Gguf) -> torch.Tensor:
        """cos and sin, float32 `[n_ctx, 2, head_dim / 2]`; frequencies divided by `rope_freqs.weight`."""
        half = self.config.head_dim // 2
        steps = torch.arange(half, dtype=torch.float64) / half
        inv_freq = self.config.rope_base**-steps
        if "rope_freqs.weight" in file.tensors:
            inv_freq = inv_freq / dequantize(file.tensor("rope_freqs.weight", (1, half)), torch.float32).view(-1).double()
        angle = torch.outer(torch.arange(self.n_ctx, dtype=torch.float64), inv_freq)
        return torch.stack((angle.cos(), angle.sin()), dim=1).float().to(self.device)

    def _compile_once(self):
        """Wraps the functions that are compiled when they are first called. Not part of loading: compile_ns has it.

        On the CPU one layer is compiled and used for all: a graph of 16 layers took 111 s to build where this
        took 33, on the same busy machine. On CUDA it is the whole step, for the sake of CUDA graphs.
        """
        if not self.compiled or self._wrapped:
            return
        begin = time.monotonic_ns()
        import torch._dynamo
        import torch._inductor.config as inductor

        torch._dynamo.config.suppress_errors = False
        torch._dynamo.config.recompile_limit = 64
        # Multiply-add in one instruction: int8 tiles go from 0.73 to 0.40 ms (see linear.py).
        inductor.cpp.enable_floating_point_contract_flag = "fast"
        wrap = lambda f, mode=None: self._timed(torch.compile(f, fullgraph=True, dynamic=False, mode=mode))
        if self.device != "cpu":
            self._decode = wrap(self._decode_step, "reduce-overhead")
            self._logits = wrap(self._decode_logits, "reduce-overhead")
        else:
            self._layer, self._head_piece = wrap(self._decode_layer), wrap(self._head_piece)
            to_dense = wrap(dense_tiles)
            for tiles in (p for w in self.weights() for p in getattr(w, "parts", [w]) if isinstance(p, Tiles)):
                tiles.to_dense = to_dense
        self._wrapped = True
        self.compile_ns += time.monotonic_ns() - begin

    def _timed(self, compiled):
        """Adds the time of calls that compiled something to `compile_ns`."""
        from torch._dynamo.utils import counters

        def call(*args):
            graphs, begin = counters["stats"]["unique_graphs"], time.monotonic_ns()
            try:
                out = compiled(*args)
            except (MemoryError, torch.OutOfMemoryError):
                raise
            except Exception as error:
                if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                    raise CompileFailed(str(error).strip()[:2000]) from error
                raise
            if counters["stats"]["unique_graphs"] != graphs:
                self.compile_ns += time.monotonic_ns() - begin
                self.graphs += 1
            return out

        return call

    def sync(self):
        """Waits for the device."""
        if self.device != "cpu":
            torch.cuda.synchronize(self.device)

    def _norm(self, x, weight, dtype):
        """RMS norm of float32 `[T, dim]`, returned as `dtype`."""
        return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.config.eps) * weight).to(dtype)

    @staticmethod
    def _rotate(x, rope):
        """Rotates pairs (2i, 2i + 1) of `[T, heads, head_dim]` in float32: the row order of a GGUF."""
        pairs = x.float().unflatten(-1, (-1, 2))
        cos, sin = rope[:, None, 0], rope[:, None, 1]
        a, b = pairs[..., 0], pairs[..., 1]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)

    def _qkv(self, qkv, rope):
        """`[T, rows]` to q `[heads, T, head_dim]`, k and v `[kv_heads, T, head_dim]`; q and k rotated."""
        c = self.config
        q, k, v = qkv.unflatten(-1, (-1, c.head_dim)).split([c.heads, c.kv_heads, c.kv_heads], dim=1)
        q, k = self._rotate(q, rope), self._rotate(k, rope)
        return q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)

    def _forward(self, tokens, start=0):
        """Positions `start`… of a prompt, the cache holds those before: `[T]` to hidden states `[T, dim]`."""
        n, dtype = tokens.shape[0], self.dtype
        end = start + n
        seen = self.positions[:end] <= self.positions[start:end, None] if start else None
        x = self.embedding.lookup(tokens).float()  # the residual stream is float32: it costs nothing
        rope, spans = self.rope[start:end], self.spans
        spans.end("embedding")
        for layer in self.layers:
            h = self._norm(x, layer.attn_norm, dtype)
            spans.end("norm")
            qkv = layer.qkv.gemm(h)
            spans.end("projections")
            q, k, v = self._qkv(qkv, rope)
            layer.k_cache[:, start:end], layer.v_cache[:, start:end] = k, v
            if start:
                k, v = layer.k_cache[:, :end], layer.v_cache[:, :end]
            y = F.scaled_dot_product_attention(
                q.to(dtype)[None], k.to(dtype)[None], v.to(dtype)[None], attn_mask=seen, is_causal=not start, enable_gqa=True
            )
            spans.end("attention")
            x = x + layer.attn_output.gemm(y[0].transpose(0, 1).reshape(n, -1))
            spans.end("projections")
            h = self._norm(x, layer.ffn_norm, dtype)
            spans.end("norm")
            gate, up = layer.gate_up.gemm(h).chunk(2, dim=-1)
            x = x + layer.down.gemm(F.silu(gate) * up)
            spans.end("mlp")
        return x

    @staticmethod
    def _head_piece(piece, x):
        return piece.gemv(x)

    def _last_logits(self, x, spans):
        """Logits float32 `[vocab]` of one hidden state `[1, dim]`."""
        x = self._norm(x, self.output_norm, self.decode_dtype)
        spans.end("norm")
        logits = torch.cat([self._head_piece(piece, x) for piece in self.head_pieces], dim=1)[0].float()
        spans.end("head")
        return logits

    def _attend(self, q, layer, position):
        """One query `[heads, 1, head_dim]` over the cache up to `position` `[1]`; float32 where it matters."""
        c = self.config
        q = materialize(q.view(c.kv_heads, -1, 1, c.head_dim).float() * c.head_dim**-0.5)
        scores = (q * layer.k_cache[:, None].float()).sum(-1)
        scores = scores.masked_fill(self.positions > position, float("-inf"))
        weights = materialize(torch.softmax(scores, dim=-1))
        return (weights.unsqueeze(-1) * layer.v_cache[:, None].float()).sum(2).view(1, -1)

    def _attend_sdpa(self, q, layer, position):
        """The same through the library's attention, which is quicker when nothing fuses."""
        mask = (self.positions <= position)[None, None, None]
        k, v = layer.k_cache[None], layer.v_cache[None]
        y = F.scaled_dot_product_attention(q.to(k.dtype)[None], k, v, attn_mask=mask, enable_gqa=True)
        return y[0].transpose(0, 1).reshape(1, -1)

    def _decode_layer(self, layer, x, rope, position):
        """One block over one position: hidden state `[1, dim]` to the next."""
        dtype, spans = self.decode_dtype, self.layer_spans
        h = self._norm(x, layer.attn_norm, dtype)
        spans.end("norm")
        qkv = layer.qkv.gemv(h)
        spans.end("projections")
        q, k, v = self._qkv(qkv, rope)
        layer.k_cache.index_copy_(1, position, k.to(self.kv_dtype))
        layer.v_cache.index_copy_(1, position, v.to(self.kv_dtype))
        attend = self._attend if self.compiled and self.device == "cpu" else self._attend_sdpa
        attended = attend(q, layer, position).to(dtype)
        spans.end("attention")
        x = x + layer.attn_output.gemv(attended)
        spans.end("projections")
        h = self._norm(x, layer.ffn_norm, dtype)
        spans.end("norm")
        gate, up = layer.gate_up.gemv(h).chunk(2, dim=-1)
        x = x + layer.down.gemv(F.silu(gate) * up)
        spans.end("mlp")
        return x

    def _decode_step(self, token, position):
        """One token `[1]` at `position` `[1]` to the next id `[1]`, both int64 on the device."""
        return self._decode_logits(token, position).argmax(-1, keepdim=True)

    def _decode_logits(self, token, position):
        """The same up to the logits `[vocab]`, float32."""
        x = self.embedding.lookup(token).float()
        rope, spans = self.rope[position], self.step_spans
        spans.end("embedding")
        for layer in self.layers:
            x = self._layer(layer, x, rope, position)
            spans.end("layers" if self.compiled else "mlp")
        return self._last_logits(x, spans)

    def _ids(self, tokens: list[int], room: int) -> torch.Tensor:
        if not tokens or len(tokens) + room > self.n_ctx:
            raise ValueError(f"expected 1 to {self.n_ctx - room} tokens (n_ctx {self.n_ctx}), found {len(tokens)}")
        if min(tokens) < 0 or max(tokens) >= self.vocab:
            raise ValueError(f"expected ids from 0 to {self.vocab - 1}, found {min(tokens)} to {max(tokens)}")
        return torch.tensor(tokens, device=self.device)

    @torch.inference_mode()
    def prefill(self, ids: torch.Tensor, start: int = 0) -> torch.Tensor:
        """Ids `[T]` behind a context of `start`; the logits `[vocab]`, float32, of the last position."""
        self._compile_once()
        self.held = []
        return self._last_logits(self._forward(ids, start)[-1:], self.spans)

    @torch.inference_mode()
    def decode_one_token(self, token: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """The greedy successor `[1]` of `token` `[1]`, which stands at `position` `[1]`."""
        return self._decode(token, position)

    @torch.inference_mode()
    def decode_logits(self, token: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """The logits `[vocab]`, float32, after `token` `[1]`, which stands at `position` `[1]`."""
        return self._logits(token, position)

    @torch.inference_mode()
    def fill(self, context: list[int]):
        """Empties the cache and fills it with the tokens of a context, which `held` then has."""
        ids = self._ids(context, 0)
        self._compile_once()
        self.held = []
        self._forward(ids)
        self.sync()
        self.held = list(context)

    @torch.inference_mode()
    def generate(self, prompt: list[int], n: int, profile: bool = False, depth: int = 0):
        """Greedy, exactly n ids, behind the `depth` tokens that `fill` left.

        Returns ids, the time the prompt's logits were there, the time of each id (ns).
        """
        ids, context = self._ids(prompt, n + depth), self.held[:depth]
        self._compile_once()
        spans = self._watch(profile)
        tokens, times = [], []
        logits = self.prefill(ids, depth)
        self.sync()
        prefill_end = time.monotonic_ns()
        token = logits.argmax(-1, keepdim=True)
        for i in range(n):
            if i:
                token = self.decode_one_token(token, position).clone()
                position += 1
            else:
                position = torch.tensor([depth + len(prompt)], device=self.device)
            tokens.append(token.item())
            spans.end("sampling")
            times.append(time.monotonic_ns())
            if not i:
                prefill_ns = spans.take()
            spans.resume()
        self._profile = {"prefill_ns": prefill_ns, "decode_ns": spans.take(), "decode_weight_bytes": self._bytes_by_stage()}
        self._watch(False)
        self.held = context  # its keys and values are as they were
        return tokens, prefill_end, times

    def _watch(self, on: bool):
        """Takes the time of stages from now on, or no more. What one compiled graph holds cannot be told apart."""
        self.spans = Spans(self.sync) if on else OFF
        self.step_spans = OFF if self.compiled and self.device != "cpu" else self.spans
        self.layer_spans = OFF if self.compiled else self.spans
        return self.spans

    def profile(self) -> dict[str, dict[str, int]]:
        """Of the last generation, if it was watched: nanoseconds by stage, and bytes of weights that a step reads."""
        return self._profile

    def _bytes_by_stage(self) -> dict[str, int]:
        size = lambda weights: sum(w.mapped_bytes + w.private_bytes for w in weights)
        projections = size(w for layer in self.layers for w in (layer.qkv, layer.attn_output))
        mlp, head = size(w for layer in self.layers for w in (layer.gate_up, layer.down)), size([self.head])
        if not self.compiled:
            return {"projections": projections, "mlp": mlp, "head": head}
        return {"layers": projections + mlp, "head": head} if self.device == "cpu" else {}

    @torch.inference_mode()
    def score(self, tokens: list[int], first: int, together: int):
        """Teacher-forced logits of positions `first`… as float32 `[rows, vocab]` pieces on the host.

        The first `together` tokens go through the model as a prompt, the rest as decode steps.
        """
        self._compile_once()
        self.held = []
        ids = self._ids(tokens, 0)
        if together > 0:
            for part in self._forward(ids[:together])[first:].split(SCORE_ROWS):
                if part.shape[0]:
                    yield self.head.gemm(self._norm(part, self.output_norm, self.dtype)).float().cpu()
        for i in range(together, len(tokens)):
            logits = self._decode_logits(ids[i : i + 1], self.positions[i : i + 1])
            if i >= first:
                yield logits[None].cpu()

    def weights(self):
        """Every layer of weights, once."""
        for layer in self.layers:
            yield from (layer.qkv, layer.attn_output, layer.gate_up, layer.down)
        yield self.embedding
        if self.head is not self.embedding:
            yield self.head

    def bytes_per_token(self) -> int:
        """Bytes of weights that one decode step reads: everything but an embedding that is only looked up."""
        read = [w for w in self.weights() if w is not self.embedding or w is self.head]
        return sum(w.mapped_bytes + w.private_bytes for w in read)

    def memory(self) -> dict[str, int]:
        """Bytes held, by this engine's own book."""
        caches = [cache for layer in self.layers for cache in (layer.k_cache, layer.v_cache)]
        kv = sum(cache.nbytes for cache in caches)
        book = {"kv_resident_bytes": self._in_memory(caches)} if self.device == "cpu" else {}
        return {
            **{name: size for name, size in book.items() if size is not None},
            "weights_mapped_bytes": sum(w.mapped_bytes for w in self.weights()),
            "weights_private_bytes": sum(w.private_bytes for w in self.weights()),
            "kv_bytes": kv,
        }

    @staticmethod
    def _in_memory(tensors) -> int | None:
        """Bytes of tensors on the host that lie in pages which are in memory."""
        sizes = [in_memory(t.data_ptr(), t.nbytes) for t in tensors]
        return None if None in sizes else sum(sizes)

    def precision(self) -> dict[str, str]:
        """Types of weights as multiplied, of the products, and of the cache."""
        short = lambda dtype: {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}[str(dtype).split(".")[1]]
        labels = dict.fromkeys(part for w in self.weights() for part in w.label.split("+"))
        # The label says f32 only where everything is f32: prefill multiplies bf16 even over tiles.
        return {"weights": "+".join(labels), "compute": short(self.dtype), "kv": short(self.kv_dtype)}

    def kernels(self) -> str:
        """The kinds of linear layers in use, for the record."""
        parts = [part for w in self.weights() for part in getattr(w, "parts", [w])]
        return "+".join(dict.fromkeys(type(part).__name__ for part in parts))

    def notes(self) -> list[str]:
        """What a reader of a table must know about this configuration."""
        notes, kernels = [], self.kernels()
        if self.dtype == torch.bfloat16:
            notes.append("16-bit means bf16: this CPU has no fast f16 products.")
        if "Tiles" in kernels:
            notes.append(
                "Quantized weights that ATen has no kernel for stay the file's integers. Decode multiplies them in float32 "
                "through Inductor; scales are f16, exact for Q8_0, rounded once in K types. Prefill makes them bf16."
            )
        if "Int4Pack" in kernels:
            notes.append("4-bit weights: _weight_int4pack_mm_for_cpu, group 32, the file's integers, scales and zeros rounded to bf16.")
        if self.dtype != torch.float32 and "Dense" in kernels:
            notes.append("Dense weights were dequantized in float32 and rounded once to 16 bits.")
        if self.compiled:
            notes.append("Compiled in the first generation: decode layer, output head and prefill dequantization. Prefill's rest is eager.")
        return notes
