// ACPI tables: RSDP, XSDT, FADT, FACS, MADT, HPET, MCFG and DSDT as one block of bytes for the
// guest's memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/result.h"
#include "machine/acpi/acpi_config.h"

namespace strata::machine::acpi {

struct AcpiTables {
    std::uint64_t address = 0;  ///< where the block belongs
    std::uint64_t rsdp = 0;     ///< where the root pointer lies
    std::vector<std::byte> bytes;
};

/// Builds all tables for a block at `address` (16-byte aligned) of at most `limit` bytes. Failed if
/// they do not fit.
Result<AcpiTables> build_tables(const AcpiConfig& config, std::uint64_t address,
                                std::uint64_t limit);

}  // namespace strata::machine::acpi
