// ChildProcess: exit states, descriptors, failures, ownership.
#include "host/process.h"

#include <array>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

namespace strata::host {
namespace {

using std::chrono::milliseconds;

SpawnOptions shell(std::string script) {
    SpawnOptions options;
    options.program = "/bin/sh";
    options.arguments = {"-c", std::move(script)};
    return options;
}

/// The two ends of a pipe.
struct Pipe {
    Pipe() {
        std::array<int, 2> fds{};
        EXPECT_EQ(::pipe2(fds.data(), O_CLOEXEC), 0);
        reader.reset(fds[0]);
        writer.reset(fds[1]);
    }
    std::string drain() {
        writer.reset();
        std::string text;
        std::array<char, 256> buffer{};
        ssize_t count = 0;
        while ((count = ::read(reader.get(), buffer.data(), buffer.size())) > 0) {
            text.append(buffer.data(), static_cast<std::size_t>(count));
        }
        return text;
    }
    UniqueFd reader;
    UniqueFd writer;
};

TEST(ChildProcessTest, ExitStatusIsReported) {
    auto child = ChildProcess::spawn(shell("exit 7"));
    ASSERT_TRUE(child.ok());
    EXPECT_EQ(*child->wait(), (ExitState{false, 7}));
    EXPECT_EQ(child->wait()->text(), "exit status 7");
}

TEST(ChildProcessTest, SignalIsReported) {
    auto child = ChildProcess::spawn(shell("exec sleep 100"));
    ASSERT_TRUE(child.ok());
    EXPECT_TRUE(child->signal(SIGTERM).ok());
    EXPECT_EQ(*child->wait(), (ExitState{true, SIGTERM}));
    EXPECT_TRUE(child->signal(SIGTERM).ok());
}

TEST(ChildProcessTest, MissingProgramIsNotFound) {
    SpawnOptions options;
    options.program = "/nonexistent/program";
    const auto child = ChildProcess::spawn(options);
    ASSERT_FALSE(child.ok());
    EXPECT_EQ(child.error().kind(), ErrorKind::NotFound);
}

TEST(ChildProcessTest, DescriptorsArriveAtTheirNumbers) {
    Pipe first;
    Pipe second;
    SpawnOptions options = shell("echo one >&3; echo two >&4");
    options.files = {{first.writer.get(), 3}, {second.writer.get(), 4}};
    auto child = ChildProcess::spawn(options);
    ASSERT_TRUE(child.ok());
    EXPECT_EQ(first.drain(), "one\n");
    EXPECT_EQ(second.drain(), "two\n");
    EXPECT_EQ(*child->wait(), (ExitState{false, 0}));
}

TEST(ChildProcessTest, SwappedNumbersDoNotCollide) {
    Pipe first;
    Pipe second;
    SpawnOptions options = shell("echo one >&" + std::to_string(second.writer.get()) +
                                 "; echo two >&" + std::to_string(first.writer.get()));
    options.program = "/bin/bash";
    options.files = {{first.writer.get(), second.writer.get()},
                     {second.writer.get(), first.writer.get()}};
    if (::access("/bin/bash", X_OK) != 0) {
        GTEST_SKIP() << "needs bash for descriptors above 9";
    }
    auto child = ChildProcess::spawn(options);
    ASSERT_TRUE(child.ok());
    EXPECT_EQ(first.drain(), "one\n");
    EXPECT_EQ(second.drain(), "two\n");
}

TEST(ChildProcessTest, OtherDescriptorsAreClosed) {
    const UniqueFd leaky(::open("/dev/null", O_RDONLY));  // NOLINT: without O_CLOEXEC on purpose
    Pipe out;
    SpawnOptions options =
        shell("[ -e /proc/self/fd/" + std::to_string(leaky.get()) + " ] && echo leak || echo none");
    options.files = {{out.writer.get(), 1}};
    auto child = ChildProcess::spawn(options);
    ASSERT_TRUE(child.ok());
    EXPECT_EQ(out.drain(), "none\n");
}

TEST(ChildProcessTest, ProgramIsFoundInPathAndRunsInItsFolder) {
    Pipe out;
    SpawnOptions options = shell("pwd; readlink /proc/self/fd/0 /proc/self/fd/2");
    options.program = "sh";
    EXPECT_EQ(ChildProcess::spawn(options).error().kind(), ErrorKind::NotFound);
    options.search_path = true;
    options.folder = "/";
    options.inherit_standard_files = false;
    options.files = {{out.writer.get(), 1}};
    auto child = ChildProcess::spawn(options);
    ASSERT_TRUE(child.ok()) << child.error().text();
    EXPECT_EQ(out.drain(), "/\n/dev/null\n/dev/null\n");
    options.folder = "/nonexistent";
    EXPECT_EQ(ChildProcess::spawn(options).error().kind(), ErrorKind::NotFound);
}

TEST(ChildProcessTest, EnvironmentIsReplaced) {
    Pipe out;
    SpawnOptions options = shell("echo $ONE-$HOME");
    options.environment = std::vector<std::string>{"ONE=1"};
    options.files = {{out.writer.get(), 1}};
    auto child = ChildProcess::spawn(options);
    ASSERT_TRUE(child.ok());
    EXPECT_EQ(out.drain(), "1-\n");
}

TEST(ChildProcessTest, WaitForIsBoundedAndPidfdPolls) {
    auto child = ChildProcess::spawn(shell("read line"));
    ASSERT_TRUE(child.ok());
    auto second = ChildProcess::spawn(shell("exec sleep 100"));
    ASSERT_TRUE(second.ok());
    EXPECT_FALSE((*second->wait_for(milliseconds(10))).has_value());
    EXPECT_TRUE(second->signal(SIGKILL).ok());
    pollfd state{second->pidfd(), POLLIN, 0};
    EXPECT_EQ(::poll(&state, 1, 10'000), 1);
    EXPECT_EQ(*second->wait_for(milliseconds(10'000)), (ExitState{true, SIGKILL}));
}

TEST(ChildProcessTest, DestroyingKillsAndReaps) {
    pid_t pid = 0;
    {
        auto child = ChildProcess::spawn(shell("exec sleep 100"));
        ASSERT_TRUE(child.ok());
        pid = child->pid();
    }
    EXPECT_EQ(::kill(pid, 0), -1);
}

TEST(ChildProcessTest, ReleasedProcessLivesOn) {
    pid_t pid = 0;
    {
        auto child = ChildProcess::spawn(shell("exec sleep 100"));
        ASSERT_TRUE(child.ok());
        pid = child->pid();
        child->release();
    }
    EXPECT_EQ(::kill(pid, SIGKILL), 0);
    EXPECT_EQ(::waitpid(pid, nullptr, 0), pid);
}

}  // namespace
}  // namespace strata::host
