// LuksHeader2: the binary part, then what the JSON says.
#include "block/formats/luks/header2.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include "base/endian.h"
#include "block/formats/common/wire.h"
#include "block/secrets.h"

namespace strata::block::luks {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kBinary = 4096, kChecksum = 448;
constexpr std::array<char, 6> kFirst = {'L', 'U', 'K', 'S', '\xBA', '\xBE'},
                              kSecond = {'S', 'K', 'U', 'L', '\xBA', '\xBE'};
constexpr std::uint32_t kMaxIterations = 1U << 26, kMaxStripes = 16384;
constexpr std::size_t kMaxSlots = 32;

struct Wire {
    std::array<char, 6> magic{};
    Be16 version;
    Be64 length, sequence;
    std::array<std::byte, 48> label{};
    std::array<std::byte, 32> checksum_hash{};
    std::array<std::byte, 64> salt{};
    std::array<std::byte, 40> uuid{};
    std::array<std::byte, 48> subsystem{};
    Be64 offset;
    std::array<std::byte, 184> padding{};
    std::array<std::byte, 64> checksum{};
};
static_assert(sizeof(Wire) == 512);

/// Looks up what JSON has; remembers that something was not as it must be.
class Reader {
  public:
    const Json& member(const Json& of, const char* name) {
        static const Json kNothing;
        const auto found = of.is_object() ? of.find(name) : of.end();
        if (!of.is_object() || found == of.end()) {
            fail(name);
            return kNothing;
        }
        return *found;
    }
    std::string text(const Json& of, const char* name) {
        const Json& value = member(of, name);
        if (!value.is_string() || value.get_ref<const std::string&>().size() > 4096) {
            fail(name);
            return {};
        }
        return value.get<std::string>();
    }
    std::uint64_t number(const Json& of, const char* name, std::uint64_t low, std::uint64_t high) {
        const Json& value = member(of, name);
        if (!value.is_number_unsigned() || value.get<std::uint64_t>() < low ||
            value.get<std::uint64_t>() > high) {
            fail(name);
            return low;
        }
        return value.get<std::uint64_t>();
    }
    /// A number as text, as sizes and offsets are.
    std::uint64_t size(const Json& of, const char* name) {
        const std::string value = text(of, name);
        std::uint64_t result = 0;
        const auto [end, code] = std::from_chars(value.data(), value.data() + value.size(), result);
        if (code != std::errc() || end != value.data() + value.size() || result > (1ULL << 62)) {
            fail(name);
            return 0;
        }
        return result;
    }
    std::vector<std::byte> bytes(const Json& of, const char* name) {
        const auto decoded =
            load_secret({.data = text(of, name), .file = {}, .base64 = true, .key = {}, .iv = {}});
        if (!decoded.ok() || decoded->empty() || decoded->size() > 1024) {
            fail(name);
            return {};
        }
        std::vector<std::byte> result(decoded->size());
        std::memcpy(result.data(), decoded->data(), decoded->size());
        return result;
    }
    void fail(const char* name) { wrong_ = wrong_.empty() ? name : wrong_; }
    [[nodiscard]] const std::string& wrong() const { return wrong_; }

  private:
    std::string wrong_;
};

Kdf read_kdf(Reader& reader, const Json& json) {
    Kdf kdf;
    kdf.type = reader.text(json, "type");
    kdf.salt = reader.bytes(json, "salt");
    if (kdf.type == "pbkdf2") {
        kdf.hash = reader.text(json, "hash");
        kdf.iterations =
            static_cast<std::uint32_t>(reader.number(json, "iterations", 1, kMaxIterations));
    } else if (kdf.type == "argon2i" || kdf.type == "argon2id") {
        kdf.passes = static_cast<std::uint32_t>(reader.number(json, "time", 1, kMaxArgonPasses));
        kdf.kib = static_cast<std::uint32_t>(reader.number(json, "memory", 8, kMaxArgonKib));
        kdf.threads = static_cast<std::uint32_t>(reader.number(json, "cpus", 1, kMaxArgonThreads));
    } else {
        reader.fail("kdf");
    }
    return kdf;
}

std::optional<Slot2> read_slot(Reader& reader, const std::string& name, const Json& json) {
    if (reader.text(json, "type") != "luks2") {
        return std::nullopt;  // of a tool that is not known here
    }
    Slot2 slot;
    (void)std::from_chars(name.data(), name.data() + name.size(), slot.number);
    if (slot.number >= kMaxSlots || std::to_string(slot.number) != name) {
        reader.fail("keyslots");  // two could be of one number
    }
    slot.key_bytes = static_cast<std::uint32_t>(reader.number(json, "key_size", 16, 64));
    slot.kdf = read_kdf(reader, reader.member(json, "kdf"));
    const Json& af = reader.member(json, "af");
    slot.af_hash = reader.text(af, "hash");
    slot.stripes = static_cast<std::uint32_t>(reader.number(af, "stripes", 1, kMaxStripes));
    const Json& area = reader.member(json, "area");
    slot.offset = reader.size(area, "offset");
    slot.length = reader.size(area, "size");
    slot.encryption = reader.text(area, "encryption");
    slot.area_key_bytes = static_cast<std::uint32_t>(reader.number(area, "key_size", 16, 64));
    if (reader.text(area, "type") != "raw" || reader.text(af, "type") != "luks1" ||
        slot.length < std::uint64_t{slot.stripes} * slot.key_bytes) {
        reader.fail("area");
    }
    return slot;
}

void read_segment(Reader& reader, const Json& segments, Header2& h) {
    if (!segments.is_object() || segments.size() != 1 || segments.begin().key() != "0") {
        reader.fail("segments");
        return;
    }
    const Json& segment = segments.begin().value();
    h.payload = reader.size(segment, "offset");
    h.size = reader.text(segment, "size") == "dynamic" ? 0 : reader.size(segment, "size");
    h.encryption = reader.text(segment, "encryption");
    h.iv_tweak = reader.size(segment, "iv_tweak");
    h.sector = static_cast<std::uint32_t>(reader.number(segment, "sector_size", 512, 4096));
    if (reader.text(segment, "type") != "crypt" || (h.sector & (h.sector - 1)) != 0 ||
        segment.contains("integrity") || segment.contains("flags")) {
        reader.fail("segments");
    }
}

void read_digests(Reader& reader, const Json& digests, Header2& h) {
    if (!digests.is_object() || digests.size() > kMaxSlots) {
        reader.fail("digests");
        return;
    }
    std::set<std::string> sealed;
    for (const auto& each : digests.items()) {
        Digest2 digest;
        if (reader.text(each.value(), "type") != "pbkdf2") {
            continue;
        }
        digest.hash = reader.text(each.value(), "hash");
        digest.iterations = static_cast<std::uint32_t>(
            reader.number(each.value(), "iterations", 1, kMaxIterations));
        digest.salt = reader.bytes(each.value(), "salt");
        digest.digest = reader.bytes(each.value(), "digest");
        const Json& slots = reader.member(each.value(), "keyslots");
        for (const Json& slot :
             slots.is_array() && slots.size() <= kMaxSlots ? slots : Json::array()) {
            if (slot.is_string()) {
                digest.slots.insert(slot.get<std::string>());
            }
        }
        const Json& segments = reader.member(each.value(), "segments");
        if (segments.is_array() &&
            std::find(segments.begin(), segments.end(), Json("0")) != segments.end()) {
            for (const std::string& slot : digest.slots) {
                if (!sealed.insert(slot).second) {
                    reader.fail("digests");  // one says whether a slot's key is right
                }
            }
            h.digests.push_back(std::move(digest));
        }
    }
}

Result<Header2> read_json(std::string_view text, Header2 h, std::uint64_t file_size,
                          std::string_view name) {
    const Json json = Json::parse(text.begin(), text.end(), nullptr, false);
    Reader reader;
    const Json& slots = reader.member(json, "keyslots");
    if (!slots.is_object() || slots.size() > kMaxSlots) {
        reader.fail("keyslots");
    } else {
        for (const auto& each : slots.items()) {
            if (auto slot = read_slot(reader, each.key(), each.value())) {
                h.slots.push_back(std::move(*slot));
            }
        }
    }
    read_segment(reader, reader.member(json, "segments"), h);
    read_digests(reader, reader.member(json, "digests"), h);
    const Json& json_size = reader.member(reader.member(json, "config"), "json_size");
    if (!json_size.is_string()) {
        reader.fail("json_size");
    }
    if (const auto found = json.is_object() ? json.find("config") : json.end();
        json.is_object() && found != json.end() && found->is_object() &&
        found->contains("requirements")) {
        return unsupported_image(
            "LUKS", name,
            "it asks for features that are unknown here (a re-encryption under way?)");
    }
    if (!reader.wrong().empty()) {
        return broken_image(
            "LUKS", name,
            fmt::format("its JSON has no '{}' as it is read here, or one that would cost too much",
                        reader.wrong()));
    }
    if (h.payload > file_size || h.payload % 512 != 0 ||
        (h.size != 0 && !lies_within(h.payload, h.size, file_size))) {
        return broken_image("LUKS", name,
                            fmt::format("its payload at {} lies outside the file", h.payload));
    }
    for (const Slot2& slot : h.slots) {
        if (slot.length > kMaxHeader2 || !lies_within(slot.offset, slot.length, file_size)) {
            return broken_image("LUKS", name,
                                fmt::format("a key slot of {} bytes at {} lies outside the file",
                                            slot.length, slot.offset));
        }
    }
    return h;
}

/// The copy at `at`, if its checksum is right.
std::optional<Header2> read_copy(std::span<const std::byte> bytes, std::size_t at,
                                 const std::array<char, 6>& magic,
                                 std::span<const std::byte>& json) {
    Wire wire;
    if (at > bytes.size() || bytes.size() - at < kBinary) {
        return std::nullopt;
    }
    bytes = bytes.subspan(at);
    std::memcpy(static_cast<void*>(&wire), bytes.data(), sizeof wire);
    if (wire.magic != magic || wire.version != 2 || wire.offset != at ||
        wire.length < kBinary * 2 || wire.length > kMaxHeader2 || wire.length > bytes.size()) {
        return std::nullopt;
    }
    std::vector<std::byte> copy(bytes.begin(),
                                bytes.begin() + static_cast<std::ptrdiff_t>(wire.length.value()));
    std::fill_n(copy.begin() + kChecksum, wire.checksum.size(), std::byte{0});
    const std::string hash = text_until_nul(wire.checksum_hash);
    const EVP_MD* digest = hash == "sha256"   ? EVP_sha256()
                           : hash == "sha512" ? EVP_sha512()
                           : hash == "sha1"   ? EVP_sha1()
                                              : nullptr;
    std::array<unsigned char, EVP_MAX_MD_SIZE> sum{};
    unsigned length = 0;
    if (digest == nullptr ||
        EVP_Digest(copy.data(), copy.size(), sum.data(), &length, digest, nullptr) != 1 ||
        std::memcmp(sum.data(), wire.checksum.data(),
                    std::min<std::size_t>(length, wire.checksum.size())) != 0) {
        return std::nullopt;
    }
    Header2 h;
    h.uuid = text_until_nul(wire.uuid);
    h.label = text_until_nul(wire.label);
    h.sequence = wire.sequence;
    json = bytes.subspan(kBinary, wire.length - kBinary);
    return h;
}

std::string base64(std::span<const std::byte> bytes) {
    std::string text((bytes.size() + 2) / 3 * 4 + 1, '\0');
    // SAFETY: the library's interface is of unsigned char; it ends its text with a NUL.
    const int length = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                                       reinterpret_cast<const unsigned char*>(bytes.data()),
                                       static_cast<int>(bytes.size()));
    text.resize(static_cast<std::size_t>(length));
    return text;
}

Json write_kdf(const Kdf& kdf) {
    Json json{{"type", kdf.type}, {"salt", base64(kdf.salt)}};
    if (kdf.type == "pbkdf2") {
        json["hash"] = kdf.hash;
        json["iterations"] = kdf.iterations;
    } else {
        json["time"] = kdf.passes;
        json["memory"] = kdf.kib;
        json["cpus"] = kdf.threads;
    }
    return json;
}

Json write_slot(const Slot2& slot) {
    return {{"type", "luks2"},
            {"key_size", slot.key_bytes},
            {"af", {{"type", "luks1"}, {"stripes", slot.stripes}, {"hash", slot.af_hash}}},
            {"area",
             {{"type", "raw"},
              {"offset", std::to_string(slot.offset)},
              {"size", std::to_string(slot.length)},
              {"encryption", slot.encryption},
              {"key_size", slot.area_key_bytes}}},
            {"kdf", write_kdf(slot.kdf)}};
}

std::string write_json(const Header2& h, std::uint64_t area) {
    Json slots = Json::object(), digests = Json::object();
    for (const Slot2& slot : h.slots) {
        slots[std::to_string(slot.number)] = write_slot(slot);
    }
    for (const Digest2& digest : h.digests) {
        digests[std::to_string(digests.size())] = {{"type", "pbkdf2"},
                                                   {"keyslots", digest.slots},
                                                   {"segments", Json::array({"0"})},
                                                   {"hash", digest.hash},
                                                   {"iterations", digest.iterations},
                                                   {"salt", base64(digest.salt)},
                                                   {"digest", base64(digest.digest)}};
    }
    const Json segment{{"type", "crypt"},
                       {"offset", std::to_string(h.payload)},
                       {"size", h.size == 0 ? "dynamic" : std::to_string(h.size)},
                       {"iv_tweak", std::to_string(h.iv_tweak)},
                       {"encryption", h.encryption},
                       {"sector_size", h.sector}};
    const Json json{{"keyslots", std::move(slots)},
                    {"tokens", Json::object()},
                    {"segments", {{"0", segment}}},
                    {"digests", std::move(digests)},
                    {"config",
                     {{"json_size", std::to_string(kHeader2Bytes - kBinary)},
                      {"keyslots_size", std::to_string(area)}}}};
    return json.dump();
}

template <std::size_t N>
void put_text(std::array<std::byte, N>& to, std::string_view text) {
    std::memcpy(to.data(), text.data(), std::min(text.size(), N - 1));
}

/// One copy into `bytes`, kHeader2Bytes of them.
Result<> write_copy(const Header2& h, std::string_view json, const std::array<char, 6>& magic,
                    std::uint64_t offset, std::span<std::byte> bytes) {
    Wire wire;
    wire.magic = magic;
    wire.version = std::uint16_t{2};
    wire.length = kHeader2Bytes;
    wire.sequence = h.sequence;
    put_text(wire.label, h.label);
    put_text(wire.checksum_hash, "sha256");
    put_text(wire.uuid, h.uuid);
    wire.offset = offset;
    // SAFETY: the library's interface is of unsigned char, as is the next one's.
    if (RAND_bytes(reinterpret_cast<unsigned char*>(wire.salt.data()),
                   static_cast<int>(wire.salt.size())) != 1) {
        return Error{ErrorKind::Failed, "no random numbers for a header", EIO};
    }
    std::memcpy(bytes.data(), &wire, sizeof wire);
    std::memcpy(bytes.data() + kBinary, json.data(), json.size());
    if (EVP_Digest(bytes.data(), bytes.size(),
                   reinterpret_cast<unsigned char*>(bytes.data() + kChecksum), nullptr,
                   EVP_sha256(), nullptr) != 1) {
        return Error{ErrorKind::Failed, "no checksum of a header", EIO};
    }
    return ok();
}

}  // namespace

Result<std::vector<std::byte>> serialise_header2(const Header2& header, std::uint64_t area) {
    const std::string json = write_json(header, area);
    if (json.size() >= kHeader2Bytes - kBinary) {
        return Error{ErrorKind::InvalidArgument, "a LUKS header with so much in it has no room",
                     EFBIG};
    }
    std::vector<std::byte> both(2 * kHeader2Bytes);
    STRATA_TRY_VOID(write_copy(header, json, kFirst, 0, std::span(both).first(kHeader2Bytes)));
    STRATA_TRY_VOID(
        write_copy(header, json, kSecond, kHeader2Bytes, std::span(both).subspan(kHeader2Bytes)));
    return both;
}

bool is_image2(std::span<const std::byte> bytes) {
    return bytes.size() >= 8 && std::memcmp(bytes.data(), kFirst.data(), kFirst.size()) == 0 &&
           bytes[6] == std::byte{0} && bytes[7] == std::byte{2};
}

Result<Header2> parse_header2(std::span<const std::byte> bytes, std::uint64_t file_size,
                              std::string_view name) {
    std::span<const std::byte> json;
    std::optional<Header2> best = read_copy(bytes, 0, kFirst, json);
    // Behind a sound first one; a device may have older volumes' farther on.
    const std::size_t behind = best ? kBinary + json.size() : kBinary * 4;
    const std::size_t last = best ? behind : kMaxHeader2;
    for (std::size_t at = behind; at <= last && at < bytes.size(); at *= 2) {
        std::span<const std::byte> other;
        auto second = read_copy(bytes, at, kSecond, other);
        if (second && (!best || second->sequence > best->sequence)) {
            best = std::move(second);
            json = other;
        }
    }
    if (!best) {
        return broken_image("LUKS", name, "neither of its two headers is sound");
    }
    const std::string text = text_until_nul(json);
    return read_json(text, std::move(*best), file_size, name);
}

}  // namespace strata::block::luks
