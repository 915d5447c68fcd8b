// The stream of weights of one warp: it knows which rows it will multiply with, in all stages of a
// step, and copies them into shared memory ahead of their turn, however the blocks wait for each
// other meanwhile. Weights do not depend on what a step computes.
#pragma once
#include "formats.cuh"

// Warps of a block, each with a ring of its own.
const u32 RING_WARPS = 16;
// Pieces of a ring that are on their way or unused at most, and bytes before the ring for their arrivals.
const u32 PIECES_AHEAD = 8, ARRIVALS_BYTES = 8 * PIECES_AHEAD;

// Float rows pass through the ring in pieces of this many columns, other rows whole.
const u32 PIECE = 1024;

// What the warps of a block multiply with, in turn: item i is the row at a + i · step_a and, unless b is
// null, the one at b + i · step_b.
struct Work {
    const u8 *a, *b;
    u32 step_a, step_b;
    // Bytes of a piece, and of the last piece.
    u32 size_a, size_b, last_a, last_b;
    u32 pieces, columns, format_a, format_b;
    // This block's items. The warp of item i is the one numbered i − begin + offset, modulo the warps.
    u32 begin, end, offset;
    // Whether a piece is larger than a ring: such rows are read where they are used.
    u32 direct;

    DEVICE u32 first_of_warp() const {
        return begin + (threadIdx.x / 32 - offset) % RING_WARPS;
    }
};

DEVICE u32 piece_bytes(const Matrix &m, u32 piece, u32 pieces) {
    if (!is_float(m.format)) return m.stride;
    return (piece + 1 < pieces ? PIECE : m.columns - piece * PIECE) * (m.format == F32 ? 4 : 2);
}

// The work on rows of `a`, two at a time if `pairs`, or on rows of `a` and `b` side by side.
DEVICE Work work_on(const Matrix &a, const Matrix *b, bool pairs, u32 offset, u32 ring) {
    Work w;
    const Matrix &second = b ? *b : a;
    w.a = a.data;
    w.b = b ? b->data : pairs ? a.data + a.stride : nullptr;
    w.step_a = pairs ? 2 * a.stride : a.stride;
    w.step_b = pairs ? 2 * a.stride : second.stride;
    w.pieces = is_float(a.format) ? (a.columns + PIECE - 1) / PIECE : 1;
    w.size_a = piece_bytes(a, 0, w.pieces);
    w.last_a = piece_bytes(a, w.pieces - 1, w.pieces);
    w.size_b = w.b ? piece_bytes(second, 0, w.pieces) : 0;
    w.last_b = w.b ? piece_bytes(second, w.pieces - 1, w.pieces) : 0;
    w.columns = a.columns;
    w.format_a = a.format;
    w.format_b = second.format;
    const Share share = share_of_block(pairs ? a.rows / 2 : a.rows);
    w.begin = share.begin;
    w.end = share.end;
    w.offset = offset;
    // Two float types side by side have pieces of different lengths; two kinds, different numbers.
    w.direct = w.size_a + w.size_b > ring || is_float(w.format_a) != is_float(w.format_b);
    return w;
}

OUTLINED float shared_times(u32 format, InShared row, u32 n, u32 columns, u32 from, Vector v) {
    float sum = 0;
    WITH_FORMAT(format, R, sum = piece_times<R>(row, n, columns / R::UNIT, from / R::UNIT, v);)
    return sum;
}

OUTLINED float2 shared_times(u32 format, InShared a, InShared b, u32 n, u32 columns, u32 from, Vector v) {
    float2 sum = {0, 0};
    WITH_FORMAT(format, R, sum = piece_times<R>(a, b, n, columns / R::UNIT, from / R::UNIT, v);)
    return sum;
}

// A row straight from the card's memory.
OUTLINED float global_times(u32 format, const u8 *row, u32 n, Vector v) {
    float sum = 0;
    WITH_FORMAT(format, R, sum = piece_times<R>(row, n, n / R::UNIT, 0, v);)
    return sum;
}

// Where pieces lie in a ring: one after the other, from 0 again where one does not fit before the end.
struct Slots {
    u32 bytes;
    u32 head, tail, count; // where the next piece goes, where the last one taken ended, pieces in between

    DEVICE explicit Slots(u32 bytes) : bytes(bytes), head(0), tail(0), count(0) {}
    DEVICE u32 place(u32 at, u32 size) const { return at + size <= bytes ? at : 0; }

    // A place for one more piece, if there is room.
    DEVICE bool put(u32 size, u32 &at) {
        // An empty ring begins anew: where the last piece ended says nothing about what comes.
        if (count == 0) head = tail = 0;
        at = place(head, size);
        // Either everything lies between tail and head, or what is newer has begun again at 0.
        const bool room = head > tail ? at == head || size <= tail : at == head && head + size <= tail;
        if (count > 0 && !room) return false;
        head = at + size;
        count++;
        return true;
    }
    // The place of the oldest piece.
    DEVICE u32 oldest(u32 size) const { return place(tail, size); }
    DEVICE void take(u32 at, u32 size) {
        tail = at + size;
        count--;
    }
};

struct Ring {
    const Work *works;
    u32 n_works, base; // of this warp's ring in shared memory, behind its arrivals
    Slots slots;
    u32 w, i, piece;  // of the next piece to copy
    u32 put, taken;   // how many pieces were copied, and used

    DEVICE Ring(const Work *works, u32 n_works, u32 base, u32 bytes)
        : works(works), n_works(n_works), base(base + ARRIVALS_BYTES), slots(bytes), w(0),
          i(works[0].first_of_warp()), piece(0), put(0), taken(0) {
#ifdef COPY_ENGINE
        if (threadIdx.x % 32 < PIECES_AHEAD) arrivals_begin(arrivals(threadIdx.x % 32));
        sync_warp();
#endif
        fill();
    }

    // Where the arrivals of the n-th piece are counted.
    DEVICE u32 arrivals(u32 n) const { return base - ARRIVALS_BYTES + n % PIECES_AHEAD * 8; }

    // Copies as many pieces as there is room for.
    DEVICE void fill() {
        const u32 lane = threadIdx.x % 32;
        while (slots.count < PIECES_AHEAD && w < n_works) {
            const Work &k = works[w];
            if (i >= k.end || k.direct) {
                if (++w < n_works) i = works[w].first_of_warp();
                continue;
            }
            const bool last = piece + 1 == k.pieces;
            const u32 size_a = last ? k.last_a : k.size_a, size_b = last ? k.last_b : k.size_b;
            u32 at;
            if (!slots.put(size_a + size_b, at)) return;
            const u8 *from_a = k.a + (u64)i * k.step_a + piece * k.size_a;
            const u8 *from_b = k.b + (u64)i * k.step_b + piece * k.size_b;
#ifdef COPY_ENGINE
            if (lane == 0) {
                const u32 arrived = arrivals(put);
                arrivals_expect(arrived, size_a + size_b);
                copy_bulk(base + at, from_a, size_a, arrived);
                if (size_b) copy_bulk(base + at + size_a, from_b, size_b, arrived);
            }
#else
            char *to = shared_memory() + base + at;
            for (u32 o = lane * 16; o < size_a; o += 512) copy_async(to + o, from_a + o, true);
            to += size_a;
            for (u32 o = lane * 16; o < size_b; o += 512) copy_async(to + o, from_b + o, true);
            copies_end();
#endif
            put++;
            piece = last ? 0 : piece + 1;
            if (last) i += RING_WARPS;
        }
    }

    // Waits for the oldest piece.
    DEVICE void wait() const {
#ifdef COPY_ENGINE
        arrivals_wait(arrivals(taken), taken / PIECES_AHEAD % 2);
#else
        // The number of newer ones must be a constant for the instruction.
        switch (slots.count) {
        case 1: copies_wait<0>(); break;
        case 2: copies_wait<1>(); break;
        case 3: copies_wait<2>(); break;
        case 4: copies_wait<3>(); break;
        case 5: copies_wait<4>(); break;
        case 6: copies_wait<5>(); break;
        case 7: copies_wait<6>(); break;
        default: copies_wait<7>(); break;
        }
        sync_warp();
#endif
    }

    // The products of item `item` of `k`, the next in turn, with the vector; every lane gets the sums.
    DEVICE float2 times(const Work &k, u32 item, const Vector &v) {
        float2 sum = {0, 0};
        if (k.direct) {
            sum.x = global_times(k.format_a, k.a + (u64)item * k.step_a, k.columns, v);
            if (k.b) sum.y = global_times(k.format_b, k.b + (u64)item * k.step_b, k.columns, v);
        } else {
            for (u32 p = 0; p < k.pieces; p++) {
                const bool last = p + 1 == k.pieces;
                const u32 size_a = last ? k.last_a : k.size_a, size = size_a + (last ? k.last_b : k.size_b);
                const u32 columns = k.pieces == 1 ? k.columns : last ? k.columns - p * PIECE : PIECE;
                const u32 at = slots.oldest(size);
                const InShared a{base + at}, b{base + at + size_a};
                wait();
                if (size_a == size) {
                    sum.x += shared_times(k.format_a, a, k.columns, columns, p * PIECE, v);
                } else if (k.format_a == k.format_b) {
                    const float2 both = shared_times(k.format_a, a, b, k.columns, columns, p * PIECE, v);
                    sum.x += both.x, sum.y += both.y;
                } else {
                    sum.x += shared_times(k.format_a, a, k.columns, columns, p * PIECE, v);
                    sum.y += shared_times(k.format_b, b, k.columns, columns, p * PIECE, v);
                }
                sync_warp(); // every lane has read the piece
                slots.take(at, size);
                taken++;
                fill();
            }
        }
#pragma unroll
        for (int mask = 16; mask > 0; mask /= 2) {
            sum.x += shuffle_xor(sum.x, mask);
            if (k.b) sum.y += shuffle_xor(sum.y, mask);
        }
        return sum;
    }
};
