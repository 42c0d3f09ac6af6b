// Qcow2Node: encrypted images: LUKS, whose header lies in clusters of the image, and QEMU's old
// AES.
//
// The data of clusters is encrypted, tables and compressed clusters are not. The cipher works on
// sectors of 512 bytes, numbered by their place in the file (LUKS) or on the disk (AES). What the
// file has as zeros is noise, so new clusters are written whole, and those given in advance say
// "zero" in their entry.
#include <algorithm>
#include <cerrno>

#include <fmt/format.h>

#include "base/endian.h"
#include "block/formats/luks/volume.h"
#include "block/formats/qcow2/qcow2.h"

namespace strata::block::qcow2 {
namespace {

constexpr std::uint64_t kSector = 512, kPart = 1U << 20, kOffload = 32U << 10;
constexpr std::uint64_t kMaxCryptoHeader = 64U << 20;

struct Extension {
    Be64 offset, length;
};

/// The whole sectors that [offset, offset + length) is in.
struct Sectors {
    std::uint64_t skip, length;
};
Sectors sectors_of(std::uint64_t offset, std::uint64_t length) {
    const std::uint64_t skip = offset % kSector;
    return {skip, (skip + length + kSector - 1) / kSector * kSector};
}

Result<luks::Area> crypto_area(Node& file, const Header& h, const std::string& name) {
    const auto found = std::find_if(h.extensions.begin(), h.extensions.end(), [](const auto& each) {
        return each.first == kEncryptionExtension;
    });
    Extension extension{};
    if (found != h.extensions.end() && found->second.size() >= sizeof extension) {
        std::memcpy(&extension, found->second.data(), sizeof extension);
    }
    const std::uint64_t offset = extension.offset, length = extension.length;
    if (offset == 0 || offset % h.cluster() != 0 || length > kMaxCryptoHeader ||
        offset >= kMaxHostOffset || offset + length > file.size() + h.cluster()) {
        return Error{
            ErrorKind::Failed,
            fmt::format("qcow2 image '{}': its encryption header of {} bytes at {:#x} cannot be",
                        name, length, offset),
            EINVAL};
    }
    return luks::Area{.file = &file, .offset = offset, .length = length, .name = name};
}

}  // namespace

/// Without a passphrase the data cannot be read; an error if it is `wanted`.
Task<> Qcow2Node::unlock(std::string passphrase, bool wanted) {
    const Header& h = header();
    traits_.compressed_writes = false;
    traits_.request_alignment = std::max<std::uint32_t>(traits_.request_alignment, kSector);
    passphrase_ = std::move(passphrase);
    if (h.encryption == kEncryptionLuks) {
        STRATA_CO_TRY(luks::Area area, crypto_area(*file_, h, name()));
        if (passphrase_.empty()) {
            STRATA_CO_TRY(luks_, co_await luks::read_header(area));
        } else {
            STRATA_CO_TRY(luks::OpenVolume volume, co_await luks::open_volume(area, passphrase_));
            STRATA_CO_TRY(cipher_,
                          luks::SectorCipher::create(volume.header.cipher, volume.header.mode,
                                                     volume.key.bytes()));
            luks_ = std::move(volume.header);
        }
    } else if (!passphrase_.empty()) {
        STRATA_CO_TRY(cipher_, luks::passphrase_cipher(passphrase_));
    }
    if (!cipher_ && wanted) {
        co_return Error{
            ErrorKind::PermissionDenied,
            fmt::format("'{}': Parameter 'encrypt.key-secret' is required for cipher", name()),
            EACCES};
    }
    co_return ok();
}

Task<> Qcow2Node::encrypt(luks::MadeVolume volume) {
    STRATA_CO_TRY(const auto alone, co_await gate_.exclusive());
    Header wanted = header();
    wanted.encryption = volume.bytes.empty() ? kEncryptionAes : kEncryptionLuks;
    if (!volume.bytes.empty()) {
        const std::uint64_t clusters = (volume.bytes.size() + cluster() - 1) / cluster();
        STRATA_CO_TRY(const std::uint64_t place, co_await metadata_->allocate_table(clusters));
        const Extension extension{place, volume.bytes.size()};
        const auto bytes = std::as_bytes(std::span(&extension, 1));
        volume.bytes.resize(clusters * cluster());
        STRATA_CO_TRY_VOID(co_await file_->write(place, Buffers::of(volume.bytes)));
        STRATA_CO_TRY_VOID(co_await metadata_->write_back());
        wanted.extensions.emplace_back(kEncryptionExtension,
                                       std::vector<std::byte>(bytes.begin(), bytes.end()));
    }
    co_return co_await change_features(std::move(wanted));
}

Task<> Qcow2Node::change_keys(AmendRequest request) {
    if (header().encryption != kEncryptionLuks) {
        co_return Error{ErrorKind::InvalidArgument,
                        header().encryption == 0
                            ? "Can't amend encryption options - encryption not present"
                            : "Only LUKS encryption options can be amended",
                        EINVAL};
    }
    STRATA_CO_TRY(luks::Area area, crypto_area(*file_, header(), name()));
    STRATA_CO_TRY_VOID(co_await luks::change_keys(area, std::move(request.options), "encrypt.",
                                                  passphrase_, request.force));
    STRATA_CO_TRY(luks_, co_await luks::read_header(area));
    co_return ok();
}

Error Qcow2Node::locked() const {
    return {ErrorKind::PermissionDenied,
            fmt::format("'{}' is encrypted and was opened without its passphrase", name()), EACCES};
}

Task<> Qcow2Node::encipher(std::uint64_t sector, std::span<std::byte> bytes,
                           bool encrypting) const {
    const luks::SectorCipher& cipher = *cipher_;
    const auto work = [&cipher, sector, bytes, encrypting] {
        return encrypting ? cipher.encrypt(sector, bytes) : cipher.decrypt(sector, bytes);
    };
    if (bytes.size() < kOffload) {
        co_return work();
    }
    Result<> done = co_await loop().offload(work);
    co_return done;
}

Task<> Qcow2Node::read_encrypted(std::uint64_t host, std::uint64_t guest, Buffers into) {
    if (!cipher_) {
        co_return locked();
    }
    for (std::uint64_t done = 0; done < into.size();) {
        const std::uint64_t part = std::min(into.size() - done, kPart);
        const Sectors whole = sectors_of(guest + done, part);
        AlignedBuffer bytes(whole.length);
        STRATA_CO_TRY_VOID(co_await data_->read(host + done - whole.skip, bytes.view()));
        const std::uint64_t first =
            (header().encryption == kEncryptionLuks ? host : guest) + done - whole.skip;
        STRATA_CO_TRY_VOID(co_await encipher(first / kSector, bytes.bytes(), false));
        into.slice(done, part)
            .copy_from(std::span<const std::byte>(bytes.bytes()).subspan(whole.skip, part));
        done += part;
    }
    co_return ok();
}

/// Whole sectors.
Task<> Qcow2Node::write_encrypted(std::uint64_t host, std::uint64_t guest, Buffers from) {
    if (!cipher_) {
        co_return locked();
    }
    for (std::uint64_t done = 0; done < from.size();) {
        const std::uint64_t part = std::min(from.size() - done, kPart);
        AlignedBuffer bytes(part);
        from.slice(done, part).copy_to(bytes.bytes());
        const std::uint64_t first = (header().encryption == kEncryptionLuks ? host : guest) + done;
        STRATA_CO_TRY_VOID(co_await encipher(first / kSector, bytes.bytes(), true));
        STRATA_CO_TRY_VOID(co_await data_->write(host + done, bytes.view()));
        done += part;
    }
    co_return ok();
}

Task<> Qcow2Node::read_data(std::uint64_t host, std::uint64_t guest, Buffers into) {
    return header().encryption == 0 ? data_->read(host, into) : read_encrypted(host, guest, into);
}

Task<> Qcow2Node::write_data(std::uint64_t host, std::uint64_t guest, Buffers from) {
    return header().encryption == 0 ? data_->write(host, from) : write_encrypted(host, guest, from);
}

// A write that does not begin and end with a sector: these are read first, one such write at a
// time.
Task<> Qcow2Node::write_sectors(std::uint64_t offset, Buffers from) {
    const Sectors whole = sectors_of(offset, from.size());
    const auto lock = co_await partial_.lock();
    AlignedBuffer bytes(whole.length);
    STRATA_CO_TRY_VOID(co_await read_inside(offset - whole.skip, bytes.view()));
    from.copy_to(bytes.bytes().subspan(whole.skip));
    co_return co_await write_inside(offset - whole.skip, bytes.view());
}

Task<> Qcow2Node::write_bytes(std::uint64_t offset, Buffers from) {
    const bool cut =
        header().encryption != 0 && (offset % kSector != 0 || from.size() % kSector != 0);
    return cut ? write_sectors(offset, from) : write_inside(offset, from);
}

void Qcow2Node::encryption_info(FormatInfo& info) const {
    if (header().encryption == 0) {
        return;
    }
    std::vector<InfoField> fields;
    if (luks_) {
        fields = luks::volume_info(*luks_);
    }
    fields.push_back(
        {"format", "format", std::string(header().encryption == kEncryptionLuks ? "luks" : "aes")});
    info.encrypted = true;
    info.specific.push_back({"encrypt", "encrypt", std::move(fields)});
}

}  // namespace strata::block::qcow2
