"""The model of model.py for several sequences of equal length, on the CPU: each has a cache of its own, and the
weights are read once for all of them.
"""

import torch
import torch.nn.functional as F

from linear import Choice, fits, materialize
from model import Model

INT4_MOST = 4  # sequences up to which ATen's int4 kernel is faster than dense bf16 (see linear.py)
TOGETHER = 2048  # tokens of prompts that run together: limits the memory for activations


class BatchModel(Model):
    """`batch` sequences. Its cache is `[batch, kv_heads, n_ctx, head_dim]` in each layer."""

    batch: int  # set by `Model.batched`

    def _choice(self, kind, rows, lookup=False):
        # Tiles multiply one position at a time.
        if not self.half:
            return None
        return Choice("int4pack" if self.batch <= INT4_MOST and fits("int4pack", kind, rows, lookup) else "bf16")

    def _cache(self):
        c = self.config
        return torch.zeros(self.batch, c.kv_heads, self.n_ctx, c.head_dim, dtype=self.kv_dtype)

    @staticmethod
    def _head_piece(piece, x):
        return piece.gemm(x)

    def _last_logits(self, x, spans):
        """Logits float32 `[rows, vocab]` of hidden states `[rows, dim]`."""
        x = self._norm(x, self.output_norm, self.dtype)
        spans.end("norm")
        logits = torch.cat([self._head_piece(piece, x) for piece in self.head_pieces], dim=1).float()
        spans.end("head")
        return logits

    def _prompts(self, tokens, first):
        """Runs prompts `[some, T]` of the sequences from `first` on; returns the last hidden states `[some, dim]`."""
        c, spans, (some, n) = self.config, self.spans, tokens.shape
        x = self.embedding.lookup(tokens.flatten()).float()
        rope = self.rope[:n].repeat(some, 1, 1)
        spans.end("embedding")
        mine = slice(first, first + some)
        for layer in self.layers:
            h = self._norm(x, layer.attn_norm, self.dtype)
            spans.end("norm")
            qkv = layer.qkv.gemm(h)
            spans.end("projections")
            # [heads, some * T, head_dim] to [some, heads, T, head_dim].
            q, k, v = (t.unflatten(1, (some, n)).transpose(0, 1).to(self.dtype) for t in self._qkv(qkv, rope))
            layer.k_cache[mine, :, :n], layer.v_cache[mine, :, :n] = k, v
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            spans.end("attention")
            x = x + layer.attn_output.gemm(y.transpose(1, 2).reshape(some * n, -1))
            spans.end("projections")
            h = self._norm(x, layer.ffn_norm, self.dtype)
            spans.end("norm")
            gate, up = layer.gate_up.gemm(h).chunk(2, dim=-1)
            x = x + layer.down.gemm(F.silu(gate) * up)
            spans.end("mlp")
        return x.view(some, n, -1)[:, -1]

    def _attend_all(self, q, layer, position):
        """One query of each sequence `[batch, heads, head_dim]` over its cache up to `position` `[1]`."""
        c = self.config
        if not self.compiled:
            mask = (self.positions <= position)[None, None, None]
            k, v = layer.k_cache, layer.v_cache
            y = F.scaled_dot_product_attention(q.to(k.dtype).unsqueeze(2), k, v, attn_mask=mask, enable_gqa=True)
            return y.reshape(self.batch, -1)
        q = materialize(q.reshape(self.batch, c.kv_heads, -1, 1, c.head_dim).float() * c.head_dim**-0.5)
        scores = (q * layer.k_cache[:, :, None].float()).sum(-1)
        scores = scores.masked_fill(self.positions > position, float("-inf"))
        weights = materialize(torch.softmax(scores, dim=-1))
        return (weights.unsqueeze(-1) * layer.v_cache[:, :, None].float()).sum(3).view(self.batch, -1)

    def _decode_layer(self, layer, x, rope, position):
        """One block over one position of each sequence: takes hidden states `[batch, dim]` to the next."""
        dtype, spans = self.dtype, self.layer_spans
        h = self._norm(x, layer.attn_norm, dtype)
        spans.end("norm")
        qkv = layer.qkv.gemm(h)
        spans.end("projections")
        q, k, v = (t.transpose(0, 1) for t in self._qkv(qkv, rope))
        layer.k_cache.index_copy_(2, position, k.unsqueeze(2).to(self.kv_dtype))
        layer.v_cache.index_copy_(2, position, v.unsqueeze(2).to(self.kv_dtype))
        attended = self._attend_all(q, layer, position).to(dtype)
        spans.end("attention")
        x = x + layer.attn_output.gemm(attended)
        spans.end("projections")
        h = self._norm(x, layer.ffn_norm, dtype)
        spans.end("norm")
        gate, up = layer.gate_up.gemm(h).chunk(2, dim=-1)
        x = x + layer.down.gemm(F.silu(gate) * up)
        spans.end("mlp")
        return x

    @torch.inference_mode()
    def prefill_batch(self, prompts):
        """The logits `[batch, vocab]` of the prompts' last tokens, some prompts at a time."""
        self._compile_once()
        step = max(1, TOGETHER // len(prompts[0]))
        tokens = self._ids(prompts)
        last = [self._prompts(tokens[i : i + step], i) for i in range(0, self.batch, step)]
        return self._last_logits(torch.cat(last), self.spans)

    @torch.inference_mode()
    def greedy_batch(self, logits, position):
        """One id of each sequence, step by step."""
        tokens, position = logits.argmax(-1), self._ids([position])
        while True:
            yield tokens.tolist()
            tokens = self._decode_logits(tokens, position).argmax(-1)
            position += 1
