// MachineConfig: a machine's configuration, the packets between a VMM and who started it, and the
// options that people write: what is taken means the same when it is said again. The first byte
// says which.
#include "api/machine_config.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "api/option_text.h"
#include "api/vmm_protocol.h"
#include "base/check.h"

namespace {

using namespace strata;  // NOLINT(google-build-using-namespace): a fuzz target

constexpr std::size_t kFds = 8;

void packet(std::string_view text) {
    const auto json = api::parse_json(text);
    if (!json.ok()) {
        return;
    }
    if (const auto config = api::machine_config_from_json(*json, kFds); config.ok()) {
        const auto again = api::machine_config_from_json(api::to_json(*config), kFds);
        STRATA_CHECK(again.ok() && *again == *config, "a configuration changes when said again");
    }
    if (const auto request = api::vmm_request_from_json(*json, kFds); request.ok()) {
        const auto again = api::vmm_request_from_json(api::to_json(*request), kFds);
        STRATA_CHECK(again.ok() && again->operation == request->operation, "a request changes");
    }
    if (const auto event = api::vmm_event_from_json(*json); event.ok()) {
        const auto again = api::vmm_event_from_json(api::to_json(*event));
        STRATA_CHECK(again.ok() && again->kind == event->kind, "an event changes");
        (void)api::exit_status(*event);
    }
}

void options(std::string_view text) {
    (void)api::parse_cpus(text);
    (void)api::parse_disk(text);
    (void)api::parse_secret(text);
    (void)api::parse_forward(text);
    (void)api::parse_serial("--serial", text);
    std::vector<api::NetConfig> nets;
    (void)api::parse_net(text, nets);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) {
        return 0;
    }
    // SAFETY: bytes as characters.
    const std::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
    if (data[0] % 2 == 0) {
        packet(text);
    } else {
        options(text);
    }
    return 0;
}
