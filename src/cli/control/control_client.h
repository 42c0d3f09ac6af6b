// ControlClient: a command's end of a machine's control socket.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "api/control_protocol.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace strata::cli {

class ControlClient {
  public:
    /// `machine` is a name or a path. NotFound: no machine of that name runs.
    static Result<ControlClient> connect(std::string_view machine);

    /// Sends the request, with `fd` (if it is one) as its file, and waits for the answer.
    Result<api::Json> ask(api::ControlRequest request, int fd = -1);
    /// Events until `visit` answers true. Unreachable: the machine has ended.
    Result<> follow(const std::function<bool(const api::Json& event)>& visit);
    /// `path` as the machine means it, for us.
    [[nodiscard]] std::string resolve(std::string_view path) const;
    [[nodiscard]] const std::string& machine() const { return machine_; }

  private:
    explicit ControlClient(UniqueFd fd) : fd_(std::move(fd)) {}
    Result<api::Json> next_line();
    Result<> send_line(const std::string& line, int fd) const;

    UniqueFd fd_;
    std::string in_, machine_, folder_;
    std::vector<api::Json> events_;  ///< that came before an answer
    std::uint64_t next_id_ = 1;
};

}  // namespace strata::cli
