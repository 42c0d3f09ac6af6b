// AML: encodings. ACPI 6.4: 20.2 (terms), 6.4.2 and 6.4.3 (resource descriptors).
#include "machine/acpi/aml.h"

#include <array>
#include <string>

#include "base/check.h"
#include "base/endian.h"

namespace strata::machine::acpi::aml {
namespace {

enum Op : std::uint8_t {
    kZero = 0x00,
    kOne = 0x01,
    kName = 0x08,
    kByte = 0x0a,
    kWord = 0x0b,
    kDword = 0x0c,
    kString = 0x0d,
    kQword = 0x0e,
    kScope = 0x10,
    kBuffer = 0x11,
    kPackage = 0x12,
    kMethod = 0x14,
    kDualName = 0x2e,
    kMultiName = 0x2f,
    kExtended = 0x5b,
    kArg0 = 0x68,
    kStore = 0x70,
    kAnd = 0x7b,
    kOr = 0x7d,
    kCreateDwordField = 0x8a,
    kNot = 0x92,
    kEqual = 0x93,
    kIf = 0xa0,
    kElse = 0xa1,
    kReturn = 0xa4,
};
constexpr std::uint8_t kExtendedDevice = 0x82;

void put8(Aml& out, std::uint64_t value) {
    out.push_back(static_cast<std::byte>(value));
}
void put(Aml& out, std::uint64_t value, unsigned bytes) {
    for (unsigned i = 0; i < bytes; ++i) {
        put8(out, value >> (8 * i));
    }
}
void append(Aml& out, const Aml& more) {
    out.insert(out.end(), more.begin(), more.end());
}
void append(Aml& out, const Terms& terms) {
    for (const Aml& term : terms) {
        append(out, term);
    }
}

Aml with_op(std::uint8_t op, const Terms& operands) {
    Aml out;
    put8(out, op);
    append(out, operands);
    return out;
}

/// PkgLength of `body` (20.2.4): it counts itself.
Aml package_length(std::size_t body) {
    Aml out;
    if (body + 1 < 0x40) {
        put8(out, body + 1);
        return out;
    }
    unsigned extra = 1;
    while (body + 1 + extra >= (1ULL << (4 + 8 * extra))) {
        ++extra;
    }
    STRATA_CHECK(extra <= 3, "an AML package of 256 MiB");
    const std::size_t length = body + 1 + extra;
    put8(out, extra << 6 | (length & 0xf));
    put(out, length >> 4, extra);
    return out;
}

Aml enclosed(std::initializer_list<std::uint8_t> op, const Aml& body) {
    Aml out;
    for (const std::uint8_t byte : op) {
        put8(out, byte);
    }
    append(out, package_length(body.size()));
    append(out, body);
    return out;
}

void put_segment(Aml& out, std::string_view segment) {
    STRATA_CHECK(!segment.empty() && segment.size() <= 4,
                 "an AML name segment has 1 to 4 characters");
    for (std::size_t i = 0; i < 4; ++i) {
        put8(out, static_cast<std::uint8_t>(i < segment.size() ? segment[i] : '_'));
    }
}

std::vector<std::string_view> segments_of(std::string_view name) {
    std::vector<std::string_view> result;
    while (true) {
        const std::size_t dot = name.find('.');
        result.push_back(name.substr(0, dot));
        if (dot == std::string_view::npos) {
            return result;
        }
        name.remove_prefix(dot + 1);
    }
}

std::uint64_t hex_digit(char c) {
    STRATA_CHECK((c >= '0' && c <= '9') || (c >= 'A' && c <= 'F') || (c >= 'a' && c <= 'f'),
                 "not a hexadecimal digit");
    if (c <= '9') {
        return static_cast<std::uint64_t>(c - '0');
    }
    return static_cast<std::uint64_t>((c | 0x20) - 'a') + 10;
}

/// A word, dword or qword address space descriptor (6.4.3.5): a producer's window, positively
/// decoded.
Aml window(unsigned width, std::uint8_t type, std::uint8_t type_flags, std::uint64_t first,
           std::uint64_t last) {
    constexpr std::uint8_t kFixedMinMaxProducer = 0x0c;
    const std::uint8_t tag = width == 2 ? 0x88 : width == 4 ? 0x87 : 0x8a;
    Aml out;
    put8(out, tag);
    put(out, 3 + 5 * width, 2);
    put8(out, type);
    put8(out, kFixedMinMaxProducer);
    put8(out, type_flags);
    for (const std::uint64_t value :
         {std::uint64_t{0}, first, last, std::uint64_t{0}, last - first + 1}) {
        put(out, value, width);
    }
    return out;
}

}  // namespace

Aml integer(std::uint64_t value) {
    Aml out;
    if (value <= 1) {
        put8(out, value == 0 ? kZero : kOne);
        return out;
    }
    const unsigned width = value <= 0xff ? 1 : value <= 0xffff ? 2 : value <= 0xffffffff ? 4 : 8;
    put8(out, width == 1 ? kByte : width == 2 ? kWord : width == 4 ? kDword : kQword);
    put(out, value, width);
    return out;
}

Aml string(std::string_view text) {
    Aml out;
    put8(out, kString);
    for (const char c : text) {
        put8(out, static_cast<std::uint8_t>(c));
    }
    put8(out, 0);
    return out;
}

Aml eisa_id(std::string_view id) {
    STRATA_CHECK(id.size() == 7, "an EISA id has 3 letters and 4 digits");
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < 3; ++i) {
        value = value << 5 | static_cast<std::uint64_t>(id[i] - 0x40);
    }
    for (std::size_t i = 3; i < 7; ++i) {
        value = value << 4 | hex_digit(id[i]);
    }
    Aml out;
    put8(out, kDword);
    put(out, __builtin_bswap32(static_cast<std::uint32_t>(value)), 4);
    return out;
}

Aml uuid(std::string_view text) {
    // ToUUID's byte order (19.6.142): the first three groups are little-endian.
    constexpr std::array<std::size_t, 16> kPlaces = {6,  4,  2,  0,  11, 9,  16, 14,
                                                     19, 21, 24, 26, 28, 30, 32, 34};
    STRATA_CHECK(text.size() == 36, "a UUID has 36 characters");
    Aml bytes;
    for (const std::size_t place : kPlaces) {
        put8(bytes, hex_digit(text[place]) << 4 | hex_digit(text[place + 1]));
    }
    return buffer(bytes);
}

Aml buffer(std::span<const std::byte> bytes) {
    Aml body = integer(bytes.size());
    body.insert(body.end(), bytes.begin(), bytes.end());
    return enclosed({kBuffer}, body);
}

Aml package(const Terms& elements) {
    STRATA_CHECK(elements.size() <= 255, "an AML package has at most 255 elements");
    Aml body;
    put8(body, elements.size());
    append(body, elements);
    return enclosed({kPackage}, body);
}

Aml path(std::string_view name) {
    Aml out;
    if (!name.empty() && name.front() == '\\') {
        put8(out, '\\');
        name.remove_prefix(1);
    }
    const auto segments = segments_of(name);
    STRATA_CHECK(segments.size() <= 255, "an AML path is too long");
    if (segments.size() == 2) {
        put8(out, kDualName);
    } else if (segments.size() > 2) {
        put8(out, kMultiName);
        put8(out, segments.size());
    }
    for (const std::string_view segment : segments) {
        put_segment(out, segment);
    }
    return out;
}

Aml name(std::string_view object, const Aml& value) {
    return with_op(kName, {path(object), value});
}

Aml scope(std::string_view name, const Terms& body) {
    Aml inner = path(name);
    append(inner, body);
    return enclosed({kScope}, inner);
}

Aml device(std::string_view name, const Terms& body) {
    Aml inner = path(name);
    append(inner, body);
    return enclosed({kExtended, kExtendedDevice}, inner);
}

Aml method(std::string_view name, unsigned arguments, bool serialized, const Terms& body) {
    Aml inner = path(name);
    put8(inner, arguments | (serialized ? 8U : 0U));
    append(inner, body);
    return enclosed({kMethod}, inner);
}

Aml arg(unsigned number) {
    return {static_cast<std::byte>(kArg0 + number)};
}
Aml give_back(const Aml& value) {
    return with_op(kReturn, {value});
}

Aml if_then(const Aml& condition, const Terms& body) {
    Aml inner = condition;
    append(inner, body);
    return enclosed({kIf}, inner);
}

Aml otherwise(const Terms& body) {
    Aml inner;
    append(inner, body);
    return enclosed({kElse}, inner);
}

Aml equal(const Aml& a, const Aml& b) {
    return with_op(kEqual, {a, b});
}
Aml logical_not(const Aml& a) {
    return with_op(kNot, {a});
}
Aml bit_and(const Aml& a, const Aml& b, const Aml& target) {
    return with_op(kAnd, {a, b, target});
}
Aml bit_or(const Aml& a, const Aml& b, const Aml& target) {
    return with_op(kOr, {a, b, target});
}
Aml store(const Aml& value, const Aml& target) {
    return with_op(kStore, {value, target});
}
Aml create_dword_field(const Aml& source, std::uint64_t offset, std::string_view field) {
    return with_op(kCreateDwordField, {source, integer(offset), path(field)});
}

Aml resource_template(const Terms& descriptors) {
    Aml bytes;
    append(bytes, descriptors);
    put8(bytes, 0x79);  // end tag; a checksum of 0 means "not checked" (6.4.2.9)
    put8(bytes, 0);
    return buffer(bytes);
}

Aml io_ports(std::uint16_t first, std::uint8_t count) {
    constexpr std::uint8_t kDecode16 = 1;
    Aml out;
    put8(out, 0x47);
    put8(out, kDecode16);
    put(out, first, 2);
    put(out, first, 2);
    put8(out, 1);
    put8(out, count);
    return out;
}

Aml isa_irq(unsigned irq) {
    Aml out;
    put8(out, 0x22);
    put(out, 1ULL << irq, 2);
    return out;
}

Aml fixed_memory(std::uint32_t start, std::uint32_t size, bool writable) {
    Aml out;
    put8(out, 0x86);
    put(out, 9, 2);
    put8(out, writable ? 1 : 0);
    put(out, start, 4);
    put(out, size, 4);
    return out;
}

Aml bus_numbers(std::uint16_t first, std::uint16_t last) {
    return window(2, 2, 0, first, last);
}
Aml io_window(std::uint16_t first, std::uint16_t last) {
    constexpr std::uint8_t kEntireRange = 3;
    return window(2, 1, kEntireRange, first, last);
}
Aml memory_window32(std::uint32_t first, std::uint32_t last) {
    constexpr std::uint8_t kReadWriteUncached = 1;
    return window(4, 0, kReadWriteUncached, first, last);
}
Aml memory_window64(std::uint64_t first, std::uint64_t last) {
    constexpr std::uint8_t kReadWriteUncached = 1;
    return window(8, 0, kReadWriteUncached, first, last);
}

}  // namespace strata::machine::acpi::aml
