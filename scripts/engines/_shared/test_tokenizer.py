"""The tokenizer of Python engines: known ids, what no text becomes, what is refused, and its answer to the harness."""

import json
import os
import time
from pathlib import Path

import pytest

tokenizers = pytest.importorskip("tokenizers")

from _shared import BadModel, Unsupported
from _shared.gguf_reader import Gguf
from _shared.test_support import Worker
from _shared.tokenizer import CUTS, Tokenizer, build

ROOT = Path(__file__).parents[3]
TINY = str(ROOT / "models/tiny.gguf")
SPECIAL = ("[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]")


def uncased():
    """The metadata of a GGUF file with the vocabulary of bert-base-uncased."""
    tokens = (ROOT / "models/vocab/bert-uncased.txt").read_text(encoding="utf-8").split("\n")[:30522]
    written = [t if t in SPECIAL else t[2:] if t.startswith("##") and len(t) > 2 else "\u2581" + t for t in tokens]
    ids = {"cls": 101, "seperator": 102, "unknown": 100, "padding": 0}
    metadata = {f"tokenizer.ggml.{name}_token_id": id for name, id in ids.items()}
    kinds = [2 if t == "[UNK]" else 3 if t in SPECIAL else 1 for t in tokens]
    return {**metadata, "tokenizer.ggml.model": "bert", "tokenizer.ggml.tokens": written, "tokenizer.ggml.token_type": kinds}


def test_ids_of_berts_vocabulary_are_those_of_its_own_tokenizer():
    made, compared = build(uncased(), "m.gguf"), 0
    for line in (ROOT / "tests/data/wordpiece.jsonl").read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        if not any(name in case["text"] for name in SPECIAL):  # there a text becomes control tokens
            assert made.encode(case["text"]).ids == case["ids"], case["text"]
            compared += 1
    assert compared > 200
    ids = made.encode("Is it [SEP] or [CLS]?").ids
    assert (ids.count(101), ids.count(102), ids[0], ids[-1]) == (1, 1, 101, 102)


def byte_level(pre, **more):
    """The metadata of a byte-level BPE: all bytes, and a few words."""
    letters = [chr(b) for b in range(0x21, 0x7F)] + ["Ġ", "Ċ"]
    merges = ["h e", "l l", "he ll", "hell o", "Ġ hello", "1 2", "12 3"]
    tokens = [*letters, *(merge.replace(" ", "") for merge in merges), "<s>", "<|tool|>"]
    kinds = [1] * (len(tokens) - 2) + [3, 4]
    metadata = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": tokens}
    metadata |= {"tokenizer.ggml.merges": merges, "tokenizer.ggml.token_type": kinds}
    return {**metadata, "tokenizer.ggml.bos_token_id": tokens.index("<s>"), **more}, tokens


@pytest.mark.parametrize("pre", CUTS)
def test_words_are_cut_as_the_file_says(pre):
    metadata, tokens = byte_level(pre)
    pieces = [tokens[id] for id in build(metadata, "m.gguf").encode("hello hello 123\n<s><|tool|>").ids]
    begin = ["<s>"] if pre == "llama-bpe" else []
    digits = {"llama-bpe": ["Ġ", "123"], "gpt-2": ["Ġ", "123"]}.get(pre, ["Ġ", "1", "2", "3"])
    assert pieces == [*begin, "hello", "Ġhello", *digits, "Ċ", "<", "s", ">", "<|tool|>"]


def test_flags_of_the_file_come_before_the_habits_of_its_family():
    metadata, tokens = byte_level("llama-bpe", **{"tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_eos_token": True})
    metadata["tokenizer.ggml.eos_token_id"] = end = tokens.index("<s>")
    assert build(metadata, "m.gguf").encode("hello").ids == [tokens.index("hello"), end]


def test_what_is_not_known_is_refused_by_name():
    with pytest.raises(Unsupported, match="tokenizer.ggml.model .* 'llama'"):
        build({"tokenizer.ggml.model": "llama"}, "m.gguf")
    with pytest.raises(Unsupported, match="tokenizer.ggml.pre .* 'viking'"):
        build(byte_level("viking")[0], "m.gguf")
    with pytest.raises(BadModel, match="two pieces, found 'hello'"):
        build(byte_level("gpt-2", **{"tokenizer.ggml.merges": ["hello"]})[0], "m.gguf")
    with pytest.raises(BadModel, match="tokens around a text"):
        build(byte_level("llama-bpe", **{"tokenizer.ggml.bos_token_id": None})[0], "m.gguf")
    with pytest.raises(BadModel, match="token types"):
        build(byte_level("gpt-2", **{"tokenizer.ggml.token_type": [1]})[0], "m.gguf")
    with pytest.raises(BadModel, match="unknown_token_id"):
        build({**uncased(), "tokenizer.ggml.unknown_token_id": 1 << 20}, "m.gguf")


def test_the_vocabulary_of_a_file_is_read_and_a_cut_one_refused(tmp_path):
    metadata = Gguf.vocabulary(TINY)
    tokens = metadata["tokenizer.ggml.tokens"]
    assert len(tokens) == len(metadata["tokenizer.ggml.token_type"]) and "Ġthe" in tokens
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(Path(TINY).read_bytes()[:2000])
    with pytest.raises(BadModel):
        Gguf.vocabulary(str(cut))


def test_texts_come_back_from_their_ids_alone_and_in_a_batch():
    made = Tokenizer(TINY)
    texts = ["Once upon a time, there was a harbour.", "ÜBER 12345\n\n漢字  end", "<|end_of_text|>"]
    together = made.ids(texts)
    assert together == [made.ids([text])[0] for text in texts]
    assert made.threads(texts[:1]) == 1
    vocabulary = Gguf.vocabulary(TINY)["tokenizer.ggml.tokens"]
    spelled = "".join(vocabulary[id] for id in together[2])
    assert spelled.endswith("<|end_of_text|>") and len(together[2]) > 2, "a text becomes no control token"


def test_a_worker_tokenizes_once_its_model_is_loaded():
    folder = {"LLM_BENCH_TOKENIZERS": str(Path(tokenizers.__file__).parents[1]), "RAYON_NUM_THREADS": "2"}
    with Worker("numpy", {"OMP_NUM_THREADS": "1", **folder}) as worker:
        assert "tokenize" in worker.ready["features"]
        worker.load(TINY)
        sent = time.monotonic_ns()
        answer = worker.ask(type="tokenize", id=7, texts=["Once upon a time", "a"], ids=True)
        assert (answer["type"], answer["id"], answer["threads"]) == ("tokenized", 7, 2), answer
        assert answer["counts"] == [len(ids) for ids in answer["ids"]]
        assert answer["tokenizer"].startswith("tokenizers ")
        assert sent <= answer["t_begin_ns"] <= answer["t_end_ns"] <= time.monotonic_ns()
        measured = worker.ask(type="tokenize", id=8, texts=["a"])
        assert measured["counts"] == answer["counts"][1:] and "ids" not in measured and measured["threads"] == 1
