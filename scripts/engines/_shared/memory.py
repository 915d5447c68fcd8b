"""The memory of this process, by the kernel and the C allocator. Read between requests, never in a timed region."""

import ctypes
import mmap
import sys

LINUX = sys.platform == "linux"
PAGE = mmap.PAGESIZE


class _Mallinfo2(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    NAMES = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = [(name, ctypes.c_size_t) for name in NAMES]


def _libc():
    if not LINUX:
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "mallinfo2"):
        libc.mallinfo2.restype = _Mallinfo2
    libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    return libc


_LIBC = _libc()


def status(field: str) -> int | None:
    """A field of /proc/self/status in bytes, such as `RssAnon` or `VmRSS`; None if it does not exist."""
    if not LINUX:
        return None
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return None


def allocator_free() -> int | None:
    """Bytes that malloc keeps for reuse: freed by their user but not returned to the kernel."""
    return _LIBC.mallinfo2().fordblks if _LIBC and hasattr(_LIBC, "mallinfo2") else None


def private_in_use() -> int | None:
    """Bytes of private memory in use: resident, and not free in malloc."""
    private, free = status("RssAnon"), allocator_free()
    return None if private is None or free is None else private - free


def in_memory(address: int, size: int) -> int | None:
    """How many of the `size` bytes at `address` are in resident pages; untouched zero pages are not."""
    if not _LIBC or size == 0:
        return 0 if size == 0 else None
    first, last = address // PAGE * PAGE, -(-(address + size) // PAGE) * PAGE
    flags = bytearray((last - first) // PAGE)
    buffer = (ctypes.c_char * len(flags)).from_buffer(flags)
    if _LIBC.mincore(first, last - first, buffer) != 0:
        return None
    del buffer
    # Counts whole pages, less the parts at the edges that belong to neighbours.
    pages = flags.translate(bytes(b & 1 for b in range(256)))
    bytes_in = pages.count(1) * PAGE
    if pages[0]:
        bytes_in -= address - first
    if pages[-1]:
        bytes_in -= last - address - size
    return max(bytes_in, 0)


class Book:
    """Growth since it was created, at `ready`: memory that compilers hold, and memory that malloc keeps for reuse."""

    def __init__(self):
        self._free, self._compiler = allocator_free(), 0

    def compiled(self, before: int | None, after: int | None) -> None:
        """Records private memory before and after a compiler was imported or ran."""
        known = None not in (before, after, self._compiler)
        self._compiler = self._compiler + max(after - before, 0) if known else None

    def grown(self) -> dict[str, int | None]:
        """Bytes by the protocol's names; None if unknown."""
        free = allocator_free()
        return {"compiler_bytes": self._compiler, "allocator_free_bytes": None if free is None else max(free - self._free, 0)}
