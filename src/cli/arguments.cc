// Arguments: parsing with hints for what was probably meant.
#include "cli/arguments.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/text.h"

namespace strata::cli {
namespace {

Error usage(const Command& command, std::string_view text) {
    return {ErrorKind::InvalidArgument,
            fmt::format("{}: see 'strata {} --help'", text, command.name)};
}

// Calls `visit` on the command's own options and the common ones; stops at true.
template <typename Visit>
const Option* find_option(const Command& command, Visit visit) {
    for (const std::span<const Option> table : {command.options, common_options()}) {
        const auto place = std::find_if(table.begin(), table.end(), visit);
        if (place != table.end()) {
            return &*place;
        }
    }
    return nullptr;
}

Error unknown_option(const Command& command, std::string_view word) {
    std::vector<std::string_view> known;
    (void)find_option(command, [&](const Option& option) {  // collects; never finds
        known.push_back(option.name);
        return false;
    });
    const std::string_view near = nearest(word, known);
    return usage(command, near.empty()
                              ? fmt::format("unknown option '{}'", word)
                              : fmt::format("unknown option '{}', did you mean {}?", word, near));
}

}  // namespace

const Command* find_command(std::span<const std::string_view> words, std::size_t& used) {
    const Command* best = nullptr;
    used = 0;
    for (const Command* command : commands()) {
        const std::vector<std::string_view> parts = split(command->name, ' ');
        if (parts.size() > used && words.size() >= parts.size() &&
            std::equal(parts.begin(), parts.end(), words.begin())) {
            best = command;
            used = parts.size();
        }
    }
    return best;
}

Error unknown_command(std::span<const std::string_view> words) {
    std::vector<std::string_view> known;
    std::string below;
    for (const Command* command : commands()) {
        const std::vector<std::string_view> parts = split(command->name, ' ');
        if (parts.size() > 1 && parts[0] == words[0]) {
            below += fmt::format("{}{}", below.empty() ? "" : ", ", parts[1]);
        }
        known.push_back(command->name);
        known.push_back(parts[0]);
    }
    if (!below.empty()) {
        return {ErrorKind::InvalidArgument,
                fmt::format("'{}' needs one of: {}: see 'strata {} --help'", words[0], below,
                            words[0])};
    }
    const std::string_view near = nearest(words[0], known);
    return {ErrorKind::InvalidArgument,
            near.empty() ? fmt::format("no command '{}': see 'strata --help'", words[0])
                         : fmt::format("no command '{}', did you mean '{}'? See 'strata --help'",
                                       words[0], near)};
}

Result<> Arguments::take_option(const Command& command, std::span<const std::string_view> words,
                                std::size_t& place) {
    const std::string_view word = words[place];
    const auto equals = word.starts_with("--") ? word.find('=') : std::string_view::npos;
    const std::string_view name = word.substr(0, equals);
    const Option* option = find_option(command, [&](const Option& candidate) {
        return candidate.name == name ||
               (name.size() == 2 && candidate.letter != 0 && candidate.letter == name[1]);
    });
    if (option == nullptr) {
        return unknown_option(command, name);
    }
    std::string_view value;
    if (option->value.empty()) {
        if (equals != std::string_view::npos) {
            return usage(command, fmt::format("option {} takes no value", option->name));
        }
    } else if (equals != std::string_view::npos) {
        value = word.substr(equals + 1);
    } else if (place + 1 < words.size()) {
        value = words[++place];
    } else {
        return usage(command,
                     fmt::format("option {} needs a value: {}", option->name, option->value));
    }
    std::vector<std::string_view>& values = values_[option->name];
    if (!values.empty() && !option->repeatable && !option->value.empty()) {
        return usage(command, fmt::format("option {} is given twice", option->name));
    }
    values.push_back(value);
    return ok();
}

Result<Arguments> Arguments::parse(const Command& command,
                                   std::span<const std::string_view> words) {
    Arguments arguments;
    bool options_ended = false;
    for (std::size_t place = 0; place < words.size(); ++place) {
        const std::string_view word = words[place];
        if (!options_ended && word == "--") {
            options_ended = true;
        } else if (!options_ended && word.size() > 1 && word.front() == '-') {
            STRATA_TRY_VOID(arguments.take_option(command, words, place));
        } else if (arguments.positionals_.size() < command.positionals.size() ||
                   (!command.positionals.empty() && command.positionals.back().repeatable)) {
            arguments.positionals_.push_back(word);
        } else {
            return usage(command, fmt::format("unexpected '{}'", word));
        }
    }
    for (std::size_t i = arguments.positionals_.size(); i < command.positionals.size(); ++i) {
        if (command.positionals[i].required && !arguments.flag("--help")) {
            return usage(command, fmt::format("{} is missing", command.positionals[i].name));
        }
    }
    return arguments;
}

std::optional<std::string_view> Arguments::value(std::string_view option) const {
    const auto place = values_.find(option);
    return place == values_.end() ? std::nullopt : std::optional(place->second.back());
}

std::span<const std::string_view> Arguments::values(std::string_view option) const {
    const auto place = values_.find(option);
    return place == values_.end() ? std::span<const std::string_view>() : std::span(place->second);
}

std::optional<std::string_view> Arguments::positional(std::size_t place) const {
    return place < positionals_.size() ? std::optional(positionals_[place]) : std::nullopt;
}

}  // namespace strata::cli
