// Tool: two pipes, read until both are closed.
#include "host/tool.h"

#include <array>
#include <cerrno>
#include <deque>

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include "base/unique_fd.h"
#include "host/process.h"

namespace strata::host {
namespace {

constexpr std::size_t kMaxToolOutput = 16U << 20;
constexpr std::size_t kLastWords = 3;

// Cuts `buffer` into lines; the rest stays.
void take_lines(std::string& buffer, const std::function<void(std::string_view)>& take) {
    std::size_t end = 0;
    while ((end = buffer.find_first_of("\r\n")) != std::string::npos) {
        if (end > 0) {
            take(std::string_view(buffer).substr(0, end));
        }
        buffer.erase(0, end + 1);
    }
}

struct Pipe {
    UniqueFd read, write;
    static Result<Pipe> create() {
        std::array<int, 2> ends{};
        if (pipe2(ends.data(), O_CLOEXEC) != 0) {
            return Error::from_errno("pipe");
        }
        return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
    }
};

// Reads what is there into `buffer`; closes `fd` at its end.
void read_some(UniqueFd& fd, std::string& buffer, std::size_t limit) {
    std::array<char, 8192> chunk{};
    const ssize_t got = read(fd.get(), chunk.data(), chunk.size());
    if (got > 0) {
        if (buffer.size() < limit) {
            buffer.append(chunk.data(), static_cast<std::size_t>(got));
        }
    } else if (got == 0 || errno != EINTR) {
        fd.reset();
    }
}

}  // namespace

Result<std::string> run_tool(const ToolRequest& request) {
    Pipe output = STRATA_TRY(Pipe::create());
    Pipe errors = STRATA_TRY(Pipe::create());
    if (request.words.empty()) {
        return Error{ErrorKind::InvalidArgument, "no program to run"};
    }
    SpawnOptions options;
    options.program = request.words[0];
    options.search_path = true;
    options.arguments.assign(request.words.begin() + 1, request.words.end());
    options.files = {{output.write.get(), 1}, {errors.write.get(), 2}};
    options.inherit_standard_files = false;
    options.folder = request.folder;
    options.die_with_parent = false;  // it may have something to put in order
    ChildProcess child = STRATA_TRY(ChildProcess::spawn(options));
    output.write.reset();
    errors.write.reset();

    std::string text;
    std::string lines;
    std::deque<std::string> last_words;
    const auto take = [&](std::string_view line) {
        last_words.emplace_back(line);
        if (last_words.size() > kLastWords) {
            last_words.pop_front();
        }
        if (request.on_line) {
            request.on_line(line);
        }
    };
    while (output.read.valid() || errors.read.valid()) {
        std::array<pollfd, 2> wait{
            {{output.read.get(), POLLIN, 0}, {errors.read.get(), POLLIN, 0}}};
        if (poll(wait.data(), wait.size(), -1) < 0) {
            continue;
        }
        if (wait[0].revents != 0) {
            read_some(output.read, text, kMaxToolOutput);
        }
        if (wait[1].revents != 0) {
            read_some(errors.read, lines, kMaxToolOutput);
            take_lines(lines, take);
        }
    }
    const ExitState ended = STRATA_TRY(child.wait());
    if (ended != ExitState{}) {
        std::string why;
        for (const std::string& line : last_words) {
            why += fmt::format("{}{}", why.empty() ? "" : " / ", line);
        }
        return Error{ErrorKind::Failed,
                     fmt::format("{} ended with {}: {}", request.words[0], ended.text(),
                                 why.empty() ? "it said nothing" : why)};
    }
    return text;
}

}  // namespace strata::host
