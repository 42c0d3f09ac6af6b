// Wording: whose sentences the block graph's messages use where QEMU's tools have one of their own
// for the same thing.
//
// Scripts and tests made for qemu-img compare what it says. The program sets this once, before it
// opens anything, if it was called by that name; Strata's own words tell more.
#pragma once

#include <string>
#include <utility>

namespace strata::block {

enum class Wording : unsigned char { Strata, Qemu };

/// For the whole process.
void use_wording(Wording wording);
[[nodiscard]] Wording wording();

/// `ours`, or `theirs` where QEMU's words are used.
[[nodiscard]] inline std::string worded(std::string ours, std::string theirs) {
    return wording() == Wording::Qemu ? std::move(theirs) : std::move(ours);
}

}  // namespace strata::block
