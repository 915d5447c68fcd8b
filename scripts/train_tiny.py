#!/usr/bin/env python3
"""Trains the shipped model `tiny`: a LLaMA of about 1 MB, and the golden values to test it with.

    python scripts/train_tiny.py --out models/tiny.gguf             # tokenizer, training, GGUF
    python scripts/train_tiny.py --out models/tiny.gguf --golden    # golden values from that file

Needs Python 3.11 or later and `pip install torch numpy gguf tokenizers`. The shipped
file took 23 minutes and 1.3 GB of memory on two CPU cores that were busy with other work, without a
GPU; the golden values take seconds. All randomness is seeded, but another version of torch (the shipped
file: 2.15) or another processor rounds differently and so gives another file: write the golden values
again whenever the file has changed.

The model uses every path that a real LLaMA 3 uses: grouped-query attention, tied embeddings,
interleaved rotary embeddings with LLaMA 3's frequency scaling as `rope_freqs.weight`, byte-level BPE
with LLaMA 3's split pattern and special tokens, a chat template. It is trained with the scaled
frequencies, and the original context is so short (64) that an engine which ignores them writes other
text from the first words on.
"""

import argparse
import hashlib
import json
import math
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import tiny_corpus

ROOT = Path(__file__).resolve().parent.parent

# LLaMA 3's pre-tokenizer, which every engine knows as `llama-bpe`.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    vocab: int = 512
    hidden: int = 128
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 256
    context: int = 512
    eps: float = 1e-5
    rope_base: float = 500_000.0
    # LLaMA 3's rope scaling.
    rope_factor: float = 32.0
    rope_low: float = 1.0
    rope_high: float = 4.0
    rope_context: int = 64

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads


SHAPE = Shape()


# ---------------------------------------------------------------- rotary embedding


def rope_divisors(shape: Shape) -> torch.Tensor:
    """`rope_freqs.weight`: the divisor of each of the head_dim/2 frequencies.

    Wavelengths shorter than context/high stay, those longer than context/low are stretched by the
    factor, and those in between are blended (Llama 3.1, `apply_scaling`).
    """
    inv_freq = shape.rope_base ** -(torch.arange(0, shape.head_dim, 2, dtype=torch.float64) / shape.head_dim)
    divisors = []
    for wavelength in (2 * math.pi / inv_freq).tolist():
        if wavelength < shape.rope_context / shape.rope_high:
            divisors.append(1.0)
        elif wavelength > shape.rope_context / shape.rope_low:
            divisors.append(shape.rope_factor)
        else:
            smooth = (shape.rope_context / wavelength - shape.rope_low) / (shape.rope_high - shape.rope_low)
            divisors.append(1 / ((1 - smooth) / shape.rope_factor + smooth))
    return torch.tensor(divisors, dtype=torch.float32)


def rope_table(shape: Shape, divisors: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, [n, head_dim/2] each."""
    inv_freq = shape.rope_base ** -(torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim)
    angles = torch.outer(torch.arange(n, dtype=torch.float32), inv_freq / divisors)
    return angles.cos(), angles.sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates the pairs (2i, 2i+1), the order of a `llama` GGUF; x is [..., n, head_dim]."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


# ---------------------------------------------------------------- model


def weight_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Every trained tensor under its GGUF name, in file order; matrices are [out, in]."""
    kv = shape.kv_heads * shape.head_dim
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (shape.vocab, shape.hidden)}
    for i in range(shape.layers):
        shapes |= {
            f"blk.{i}.attn_norm.weight": (shape.hidden,),
            f"blk.{i}.attn_q.weight": (shape.hidden, shape.hidden),
            f"blk.{i}.attn_k.weight": (kv, shape.hidden),
            f"blk.{i}.attn_v.weight": (kv, shape.hidden),
            f"blk.{i}.attn_output.weight": (shape.hidden, shape.hidden),
            f"blk.{i}.ffn_norm.weight": (shape.hidden,),
            f"blk.{i}.ffn_gate.weight": (shape.ffn, shape.hidden),
            f"blk.{i}.ffn_up.weight": (shape.ffn, shape.hidden),
            f"blk.{i}.ffn_down.weight": (shape.hidden, shape.ffn),
        }
    return shapes | {"output_norm.weight": (shape.hidden,)}


def initial_weights(shape: Shape) -> dict[str, torch.Tensor]:
    weights = {}
    for name, dims in weight_shapes(shape).items():
        if len(dims) == 1:
            tensor = torch.ones(dims)
        else:
            # Layers that write to the residual stream start smaller, so that their sum does not
            # grow with depth.
            writes = name.endswith(("attn_output.weight", "ffn_down.weight"))
            tensor = torch.randn(dims) * (0.04 / math.sqrt(2 * shape.layers) if writes else 0.04)
        weights[name] = tensor.requires_grad_()
    return weights


def forward(w: dict[str, torch.Tensor], tokens: torch.Tensor, cos, sin, shape: Shape = SHAPE) -> torch.Tensor:
    """Logits [batch, n, vocab] for ids [batch, n]."""
    batch, n = tokens.shape

    def heads(x, count):
        return x.view(batch, n, count, shape.head_dim).transpose(1, 2)

    x = F.embedding(tokens, w["token_embd.weight"])
    for i in range(shape.layers):
        blk = {k.removeprefix(f"blk.{i}.").removesuffix(".weight"): v for k, v in w.items() if k.startswith(f"blk.{i}.")}
        h = F.rms_norm(x, (shape.hidden,), blk["attn_norm"], shape.eps)
        q = rotate(heads(h @ blk["attn_q"].T, shape.heads), cos[:n], sin[:n])
        k = rotate(heads(h @ blk["attn_k"].T, shape.kv_heads), cos[:n], sin[:n])
        v = heads(h @ blk["attn_v"].T, shape.kv_heads)
        groups = shape.heads // shape.kv_heads
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + attended.transpose(1, 2).reshape(batch, n, shape.hidden) @ blk["attn_output"].T
        h = F.rms_norm(x, (shape.hidden,), blk["ffn_norm"], shape.eps)
        x = x + (F.silu(h @ blk["ffn_gate"].T) * (h @ blk["ffn_up"].T)) @ blk["ffn_down"].T
    return F.rms_norm(x, (shape.hidden,), w["output_norm.weight"], shape.eps) @ w["token_embd.weight"].T


# ---------------------------------------------------------------- tokenizer


def with_llama3_splitting(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train_tokenizer(texts: list[str], shape: Shape) -> tuple[list[str], list[str]]:
    """Tokens by id (256 bytes, then merges, then the special tokens) and merges by rank."""
    tokenizer = with_llama3_splitting(Tokenizer(models.BPE()))
    trainer = trainers.BpeTrainer(
        vocab_size=shape.vocab - len(tiny_corpus.SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    plain = texts
    for special in tiny_corpus.SPECIAL:
        plain = [t.replace(special, "\n") for t in plain]
    tokenizer.train_from_iterator(plain, trainer)
    state = json.loads(tokenizer.to_str())["model"]
    tokens = [token for token, _ in sorted(state["vocab"].items(), key=lambda item: item[1])]
    merges = [" ".join(m) if isinstance(m, list) else m for m in state["merges"]]
    assert len(tokens) == 256 + len(merges) == shape.vocab - len(tiny_corpus.SPECIAL), len(tokens)
    return tokens + tiny_corpus.SPECIAL, merges


def build_tokenizer(tokens: list[str], merges: list[str]) -> Tokenizer:
    """A tokenizer built from the contents of the GGUF, as an engine would build it."""
    vocab = {token: i for i, token in enumerate(tokens)}
    pairs = [tuple(m.split(" ")) for m in merges]
    tokenizer = with_llama3_splitting(Tokenizer(models.BPE(vocab=vocab, merges=pairs, ignore_merges=True)))
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in tiny_corpus.SPECIAL])
    assert tokenizer.get_vocab_size() == len(tokens)
    return tokenizer


def check_round_trip(tokenizer: Tokenizer) -> None:
    for text in [
        "The red boat sailed home.",
        "  two spaces,\ttabs\r\n\n\nand lines \n",
        "I'll say it's 12345.67 o'clock, WE'RE late",
        "Größe, naïve, señor, Łódź, Ελλάδα, Привет, 駅の前, 안녕, שלום, مرحبا",
        "emoji 🦀👩‍🚀 and e\u0301 combined, \u200b zero width",
        "def f(x):\n    return {x: [1, 2]}  # code",
    ]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text, text


# ---------------------------------------------------------------- training


def packed_rows(documents: list[list[int]], length: int) -> torch.Tensor:
    """Rows of `length` + 1 ids; each starts with the beginning of a document, and its last document is cut off."""
    rows, row = [], []
    for document in documents:
        row += document
        if len(row) > length:
            rows.append(row[: length + 1])
            row = []
    return torch.tensor(rows)


def learning_rate(step: int, steps: int, peak: float) -> float:
    warmup = min(100, steps // 10)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))))


def train(rows: torch.Tensor, held_out: torch.Tensor, steps: int, batch: int, peak: float) -> tuple[dict, float]:
    weights = initial_weights(SHAPE)
    cos, sin = rope_table(SHAPE, rope_divisors(SHAPE), SHAPE.context)
    matrices = [p for p in weights.values() if p.dim() == 2]
    vectors = [p for p in weights.values() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}],
        lr=peak, betas=(0.9, 0.98), eps=1e-9, fused=True,
    )

    def loss_of(rows):
        logits = forward(weights, rows[:, :-1], cos, sin)
        return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())

    started = time.monotonic()
    order = torch.empty(0, dtype=torch.long)
    for step in range(steps):
        if len(order) < batch:
            order = torch.cat([order, torch.randperm(len(rows))])
        chosen, order = order[:batch], order[batch:]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        loss = loss_of(rows[chosen])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step:5}  loss {loss.item():.4f}  {time.monotonic() - started:6.1f} s", flush=True)
    with torch.no_grad():
        final = torch.stack([loss_of(part) for part in held_out.split(8)]).mean().item()
    print(f"held-out loss {final:.4f} nats per token", flush=True)
    return {name: tensor.detach() for name, tensor in weights.items()}, final


# ---------------------------------------------------------------- file


def write_gguf(path: Path, weights: dict[str, torch.Tensor], tokens: list[str], merges: list[str]) -> None:
    w = gguf.GGUFWriter(path, "llama")
    w.add_name("llm-bench tiny")
    w.add_description("A very small LLaMA, trained on made-up stories about a harbour, for tests and first looks")
    w.add_license("MIT OR Apache-2.0")
    w.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    w.add_block_count(SHAPE.layers)
    w.add_context_length(SHAPE.context)
    w.add_embedding_length(SHAPE.hidden)
    w.add_feed_forward_length(SHAPE.ffn)
    w.add_head_count(SHAPE.heads)
    w.add_head_count_kv(SHAPE.kv_heads)
    w.add_layer_norm_rms_eps(SHAPE.eps)
    w.add_rope_freq_base(SHAPE.rope_base)
    w.add_rope_dimension_count(SHAPE.head_dim)
    w.add_vocab_size(SHAPE.vocab)

    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("llama-bpe")
    w.add_token_list(tokens)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    w.add_token_types([control if t in tiny_corpus.SPECIAL else normal for t in tokens])
    w.add_token_merges(merges)
    w.add_bos_token_id(tokens.index(tiny_corpus.BEGIN))
    w.add_eos_token_id(tokens.index(tiny_corpus.END))
    w.add_eot_token_id(tokens.index(tiny_corpus.TURN_END))
    w.add_add_bos_token(True)
    w.add_chat_template(CHAT_TEMPLATE)

    w.add_tensor("rope_freqs.weight", rope_divisors(SHAPE).numpy())
    for name, tensor in weights.items():
        w.add_tensor(name, tensor.numpy().astype(np.float16 if tensor.dim() == 2 else np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def read_gguf(path: Path) -> tuple[dict[str, torch.Tensor], torch.Tensor, Tokenizer]:
    """Float32 weights, rope divisors and tokenizer, all from the file alone."""
    reader = gguf.GGUFReader(path)
    tensors = {t.name: torch.from_numpy(np.array(t.data, dtype=np.float32)) for t in reader.tensors}
    divisors = tensors.pop("rope_freqs.weight")
    found = {name: tuple(t.shape) for name, t in tensors.items()}
    assert found == weight_shapes(SHAPE), found

    def value(key):
        return reader.fields[key].contents()

    expected = {
        "general.architecture": "llama", "llama.block_count": SHAPE.layers, "llama.context_length": SHAPE.context,
        "llama.embedding_length": SHAPE.hidden, "llama.feed_forward_length": SHAPE.ffn,
        "llama.attention.head_count": SHAPE.heads, "llama.attention.head_count_kv": SHAPE.kv_heads,
        "llama.rope.freq_base": SHAPE.rope_base, "llama.rope.dimension_count": SHAPE.head_dim,
        "llama.vocab_size": SHAPE.vocab, "tokenizer.ggml.pre": "llama-bpe", "tokenizer.chat_template": CHAT_TEMPLATE,
    }
    for key, want in expected.items():
        assert value(key) == want, (key, value(key), want)
    tokenizer = build_tokenizer(value("tokenizer.ggml.tokens"), value("tokenizer.ggml.merges"))
    check_round_trip(tokenizer)
    return tensors, divisors, tokenizer


# ---------------------------------------------------------------- golden values


# Every golden token leads the next likeliest by more than this, in logits, so that rounding in
# float32 or float16 does not change the choice. Arithmetic in bfloat16 or int8 may still change it.
LEAST_GAP = 0.05


def greedy(weights, divisors, prompt: list[int], n: int) -> tuple[list[int], list[float]]:
    """The likeliest continuation, and each token's lead over the next likeliest."""
    cos, sin = rope_table(SHAPE, divisors, SHAPE.context)
    ids, gaps = list(prompt), []
    for _ in range(n):
        top = forward(weights, torch.tensor([ids]), cos, sin)[0, -1].topk(2)
        gaps.append((top.values[0] - top.values[1]).item())
        ids.append(top.indices[0].item())
    return ids[len(prompt):], gaps


def chat_prompt(question: str) -> str:
    """The chat template for one question, without the begin mark."""
    return tiny_corpus.turn("user", question) + tiny_corpus.turn("assistant", "").removesuffix(tiny_corpus.TURN_END)


def golden(path: Path, n: int = 48) -> dict:
    weights, divisors, tokenizer = read_gguf(path)
    bos = tokenizer.token_to_id(tiny_corpus.BEGIN)

    def encode(text):
        return [bos] + tokenizer.encode(text, add_special_tokens=False).ids

    prompts = tomllib.loads((ROOT / "prompts" / "tiny.toml").read_text())["prompt"]
    texts = {p["id"]: p["text"] for p in prompts}
    texts["chat-template"] = chat_prompt("Who are you?")
    generations = []
    for name, text in texts.items():
        ids = encode(text)
        produced, gaps = greedy(weights, divisors, ids, n)
        assert min(gaps) > LEAST_GAP, f"{name}: a lead of only {min(gaps):.4f}, choose another prompt"
        unscaled, _ = greedy(weights, torch.ones_like(divisors), ids, n)
        same = next((i for i, (x, y) in enumerate(zip(produced, unscaled)) if x != y), n)
        generations.append({
            "id": name, "prompt": text, "prompt_ids": ids, "ids": produced,
            "text": tokenizer.decode(produced, skip_special_tokens=False),
            "smallest_gap": round(min(gaps), 4), "smallest_gap_at": gaps.index(min(gaps)),
            "differs_without_rope_freqs_at": same if same < n else None,
        })

    # Teacher-forced over the whole context, on documents that training has not seen.
    ids = []
    for document in tiny_corpus.documents(seed=3, n_chars=4000):
        ids += tokenizer.encode(document, add_special_tokens=False).ids
    ids = ids[: SHAPE.context]
    assert len(ids) == SHAPE.context

    def logits_with(divisors):
        return forward(weights, torch.tensor([ids]), *rope_table(SHAPE, divisors, SHAPE.context))[0]

    logits = logits_with(divisors)
    error = logits_with(torch.ones_like(divisors)) - logits
    positions = []
    for position in (0, 63, 127, 130, 200, 255, 300, 383, 450, 511):
        row = logits[position]
        top = row.topk(2).values
        positions.append({
            "position": position, "argmax": row.argmax().item(), "gap": round((top[0] - top[1]).item(), 4),
            "logits": [float(f"{v:.7g}") for v in row[:8].tolist()],
        })
    return {
        "about": "Golden values of tiny.gguf: float32 arithmetic on the file's own weights, in PyTorch. "
                 "`ids` is the greedy continuation of `prompt_ids`; `smallest_gap` is the least lead, in logits, of "
                 "a chosen token over the next likeliest. `score` is teacher-forced: `logits` are the first eight "
                 "after position `position` has been read.",
        "model": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "generations": generations,
        "score": {
            "ids": ids,
            "logits_sd": round(logits.std().item(), 4),
            "nll_per_token": round(F.cross_entropy(logits[:-1], torch.tensor(ids[1:])).item(), 6),
            "nmse_without_rope_freqs": round((error.square().mean() / logits.square().mean()).item(), 4),
            "positions": positions,
        },
    }


def golden_text(values: dict) -> str:
    """JSON with one line for each list of numbers."""
    lists = []

    def pack(node):
        if isinstance(node, list) and node and all(isinstance(x, (int, float)) for x in node):
            lists.append(json.dumps(node))
            return f"@list{len(lists) - 1}@"
        if isinstance(node, list):
            return [pack(x) for x in node]
        return {k: pack(v) for k, v in node.items()} if isinstance(node, dict) else node

    text = json.dumps(pack(values), indent=2, ensure_ascii=False)
    for i, packed in enumerate(lists):
        text = text.replace(f'"@list{i}@"', packed)
    return text + "\n"


# ---------------------------------------------------------------- command line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "models" / "tiny.gguf", help="the GGUF file")
    parser.add_argument("--golden", action="store_true", help="do not train: write OUT's golden values beside it")
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--batch", type=int, default=8, help="rows of 512 tokens")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="more than one gains little at these sizes")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)

    if args.golden:
        with torch.no_grad():
            values = golden(args.out)
        target = args.out.with_suffix(".golden.json")
        target.write_text(golden_text(values), encoding="utf-8")
        for g in values["generations"]:
            print(f"{g['id']}: {len(g['prompt_ids'])} prompt tokens, smallest gap {g['smallest_gap']}\n  {g['text']!r}")
        print(f"wrote {target}")
        return

    texts = list(tiny_corpus.documents(args.seed, 6_000_000))
    tokens, merges = train_tokenizer(texts[:4000], SHAPE)
    tokenizer = build_tokenizer(tokens, merges)
    check_round_trip(tokenizer)
    rows = packed_rows([e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)], SHAPE.context)
    unseen = [tokenizer.encode(t, add_special_tokens=False).ids for t in tiny_corpus.documents(2, 60_000)]
    n_characters = sum(map(len, texts))
    print(f"{n_characters:,} characters, {len(rows)} rows of {SHAPE.context} tokens", flush=True)
    weights, _ = train(rows, packed_rows(unseen, SHAPE.context), args.steps, args.batch, args.lr)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_gguf(args.out, weights, tokens, merges)
    read_gguf(args.out)
    print(f"wrote {args.out}, {args.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
