// DiskImage: a disk that somebody stores somewhere: the interface of all formats, and open_disk().
//
// Every ability is asked for and answered; a format that lacks one says so. Formats lie in
// formats/, the ways of doing the host's I/O in engines/. The format is never guessed from the
// content (a guest could write another format's header into a raw disk): it is an option.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "block/disk_request.h"

namespace strata::block {

/// How the host caches. The guest's flushes are obeyed in all but Unsafe.
enum class CacheMode : std::uint8_t {
    Writeback,     ///< the host's page cache; durable after a flush
    Writethrough,  ///< the host's page cache for reading; every write is durable when it completes
    None,          ///< O_DIRECT: no page cache; durable after a flush
    Unsafe,        ///< flushes are ignored: for disks that are thrown away
};

/// "writeback", "writethrough", "none", "unsafe".
Result<CacheMode> parse_cache_mode(std::string_view text);

enum class IoEngine : std::uint8_t { Auto, Uring, Threads };

/// "auto", "uring", "threads".
Result<IoEngine> parse_io_engine(std::string_view text);

struct DiskOptions {
    std::string path;  ///< what to open, or with `fd` only for messages
    UniqueFd fd;       ///< already open: `path` is not opened then
    std::string format = "raw";
    bool read_only = false;
    CacheMode cache = CacheMode::Writeback;
    IoEngine engine = IoEngine::Auto;
    bool lock = true;     ///< refuse a disk that another program writes to
    bool discard = true;  ///< discards give space back
    bool follow_references =
        false;  ///< open files that the image names (backing files): for trusted images
    std::vector<std::pair<std::string, std::string>>
        limits{};               ///< names and values of throttle::Limits
    std::string limit_group{};  ///< disks of one group have its limits together
};

/// What a disk can do and how it wants to be asked.
struct DiskTraits {
    std::uint64_t size = 0;  ///< bytes, a multiple of 512
    bool read_only = false;
    bool write_cache = true;  ///< writes are durable only after a flush
    bool discard = false;
    bool write_zeroes = false;
    std::uint32_t physical_block = 512;  ///< bytes; writes of less are read-modify-write below
    std::uint32_t discard_alignment = 512;
};

class DiskImage {
  public:
    virtual ~DiskImage() = default;
    /// The path or what stands for it, for messages.
    [[nodiscard]] virtual std::string_view name() const = 0;
    [[nodiscard]] virtual std::string_view format() const = 0;
    [[nodiscard]] virtual const DiskTraits& traits() const = 0;
    /// A new queue for at most `depth` requests at a time (more wait inside). The image outlives
    /// it.
    virtual Result<std::unique_ptr<DiskQueue>> open_queue(unsigned depth) = 0;
};

/// Opens a disk. The error names the file, the reason and what to do.
Result<std::unique_ptr<DiskImage>> open_disk(DiskOptions options);

}  // namespace strata::block
