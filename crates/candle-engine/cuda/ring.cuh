// The stream of weights of one warp: it knows which rows it will multiply with, in all stages of a
// step, and copies them into shared memory ahead of their turn, however the blocks wait for each
// other meanwhile. Weights do not depend on what a step computes.
#pragma once
#include "formats.cuh"

// The stages of a layer that read weights; the output head is the stage after the last layer.
enum Stage : u32 { QKV, OUTPUT, GATE_UP, DOWN, STAGES_OF_LAYER };

// What a warp multiplies with at once: a row, or two.
struct Rows {
    const Matrix *a, *b; // b is null for one row
    u32 row_a, row_b;
};

// Columns of piece `i` of rows of `m`.
DEVICE u32 columns_of_piece(const Matrix &m, u32 i) {
    return is_float(m.format) ? min(PIECE, m.columns - i * PIECE) : m.columns;
}
DEVICE u32 pieces_of(const Matrix &m) { return is_float(m.format) ? (m.columns + PIECE - 1) / PIECE : 1; }
DEVICE u32 bytes_of_piece(const Matrix &m, u32 i) {
    if (!is_float(m.format)) return m.stride;
    return columns_of_piece(m, i) * (m.format == F32 ? 4 : 2);
}

// `Plan` says what there is: `Rows rows(layer, stage, i)` and `u32 end(layer, stage)`, where i runs from
// `begin(layer, stage)` in steps of the number of warps.
template <class Plan> struct Ring {
    const Plan &plan;
    u32 base, bytes;       // of this warp's ring in shared memory, and its size
    u32 head, tail, count; // where the next piece goes, where the next use begins, pieces in between
    u32 layer, stage, i, piece; // of the next piece to copy

    DEVICE Ring(const Plan &plan, u32 base, u32 bytes, u32 layer, u32 stage)
        : plan(plan), base(base), bytes(bytes), head(0), tail(0), count(0), layer(layer), stage(stage), piece(0) {
        i = plan.begin(layer, stage);
        fill();
    }

    DEVICE u32 place(u32 at, u32 size) const { return at + size <= bytes ? at : 0; }

    // Rows that no ring holds are read where they are used.
    DEVICE bool fits(const Rows &r) const {
        return bytes_of_piece(*r.a, 0) + (r.b ? bytes_of_piece(*r.b, 0) : 0) <= bytes;
    }

    // Copies as many pieces as there is room for.
    DEVICE void fill() {
        const u32 lane = threadIdx.x % 32;
        while (count < 8 && !plan.over(layer, stage)) {
            if (i >= plan.end(layer, stage)) {
                plan.next(layer, stage);
                if (plan.over(layer, stage)) return;
                i = plan.begin(layer, stage);
                continue;
            }
            const Rows r = plan.rows(layer, stage, i);
            if (!fits(r)) {
                i += blockDim.x / 32;
                continue;
            }
            const u32 size_a = bytes_of_piece(*r.a, piece), size = size_a + (r.b ? bytes_of_piece(*r.b, piece) : 0);
            const u32 at = place(head, size);
            if (count > 0) {
                // Either everything lies between tail and head, or what is newer has begun again at 0.
                const bool room = head > tail ? at == head || size <= tail : at == head && head + size <= tail;
                if (!room) return;
            }
            char *to = shared_memory() + base + at;
            const u32 skipped = is_float(r.a->format) ? piece * PIECE * (r.a->format == F32 ? 4 : 2) : 0;
            const u8 *from = row_of(*r.a, r.row_a) + skipped;
            for (u32 o = lane * 16; o < size_a; o += 512) copy_async(to + o, from + o, true);
            if (r.b) {
                from = row_of(*r.b, r.row_b) + skipped;
                for (u32 o = size_a + lane * 16; o < size; o += 512) copy_async(to + o, from + (o - size_a), true);
            }
            copies_end();
            head = at + size;
            count++;
            if (++piece == pieces_of(*r.a)) piece = 0, i += blockDim.x / 32;
        }
    }

    // Waits for the oldest piece. The number of newer ones must be a constant for the instruction.
    DEVICE void wait() const {
        switch (count) {
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
    }

    // The products of the next rows with the vector; every lane gets the sums.
    DEVICE float2 times(const Rows &r, const Vector &v) {
        float2 sum = {0, 0};
        const u32 n = r.a->columns;
        if (!fits(r)) {
            sum.x = global_times(*r.a, r.row_a, v);
            if (r.b) sum.y = global_times(*r.b, r.row_b, v);
        } else {
            for (u32 p = 0; p < pieces_of(*r.a); p++) {
                const u32 size_a = bytes_of_piece(*r.a, p), size = size_a + (r.b ? bytes_of_piece(*r.b, p) : 0);
                const u32 columns = columns_of_piece(*r.a, p), at = place(tail, size);
                const InShared a{base + at}, b{base + at + size_a};
                wait();
                if (!r.b) {
                    sum.x += shared_times(r.a->format, a, n, columns, p * PIECE, v);
                } else if (r.a->format == r.b->format) {
                    const float2 both = shared_times(r.a->format, a, b, n, columns, p * PIECE, v);
                    sum.x += both.x, sum.y += both.y;
                } else {
                    sum.x += shared_times(r.a->format, a, n, columns, p * PIECE, v);
                    sum.y += shared_times(r.b->format, b, n, columns, p * PIECE, v);
                }
                sync_warp(); // every lane has read the piece
                tail = at + size;
                count--;
                fill();
            }
        }
        for (int mask = 16; mask > 0; mask /= 2) {
            sum.x += shuffle_xor(sum.x, mask);
            if (r.b) sum.y += shuffle_xor(sum.y, mask);
        }
        return sum;
    }
};
