"""BERT from a GGUF file in PyTorch, on the CPU: the whole forward pass, which `torch.compile` gets for each shape."""

import time

import numpy as np
import torch
from torch import nn

from _shared import Encoder, Unsupported
from _shared.bert import Batch, BertConfig, normalized, padded
from _shared.gguf_reader import Gguf
from _shared.spans import Spans
from bert_layers import Fused, Library, linear, norm
from compiled import timed
from linear import dense, short
from model import Model


class Net(nn.Module):
    """Embeddings, layers, pooling and classifier."""

    def __init__(self, c: BertConfig, file: Gguf, n_ctx: int, layers: list[nn.Module], dtype: torch.dtype):
        super().__init__()
        found, head = c.embeddings(file), c.classifier(file)
        self.register_buffer("tokens", dense(found["token_embd"], dtype))
        self.register_buffer("first", torch.from_numpy(c.first(file, n_ctx)).to(dtype))
        self.norm, self.layers = norm(found, "token_embd_norm", c.eps, dtype), nn.ModuleList(layers)
        activation = {"tanh": nn.Tanh, "relu": nn.ReLU}.get(c.activation)
        self.head = nn.Sequential(linear(head, "cls"), activation(), linear(head, "cls.output")) if head else nn.Identity()

    def states(self, ids, real):
        """The hidden states behind the embeddings and behind each layer."""
        states = [self.norm(self.tokens[ids] + self.first[: ids.shape[1]])]
        for layer in self.layers:
            states.append(layer(states[-1], real))
        return states

    def forward(self, ids, real, pool):
        """Float32 `[texts, columns]`."""
        return self.head((pool[:, None] @ self.states(ids, real)[-1].float())[:, 0])


class Bert(Encoder):
    """A loaded model. With `half` products are as narrow as the file, without it they are the library's in float32."""

    options, prepare = Model.options, Model.prepare

    def __init__(self, path: str, device: str, n_ctx: int, options: dict):
        if given := [name for name in ("bnb", "library", "path") if options[name]]:
            raise Unsupported(f"{', '.join(given)}: this option is for generation, not for encoders")
        self.compiled, self.half = options["compile"], options["half"]
        stages = Spans(lambda: None)
        file = Gguf(path)
        self.config = c = BertConfig.from_gguf(file)
        self.n_ctx, self.vocab, self.embedding = min(n_ctx, c.context), c.vocab, file.tensor("token_embd.weight")
        self.kinds = {tensor.type for tensor in c.weights(file)}
        stages.end("parse")
        narrow = self.half and "F32" not in self.kinds and torch.cpu._is_avx512_bf16_supported()
        self.dtype = torch.bfloat16 if narrow else torch.float32
        make = lambda t, *names: linear(t, *names, dtype=self.dtype)
        blocks = [c.block(file, i) for i in range(c.layers)]
        layers = [Fused(c, t, make, self.dtype) if self.half else Library(c, t) for t in blocks]
        self.net = Net(c, file, self.n_ctx, layers, self.dtype).eval().requires_grad_(False)
        self.forward, self.compile_ns, self.graphs = self.net, 0 if self.compiled else None, 0
        stages.end("weights")
        self.stages = stages.take()

    def _compile_once(self) -> None:
        if not self.compiled or self.forward is not self.net:
            return
        begin = time.monotonic_ns()
        import torch._dynamo
        import torch._inductor.config as inductor

        torch._dynamo.config.suppress_errors = False
        # Every shape of a batch is a graph of its own; beyond a limit the compiler would refuse one.
        torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 1 << 20
        inductor.freezing = True  # packs the weights for oneDNN
        self.forward = timed(self, torch.compile(self.net, fullgraph=True, dynamic=False))
        self.compile_ns += time.monotonic_ns() - begin

    @staticmethod
    def _inputs(batch: Batch) -> tuple:
        return torch.from_numpy(batch.ids), None if batch.even else torch.from_numpy(batch.real)

    @torch.no_grad()
    def encode(self, texts: list[list[int]]) -> np.ndarray:
        """The texts side by side."""
        self._compile_once()
        batch = padded(texts)
        vectors = self.forward(*self._inputs(batch), torch.from_numpy(batch.pool(self.config.pooling))).numpy()
        return vectors if self.config.labels else normalized(vectors)

    @torch.no_grad()
    def hidden(self, texts: list[list[int]]) -> np.ndarray:
        """The states of the tokens, without those of padding and without compilation."""
        batch = padded(texts)
        return torch.stack(self.net.states(*self._inputs(batch)))[:, torch.from_numpy(batch.real)].float().numpy()

    def facts(self) -> dict:
        """Types, and what was rounded."""
        label, notes = short(self.dtype), []
        if not self.half:
            fast = "on" if torch.backends.mha.get_fastpath_enabled() else "off"
            notes.append(f"torch.nn.TransformerEncoderLayer without nested tensors; its fast path is {fast}.")
        elif self.kinds != {"F32"}:
            notes.append(f"Weights and hidden states are {label}.")
        if self.compiled:
            notes.append("The whole forward pass is compiled for each shape of a batch, in its first request.")
        return {
            "precision": {"weights": label, "compute": label, "kv": "none"},
            "settings": {"freezing": True} if self.compiled else {},
            "notes": notes,
        }

    def memory(self) -> dict[str, int | None]:
        """Bytes held. Those of packed copies are unknown."""
        total = sum(array.nbytes for array in (*self.net.parameters(), *self.net.buffers()))
        mapped = self.net.tokens.nbytes if self.net.tokens.data_ptr() == self.embedding.raw.ctypes.data else 0
        return {"weights_mapped_bytes": mapped, "weights_private_bytes": total - mapped}
