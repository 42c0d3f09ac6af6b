// JSON as the peer prints it: indented by four, members in the order of its hash table, which
// scripts' expected output has fixed.
#pragma once

#include <string>
#include <vector>

#include "api/json.h"
#include "block/image_info.h"

namespace strata::qemu_img {

/// With a final newline.
std::string json_text(const api::Json& value);
/// The members of an object in the peer's order.
std::vector<std::string> member_order(const api::Json& object);

/// A format's own fields as an object.
api::Json fields_json(const std::vector<block::InfoField>& fields);
/// `value` as lines for people, each indented by `depth` times four; dashes in names become blanks.
std::string fields_text(const api::Json& object, unsigned depth);

}  // namespace strata::qemu_img
