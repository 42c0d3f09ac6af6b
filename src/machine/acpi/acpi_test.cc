// ACPI tests: checksums and pointers of all tables, encodings of AML, and iasl's opinion of the
// whole where it is installed.
#include <cstdlib>
#include <fstream>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/byte_reader.h"
#include "base/endian.h"
#include "machine/acpi/aml.h"
#include "machine/acpi/tables.h"

namespace strata::machine::acpi {
namespace {

constexpr std::uint64_t kAddress = 0xe0000;
constexpr std::uint64_t kLimit = 0x10000;

AcpiConfig config(std::uint32_t vcpus) {
    AcpiConfig result;
    for (std::uint32_t i = 0; i < vcpus; ++i) {
        result.apic_ids.push_back(i);
    }
    result.local_apic = 0xfee00000;
    result.io_apic = 0xfec00000;
    result.hpet = 0xfed00000;
    result.hpet_block_id = 0x8086a201;
    result.ecam = 0xe0000000;
    result.ecam_size = 1 << 20;
    result.pci_io = {0xc000, 0xffff};
    result.pci_memory32 = {0xc0000000, 0xdfffffff};
    result.pci_memory64 = {0x1000000000, 0x1fffffffff};
    result.intx_gsi = 16;
    result.pm_event_port = 0x600;
    result.pm_control_port = 0x604;
    result.pm_timer_port = 0x608;
    result.gpe0_port = 0x620;
    result.gpe0_size = 16;
    result.reset_port = 0xcf9;
    result.reset_value = 6;
    result.sci_irq = 9;
    result.sleep_type_s5 = 5;
    result.century_index = 0x32;
    result.pvpanic_port = 0x505;
    return result;
}

std::span<const std::byte> at(const AcpiTables& tables, std::uint64_t address) {
    return std::span(tables.bytes).subspan(address - tables.address);
}

template <typename T>
T read(const AcpiTables& tables, std::uint64_t address) {
    return ByteReader(at(tables, address)).read_at<T>(0).value();
}

unsigned sum(std::span<const std::byte> bytes) {
    unsigned total = 0;
    for (const std::byte byte : bytes) {
        total += std::to_integer<unsigned>(byte);
    }
    return total & 0xff;
}

std::string signature(const AcpiTables& tables, std::uint64_t address) {
    const auto text = read<std::array<char, 4>>(tables, address);
    return {text.begin(), text.end()};
}

/// All tables that the XSDT names, and the DSDT.
std::vector<std::uint64_t> table_addresses(const AcpiTables& tables) {
    const std::uint64_t xsdt = read<Le64>(tables, tables.rsdp + 24);
    const std::uint32_t length = read<Le32>(tables, xsdt + 4);
    std::vector<std::uint64_t> result = {xsdt};
    for (std::uint32_t entry = 36; entry < length; entry += 8) {
        result.push_back(read<Le64>(tables, xsdt + entry));
    }
    result.push_back(read<Le64>(tables, result[1] + 140));  // FADT.X_DSDT
    return result;
}

TEST(AcpiTablesTest, ChecksumsAndSignaturesHold) {
    const auto tables = build_tables(config(4), kAddress, kLimit).value();
    EXPECT_EQ(sum(at(tables, tables.rsdp).first(20)), 0U);
    EXPECT_EQ(sum(at(tables, tables.rsdp).first(36)), 0U);
    std::vector<std::string> signatures;
    for (const std::uint64_t address : table_addresses(tables)) {
        signatures.push_back(signature(tables, address));
        EXPECT_EQ(sum(at(tables, address).first(read<Le32>(tables, address + 4))), 0U)
            << signatures.back();
    }
    EXPECT_THAT(signatures, ::testing::ElementsAre("XSDT", "FACP", "APIC", "HPET", "MCFG", "DSDT"));
    EXPECT_EQ(signature(tables, read<Le32>(tables, table_addresses(tables)[1] + 36)), "FACS");
    EXPECT_EQ(read<Le32>(tables, table_addresses(tables)[1] + 36) % 64, 0U);
}

TEST(AcpiTablesTest, LargestMachineFits) {
    EXPECT_TRUE(build_tables(config(255), kAddress, kLimit).ok());
}

TEST(AcpiTablesTest, TablesThatDoNotFitAreRefused) {
    EXPECT_FALSE(build_tables(config(4), kAddress, 1024).ok());
}

TEST(AmlTest, IntegersTakeTheShortestForm) {
    EXPECT_EQ(aml::integer(0).size(), 1U);
    EXPECT_EQ(aml::integer(0x7f).size(), 2U);
    EXPECT_EQ(aml::integer(0x100).size(), 3U);
    EXPECT_EQ(aml::integer(0x10000).size(), 5U);
    EXPECT_EQ(aml::integer(1ULL << 32).size(), 9U);
}

TEST(AmlTest, EisaIdIsCompressed) {
    const std::vector<std::byte> expected = {std::byte{0x0c}, std::byte{0x41}, std::byte{0xd0},
                                             std::byte{0x0a}, std::byte{0x08}};
    EXPECT_EQ(aml::eisa_id("PNP0A08"), expected);
}

TEST(AmlTest, PackageLengthCountsItself) {
    const auto short_buffer = aml::buffer(std::vector<std::byte>(10));
    EXPECT_EQ(std::to_integer<unsigned>(short_buffer[1]), 13U);
    const auto long_buffer = aml::buffer(std::vector<std::byte>(100));
    EXPECT_EQ(std::to_integer<unsigned>(long_buffer[1]), 0x40U | (104 & 0xf));
    EXPECT_EQ(std::to_integer<unsigned>(long_buffer[2]), 104U >> 4);
}

void write_file(const std::string& path, std::span<const std::byte> bytes) {
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
}

std::string file_text(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
}

class IaslTest : public ::testing::Test {
  protected:
    void SetUp() override {
        if (::access("/usr/bin/iasl", X_OK) != 0) {
            GTEST_SKIP() << "iasl (package acpica-tools) is not installed";
        }
        ASSERT_NE(::mkdtemp(folder_.data()), nullptr);
    }
    void TearDown() override { (void)std::system(("rm -rf " + folder_).c_str()); }
    std::string folder_ = "/tmp/strata-acpi-XXXXXX";
};

TEST_F(IaslTest, DisassemblesAndRecompilesWithoutRemarks) {
    const auto tables = build_tables(config(4), kAddress, kLimit).value();
    for (const std::uint64_t address : table_addresses(tables)) {
        const std::string name = signature(tables, address);
        const std::string base = folder_ + "/" + name;
        write_file(base + ".aml", at(tables, address).first(read<Le32>(tables, address + 4)));
        const std::string run =
            "cd " + folder_ + " && iasl -d " + name + ".aml >" + name + ".log 2>&1";
        EXPECT_EQ(std::system(run.c_str()), 0) << file_text(base + ".log");
        EXPECT_THAT(file_text(base + ".dsl"), ::testing::Not(::testing::HasSubstr("Invalid")))
            << name;
    }
    const std::string compile = "cd " + folder_ + " && iasl -p again DSDT.dsl >again.log 2>&1";
    EXPECT_EQ(std::system(compile.c_str()), 0) << file_text(folder_ + "/again.log");
    EXPECT_THAT(file_text(folder_ + "/again.log"), ::testing::HasSubstr("0 Errors, 0 Warnings"));
}

}  // namespace
}  // namespace strata::machine::acpi
