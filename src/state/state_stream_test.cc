// StateWriter, StateReader: what was written comes back, and what was damaged is refused.
#include "state/state_stream.h"

#include <gtest/gtest.h>

namespace strata::state {
namespace {

StateWriter sample() {
    StateWriter writer;
    writer.begin("timer", 2);
    writer.u64(0x1122334455667788);
    writer.boolean(true);
    writer.text("hello");
    writer.end();
    return writer;
}

TEST(StateStreamTest, FieldsComeBackInOrder) {
    const StateWriter writer = sample();
    StateReader reader(writer.bytes());
    EXPECT_EQ(*reader.begin("timer", 2), 2);
    EXPECT_EQ(reader.u64(), 0x1122334455667788U);
    EXPECT_TRUE(reader.boolean());
    EXPECT_EQ(reader.text(16), "hello");
    EXPECT_TRUE(reader.end().ok());
    EXPECT_TRUE(reader.at_end());
}

TEST(StateStreamTest, NewerVersionIsRefused) {
    const StateWriter writer = sample();
    StateReader reader(writer.bytes());
    EXPECT_EQ(reader.begin("timer", 1).error().kind(), ErrorKind::NotSupported);
}

TEST(StateStreamTest, WrongNameIsRefused) {
    const StateWriter writer = sample();
    StateReader reader(writer.bytes());
    EXPECT_FALSE(reader.begin("clock", 2).ok());
}

TEST(StateStreamTest, LeftOverBytesAreAnError) {
    const StateWriter writer = sample();
    StateReader reader(writer.bytes());
    ASSERT_TRUE(reader.begin("timer", 2).ok());
    (void)reader.u64();  // the point is what is not read
    EXPECT_FALSE(reader.end().ok());
}

TEST(StateStreamTest, ReadingPastTheEndIsStickyAndReported) {
    const StateWriter writer = sample();
    StateReader reader(std::span(writer.bytes()).first(writer.bytes().size() - 1));
    EXPECT_FALSE(reader.begin("timer", 2).ok());
}

TEST(StateStreamTest, LongFieldIsRefused) {
    const StateWriter writer = sample();
    StateReader reader(writer.bytes());
    ASSERT_TRUE(reader.begin("timer", 2).ok());
    (void)reader.u64();
    (void)reader.boolean();
    EXPECT_EQ(reader.text(4), "");
    EXPECT_FALSE(reader.end().ok());
}

}  // namespace
}  // namespace strata::state
