// The memory that this process really holds, by the kernel and the C allocator. Read between
// requests, never in a timed region.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

// Bytes of [base, base + size) in resident pages; false if the kernel does not report them.
inline bool in_memory(const void * base, size_t size, uint64_t & bytes) {
    const uintptr_t page = sysconf(_SC_PAGESIZE), begin = uintptr_t(base), end = begin + size;
    const uintptr_t first = begin / page * page;
    std::vector<unsigned char> flags((end - first + page - 1) / page);
    if (mincore((void *) first, end - first, flags.data()) != 0) {
        return false;
    }
    for (size_t i = 0; i < flags.size(); i++) {
        if (flags[i] & 1) {
            bytes += std::min(end, first + (i + 1) * page) - std::max(begin, first + i * page);
        }
    }
    return true;
}

// Bytes that malloc keeps for reuse: freed by their user but not returned to the kernel.
inline uint64_t allocator_free() {
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 33)
    return mallinfo2().fordblks;
#else
    return 0;
#endif
}
