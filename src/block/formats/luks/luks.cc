// LuksNode: sectors that are deciphered after reading and enciphered, in a copy, before writing.
//
// Ciphers run on worker threads for what is more than a little. A write that does not begin and end
// with a sector reads these first, one such write at a time. Zeros are written out, and discards do
// nothing: a hole would decipher to noise.
#include "block/formats/luks/luks.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>

#include <fmt/format.h>

#include "block/amend.h"
#include "block/formats/common/new_image.h"
#include "block/formats/common/table_node.h"
#include "block/formats/common/wire.h"
#include "block/formats/luks/sector_cipher.h"
#include "block/formats/luks/volume.h"
#include "block/formats/luks/volume2.h"
#include "block/sync.h"
#include "block/wording.h"

namespace strata::block::luks {
namespace {

constexpr std::uint64_t kSector = 512, kPart = 1U << 20, kOffload = 32U << 10;

/// Where a volume's data lies.
struct Layout {
    std::uint64_t payload = 0, size = 0;  ///< size 0: to the end of the file
    std::uint64_t sector = kSector, first_sector = 0;
    bool changes = true;  ///< keys and size can be changed here
    std::vector<InfoField> info;
};

class LuksNode final : public Node, public Amendable {
  public:
    /// Without a cipher: to be looked at, not read.
    LuksNode(NodePtr file, const OpenOptions& options, Layout layout,
             std::optional<SectorCipher> cipher, std::string passphrase)
        : Node(file->loop(), options.path),
          file_(std::move(file)),
          layout_(std::move(layout)),
          payload_(layout_.payload),
          sector_(layout_.sector),
          size_((layout_.size != 0 ? layout_.size : file_->size() - payload_) / sector_ * sector_),
          cipher_(std::move(cipher)),
          passphrase_(std::move(passphrase)),
          partial_(loop()) {
        traits_.read_only = options.read_only;
        traits_.request_alignment = static_cast<std::uint32_t>(sector_);
    }
    [[nodiscard]] std::string_view format() const override { return "luks"; }
    [[nodiscard]] std::uint64_t size() const override { return size_; }
    [[nodiscard]] const NodeTraits& traits() const override { return traits_; }
    [[nodiscard]] Node* file() const override { return file_.get(); }

    Task<> read(std::uint64_t offset, Buffers into) override {
        STRATA_CO_TRY_VOID(check_range(offset, into.size(), false));
        for (std::uint64_t done = 0; done < into.size();) {
            const std::uint64_t at = offset + done, skip = at % sector_;
            const std::uint64_t part = std::min(into.size() - done, kPart - skip);
            STRATA_CO_TRY(const auto plain,
                          co_await read_sectors(at - skip, round_up(skip + part, sector_)));
            into.slice(done, part).copy_from(std::span(plain).subspan(skip, part));
            done += part;
        }
        co_return ok();
    }
    Task<> write(std::uint64_t offset, Buffers from) override {
        STRATA_CO_TRY_VOID(check_range(offset, from.size(), true));
        for (std::uint64_t done = 0; done < from.size();) {
            const std::uint64_t at = offset + done, skip = at % sector_;
            const std::uint64_t part = std::min(from.size() - done, kPart - skip);
            STRATA_CO_TRY_VOID(co_await write_part(at - skip, skip, from.slice(done, part)));
            done += part;
        }
        co_return ok();
    }
    Task<> write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) override {
        STRATA_CO_TRY_VOID(check_range(offset, length, true));
        if (options.no_fallback) {
            co_return lacks("quick zeroes");
        }
        const std::vector<std::byte> zeros(std::min(length, kPart));
        while (length != 0) {
            const std::uint64_t part = std::min<std::uint64_t>(length, zeros.size());
            STRATA_CO_TRY_VOID(co_await write(offset, Buffers::of(std::span(zeros).first(part))));
            offset += part;
            length -= part;
        }
        co_return ok();
    }
    Task<> discard(std::uint64_t offset, std::uint64_t length) override {
        co_return check_range(offset, length, true);
    }
    Task<> flush() override { return file_->flush(); }
    Task<Extent> status(std::uint64_t offset, std::uint64_t length) override {
        STRATA_CO_TRY_VOID(check_range(offset, length, false));
        co_return Extent{
            .kind = Extent::Kind::Data, .length = length, .owner = this, .file = file_.get()};
    }
    Task<> close() override {
        if (!traits_.read_only) {
            STRATA_CO_TRY_VOID(co_await file_->flush());
        }
        co_return co_await file_->close();
    }
    Task<FormatInfo> info() override {
        FormatInfo info;
        info.encrypted = true;
        info.specific = layout_.info;
        co_return info;
    }
    Task<> resize(std::uint64_t size, Preallocation preallocation) override {
        STRATA_CO_TRY_VOID(check_range(0, 0, true));
        if (!layout_.changes) {
            co_return lacks("resizing in version 2");
        }
        size = round_up(size, sector_);
        STRATA_CO_TRY_VOID(co_await file_->resize(payload_ + size, preallocation));
        size_ = size;
        co_return ok();
    }
    Task<> amend(OptionList options) override {
        AmendRequest request;
        request.options = std::move(options);
        co_return co_await change_options(std::move(request));
    }
    Task<> change_options(AmendRequest request) override {
        STRATA_CO_TRY_VOID(check_range(0, 0, true));
        if (!layout_.changes) {
            co_return lacks("options to amend in version 2");
        }
        const Area area{.file = file_.get(), .offset = 0, .length = file_->size(), .name = name()};
        STRATA_CO_TRY_VOID(
            co_await change_keys(area, std::move(request.options), "", passphrase_, request.force));
        STRATA_CO_TRY(const Header header, co_await read_header(area));
        layout_.info = volume_info(header);
        co_return ok();
    }

  private:
    Task<> cipher(std::uint64_t offset, std::span<std::byte> bytes, bool encrypting) {
        if (!cipher_) {
            co_return Error{
                ErrorKind::PermissionDenied,
                fmt::format("LUKS volume '{}' was opened without its passphrase", name()), EACCES};
        }
        const auto work = [this, offset, bytes, encrypting] {
            return encrypting ? cipher_->encrypt(layout_.first_sector + offset / kSector, bytes)
                              : cipher_->decrypt(layout_.first_sector + offset / kSector, bytes);
        };
        if (bytes.size() < kOffload) {
            co_return work();
        }
        Result<> result = co_await loop().offload(work);
        co_return result;
    }
    Task<std::vector<std::byte>> read_sectors(std::uint64_t offset, std::uint64_t length) {
        STRATA_CO_TRY(auto bytes, co_await read_bytes(*file_, payload_ + offset, length));
        STRATA_CO_TRY_VOID(co_await cipher(offset, bytes, false));
        co_return bytes;
    }
    // `from` belongs `skip` bytes into the sectors that begin at `offset`.
    Task<> write_part(std::uint64_t offset, std::uint64_t skip, Buffers from) {
        std::vector<std::byte> bytes(round_up(skip + from.size(), sector_));
        if (skip == 0 && from.size() == bytes.size()) {
            from.copy_to(bytes);
            co_return co_await write_sectors(offset, bytes);
        }
        const auto lock = co_await partial_.lock();
        STRATA_CO_TRY(bytes, co_await read_sectors(offset, bytes.size()));
        from.copy_to(std::span(bytes).subspan(skip));
        co_return co_await write_sectors(offset, bytes);
    }
    Task<> write_sectors(std::uint64_t offset, std::span<std::byte> bytes) {
        STRATA_CO_TRY_VOID(co_await cipher(offset, bytes, true));
        co_return co_await file_->write(payload_ + offset, Buffers::of(bytes));
    }
    const NodePtr file_;
    Layout layout_;
    const std::uint64_t payload_, sector_;
    std::uint64_t size_;
    const std::optional<SectorCipher> cipher_;
    const std::string passphrase_;
    NodeTraits traits_;
    AsyncMutex partial_;
};

unsigned probe(std::span<const std::byte> start, std::string_view /*path*/) {
    return is_image(start) ? 100 : 0;
}

Area area_of(const NodePtr& file, const std::string& name) {
    return {.file = file.get(), .offset = 0, .length = file->size(), .name = name};
}

Layout layout_of(const Header& h) {
    return {.payload = h.payload, .info = volume_info(h)};
}
Layout layout_of(const Header2& h) {
    return {.payload = h.payload,
            .size = h.size,
            .sector = h.sector,
            .first_sector = h.iv_tweak,
            .changes = false,
            .info = volume_info2(h)};
}

Task<NodePtr> open_version2(NodePtr file, OpenOptions options, std::string passphrase) {
    const Area area = area_of(file, options.path);
    if (passphrase.empty()) {
        STRATA_CO_TRY(const Header2 header, co_await read_header2(area));
        co_return NodePtr(std::make_shared<LuksNode>(std::move(file), options, layout_of(header),
                                                     std::nullopt, std::string()));
    }
    STRATA_CO_TRY(OpenVolume2 volume, co_await open_volume2(area, passphrase));
    const std::string& encryption = volume.header.encryption;
    const std::size_t dash = std::min(encryption.find('-'), encryption.size());
    STRATA_CO_TRY(auto cipher,
                  SectorCipher::create(encryption.substr(0, dash),
                                       encryption.substr(std::min(dash + 1, encryption.size())),
                                       volume.key.bytes(), volume.header.sector));
    co_return NodePtr(std::make_shared<LuksNode>(std::move(file), options, layout_of(volume.header),
                                                 std::move(cipher), std::move(passphrase)));
}

Task<NodePtr> open(NodePtr file, OpenOptions options) {
    std::string passphrase(options.extra_of("key-secret", options.extra_of("key")));
    if (passphrase.empty() && options.open_data && options.extra_of("unlock") != "optional") {
        co_return Error{ErrorKind::PermissionDenied,
                        fmt::format("{}Parameter 'key-secret' is required for cipher",
                                    wording() == Wording::Qemu
                                        ? std::string()
                                        : fmt::format("LUKS volume '{}': ", options.path)),
                        EACCES};
    }
    STRATA_CO_TRY(const auto start, co_await read_bytes(*file, 0, kSector));
    if (is_image2(start)) {
        co_return co_await open_version2(std::move(file), std::move(options),
                                         std::move(passphrase));
    }
    const Area area = area_of(file, options.path);
    if (passphrase.empty()) {
        STRATA_CO_TRY(const Header header, co_await read_header(area));
        co_return NodePtr(std::make_shared<LuksNode>(std::move(file), options, layout_of(header),
                                                     std::nullopt, std::string()));
    }
    STRATA_CO_TRY(OpenVolume volume, co_await open_volume(area, passphrase));
    STRATA_CO_TRY(auto cipher, SectorCipher::create(volume.header.cipher, volume.header.mode,
                                                    volume.key.bytes()));
    co_return NodePtr(std::make_shared<LuksNode>(std::move(file), options, layout_of(volume.header),
                                                 std::move(cipher), std::move(passphrase)));
}

using Kind = CreateOption::Kind;
constexpr std::array kOptions{
    CreateOption{"cipher-alg", Kind::Text, "Name of encryption cipher algorithm"},
    CreateOption{"cipher-mode", Kind::Text, "Name of encryption cipher mode"},
    CreateOption{"hash-alg", Kind::Text, "Name of encryption hash algorithm"},
    CreateOption{"iter-time", Kind::Number, "Time to spend in PBKDF in milliseconds"},
    CreateOption{"ivgen-alg", Kind::Text, "Name of IV generator algorithm"},
    CreateOption{"ivgen-hash-alg", Kind::Text, "Name of IV generator hash algorithm"},
    CreateOption{"key-secret", Kind::Text, "ID of the secret that provides the keyslot passphrase"},
    CreateOption{"preallocation", Kind::Text,
                 "Preallocation mode (allowed values: off, falloc, full)"},
    CreateOption{"size", Kind::Size, "Virtual disk size"},
    CreateOption{"version", Kind::Number, "Version of the header (1, 2)"},
    CreateOption{"kdf", Kind::Text,
                 "Version 2: what makes a key of the passphrase (argon2id, argon2i, pbkdf2)"},
};
constexpr std::array kAmendOptions{
    CreateOption{"iter-time", Kind::Number, "Time to spend in PBKDF in milliseconds"},
    CreateOption{"keyslot", Kind::Number, "Select a single keyslot to modify explicitly"},
    CreateOption{"new-secret", Kind::Text,
                 "New secret to set in the matching keyslots. Empty string to erase"},
    CreateOption{"old-secret", Kind::Text, "Select all keyslots that match this password"},
    CreateOption{"state", Kind::Text, "Select new state of affected keyslots (active/inactive)"},
};

/// The version that is asked for; nothing unknown goes with it.
Result<unsigned> version_of(const CreateRequest& request) {
    const std::uint64_t version = STRATA_TRY(request.number("version", 1));
    if (version != 1 && version != 2) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("version={}: LUKS has 1 and 2", version), EINVAL};
    }
    if (version == 1 && !request.option("kdf").empty()) {
        return Error{ErrorKind::InvalidArgument, "kdf: version 1 has PBKDF2 alone; say version=2",
                     EINVAL};
    }
    return static_cast<unsigned>(version);
}

/// The headers of a new volume, and where its data begins.
Task<std::uint64_t> make_headers(Loop& loop, const CreateRequest& request, Pieces& pieces) {
    static constexpr std::array<std::string_view, 3> kKdfs{"argon2id", "argon2i", "pbkdf2"};
    STRATA_CO_TRY(const unsigned version, version_of(request));
    STRATA_CO_TRY(NewVolume plan, plan_volume(request, ""));
    if (version == 1) {
        STRATA_CO_TRY(MadeVolume made, co_await make_volume(loop, std::move(plan)));
        pieces.emplace_back(0, std::move(made.bytes));
        co_return made.header.payload;
    }
    STRATA_CO_TRY(const std::string_view kdf, choice(request, "kdf", kKdfs));
    NewVolume2 wanted;
    wanted.plan = std::move(plan);
    wanted.kdf = kdf;
    STRATA_CO_TRY(MadeVolume2 made, co_await make_volume2(loop, std::move(wanted)));
    pieces.emplace_back(0, std::move(made.start));
    pieces.emplace_back(made.header.slots[0].offset, std::move(made.material));
    co_return made.header.payload;
}

Task<> create(Loop& loop, CreateRequest request) {
    static constexpr std::array<std::string_view, 3> kModes{"off", "falloc", "full"};
    STRATA_CO_TRY(const std::string_view mode, choice(request, "preallocation", kModes));
    Pieces pieces;
    STRATA_CO_TRY(const std::uint64_t payload, co_await make_headers(loop, request, pieces));
    const std::uint64_t length = payload + round_up(request.size, kSector);
    const Preallocation preallocation = mode == "full"     ? Preallocation::Full
                                        : mode == "falloc" ? Preallocation::Falloc
                                                           : Preallocation::Off;
    co_return co_await write_new_image(loop, request.path, std::move(pieces), length,
                                       preallocation);
}

Task<Measurement> measure(Node* source, CreateRequest request) {
    request.size = source != nullptr ? source->size() : request.size;
    STRATA_CO_TRY(const NewVolume plan, plan_volume(request, ""));
    STRATA_CO_TRY(const unsigned version, version_of(request));
    const std::uint64_t all =
        (version == 2 ? kPayload2 : plan.header.payload) + round_up(request.size, kSector);
    co_return Measurement{.required = all, .fully_allocated = all};
}

constexpr FormatDriver kDriver{.name = "luks",
                               .probe = &probe,
                               .open = &open,
                               .create = &create,
                               .create_options = kOptions,
                               .measure = &measure};

}  // namespace

const FormatDriver& driver() {
    return kDriver;
}
std::span<const CreateOption> amend_options() {
    return kAmendOptions;
}

}  // namespace strata::block::luks
