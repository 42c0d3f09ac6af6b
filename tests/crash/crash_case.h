// Crash case: one shape of image for the crash test, and what is done with it.
#pragma once

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "block/registry.h"

namespace strata::block {

enum Ability : unsigned {
    kNothing = 0,
    kCheck = 1,  ///< the format has checks
    kSnapshots = 2,
    kOverlay = 4,       ///< over a raw image
    kCompress = 8,      ///< some clusters are written compressed
    kFailures = 16,     ///< some changes of the file fail
    kPassThrough = 32,  ///< the disk shows the file's own bytes
    kPeer = 64,         ///< qemu-img judges
    kMend = 128,        ///< it minds that the image was not closed, so that is mended first
    kAmends = 256,      ///< its version and the width of its refcounts change
    kBitmaps = 512,
    kVersion2 = 1024,  ///< amending takes it to version 2 in spite of snapshots
    kRebases = 2048,   ///< what lies below gets other names
    kDataFile = 4096,  ///< a data file of its own
    kCompacts = 8192,  ///< its file is packed where it lies
    kRawData = 16384,  ///< which shows the disk by itself
    kFilled = 32768,   ///< what was never written is no zeros, so zeros are written first
};

struct Case {
    friend void PrintTo(const Case& shown, std::ostream* out) { *out << shown.name; }
    std::string name, format;
    OptionList options;
    std::uint64_t size;
    unsigned rounds;
    unsigned abilities;
    OptionList opening{};  ///< options of the format for opening it
    [[nodiscard]] bool can(Ability ability) const { return (abilities & ability) != 0; }
};

/// All of them.
std::vector<Case> crash_cases();

}  // namespace strata::block
