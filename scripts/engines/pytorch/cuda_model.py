"""The model on CUDA: weights uploaded through page-locked memory, decode steps as one CUDA graph, compiled prefill.

The compiled arm compiles one layer for decoding and one for prefill, each used for all layers of its kind, and
captures the whole decode step in a CUDA graph, from the embedding to the argmax. That is what mode
`reduce-overhead` does inside a compiled function; captured here, the step is a single launch without checks of
its inputs, and a step that cannot be captured is an error. Tests run all but the capture and the kernels on the
CPU.
"""

import time

import torch
import torch.nn.functional as F
from torch.nn.attention.bias import causal_lower_right

from compiled import timed
from model import Model
from packed import Upload, apply, attend, make_device_linear


class CudaModel(Model):
    """A loaded model on a CUDA device, or on the CPU in tests."""

    def __init__(self, path: str, device: str, n_ctx: int, options: dict):
        self.on_cpu, self.at, self._captured = torch.device(device).type == "cpu", 0, False
        if self.on_cpu:
            self.device = device
            self._start()
        super().__init__(path, device, n_ctx, options)
        self.upload = None  # its page-locked buffers are no longer needed
        if not self.on_cpu:
            torch.cuda.empty_cache()
            self.sync()

    def _start(self):
        if not self.on_cpu:
            torch.cuda.set_device(self.device)
            # cuDNN's attention builds a plan for each length, which costs more than it gains here.
            torch.backends.cuda.enable_cudnn_sdp(False)
        # Partial sums in f16 would cost accuracy and gain nothing at these sizes.
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
        self.upload = Upload(self.device)

    def _sixteen_bit(self, file):
        return torch.bfloat16 if file.tensor("blk.0.attn_q.weight").type == "BF16" else torch.float16

    def _linear(self, tensors, lookup=False):
        packed = self.compiled and self.dtype != torch.float32
        return make_device_linear(tensors, self.dtype, self.upload, packed)

    def _types(self, _file):
        # A compiled step keeps activations in float32: it reads weights as they are and multiplies in float32.
        return (torch.float32 if self.compiled else self.dtype), self.dtype

    def sync(self):
        """Waits for the device."""
        if not self.on_cpu:
            torch.cuda.synchronize(self.device)

    def memory(self):
        """What the device holds; the host holds no weights."""
        if self.on_cpu:
            return {}
        held = {"allocated": torch.cuda.memory_allocated, "reserved": torch.cuda.memory_reserved}
        return {f"device_{name}_bytes": read(self.device) for name, read in held.items()}

    def notes(self):
        notes, kernels = [], self.kernels()
        if "Packed" in kernels:
            notes.append(
                "Quantized weights stay the file's integers. Decode multiplies them in float32 through Triton kernels; scales "
                "are f16, exact but in K types, where their product is rounded once. Prefill makes them 16-bit, for cuBLAS."
            )
        if self.dtype != torch.float32 and "Dense" in kernels:
            notes.append("Dense weights are 16-bit; those of other types were dequantized in float32 and rounded once.")
        if self.compiled:
            notes.append(
                "The decode step is one CUDA graph over compiled layers, to the id on the host. Compiled and captured in the "
                "first generation. Prefill: compiled halves of layers, cuBLAS, flash attention, no CUDA graph."
            )
        return notes

    def _wrap(self, inductor):
        # Sizes change only where `_any` says so: layers of other types are other code.
        torch._dynamo.config.automatic_dynamic_shapes = False
        inductor.coordinate_descent_tuning = not self.on_cpu
        wrap = lambda f: timed(self, torch.compile(f, fullgraph=True))
        self._first, self._second = wrap(self._first), wrap(self._second)
        self._embed, self._layer, self._head = wrap(self._embed), wrap(self._decode_layer), wrap(self._head)

    # ---- prefill ----

    def _first(self, layer, x, rope, positions):
        """Up to attention: hidden states `[T, dim]` to q, k, v `[heads, T, head_dim]`; writes the cache."""
        q, k, v = self._qkv(layer.qkv.gemm(self._norm(x, layer.attn_norm, self.dtype)), rope)
        k, v = k.to(self.kv_dtype), v.to(self.kv_dtype)
        layer.k_cache.index_copy_(1, positions, k)
        layer.v_cache.index_copy_(1, positions, v)
        return q.to(self.kv_dtype), k, v

    def _second(self, layer, x, y):
        """From attention `[heads, T, head_dim]` to the next hidden states."""
        x = x + layer.attn_output.gemm(y.transpose(0, 1).flatten(1))
        gate, up = layer.gate_up.gemm(self._norm(x, layer.ffn_norm, self.dtype)).chunk(2, dim=-1)
        return x + layer.down.gemm(F.silu(gate) * up)

    def _forward(self, tokens, start=0):
        """Runs positions `start`… of a prompt after those in the cache: `[T]` to hidden states `[T, dim]`."""
        n, spans = tokens.shape[0], self.spans
        end = start + n
        x = self.embedding.lookup(tokens).float()
        rope, positions = self.rope[start:end], self.positions[start:end]
        spans.end("embedding")
        for layer in self.layers:
            # The compiled halves take any number of positions, from their first call on.
            q, k, v = self._first(layer, self._any(x), self._any(rope), self._any(positions))
            spans.end("projections")
            if start:
                k, v = layer.k_cache[:, :end], layer.v_cache[:, :end]
                mask = causal_lower_right(n, end)
                y = F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask, enable_gqa=True)
            else:
                y = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True, enable_gqa=True)
            spans.end("attention")
            x = self._second(layer, self._any(x), self._any(y[0], 1))
            spans.end("mlp")
        return x

    def _any(self, t, dim=0):
        """`t`, which may have another size in this dimension the next time."""
        if self.compiled and t.shape[dim] > 1:
            torch._dynamo.maybe_mark_dynamic(t, dim)
        return t

    def _last_logits(self, x, spans):
        if not self.compiled:
            return super()._last_logits(x, spans)
        logits = self._head(x)
        spans.end("head")
        return logits

    # ---- decode ----

    def _embed(self, token, position):
        """Hidden state `[1, dim]` and rotary angles of a position."""
        return self.embedding.lookup(token).float(), self.rope[position]

    def _head(self, x):
        """Logits float32 `[vocab]` of one hidden state."""
        return apply(self.head, x, self.config.eps, norm=self.output_norm)[0]

    def _decode_layer(self, layer, x, rope, position):
        if not self.compiled:
            return super()._decode_layer(layer, x, rope, position)
        eps = self.config.eps
        q, k, v = self._qkv(apply(layer.qkv, x, eps, norm=layer.attn_norm), rope)
        layer.k_cache.index_copy_(1, position, k.to(self.kv_dtype))
        layer.v_cache.index_copy_(1, position, v.to(self.kv_dtype))
        y = attend(q, layer.k_cache, layer.v_cache, position)
        x = apply(layer.attn_output, y, eps, residual=x)
        h = apply(layer.gate_up, x, eps, norm=layer.ffn_norm, swiglu=True)
        return apply(layer.down, h, eps, residual=x)

    def _attend_sdpa(self, q, layer, position):
        # Without a compiler the host knows the position: the library's attention reads the filled part, without a mask.
        k, v = layer.k_cache[None, :, : self.at + 1], layer.v_cache[None, :, : self.at + 1]
        y = F.scaled_dot_product_attention(q.to(k.dtype)[None], k, v, enable_gqa=True)
        return y[0].transpose(0, 1).reshape(1, -1)

    def _decode_logits(self, token, position):
        if not self.compiled:
            return super()._decode_logits(token, position)
        x, rope = self._embed(token, position)
        for layer in self.layers:
            x = self._layer(layer, x, rope, position)
        return self._head(x)

    def _step(self):
        """The token in `self.token` at `self.position`: to the logits, the next token, the next position."""
        self.logits = self._decode_logits(self.token, self.position)
        self.token.copy_(self.logits.argmax(-1, keepdim=True))
        self.position.add_(1)

    def _set(self, token: int, position: int):
        self.token.fill_(token)
        self.position.fill_(position)

    def _capture(self, token: int, position: int):
        """Compiles the step and captures it, on the token that it will run first: what it writes is right."""
        begin, compiled = time.monotonic_ns(), self.compile_ns
        self.token, self.position = self._ids([token]), self._ids([position])
        self.on_host = torch.zeros(1, dtype=torch.int64, pin_memory=not self.on_cpu)
        self._step()
        if self.on_cpu:
            self.run = self._step
        else:
            self.sync()
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(2):
                    self._set(token, position)
                    self._step()
            torch.cuda.current_stream().wait_stream(side)
            self.sync()
            torch.cuda.empty_cache()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._step()
            self.run = graph.replay
            self.sync()
        self._captured = True
        self._set(token, position)
        self.compile_ns = compiled + time.monotonic_ns() - begin

    @torch.inference_mode()
    def decode(self, token: int, position: int):
        if not self.compiled:
            self.at = position
            return super().decode(token, position)
        self._compile_once()
        if not self._captured:
            self._capture(token, position)
        self._set(token, position)
        self.run()
        return self.logits

    @torch.inference_mode()
    def greedy(self, logits, position: int):
        """Like `Engine.greedy`; compiled, a step is one launch and one wait."""
        token = int(logits.argmax())
        while not self.compiled:
            yield token
            self.at = position
            token = int(self._decode_step(self._ids([token]), self._ids([position])))
            position += 1
        yield token
        if not self._captured:
            self._capture(token, position)
        self._set(token, position)
        while True:
            self.run()
            # Enqueued behind the step, before it has run.
            self.on_host.copy_(self.token, non_blocking=True)
            if not self.on_cpu:
                torch.cuda.current_stream().synchronize()
            self.spans.end("layers")
            yield int(self.on_host)
