// Arguments: a command's options as getopt_long(3) finds them, with the peer's error texts.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace strata::qemu_img {

/// One option: a letter, a long name, or both.
struct OptionSpec {
    char letter = 0;
    const char* name = nullptr;
    bool value = false;
};

class Arguments {
  public:
    /// `words`: the command's name and what follows. `--help` and `-h` are known everywhere.
    static Result<Arguments> parse(std::span<char*> words, std::span<const OptionSpec> options);

    [[nodiscard]] bool help() const { return has("help"); }
    /// Options are asked for by their long name, or by their letter as a string if they have none.
    [[nodiscard]] bool has(std::string_view key) const;
    /// The last value given.
    [[nodiscard]] std::optional<std::string> last(std::string_view key) const;
    [[nodiscard]] std::string last_or(std::string_view key, std::string_view fallback) const;
    [[nodiscard]] std::vector<std::string> all(std::string_view key) const;
    /// Every option with its value, in order of appearance.
    [[nodiscard]] const std::vector<std::pair<std::string, std::string>>& given() const {
        return given_;
    }
    [[nodiscard]] const std::vector<std::string>& positionals() const { return positionals_; }
    /// The only positional, or the usage error `otherwise`.
    [[nodiscard]] Result<std::string> only(
        std::string_view otherwise = "Expecting one image file name") const;

  private:
    std::vector<std::pair<std::string, std::string>> given_;
    std::vector<std::string> positionals_;
};

/// Bytes from "64", "1.5G", "0x200", "64k". `low` to `high`; the error names `what`.
Result<std::uint64_t> parse_bytes(std::string_view what, const std::string& text,
                                  std::uint64_t low = 0, std::uint64_t high = INT64_MAX);
/// The same without a message: nothing if it is no size.
std::optional<std::uint64_t> bytes_of(const std::string& text, bool* too_large = nullptr);

using Pairs = std::vector<std::pair<std::string, std::string>>;

/// "a=b,c=d": pairs in order. A comma inside a value is doubled. A first part without '=' is the
/// value of `implied`, if that is not empty; any other is a flag: "on", or "off" if its name begins
/// with "no".
Result<Pairs> parse_pairs(std::string_view text, std::string_view implied = {});

/// Takes the first pair of that name out of `pairs`.
std::optional<std::string> take(Pairs& pairs, std::string_view name);

/// All -o lists in one; an error names the one that cannot be joined.
Result<std::vector<std::pair<std::string, std::string>>> option_list(
    const std::vector<std::string>& lists);
/// "help" or "?" stands among the lists' parts; an error as option_list()'s comes first.
Result<bool> asks_for_help(const std::vector<std::string>& lists);

}  // namespace strata::qemu_img
