// Disk images of one format (STRATA_FORMAT): opening, reading, mapping, checking, writing.
#include <algorithm>
#include <cstdint>
#include <vector>

#include <openssl/crypto.h>
#include <sys/mman.h>
#include <unistd.h>

#include "block/registry.h"
#include "seal.h"

namespace {

using namespace strata;         // NOLINT(google-build-using-namespace): a fuzz target
using namespace strata::block;  // NOLINT(google-build-using-namespace)

constexpr std::uint64_t kWindow = 1U << 20;
constexpr int kExtents = 64;

void use(Loop& loop, Node& node, bool writable) {
    std::vector<std::byte> buffer(std::min(node.size(), kWindow));
    (void)loop.run(node.read(0, Buffers(std::span(buffer))));
    (void)loop.run(node.read(node.size() - buffer.size(), Buffers(std::span(buffer))));
    std::uint64_t at = 0;
    for (int i = 0; i < kExtents && at < node.size(); ++i) {
        const auto extent = loop.run(node.status(at, node.size() - at));
        if (!extent.ok()) {
            break;
        }
        STRATA_CHECK(extent->length != 0 && extent->length <= node.size() - at,
                     "an extent without length or past the end");
        at += extent->length;
    }
    (void)loop.run(node.info());
    if (node.size() <= 64 * kWindow) {
        (void)loop.run(node.check(Repair::Nothing));
    }
    if (writable && node.size() >= 8192) {
        (void)loop.run(node.write(node.size() / 2, Buffers::of(std::span(buffer).first(4096))));
        (void)loop.run(node.write_zeroes(511, 5000, {.may_unmap = true}));
        (void)loop.run(node.flush());
    }
    (void)loop.run(node.close());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto pieces = fuzz::pieces_of(STRATA_FORMAT, std::as_bytes(std::span(data, size)));
    // OpenSSL's end comes behind the loop's then, whose worker has state of its own there.
    static const bool kCrypto = OPENSSL_init_crypto(OPENSSL_INIT_LOAD_CRYPTO_STRINGS, nullptr) == 1;
    STRATA_CHECK(kCrypto, "no OpenSSL");
    static const auto kLoop =
        Loop::create({.engine = IoEngine::Threads, .depth = 2, .workers = 1}).value();
    for (const bool writable : {false, true}) {
        OpenOptions options;
        options.path = "fuzz";
        options.format = STRATA_FORMAT;
        options.read_only = !writable;
        options.lock = false;
        options.fd = UniqueFd(::memfd_create("fuzz", MFD_CLOEXEC));
        options.open_backing = false;
        for (const fuzz::Piece& piece : pieces) {
            STRATA_CHECK(::pwrite(options.fd.get(), piece.bytes.data(), piece.bytes.size(),
                                  static_cast<off_t>(piece.offset)) ==
                             static_cast<ssize_t>(piece.bytes.size()),
                         "no memory for an input");
        }
        auto node = kLoop->run(open_node(*kLoop, std::move(options)));
        if (node.ok() && (*node)->size() != 0) {
            use(*kLoop, **node, writable);
        }
    }
    return 0;
}
