// SESPARSE extents of VMDK images, which a descriptor names: opening, reading, mapping.
#include <algorithm>
#include <cstdint>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

#include "block/formats/vmdk/se_sparse.h"
#include "block/registry.h"

namespace {

using namespace strata;         // NOLINT(google-build-using-namespace): a fuzz target
using namespace strata::block;  // NOLINT(google-build-using-namespace)

constexpr std::uint64_t kWindow = 1U << 20;
constexpr int kExtents = 64;

void use(Loop& loop, Node& node) {
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
    (void)loop.run(node.close());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const auto kLoop =
        Loop::create({.engine = IoEngine::Threads, .depth = 2, .workers = 1}).value();
    OpenOptions options;
    options.path = "fuzz";
    options.format = "file";
    options.read_only = true;
    options.lock = false;
    options.fd = UniqueFd(::memfd_create("fuzz", MFD_CLOEXEC));
    STRATA_CHECK(::pwrite(options.fd.get(), data, size, 0) == static_cast<ssize_t>(size),
                 "no memory for an input");
    auto file = kLoop->run(open_node(*kLoop, std::move(options)));
    STRATA_CHECK(file.ok(), "a file that cannot be opened");
    auto node = kLoop->run(vmdk::open_se_sparse(*file, "fuzz", 512, nullptr, 0));
    if (node.ok()) {
        use(*kLoop, **node);
    }
    return 0;
}
