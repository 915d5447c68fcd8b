// The llama.cpp engine's side of the llm-bench engine protocol (docs/PROTOCOL.md): JSON lines on
// stdin and on the original stdout. The model runs in unmodified llama.cpp; this file calls it,
// takes the times, and reports its settings.

#include "names.h"
#include "resident.h"
#include "sampling.h"
#include "wire.h"

#include "llama-ext.h"
#include "llama.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <set>
#include <utility>

#include <fcntl.h>

namespace {

constexpr int PROTOCOL = 1;
// Prompt tokens of several sequences that one call takes, as llama-batched-bench gives them.
constexpr uint32_t TOGETHER = 2048;
// Rows of logits that `score` computes at once: 64 MB at a vocabulary of 128,256.
constexpr uint32_t SCORE_ROWS = 128;

// Nanoseconds of CLOCK_MONOTONIC.
uint64_t now_ns() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return uint64_t(t.tv_sec) * 1000000000u + uint64_t(t.tv_nsec);
}

const uint64_t T_ENTRY_NS = now_ns();

// ---- errors from llama.cpp ----

std::string g_errors; // messages at level ERROR since the last failed call

void on_log(ggml_log_level level, const char * text, void *) {
    if (level == GGML_LOG_LEVEL_ERROR) {
        g_errors += text;
    }
    if (level == GGML_LOG_LEVEL_ERROR || level == GGML_LOG_LEVEL_WARN) {
        fputs(text, stderr);
    }
}

// Maps llama.cpp's messages on failure to the protocol's kind.
Failure refused(const std::string & what) {
    std::string said = std::exchange(g_errors, "");
    said.erase(said.find_last_not_of(" \n") + 1);
    std::replace(said.begin(), said.end(), '\n', ' ');
    const auto any = [&](std::initializer_list<const char *> words) {
        return std::any_of(words.begin(), words.end(), [&](auto w) { return said.find(w) != std::string::npos; });
    };
    if (any({ "failed to allocate", "unable to allocate", "out of memory", "Cannot allocate memory" })) {
        return { "oom", what + ": out of memory; try fewer positions (n_ctx) or a smaller quantization: " + said };
    }
    if (any({ "invalid ggml type", "unsupported type", "unknown type" })) {
        return { "unsupported_quant", what + ": " + said };
    }
    return { "bad_model", what + ": " + (said.empty() ? "llama.cpp gave no reason" : said) };
}

// ---- the engine ----

struct Free {
    void operator()(llama_model * m) const { llama_model_free(m); }
    void operator()(llama_context * c) const { llama_free(c); }
    void operator()(ggml_threadpool * p) const { ggml_threadpool_free(p); }
};

struct Options {
    bool mmap = true;               // weights directly from the mapped file
    bool repack = true;             // weights reordered for this processor's kernels
    std::string flash_attn = "auto"; // on, off, or llama.cpp's choice
    uint32_t poll = 50;             // how hard a waiting thread polls: 0 sleeps at once, 100 never
    uint32_t ubatch = 512;          // prompt tokens per graph
    // By llama-bench's names; they mean nothing on the CPU, but for the types.
    int32_t n_gpu_layers = 99;        // on the card
    std::string split_mode = "none"; // none: all on the device asked for; layer, row: on all cards
    std::string type_k = "f16", type_v = "f16";
};

// The type of a KV cache of this name.
ggml_type kv_type(const std::string & name) {
    for (ggml_type type : { GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0, GGML_TYPE_Q4_1,
                            GGML_TYPE_IQ4_NL, GGML_TYPE_Q5_0, GGML_TYPE_Q5_1 }) {
        if (name == ggml_type_name(type)) {
            return type;
        }
    }
    throw Failure{ "internal", "KV type '" + name + "': expected f32, f16, bf16, q8_0, q4_0, q4_1, iq4_nl, q5_0 or q5_1" };
}

// The card of a device such as `cuda:0`; nothing for `cpu`.
ggml_backend_dev_t card_of(const std::string & device) {
    if (device == "cpu") {
        return nullptr;
    }
    if (device.rfind("cuda:", 0) != 0) {
        throw Failure{ "internal", "expected device cpu or cuda:N, found '" + device + "'" };
    }
    if (!llama_supports_gpu_offload()) {
        throw Failure{ "missing_dependency", "device '" + device + "': this llama.cpp has no CUDA, or finds no card; run "
                                             "`llm-bench engines install llama.cpp --cuda`" };
    }
    ggml_backend_dev_t found = ggml_backend_dev_by_name(("CUDA" + device.substr(5)).c_str());
    if (!found) {
        throw Failure{ "missing_dependency", "device '" + device + "': llama.cpp finds no such card" };
    }
    return found;
}

class Engine {
public:
    Engine(Wire & wire, Requests & requests) : wire(wire), requests(requests) {
        llama_log_set(on_log, nullptr);
        llama_backend_init();
        features = cpu_features();
        free_at_ready = allocator_free();
    }

    json ready() const {
        const char * threads = getenv("OMP_NUM_THREADS");
        json answer = {
            { "type", "ready" },
            { "versions", { { "llama.cpp", std::string(llama_version()) + " (" LLAMA_COMMIT ")" },
                            { "ggml", ggml_version() },
                            { "compiler", COMPILER } } },
            { "isa", isa(features) },
            { "features", { "score", "stream", "stop", "sampling", "reuse", "cancel", "context", "batch", "tokenize" } },
        };
        if (threads && atoi(threads) > 0) {
            answer["threads"] = atoi(threads);
        }
        answer["t_ns"] = now_ns();
        return answer;
    }

    json answer(const json & request) {
        const std::string type = request.at("type");
        if (type == "load") {
            return load(request);
        }
        if (!ctx) {
            throw Failure{ "internal", "expected a load before '" + type + "'" };
        }
        if (type == "context") {
            return fill(request);
        }
        if (type == "generate") {
            return generate(request);
        }
        if (type == "score") {
            return score(request);
        }
        if (type == "tokenize") {
            return tokenize(request);
        }
        if (type == "memory") {
            return memory();
        }
        throw Failure{ "internal", "expected load, context, generate, score, tokenize, memory or bye, found '" + type + "'" };
    }

private:
    Wire & wire;
    Requests & requests;
    std::set<std::string> features;
    uint64_t free_at_ready;
    Options options;
    ggml_backend_dev_t card = nullptr; // nothing on the CPU
    uint32_t threads = 1, n_ctx = 0, sequences = 1;
    int n_vocab = 0;
    // Freed in reverse order.
    std::unique_ptr<llama_model, Free> model;
    std::unique_ptr<ggml_threadpool, Free> pool;
    std::unique_ptr<llama_context, Free> ctx;
    std::vector<llama_token> held; // tokens in the cache, if a reader's generation left them
    size_t depth = 0; // positions that `context` filled and that are still valid

    static Options parse(const json & given) {
        Options o;
        for (const auto & [name, value] : given.items()) {
            if (name == "mmap") {
                o.mmap = value;
            } else if (name == "repack") {
                o.repack = value;
            } else if (name == "flash_attn") {
                o.flash_attn = value;
            } else if (name == "poll") {
                o.poll = value;
            } else if (name == "ubatch") {
                o.ubatch = value;
            } else if (name == "n_gpu_layers") {
                o.n_gpu_layers = value;
            } else if (name == "split_mode") {
                o.split_mode = value;
            } else if (name == "type_k") {
                o.type_k = value;
            } else if (name == "type_v") {
                o.type_v = value;
            } else {
                throw Failure{ "internal", "option '" + name + "': expected mmap, repack, flash_attn, poll, ubatch, "
                                           "n_gpu_layers, split_mode, type_k or type_v" };
            }
        }
        if (o.ubatch == 0 || o.poll > 100 || (o.flash_attn != "on" && o.flash_attn != "off" && o.flash_attn != "auto")) {
            throw Failure{ "internal", "expected ubatch of at least 1, poll of at most 100 and flash_attn on, off or auto" };
        }
        if (o.split_mode != "none" && o.split_mode != "layer" && o.split_mode != "row") {
            throw Failure{ "internal", "split_mode '" + o.split_mode + "': expected none, layer or row" };
        }
        kv_type(o.type_k), kv_type(o.type_v);
        return o;
    }

    // For some sequences of `n_ctx` positions each, and so many rows of logits in one call.
    std::unique_ptr<llama_context, Free> context(uint32_t sequences, uint32_t rows) {
        llama_context_params p = llama_context_default_params();
        p.n_ctx = n_ctx * sequences;
        p.n_batch = p.n_ubatch = std::min(options.ubatch, p.n_ctx);
        if (sequences > 1) {
            p.n_batch = std::min(std::max(TOGETHER, options.ubatch), p.n_ctx);
        }
        p.n_seq_max = sequences;
        p.kv_unified = false; // a cache for each sequence, as llama-batched-bench has by default
        p.n_outputs_max = std::min(rows, p.n_batch);
        p.n_threads = p.n_threads_batch = int32_t(threads);
        p.flash_attn_type = options.flash_attn == "on"    ? LLAMA_FLASH_ATTN_TYPE_ENABLED
                            : options.flash_attn == "off" ? LLAMA_FLASH_ATTN_TYPE_DISABLED
                                                          : LLAMA_FLASH_ATTN_TYPE_AUTO;
        p.type_k = kv_type(options.type_k);
        p.type_v = kv_type(options.type_v);
        p.no_perf = true;
        std::unique_ptr<llama_context, Free> made(llama_init_from_model(model.get(), p));
        if (!made) {
            throw refused("a context of " + std::to_string(n_ctx) + " positions for " + std::to_string(sequences) + " sequences");
        }
        llama_attach_threadpool(made.get(), pool.get(), nullptr);
        return made;
    }

    json load(const json & request) {
        const std::string path = request.at("path"), device = request.at("device");
        options = parse(request.value("options", json::object()));
        card = card_of(device);
        threads = request.at("threads");
        n_ctx = request.at("n_ctx");
        sequences = request.value("batch", 1u);
        if (threads == 0 || n_ctx == 0 || sequences == 0) {
            throw Failure{ "internal", "expected at least one thread, one position and one sequence" };
        }
        if (sequences > llama_max_parallel_sequences() || uint64_t(n_ctx) * sequences > INT32_MAX) {
            throw Failure{ "unsupported", "a batch of " + std::to_string(sequences) + " sequences of " + std::to_string(n_ctx) +
                                              " positions: llama.cpp takes at most " +
                                              std::to_string(llama_max_parallel_sequences()) + " and 2147483647 positions" };
        }
        ctx.reset();
        pool.reset();
        model.reset();
        forget();
        g_errors.clear();

        const uint64_t begin = now_ns();
        uint64_t parsed = 0;
        ggml_threadpool_params pp = ggml_threadpool_params_default(int(threads));
        pp.poll = options.poll;
        pool.reset(ggml_threadpool_new(&pp));
        llama_model_params p = llama_model_default_params();
        p.load_mode = options.mmap ? LLAMA_LOAD_MODE_MMAP : LLAMA_LOAD_MODE_NONE;
        p.use_extra_bufts = options.repack;
        ggml_backend_dev_t cards[] = { card, nullptr };
        if (!card) {
            p.n_gpu_layers = 0;
            p.devices = &cards[1]; // none: a build for CUDA stays on the CPU too
        } else {
            p.n_gpu_layers = options.n_gpu_layers;
            p.split_mode = options.split_mode == "none"    ? LLAMA_SPLIT_MODE_NONE
                           : options.split_mode == "layer" ? LLAMA_SPLIT_MODE_LAYER
                                                           : LLAMA_SPLIT_MODE_ROW;
            p.devices = options.split_mode == "none" ? cards : nullptr;
        }
        // Called before each tensor's data is read, so the first call ends the parsing of the
        // header.
        p.progress_callback = [](float, void * at) {
            auto & t = *static_cast<uint64_t *>(at);
            t = t ? t : now_ns();
            return true;
        };
        p.progress_callback_user_data = &parsed;
        model.reset(llama_model_load_from_file(path.c_str(), p));
        if (!model) {
            throw refused("cannot load " + path);
        }
        const uint64_t weights = now_ns();
        n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model.get()));
        ctx = context(sequences, sequences);
        llama_synchronize(ctx.get());
        const uint64_t end = now_ns();
        parsed = parsed ? parsed : weights;

        const json book = memory();
        const bool repacked = book.at("repacked") > 0;
        const char * note = card             ? "llama.cpp keeps the weights on the card"
                            : repacked       ? "llama.cpp reorders weights for this processor while it loads; they lie in private "
                                             "memory, beside the mapped file where there is one"
                            : options.mmap ? "llama.cpp multiplies the weights as they lie in the mapped file"
                                           : "llama.cpp reads the weights into private memory";
        json settings = {
            { "threads", threads },
            { "flash_attn", options.flash_attn },
            { "mmap", options.mmap },
            { "repack", repacked },
            { "n_batch", llama_n_batch(ctx.get()) },
            { "n_ubatch", llama_n_ubatch(ctx.get()) },
            { "n_ctx", llama_n_ctx_seq(ctx.get()) },
            { "argmax", "over the logits, in the worker" },
            { "kernels", card ? ggml_backend_dev_description(card) : isa(features) },
        };
        if (card) {
            settings["n_gpu_layers"] = options.n_gpu_layers;
            settings["split_mode"] = options.split_mode;
        }
        // If ggml was built with OpenMP, threads come from OpenMP, and only the pool's size
        // matters.
        if (features.count("OPENMP")) {
            settings["thread_pool"] = "OpenMP";
        } else {
            settings["thread_pool"] = "ggml's own";
            settings["poll"] = options.poll;
        }
        return {
            { "type", "loaded" },
            { "t_begin_ns", begin },
            { "t_end_ns", end },
            { "stages", { { "parse", parsed - begin }, { "weights", weights - parsed }, { "context", end - weights } } },
            { "precision", precision() },
            { "memory", book },
            { "settings", settings },
            { "notes", json::array({ note }) },
        };
    }

    // The types that llama.cpp's CPU backend computes in: activations take the type that the
    // weights' dot product requires.
    json precision() const {
        const std::string weights = type_name(llama_model_ftype(model.get()));
        const std::string compute = weights == "f32" || weights == "f16" || weights == "bf16" ? weights : "int8";
        const std::string kv = options.type_k == options.type_v ? options.type_k : options.type_k + "+" + options.type_v;
        return { { "weights", weights }, { "compute", compute }, { "kv", kv } };
    }

    // ---- running tokens ----

    std::vector<llama_token> ids(const json & list, size_t more) const {
        std::vector<llama_token> tokens = list;
        if (tokens.empty() || tokens.size() + more > n_ctx) {
            throw Failure{ "internal", "expected 1 to " + std::to_string(n_ctx) + " positions (n_ctx), found " +
                                           std::to_string(tokens.size() + more) };
        }
        for (llama_token t : tokens) {
            if (t < 0 || t >= n_vocab) {
                throw Failure{ "internal", "token id " + std::to_string(t) + " is outside the vocabulary of " +
                                               std::to_string(n_vocab) };
            }
        }
        return tokens;
    }

    // Runs tokens after those in the cache; computes the logits of all of them, of the last, or of
    // none.
    enum class Logits { NONE, LAST, ALL };
    static void run(llama_context * c, llama_token * tokens, int32_t n, Logits logits) {
        std::vector<int8_t> wanted(n, logits == Logits::ALL);
        wanted.back() = logits != Logits::NONE;
        llama_batch batch = llama_batch_get_one(tokens, n);
        batch.logits = wanted.data();
        decode(c, batch);
    }

    static void decode(llama_context * c, const llama_batch & batch) {
        const int32_t status = llama_decode(c, batch);
        if (status != 0) {
            const std::string what = "llama_decode returned " + std::to_string(status);
            throw status == -2 ? Failure{ "oom", what + ": out of memory" } : Failure{ "internal", what };
        }
    }

    // Runs the prompt in batches; computes logits of its last token only. False if it was
    // cancelled.
    template <typename Cancelled> bool prefill(std::vector<llama_token> & prompt, size_t from, Cancelled cancelled) {
        const size_t most = llama_n_batch(ctx.get());
        while (from < prompt.size()) {
            if (cancelled()) {
                return false;
            }
            const size_t n = std::min(most, prompt.size() - from);
            run(ctx.get(), &prompt[from], int32_t(n), from + n == prompt.size() ? Logits::LAST : Logits::NONE);
            from += n;
        }
        llama_synchronize(ctx.get());
        return true;
    }

    const float * logits() const { return llama_get_logits_ith(ctx.get(), -1); }

    // After the last token, and outside of its time.
    void check_finite() const { check_finite(logits(), n_vocab); }
    static void check_finite(const float * row, int n) {
        if (!std::all_of(row, row + n, [](float x) { return std::isfinite(x); })) {
            throw Failure{ "bad_model", "the logits are not finite numbers: a weight is not, or what is computed overflows" };
        }
    }

    // From now on no generation may build on the cache.
    void forget() {
        held.clear();
        depth = 0;
    }

    // Fills the empty cache with a context for generations at that depth.
    json fill(const json & request) {
        const uint64_t begin = now_ns();
        std::vector<llama_token> tokens = ids(request.at("tokens"), 0);
        forget();
        llama_memory_clear(llama_get_memory(ctx.get()), false);
        prefill(tokens, 0, [] { return false; });
        depth = tokens.size();
        return { { "type", "context" }, { "id", request.at("id") }, { "positions", depth },
                 { "t_begin_ns", begin }, { "t_end_ns", now_ns() } };
    }

    json generate(const json & request) {
        const uint64_t begin = now_ns();
        const size_t n = request.at("n");
        const bool measured = !request.contains("stream") && !request.contains("stop") && !request.contains("sampling") &&
                              !request.contains("reuse");
        if (request.value("logits", "none") != "none") {
            throw Failure{ "internal", "expected logits none; use score" };
        }
        if (n == 0 || !(request.value("ignore_eos", true) || request.contains("stop"))) {
            throw Failure{ "internal", "expected n of at least 1, and ignore_eos true or the ids in 'stop'" };
        }
        const size_t behind = request.value("depth", size_t(0));
        if (behind != 0 && (!measured || behind != depth)) {
            throw Failure{ "internal", "depth " + std::to_string(behind) + ": the context holds " + std::to_string(depth) +
                                           " positions, for measured generations only" };
        }
        if (request.value("batch", 1u) != 1 || request.contains("others")) {
            return together(request, begin, n, measured && behind == 0);
        }
        std::vector<llama_token> prompt = ids(request.at("prompt"), behind + n - 1), tokens;
        std::vector<uint64_t> times;
        tokens.reserve(n);
        times.reserve(n);
        if (!measured) {
            return watched(request, begin, prompt, n);
        }
        if (behind == 0) {
            forget();
            llama_memory_clear(llama_get_memory(ctx.get()), false);
        } else {
            // Removes what the last generation wrote after the context.
            llama_memory_seq_rm(llama_get_memory(ctx.get()), 0, llama_pos(behind), -1);
        }
        prefill(prompt, 0, [] { return false; });
        const uint64_t prefill_end = now_ns();
        while (true) {
            tokens.push_back(argmax(logits(), n_vocab));
            times.push_back(now_ns());
            if (tokens.size() == n) {
                break;
            }
            run(ctx.get(), &tokens.back(), 1, Logits::LAST);
        }
        check_finite();
        json answer = generated(request, tokens, begin, prefill_end, times);
        if (behind != 0) {
            answer["depth"] = behind;
        }
        return answer;
    }

    // Several sequences, prefilled and decoded together.
    json together(const json & request, uint64_t begin, size_t n, bool measured) {
        std::vector<std::vector<llama_token>> prompts = { ids(request.at("prompt"), n - 1) };
        for (const json & other : request.value("others", json::array())) {
            prompts.push_back(ids(other, n - 1));
        }
        const size_t length = prompts[0].size();
        const auto as_long = [&](const auto & prompt) { return prompt.size() == length; };
        if (!measured || prompts.size() != sequences || request.value("batch", 1u) != sequences ||
            !std::all_of(prompts.begin(), prompts.end(), as_long)) {
            throw Failure{ "internal", "a batch: expected a measured generation without depth, with " + std::to_string(sequences) +
                                           " prompts of one length, as loaded; found " + std::to_string(prompts.size()) };
        }
        std::vector<std::vector<llama_token>> tokens(sequences);
        std::vector<uint64_t> times;
        forget();
        llama_memory_clear(llama_get_memory(ctx.get()), false);
        Rows rows;
        for (size_t s = 0; s < sequences; s++) {
            for (size_t i = 0; i < length; i++) {
                rows.add(prompts[s][i], llama_pos(i), llama_seq_id(s), i + 1 == length);
                if (rows.size() == llama_n_batch(ctx.get()) || (s + 1 == sequences && i + 1 == length)) {
                    choose(rows, tokens);
                }
            }
        }
        const uint64_t prefill_end = now_ns();
        for (times.push_back(now_ns()); times.size() < n; times.push_back(now_ns())) {
            for (size_t s = 0; s < sequences; s++) {
                rows.add(tokens[s].back(), llama_pos(length + times.size() - 1), llama_seq_id(s), true);
            }
            choose(rows, tokens);
        }
        json answer = generated(request, tokens[0], begin, prefill_end, times);
        answer["others"] = std::vector<std::vector<llama_token>>(tokens.begin() + 1, tokens.end());
        return answer;
    }

    // Tokens of several sequences for one call.
    struct Rows {
        std::vector<llama_token> tokens;
        std::vector<llama_pos> positions;
        std::vector<llama_seq_id> sequence;
        std::vector<int8_t> wanted; // whether the row's logits are

        size_t size() const { return tokens.size(); }
        void add(llama_token token, llama_pos position, llama_seq_id s, bool logits) {
            tokens.push_back(token);
            positions.push_back(position);
            sequence.push_back(s);
            wanted.push_back(logits);
        }
    };

    // Runs the rows, adds the likeliest token behind each row whose logits are wanted to those of its
    // sequence, and empties the rows.
    void choose(Rows & rows, std::vector<std::vector<llama_token>> & chosen) {
        std::vector<int32_t> one(rows.size(), 1);
        std::vector<llama_seq_id *> ids;
        for (llama_seq_id & s : rows.sequence) {
            ids.push_back(&s);
        }
        decode(ctx.get(), { int32_t(rows.size()), rows.tokens.data(), nullptr, rows.positions.data(), one.data(), ids.data(),
                            rows.wanted.data() });
        llama_synchronize(ctx.get());
        for (size_t i = 0; i < rows.size(); i++) {
            if (rows.wanted[i]) {
                const float * logits = llama_get_logits_ith(ctx.get(), int32_t(i));
                const llama_token best = argmax(logits, n_vocab);
                check_finite(logits + best, 1);
                chosen[rows.sequence[i]].push_back(best);
            }
        }
        rows = Rows();
    }

    static json generated(const json & request, const std::vector<llama_token> & tokens, uint64_t begin, uint64_t prefill_end,
                          const std::vector<uint64_t> & times) {
        return { { "type", "generated" }, { "id", request.at("id") },           { "tokens", tokens },
                 { "t_begin_ns", begin }, { "t_prefill_end_ns", prefill_end }, { "t_tokens_ns", times } };
    }

    // A generation for a reader: streamed, sampled, stopped, or on top of the cache's contents.
    json watched(const json & request, uint64_t begin, std::vector<llama_token> & prompt, size_t n) {
        const uint64_t id = request.at("id");
        const std::vector<llama_token> stop = request.value("stop", std::vector<llama_token>());
        const bool stream = request.value("stream", false);
        std::unique_ptr<Sampling> sampling;
        if (request.contains("sampling")) {
            sampling = std::make_unique<Sampling>(request.at("sampling"));
        }
        const auto cancelled = [&] { return requests.cancelled(id); };
        size_t reused = 0;
        if (request.value("reuse", false)) {
            const auto [a, b] = std::mismatch(held.begin(), held.end(), prompt.begin(), prompt.end());
            reused = std::min(size_t(a - held.begin()), prompt.size() - 1);
        }
        llama_memory_seq_rm(llama_get_memory(ctx.get()), 0, llama_pos(reused), -1);
        forget();
        const bool whole = prefill(prompt, reused, cancelled);
        const uint64_t prefill_end = now_ns();
        std::vector<llama_token> tokens;
        std::vector<uint64_t> times;
        std::vector<llama_token> kept(whole ? prompt : std::vector<llama_token>());
        while (whole && tokens.size() < n && !cancelled()) {
            if (!tokens.empty()) {
                run(ctx.get(), &tokens.back(), 1, Logits::LAST);
                kept.push_back(tokens.back());
            }
            tokens.push_back(sampling ? sampling->draw(logits(), n_vocab, tokens.size()) : argmax(logits(), n_vocab));
            times.push_back(now_ns());
            if (stream) {
                wire.send({ { "type", "token" }, { "id", id }, { "token", tokens.back() }, { "t_ns", times.back() } });
            }
            if (std::find(stop.begin(), stop.end(), tokens.back()) != stop.end()) {
                break;
            }
        }
        if (!tokens.empty()) {
            check_finite();
        }
        held = kept; // a prompt cancelled half-way leaves nothing to build on
        if (!whole) {
            llama_memory_clear(llama_get_memory(ctx.get()), false);
        }
        json answer = generated(request, tokens, begin, prefill_end, times);
        answer["reused"] = reused;
        return answer;
    }

    // Writes teacher-forced logits, float32 row by row, to the file that the harness names. Uses a
    // context of its own, because the measured one holds a single row of logits.
    json score(const json & request) {
        const uint64_t begin = now_ns();
        std::vector<llama_token> tokens = ids(request.at("tokens"), 0);
        const std::string path = request.at("logits_path");
        const size_t first = request.value("first", size_t(0));
        const size_t together = std::min(request.value("decode_from", tokens.size()), tokens.size());
        forget();
        std::unique_ptr<FILE, int (*)(FILE *)> file(fopen(path.c_str(), "wb"), fclose);
        if (!file) {
            throw Failure{ "internal", "cannot write " + path + ": " + strerror(errno) };
        }
        std::unique_ptr<llama_context, Free> c = context(1, SCORE_ROWS);
        size_t rows = 0;
        for (size_t at = 0; at < tokens.size();) {
            const size_t n = at < together ? std::min<size_t>(SCORE_ROWS, together - at) : 1;
            const size_t batch = std::min<size_t>(n, llama_n_batch(c.get()));
            run(c.get(), &tokens[at], int32_t(batch), Logits::ALL);
            for (size_t i = 0; i < batch; i++) {
                if (at + i < first) {
                    continue;
                }
                const float * row = llama_get_logits_ith(c.get(), int32_t(i));
                if (fwrite(row, sizeof(float), n_vocab, file.get()) != size_t(n_vocab)) {
                    throw Failure{ "internal", "cannot write " + path + ": " + strerror(errno) };
                }
                rows++;
            }
            at += batch;
        }
        if (fflush(file.get()) != 0) {
            throw Failure{ "internal", "cannot write " + path + ": " + strerror(errno) };
        }
        return { { "type", "scored" },   { "id", request.value("id", 0) },
                 { "positions", rows },  { "vocab", n_vocab },
                 { "decoded", tokens.size() - std::min(std::max(together, first), tokens.size()) },
                 { "t_begin_ns", begin }, { "t_end_ns", now_ns() } };
    }

    // The ids of texts by llama.cpp's tokenizer, which has one thread: with those that the model puts
    // around a text, and no text read as a control token.
    json tokenize(const json & request) const {
        const llama_vocab * vocab = llama_model_get_vocab(model.get());
        const std::vector<std::string> texts = request.at("texts");
        std::vector<std::vector<llama_token>> found(texts.size());
        const uint64_t begin = now_ns();
        for (size_t i = 0; i < texts.size(); i++) {
            const std::string & text = texts[i];
            std::vector<llama_token> & tokens = found[i];
            tokens.resize(text.size() + 8); // each token of the text has a byte at least
            const int32_t n = llama_tokenize(vocab, text.data(), int32_t(text.size()), tokens.data(), int32_t(tokens.size()),
                                             /* add_special */ true, /* parse_special */ false);
            if (n < 0) {
                throw Failure{ "internal", "expected the ids of a text of " + std::to_string(text.size()) +
                                               " bytes, llama_tokenize wants room for " + std::to_string(-n) };
            }
            tokens.resize(n);
        }
        const uint64_t end = now_ns();
        json counts = json::array();
        for (const auto & tokens : found) {
            counts.push_back(tokens.size());
        }
        json answer = { { "type", "tokenized" }, { "id", request.value("id", 0) }, { "counts", counts },
                        { "tokenizer", std::string("llama.cpp ") + llama_version() }, { "threads", 1 },
                        { "t_begin_ns", begin }, { "t_end_ns", end } };
        if (request.value("ids", false)) {
            answer["ids"] = found;
        }
        return answer;
    }

    // Bytes by llama.cpp's own account, and how much of its buffers is resident.
    json memory() {
        uint64_t mapped = 0, priv = 0, repacked = 0, kv = 0, compute = 0, on_card = 0;
        for (const auto & [type, size] : llama_get_memory_breakdown(ctx.get())) {
            const std::string name = ggml_backend_buft_name(type);
            ggml_backend_dev_t device = ggml_backend_buft_get_device(type);
            if (device && ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_GPU && !ggml_backend_buft_is_host(type)) {
                on_card += size.model + size.context + size.compute;
                continue;
            }
            (name.find("Mapped") != std::string::npos ? mapped : priv) += size.model;
            repacked += name.find("REPACK") != std::string::npos ? size.model : 0;
            kv += size.context;
            compute += size.compute;
        }
        json book = {
            { "type", "memory" },
            { "weights_mapped_bytes", mapped },
            { "weights_private_bytes", priv },
            { "kv_bytes", kv },
            { "activation_bytes", compute },
            { "repacked", repacked },
        };
        if (card) {
            book["device_allocated_bytes"] = on_card;
        } else {
            residents(book);
        }
        const uint64_t free = allocator_free();
        book["allocator_free_bytes"] = free > free_at_ready ? free - free_at_ready : 0;
        return book;
    }

    // The graph of a decode step names the buffers of weights and cache, but not yet those of
    // activations.
    void residents(json & book) {
        ggml_cgraph * graph = llama_graph_reserve(ctx.get(), sequences, sequences, sequences);
        std::set<ggml_backend_buffer_t> buffers;
        const auto add = [&](const ggml_tensor * t) {
            if (t && t->buffer) {
                buffers.insert(t->buffer);
            }
        };
        for (int i = 0; graph && i < ggml_graph_n_nodes(graph); i++) {
            const ggml_tensor * node = ggml_graph_node(graph, i);
            add(node);
            add(node->view_src);
            for (const ggml_tensor * source : node->src) {
                add(source);
                add(source ? source->view_src : nullptr);
            }
        }
        uint64_t weights = 0, kv = 0;
        bool told = graph != nullptr;
        for (ggml_backend_buffer_t b : buffers) {
            const std::string name = ggml_backend_buft_name(ggml_backend_buffer_get_type(b));
            const ggml_backend_buffer_usage usage = ggml_backend_buffer_get_usage(b);
            const bool is_weights = usage == GGML_BACKEND_BUFFER_USAGE_WEIGHTS;
            if (usage == GGML_BACKEND_BUFFER_USAGE_COMPUTE || (is_weights && name.find("Mapped") != std::string::npos)) {
                continue; // the harness itself counts the file's pages
            }
            uint64_t & part = is_weights ? weights : kv;
            told = told && in_memory(ggml_backend_buffer_get_base(b), ggml_backend_buffer_get_size(b), part);
        }
        if (told) {
            book["weights_private_resident_bytes"] = weights;
            book["kv_resident_bytes"] = kv;
        }
    }
};

// One message; `internal` if it is not a JSON object with a type.
json parse(const std::string & line) {
    json message = json::parse(line, nullptr, false);
    if (!message.is_object() || !message.contains("type") || !message.at("type").is_string()) {
        throw Failure{ "internal", "expected a JSON object with a 'type' a line, found " + line.substr(0, 200) };
    }
    return message;
}

int serve(Wire & wire) {
    Requests requests;
    std::string line;
    if (!requests.next(line)) {
        return 0;
    }
    const json hello = parse(line);
    if (hello.at("type") != "hello" || hello.value("protocol", 0) != PROTOCOL) {
        throw Failure{ "internal", "expected hello of protocol 1, found " + line.substr(0, 200) };
    }
    wire.send({ { "type", "hello" }, { "protocol", PROTOCOL }, { "engine", "llama.cpp" }, { "pid", getpid() },
                { "t_entry_ns", T_ENTRY_NS } });
    Engine engine(wire, requests);
    wire.send(engine.ready());
    while (requests.next(line)) {
        const json request = parse(line);
        if (request.at("type") == "bye") {
            return 0;
        }
        if (request.at("type") != "cancel") { // the generation to cancel has already ended
            wire.send(engine.answer(request));
        }
    }
    return 0;
}

} // namespace

int main() {
    // Whatever a library prints goes to stderr; the protocol keeps its own descriptor.
    Wire wire(fcntl(1, F_DUPFD_CLOEXEC, 3));
    dup2(2, 1);
    Failure failure;
    try {
        return serve(wire);
    } catch (const Failure & f) {
        failure = f;
    } catch (const std::bad_alloc &) {
        failure = { "oom", "out of memory; try fewer positions (n_ctx) or a smaller quantization" };
    } catch (const std::exception & e) {
        failure = { "internal", e.what() };
    }
    wire.send({ { "type", "error" }, { "kind", failure.kind }, { "message", failure.message } });
    return 1;
}
