// NBD on the wire: numbers and structures of the Network Block Device protocol (fixed newstyle),
// and the limits we set to a peer.
//
// Client and server share them. The peer is not trusted, whichever side it is: every length that it
// sends is compared with a limit here before anything is allocated or read, and texts are copied,
// never kept as views of a buffer that is filled again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/byte_reader.h"
#include "base/endian.h"
#include "base/result.h"

namespace strata::block::nbd {

inline constexpr std::uint64_t kInitMagic = 0x4e42444d41474943;    ///< "NBDMAGIC"
inline constexpr std::uint64_t kOptionMagic = 0x49484156454f5054;  ///< "IHAVEOPT"
inline constexpr std::uint64_t kOldMagic = 0x00420281861253;       ///< oldstyle servers, long gone
inline constexpr std::uint64_t kOptionReplyMagic = 0x3e889045565a9;
inline constexpr std::uint32_t kRequestMagic = 0x25609513;
inline constexpr std::uint32_t kSimpleReplyMagic = 0x67446698;
inline constexpr std::uint32_t kStructuredReplyMagic = 0x668e33ef;
inline constexpr std::uint16_t kDefaultPort = 10809;

// Handshake flags, the server's and the client's.
inline constexpr std::uint16_t kFixedNewstyle = 1U << 0, kNoZeroes = 1U << 1;

enum class OptionCode : std::uint32_t {
    ExportName = 1,
    Abort = 2,
    List = 3,
    StartTls = 5,
    Info = 6,
    Go = 7,
    StructuredReply = 8,
    ListMetaContext = 9,
    SetMetaContext = 10,
};

enum class OptionReply : std::uint32_t {
    Ack = 1,
    Server = 2,
    Info = 3,
    MetaContext = 4,
    Unsupported = (1U << 31) + 1,
    Policy = (1U << 31) + 2,
    Invalid = (1U << 31) + 3,
    Platform = (1U << 31) + 4,
    TlsRequired = (1U << 31) + 5,
    Unknown = (1U << 31) + 6,
    Shutdown = (1U << 31) + 7,
    BlockSizeRequired = (1U << 31) + 8,
    TooBig = (1U << 31) + 9,
};
[[nodiscard]] constexpr bool is_error(std::uint32_t reply) {
    return (reply & (1U << 31)) != 0;
}

enum class InfoType : std::uint16_t { Export = 0, Name = 1, Description = 2, BlockSize = 3 };

// What an export can do (transmission flags).
inline constexpr std::uint16_t kHasFlags = 1U << 0, kReadOnly = 1U << 1, kSendFlush = 1U << 2,
                               kSendFua = 1U << 3, kRotational = 1U << 4, kSendTrim = 1U << 5,
                               kSendWriteZeroes = 1U << 6, kSendDf = 1U << 7,
                               kCanMultiConn = 1U << 8, kSendResize = 1U << 9,
                               kSendCache = 1U << 10, kSendFastZero = 1U << 11;

enum class CommandType : std::uint16_t {
    Read = 0,
    Write = 1,
    Disconnect = 2,
    Flush = 3,
    Trim = 4,
    Cache = 5,
    WriteZeroes = 6,
    BlockStatus = 7
};

// Flags of commands.
inline constexpr std::uint16_t kFua = 1U << 0, kNoHole = 1U << 1, kDontFragment = 1U << 2,
                               kOnlyOne = 1U << 3, kFastZero = 1U << 4;

enum class ChunkType : std::uint16_t {
    None = 0,
    OffsetData = 1,
    OffsetHole = 2,
    BlockStatus = 5,
    Error = (1U << 15) + 1,
    ErrorOffset = (1U << 15) + 2
};
inline constexpr std::uint16_t kChunkDone = 1U << 0;

// base:allocation.
inline constexpr std::string_view kAllocationContext = "base:allocation",
                                  kDepthContext = "qemu:allocation-depth",
                                  kBitmapContext = "qemu:dirty-bitmap:";
inline constexpr std::uint32_t kStateHole = 1U << 0, kStateZero = 1U << 1;

/// Errors on the wire; the numbers are Linux's, and any other stands for EINVAL.
inline constexpr std::uint32_t kErrorShutdown = 108;
/// The wire's number for an errno.
[[nodiscard]] std::uint32_t wire_error(int system_errno);
/// An errno for the wire's number.
[[nodiscard]] int system_error(std::uint32_t wire);

// Limits to what a peer may send or ask for.
inline constexpr std::uint32_t kMaxString = 4096;  ///< names of exports and contexts, texts
inline constexpr std::uint32_t kMaxOption =
    64U << 10;  ///< an option or its reply; longer ones are skipped or end the connection
inline constexpr std::uint32_t kMaxSkipped =
    32U << 20;  ///< an option that is longer ends the connection
inline constexpr std::uint32_t kMaxPayload = 32U << 20;  ///< data of a read or write
inline constexpr unsigned kMaxOptions = 256;             ///< haggled before transmission
inline constexpr unsigned kMaxReplies = 16384;           ///< to one option (a list of exports)
inline constexpr unsigned kMaxContexts = 64;             ///< of metadata, chosen by one client
inline constexpr std::uint32_t kMaxExtents = 8192;       ///< in one reply about block status

struct ServerHello {
    Be64 magic, option_magic;
    Be16 flags;
};
struct OptionHeader {
    Be64 magic;
    Be32 option, length;
};
struct OptionReplyHeader {
    Be64 magic;
    Be32 option, reply, length;
};
struct InfoExport {
    Be16 type;
    Be64 size;
    Be16 flags;
};
struct InfoBlockSize {
    Be16 type;
    Be32 minimum, preferred, maximum;
};
/// The answer to ExportName: 124 zero bytes follow unless both sides said no.
struct ExportNameReply {
    Be64 size;
    Be16 flags;
};
inline constexpr std::size_t kExportNamePadding = 124;

struct Request {
    Be32 magic;
    Be16 flags, type;
    Be64 cookie, offset;
    Be32 length;
};
struct SimpleReply {
    Be32 magic, error;
    Be64 cookie;
};
struct ChunkHeader {
    Be32 magic;
    Be16 flags, type;
    Be64 cookie;
    Be32 length;
};
struct StatusDescriptor {
    Be32 length, flags;
};
static_assert(sizeof(ServerHello) == 18 && sizeof(OptionHeader) == 16 &&
              sizeof(OptionReplyHeader) == 20 && sizeof(InfoExport) == 12 &&
              sizeof(InfoBlockSize) == 14 && sizeof(Request) == 28 && sizeof(SimpleReply) == 16 &&
              sizeof(ChunkHeader) == 20);

/// The bytes of a wire structure.
template <typename T>
requires std::is_trivially_copyable_v<T>
[[nodiscard]] std::span<const std::byte> bytes_of(const T& value) {
    return std::as_bytes(std::span(&value, 1));
}

/// Builds a message of structures, integers and texts.
class Message {
  public:
    template <typename T>
    requires std::is_trivially_copyable_v<T> Message& add(const T& value) {
        const auto bytes = bytes_of(value);
        bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
        return *this;
    }
    Message& text(std::string_view text);
    /// Its length in four bytes, then the text.
    Message& counted(std::string_view text) {
        return add(Be32(static_cast<std::uint32_t>(text.size()))).Message::text(text);
    }
    [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }
    [[nodiscard]] std::size_t size() const { return bytes_.size(); }

  private:
    std::vector<std::byte> bytes_;
};

/// An option or its reply, framed.
Message option_message(OptionCode option, std::span<const std::byte> data);
Message option_reply(std::uint32_t option, OptionReply reply, std::span<const std::byte> data);

/// A text of at most kMaxString bytes, or all that is left of `reader`. The error says what is too
/// long.
Result<std::string> read_text(ByteReader& reader, std::size_t length);
/// A length in four bytes and the text.
Result<std::string> read_counted(ByteReader& reader);

/// The data of Info and Go.
struct InfoRequest {
    std::string name;
    std::vector<std::uint16_t> types;
};
Result<InfoRequest> parse_info_request(std::span<const std::byte> data);
/// The data of ListMetaContext and SetMetaContext.
struct ContextRequest {
    std::string name;
    std::vector<std::string> queries;
};
Result<ContextRequest> parse_context_request(std::span<const std::byte> data);
Message context_request(std::string_view name, std::span<const std::string> queries);

/// What a client learns about an export.
struct ExportInfo {
    std::string name, description;
    std::uint64_t size = 0;
    std::uint16_t flags = 0;
    std::uint32_t minimum_block = 1, preferred_block = 4096, maximum_block = kMaxPayload;
    bool block_sizes = false;  ///< the server told them
    std::vector<std::string> contexts;
};
/// Takes one reply of type Info into `info`.
Result<> parse_info_reply(std::span<const std::byte> data, ExportInfo& info);

}  // namespace strata::block::nbd
