// llama.cpp's build and loaded model in the protocol's words.

#pragma once

#include "llama.h"

#include <algorithm>
#include <set>
#include <string>

// The widest instruction set among the features that ggml was compiled with and found.
inline std::string isa(const std::set<std::string> & features) {
    for (const char * name : { "AMX_INT8", "AVX512_BF16", "AVX512_VNNI", "AVX512", "AVX_VNNI", "AVX2", "AVX", "SSE3", "SME",
                               "SVE", "MATMUL_INT8", "DOTPROD", "NEON", "RISCV_V", "VSX", "VXE" }) {
        if (features.count(name)) {
            std::string lower = name;
            std::transform(lower.begin(), lower.end(), lower.begin(), ::tolower);
            return lower;
        }
    }
    return "generic";
}

// The CPU backend's features, compiled in and found at run time, such as AVX512_VNNI.
inline std::set<std::string> cpu_features() {
    std::set<std::string> found;
    ggml_backend_reg_t cpu = ggml_backend_cpu_reg();
    const auto get = (ggml_backend_get_features_t) ggml_backend_reg_get_proc_address(cpu, "ggml_backend_get_features");
    for (auto * f = get ? get(cpu) : nullptr; f && f->name; f++) {
        if (std::string(f->value) != "0") {
            found.insert(f->name);
        }
    }
    return found;
}

// llama.cpp's name of a file type in the protocol's form: "Q4_K - Medium" becomes q4_k_m.
inline std::string type_name(llama_ftype type) {
    std::string name = llama_ftype_name(type);
    if (name.rfind("all ", 0) == 0) {
        name = name.substr(4);
    }
    const size_t dash = name.find(" - ");
    if (dash != std::string::npos) {
        name = name.substr(0, dash) + "_" + name.substr(dash + 3, 1);
    }
    name = name.substr(0, name.find(' '));
    std::transform(name.begin(), name.end(), name.begin(), ::tolower);
    return name;
}
