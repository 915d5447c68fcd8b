// Messages of the llm-bench engine protocol: one JSON object per line.

#pragma once

#include "nlohmann/json.hpp"

#include <cerrno>
#include <cstdio>
#include <string>

#include <poll.h>
#include <unistd.h>

using json = nlohmann::json;

// An error with its kind in the protocol.
struct Failure {
    std::string kind, message;
};


// Writes messages to the descriptor that was stdout.
class Wire {
public:
    explicit Wire(int fd) : out(fdopen(fd, "w")) {}

    void send(const json & message) {
        const std::string line = message.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
        fwrite(line.data(), 1, line.size(), out);
        fflush(out);
    }

private:
    FILE * out;
};

// Lines of stdin, and whether the running generation has been cancelled.
class Requests {
public:
    // False at the end of stdin.
    bool next(std::string & line) {
        size_t end;
        while ((end = text.find('\n', seen)) == std::string::npos) {
            seen = text.size();
            if (!fill()) {
                return false;
            }
        }
        line = text.substr(0, end);
        text.erase(0, end + 1);
        seen = 0;
        return true;
    }

    // Whether `cancel` for this generation has arrived or stdin has ended. Never waits.
    bool cancelled(uint64_t generation) {
        pollfd in = { 0, POLLIN, 0 };
        while (poll(&in, 1, 0) > 0) {
            if (!fill()) {
                return true;
            }
        }
        for (size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
            const json m = json::parse(text.substr(begin, end - begin), nullptr, false);
            if (m.is_object() && m.value("type", "") == "cancel" && m.value("id", ~0ull) == generation) {
                return true;
            }
        }
        return false;
    }

private:
    std::string text;
    size_t seen = 0; // no line ends before this byte

    bool fill() {
        char chunk[1 << 16];
        ssize_t n;
        do {
            n = read(0, chunk, sizeof chunk);
        } while (n < 0 && errno == EINTR);
        text.append(chunk, n > 0 ? n : 0);
        return n > 0;
    }
};
