// LUKS 2 volumes: made with one slot; slots tried one after the other.
#include "block/formats/luks/volume2.h"

#include <algorithm>
#include <cerrno>

#include <argon2.h>
#include <fmt/format.h>
#include <openssl/crypto.h>
#include <unistd.h>

#include "block/formats/common/table_node.h"
#include "block/formats/common/wire.h"
#include "block/formats/luks/volume_key.h"

namespace strata::block::luks {
namespace {

constexpr std::uint32_t kStripes = 4000;
constexpr std::uint64_t kLeastKib = 4096;
constexpr std::uint32_t kPasses = 4;
constexpr std::uint64_t kMostWork = 1ULL << 28;  ///< see work_of(); some minutes

Result<Secret> derive_key(const Kdf& kdf, std::string_view passphrase, std::size_t length) {
    Secret key(length);
    if (kdf.type == "pbkdf2") {
        STRATA_TRY_VOID(pbkdf2(kdf.hash, std::as_bytes(std::span(passphrase)), kdf.salt,
                               kdf.iterations, key.bytes()));
        return key;
    }
    const auto hash = kdf.type == "argon2i" ? &argon2i_hash_raw : &argon2id_hash_raw;
    const int code = hash(kdf.passes, kdf.kib, kdf.threads, passphrase.data(), passphrase.size(),
                          kdf.salt.data(), kdf.salt.size(), key.bytes().data(), length);
    if (code != ARGON2_OK) {
        return Error{ErrorKind::Failed,
                     fmt::format("deriving a key failed: {}", argon2_error_message(code)),
                     code == ARGON2_MEMORY_ALLOCATION_ERROR ? ENOMEM : EIO};
    }
    return key;
}

/// The part of "aes-xts-plain64" before the first dash, and the one behind it.
std::pair<std::string, std::string> cipher_and_mode(const std::string& encryption) {
    const std::size_t dash = std::min(encryption.find('-'), encryption.size());
    return {encryption.substr(0, dash), encryption.substr(std::min(dash + 1, encryption.size()))};
}

/// PermissionDenied: the passphrase is another slot's.
Result<Secret> try_slot(const Header2& header, const Slot2& slot, std::vector<std::byte> material,
                        std::string_view passphrase) {
    const Secret area_key = STRATA_TRY(derive_key(slot.kdf, passphrase, slot.area_key_bytes));
    const auto [cipher_name, mode] = cipher_and_mode(slot.encryption);
    const auto cipher = STRATA_TRY(SectorCipher::create(cipher_name, mode, area_key.bytes()));
    const Result<> clear = cipher.decrypt(0, material);
    Result<Secret> merged =
        clear.ok() ? merge_stripes(slot.af_hash, slot.key_bytes, slot.stripes, material)
                   : Result<Secret>(clear.error());
    OPENSSL_cleanse(material.data(), material.size());
    Secret key = STRATA_TRY(std::move(merged));
    for (const Digest2& digest : header.digests) {
        if (!digest.slots.contains(std::to_string(slot.number))) {
            continue;
        }
        Secret check(digest.digest.size());
        STRATA_TRY_VOID(
            pbkdf2(digest.hash, key.bytes(), digest.salt, digest.iterations, check.bytes()));
        if (CRYPTO_memcmp(check.bytes().data(), digest.digest.data(), digest.digest.size()) == 0) {
            return key;
        }
    }
    return Error{ErrorKind::PermissionDenied, "the passphrase is wrong", EACCES};
}

/// What trying a slot costs, in KiB that Argon2 passes over: about 2^20 take a second.
std::uint64_t work_of(const Header2& header, const Slot2& slot) {
    std::uint64_t work = slot.kdf.type == "pbkdf2" ? slot.kdf.iterations / 2
                                                   : std::uint64_t{slot.kdf.passes} * slot.kdf.kib;
    for (const Digest2& digest : header.digests) {
        work += digest.slots.contains(std::to_string(slot.number)) ? digest.iterations / 2 : 0;
    }
    return work;
}

/// What deriving a key with `kdf` costs, in nanoseconds of the processor's time.
Result<std::uint64_t> cost_of(const Kdf& kdf, std::size_t key_bytes) {
    const std::uint64_t start = thread_nanoseconds();
    STRATA_TRY_VOID(derive_key(kdf, "a passphrase", key_bytes));
    return std::max<std::uint64_t>(1, thread_nanoseconds() - start);
}

std::uint64_t half_of_memory_kib() {
    const long pages = ::sysconf(_SC_PHYS_PAGES), size = ::sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0
               ? static_cast<std::uint64_t>(pages) / 2 * (static_cast<std::uint64_t>(size) / 1024)
               : kLeastKib;
}

/// Argon2 that takes `milliseconds`: by more memory first, then by more passes. One thread, so that
/// it takes as long wherever the volume is opened.
Result<> scale_argon(Kdf& kdf, std::size_t key_bytes, std::uint64_t milliseconds) {
    const std::uint64_t most =
        std::clamp(half_of_memory_kib(), kLeastKib, std::uint64_t{kMaxArgonKib});
    kdf.threads = 1;
    kdf.passes = kPasses;
    kdf.kib = kLeastKib;
    std::uint64_t cost = STRATA_TRY(cost_of(kdf, key_bytes));
    const std::uint64_t wanted = milliseconds * 1'000'000;
    // What little memory costs tells little of much: it is in the processor's cache.
    for (unsigned i = 0; i < 2 && wanted > cost && kdf.kib < most; ++i) {
        const double factor = static_cast<double>(wanted) / static_cast<double>(cost);
        const double next =
            static_cast<double>(kdf.kib) * (i == 0 ? std::min(factor, 16.0) : factor);
        kdf.kib = static_cast<std::uint32_t>(std::min(next, static_cast<double>(most)));
        if (i == 0) {
            cost = STRATA_TRY(cost_of(kdf, key_bytes));
        }
    }
    const std::uint64_t now = STRATA_TRY(cost_of(kdf, key_bytes));
    const std::uint64_t passes = wanted * kPasses / now;
    kdf.passes =
        static_cast<std::uint32_t>(std::clamp<std::uint64_t>(passes, kPasses, kMaxArgonPasses));
    return ok();
}

Result<Kdf> plan_kdf(const NewVolume2& wanted, std::uint32_t key_bytes) {
    Kdf kdf;
    kdf.type = wanted.kdf;
    kdf.salt.resize(32);
    STRATA_TRY_VOID(fill_random(kdf.salt));
    if (kdf.type == "pbkdf2") {
        kdf.hash = wanted.plan.header.hash;
        kdf.iterations =
            STRATA_TRY(pbkdf2_iterations(kdf.hash, key_bytes, wanted.plan.milliseconds));
    } else {
        STRATA_TRY_VOID(scale_argon(kdf, key_bytes, wanted.plan.milliseconds));
    }
    return kdf;
}

Result<Digest2> seal2(const Secret& key, const std::string& hash, std::uint64_t milliseconds) {
    Digest2 digest;
    digest.slots = {"0"};
    digest.hash = hash;
    digest.iterations = STRATA_TRY(
        pbkdf2_iterations(hash, static_cast<std::uint32_t>(key.bytes().size()), milliseconds));
    digest.salt.resize(32);
    digest.digest.resize(hash == "sha1"     ? 20
                         : hash == "sha224" ? 28
                         : hash == "sha384" ? 48
                         : hash == "sha512" ? 64
                                            : 32);
    STRATA_TRY_VOID(fill_random(digest.salt));
    STRATA_TRY_VOID(pbkdf2(hash, key.bytes(), digest.salt, digest.iterations, digest.digest));
    return digest;
}

/// For a worker thread.
Result<> fill_volume(const NewVolume2& wanted, MadeVolume2& made) {
    const Header& plan = wanted.plan.header;
    STRATA_TRY_VOID(fill_random(made.key.bytes()));
    Slot2 slot;
    slot.key_bytes = slot.area_key_bytes = plan.key_bytes;
    slot.af_hash = plan.hash;
    slot.stripes = kStripes;
    slot.offset = 2 * kHeader2Bytes;
    slot.length = round_up(std::uint64_t{kStripes} * plan.key_bytes, 4096);
    slot.encryption = made.header.encryption;
    slot.kdf = STRATA_TRY(plan_kdf(wanted, plan.key_bytes));
    const Secret area_key =
        STRATA_TRY(derive_key(slot.kdf, wanted.plan.passphrase, slot.area_key_bytes));
    made.material = STRATA_TRY(split_key(plan.hash, made.key, kStripes));
    const auto cipher = STRATA_TRY(SectorCipher::create(plan.cipher, plan.mode, area_key.bytes()));
    STRATA_TRY_VOID(cipher.encrypt(0, made.material));
    made.header.slots.push_back(std::move(slot));
    made.header.digests.push_back(
        STRATA_TRY(seal2(made.key, plan.hash, wanted.plan.milliseconds / 8)));
    made.start = STRATA_TRY(serialise_header2(made.header, kPayload2 - 2 * kHeader2Bytes));
    return ok();
}

}  // namespace

Task<MadeVolume2> make_volume2(Loop& loop, NewVolume2 wanted) {
    if (wanted.plan.passphrase.empty()) {
        co_return Error{ErrorKind::InvalidArgument, "Parameter 'key-secret' is required for cipher",
                        EINVAL};
    }
    const Header& plan = wanted.plan.header;
    MadeVolume2 made;
    made.key = Secret(plan.key_bytes);
    made.header.uuid = format_uuid(random_uuid(), false);
    made.header.sequence = 1;
    made.header.payload = kPayload2;
    made.header.encryption = fmt::format("{}-{}", plan.cipher, plan.mode);
    const Result<> done = co_await loop.offload([&] { return fill_volume(wanted, made); });
    STRATA_CO_TRY_VOID(done);
    co_return std::move(made);
}

Task<Header2> read_header2(Area area) {
    STRATA_CO_TRY(const auto bytes, co_await read_bytes(*area.file, area.offset,
                                                        std::min(area.length, kMaxHeader2 * 2)));
    co_return parse_header2(bytes, area.length, area.name);
}

Task<OpenVolume2> open_volume2(Area area, std::string passphrase) {
    STRATA_CO_TRY(const Header2 header, co_await read_header2(area));
    std::uint64_t work = 0;
    for (const Slot2& slot : header.slots) {
        work += work_of(header, slot);
        if (work > kMostWork) {
            co_return Error{ErrorKind::PermissionDenied,
                            "Invalid password for the first keyslots; trying the others would take "
                            "too long",
                            EACCES};
        }
        const std::uint64_t length = round_up(std::uint64_t{slot.stripes} * slot.key_bytes, 512);
        STRATA_CO_TRY(auto material,
                      co_await read_bytes(*area.file, area.offset + slot.offset, length));
        Result<Secret> key = co_await area.file->loop().offload(
            [&] { return try_slot(header, slot, std::move(material), passphrase); });
        if (key.ok()) {
            co_return OpenVolume2{header, std::move(*key)};
        }
        if (key.error().kind() != ErrorKind::PermissionDenied) {
            co_return key.error();
        }
    }
    co_return Error{ErrorKind::PermissionDenied, "Invalid password, cannot unlock any keyslot",
                    EACCES};
}

std::vector<InfoField> volume_info2(const Header2& h) {
    std::vector<InfoField> fields{{"version", "version", std::int64_t{2}},
                                  {"uuid", "uuid", h.uuid},
                                  {"encryption", "encryption", h.encryption}};
    std::vector<std::vector<InfoField>> slots;
    for (const Slot2& slot : h.slots) {
        slots.push_back({{"number", "number", std::int64_t{slot.number}},
                         {"kdf", "kdf", slot.kdf.type},
                         {"key-offset", "key offset", static_cast<std::int64_t>(slot.offset)}});
    }
    fields.push_back({"slots", "slots", std::move(slots)});
    fields.push_back({"payload-offset", "payload offset", static_cast<std::int64_t>(h.payload)});
    fields.push_back({"sector-size", "sector size", std::int64_t{h.sector}});
    return fields;
}

}  // namespace strata::block::luks
