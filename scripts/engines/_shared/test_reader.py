"""Tests block formats and file reader against the `gguf` package, and damaged files."""

import struct

import gguf
import numpy as np
import pytest
import torch

from _shared import BadModel, UnsupportedQuant
from _shared.dequant import dequantize, multiply_out
from _shared.gguf_reader import TYPES, Gguf, Tensor
from _shared.test_support import random_blocks

NAMES = [entry[0] for entry in TYPES.values()]


@pytest.mark.parametrize("kind", NAMES)
def test_dequantize_equals_the_gguf_package(kind):
    raw = random_blocks(kind, 7, 512)
    ours = dequantize(Tensor("t", kind, 7, 512, raw))
    flat = raw if kind not in ("F32", "F16") else raw.view(np.float32 if kind == "F32" else np.float16)
    theirs = gguf.quants.dequantize(flat, gguf.GGMLQuantizationType[kind])
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)
    if kind not in ("F32", "F16", "BF16"):
        of_torch = multiply_out(kind, torch.from_numpy(raw), torch.empty(7, 512))
        assert np.array_equal(of_torch.numpy(), ours), "arrays and tensors give the same numbers"


def write(path, kind="Q4_0"):
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(3)
    writer.add_array("tokenizer.ggml.tokens", [f"token {i}" for i in range(1000)])
    writer.add_array("some.numbers", [1, 2, 3])
    raw = random_blocks(kind, 64, 256)
    writer.add_tensor("a", raw, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.add_tensor("b", np.arange(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return raw


def test_a_written_file_is_read_back(tmp_path):
    raw = write(tmp_path / "m.gguf")
    file = Gguf(str(tmp_path / "m.gguf"))
    assert Gguf.architecture(str(tmp_path / "m.gguf")) == "llama"
    assert file.require("llama.block_count") == 3
    assert file.metadata["tokenizer.ggml.tokens"] is None
    assert list(file.metadata["some.numbers"]) == [1, 2, 3]
    assert np.array_equal(file.tensor("a", (64, 256)).raw, raw)
    assert dequantize(file.tensor("b"))[0].tolist() == list(range(32))
    with pytest.raises(BadModel, match="expected tensor 'c'"):
        file.tensor("c")
    with pytest.raises(BadModel, match="shape"):
        file.tensor("a", (256, 64))


def test_every_truncation_is_refused(tmp_path):
    write(tmp_path / "m.gguf")
    whole = (tmp_path / "m.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    payload = len(whole) - 128  # the writer pads after the last tensor
    for size in [0, 3, 23, *range(24, payload, 997), payload - 1]:
        cut.write_bytes(whole[:size])
        with pytest.raises(BadModel):
            Gguf(str(cut))


def test_hostile_counts_are_refused_at_once(tmp_path):
    path = tmp_path / "bad.gguf"
    huge = (1 << 64) - 1
    text = lambda s: struct.pack("<Q", len(s)) + s
    heads = [
        b"GGUX" + bytes(40),
        struct.pack("<4sIQQ", b"GGUF", 9, 0, 0),
        struct.pack("<4sIQQ", b"GGUF", 3, huge, 0),
        struct.pack("<4sIQQ", b"GGUF", 3, 0, huge),
        struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, huge),
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + text(b"k") + struct.pack("<IIQ", 9, 8, huge),
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + text(b"k") + struct.pack("<IIQ", 9, 4, huge),
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + text(b"k") + struct.pack("<IIQQ", 9, 8, 1, huge),
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + text(b"k") + struct.pack("<I", 77),
        struct.pack("<4sIQQ", b"GGUF", 3, 1, 0) + text(b"t") + struct.pack("<I", 99),
        struct.pack("<4sIQQ", b"GGUF", 3, 1, 0) + text(b"t") + struct.pack("<IQQIQ", 2, huge, huge, 0, 0),
        struct.pack("<4sIQQ", b"GGUF", 3, 1, 0) + text(b"t") + struct.pack("<IQIQ", 1, 32, 0, huge - 31),
    ]
    for head in heads:
        path.write_bytes(head + bytes(64))
        with pytest.raises(BadModel):
            Gguf(str(path))


def test_an_unknown_type_is_an_unsupported_quant(tmp_path):
    head = struct.pack("<4sIQQ", b"GGUF", 3, 1, 0) + struct.pack("<Q", 1) + b"t" + struct.pack("<IQIQ", 1, 256, 21, 0)
    (tmp_path / "iq.gguf").write_bytes(head + bytes(4096))
    with pytest.raises(UnsupportedQuant, match="ggml type 21"):
        Gguf(str(tmp_path / "iq.gguf"))
