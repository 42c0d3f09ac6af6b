// NewImage: checks options against the driver's table.
#include "qemu_img/create_options.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>

#include <fmt/format.h>

#include "block/amend.h"
#include "qemu_img/arguments.h"
#include "qemu_img/report.h"
#include "qemu_img/session.h"

namespace strata::qemu_img {
namespace {

using block::CreateOption;

/// What the peer tells file systems to place files better. No file is different for it.
constexpr std::array kFileOptions = {
    CreateOption{"extent_size_hint", CreateOption::Kind::Size,
                 "Extent size hint for the image file, 0 to disable"},
    CreateOption{"nocow", CreateOption::Kind::Flag,
                 "Turn off copy-on-write (valid only on btrfs)"}};

/// qcow2's options in the order in which the peer tells them; others come behind.
constexpr std::array<std::string_view, 20> kOrder = {"encryption",
                                                     "encrypt.format",
                                                     "encrypt.key-secret",
                                                     "encrypt.cipher-alg",
                                                     "encrypt.cipher-mode",
                                                     "encrypt.ivgen-alg",
                                                     "encrypt.ivgen-hash-alg",
                                                     "encrypt.hash-alg",
                                                     "encrypt.iter-time",
                                                     "cluster_size",
                                                     "extended_l2",
                                                     "preallocation",
                                                     "compression_type",
                                                     "size",
                                                     "compat",
                                                     "backing_file",
                                                     "backing_fmt",
                                                     "data_file",
                                                     "data_file_raw",
                                                     "lazy_refcounts"};
/// Those whose defaults it does not tell.
constexpr std::array<std::string_view, 7> kToldIfGiven = {
    "preallocation", "compat",      "encryption", "data_file_raw",
    "backing_file",  "backing_fmt", "data_file"};

/// What it tells of options of other formats that were not given; nothing: no word.
struct Told {
    std::string_view format, option, text;
};
constexpr std::array kTold = {
    Told{"vmdk", "adapter_type", ""},     Told{"vmdk", "hwversion", "undefined"},
    Told{"vmdk", "toolsversion", ""},     Told{"vmdk", "subformat", ""},
    Told{"vmdk", "zeroed_grain", ""},     Told{"vhdx", "subformat", ""},
    Told{"vhdx", "block_state_zero", ""}, Told{"vdi", "preallocation", ""},
    Told{"luks", "version", ""},          Told{"luks", "kdf", ""},
    Told{"luks", "preallocation", ""}};

std::size_t rank(std::string_view name) {
    return static_cast<std::size_t>(std::ranges::find(kOrder, name) - kOrder.begin());
}

/// As an option list has them.
std::string doubled_commas(std::string_view text) {
    std::string result;
    for (const char c : text) {
        result.append(c == ',' ? 2 : 1, c);
    }
    return result;
}

const CreateOption* find_option(std::span<const CreateOption> known, std::string_view name) {
    const auto place =
        std::ranges::find_if(known, [&](const CreateOption& one) { return one.name == name; });
    return place == known.end() ? nullptr : &*place;
}

const CreateOption* find_option(const block::FormatDriver& driver, std::string_view name) {
    return find_option(driver.create_options, name);
}

std::string_view kind_name(CreateOption::Kind kind) {
    switch (kind) {
        case CreateOption::Kind::Text:
            return "str";
        case CreateOption::Kind::Flag:
            return "bool (on/off)";
        case CreateOption::Kind::Size:
            return "size";
        case CreateOption::Kind::Number:
            return "num";
    }
    return "str";
}

void print_options(std::vector<CreateOption> known) {
    std::ranges::sort(known, {}, &CreateOption::name);
    for (const CreateOption& option : known) {
        print(fmt::format("  {:<22} - {}\n",
                          fmt::format("{}=<{}>", option.name, kind_name(option.kind)),
                          option.help));
    }
}

Result<std::string> checked(const CreateOption& option, const std::string& name,
                            const std::string& value) {
    if (option.kind == CreateOption::Kind::Flag && value != "on" && value != "off" &&
        value != "yes" && value != "no" && value != "true" && value != "false" && value != "y" &&
        value != "n") {
        return failure(fmt::format("Parameter '{}' expects 'on' or 'off'", name));
    }
    if (option.kind == CreateOption::Kind::Flag) {
        return std::string(value[0] == 'y' || value[0] == 't' || value == "on" ? "on" : "off");
    }
    if (option.kind == CreateOption::Kind::Size) {
        bool too_large = false;
        const auto bytes = bytes_of(value, &too_large);
        if (!bytes) {
            return failure(
                too_large
                    ? fmt::format("Value '{}' is out of range for parameter '{}'", value, name)
                    : fmt::format("Parameter '{}' expects a non-negative number below 2^64\n"
                                  "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, "
                                  "tera-, peta-\n"
                                  "and exabytes, respectively.",
                                  name));
        }
        return std::to_string(*bytes);
    }
    if (option.kind == CreateOption::Kind::Number) {
        // As strtoull(3) has it: "-1" is the largest.
        const bool negative = value.starts_with('-');
        const std::string digits = value.substr(negative ? 1 : 0);
        if (digits.empty() || digits.size() > 19 ||
            digits.find_first_not_of("0123456789") != std::string::npos) {
            return failure(fmt::format("Parameter '{}' expects a number", name));
        }
        return negative ? std::to_string(0 - std::stoull(digits)) : value;
    }
    return value;
}

}  // namespace

Result<> NewImage::use_format(const std::string& name) {
    auto found = block::find_format(name);
    if (!found.ok()) {
        return failure(fmt::format("Unknown file format '{}'", name));
    }
    if ((*found)->create == nullptr) {
        return failure(fmt::format("Format driver '{}' does not support image creation", name));
    }
    driver = *found;
    return ok();
}

Result<> NewImage::set(const std::string& name, const std::string& value) {
    if (name == "size") {
        bool too_large = false;
        size = bytes_of(value, &too_large);
        if (!size) {
            return failure(
                too_large
                    ? fmt::format("Value '{}' is out of range for parameter 'size'", value)
                    : std::string("Parameter 'size' expects a non-negative number below 2^64\n"
                                  "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, "
                                  "tera-, peta-\n"
                                  "and exabytes, respectively."));
        }
        return ok();
    }
    if (find_option(kFileOptions, name) != nullptr) {
        return ok();
    }
    const CreateOption* option = find_option(*driver, name);
    if (option == nullptr) {
        return failure(fmt::format("Invalid parameter '{}'", name));
    }
    std::string good = STRATA_TRY(checked(*option, name, value));
    std::erase_if(options, [&](const auto& one) { return one.first == name; });
    options.emplace_back(name, std::move(good));
    return ok();
}

Result<> NewImage::take_options(const std::vector<std::string>& lists) {
    for (const auto& [name, value] : STRATA_TRY(option_list(lists))) {
        STRATA_TRY_VOID(set(name, value));
    }
    return ok();
}

Result<> NewImage::take_backing(const std::optional<std::string>& file,
                                const std::optional<std::string>& format) {
    if (file) {
        if (find_option(*driver, "backing_file") == nullptr) {
            return failure(
                fmt::format("Backing file not supported for file format '{}'", driver->name));
        }
        STRATA_TRY_VOID(set("backing_file", *file));
    }
    if (format) {
        if (find_option(*driver, "backing_fmt") == nullptr) {
            return failure(fmt::format("Backing file format not supported for file format '{}'",
                                       driver->name));
        }
        STRATA_TRY_VOID(set("backing_fmt", *format));
    }
    return ok();
}

bool NewImage::has(std::string_view name) const {
    return std::ranges::any_of(options, [&](const auto& one) { return one.first == name; });
}

std::string NewImage::option(std::string_view name) const {
    for (const auto& [key, value] : options) {
        if (key == name) {
            return value;
        }
    }
    const CreateOption* known = driver == nullptr ? nullptr : find_option(*driver, name);
    return known == nullptr ? std::string() : std::string(known->fallback);
}

std::string NewImage::told_value(std::string_view name) const {
    const auto told = std::ranges::find_if(kTold, [&](const Told& each) {
        return each.format == driver->name && each.option == name;
    });
    return has(name) || told == kTold.end() ? option(name) : std::string(told->text);
}

std::string NewImage::summary() const {
    const auto place = [&](std::string_view name) {
        return driver->name == "qcow2" ? rank(name) : name == "size" ? 0 : kOrder.size();
    };
    std::vector<std::pair<std::size_t, std::string>> told = {
        {place("size"), fmt::format("size={}", size.value_or(0))}};
    for (const CreateOption& known : driver->create_options) {
        const bool quiet = driver->name == "vpc" ||
                           std::ranges::find(kToldIfGiven, known.name) != kToldIfGiven.end();
        const std::string value = told_value(known.name);
        if (known.name != "size" && (has(known.name) || (!quiet && !value.empty()))) {
            told.emplace_back(place(known.name),
                              fmt::format("{}={}", known.name, doubled_commas(value)));
        }
    }
    std::ranges::stable_sort(told, {}, &std::pair<std::size_t, std::string>::first);
    std::string text;
    for (const auto& [order, one] : told) {
        text += (text.empty() ? "" : " ") + one;
    }
    return text;
}

block::CreateRequest NewImage::request() const {
    block::CreateRequest request{path, size.value_or(0), options, peer_references()};
    // Sizes go by the geometry here unless told otherwise; Strata's own default is the exact size.
    if (driver->name == "vpc" && !has("force_size") && !has("backing_file")) {
        request.options.emplace_back("force_size", "off");
    }
    return request;
}

Result<> NewImage::create(Session& session) const {
    block::CreateRequest asked = request();
    const Result<> secrets = session.resolve_secrets(asked.options);
    if (!secrets.ok()) {
        // The peer has made the file anew by now, and removes it. One that has content stays here.
        std::error_code code;
        if (std::filesystem::is_regular_file(path, code) && std::filesystem::is_empty(path, code)) {
            std::filesystem::remove(path, code);
        }
        return secrets;
    }
    Result<> done = session.run(
        block::create_image(session.loop(), std::string(driver->name), std::move(asked)));
    if (!done.ok() && done.error().system_errno() == EFBIG) {
        return failure(fmt::format(
            "The image size is too large for file format '{}'{}", driver->name,
            option("cluster_size").empty() ? "" : " (try using a larger cluster size)"));
    }
    return done;
}

Result<int> print_option_help(const std::string& format, bool with_file) {
    NewImage image;
    STRATA_TRY_VOID(image.use_format(format));
    print(with_file ? std::string("Supported options:\n")
                    : fmt::format("Supported {} options:\n", format));
    std::vector<CreateOption> known(image.driver->create_options.begin(),
                                    image.driver->create_options.end());
    if (with_file) {
        known.insert(known.end(), kFileOptions.begin(), kFileOptions.end());
    } else if (format == "raw") {
        std::erase_if(known, [](const CreateOption& one) { return one.name == "preallocation"; });
    }
    if (find_option(*image.driver, "size") == nullptr) {
        known.push_back({"size", CreateOption::Kind::Size, "Virtual disk size"});
    }
    print_options(std::move(known));
    if (!with_file) {
        print(
            "\nThe protocol level may support further options.\nSpecify the target filename to "
            "include those options.\n");
    }
    return 0;
}

Result<int> print_amend_help(const std::string& format) {
    const auto driver = block::find_format(format);
    if (!driver.ok()) {
        return failure(fmt::format("Unknown file format '{}'", format));
    }
    const auto known = block::amend_options(format);
    if (known.empty()) {
        return failure(fmt::format("Format driver '{}' does not support option amendment", format));
    }
    print(fmt::format("Amend options for '{}':\n", format));
    print_options({known.begin(), known.end()});
    return 0;
}

Result<block::OptionList> amend_options(const block::FormatDriver& driver,
                                        const std::vector<std::string>& lists) {
    block::OptionList options;
    for (const auto& [name, value] : STRATA_TRY(option_list(lists))) {
        const CreateOption* option = find_option(block::amend_options(driver.name), name);
        if (option == nullptr) {
            const bool for_creation = find_option(driver, name) != nullptr;
            return failure(fmt::format(
                "Invalid parameter '{}'{}", name,
                for_creation ? "\nThis option is only supported for image creation" : ""));
        }
        options.emplace_back(name, STRATA_TRY(checked(*option, name, value)));
    }
    return options;
}

}  // namespace strata::qemu_img
