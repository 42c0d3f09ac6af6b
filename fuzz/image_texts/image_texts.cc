// Texts that images are described by: VMDK descriptors, OVF and its manifest, Parallels' and
// XenServer's XML, names of members, locations, passphrases. The first byte says which.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/check.h"
#include "block/formats/archive/tar.h"
#include "block/formats/ova/envelope.h"
#include "block/formats/parallels/bundle.h"
#include "block/formats/vmdk/descriptor.h"
#include "block/formats/xva/blocks.h"
#include "block/nbd/address.h"
#include "block/secrets.h"

namespace {

using namespace strata;         // NOLINT(google-build-using-namespace): a fuzz target
using namespace strata::block;  // NOLINT(google-build-using-namespace)

void descriptor(std::string_view text) {
    const auto parsed = vmdk::parse_descriptor(std::as_bytes(std::span(text)), "fuzz");
    if (!parsed.ok()) {
        return;
    }
    (void)parsed->size();
    const std::string again = vmdk::serialise_descriptor(*parsed);
    const auto back = vmdk::parse_descriptor(std::as_bytes(std::span(again)), "fuzz");
    STRATA_CHECK(!back.ok() || back->size() == parsed->size(), "a descriptor changes its size");
    if (const auto changed = vmdk::with_cid(std::string(text), 7, "fuzz"); changed.ok()) {
        STRATA_CHECK(changed->size() == text.size(), "a new CID changes the length");
    }
}

void bundle(std::string_view text) {
    const auto parsed = parallels::parse_bundle(text, "fuzz");
    if (!parsed.ok()) {
        return;
    }
    std::uint64_t at = 0;
    for (const auto& each : *parsed) {
        STRATA_CHECK(each.start == at && !each.layers.empty(), "a gap in a bundle");
        at += each.size;
    }
}

void location(const std::string& text) {
    const auto parsed = nbd::parse_location(text);
    if (!parsed.ok()) {
        return;
    }
    (void)nbd::location_uri(*parsed);
    OptionList options = nbd::location_options(*parsed);
    const auto back = nbd::take_location(options);
    STRATA_CHECK(back.ok() && back->address.text() == parsed->address.text() &&
                     back->export_name == parsed->export_name && back->tls == parsed->tls,
                 "a location changes on its way through options");
}

void secret(const std::string& text) {
    (void)is_utf8(text);
    (void)load_secret({.data = text, .base64 = true});
    (void)load_secret({.data = text.substr(text.size() / 2),
                       .base64 = true,
                       .key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
                       .iv = text.substr(0, text.size() / 2)});
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) {
        return 0;
    }
    // SAFETY: bytes as characters.
    const std::string text(reinterpret_cast<const char*>(data + 1), size - 1);
    switch (data[0] % 8) {
        case 0:
            descriptor(text);
            break;
        case 1:
            (void)ova::parse_ovf(text, "fuzz");
            break;
        case 2:
            (void)ova::parse_manifest(text);
            break;
        case 3:
            bundle(text);
            break;
        case 4:
            (void)xva::parse_disk_sizes(text, "fuzz");
            break;
        case 5:
            (void)xva::parse_block_name(text);
            (void)archive::name_in_header(std::as_bytes(std::span(text)));
            break;
        case 6:
            location(text);
            break;
        default:
            secret(text);
            break;
    }
    return 0;
}
