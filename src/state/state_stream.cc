// StateWriter, StateReader: the encoding.
#include "state/state_stream.h"

#include <cstring>

#include <fmt/format.h>

#include "base/endian.h"

namespace strata::state {
namespace {

template <typename T>
void append(std::vector<std::byte>& bytes, T value) {
    const EndianInt<T, std::endian::little> wire(value);
    const auto view = std::as_bytes(std::span(&wire, 1));
    bytes.insert(bytes.end(), view.begin(), view.end());
}

}  // namespace

void StateWriter::begin(std::string_view name, std::uint16_t version) {
    STRATA_CHECK(!open_ && name.size() < 256, "sections do not nest and have short names");
    open_ = true;
    u8(static_cast<std::uint8_t>(name.size()));
    raw(std::as_bytes(std::span(name)));
    u16(version);
    length_at_ = bytes_.size();
    u32(0);
}

void StateWriter::end() {
    STRATA_CHECK(open_, "end() without begin()");
    open_ = false;
    const Le32 length(static_cast<std::uint32_t>(bytes_.size() - length_at_ - sizeof(Le32)));
    std::memcpy(bytes_.data() + length_at_, &length, sizeof(length));
}

void StateWriter::u8(std::uint8_t value) {
    bytes_.push_back(static_cast<std::byte>(value));
}
void StateWriter::u16(std::uint16_t value) {
    append(bytes_, value);
}
void StateWriter::u32(std::uint32_t value) {
    append(bytes_, value);
}
void StateWriter::u64(std::uint64_t value) {
    append(bytes_, value);
}
void StateWriter::raw(std::span<const std::byte> bytes) {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
}

void StateWriter::blob(std::span<const std::byte> bytes) {
    u32(static_cast<std::uint32_t>(bytes.size()));
    raw(bytes);
}

void StateWriter::text(std::string_view value) {
    blob(std::as_bytes(std::span(value)));
}

Result<std::uint16_t> StateReader::begin(std::string_view name, std::uint16_t newest) {
    failure_.reset();
    section_ = name;
    section_end_ = bytes_.size();
    std::string found(u8(), '\0');
    raw(std::as_writable_bytes(std::span(found)));
    const std::uint16_t version = u16();
    const std::uint32_t length = u32();
    if (failure_) {
        return *failure_;
    }
    if (found != name) {
        return Error{ErrorKind::Failed,
                     fmt::format("state section '{}' expected, '{}' found", name, found)};
    }
    if (version == 0 || version > newest) {
        return Error{ErrorKind::NotSupported,
                     fmt::format("state section '{}' has version {}, this build knows 1 to {}",
                                 name, version, newest)};
    }
    if (length > bytes_.size() - offset_) {
        return Error{ErrorKind::Failed, fmt::format("state section '{}' is truncated", name)};
    }
    section_end_ = offset_ + length;
    return version;
}

Result<> StateReader::end() {
    if (failure_) {
        return *failure_;
    }
    if (offset_ != section_end_) {
        return Error{ErrorKind::Failed, fmt::format("state section '{}' has {} bytes too many",
                                                    section_, section_end_ - offset_)};
    }
    return ok();
}

void StateReader::reject(std::string_view why) {
    if (!failure_) {
        failure_ = Error{ErrorKind::Failed, fmt::format("state section '{}': {}", section_, why)};
    }
}

void StateReader::raw(std::span<std::byte> out) {
    if (failure_ || out.size() > section_end_ - offset_) {
        reject("truncated");
        std::memset(out.data(), 0, out.size());
        return;
    }
    std::memcpy(out.data(), bytes_.data() + offset_, out.size());
    offset_ += out.size();
}

template <typename T>
T StateReader::number() {
    EndianInt<T, std::endian::little> wire;
    raw(std::as_writable_bytes(std::span(&wire, 1)));
    return wire;
}

std::uint8_t StateReader::u8() {
    return number<std::uint8_t>();
}
std::uint16_t StateReader::u16() {
    return number<std::uint16_t>();
}
std::uint32_t StateReader::u32() {
    return number<std::uint32_t>();
}
std::uint64_t StateReader::u64() {
    return number<std::uint64_t>();
}

bool StateReader::boolean() {
    const std::uint8_t value = u8();
    if (value > 1) {
        reject("a truth value is neither 0 nor 1");
    }
    return value == 1;
}

std::vector<std::byte> StateReader::blob(std::size_t limit) {
    const std::uint32_t size = u32();
    if (failure_ || size > limit || size > section_end_ - offset_) {
        reject("a field is longer than allowed");
        return {};
    }
    std::vector<std::byte> bytes(size);
    raw(bytes);
    return bytes;
}

std::string StateReader::text(std::size_t limit) {
    const auto bytes = blob(limit);
    // SAFETY: char may alias bytes.
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace strata::state
