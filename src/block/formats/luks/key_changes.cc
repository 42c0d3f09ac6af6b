// LUKS volumes: adding and erasing keys.
//
// A key's material is written and durable before the header says that its slot is in use; a slot is
// out of use, durably, before its material is overwritten. A crash between leaves the old keys, or
// the new ones.
#include <algorithm>
#include <cerrno>

#include <fmt/format.h>

#include "base/text.h"
#include "block/formats/common/table_node.h"
#include "block/formats/common/wire.h"
#include "block/formats/luks/volume.h"
#include "block/formats/luks/volume_key.h"

namespace strata::block::luks {
namespace {

constexpr std::uint64_t kSector = 512, kMaxTime = 60'000;

Error wrong(std::string text) {
    return {ErrorKind::InvalidArgument, std::move(text), EINVAL};
}

struct Change {
    bool active = false;
    std::optional<std::size_t> slot;
    std::optional<std::string> old_secret, new_secret;
    std::uint64_t milliseconds = 2000;
};

Result<Change> read_change(const OptionList& options, std::string_view prefix) {
    Change change;
    std::string_view state;
    for (const auto& [full, value] : options) {
        if (!full.starts_with(prefix)) {
            continue;
        }
        const std::string_view name = std::string_view(full).substr(prefix.size());
        if (name == "state") {
            state = value;
        } else if (name == "keyslot") {
            const auto number = parse_integer(value, 0, 7);
            if (!number.ok()) {
                return wrong(
                    fmt::format("Invalid keyslot {}. Keyslot must be between 0 and 7", value));
            }
            change.slot = static_cast<std::size_t>(*number);
        } else if (name == "old-secret") {
            change.old_secret = value;
        } else if (name == "new-secret") {
            change.new_secret = value;
        } else if (name == "iter-time") {
            change.milliseconds = STRATA_TRY(parse_integer(value, 1, kMaxTime));
        }
    }
    if (state != "active" && state != "inactive") {
        return wrong(state.empty()
                         ? std::string("Parameter 'state' is missing")
                         : fmt::format("Parameter 'state' does not accept value '{}'", state));
    }
    change.active = state == "active";
    if (change.active && !change.new_secret) {
        return wrong("'new-secret' is required to activate a keyslot");
    }
    if (!change.active && change.new_secret) {
        return wrong("'new-secret' must not be given when erasing keyslots");
    }
    if (!change.active && !change.slot && !change.old_secret) {
        return wrong(
            "To erase keyslot(s), either explicit keyslot index or the password currently "
            "contained in them must be given");
    }
    return change;
}

/// A slot of its own opens with `passphrase`.
Task<bool> fits(Area area, Header header, std::size_t index, std::string passphrase) {
    const Slot& slot = header.slots.at(index);
    if (!slot.active) {
        co_return false;
    }
    STRATA_CO_TRY(
        auto material,
        co_await read_bytes(*area.file, area.offset + slot.offset,
                            round_up(std::uint64_t{slot.stripes} * header.key_bytes, kSector)));
    Result<Secret> key = co_await area.file->loop().offload(
        [&] { return open_slot(header, slot, std::move(material), passphrase); });
    if (!key.ok() && key.error().kind() != ErrorKind::PermissionDenied) {
        co_return key.error();
    }
    co_return key.ok();
}

/// What is written to `slot`'s material hits neither the header, nor the payload, nor the material
/// of another key in use.
Result<> check_place(const Header& header, std::size_t slot, std::uint64_t length,
                     std::uint64_t limit) {
    const std::uint64_t from = header.slots.at(slot).offset;
    if (from < kHeaderBytes || !lies_within(from, length, limit)) {
        return wrong(fmt::format("keyslot {} has no room for a key", slot));
    }
    for (std::size_t i = 0; i < header.slots.size(); ++i) {
        const Slot& other = header.slots.at(i);
        const std::uint64_t end = other.offset + std::uint64_t{other.stripes} * header.key_bytes;
        if (i != slot && other.active && from < end && other.offset < from + length) {
            return wrong(fmt::format(
                "keyslot {} lies over active keyslot {} - refusing to write to it", slot, i));
        }
    }
    return ok();
}

Task<> write_header(Area area, Header header) {
    const std::vector<std::byte> bytes = serialise_header(header);
    STRATA_CO_TRY_VOID(co_await area.file->write(area.offset, Buffers::of(bytes)));
    co_return co_await area.file->flush();
}

/// check_place() has said yes.
Task<> erase_slot(Area area, Header& header, std::size_t index) {
    Slot& slot = header.slots.at(index);
    const std::uint64_t length = std::uint64_t{slot.stripes} * header.key_bytes;
    slot.active = false;
    slot.iterations = 0;
    slot.salt = {};
    STRATA_CO_TRY_VOID(co_await write_header(area, header));
    if (length != 0) {
        std::vector<std::byte> noise(length);
        STRATA_CO_TRY_VOID(fill_random(noise));
        STRATA_CO_TRY_VOID(
            co_await area.file->write(area.offset + slot.offset, Buffers::of(noise)));
        STRATA_CO_TRY_VOID(co_await area.file->flush());
    }
    co_return ok();
}

/// Puts a key into `index`, whose old one is lost from the first byte on.
Task<> fill_in(Area area, OpenVolume& volume, std::size_t index, const Change& change) {
    Header& header = volume.header;
    Slot& slot = header.slots.at(index);
    const auto work = [&] {
        return fill_slot(header, slot, volume.key, *change.new_secret, change.milliseconds);
    };
    Result<std::vector<std::byte>> material = co_await area.file->loop().offload(work);
    STRATA_CO_TRY_VOID(material.ok() ? ok() : Result<>(material.error()));
    STRATA_CO_TRY_VOID(
        check_place(header, index, material->size(), std::min(header.payload, area.length)));
    STRATA_CO_TRY_VOID(
        co_await area.file->write(area.offset + slot.offset, Buffers::of(*material)));
    STRATA_CO_TRY_VOID(co_await area.file->flush());
    co_return co_await write_header(area, header);
}

Task<> add_key(Area area, OpenVolume volume, Change change, bool force) {
    Header& header = volume.header;
    if (!change.slot) {
        const auto free = std::find_if(header.slots.begin(), header.slots.end(),
                                       [](const Slot& each) { return !each.active; });
        if (free == header.slots.end()) {
            co_return wrong("Can't add a keyslot - all keyslots are in use");
        }
        change.slot = static_cast<std::size_t>(free - header.slots.begin());
    }
    Slot& slot = header.slots.at(*change.slot);
    if (slot.active && !force) {
        co_return wrong(fmt::format(
            "Refusing to overwrite active keyslot {} - please erase it first", *change.slot));
    }
    const auto active = std::count_if(header.slots.begin(), header.slots.end(),
                                      [](const Slot& each) { return each.active; });
    if (!slot.active || active > 1) {
        co_return co_await fill_in(area, volume, *change.slot, change);
    }
    // The only key: an interruption must not lose all the data, so the new one lies elsewhere
    // meanwhile.
    const std::size_t spare = *change.slot == 0 ? 1 : 0;
    STRATA_CO_TRY_VOID(co_await fill_in(area, volume, spare, change));
    STRATA_CO_TRY_VOID(co_await fill_in(area, volume, *change.slot, change));
    co_return co_await erase_slot(area, header, spare);
}

Task<> erase_keys(Area area, Header header, Change change, bool force) {
    std::vector<std::size_t> doomed;
    for (std::size_t i = 0; i < header.slots.size(); ++i) {
        if (change.slot && *change.slot != i) {
            continue;
        }
        bool match = true;
        if (change.old_secret) {
            STRATA_CO_TRY(match, co_await fits(area, header, i, *change.old_secret));
        }
        if (match) {
            doomed.push_back(i);
        }
    }
    const auto active = std::count_if(header.slots.begin(), header.slots.end(),
                                      [](const Slot& each) { return each.active; });
    const auto going = std::count_if(doomed.begin(), doomed.end(),
                                     [&](std::size_t i) { return header.slots.at(i).active; });
    if (doomed.empty()) {
        co_return wrong("No keyslots match given (old) password for erase operation");
    }
    if (going == 0 && !force) {
        co_return wrong(fmt::format("Given keyslot {} is already erased (inactive) ", doomed[0]));
    }
    if (going == active && !force) {
        co_return wrong(change.slot
                            ? fmt::format("Attempt to erase the only active keyslot {} which will "
                                          "erase all the data in the image irreversibly - "
                                          "refusing operation",
                                          *change.slot)
                            : std::string("All the active keyslots match the (old) password that "
                                          "was given and erasing them will erase all the "
                                          "data in the image irreversibly - refusing operation"));
    }
    for (const std::size_t i : doomed) {
        const std::uint64_t length = std::uint64_t{header.slots.at(i).stripes} * header.key_bytes;
        STRATA_CO_TRY_VOID(
            length == 0 ? ok()
                        : check_place(header, i, length, std::min(header.payload, area.length)));
    }
    for (const std::size_t i : doomed) {
        STRATA_CO_TRY_VOID(co_await erase_slot(area, header, i));
    }
    co_return ok();
}

}  // namespace

Task<> change_keys(Area area, OptionList options, std::string prefix, std::string passphrase,
                   bool force) {
    STRATA_CO_TRY(Change change, read_change(options, prefix));
    if (!change.active) {
        STRATA_CO_TRY(Header header, co_await read_header(area));
        co_return co_await erase_keys(area, std::move(header), std::move(change), force);
    }
    std::string known = change.old_secret.value_or(passphrase);
    Result<OpenVolume> volume = co_await open_volume(area, std::move(known));
    if (!volume.ok()) {
        co_return Error{volume.error().kind(),
                        fmt::format("Failed to retrieve the master key: {}", volume.error().text()),
                        volume.error().system_errno()};
    }
    co_return co_await add_key(area, std::move(*volume), std::move(change), force);
}

}  // namespace strata::block::luks
