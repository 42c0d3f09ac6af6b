// Arguments: the words of a command line, checked against a command's table.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cli/command.h"

namespace strata::cli {

/// The command that `words` begin with (the longest name that matches); nullptr if none. `used`:
/// how many words its name took.
const Command* find_command(std::span<const std::string_view> words, std::size_t& used);

/// What to say about words that begin no command.
Error unknown_command(std::span<const std::string_view> words);

class Arguments {
  public:
    /// Reads "--option value", "--option=value", "-o value", flags, positionals; "--" ends the
    /// options.
    static Result<Arguments> parse(const Command& command, std::span<const std::string_view> words);

    [[nodiscard]] bool flag(std::string_view option) const { return values_.contains(option); }
    /// The last value given.
    [[nodiscard]] std::optional<std::string_view> value(std::string_view option) const;
    [[nodiscard]] std::span<const std::string_view> values(std::string_view option) const;
    [[nodiscard]] std::optional<std::string_view> positional(std::size_t place) const;

  private:
    Result<> take_option(const Command& command, std::span<const std::string_view> words,
                         std::size_t& place);
    std::map<std::string_view, std::vector<std::string_view>, std::less<>> values_;
    std::vector<std::string_view> positionals_;
};

}  // namespace strata::cli
