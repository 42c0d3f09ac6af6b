// Claim: keeps other writers out of clusters that are about to change owner, while it lives.
#pragma once

#include <cstdint>
#include <iterator>

#include "block/formats/qcow2/qcow2.h"

namespace strata::block::qcow2 {

class [[nodiscard]] Qcow2Node::Claim {
  public:
    /// Clusters [first, end), which nobody has claimed.
    Claim(Qcow2Node& node, std::uint64_t first, std::uint64_t end) : node_(node) {
        node_.claims_.push_back({first, end});
        place_ = std::prev(node_.claims_.end());
    }
    Claim(const Claim&) = delete;
    Claim& operator=(const Claim&) = delete;
    ~Claim() {
        node_.claims_.erase(place_);
        node_.claims_change_.wake_all();
    }
    void shrink(std::uint64_t end) {
        if (place_->end != end) {
            place_->end = end;
            node_.claims_change_.wake_all();
        }
    }

  private:
    Qcow2Node& node_;
    std::list<Stretch>::iterator place_;
};

}  // namespace strata::block::qcow2
