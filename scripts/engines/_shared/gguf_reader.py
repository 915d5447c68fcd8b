"""Reads GGUF version 2 and 3 over a memory map: metadata and tensor bytes. dequant.py dequantizes them.

Every count and offset in the file is checked against the available bytes before it is used.
Arrays of strings (the vocabulary) are skipped: a model runs without them. `Gguf.vocabulary` reads them.
"""

import mmap
import os
import struct
from dataclasses import dataclass

import numpy as np

from .protocol import BadModel, UnsupportedQuant

MAX_STRING = 1 << 20  # bytes: longer keys, names and values count as damage
MAX_ENTRIES = 1 << 20  # metadata pairs, or tensors
MAX_DIMS = 4

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9

# ggml type id: (name, weights in a block, bytes in a block)
TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    20: ("IQ4_NL", 32, 18),
    30: ("BF16", 1, 2),
}


@dataclass
class Tensor:
    """One tensor of the file: `raw` is uint8 `[rows, bytes of a row]`, a view of the map."""

    name: str
    type: str
    rows: int
    cols: int
    raw: np.ndarray
    source: tuple[mmap.mmap, int] | None = None  # the map, and where `raw` begins in it

    def release(self) -> None:
        """Drops these pages from the process's memory once they are copied. `raw` stays readable."""
        if self.source is None or not hasattr(mmap, "MADV_DONTNEED"):
            return
        file_map, start = self.source
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (start + self.raw.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if end > first:
            file_map.madvise(mmap.MADV_DONTNEED, first, end - first)


class Gguf:
    """An open GGUF file. `metadata` maps keys to values; arrays of strings appear as None."""

    _reads_strings = False

    def __init__(self, path: str):
        n_tensors, n_keys = self._open(path)
        if hasattr(mmap, "MADV_WILLNEED"):
            self._map.madvise(mmap.MADV_WILLNEED)
        self.metadata = dict(self._pair() for _ in range(n_keys))
        self.tensors = self._tensor_table(n_tensors)

    @classmethod
    def architecture(cls, path: str) -> str | None:
        """The value of general.architecture. Nothing behind it is read."""
        file = cls.__new__(cls)
        _, n_keys = file._open(path)
        pairs = (file._pair() for _ in range(n_keys))
        return next((value for key, value in pairs if key == "general.architecture"), None)

    @classmethod
    def vocabulary(cls, path: str) -> dict:
        """The metadata with every array of strings as a list. No tensor is read."""
        file = cls.__new__(cls)
        _, n_keys = file._open(path)
        file._reads_strings = True
        return dict(file._pair() for _ in range(n_keys))

    def _open(self, path: str) -> tuple[int, int]:
        """Maps the file and reads its header: how many tensors and metadata pairs it has."""
        self.path = path
        try:
            with open(path, "rb") as file:
                self._size = os.fstat(file.fileno()).st_size
                if self._size < 24:
                    raise BadModel(f"{path}: expected a GGUF header of 24 bytes, found a file of {self._size}")
                # ACCESS_COPY, because torch wants writable memory; nothing is written.
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except OSError as error:
            raise BadModel(f"cannot open {path}: {error.strerror}; check the path") from error
        self._pos = 0
        magic = self._take(4, "magic")
        if magic != b"GGUF":
            raise BadModel(f"{path}: expected magic 'GGUF', found {magic!r}")
        version = self._number("I")
        if version not in (2, 3):
            raise BadModel(f"{path}: expected GGUF version 2 or 3, found {version}")
        return self._count("tensors"), self._count("metadata pairs")

    def _pair(self) -> tuple:
        key = self._string("metadata key")
        return key, self._value(self._number("I"), key)

    def require(self, key: str, kind: type | tuple[type, ...] = int):
        """The metadata value of `key`; BadModel if it is absent or of another type."""
        value = self.metadata.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise BadModel(f"{self.path}: expected metadata '{key}', found {value!r}")
        return value

    def tensor(self, name: str, shape: tuple[int, int] | None = None) -> Tensor:
        """The tensor `name`; `shape` is (rows, cols), and a vector is one row."""
        found = self.tensors.get(name)
        if found is None:
            raise BadModel(f"{self.path}: expected tensor '{name}', found none of that name")
        if shape is not None and shape != (found.rows, found.cols):
            raise BadModel(f"{self.path}: expected '{name}' of shape {shape}, found {(found.rows, found.cols)}")
        return found

    def _take(self, n: int, what: str) -> bytes:
        end = self._pos + n
        if n < 0 or end > self._size:
            raise BadModel(
                f"{self.path}: expected {n} bytes of {what} at offset {self._pos}, "
                f"found the end of the file at {self._size}; is it truncated?"
            )
        data = self._map[self._pos : end]
        self._pos = end
        return data

    def _number(self, code: str):
        return struct.unpack("<" + code, self._take(struct.calcsize("<" + code), "a number"))[0]

    def _count(self, what: str) -> int:
        n = self._number("Q")
        if n > MAX_ENTRIES:
            raise BadModel(f"{self.path}: expected at most {MAX_ENTRIES} {what}, found {n}")
        return n

    def _string(self, what: str) -> str:
        n = self._number("Q")
        if n > MAX_STRING:
            raise BadModel(f"{self.path}: expected a {what} of at most {MAX_STRING} bytes, found {n}")
        return self._take(n, what).decode("utf-8", "replace")

    def _value(self, kind: int, key: str):
        if kind in SCALARS:
            return self._number(SCALARS[kind])
        if kind == STRING:
            n = self._number("Q")
            return self._take(n, f"the value of '{key}'").decode("utf-8", "replace")
        if kind == ARRAY:
            item, n = self._number("I"), self._number("Q")
            if item in SCALARS:
                width = struct.calcsize("<" + SCALARS[item])
                return np.frombuffer(self._take(n * width, f"array '{key}'"), "<" + SCALARS[item])
            if item == STRING:
                return self._strings(n, key) if self._reads_strings else self._skip_strings(n, key)
            kind = item
        raise BadModel(f"{self.path}: expected a value type from 0 to 12 for '{key}', found {kind}")

    def _strings(self, n: int, key: str) -> list[str]:
        if n * 8 > self._size - self._pos:
            raise BadModel(f"{self.path}: '{key}' claims {n} strings, more than the file can hold")
        return [self._string(f"string of '{key}'") for _ in range(n)]

    def _skip_strings(self, n: int, key: str) -> None:
        if n * 8 > self._size - self._pos:
            raise BadModel(f"{self.path}: '{key}' claims {n} strings, more than the file can hold")
        length_at, data, pos = struct.Struct("<Q").unpack_from, self._map, self._pos
        try:
            for _ in range(n):
                pos += 8 + length_at(data, pos)[0]
        except (struct.error, OverflowError) as error:
            raise BadModel(f"{self.path}: a string of '{key}' ends beyond the file; is it truncated?") from error
        self._pos = pos
        self._take(0, f"array '{key}'")

    def _tensor_table(self, n: int) -> dict[str, Tensor]:
        entries = []
        for _ in range(n):
            name = self._string("tensor name")
            dims = self._number("I")
            if not 1 <= dims <= MAX_DIMS:
                raise BadModel(f"{self.path}: expected 1 to {MAX_DIMS} dimensions of '{name}', found {dims}")
            shape = [self._number("Q") for _ in range(dims)]
            entries.append((name, shape, self._number("I"), self._number("Q")))
        align = self.metadata.get("general.alignment", 32)
        if not isinstance(align, int) or align < 8 or align & (align - 1):
            raise BadModel(f"{self.path}: expected a power of two of at least 8 as general.alignment, found {align!r}")
        base = -(-self._pos // align) * align
        return {name: self._place(name, shape, kind, base, offset, align) for name, shape, kind, offset in entries}

    def _place(self, name, shape, kind, base, offset, align) -> Tensor:
        if kind not in TYPES:
            known = ", ".join(t[0] for t in TYPES.values())
            raise UnsupportedQuant(f"'{name}' has ggml type {kind}; this engine reads {known}")
        kind, per_block, block_bytes = TYPES[kind]
        cols, rows = shape[0], 1
        for n in shape[1:]:
            rows *= n
        if cols == 0 or rows == 0 or cols % per_block or offset % align:
            raise BadModel(
                f"{self.path}: '{name}' ({kind}) has shape {shape} at offset {offset}: expected rows "
                f"that are multiples of {per_block} and an offset that is a multiple of {align}"
            )
        row_bytes = cols // per_block * block_bytes
        start, size = base + offset, rows * row_bytes
        if start + size > self._size:
            raise BadModel(
                f"{self.path}: expected '{name}' to end at byte {start + size}, "
                f"found a file of {self._size}; is it truncated?"
            )
        raw = np.frombuffer(self._map, np.uint8, size, start).reshape(rows, row_bytes)
        return Tensor(name, kind, rows, cols, raw, (self._map, start))
