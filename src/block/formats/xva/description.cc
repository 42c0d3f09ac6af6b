// XvaDescription: records of XenServer's API, as XML-RPC values, with the fields that its version 7
// asks for; later versions have defaults for theirs.
#include "block/formats/xva/description.h"

#include <array>
#include <cerrno>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "block/formats/archive/xml.h"
#include "block/formats/common/wire.h"
#include "block/secrets.h"

namespace strata::block::xva {
namespace {

/// A field and its value, as XML.
using Field = std::pair<std::string_view, std::string>;

constexpr std::string_view kNull = "OpaqueRef:NULL", kMap = "<struct/>",
                           kList = "<array><data/></array>", kNo = "<boolean>0</boolean>",
                           kYes = "<boolean>1</boolean>", kNothing = "";

struct Constant {
    std::string_view name, value;
};

constexpr std::array kMachine{
    Constant{"power_state", "Halted"},
    Constant{"name_description", kNothing},
    Constant{"user_version", "1"},
    Constant{"is_a_template", kNo},
    Constant{"is_default_template", kNo},
    Constant{"suspend_VDI", kNull},
    Constant{"resident_on", kNull},
    Constant{"affinity", kNull},
    Constant{"memory_overhead", "0"},
    Constant{"memory_target", "0"},
    Constant{"VCPUs_params", kMap},
    Constant{"actions_after_shutdown", "destroy"},
    Constant{"actions_after_reboot", "restart"},
    Constant{"actions_after_crash", "restart"},
    Constant{"allowed_operations", kList},
    Constant{"current_operations", kMap},
    Constant{"consoles", kList},
    Constant{"VIFs", kList},
    Constant{"crash_dumps", kList},
    Constant{"VTPMs", kList},
    Constant{"PV_bootloader", kNothing},
    Constant{"PV_kernel", kNothing},
    Constant{"PV_ramdisk", kNothing},
    Constant{"PV_args", kNothing},
    Constant{"PV_bootloader_args", kNothing},
    Constant{"PV_legacy_args", kNothing},
    Constant{"HVM_boot_policy", "BIOS order"},
    Constant{"HVM_shadow_multiplier", "<double>1</double>"},
    Constant{"PCI_bus", kNothing},
    Constant{"other_config", kMap},
    Constant{"domid", "-1"},
    Constant{"domarch", kNothing},
    Constant{"last_boot_CPU_flags", kMap},
    Constant{"is_control_domain", kNo},
    Constant{"metrics", kNull},
    Constant{"guest_metrics", kNull},
    Constant{"last_booted_record", kNothing},
    Constant{"recommendations", kNothing},
    Constant{"xenstore_data", kMap},
    Constant{"ha_always_run", kNo},
    Constant{"ha_restart_priority", kNothing},
    Constant{"is_a_snapshot", kNo},
    Constant{"snapshot_of", kNull},
    Constant{"snapshots", kList},
    Constant{"snapshot_time", "<dateTime.iso8601>19700101T00:00:00Z</dateTime.iso8601>"},
    Constant{"transportable_snapshot_id", kNothing},
    Constant{"blobs", kMap},
    Constant{"tags", kList},
    Constant{"blocked_operations", kMap},
    Constant{"snapshot_info", kMap},
    Constant{"snapshot_metadata", kNothing},
    Constant{"parent", kNull},
    Constant{"children", kList},
    Constant{"bios_strings", kMap},
    Constant{"protection_policy", kNull},
    Constant{"is_snapshot_from_vmpp", kNo},
    Constant{"appliance", kNull},
    Constant{"start_delay", "0"},
    Constant{"shutdown_delay", "0"},
    Constant{"order", "0"},
    Constant{"VGPUs", kList},
    Constant{"attached_PCIs", kList},
    Constant{"suspend_SR", kNull},
    Constant{"version", "0"},
    Constant{"generation_id", kNothing},
    Constant{"hardware_platform_version", "0"},
    Constant{"has_vendor_device", kNo},
    Constant{"requires_reboot", kNo},
    Constant{"reference_label", kNothing},
};

constexpr std::array kPlatform{
    Constant{"timeoffset", "0"}, Constant{"acpi", "1"},   Constant{"apic", "true"},
    Constant{"nx", "true"},      Constant{"pae", "true"},
};

/// The device between the machine and its disk.
constexpr std::array kDevice{
    Constant{"VM", "Ref:0"},
    Constant{"VDI", kNewDisk},
    Constant{"device", "xvda"},
    Constant{"userdevice", "0"},
    Constant{"bootable", kYes},
    Constant{"mode", "RW"},
    Constant{"type", "Disk"},
    Constant{"unpluggable", kNo},
    Constant{"storage_lock", kNo},
    Constant{"empty", kNo},
    Constant{"other_config", kMap},
    Constant{"allowed_operations", kList},
    Constant{"current_operations", kMap},
    Constant{"currently_attached", kNo},
    Constant{"status_code", "0"},
    Constant{"status_detail", kNothing},
    Constant{"runtime_properties", kMap},
    Constant{"qos_algorithm_type", kNothing},
    Constant{"qos_algorithm_params", kMap},
    Constant{"qos_supported_algorithms", kList},
    Constant{"metrics", kNull},
};

constexpr std::array kDisk{
    Constant{"name_description", kNothing},
    Constant{"SR", "Ref:4"},
    Constant{"VBDs", "<array><data><value>Ref:2</value></data></array>"},
    Constant{"crash_dumps", kList},
    Constant{"physical_utilisation", "0"},
    Constant{"type", "user"},
    Constant{"sharable", kNo},
    Constant{"read_only", kNo},
    Constant{"other_config", kMap},
    Constant{"allowed_operations", kList},
    Constant{"current_operations", kMap},
    Constant{"storage_lock", kNo},
    Constant{"location", kNothing},
    Constant{"managed", kYes},
    Constant{"missing", kNo},
    Constant{"parent", kNull},
    Constant{"xenstore_data", kMap},
    Constant{"sm_config", kMap},
    Constant{"is_a_snapshot", kNo},
    Constant{"snapshot_of", kNull},
    Constant{"snapshots", kList},
    Constant{"snapshot_time", "<dateTime.iso8601>19700101T00:00:00Z</dateTime.iso8601>"},
    Constant{"tags", kList},
    Constant{"allow_caching", kNo},
    Constant{"on_boot", "persist"},
    Constant{"metadata_of_pool", kNull},
    Constant{"metadata_latest", kNo},
};

constexpr std::array kStorage{
    Constant{"name_label", "storage"},
    Constant{"name_description", kNothing},
    Constant{"VDIs", "<array><data><value>Ref:3</value></data></array>"},
    Constant{"PBDs", kList},
    Constant{"allowed_operations", kList},
    Constant{"current_operations", kMap},
    Constant{"virtual_allocation", "0"},
    Constant{"physical_utilisation", "0"},
    Constant{"physical_size", "0"},
    Constant{"type", "ext"},
    Constant{"content_type", "user"},
    Constant{"shared", kNo},
    Constant{"other_config", kMap},
    Constant{"tags", kList},
    Constant{"default_vdi_visibility", kYes},
    Constant{"sm_config", kMap},
    Constant{"blobs", kMap},
    Constant{"local_cache_enabled", kNo},
    Constant{"introduced_by", kNull},
};

constexpr std::array kVersion{
    Constant{"hostname", "strata"},       Constant{"date", "1970-01-01"},
    Constant{"product_version", "7.1.0"}, Constant{"product_brand", "XenServer"},
    Constant{"build_number", "0"},        Constant{"xapi_major", "1"},
    Constant{"xapi_minor", "9"},          Constant{"export_vsn", "2"},
};

std::string structure(std::span<const Constant> constants, const std::vector<Field>& fields = {}) {
    std::string text = "<struct>";
    const auto add = [&](std::string_view name, std::string_view value) {
        text += fmt::format("<member><name>{}</name><value>{}</value></member>", name, value);
    };
    for (const auto& [name, value] : fields) {
        add(name, value);
    }
    for (const Constant& each : constants) {
        add(each.name, each.value);
    }
    return text + "</struct>";
}

std::string object(std::string_view kind, std::string_view id, const std::string& record) {
    return fmt::format("<value>{}</value>\n", structure({}, {{"class", std::string(kind)},
                                                             {"id", std::string(id)},
                                                             {"snapshot", record}}));
}

Field uuid() {
    return {"uuid", format_uuid(random_uuid(), false)};
}

}  // namespace

Result<std::string> describe_machine(const NewMachine& machine) {
    if (!is_utf8(machine.name)) {
        return Error{ErrorKind::InvalidArgument, "the machine's name is no UTF-8", EINVAL};
    }
    const std::string name = archive::escape_xml(machine.name);
    const std::string memory = std::to_string(machine.memory), cpus = std::to_string(machine.cpus);
    std::string objects = object(
        "VM", "Ref:0",
        structure(kMachine, {uuid(),
                             {"name_label", name},
                             {"memory_static_max", memory},
                             {"memory_dynamic_max", memory},
                             {"memory_dynamic_min", memory},
                             {"memory_static_min", memory},
                             {"VCPUs_max", cpus},
                             {"VCPUs_at_startup", cpus},
                             {"VBDs", "<array><data><value>Ref:2</value></data></array>"},
                             {"HVM_boot_params", structure(std::array{Constant{"order", "cd"}})},
                             {"platform", structure(kPlatform)}}));
    objects += object("VBD", "Ref:2", structure(kDevice, {uuid()}));
    objects += object("VDI", kNewDisk,
                      structure(kDisk, {uuid(),
                                        {"name_label", name},
                                        {"virtual_size", std::to_string(machine.disk_size)}}));
    objects += object("SR", "Ref:4", structure(kStorage, {uuid()}));
    return fmt::format(
        "<?xml version='1.0'?>\n<value>{}</value>\n",
        structure({}, {{"version", structure(kVersion)},
                       {"objects", fmt::format("<array><data>\n{}</data></array>", objects)}}));
}

}  // namespace strata::block::xva
