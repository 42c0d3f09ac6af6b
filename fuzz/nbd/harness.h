// Harness: two ends of a connection on one loop, and a peer that says what the fuzzer says.
#pragma once

#include <array>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"
#include "block/nbd/stream.h"
#include "block/registry.h"

namespace strata::block::nbd {

inline constexpr std::uint64_t kFuzzDisk = 256U << 10;

inline Loop& fuzz_loop() {
    static const auto kLoop = [] {
        auto loop = Loop::create({.depth = 4, .quiet_start = true, .workers = 1});
        STRATA_CHECK(loop.ok(), "no loop");
        return std::move(*loop);
    }();
    return *kLoop;
}

inline std::array<std::unique_ptr<Stream>, 2> fuzz_pair() {
    std::array<int, 2> ends{};
    STRATA_CHECK(
        ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data()) == 0,
        "no sockets");
    std::array<std::unique_ptr<Stream>, 2> pair;
    for (std::size_t i = 0; i < 2; ++i) {
        auto stream = Stream::adopt(fuzz_loop(), UniqueFd(ends.at(i)), "fuzz");
        STRATA_CHECK(stream.ok(), "no stream");
        pair.at(i) = std::move(*stream);
    }
    return pair;
}

/// Keys of a client or a server, from a folder that is gone afterwards.
inline std::shared_ptr<const TlsCredentials> fuzz_keys(TlsRole role) {
    std::string folder = "/tmp/fuzz-keys-XXXXXX";
    STRATA_CHECK(::mkdtemp(folder.data()) != nullptr, "no folder");
    const std::string path = folder + "/keys.psk";
    const UniqueFd file(::open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    constexpr std::string_view kLine = "fuzz:00112233445566778899aabbccddeeff\n";
    STRATA_CHECK(
        ::write(file.get(), kLine.data(), kLine.size()) == static_cast<ssize_t>(kLine.size()),
        "no keys");
    auto keys = TlsCredentials::psk(role, folder, "fuzz");
    (void)::unlink(path.c_str());
    (void)::rmdir(folder.c_str());
    STRATA_CHECK(keys.ok(), "no credentials");
    return *keys;
}

inline NodePtr fuzz_disk() {
    OpenOptions options;
    options.path = "fuzz";
    options.fd = UniqueFd(::memfd_create("disk", MFD_CLOEXEC));
    STRATA_CHECK(::ftruncate(options.fd.get(), kFuzzDisk) == 0, "no memory");
    options.lock = false;
    auto node = fuzz_loop().run(open_node(fuzz_loop(), std::move(options)));
    STRATA_CHECK(node.ok(), "no disk");
    return *node;
}

/// Says all of it, then nothing more.
inline Task<> say(Stream& stream, std::span<const std::byte> bytes) {
    STRATA_CO_TRY_VOID(co_await stream.send(bytes, {}, true));
    stream.end_output();
    co_return ok();
}

inline Task<> listen_to_the_end(Stream& stream) {
    co_return co_await stream.skip(UINT64_MAX);
}

/// Lets all that was spawned end.
inline Task<> settle(Loop& loop) {
    while (loop.spawned() > 1) {
        co_await loop.yield();
    }
    co_return ok();
}

}  // namespace strata::block::nbd
