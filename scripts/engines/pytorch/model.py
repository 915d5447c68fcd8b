"""LLaMA 3 from a GGUF file in PyTorch: load, prefill, decode, score.

The KV cache is allocated once for n_ctx positions. On the CPU prefill is eager, because its length changes
from prompt to prompt, and `torch.compile` gets the decode step, in which the position is a tensor, so that it
is compiled once. cuda_model.py has what is different on CUDA.
"""

import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from _shared import Engine, MissingDependency, Unsupported
from _shared.dequant import dequantize
from _shared.gguf_reader import Gguf, Tensor
from _shared.llama import Config
from _shared.memory import in_memory
from _shared.spans import OFF, Spans
from compiled import timed
from linear import Choice, Dense, Tiles, coarsest, dense_tiles, fits, make_linear, materialize, short, tune_inductor

HEAD_TILES = 1024  # tiles of the output head multiplied at a time
SCORE_ROWS = 64  # positions whose logits are computed at a time: 33 MB at a vocabulary of 128256


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


class Model(Engine):
    """A loaded model. Weights never change; the cache is overwritten by every prompt."""

    features = (*Engine.features, "batch")
    devices = ("cpu", "cuda")
    options = {"compile": False, "half": True, "bnb": None, "library": None, "path": None}
    profiles = True
    found = None  # what probe.py knows about the file; without it the paths are those of AVX-512

    @staticmethod
    def ready() -> dict:
        """Versions, threads and the widest instruction set in use."""
        torch.set_num_interop_threads(1)
        isa = torch.backends.cpu.get_cpu_capability().lower()
        if isa == "avx512" and torch.cpu._is_avx512_bf16_supported():
            isa = "avx512_bf16"
        return {"versions": {"torch": torch.__version__}, "threads": torch.get_num_threads(), "isa": isa}

    @staticmethod
    def prepare(threads: int, options: dict) -> bool:
        """Applies the library's settings and imports the compiler, which is not part of loading weights."""
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("highest")
        if options["compile"]:
            from torch import _dynamo  # noqa: F401
            from torch._inductor import config  # noqa: F401
        if options["bnb"]:
            if options["compile"] or not options["half"]:
                raise Unsupported("bnb: expected compile = false and half = true beside it")
            from bnb import load_library

            load_library()
        return options["compile"]

    @classmethod
    def batched(cls, batch: int, device: str) -> type[Engine]:
        """The model of batch_model.py."""
        if device != "cpu":
            raise Unsupported(f"a batch on {device}: this engine decodes several sequences on cpu only")
        from batch_model import BatchModel

        return type("BatchModel", (BatchModel,), {"batch": batch})

    @classmethod
    def choose(cls, path: str, device: str, options: dict) -> None:
        """Finds the fastest paths of weights in 16 bits or fewer, for one sequence on the CPU."""
        cls.found = None
        if device == "cpu" and cls is Model and options["half"] and not options["bnb"]:
            from probe import Found

            cls.found = Found(path, options["compile"], options["path"])
        elif options["path"]:
            raise Unsupported("path: expected pytorch or pytorch-eager, on cpu, with one sequence")

    def __new__(cls, _path: str, device: str, _n_ctx: int, options: dict):
        if library := options.get("library"):
            if device != "cpu" or cls is not Model or options["half"] or options["compile"]:
                raise Unsupported(f"{library}: expected cpu, one sequence, and half = compile = false beside it")
            if library == "candle":
                from candle import CandleModel as cls
            elif library == "tinygrad":
                from tiny import TinyModel as cls
            else:
                raise Unsupported(f"library: expected candle or tinygrad, found '{library}'")
        elif device != "cpu":
            from cuda_model import CudaModel as cls
        return object.__new__(cls)

    def __init__(self, path: str, device: str, n_ctx: int, options: dict):
        self.half, compiled = options["half"], options["compile"]
        if device != "cpu" and not torch.cuda.is_available():
            raise MissingDependency(f"device '{device}': this torch sees no CUDA device; use --device cpu")
        self.device, self.n_ctx, self.compiled = device, n_ctx, compiled
        stages = Spans(self.sync)
        if device != "cpu":
            self._start()
            stages.end("device")
        file = Gguf(path)
        self.config = c = Config.from_gguf(file)
        self.vocab = c.vocab
        stages.end("parse")
        self.dtype = self._sixteen_bit(file) if self.half else torch.float32
        make = lambda *tensors: self._linear(list(tensors))
        in_block = make
        if bnb := options.get("bnb"):
            from bnb import KINDS

            in_block = lambda *tensors: KINDS[bnb](list(tensors), self.dtype, device)
        self.embedding = self._linear([file.tensor("token_embd.weight")], lookup=True)
        self.head = self.embedding if c.tied else make(file.tensor("output.weight", (c.vocab, c.dim)))
        self.output_norm = self._vector(file.tensor("output_norm.weight", (1, c.dim)))
        self.decode_dtype, self.kv_dtype = self._types(file)
        # In pieces, because sums by groups of a whole vocabulary (65 MB) would not fit the cache
        # and be slow.
        self.head_pieces = self.head.pieces(HEAD_TILES) if isinstance(self.head, Tiles) else [self.head]
        self.layers = []
        for i in range(c.layers):
            t = c.block(file, i)
            self.layers.append(
                Layer(
                    self._vector(t["attn_norm"]),
                    in_block(t["attn_q"], t["attn_k"], t["attn_v"]),
                    in_block(t["attn_output"]),
                    self._vector(t["ffn_norm"]),
                    in_block(t["ffn_gate"], t["ffn_up"]),
                    in_block(t["ffn_down"]),
                    self._cache(),
                    self._cache(),
                )
            )
        self.rope = torch.from_numpy(c.rope(n_ctx)).to(device)
        self.positions = torch.arange(n_ctx, device=device)
        self._decode, self._layer = self._decode_step, self._decode_layer
        self._logits = self._decode_logits
        self.compile_ns, self.graphs, self._wrapped = 0 if compiled else None, 0, False
        # A compiled function must always see the same object, so a layer and a step have their own
        # spans.
        self.layer_spans = self.step_spans = OFF
        if self.found:
            self.found.check()
        stages.end("weights")
        self.stages = stages.take()

    def _sixteen_bit(self, file: Gguf) -> torch.dtype:
        """The type of activations in prefill: bf16, or float32 if weights are multiplied in it because bf16 is slower."""
        wide = any(choice and choice.products == torch.float32 for choice in self._of_blocks(file))
        return torch.float32 if wide else torch.bfloat16

    def _choice(self, kind: str, rows: int, lookup: bool = False) -> Choice | None:
        """The path of such weights: the fastest one measured, or what is fastest with AVX-512."""
        if not self.half:
            return None
        if self.found and (choice := self.found.choice(kind, rows, lookup)):
            return choice
        return next((Choice(p) for p in ("int4pack", "tiles") if fits(p, kind, rows, lookup, self.compiled)), Choice("bf16"))

    def _of_blocks(self, file: Gguf) -> list[Choice | None]:
        """The paths of the weights of the first block."""
        names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
        tensors = [file.tensor(f"blk.0.{name}.weight") for name in names]
        return [self._choice(t.type, t.rows) for t in tensors]

    def _linear(self, tensors: list[Tensor], lookup: bool = False):
        """A layer for these weights, stacked by rows; `lookup` for one whose rows are looked up too."""
        return make_linear(tensors, self.dtype, self.device, lambda kind, rows: self._choice(kind, rows, lookup))

    def _cache(self) -> torch.Tensor:
        """Keys or values of one layer."""
        c = self.config
        return torch.zeros(c.kv_heads, self.n_ctx, c.head_dim, dtype=self.kv_dtype, device=self.device)

    def _types(self, file: Gguf) -> tuple[torch.dtype, torch.dtype]:
        """Types of activations in decode steps and of the cache.

        Tiles have f16 scales. Inductor does not vectorise a kernel with both f16 and bf16 in it, so decoding over
        tiles and fused weights computes in f32, with an f16 cache if no layer beside it has bf16 in and out.
        """
        if not self.half:
            return self.dtype, self.dtype
        wide = isinstance(self.head, Tiles) or getattr(self.head, "fused", False)
        paths = {choice.path for choice in self._of_blocks(file)}
        wide |= bool(paths & {"tiles", "f16", "f32"})
        sixteen = {"int4pack", "bf16"} & paths
        return (torch.float32 if wide else self.dtype), torch.float16 if wide and not sixteen else torch.bfloat16

    def _start(self):
        """Prepares the device."""

    def _vector(self, tensor: Tensor) -> torch.Tensor:
        return torch.from_numpy(dequantize(tensor)[0]).to(self.device)

    def _compile_once(self):
        """Wraps the functions that are compiled on their first call. `compile_ns` counts that, not the load.

        One layer is compiled and used for all: a graph of 16 layers took 111 s to build where this took 33 s,
        on the same busy machine.
        """
        if not self.compiled or self._wrapped:
            return
        begin = time.monotonic_ns()
        import torch._dynamo
        import torch._inductor.config as inductor

        torch._dynamo.config.suppress_errors = False
        torch._dynamo.config.recompile_limit = 64
        self._wrap(inductor)
        self._wrapped = True
        self.compile_ns += time.monotonic_ns() - begin

    def _wrap(self, inductor):
        tune_inductor()
        wrap = lambda f: timed(self, torch.compile(f, fullgraph=True, dynamic=False))
        self._layer, self._head_piece = wrap(self._decode_layer), wrap(self._head_piece)
        to_dense = wrap(dense_tiles)
        for tiles in (p for w in self.weights() for p in getattr(w, "parts", [w]) if isinstance(p, Tiles)):
            tiles.to_dense = to_dense

    def _norm(self, x, weight, dtype):
        """RMS norm of float32 `[T, dim]`, returned as `dtype`."""
        return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.config.eps) * weight).to(dtype)

    @staticmethod
    def _rotate(x, rope):
        """Rotates pairs (2i, 2i + 1) of `[T, heads, head_dim]` in float32, the row order of a GGUF."""
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
        """Runs positions `start`… of a prompt after those in the cache: `[T]` to hidden states `[T, dim]`."""
        n, dtype = tokens.shape[0], self.dtype
        end = start + n
        seen = self.positions[:end] <= self.positions[start:end, None] if start else None
        x = self.embedding.lookup(tokens).float()  # a float32 residual stream costs nothing
        rope, spans = self.rope[start:end], self.spans
        spans.end("embedding")
        for layer in self.layers:
            h = self._norm(x, layer.attn_norm, dtype)
            spans.end("norm")
            qkv = layer.qkv.gemm(h)
            spans.end("projections")
            y = self._attention(qkv, layer, rope, start, seen)
            spans.end("attention")
            x = x + layer.attn_output.gemm(y)
            spans.end("projections")
            h = self._norm(x, layer.ffn_norm, dtype)
            spans.end("norm")
            gate, up = layer.gate_up.gemm(h).chunk(2, dim=-1)
            x = x + layer.down.gemm(F.silu(gate) * up)
            spans.end("mlp")
        return x

    def _attention(self, qkv, layer, rope, start, seen):
        """Attention of positions `start`… of a prompt, which the cache gets: `[T, rows]` to `[T, heads * head_dim]`.
        `seen` is the mask, or None for positions from 0 on."""
        q, k, v = self._qkv(qkv, rope)
        end, dtype = start + qkv.shape[0], self.dtype
        layer.k_cache[:, start:end], layer.v_cache[:, start:end] = k, v
        if start:
            k, v = layer.k_cache[:, :end], layer.v_cache[:, :end]
        y = F.scaled_dot_product_attention(
            q.to(dtype)[None], k.to(dtype)[None], v.to(dtype)[None], attn_mask=seen, is_causal=not start, enable_gqa=True
        )
        return y[0].transpose(0, 1).reshape(qkv.shape[0], -1)

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
        """The same through the library's attention, which is faster if nothing fuses."""
        mask = (self.positions <= position)[None, None, None]
        k, v = layer.k_cache[None], layer.v_cache[None]
        y = F.scaled_dot_product_attention(q.to(k.dtype)[None], k, v, attn_mask=mask, enable_gqa=True)
        return y[0].transpose(0, 1).reshape(1, -1)

    def _attention_step(self, qkv, layer, rope, position):
        """The same for one `position` `[1]`."""
        q, k, v = self._qkv(qkv, rope)
        layer.k_cache.index_copy_(1, position, k.to(self.kv_dtype))
        layer.v_cache.index_copy_(1, position, v.to(self.kv_dtype))
        attend = self._attend if self.compiled and self.device == "cpu" else self._attend_sdpa
        return attend(q, layer, position)

    def _decode_layer(self, layer, x, rope, position):
        """One block over one position: takes hidden state `[1, dim]` to the next."""
        dtype, spans = self.decode_dtype, self.layer_spans
        h = self._norm(x, layer.attn_norm, dtype)
        spans.end("norm")
        qkv = layer.qkv.gemv(h)
        spans.end("projections")
        attended = self._attention_step(qkv, layer, rope, position).to(dtype)
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

    def _ids(self, tokens: list[int]) -> torch.Tensor:
        return torch.tensor(tokens, device=self.device)

    @torch.inference_mode()
    def prefill(self, tokens: list[int], start: int) -> torch.Tensor:
        """Runs ids after a context of `start`; returns the logits `[vocab]`, float32, of the last position."""
        self._compile_once()
        return self._last_logits(self._forward(self._ids(tokens), start)[-1:], self.spans)

    @torch.inference_mode()
    def fill(self, tokens: list[int]) -> None:
        """Fills the cache and computes no logits."""
        self._compile_once()
        self._forward(self._ids(tokens))

    @torch.inference_mode()
    def decode(self, token: int, position: int) -> torch.Tensor:
        """The logits `[vocab]`, float32, after `token`."""
        return self._logits(self._ids([token]), self._ids([position]))

    @torch.inference_mode()
    def greedy(self, logits: torch.Tensor, position: int):
        """Like `Engine.greedy`, but the decode step contains the argmax and the token stays on the device."""
        token, position = logits.argmax(-1, keepdim=True), self._ids([position])
        while True:
            yield token.item()
            token = self._decode(token, position).clone()
            position += 1

    def row(self, logits: torch.Tensor):
        """The logits as a numpy array."""
        return logits.cpu().numpy()

    @torch.inference_mode()
    def score(self, tokens: list[int], first: int):
        """Logits of positions `first`… of a prompt, some rows at a time."""
        self._compile_once()
        for part in self._forward(self._ids(tokens))[first:].split(SCORE_ROWS):
            if part.shape[0]:
                yield self.row(self.head.gemm(self._norm(part, self.output_norm, self.dtype)).float())

    def watch(self, spans) -> None:
        """Starts or stops timing the stages. The stages within one compiled graph cannot be separated."""
        self._compile_once()
        spans.resume()
        self.spans = spans
        self.step_spans = OFF if self.compiled and self.device != "cpu" else spans
        self.layer_spans = OFF if self.compiled else spans

    def weight_bytes(self) -> dict[str, int]:
        """Bytes of weights that a decode step reads, by stage."""
        size = lambda weights: sum(w.mapped_bytes + w.private_bytes for w in weights)
        projections = size(w for layer in self.layers for w in (layer.qkv, layer.attn_output))
        mlp, head = size(w for layer in self.layers for w in (layer.gate_up, layer.down)), size([self.head])
        if not self.compiled:
            return {"projections": projections, "mlp": mlp, "head": head}
        return {"layers": projections + mlp, "head": head} if self.device == "cpu" else {}

    def weights(self):
        """Every layer of weights, once."""
        for layer in self.layers:
            yield from (layer.qkv, layer.attn_output, layer.gate_up, layer.down)
        yield self.embedding
        if self.head is not self.embedding:
            yield self.head

    def memory(self) -> dict[str, int | None]:
        """Bytes held, by this engine's own account."""
        caches = [cache for layer in self.layers for cache in (layer.k_cache, layer.v_cache)]
        resident = [in_memory(c.data_ptr(), c.nbytes) for c in caches] if self.device == "cpu" else [None]
        return {
            "weights_mapped_bytes": sum(w.mapped_bytes for w in self.weights()),
            "weights_private_bytes": sum(w.private_bytes for w in self.weights()),
            "kv_bytes": sum(c.nbytes for c in caches),
            "kv_resident_bytes": None if None in resident else sum(resident),
        }

    def facts(self) -> dict:
        """Types of the weights in products, of the products and of the cache; bytes of a decode step; kernels."""
        labels = dict.fromkeys(part for w in self.weights() for part in w.label.split("+"))
        arithmetic = {short(self.dtype), *(getattr(w, "compute", "f32") for w in self.weights())}
        compute = "int8" if "int8" in labels else coarsest(arithmetic)
        # All weights except an embedding that is only looked up.
        read = [w for w in self.weights() if w is not self.embedding or w is self.head]
        return {
            # The coarsest of all products: it may be that of prefill alone.
            "precision": {"weights": "+".join(labels), "compute": compute, "kv": short(self.kv_dtype)},
            "weight_bytes_per_token": sum(w.mapped_bytes + w.private_bytes for w in read),
            "settings": {
                "kernels": self.kernels(),
                **(self.found.settings() if self.found else {}),
                **getattr(self.layers[0].down, "settings", {}),
            },
            "notes": self.notes() + getattr(self.layers[0].down, "notes", []),
        }

    def kernels(self) -> str:
        """The kinds of linear layers in use, for the record."""
        parts = [part for w in self.weights() for part in getattr(w, "parts", [w])]
        return "+".join(dict.fromkeys(type(part).__name__ for part in parts))

    def notes(self) -> list[str]:
        """What readers of a table must know about this configuration."""
        notes, kernels = [], self.kernels()
        layers = [part for w in self.weights() for part in getattr(w, "parts", [w])]
        if any(isinstance(w, Dense) and w.label == "bf16" for w in layers):
            notes.append("16-bit means bf16 in dense weights: CPUs have few fast f16 products.")
        if any(isinstance(w, Dense) and w.fused for w in layers):
            notes.append("Decode multiplies dense weights in float32, through Inductor.")
        if tiles := [w for w in layers if isinstance(w, Tiles)]:
            notes.append(
                "Quantized weights that ATen has no kernel for stay the file's integers. Decode multiplies them in float32 "
                "through Inductor; scales are f16, exact for Q8_0, rounded once in K types. "
                f"Prefill makes them {short(tiles[0].products)}."
            )
        if "Int4Pack" in kernels:
            notes.append("4-bit weights: _weight_int4pack_mm_for_cpu, group 32, the file's integers, scales and zeros rounded to bf16.")
        if any(isinstance(w, Dense) and w.label != "f32" for w in layers):
            notes.append("Dense weights were dequantized in float32 and rounded once to 16 bits.")
        if self.compiled:
            notes.append("Compiled in the first generation: decode layer, output head and prefill dequantization. Prefill's rest is eager.")
        return notes + (self.found.notes() if self.found else [])
