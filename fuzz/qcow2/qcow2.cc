// qcow2: hostile images are opened, read, checked, written and repaired, in memory.
#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "block/blocking_image.h"
#include "block/compact.h"

namespace {

using namespace strata;
using namespace strata::block;

constexpr std::uint64_t kMost = 16U << 20;  ///< bytes of the disk that are looked at

int image_of(const std::uint8_t* data, std::size_t size) {
    const int fd = ::memfd_create("image", MFD_CLOEXEC);
    STRATA_CHECK(fd >= 0 && ::write(fd, data, size) == static_cast<ssize_t>(size),
                 "no memory for the image");
    return fd;
}

std::unique_ptr<BlockingImage> open(const UniqueFd& fd, bool read_only, bool for_check) {
    OpenOptions options;
    options.path = "fuzz";
    options.fd = UniqueFd(::dup(fd.get()));
    options.format = "qcow2";
    options.lock = false;
    options.read_only = read_only;
    options.for_check = for_check;
    options.open_backing = options.open_data = false;
    auto image = BlockingImage::open(std::move(options), IoEngine::Threads);
    return image.ok() ? std::move(*image) : nullptr;
}

void look_at(BlockingImage& image) {
    static std::vector<std::byte> bytes(1U << 20);
    const std::uint64_t end = std::min(image.size(), kMost);
    for (std::uint64_t at = 0; at < end; at += bytes.size()) {
        (void)image.read(at,
                         std::span(bytes).first(std::min<std::uint64_t>(bytes.size(), end - at)));
        (void)image.status(at, end - at);
    }
    (void)image.loop().run(image.node().info());
}

/// Every snapshot and every bitmap is used once, and half of them go.
void use_parts(BlockingImage& image) {
    Loop& loop = image.loop();
    Node& node = image.node();
    constexpr std::size_t kMostParts = 8;
    if (const auto bitmaps = loop.run(node.bitmaps()); bitmaps.ok()) {
        for (std::size_t i = 0; i < std::min(bitmaps->size(), kMostParts); ++i) {
            const std::string& name = (*bitmaps)[i].name;
            if (auto bitmap = loop.run(node.read_bitmap(name)); bitmap.ok()) {
                (void)loop.run(node.store_bitmap(std::move(*bitmap)));
            }
            if (i % 2 == 0) {
                (void)loop.run(node.remove_bitmap(name));
            }
        }
    }
    if (const auto snapshots = loop.run(node.snapshots()); snapshots.ok()) {
        for (std::size_t i = 0; i < std::min(snapshots->size(), kMostParts); ++i) {
            (void)loop.run(node.apply_snapshot((*snapshots)[i].id));
            if (i % 2 == 0) {
                (void)loop.run(node.delete_snapshot((*snapshots)[i].id));
            }
        }
    }
    if (auto* packs = dynamic_cast<Compactable*>(&node); packs != nullptr) {
        (void)loop.run(packs->pack_file({.begin = [](std::uint64_t /*total*/) {},
                                         .advance = [](std::uint64_t /*bytes*/) { return ok(); }}));
    }
}

}  // namespace

// Failures are what most inputs ask for: only crashes, leaks and endless work count.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const UniqueFd fd(image_of(data, size));
    if (const auto image = open(fd, true, false)) {
        look_at(*image);
        (void)image->loop().run(image->node().check(Repair::Nothing));
    }
    if (const auto image = open(fd, false, true)) {
        (void)image->loop().run(image->node().check(Repair::All));
        (void)image->close();
    }
    if (const auto image = open(fd, false, false)) {
        static const std::array<std::byte, 8192> kBytes{std::byte{1}};
        if (image->size() >= kBytes.size()) {
            (void)image->write(0, kBytes);
            (void)image->write_zeroes(4096, std::min<std::uint64_t>(image->size() - 4096, 1U << 20),
                                      true);
            (void)image->discard(0, std::min<std::uint64_t>(image->size(), kMost));
        }
        (void)image->loop().run(image->node().create_snapshot(SnapshotInfo{}));
        (void)image->flush();
        use_parts(*image);
        look_at(*image);
        (void)image->close();
    }
    return 0;
}
