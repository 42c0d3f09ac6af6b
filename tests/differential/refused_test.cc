// Refused: nothing that the host's processor runs for a user program is refused by the decoder's
// allowlist, but for a named few.
//
// The differential run tries only what the allowlist accepts; this is the other side of it.
// Encodings that Zydis knows and the allowlist refuses are run on the host: it must raise #UD too.
#include <array>
#include <map>
#include <set>
#include <string>

#include <Zydis/Zydis.h>
#include <gtest/gtest.h>

#include "differential/native_runner.h"
#include "differential/random.h"
#include "engine/soft/decode/classify.h"
#include "engine/soft/soft_engine.h"

namespace strata::differential {
namespace {

using engine::soft::CodeMode;
using engine::soft::DecodeStatus;
using engine::soft::InsnClass;
using engine::soft::Instruction;

// Not offered to guests: nested virtualisation, MONITORX, CLZERO and supervisor XSAVE have no CPUID
// bit there, so #UD is right.
const std::set<std::string> kNotOffered = {"SVM",    "VTX",    "MONITORX", "CLZERO",
                                           "XSAVES", "RDPRU",  "MCOMMIT",  "WBNOINVD",
                                           "CET",    "MOVDIR", "ENQCMD"};

std::array<std::uint8_t, 15> random_encoding(Random& random) {
    std::array<std::uint8_t, 15> bytes{};
    for (auto& byte : bytes) {
        byte = static_cast<std::uint8_t>(random.next() >> 9);
    }
    switch (random.below(6)) {
        case 0:
            bytes[0] = 0xc4;
            bytes[1] = static_cast<std::uint8_t>((bytes[1] & 0xe0) | (1 + random.below(3)));
            break;
        case 1:
            bytes[0] = 0x62;
            bytes[1] = static_cast<std::uint8_t>((bytes[1] & 0xf0) | (1 + random.below(3)));
            bytes[2] |= 4;
            break;
        case 2:
            bytes[0] = 0x0f;
            break;
        case 3:
            bytes[0] = 0x66;
            bytes[1] = 0x0f;
            break;
        case 4:
            bytes[0] = static_cast<std::uint8_t>(0xd8 | random.below(8));
            break;
        default:
            break;
    }
    return bytes;
}

TestCase lone_instruction(const std::uint8_t* bytes, std::size_t length) {
    TestCase test;
    arch::x86::ArchState vectors;
    NativeRunner::vector_start(vectors);
    test.start.xsave = vectors.xsave;
    test.start.gpr.fill(Layout::kData + 512);
    test.start.gpr[arch::x86::Rsp] = Layout::kStack + 2048;
    test.start.rip = Layout::kCode + 256;
    test.gs_base = Layout::kData;
    test.code.assign(bytes, bytes + length);
    return test;
}

TEST(RefusedTest, HostRefusesWhatTheDecoderRefuses) {
    auto native = NativeRunner::create();
    ASSERT_TRUE(native.ok()) << native.error().text();
    const engine::soft::SoftEngine engine;
    const engine::soft::IsaSupport isa(engine.capabilities().supported_cpuid);
    ZydisDecoder decoder;
    ASSERT_TRUE(
        ZYAN_SUCCESS(ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64)));
    Random random(7);
    std::map<std::string, int> tried;
    for (int round = 0; round < 1'000'000; ++round) {
        const auto bytes = random_encoding(random);
        ZydisDecodedInstruction known;
        Instruction insn;
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, nullptr, bytes.data(),
                                                        bytes.size(), &known)) ||
            engine::soft::decode(bytes.data(), bytes.size(), CodeMode::Bits64, isa, insn) !=
                DecodeStatus::Ok ||
            insn.cls != InsnClass::Undefined ||
            kNotOffered.count(ZydisISASetGetString(known.meta.isa_set)) != 0) {
            continue;
        }
        const std::string name = ZydisMnemonicGetString(known.mnemonic);
        if (tried[name]++ >= 4) {
            continue;
        }
        const auto outcome = (*native)->run(lone_instruction(bytes.data(), known.length));
        ASSERT_TRUE(outcome.ok()) << outcome.error().text();
        EXPECT_EQ(outcome->vector, 6) << name << " (" << ZydisISASetGetString(known.meta.isa_set)
                                      << ") is refused, but the host runs it";
    }
}

}  // namespace
}  // namespace strata::differential
