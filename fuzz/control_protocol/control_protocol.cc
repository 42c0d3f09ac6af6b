// Lines of a machine's control socket: what is taken means the same when it is said again.
#include "api/control_protocol.h"

#include <cstdint>
#include <string_view>

#include "base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    namespace api = strata::api;
    // SAFETY: bytes as characters.
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const auto line = api::control_line_from_text(text);
    if (!line) {
        return 0;
    }
    const auto request = api::control_request_from_json(line->body, 2);
    if (request) {
        const auto again = api::control_request_from_json(api::to_json(*request), 2);
        STRATA_CHECK(again.ok() && *again == *request, "a request changes when it is said again");
    }
    (void)api::error_from_json(line->body);
    return 0;
}
