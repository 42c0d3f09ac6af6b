// Trace: what the translator's trace says, and the words that switch it on.
#include "engine/soft/translate/trace.h"

#include <gtest/gtest.h>

#include "engine/soft/translate/factory.h"
#include "engine/soft/translate/translate_test_machine.h"

namespace strata::engine::soft {
namespace {

using Machine = TranslateTestMachine;
using Bytes = std::vector<std::uint8_t>;

std::string trace_of(const char* words) {
    Machine machine(parse_translate_options(words).value());
    machine.load(Bytes{0xB8, 0x07, 0x00, 0x00, 0x00, 0xF4});  // mov eax, 7; hlt
    testing::internal::CaptureStderr();
    EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
    return testing::internal::GetCapturedStderr();
}

bool has(const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
}

TEST(TraceTest, EachStageIsSwitchedOnByItself) {
    EXPECT_EQ(trace_of(""), "");
    EXPECT_TRUE(has(trace_of("trace-decode"), "guest 0000000000400000 mov eax, 0x07"));
    EXPECT_FALSE(has(trace_of("trace-decode"), "block"));
    EXPECT_TRUE(has(trace_of("trace-blocks"), "block 0000000000400000 ram 80000"));
    EXPECT_FALSE(has(trace_of("trace-blocks"), "guest 0"));
    EXPECT_TRUE(has(trace_of("trace-code"), "host "));
    EXPECT_TRUE(has(trace_of("trace-exits"), "exit 000000000040000"));
}

TEST(TraceTest, TraceIsAllOfABlock) {
    const std::string text = trace_of("trace");
    EXPECT_TRUE(has(text, "block "));
    EXPECT_TRUE(has(text, "guest "));
    EXPECT_TRUE(has(text, "host "));
    EXPECT_FALSE(has(text, "exit "));
}

TEST(TraceTest, UnknownWordsAreRefused) {
    EXPECT_FALSE(parse_translate_options("trace-all").ok());
}

}  // namespace
}  // namespace strata::engine::soft
