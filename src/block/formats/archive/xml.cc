// Xml: looking things up.
#include "block/formats/archive/xml.h"

#include <cerrno>
#include <charconv>

#include <fmt/format.h>

#include "block/formats/common/wire.h"

namespace strata::block::archive {
namespace {

std::string_view local_name(std::string_view name) {
    return name.substr(name.rfind(':') + 1);
}

}  // namespace

Result<std::unique_ptr<pugi::xml_document>> parse_xml(std::string_view text,
                                                      std::string_view format,
                                                      std::string_view name) {
    auto document = std::make_unique<pugi::xml_document>();
    const pugi::xml_parse_result parsed =
        document->load_buffer(text.data(), text.size(), pugi::parse_minimal | pugi::parse_escapes);
    if (!parsed) {
        return broken_image(
            format, name,
            fmt::format("its XML cannot be read at {}: {}", parsed.offset, parsed.description()));
    }
    return document;
}

std::vector<pugi::xml_node> children(pugi::xml_node parent, std::string_view name) {
    std::vector<pugi::xml_node> all;
    for (const pugi::xml_node each : parent.children()) {
        if (local_name(each.name()) == name) {
            all.push_back(each);
        }
    }
    return all;
}

pugi::xml_node child(pugi::xml_node parent, std::string_view name) {
    for (const pugi::xml_node each : parent.children()) {
        if (local_name(each.name()) == name) {
            return each;
        }
    }
    return {};
}

std::string_view attribute(pugi::xml_node of, std::string_view name) {
    for (const pugi::xml_attribute each : of.attributes()) {
        if (local_name(each.name()) == name) {
            return each.value();
        }
    }
    return {};
}

Result<std::uint64_t> number(std::string_view text) {
    std::uint64_t value = 0;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (code != std::errc() || end != text.data() + text.size() || text.empty()) {
        return Error{ErrorKind::Failed, fmt::format("'{:.32}' is no number", text), EINVAL};
    }
    return value;
}

std::string escape_xml(std::string_view text) {
    std::string out;
    for (const char each : text) {
        switch (each) {
            case '&':
                out += "&amp;";
                break;
            case '<':
                out += "&lt;";
                break;
            case '>':
                out += "&gt;";
                break;
            case '"':
                out += "&quot;";
                break;
            default:
                out += static_cast<unsigned char>(each) < ' ' ? ' ' : each;
        }
    }
    return out;
}

}  // namespace strata::block::archive
