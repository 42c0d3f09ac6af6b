// Xml: what image formats read of XML: a bounded text, elements by their names without prefixes.
//
// The parser (pugixml) reads without recursion, expands no entities but the five of XML, and opens
// nothing. Elements are looked for at known depths only.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <pugixml.hpp>

#include "base/result.h"

namespace strata::block::archive {

inline constexpr std::uint64_t kMaxXml = 8U << 20;

/// NotSupported and the like: an Error that names `name`.
Result<std::unique_ptr<pugi::xml_document>> parse_xml(std::string_view text,
                                                      std::string_view format,
                                                      std::string_view name);
/// The children of `parent` that are called `name`, whatever their prefix.
std::vector<pugi::xml_node> children(pugi::xml_node parent, std::string_view name);
/// The first of them; an empty node if there is none.
pugi::xml_node child(pugi::xml_node parent, std::string_view name);
/// The attribute of that name, whatever its prefix; empty if there is none.
std::string_view attribute(pugi::xml_node of, std::string_view name);
/// A number in an attribute or a text; nothing but digits.
Result<std::uint64_t> number(std::string_view text);

/// Text for an attribute's value or an element's content.
std::string escape_xml(std::string_view text);

}  // namespace strata::block::archive
