// NodeTree: which nodes to open over each other, as names and values with dots:
// driver=qcow2 file.driver=fault file.image.driver=file file.image.filename=a.qcow2.
//
// A node takes out what is its own; what is left over is an error that names it. The values are
// text, whatever they came from.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "block/image_info.h"

namespace strata::block {

class NodeTree {
  public:
    NodeTree() = default;
    explicit NodeTree(OptionList options) : options_(std::move(options)) {}

    [[nodiscard]] const OptionList& options() const { return options_; }
    [[nodiscard]] bool empty() const { return options_.empty(); }
    /// `name` itself, or anything below it, is there.
    [[nodiscard]] bool has(std::string_view name) const;
    void set(std::string name, std::string value) {
        options_.emplace_back(std::move(name), std::move(value));
    }
    /// Adds all of `other` below `name`.
    void graft(std::string_view name, const NodeTree& other);

    // Each takes out what it answers. Of a name that is there twice the last one counts.
    std::optional<std::string> take(std::string_view name);
    /// "on", "off", "true", "false", "yes", "no".
    Result<bool> take_flag(std::string_view name, bool fallback);
    /// Bytes, with suffixes k, M, G, T.
    Result<std::uint64_t> take_size(std::string_view name, std::uint64_t fallback);
    Result<std::uint64_t> take_number(std::string_view name, std::uint64_t fallback);
    /// A part of one, "0.25".
    Result<double> take_share(std::string_view name, double fallback);
    /// All "name.REST=value" as "REST=value".
    NodeTree take_child(std::string_view name);
    /// name.0.REST, name.1.REST, … in that order, as far as there is no gap.
    std::vector<NodeTree> take_list(std::string_view name);

    /// Nothing is left; else InvalidArgument: "Block `kind` 'DRIVER' does not support the option
    /// 'NAME'".
    [[nodiscard]] Result<> finish(std::string_view kind, std::string_view driver) const;

  private:
    OptionList options_;
};

}  // namespace strata::block
