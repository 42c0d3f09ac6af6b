// TraceNode: lines.
#include "block/filters/trace/trace.h"

#include <cerrno>

#include <fcntl.h>
#include <fmt/format.h>

#include "base/unique_fd.h"

namespace strata::block::trace {
namespace {

Task<NodePtr> open(Loop& loop, NodeTree tree, OpenOptions options) {
    std::FILE* to = stderr;
    const auto path = tree.take("to");
    STRATA_CO_TRY(NodePtr child, co_await open_child(loop, tree, "file", options));
    STRATA_CO_TRY_VOID(tree.finish("format", "trace"));
    if (path) {
        UniqueFd fd(
            ::open(path->c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, 0644));
        to = fd ? ::fdopen(fd.get(), "a") : nullptr;
        if (to == nullptr) {
            co_return Error::from_errno(fmt::format("cannot write the trace '{}'", *path));
        }
        (void)fd.release();
    }
    co_return NodePtr(std::make_shared<TraceNode>(std::move(child), to));
}

constexpr NodeDriver kDriver{.name = "trace", .open = &open, .named_by_images = false};

}  // namespace

const NodeDriver& driver() {
    return kDriver;
}

void TraceNode::Close::operator()(std::FILE* file) const {
    if (file != stderr) {
        (void)std::fclose(file);
    }
}

TraceNode::TraceNode(NodePtr child, std::FILE* to)
    : FilterNode(std::move(child)), to_(to), start_(Clock::now()) {}

Task<> TraceNode::told(std::string_view what, std::uint64_t offset, std::uint64_t length,
                       Task<> request) {
    const auto begun = Clock::now();
    Result<> done = co_await request;
    const int number = done.ok()                          ? 0
                       : done.error().system_errno() != 0 ? done.error().system_errno()
                                                          : EIO;
    const auto taken = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begun);
    fmt::print(to_.get(), "{:.6f} {} offset={} length={} us={} result={}\n",
               std::chrono::duration<double>(begun - start_).count(), what, offset, length,
               taken.count(), number);
    co_return done;
}

Task<> TraceNode::read(std::uint64_t offset, Buffers into) {
    return told("read", offset, into.size(), child().read(offset, into));
}
Task<> TraceNode::write(std::uint64_t offset, Buffers from) {
    return told("write", offset, from.size(), child().write(offset, from));
}
Task<> TraceNode::write_compressed(std::uint64_t offset, Buffers from) {
    return told("write-compressed", offset, from.size(), child().write_compressed(offset, from));
}
Task<> TraceNode::write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) {
    return told(options.may_unmap ? "write-zeroes-unmap" : "write-zeroes", offset, length,
                child().write_zeroes(offset, length, options));
}
Task<> TraceNode::discard(std::uint64_t offset, std::uint64_t length) {
    return told("discard", offset, length, child().discard(offset, length));
}
Task<> TraceNode::flush() {
    return told("flush", 0, 0, child().flush());
}

Task<> TraceNode::close() {
    STRATA_CO_TRY_VOID(co_await child().close());
    if (std::fflush(to_.get()) != 0) {
        co_return Error::from_errno("cannot write the trace");
    }
    co_return ok();
}

}  // namespace strata::block::trace
