// Chooses the next token: the likeliest one, or one drawn as docs/PROTOCOL.md defines.

#pragma once

#include "wire.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

// The first of the largest logits, never a NaN. Keeps sixteen maxima so that the compiler can use
// vectors.
inline int32_t argmax(const float * logits, int n) {
    constexpr int LANES = 16;
    float best[LANES];
    std::fill_n(best, LANES, -INFINITY);
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int l = 0; l < LANES; l++) {
            best[l] = logits[i + l] > best[l] ? logits[i + l] : best[l];
        }
    }
    float top = *std::max_element(best, best + LANES);
    for (; i < n; i++) {
        top = logits[i] > top ? logits[i] : top;
    }
    const float * at = std::find(logits, logits + n, top);
    return at == logits + n ? 0 : int32_t(at - logits);
}

// Draws tokens by the definition in docs/PROTOCOL.md.
class Sampling {
public:
    explicit Sampling(const json & s) : temperature(s.at("temperature")), top_p(s.at("top_p")), seed(s.at("seed")) {
        if (!(temperature > 0 && std::isfinite(temperature))) {
            throw Failure{ "internal", "temperature " + s.at("temperature").dump() + ": expected a number above 0" };
        }
        if (!(top_p > 0 && top_p <= 1)) {
            throw Failure{ "internal", "top_p " + s.at("top_p").dump() + ": expected above 0 and at most 1" };
        }
    }

    int32_t draw(const float * logits, int n, uint64_t step) {
        const int32_t top = argmax(logits, n);
        if (!std::isfinite(logits[top])) {
            return top;
        }
        ids.clear();
        for (int32_t id = 0; id < n; id++) {
            if (logits[id] > -INFINITY) {
                ids.push_back(id);
            }
        }
        std::sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
            return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
        });
        weights.resize(ids.size());
        double all = 0;
        for (size_t i = 0; i < ids.size(); i++) {
            all += weights[i] = std::exp((double(logits[ids[i]]) - double(logits[top])) / temperature);
        }
        double kept = weights[0];
        size_t count = 1;
        while (count < ids.size() && kept < top_p * all) {
            kept += weights[count++];
        }
        const double target = uniform(step) * kept;
        double sum = 0;
        for (size_t i = 0; i < count; i++) {
            if ((sum += weights[i]) > target) {
                return ids[i];
            }
        }
        return ids[count - 1];
    }

private:
    double temperature, top_p;
    uint64_t seed;
    std::vector<int32_t> ids;
    std::vector<double> weights;

    // SplitMix64 at this step of this seed: a number in [0, 1) with 53 bits.
    double uniform(uint64_t step) const {
        uint64_t z = seed + (step + 1) * 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return double((z ^ (z >> 31)) >> 11) / double(1ull << 53);
    }
};
