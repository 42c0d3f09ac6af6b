// DSDT: the machine's devices that no bus enumerates, in AML.
#pragma once

#include "machine/acpi/acpi_config.h"
#include "machine/acpi/aml.h"

namespace strata::machine::acpi {

/// The definition block's body, without the table header.
[[nodiscard]] aml::Aml dsdt_body(const AcpiConfig& config);

}  // namespace strata::machine::acpi
