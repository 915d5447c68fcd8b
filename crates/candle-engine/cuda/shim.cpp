// Runs a kernel of `kernels.cu` on the processor; tests build this into a library.
#define LLM_BENCH_SHIM
#include "kernels.cu"

namespace shim {

Fiber *running;
Dim grid, threads;
u64 moves;

static void *scheduler;
static void (*entry)();

// Saves the registers that a call must keep on the stack, and continues on another stack.
extern "C" void shim_switch(void **from, void *to);
asm(".text\n.globl shim_switch\nshim_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");

void yield() { shim_switch(&running->stack_pointer, scheduler); }

static void body() {
    entry();
    running->over = true;
    moves++;
    yield();
    abort(); // nobody continues a fiber that is over
}

static const size_t STACK = 64 << 10;

static void run(Dim blocks, u32 n_threads, u32 shared_bytes) {
    grid = blocks;
    threads = Dim{n_threads, 1, 1};
    u32 n_blocks = blocks.x * blocks.y * blocks.z;
    size_t n = (size_t)n_blocks * n_threads;
    std::vector<Block> all(n_blocks);
    std::vector<Fiber> fibers(n);
    char *stacks = (char *)mmap(nullptr, n * STACK, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks == MAP_FAILED) perror("mmap"), abort();
    for (u32 i = 0; i < n_blocks; i++) {
        Block &block = all[i];
        block.at = Dim{i % blocks.x, i / blocks.x % blocks.y, i / blocks.x / blocks.y};
        block.barrier.expected = n_threads;
        block.warps.resize(n_threads / 32);
        for (Warp &warp : block.warps) warp.barrier.expected = 32;
        if (posix_memalign((void **)&block.shared, 128, shared_bytes + 128)) abort();
        memset(block.shared, 0xff, shared_bytes); // NaN in every type
        for (u32 t = 0; t < n_threads; t++) {
            size_t at = (size_t)i * n_threads + t;
            void **top = (void **)(stacks + (at + 1) * STACK);
            // As after a call: 16-byte aligned, less the return address.
            *--top = nullptr;
            *--top = (void *)body;
            for (int r = 0; r < 6; r++) *--top = nullptr;
            fibers[at] = Fiber{top, &block, t, false};
        }
    }
    size_t left = n;
    u64 idle = 0;
    while (left > 0) {
        u64 before = moves;
        left = 0;
        for (Fiber &fiber : fibers) {
            if (fiber.over) continue;
            left++;
            running = &fiber;
            shim_switch(&scheduler, fiber.stack_pointer);
        }
        if (moves == before && ++idle > 8) fprintf(stderr, "%zu threads wait for each other\n", left), abort();
        if (moves != before) idle = 0;
    }
    for (Block &block : all) free(block.shared);
    munmap(stacks, n * STACK);
}

static void **arguments;
template <auto KERNEL_> struct Call;
template <class... A, void (*F)(A...)> struct Call<F> {
    template <size_t... I> static void with(std::index_sequence<I...>) { F(*(A *)arguments[I]...); }
    static void go() { with(std::index_sequence_for<A...>{}); }
};

} // namespace shim

// Runs the kernel of this name; false if there is none.
extern "C" bool shim_launch(const char *name, u32 x, u32 y, u32 z, u32 n_threads, u32 shared_bytes, void **arguments) {
    struct Named {
        const char *name;
        void (*go)();
    };
    static const Named kernels[] = {
#define NAMED(kernel) {#kernel, shim::Call<kernel>::go}
        ALL_KERNELS(NAMED)
    };
    for (const Named &kernel : kernels) {
        if (strcmp(kernel.name, name) != 0) continue;
        shim::arguments = arguments;
        shim::entry = kernel.go;
        shim::run(Dim{x, y, z}, n_threads, shared_bytes);
        return true;
    }
    return false;
}

// Whether pieces of these sizes pass through a ring of `bytes` in their order, each untouched until it
// is taken.
extern "C" bool shim_ring(u32 bytes, const u32 *sizes, u32 n) {
    Slots slots(bytes);
    std::vector<std::pair<u32, u32>> live;
    for (u32 put = 0, taken = 0; taken < n; taken++) {
        u32 at;
        while (put < n && slots.put(sizes[put], at)) {
            for (auto [begin, end] : live)
                if (at < end && at + sizes[put] > begin) return false;
            live.push_back({at, at + sizes[put++]});
        }
        if (live.empty() || slots.oldest(sizes[taken]) != live[0].first) return false;
        slots.take(live[0].first, sizes[taken]);
        live.erase(live.begin());
    }
    return true;
}
