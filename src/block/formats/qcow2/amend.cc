// Qcow2Node: changing an image's options where it lies.
//
// In this order: up to version 3, refcount width, data file and flags, size, down to version 2.
// Each step leaves a whole image: what the header says changes in one sector, after all that it
// then promises is durable.
#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>

#include <fmt/format.h>

#include "block/formats/qcow2/create.h"
#include "block/formats/qcow2/qcow2.h"

namespace strata::block::qcow2 {
namespace {

using Kind = CreateOption::Kind;

constexpr std::array kOptions{
    CreateOption{"backing_file", Kind::Text, "File name of a base image"},
    CreateOption{"backing_fmt", Kind::Text, "Image format of the base image"},
    CreateOption{"compat", Kind::Text, "Compatibility level (v2 [0.10] or v3 [1.1])"},
    CreateOption{"data_file", Kind::Text, "File name of an external data file"},
    CreateOption{"data_file_raw", Kind::Flag,
                 "The external data file must stay valid as a raw image"},
    CreateOption{"encrypt.iter-time", Kind::Number, "Time to spend in PBKDF in milliseconds"},
    CreateOption{"encrypt.keyslot", Kind::Number, "Select a single keyslot to modify explicitly"},
    CreateOption{"encrypt.new-secret", Kind::Text,
                 "New secret to set in the matching keyslots. Empty string to erase"},
    CreateOption{"encrypt.old-secret", Kind::Text, "Select all keyslots that match this password"},
    CreateOption{"encrypt.state", Kind::Text,
                 "Select new state of affected keyslots (active/inactive)"},
    CreateOption{"lazy_refcounts", Kind::Flag, "Postpone refcount updates", "off"},
    CreateOption{"refcount_bits", Kind::Number, "Width of a reference count entry in bits", "16"},
    CreateOption{"size", Kind::Size, "Virtual disk size"},
};

Error wrong(std::string text) {
    return {ErrorKind::InvalidArgument, std::move(text), EINVAL};
}
Error unable(std::string text) {
    return {ErrorKind::NotSupported, std::move(text), ENOTSUP};
}

bool changes_keys(const OptionList& options) {
    return std::any_of(options.begin(), options.end(),
                       [](const auto& each) { return each.first.starts_with("encrypt."); });
}

bool has(const CreateRequest& request, std::string_view name) {
    for (const auto& option : request.options) {
        if (option.first == name) {
            return true;
        }
    }
    return false;
}

Result<std::uint32_t> version_of(const CreateRequest& request, std::uint32_t now) {
    if (!has(request, "compat")) {
        return now;
    }
    const std::string_view compat = request.option("compat");
    if (compat == "0.10" || compat == "v2") {
        return 2U;
    }
    if (compat == "1.1" || compat == "v3") {
        return 3U;
    }
    return wrong(fmt::format("Unknown compatibility level {}", compat));
}

/// Sets flags and names in `h`; the version is the one to be.
Result<> plan_features(const CreateRequest& request, std::uint32_t version, Header& h) {
    const bool raw = (h.autoclear & kRawExternalData) != 0;
    const bool lazy = STRATA_TRY(
        request.flag("lazy_refcounts", version >= 3 && (h.compatible & kLazyRefcounts) != 0));
    const bool stays_raw = STRATA_TRY(request.flag("data_file_raw", raw));
    const std::string backing(request.option("backing_file")),
        format(request.option("backing_fmt"));
    if (stays_raw && !raw) {
        return wrong("data-file-raw cannot be set on existing images");
    }
    if (has(request, "data_file") && (h.incompatible & kExternalData) == 0) {
        return wrong("data-file can only be set for images that use an external data file");
    }
    if ((has(request, "backing_file") || has(request, "backing_fmt")) &&
        (backing != h.backing || format != h.backing_format)) {
        return wrong("Cannot amend the backing file\nYou can use 'qemu-img rebase' instead.");
    }
    if (lazy && version < 3) {
        return wrong(
            "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 "
            "or greater)");
    }
    h.compatible = (h.compatible & ~kLazyRefcounts) | (lazy ? kLazyRefcounts : 0);
    h.autoclear = (h.autoclear & ~kRawExternalData) | (stays_raw ? kRawExternalData : 0);
    if (has(request, "data_file")) {
        h.data_file = request.option("data_file");
    }
    return ok();
}

Result<std::uint32_t> refcount_order_of(const CreateRequest& request, std::uint32_t version,
                                        std::uint32_t now) {
    const std::uint64_t bits = STRATA_TRY(request.number("refcount_bits", 1ULL << now));
    if (!std::has_single_bit(bits) || bits > 64) {
        return wrong("Refcount width must be a power of two and may not exceed 64 bits");
    }
    if (version < 3 && bits != 16 && bits != 1ULL << now) {
        return wrong(
            "Refcount widths other than 16 bits require compatibility level 1.1 or above (use "
            "compat=1.1 or greater)");
    }
    return static_cast<std::uint32_t>(std::countr_zero(bits));
}

}  // namespace

std::span<const CreateOption> amend_options() {
    return kOptions;
}

/// Writes `wanted` as the header, which takes effect as a whole.
Task<> Qcow2Node::change_features(Header wanted) {
    STRATA_CO_TRY_VOID(serialise_header(wanted));
    metadata_->header() = std::move(wanted);
    co_return co_await write_header();
}

// Version 3 wants each snapshot's disk size and its 64-bit VM state size in the table.
Task<> Qcow2Node::upgrade() {
    if (header().snapshots != 0) {
        STRATA_CO_TRY(SnapshotTable table, co_await read_snapshots(*file_, header()));
        STRATA_CO_TRY_VOID(co_await write_snapshots(std::move(table.snapshots), table.bytes));
        STRATA_CO_TRY_VOID(co_await metadata_->settle());
    }
    Header wanted = header();
    wanted.version = 3;
    co_return co_await change_features(std::move(wanted));
}

Task<> Qcow2Node::check_downgrade() {
    const Header& h = header();
    if (h.refcount_order != 4) {
        co_return unable("compat=0.10 requires refcount_bits=16");
    }
    if ((h.incompatible & kExternalData) != 0) {
        co_return unable("Cannot downgrade an image with a data file");
    }
    if (h.encryption != 0 && !h.backing.empty()) {
        co_return unable(
            "Cannot downgrade an encrypted image with a backing file");  // its clusters of zeros
                                                                         // would need the key
    }
    STRATA_CO_TRY(const SnapshotTable table, co_await read_snapshots(*file_, h));
    for (const Snapshot& each : table.snapshots) {
        if (each.info.vm_state_size > 0xFFFFFFFFU || each.info.disk_size != size_) {
            co_return unable("Internal snapshots prevent downgrade of image");
        }
    }
    if ((h.incompatible & ~(kCompressionType | kDirty)) != 0) {
        co_return unable(
            fmt::format("Cannot downgrade an image with incompatible features {:#x} set",
                        h.incompatible & ~(kCompressionType | kDirty)));
    }
    if (!bitmaps_.empty()) {
        co_return unable("Cannot downgrade an image with persistent bitmaps; remove them first");
    }
    if (h.compression != Compression::Zlib) {
        STRATA_CO_TRY(const bool compressed, co_await has_compressed());
        if (compressed || h.snapshots != 0) {  // only the active disk was looked at
            co_return unable(
                "Cannot downgrade an image with zstd compression type and existing compressed "
                "clusters");
        }
    }
    co_return ok();
}

Task<> Qcow2Node::downgrade(AmendRequest request) {
    STRATA_CO_TRY_VOID(co_await metadata_->settle());
    STRATA_CO_TRY_VOID(co_await check_downgrade());
    STRATA_CO_TRY_VOID(co_await expand_zeroes(std::move(request)));
    Header wanted = header();
    wanted.version = 2;
    wanted.incompatible = wanted.compatible = wanted.autoclear = 0;
    wanted.compression = Compression::Zlib;
    STRATA_CO_TRY_VOID(co_await change_features(std::move(wanted)));
    traits_.fast_zeroes = false;
    co_return ok();
}

Task<> Qcow2Node::amend(OptionList options) {
    AmendRequest request;
    request.options = std::move(options);
    co_return co_await change_options(std::move(request));
}

Task<> Qcow2Node::change_options(AmendRequest request) {
    STRATA_CO_TRY_VOID(check_range(0, 0, true));
    CreateRequest asked;
    asked.options = request.options;
    STRATA_CO_TRY(const std::uint32_t version, version_of(asked, header().version));
    STRATA_CO_TRY(const std::uint32_t order,
                  refcount_order_of(asked, version, header().refcount_order));
    STRATA_CO_TRY(const std::uint64_t size, asked.number("size", size_));
    Header trial = header();
    STRATA_CO_TRY_VOID(plan_features(asked, version, trial));
    {
        STRATA_CO_TRY(const auto alone, co_await gate_.exclusive());
        STRATA_CO_TRY_VOID(co_await metadata_->settle());
        if (version > header().version) {
            STRATA_CO_TRY_VOID(co_await upgrade());
        }
        if (changes_keys(request.options)) {
            STRATA_CO_TRY_VOID(co_await change_keys(request));
        }
        if (order != header().refcount_order) {
            STRATA_CO_TRY_VOID(co_await metadata_->change_refcount_width(order));
        }
        Header wanted = header();
        STRATA_CO_TRY_VOID(plan_features(asked, version, wanted));
        if (wanted.compatible != header().compatible || wanted.autoclear != header().autoclear ||
            wanted.data_file != header().data_file) {
            STRATA_CO_TRY_VOID(co_await change_features(std::move(wanted)));
        }
    }
    if (size != size_) {
        STRATA_CO_TRY_VOID(co_await resize(size, Preallocation::Off));
    }
    if (version < header().version) {
        STRATA_CO_TRY(const auto alone, co_await gate_.exclusive());
        STRATA_CO_TRY_VOID(co_await downgrade(std::move(request)));
    }
    co_return ok();
}

}  // namespace strata::block::qcow2
