// LUKS volumes: making and opening.
#include "block/formats/luks/volume.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include <fmt/format.h>

#include "base/text.h"
#include "block/formats/common/table_node.h"
#include "block/formats/common/wire.h"
#include "block/formats/luks/volume_key.h"

namespace strata::block::luks {
namespace {

constexpr std::uint64_t kSlotAlignment = 4096, kSector = 512, kMaxTime = 60'000;
constexpr std::uint32_t kStripes = 4000;

Error wrong(std::string text) {
    return {ErrorKind::InvalidArgument, std::move(text), EINVAL};
}

Result<std::uint32_t> key_bytes_of(std::string_view cipher, std::string_view mode) {
    struct Known {
        std::string_view name;
        std::uint32_t bytes;
    };
    constexpr std::array<Known, 3> kKnown = {{{"aes-128", 16}, {"aes-192", 24}, {"aes-256", 32}}};
    for (const Known& each : kKnown) {
        if (each.name == cipher && (mode == "cbc" || (mode == "xts" && each.bytes != 24))) {
            return mode == "xts" ? each.bytes * 2 : each.bytes;
        }
    }
    return wrong(
        fmt::format("the cipher {} in mode {} is not supported: use aes-128, aes-192 (cbc alone) "
                    "or aes-256, and xts or cbc",
                    cipher, mode));
}

}  // namespace

Result<NewVolume> plan_volume(const CreateRequest& request, std::string_view prefix) {
    const auto option = [&](std::string_view name, std::string_view fallback) {
        return request.option(fmt::format("{}{}", prefix, name), fallback);
    };
    NewVolume plan;
    const std::string_view cipher = option("cipher-alg", "aes-256"),
                           mode = option("cipher-mode", "xts");
    const std::string_view iv = option("ivgen-alg", "plain64"),
                           iv_hash = option("ivgen-hash-alg", iv == "essiv" ? "sha256" : "");
    plan.header.key_bytes = STRATA_TRY(key_bytes_of(cipher, mode));
    plan.header.cipher = "aes";
    plan.header.mode = iv_hash.empty() ? fmt::format("{}-{}", mode, iv)
                                       : fmt::format("{}-{}:{}", mode, iv, iv_hash);
    plan.header.hash = option("hash-alg", "sha256");
    plan.milliseconds = STRATA_TRY(request.number(fmt::format("{}iter-time", prefix), 2000));
    plan.passphrase = option("key-secret", "");
    if (plan.milliseconds == 0 || plan.milliseconds > kMaxTime) {
        return wrong(
            fmt::format("iter-time={}: use 1 to {} milliseconds", plan.milliseconds, kMaxTime));
    }
    // Says so if the IV is unknown.
    STRATA_TRY_VOID(SectorCipher::create(plan.header.cipher, plan.header.mode,
                                         std::vector<std::byte>(plan.header.key_bytes)));
    const std::uint64_t slot =
        round_up(std::uint64_t{kStripes} * plan.header.key_bytes, kSlotAlignment);
    for (std::size_t i = 0; i < plan.header.slots.size(); ++i) {
        plan.header.slots.at(i).offset = kSlotAlignment + i * slot;
        plan.header.slots.at(i).stripes = kStripes;
    }
    plan.header.payload = kSlotAlignment + plan.header.slots.size() * slot;
    return plan;
}

Task<MadeVolume> make_volume(Loop& loop, NewVolume plan) {
    if (plan.passphrase.empty()) {
        co_return wrong("Parameter 'key-secret' is required for cipher");
    }
    MadeVolume made;
    made.header = plan.header;
    made.key = Secret(plan.header.key_bytes);
    STRATA_CO_TRY_VOID(fill_random(made.key.bytes()));
    made.header.uuid = format_uuid(random_uuid(), false);
    const auto work = [&made, &plan]() -> Result<std::vector<std::byte>> {
        STRATA_TRY_VOID(seal(made.header, made.key, plan.milliseconds / 8));
        return fill_slot(made.header, made.header.slots[0], made.key, plan.passphrase,
                         plan.milliseconds);
    };
    Result<std::vector<std::byte>> material = co_await loop.offload(work);
    STRATA_CO_TRY_VOID(material.ok() ? ok() : Result<>(material.error()));
    made.bytes.resize(made.header.payload);
    const std::vector<std::byte> start = serialise_header(made.header);
    std::copy(start.begin(), start.end(), made.bytes.begin());
    std::copy(material->begin(), material->end(),
              made.bytes.begin() + static_cast<std::ptrdiff_t>(made.header.slots[0].offset));
    co_return std::move(made);
}

Task<Header> read_header(Area area) {
    STRATA_CO_TRY(const auto bytes, co_await read_bytes(*area.file, area.offset, kHeaderBytes));
    co_return parse_header(bytes, area.length, area.name);
}

Task<OpenVolume> open_volume(Area area, std::string passphrase) {
    STRATA_CO_TRY(const Header header, co_await read_header(area));
    for (const Slot& slot : header.slots) {
        if (!slot.active) {
            continue;
        }
        const std::uint64_t length =
            round_up(std::uint64_t{slot.stripes} * header.key_bytes, kSector);
        STRATA_CO_TRY(auto material,
                      co_await read_bytes(*area.file, area.offset + slot.offset, length));
        Result<Secret> key = co_await area.file->loop().offload(
            [&] { return open_slot(header, slot, std::move(material), passphrase); });
        if (key.ok()) {
            co_return OpenVolume{header, std::move(*key)};
        }
        if (key.error().kind() != ErrorKind::PermissionDenied) {
            co_return key.error();
        }
    }
    co_return Error{ErrorKind::PermissionDenied, "Invalid password, cannot unlock any keyslot",
                    EACCES};
}

std::vector<InfoField> volume_info(const Header& h) {
    const std::size_t dash = std::min(h.mode.find('-'), h.mode.size()),
                      colon = std::min(h.mode.find(':'), h.mode.size());
    const std::string mode = h.mode.substr(0, dash),
                      iv = h.mode.substr(std::min(dash + 1, h.mode.size()),
                                         colon - std::min(dash + 1, colon));
    const std::uint32_t bits = h.key_bytes * (mode == "xts" ? 4 : 8);
    std::vector<InfoField> fields;
    fields.push_back({"ivgen-alg", "ivgen alg", iv});
    if (colon < h.mode.size()) {
        fields.push_back({"ivgen-hash-alg", "ivgen hash alg", h.mode.substr(colon + 1)});
    }
    fields.push_back({"hash-alg", "hash alg", h.hash});
    fields.push_back({"cipher-alg", "cipher alg", fmt::format("{}-{}", h.cipher, bits)});
    fields.push_back({"uuid", "uuid", h.uuid});
    fields.push_back({"cipher-mode", "cipher mode", mode});
    std::vector<std::vector<InfoField>> slots;
    for (const Slot& slot : h.slots) {
        std::vector<InfoField> one{{"active", "active", slot.active}};
        if (slot.active) {
            one.push_back({"iters", "iters", std::int64_t{slot.iterations}});
            one.push_back({"stripes", "stripes", std::int64_t{slot.stripes}});
        }
        one.push_back({"key-offset", "key offset", static_cast<std::int64_t>(slot.offset)});
        slots.push_back(std::move(one));
    }
    fields.push_back({"slots", "slots", std::move(slots)});
    fields.push_back({"payload-offset", "payload offset", static_cast<std::int64_t>(h.payload)});
    fields.push_back({"master-key-iters", "master key iters", std::int64_t{h.digest_iterations}});
    return fields;
}

}  // namespace strata::block::luks
