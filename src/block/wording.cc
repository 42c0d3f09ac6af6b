// Wording: the process's choice.
#include "block/wording.h"

#include <atomic>

namespace strata::block {
namespace {

std::atomic<Wording>& choice() {
    static std::atomic<Wording> kChoice{Wording::Strata};
    return kChoice;
}

}  // namespace

void use_wording(Wording wording) {
    choice().store(wording, std::memory_order_relaxed);
}

Wording wording() {
    return choice().load(std::memory_order_relaxed);
}

}  // namespace strata::block
