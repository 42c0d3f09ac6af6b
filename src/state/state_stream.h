// StateWriter, StateReader: the stream of named, versioned sections that machine state is saved in.
//
// Layout (all little-endian): section := u8 name_length, name, u16 version, u32 body_length, body.
// The body is a plain sequence of fixed-width fields that the section's owner writes and reads in
// the same order. A reader enters sections in the order they were written; a section that is not
// read to its end is an error, so that nothing is lost silently.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace strata::state {

/// Appends sections to a growing buffer. Single-threaded.
class StateWriter {
  public:
    /// Starts section `name`; sections do not nest.
    void begin(std::string_view name, std::uint16_t version);
    void end();
    void u8(std::uint8_t value);
    void u16(std::uint16_t value);
    void u32(std::uint32_t value);
    void u64(std::uint64_t value);
    void boolean(bool value) { u8(value ? 1 : 0); }
    /// Raw bytes, no length: the reader knows it.
    void raw(std::span<const std::byte> bytes);
    /// u32 length, then the bytes.
    void blob(std::span<const std::byte> bytes);
    void text(std::string_view value);
    [[nodiscard]] const std::vector<std::byte>& bytes() const { return bytes_; }

  private:
    std::vector<std::byte> bytes_;
    std::size_t length_at_ = 0;
    bool open_ = false;
};

/// Reads sections back. Field reads are sticky: after the first error they answer zeros, and end()
/// returns that error.
class StateReader {
  public:
    explicit StateReader(std::span<const std::byte> bytes) : bytes_(bytes) {}
    /// Enters the next section, which must be `name` with a version in [1, newest]; answers the
    /// version.
    Result<std::uint16_t> begin(std::string_view name, std::uint16_t newest);
    /// Leaves the section: an error if a read failed or bytes are left over.
    Result<> end();
    std::uint8_t u8();
    std::uint16_t u16();
    std::uint32_t u32();
    std::uint64_t u64();
    bool boolean();
    void raw(std::span<std::byte> out);
    /// At most `limit` bytes.
    std::vector<std::byte> blob(std::size_t limit);
    std::string text(std::size_t limit);
    /// Records that a field has a value that cannot be; reported by end().
    void reject(std::string_view why);
    [[nodiscard]] bool at_end() const { return offset_ == bytes_.size(); }

  private:
    template <typename T>
    T number();
    std::span<const std::byte> bytes_;
    std::size_t offset_ = 0;
    std::size_t section_end_ = 0;
    std::string section_;
    std::optional<Error> failure_;
};

}  // namespace strata::state
