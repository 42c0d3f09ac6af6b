// NewImage: an image to be made, as create, convert, dd and measure are told of it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "block/registry.h"

namespace strata::qemu_img {

class Session;

struct NewImage {
    std::string path;
    const block::FormatDriver* driver = nullptr;
    std::optional<std::uint64_t> size;
    block::OptionList options;  ///< checked: names that the driver knows

    /// "Unknown file format 'x'", or one that cannot be created.
    Result<> use_format(const std::string& name);
    /// -o lists; takes `size` out of them.
    Result<> take_options(const std::vector<std::string>& lists);
    /// -b and -F.
    Result<> take_backing(const std::optional<std::string>& file,
                          const std::optional<std::string>& format);

    [[nodiscard]] bool has(std::string_view name) const;
    /// The value given, or the driver's default.
    [[nodiscard]] std::string option(std::string_view name) const;
    /// "cluster_size=65536 size=1048576": for "Formatting …".
    [[nodiscard]] std::string summary() const;
    /// What that says of an option; nothing: no word.
    [[nodiscard]] std::string told_value(std::string_view name) const;
    [[nodiscard]] block::CreateRequest request() const;
    Result<> create(Session& session) const;

  private:
    Result<> set(const std::string& name, const std::string& value);
};

/// amend's -o lists, checked against what the driver can change.
Result<block::OptionList> amend_options(const block::FormatDriver& driver,
                                        const std::vector<std::string>& lists);
/// amend's -o help.
Result<int> print_amend_help(const std::string& format);

/// -o help.
Result<int> print_option_help(const std::string& format, bool with_file);

}  // namespace strata::qemu_img
