// serve: see serve.h. The output of a script goes to a file in /tmp (memory on both sides) and is
// hashed when the clock has stopped.
#include "serve.h"

#include <array>
#include <cctype>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>

#include <fcntl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

namespace guestbench {
namespace {

constexpr const char* kOutput = "/tmp/guestbench.out";

double now() {
    timespec time{};
    clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

// A console would send every request back as output.
void stop_echo() {
    termios settings{};
    if (tcgetattr(0, &settings) == 0) {
        settings.c_lflag &= ~static_cast<tcflag_t>(ECHO);
        tcsetattr(0, TCSANOW, &settings);
    }
}

[[noreturn]] void become(const std::string& script) {
    const int out = open(kOutput, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    const int null = open("/dev/null", O_RDWR);
    if (out < 0 || null < 0 || dup2(null, 0) < 0 || dup2(out, 1) < 0 || dup2(null, 2) < 0 ||
        chdir("/tmp") != 0) {
        _exit(126);
    }
    execl("/bin/sh", "sh", script.c_str(), nullptr);
    _exit(127);
}

int status_of(const std::string& script) {
    const pid_t child = fork();
    if (child == 0) {
        become(script);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child) {
        return 255;
    }
    while (waitpid(-1, nullptr, WNOHANG) >
           0) {  // what it left behind: as the guest's first process this one inherits it
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

struct Output {
    std::uint64_t hash = 14695981039346656037ULL;  // FNV-1a
    std::string start;
};

Output read_output() {
    Output found;
    const int file = open(kOutput, O_RDONLY);
    std::array<char, 65536> part{};
    for (ssize_t length = 0; file >= 0 && (length = read(file, part.data(), part.size())) > 0;) {
        for (ssize_t i = 0; i < length; ++i) {
            found.hash =
                (found.hash ^ static_cast<unsigned char>(part[static_cast<std::size_t>(i)])) *
                1099511628211ULL;
        }
        if (found.start.size() < 128) {
            found.start.append(part.data(), static_cast<std::size_t>(length < 128 ? length : 128));
        }
    }
    if (file >= 0) {
        close(file);
    }
    return found;
}

bool is_name(const std::string& name) {
    bool good = !name.empty();
    for (const char c : name) {
        good = good && (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_');
    }
    return good;
}

void answer(const std::string& name, const char* folder) {
    const double start = now();
    const int status = status_of(std::string(folder) + "/" + name);
    double seconds = now() - start;
    const Output output = read_output();
    unsigned long long check = output.hash;
    if (output.start.starts_with("BENCH ") &&
        std::sscanf(output.start.c_str(), "BENCH %*s %lf %llx", &seconds, &check) != 2) {
        check = 0;
    }
    std::printf("BENCH %s %.6f %016llx %d\n", name.c_str(), seconds, check, status);
    std::fflush(stdout);
}

}  // namespace

int serve(const char* folder) {
    stop_echo();
    std::printf("READY\n");
    std::fflush(stdout);
    std::array<char, 256> line{};
    while (std::fgets(line.data(), static_cast<int>(line.size()), stdin) != nullptr) {
        std::string name(line.data());
        while (!name.empty() && std::isspace(static_cast<unsigned char>(name.back())) != 0) {
            name.pop_back();
        }
        if (is_name(name)) {
            answer(name, folder);
        }
    }
    return 0;
}

}  // namespace guestbench
