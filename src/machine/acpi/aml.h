// AML: a small builder of ACPI machine language: the terms that Strata's DSDT is made of.
//
// Every function answers the encoding of one term (ACPI 6.4, chapter 20); terms are nested by
// passing lists of them. Names are given as in ASL and must be well-formed: they are our own
// constants, so a wrong one is a failed check.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string_view>
#include <vector>

namespace strata::machine::acpi::aml {

using Aml = std::vector<std::byte>;
using Terms = std::vector<Aml>;

/// Constants: the shortest encoding of an integer; a string; a compressed EISA id such as
/// "PNP0A08"; a UUID as a buffer.
[[nodiscard]] Aml integer(std::uint64_t value);
[[nodiscard]] Aml string(std::string_view text);
[[nodiscard]] Aml eisa_id(std::string_view id);
[[nodiscard]] Aml uuid(std::string_view text);
[[nodiscard]] Aml buffer(std::span<const std::byte> bytes);
/// At most 255 elements.
[[nodiscard]] Aml package(const Terms& elements);

/// A path of up to 255 segments of up to 4 characters: "\\_SB_.PCI0", "_CRS".
[[nodiscard]] Aml path(std::string_view name);
[[nodiscard]] Aml name(std::string_view object, const Aml& value);
[[nodiscard]] Aml scope(std::string_view name, const Terms& body);
[[nodiscard]] Aml device(std::string_view name, const Terms& body);
[[nodiscard]] Aml method(std::string_view name, unsigned arguments, bool serialized,
                         const Terms& body);

/// Statements and expressions.
[[nodiscard]] Aml arg(unsigned number);
[[nodiscard]] Aml give_back(const Aml& value);
[[nodiscard]] Aml if_then(const Aml& condition, const Terms& body);
[[nodiscard]] Aml otherwise(const Terms& body);
[[nodiscard]] Aml equal(const Aml& a, const Aml& b);
[[nodiscard]] Aml logical_not(const Aml& a);
[[nodiscard]] Aml bit_and(const Aml& a, const Aml& b, const Aml& target);
[[nodiscard]] Aml bit_or(const Aml& a, const Aml& b, const Aml& target);
[[nodiscard]] Aml store(const Aml& value, const Aml& target);
[[nodiscard]] Aml create_dword_field(const Aml& source, std::uint64_t offset,
                                     std::string_view field);

/// Resource descriptors (ACPI 6.4, 6.4) and the template that holds them.
[[nodiscard]] Aml resource_template(const Terms& descriptors);
[[nodiscard]] Aml io_ports(std::uint16_t first, std::uint8_t count);
/// An ISA interrupt: edge, active high, not shared.
[[nodiscard]] Aml isa_irq(unsigned irq);
[[nodiscard]] Aml fixed_memory(std::uint32_t start, std::uint32_t size, bool writable);
[[nodiscard]] Aml bus_numbers(std::uint16_t first, std::uint16_t last);
[[nodiscard]] Aml io_window(std::uint16_t first, std::uint16_t last);
[[nodiscard]] Aml memory_window32(std::uint32_t first, std::uint32_t last);
[[nodiscard]] Aml memory_window64(std::uint64_t first, std::uint64_t last);

}  // namespace strata::machine::acpi::aml
