// LuksNode: sectors that are deciphered after reading and enciphered, in a copy, before writing.
//
// Ciphers run on worker threads for what is more than a little. A write that does not begin and end with a sector reads these first,
// one such write at a time. Zeros are written out, and discards do nothing: a hole would decipher to noise.
#include "block/formats/luks/luks.h"

#include <algorithm>

#include <fmt/format.h>

#include "block/formats/common/table_node.h"
#include "block/formats/common/wire.h"
#include "block/formats/luks/header.h"
#include "block/formats/luks/sector_cipher.h"
#include "block/formats/luks/volume_key.h"
#include "block/sync.h"

namespace strata::block::luks {
namespace {

constexpr std::uint64_t kSector = 512, kPart = 1U << 20, kOffload = 32U << 10;

class LuksNode final : public Node {
  public:
    LuksNode(NodePtr file, std::string name, bool read_only, std::uint64_t payload, SectorCipher cipher)
        : Node(file->loop(), std::move(name)),
          file_(std::move(file)),
          payload_(payload),
          size_((file_->size() - payload) / kSector * kSector),
          cipher_(std::move(cipher)),
          partial_(loop()) {
        traits_.read_only = read_only;
        traits_.request_alignment = kSector;
    }
    [[nodiscard]] std::string_view format() const override { return "luks"; }
    [[nodiscard]] std::uint64_t size() const override { return size_; }
    [[nodiscard]] const NodeTraits& traits() const override { return traits_; }
    [[nodiscard]] Node* file() const override { return file_.get(); }

    Task<> read(std::uint64_t offset, Buffers into) override {
        STRATA_CO_TRY_VOID(check_range(offset, into.size(), false));
        for (std::uint64_t done = 0; done < into.size();) {
            const std::uint64_t at = offset + done, skip = at % kSector;
            const std::uint64_t part = std::min(into.size() - done, kPart - skip);
            STRATA_CO_TRY(const auto plain, co_await read_sectors(at - skip, round_up(skip + part, kSector)));
            into.slice(done, part).copy_from(std::span(plain).subspan(skip, part));
            done += part;
        }
        co_return ok();
    }
    Task<> write(std::uint64_t offset, Buffers from) override {
        STRATA_CO_TRY_VOID(check_range(offset, from.size(), true));
        for (std::uint64_t done = 0; done < from.size();) {
            const std::uint64_t at = offset + done, skip = at % kSector;
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
    Task<> discard(std::uint64_t offset, std::uint64_t length) override { co_return check_range(offset, length, true); }
    Task<> flush() override { return file_->flush(); }
    Task<Extent> status(std::uint64_t offset, std::uint64_t length) override {
        STRATA_CO_TRY_VOID(check_range(offset, length, false));
        co_return Extent{.kind = Extent::Kind::Data, .length = length, .owner = this, .file = file_.get()};
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
        co_return info;
    }

  private:
    Task<> cipher(std::uint64_t offset, std::span<std::byte> bytes, bool encrypting) {
        const auto work = [this, offset, bytes, encrypting] {
            return encrypting ? cipher_.encrypt(offset / kSector, bytes) : cipher_.decrypt(offset / kSector, bytes);
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
        std::vector<std::byte> bytes(round_up(skip + from.size(), kSector));
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
    const std::uint64_t payload_, size_;
    const SectorCipher cipher_;
    NodeTraits traits_;
    AsyncMutex partial_;
};

unsigned probe(std::span<const std::byte> start, std::string_view /*path*/) { return is_image(start) ? 100 : 0; }

Task<Secret> unlock(Node& file, const Header& header, std::string passphrase, std::string name) {
    for (const Slot& slot : header.slots) {
        if (!slot.active) {
            continue;
        }
        const std::uint64_t length = round_up(std::uint64_t{slot.stripes} * header.key_bytes, kSector);
        STRATA_CO_TRY(auto material, co_await read_bytes(file, slot.offset, length));
        Result<Secret> key = co_await file.loop().offload([&] { return open_slot(header, slot, std::move(material), passphrase); });
        if (key.ok() || key.error().kind() != ErrorKind::PermissionDenied) {
            co_return std::move(key);
        }
    }
    co_return Error{ErrorKind::PermissionDenied, fmt::format("LUKS volume '{}': the passphrase fits none of its key slots", name), EACCES};
}

Task<NodePtr> open(NodePtr file, OpenOptions options) {
    STRATA_CO_TRY(const auto bytes, co_await read_bytes(*file, 0, kHeaderBytes));
    STRATA_CO_TRY(const Header header, parse_header(bytes, file->size(), options.path));
    std::string passphrase(options.extra_of("key"));
    if (passphrase.empty()) {
        co_return Error{ErrorKind::PermissionDenied, fmt::format("LUKS volume '{}' needs its passphrase: key=…", options.path), EACCES};
    }
    STRATA_CO_TRY(const Secret key, co_await unlock(*file, header, std::move(passphrase), options.path));
    STRATA_CO_TRY(auto cipher, SectorCipher::create(header.cipher, header.mode, key.bytes()));
    co_return NodePtr(std::make_shared<LuksNode>(std::move(file), options.path, options.read_only, header.payload, std::move(cipher)));
}

constexpr FormatDriver kDriver{.name = "luks", .probe = &probe, .open = &open};

}  // namespace

const FormatDriver& driver() { return kDriver; }

}  // namespace strata::block::luks
