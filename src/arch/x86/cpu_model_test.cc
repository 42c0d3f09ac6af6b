// CpuModel: parsing, what models show and refuse, and the leaves made of it.
#include "arch/x86/cpu_model.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace strata::arch::x86 {
namespace {

using ::testing::HasSubstr;

/// A host with every feature and the XSAVE layout of AVX-512 processors.
CpuidTable everything() {
    CpuidTable host;
    host.entries = {{0, 0, false, {0x1f, 0x68747541, 0x444d4163, 0x69746e65}},
                    {1, 0, false, {0x00a10f11, 0, 0, 0}}};
    for (const CpuFeature& feature : cpu_features()) {
        set_feature(host, feature, true);
    }
    host.entries.push_back({0xd, 0, true, {0x2e7, 576, 0xa80, 0}});
    host.entries.push_back({0xd, 2, true, {256, 576, 0, 0}});
    host.entries.push_back({0xd, 5, true, {64, 832, 0, 0}});
    host.entries.push_back({0xd, 6, true, {512, 896, 0, 0}});
    host.entries.push_back({0xd, 7, true, {1024, 1408, 0, 0}});
    host.entries.push_back({0xd, 9, true, {8, 2432, 0, 0}});
    return host;
}

CpuidTable without(CpuidTable table, std::string_view name) {
    set_feature(table, *find_cpu_feature(name), false);
    return table;
}

CpuidTable built(std::string_view model, const Topology& topology = {}, std::uint32_t index = 0) {
    auto table = build_cpuid(CpuModel::parse(model).value(), topology, index,
                             software_cpuid(everything()), 2596138);
    EXPECT_TRUE(table.ok()) << (table.ok() ? "" : table.error().text());
    return table.ok() ? table.value() : CpuidTable{};
}

TEST(CpuFeatureTest, NamesAndBitsAreUnique) {
    std::set<std::string_view> names;
    std::set<std::tuple<std::uint32_t, std::uint32_t, CpuidRegister, std::uint8_t>> bits;
    for (const CpuFeature& feature : cpu_features()) {
        EXPECT_TRUE(names.insert(feature.name).second) << feature.name;
        EXPECT_TRUE(bits.insert({feature.leaf, feature.subleaf, feature.reg, feature.bit}).second)
            << feature.name;
    }
}

TEST(CpuFeatureTest, DependenciesNameKnownFeatures) {
    for (const auto& [feature, needs] : cpu_feature_dependencies()) {
        EXPECT_NE(find_cpu_feature(feature), nullptr) << feature;
        EXPECT_NE(find_cpu_feature(needs), nullptr) << needs;
    }
}

TEST(CpuFeatureTest, OtherSpellingsAreUnderstood) {
    EXPECT_EQ(find_cpu_feature("SSE4.1")->name, "sse4_1");
    EXPECT_EQ(find_cpu_feature("lzcnt")->name, "abm");
    EXPECT_EQ(find_cpu_feature("kvm-pv-eoi")->name, "kvm_pv_eoi");
}

TEST(CpuModelTest, FlagsAreParsedInBothDirections) {
    const CpuModel model = CpuModel::parse("x86-64-v2,+avx,-smap").value();
    EXPECT_EQ(model.name, "x86-64-v2");
    EXPECT_EQ(model.added.at(0)->name, "avx");
    EXPECT_EQ(model.removed.at(0)->name, "smap");
}

TEST(CpuModelTest, FlagsAloneChangeTheHostModel) {
    EXPECT_EQ(CpuModel::parse("-avx512f").value().name, "host");
}

TEST(CpuModelTest, UnknownFlagSuggestsTheNearest) {
    const auto model = CpuModel::parse("host,+avx512ff");
    ASSERT_FALSE(model.ok());
    EXPECT_EQ(model.error().kind(), ErrorKind::InvalidArgument);
    EXPECT_THAT(model.error().text(), HasSubstr("did you mean 'avx512f'"));
}

TEST(CpuModelTest, UnknownModelNamesTheKnownOnes) {
    const auto model = CpuModel::parse("pentium");
    ASSERT_FALSE(model.ok());
    EXPECT_THAT(model.error().text(), HasSubstr("x86-64-v3"));
}

TEST(CpuModelTest, EmptyTextIsRefused) {
    EXPECT_FALSE(CpuModel::parse("").ok());
}
TEST(CpuModelTest, FlagBothWaysIsRefused) {
    EXPECT_FALSE(CpuModel::parse("host,+avx,-avx").ok());
}
TEST(CpuModelTest, FlagWithoutSignIsRefused) {
    EXPECT_FALSE(CpuModel::parse("host,avx").ok());
}

TEST(TopologyTest, PlainNumberIsCoresOfOneSocket) {
    EXPECT_EQ(Topology::parse("4").value(), (Topology{1, 4, 1}));
}

TEST(TopologyTest, NamedPartsAreTaken) {
    EXPECT_EQ(Topology::parse("sockets=2,cores=3,threads=2").value(), (Topology{2, 3, 2}));
}

TEST(TopologyTest, ZeroAndHugeAndNonsenseAreRefused) {
    EXPECT_FALSE(Topology::parse("0").ok());
    EXPECT_FALSE(Topology::parse("10000").ok());
    EXPECT_FALSE(Topology::parse("").ok());
    EXPECT_FALSE(Topology::parse("sockets=4294967295,cores=4294967295").ok());
    EXPECT_FALSE(Topology::parse("dies=2").ok());
}

TEST(TopologyTest, ApicIdsLeaveGapsForOddCounts) {
    const Topology topology{2, 3, 2};
    EXPECT_EQ(topology.apic_id(0), 0U);
    EXPECT_EQ(topology.apic_id(5), 5U);
    EXPECT_EQ(topology.apic_id(6), 8U);
    EXPECT_EQ(topology.apic_id(11), 13U);
}

TEST(BuildCpuidTest, LevelsShowExactlyTheirUserFeatures) {
    EXPECT_FALSE(has_feature(built("x86-64-v1"), "pni"));
    EXPECT_TRUE(has_feature(built("x86-64-v2"), "sse4_2"));
    EXPECT_FALSE(has_feature(built("x86-64-v2"), "avx"));
    EXPECT_TRUE(has_feature(built("x86-64-v3"), "avx2"));
    EXPECT_FALSE(has_feature(built("x86-64-v3"), "avx512f"));
    EXPECT_TRUE(has_feature(built("x86-64-v4"), "avx512vl"));
}

TEST(BuildCpuidTest, LevelTheHostLacksIsRefusedByName) {
    const auto table =
        build_cpuid(CpuModel::parse("x86-64-v3").value(), {}, 0, without(everything(), "avx2"), 0);
    ASSERT_FALSE(table.ok());
    EXPECT_EQ(table.error().kind(), ErrorKind::NotSupported);
    EXPECT_THAT(table.error().text(), HasSubstr("avx2"));
}

TEST(BuildCpuidTest, FlagTheEngineLacksIsRefusedByName) {
    const auto table =
        build_cpuid(CpuModel::parse("host,+vmx").value(), {}, 0, software_cpuid(everything()), 0);
    ASSERT_FALSE(table.ok());
    EXPECT_THAT(table.error().text(), HasSubstr("vmx"));
}

TEST(BuildCpuidTest, RemovingAFeatureRemovesWhatNeedsIt) {
    const CpuidTable table = built("host,-avx,-pku");
    EXPECT_FALSE(has_feature(table, "avx2"));
    EXPECT_FALSE(has_feature(table, "avx512f"));
    EXPECT_EQ(table.find(0xd, 0).eax, 3U);
    EXPECT_EQ(table.find(0xd, 0).ecx, 576U);
}

TEST(BuildCpuidTest, AddingAFeatureAddsWhatItNeeds) {
    EXPECT_TRUE(has_feature(built("x86-64-v2,+avx"), "xsave"));
}

TEST(BuildCpuidTest, InvariantTscIsShownOnlyWhenAskedFor) {
    EXPECT_FALSE(has_feature(built("host"), "invtsc"));
    EXPECT_FALSE(has_feature(built("x86-64-v3"), "invtsc"));
    EXPECT_TRUE(has_feature(built("host,+invtsc"), "invtsc"));
}

TEST(BuildCpuidTest, AddingWhatARemovedOneCarriesIsRefused) {
    EXPECT_FALSE(
        build_cpuid(CpuModel::parse("host,+avx2,-avx").value(), {}, 0, everything(), 0).ok());
}

TEST(BuildCpuidTest, XsaveSizesFollowTheFeatures) {
    EXPECT_EQ(built("x86-64-v3").find(0xd, 0).ecx, 832U);
    const CpuidTable wide = built("x86-64-v4");
    EXPECT_EQ(wide.find(0xd, 0).eax, 0xe7U);
    EXPECT_EQ(wide.find(0xd, 0).ecx, 2432U);
    EXPECT_EQ(wide.find(0xd, 0).ebx, 576U);
    EXPECT_EQ(wide.find(0xd, 6), (CpuidRegisters{512, 896, 0, 0}));
    // Protection keys are the software CPU's own: the host decides only where they lie.
    const CpuidTable keys = built("x86-64-v3,+pku");
    EXPECT_EQ(keys.find(0xd, 0).eax, 0x207U);
    EXPECT_EQ(keys.find(0xd, 9), (CpuidRegisters{8, 2432, 0, 0}));
    EXPECT_EQ(keys.find(0xd, 0).ecx, 2440U);
    EXPECT_EQ(built("host,-pku").find(0xd, 0).eax, 0xe7U);
}

TEST(BuildCpuidTest, TopologyLeavesDescribeTheVcpu) {
    const CpuidTable table = built("host", Topology{2, 3, 2}, 7);
    EXPECT_EQ(table.find(1, 0).ebx >> 24, 9U);
    EXPECT_EQ((table.find(1, 0).ebx >> 16) & 0xff, 8U);
    EXPECT_EQ(table.find(0xb, 0), (CpuidRegisters{1, 2, 0x100, 9}));
    EXPECT_EQ(table.find(0xb, 1), (CpuidRegisters{3, 6, 0x201, 9}));
    EXPECT_EQ(table.find(0xb, 2).ecx, 2U);
    EXPECT_EQ(table.find(0x1f, 1), table.find(0xb, 1));
    EXPECT_EQ(table.find(0x8000001e, 0), (CpuidRegisters{9, 0x100, 1, 0}));
    EXPECT_EQ(table.find(0x80000008, 0).ecx, 5U | (3U << 12));
}

TEST(BuildCpuidTest, TimingLeavesAgreeOnTheTsc) {
    const CpuidTable table = built("host");
    const CpuidRegisters tsc = table.find(0x15, 0);
    EXPECT_EQ(std::uint64_t{tsc.ecx} * tsc.ebx / tsc.eax, 2596138000U);
    EXPECT_EQ(table.find(0x40000010, 0), (CpuidRegisters{2596138, kApicBusKhz, 0, 0}));
}

TEST(BuildCpuidTest, HypervisorIsAnnouncedAsKvm) {
    const CpuidTable table = built("host");
    EXPECT_EQ(table.find(0x40000000, 0),
              (CpuidRegisters{0x40000010, 0x4b4d564b, 0x564b4d56, 0x4d}));
    EXPECT_TRUE(has_feature(table, "kvm_clock"));
    EXPECT_TRUE(has_feature(table, "kvmclock_stable"));
    EXPECT_EQ(built("host,-hypervisor").find(0x40000000, 0), CpuidRegisters{});
}

// Linux 6.1, arch/x86/kernel/cpu/common.c, cpu_set_bug_bits(): AMD family 25 with these bits has no
// bug that costs anything.
TEST(BuildCpuidTest, SoftwareCpuNeedsNoMitigation) {
    for (const std::string_view model : {"host", "x86-64-v1", "x86-64-v3"}) {
        const CpuidTable table = built(model);
        EXPECT_EQ(table.find(0, 0).ebx, 0x68747541U);
        EXPECT_EQ((table.find(1, 0).eax >> 8) & 0xf, 0xfU);
        for (const std::string_view bit :
             {"auto_ibrs", "srso_no", "tsa_sq_no", "tsa_l1_no", "amd_ssb_no", "btc_no",
              "null_sel_clr_base", "lfence_always_serializing"}) {
            EXPECT_TRUE(has_feature(table, bit)) << model << " " << bit;
        }
        EXPECT_FALSE(has_feature(table, "amd_ibpb"));
    }
}

TEST(BuildCpuidTest, EntriesAreSortedAndUnique) {
    const CpuidTable table = built("host", Topology{1, 4, 1}, 3);
    const auto key = [](const CpuidEntry& entry) { return std::pair(entry.leaf, entry.subleaf); };
    EXPECT_TRUE(std::ranges::is_sorted(table.entries, {}, key));
    EXPECT_EQ(std::ranges::adjacent_find(table.entries, {}, key), table.entries.end());
}

TEST(BuildCpuidTest, VcpuOutsideTheTopologyIsRefused) {
    EXPECT_FALSE(build_cpuid(CpuModel{}, Topology{1, 2, 1}, 2, everything(), 0).ok());
}

TEST(BuildCpuidTest, ThisHostOffersAtLeastTheBaseline) {
    EXPECT_TRUE(build_cpuid(CpuModel::parse("x86-64-v1").value(), {}, 0,
                            software_cpuid(host_cpuid()), 1000000)
                    .ok());
}

}  // namespace
}  // namespace strata::arch::x86
