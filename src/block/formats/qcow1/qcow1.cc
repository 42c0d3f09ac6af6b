// Qcow1Node: two levels of tables. A new L2 table reaches the file before the L1 table refers to
// it.
//
// The image does not tell its backing file's format: extra option `backing_format`. An encrypted
// image (AES, extra option `encrypt.key-secret`) enciphers the data of clusters that are not
// compressed, sector by sector, numbered by their place on the disk; writes of parts of sectors
// read these first, one such write at a time.
#include "block/formats/qcow1/qcow1.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>

#include <fmt/format.h>

#include "base/endian.h"
#include "block/aligned_buffer.h"
#include "block/formats/common/inflate.h"
#include "block/formats/common/new_image.h"
#include "block/formats/common/table_node.h"
#include "block/formats/common/wire.h"
#include "block/formats/luks/sector_cipher.h"
#include "block/formats/qcow1/header.h"

namespace strata::block::qcow1 {
namespace {

constexpr std::uint64_t kMaxOffset = 1ULL << 56;
constexpr std::uint64_t kSector = 512, kPart = 1U << 20, kOffload = 32U << 10;

/// The whole sectors that [offset, offset + length) is in.
struct Sectors {
    std::uint64_t first, skip, bytes;
};
Sectors sectors_of(std::uint64_t offset, std::uint64_t length) {
    const std::uint64_t skip = offset % kSector;
    return {offset / kSector, skip, round_up(skip + length, kSector)};
}

class Qcow1Node final : public TableNode {
  public:
    Qcow1Node(NodePtr file, std::string name, bool read_only, const Header& header, NodePtr backing,
              std::string backing_name, std::optional<luks::SectorCipher> cipher)
        : TableNode(std::move(file), std::move(name), read_only),
          header_(header),
          backing_name_(std::move(backing_name)),
          cipher_(std::move(cipher)),
          partial_(loop()) {
        backing_ = std::move(backing);
        configure(header.size, header.cluster(), false);
        traits_.compressed_writes = !encrypted();
        if (encrypted()) {
            traits_.discard = traits_.fast_zeroes = false;
            traits_.request_alignment = kSector;
        }
        past_end_ = PastEnd::Begun;
        end_ = std::max(end_, header.l1_offset + header.l1_entries() * 8);
    }
    Task<> write_compressed(std::uint64_t offset, Buffers from) override {
        return write_packed(offset, from, &deflate_raw);
    }
    Task<> write(std::uint64_t offset, Buffers from) override {
        const bool whole = (offset | from.size()) % kSector == 0;
        return encrypted() && !whole ? write_sectors(offset, from) : TableNode::write(offset, from);
    }
    Task<> write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) override {
        return encrypted() ? write_zeros_out(offset, length, options)
                           : TableNode::write_zeroes(offset, length, options);
    }
    Task<> discard(std::uint64_t offset, std::uint64_t length) override {
        if (!encrypted()) {
            co_return co_await TableNode::discard(offset, length);
        }
        co_return check_range(offset, length, true);  // a hole would read as noise
    }
    // An L1 table of zeros first, durable; then all behind it goes.
    Task<> make_empty() override {
        STRATA_CO_TRY_VOID(check_range(0, 0, true));
        STRATA_CO_TRY_VOID(co_await flush());
        const std::vector<std::byte> zeros(header_.l1_entries() * 8);
        STRATA_CO_TRY_VOID(co_await meta_.store_bytes(header_.l1_offset, zeros, 0));
        STRATA_CO_TRY_VOID(co_await flush());
        end_ = header_.l1_offset + zeros.size();
        co_return co_await file_->resize(end_, Preallocation::Off);
    }
    [[nodiscard]] std::string_view format() const override { return "qcow"; }
    Task<FormatInfo> info() override {
        FormatInfo info;
        info.cluster_size = header_.cluster();
        info.backing_name = backing_name_;
        info.encrypted = encrypted();
        co_return info;
    }

  protected:
    Task<> read_data(std::uint64_t host, std::uint64_t guest, Buffers into) override {
        return encrypted() ? read_encrypted(host, guest, into)
                           : TableNode::read_data(host, guest, into);
    }
    Task<> write_data(std::uint64_t host, std::uint64_t guest, Buffers from) override {
        return encrypted() ? write_encrypted(host, guest, from)
                           : TableNode::write_data(host, guest, from);
    }
    Task<> zero_data(std::uint64_t host, std::uint64_t guest, std::uint64_t length,
                     ZeroOptions options) override {
        if (!encrypted()) {
            co_return co_await TableNode::zero_data(host, guest, length, options);
        }
        const std::vector<std::byte> zeros(std::min(length, kPart));
        for (std::uint64_t done = 0; done < length;) {
            const std::uint64_t part = std::min<std::uint64_t>(length - done, zeros.size());
            STRATA_CO_TRY_VOID(co_await write_encrypted(host + done, guest + done,
                                                        Buffers::of(std::span(zeros).first(part))));
            done += part;
        }
        co_return ok();
    }
    Task<Place> find(std::uint64_t offset, std::uint64_t length) override {
        const std::uint64_t cluster = offset / header_.cluster(),
                            within = offset % header_.cluster();
        STRATA_CO_TRY(const std::uint64_t table, co_await table_of(cluster, false));
        if (table == 0) {
            const std::uint64_t span = header_.cluster() << header_.l2_bits;
            co_return Place{.length = std::min(length, span - offset % span)};
        }
        Place place{.length = std::min(length, header_.cluster() - within)};
        place.offset = table + index_of(cluster) * 8;
        if (place.offset >= readable_end()) {
            place.kind = Place::Kind::Lost;
            co_return place;
        }
        STRATA_CO_TRY(const Be64 entry, co_await meta_.load<Be64>(place.offset));
        if (entry == 0) {
            co_return place;
        }
        if ((entry & kCompressed) != 0) {
            place.kind = Place::Kind::Packed;
            place.offset = header_.compressed_offset(entry);
            place.packed = header_.compressed_bytes(entry);
            place.start = offset - within;
            place.bytes = header_.cluster();
            place.unpack = &inflate_raw;
            co_return place;
        }
        if (entry >= kMaxOffset) {
            co_return broken_image("qcow", name(),
                                   fmt::format("cluster {} lies at {}", cluster, entry.value()));
        }
        place.kind = Place::Kind::Data;
        place.offset = entry + within;
        co_return place;
    }
    Task<Reservation> reserve(std::uint64_t /*block*/, std::uint64_t count) override {
        const std::uint64_t offset = take_space(count * header_.cluster(), header_.cluster());
        co_return Reservation{.offset = offset,
                              .blocks = count,
                              .zeroed = file_->traits().zero_initialised && !encrypted()};
    }
    Task<> publish_packed(std::uint64_t block, std::uint64_t offset, std::uint64_t bytes) override {
        if (offset >> (63 - header_.cluster_bits) != 0) {
            co_return Error{
                ErrorKind::Failed,
                fmt::format("'{}': compressed clusters cannot lie at {}", name(), offset), ENOSPC};
        }
        STRATA_CO_TRY(const std::uint64_t table, co_await table_of(block, true));
        const Be64 entry = kCompressed | bytes << (63 - header_.cluster_bits) | offset;
        co_return co_await meta_.store(table + index_of(block) * 8, entry, 0);
    }
    Task<> publish(std::uint64_t block, const Reservation& reservation) override {
        for (std::uint64_t i = 0; i < reservation.blocks; ++i) {
            STRATA_CO_TRY(const std::uint64_t table, co_await table_of(block + i, true));
            STRATA_CO_TRY_VOID(
                co_await meta_.store(table + index_of(block + i) * 8,
                                     Be64(reservation.offset + i * header_.cluster()), 0));
        }
        co_return ok();
    }

    Task<> before_first_write() override { return refuse_if_cut(); }

  private:
    [[nodiscard]] bool encrypted() const { return header_.encryption != 0; }
    [[nodiscard]] Error locked() const {
        return {ErrorKind::PermissionDenied,
                fmt::format("'{}': Parameter 'encrypt.key-secret' is required for cipher", name()),
                EACCES};
    }
    Task<> encipher(std::uint64_t sector, std::span<std::byte> bytes, bool encrypting) {
        const auto work = [this, sector, bytes, encrypting] {
            return encrypting ? cipher_->encrypt(sector, bytes) : cipher_->decrypt(sector, bytes);
        };
        if (bytes.size() < kOffload) {
            co_return work();
        }
        Result<> done = co_await loop().offload(work);
        co_return done;
    }
    Task<> read_encrypted(std::uint64_t host, std::uint64_t guest, Buffers into) {
        if (!cipher_) {
            co_return locked();
        }
        for (std::uint64_t done = 0; done < into.size();) {
            const std::uint64_t part = std::min(into.size() - done, kPart);
            const Sectors whole = sectors_of(guest + done, part);
            AlignedBuffer bytes(whole.bytes);
            STRATA_CO_TRY_VOID(co_await file_->read(host + done - whole.skip, bytes.view()));
            STRATA_CO_TRY_VOID(co_await encipher(whole.first, bytes.bytes(), false));
            into.slice(done, part)
                .copy_from(std::span<const std::byte>(bytes.bytes()).subspan(whole.skip, part));
            done += part;
        }
        co_return ok();
    }
    /// Whole sectors, but for the end of the disk, whose last one is filled up.
    Task<> write_encrypted(std::uint64_t host, std::uint64_t guest, Buffers from) {
        if (!cipher_) {
            co_return locked();
        }
        for (std::uint64_t done = 0; done < from.size();) {
            const std::uint64_t part = std::min(from.size() - done, kPart);
            AlignedBuffer bytes(round_up(part, kSector));
            from.slice(done, part).copy_to(bytes.bytes());
            std::ranges::fill(bytes.bytes().subspan(part), std::byte{0});
            STRATA_CO_TRY_VOID(co_await encipher((guest + done) / kSector, bytes.bytes(), true));
            STRATA_CO_TRY_VOID(co_await file_->write(host + done, bytes.view()));
            done += part;
        }
        co_return ok();
    }
    Task<> write_sectors(std::uint64_t offset, Buffers from) {
        STRATA_CO_TRY_VOID(check_range(offset, from.size(), true));
        const Sectors whole = sectors_of(offset, from.size());
        const std::uint64_t start = offset - whole.skip;
        const auto lock = co_await partial_.lock();
        std::vector<std::byte> bytes(std::min(whole.bytes, size() - start));
        STRATA_CO_TRY_VOID(co_await read(start, Buffers(std::span(bytes))));
        from.copy_to(std::span(bytes).subspan(whole.skip));
        co_return co_await TableNode::write(start, Buffers::of(bytes));
    }
    Task<> write_zeros_out(std::uint64_t offset, std::uint64_t length, ZeroOptions options) {
        STRATA_CO_TRY_VOID(check_range(offset, length, true));
        const std::uint64_t first = std::min(round_up(offset, kSector), offset + length);
        const std::uint64_t last = std::max(first, (offset + length) / kSector * kSector);
        const std::vector<std::byte> zeros(kSector);
        const auto part = [&](std::uint64_t bytes) {
            return Buffers::of(std::span(zeros).first(bytes));
        };
        if (first != offset) {
            STRATA_CO_TRY_VOID(co_await write_sectors(offset, part(first - offset)));
        }
        if (last != first) {
            STRATA_CO_TRY_VOID(co_await TableNode::write_zeroes(first, last - first, options));
        }
        if (last != offset + length) {
            STRATA_CO_TRY_VOID(co_await write_sectors(last, part(offset + length - last)));
        }
        co_return ok();
    }
    [[nodiscard]] std::uint64_t index_of(std::uint64_t cluster) const {
        return cluster & ((1ULL << header_.l2_bits) - 1);
    }
    // The L2 table that `cluster` is in; 0: none, unless it is to be made.
    Task<std::uint64_t> table_of(std::uint64_t cluster, bool make) {
        const std::uint64_t at = header_.l1_offset + (cluster >> header_.l2_bits) * 8;
        STRATA_CO_TRY(const Be64 entry, co_await meta_.load<Be64>(at));
        if (entry >= kMaxOffset) {
            co_return broken_image("qcow", name(),
                                   fmt::format("a table lies at {}", entry.value()));
        }
        if (entry != 0 || !make) {
            co_return entry.value();
        }
        // Empty before anybody sees it: another publish() may fill in its own entry as soon as the
        // L1 names the table.
        const std::uint64_t table = take_space(header_.l2_bytes(), header_.cluster());
        const std::vector<std::byte> zeros(header_.l2_bytes());
        STRATA_CO_TRY_VOID(co_await meta_.store_bytes(table, zeros, 0));
        STRATA_CO_TRY(const Be64 meanwhile, co_await meta_.load<Be64>(at));
        if (meanwhile != 0) {
            co_return meanwhile.value();  // another made one; ours stays unused
        }
        STRATA_CO_TRY_VOID(co_await meta_.store(
            at, Be64(table), 1));  // the page is here since load(): nothing comes between
        co_return table;
    }
    const Header header_;
    const std::string backing_name_;
    const std::optional<luks::SectorCipher> cipher_;  ///< encrypted, and opened with the passphrase
    AsyncMutex partial_;
};

unsigned probe(std::span<const std::byte> start, std::string_view /*path*/) {
    return is_image(start) ? 100 : 0;
}

Task<NodePtr> open(NodePtr file, OpenOptions options) {
    STRATA_CO_TRY(const auto bytes, co_await read_bytes(*file, 0, kHeaderBytes));
    STRATA_CO_TRY(const Header header, parse_header(bytes, options.path));
    const std::uint64_t table_bytes = header.l1_entries() * 8;
    if (!lies_within(header.l1_offset, table_bytes, round_up(file->size(), 512))) {
        co_return broken_image(
            "qcow", options.path,
            fmt::format(
                "its L1 table of {} bytes at {} lies past the end of the file at {}: it was "
                "cut short; copy the file again",
                table_bytes, header.l1_offset, file->size()));
    }
    std::optional<luks::SectorCipher> cipher;
    if (header.encryption != 0) {
        const std::string_view passphrase = options.extra_of("encrypt.key-secret");
        if (!passphrase.empty()) {
            STRATA_CO_TRY(cipher, luks::passphrase_cipher(passphrase));
        } else if (options.open_data && !options.for_check &&
                   options.extra_of("unlock") != "optional") {
            co_return Error{
                ErrorKind::PermissionDenied,
                fmt::format("'{}': Parameter 'encrypt.key-secret' is required for cipher",
                            options.path),
                EACCES};
        }
    }
    NodePtr backing;
    std::string backing_name;
    if (header.backing_offset != 0) {
        STRATA_CO_TRY(const auto name,
                      co_await read_bytes(*file, header.backing_offset, header.backing_bytes));
        backing_name = text_until_nul(name);
        if (options.open_backing) {
            Reference reference{.kind = Reference::Kind::Backing,
                                .name = backing_name,
                                .format = std::string(options.extra_of("backing_format")),
                                .referrer = options.path};
            STRATA_CO_TRY(backing,
                          co_await open_reference(file->loop(), options, std::move(reference)));
        }
    }
    co_return NodePtr(std::make_shared<Qcow1Node>(std::move(file), options.path, options.read_only,
                                                  header, std::move(backing),
                                                  std::move(backing_name), std::move(cipher)));
}

constexpr std::array kOptions{
    CreateOption{"size", CreateOption::Kind::Size, "Virtual disk size"},
    CreateOption{"backing_file", CreateOption::Kind::Text, "File name of a base image"},
    CreateOption{"backing_fmt", CreateOption::Kind::Text, "Format of the backing image"},
    CreateOption{"encryption", CreateOption::Kind::Flag,
                 "Encrypt the image with format 'aes'. (Deprecated in favor of "
                 "encrypt.format=aes)"},
    CreateOption{"encrypt.format", CreateOption::Kind::Text,
                 "Encrypt the image, format choices: 'aes'"},
    CreateOption{"encrypt.key-secret", CreateOption::Kind::Text,
                 "ID of the secret that provides the AES encryption key"},
};

/// Header::encryption to be.
Result<std::uint32_t> encryption_of(const CreateRequest& request) {
    const bool old = STRATA_TRY(request.flag("encryption", false));
    const std::string_view format = request.option("encrypt.format");
    const auto wrong = [](std::string text) {
        return Error{ErrorKind::InvalidArgument, std::move(text), EINVAL};
    };
    if (old && !format.empty()) {
        return wrong("Options encryption and encrypt.format are mutually exclusive");
    }
    if (!format.empty() && format != "aes") {
        return wrong(fmt::format("Unknown encryption format '{}': use aes", format));
    }
    if (!old && format.empty()) {
        return 0U;
    }
    if (request.option("encrypt.key-secret").empty()) {
        return wrong("Parameter 'encrypt.key-secret' is required for cipher");
    }
    return 1U;
}

Task<> create(Loop& loop, CreateRequest request) {
    STRATA_CO_TRY(const std::uint64_t size, disk_size_of(request, "qcow", 1ULL << 44));
    const std::string_view backing = request.option("backing_file");
    Header header;
    header.size = size;
    STRATA_CO_TRY(header.encryption, encryption_of(request));
    if (!backing.empty()) {
        // Small clusters, so that little is copied up.
        header.cluster_bits = 9;
        header.l2_bits = 12;
        header.backing_offset = kHeaderBytes;
        header.backing_bytes =
            static_cast<std::uint32_t>(std::min<std::size_t>(backing.size(), kMaxBackingName + 1));
    }
    if (header.backing_bytes > kMaxBackingName) {
        co_return Error{
            ErrorKind::InvalidArgument,
            fmt::format("a backing file's name of {} bytes is too long", backing.size())};
    }
    header.l1_offset = round_up(kHeaderBytes + header.backing_bytes, 8);
    std::vector<std::byte> start(round_up(header.l1_offset + header.l1_entries() * 8, 512));
    const auto bytes = serialise_header(header);
    std::copy(bytes.begin(), bytes.end(), start.begin());
    std::transform(backing.begin(), backing.end(), start.begin() + kHeaderBytes,
                   [](char c) { return static_cast<std::byte>(c); });
    Pieces pieces;
    const std::uint64_t length = start.size();
    pieces.emplace_back(0, std::move(start));
    co_return co_await write_new_image(loop, request.path, std::move(pieces), length);
}

constexpr FormatDriver kDriver{.name = "qcow",
                               .probe = &probe,
                               .open = &open,
                               .create = &create,
                               .create_options = kOptions,
                               .backing = true,
                               .compresses = [](const CreateRequest& request) {
                                   return request.option("encrypt.format").empty() &&
                                          request.option("encryption", "off") == "off";
                               }};

}  // namespace

const FormatDriver& driver() {
    return kDriver;
}

}  // namespace strata::block::qcow1
