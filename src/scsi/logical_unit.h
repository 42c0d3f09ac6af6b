// LogicalUnit: a SCSI device server: commands in, statuses, sense and data out. SPC-4.
//
// It knows commands and a disk image, and no transport: whoever carries it (a virtio-scsi adapter,
// an ATAPI port) looks guest memory up, hands over a Task with views of it, and gets a Completion.
// Like a DiskQueue it is submitted to, kicked, and reaped when completion_fd() polls readable;
// commands that need no I/O complete within submit() and are there for the next reap(). What a unit
// can do is one table of commands, which REPORT SUPPORTED OPERATION CODES shows to the guest. There
// is one initiator. Threads: one at a time; the owner holds a lock of its own.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <sys/uio.h>

#include "block/disk_image.h"
#include "block/patient_queue.h"
#include "scsi/wire.h"
#include "state/state_stream.h"

namespace strata::scsi {

/// A command with views of the initiator's memory, which stay valid until its Completion was
/// reaped.
struct Task {
    std::uint64_t token = 0;  ///< the owner's, handed back; unique among the tasks under way
    std::array<std::uint8_t, 16> cdb{};
    std::vector<iovec> out{};  ///< data for the unit
    std::vector<iovec> in{};   ///< where its data goes
};

inline constexpr std::size_t kSenseSize = 18;

struct Completion {
    std::uint64_t token = 0;
    Status status = Status::Good;
    std::array<std::uint8_t, kSenseSize> sense{};  ///< with CheckCondition, in fixed format
    std::uint64_t moved = 0;                       ///< bytes of `in` filled or of `out` taken
    bool overrun = false;  ///< the command moves more than the views hold; nothing was done
};

struct UnitConfig {
    std::string serial;    ///< at most 36 characters
    unsigned depth = 256;  ///< disk requests at a time
    block::WriteErrorPolicy write_errors = block::WriteErrorPolicy::Enospc;
    block::ReadErrorPolicy read_errors = block::ReadErrorPolicy::Report;
    /// waiting() has begun or ceased to have an answer. From within the calls here.
    std::function<void()> on_wait = {};
};

class LogicalUnit {
  public:
    static constexpr std::size_t kSerialSize = 36;

    virtual ~LogicalUnit();
    LogicalUnit(const LogicalUnit&) = delete;
    LogicalUnit& operator=(const LogicalUnit&) = delete;

    void submit(Task task);
    void kick();
    /// -1 for a unit that never has I/O under way.
    [[nodiscard]] int completion_fd() const;
    /// Appends what has ended. May start I/O that goes on with a command.
    void reap(std::vector<Completion>& out);
    /// Waits until a disk request has ended, if any is under way.
    void wait();
    /// Tasks submitted and not reaped, those that wait for the host too.
    [[nodiscard]] std::size_t in_flight() const { return under_way_ + finished_.size(); }
    /// Disk requests under way: what wait() can wait for.
    [[nodiscard]] bool busy() const;

    /// Ends the task as soon as may be; it completes like any other. kick() and reap() follow.
    void cancel(std::uint64_t token);
    void cancel_all();
    /// Back to the state after power-on, but for tasks under way.
    void reset();
    /// What the initiator is told before its next command is carried out.
    void attention(Sense what);
    /// What REPORT LUNS answers: the units of the target that this one belongs to.
    void set_luns(std::vector<std::uint16_t> luns) { luns_ = std::move(luns); }

    /// What a write waits for, and another try of all that wait. kick() and reap() follow.
    [[nodiscard]] std::optional<block::DiskWait> waiting() const;
    void retry();

    [[nodiscard]] virtual DeviceKind kind() const = 0;
    /// Null: no medium.
    [[nodiscard]] block::DiskImage* image() const { return image_.get(); }
    /// Requests at a time that the unit wants of a queue.
    [[nodiscard]] unsigned depth() const { return depth_; }
    /// Goes on with `image`, which is the same disk, and `queue`, which is of it: completion_fd()
    /// is another one then. There is a medium, and nothing may be busy(); what waits for the host
    /// goes on waiting.
    void exchange_image(std::unique_ptr<block::DiskImage> image,
                        std::unique_ptr<block::DiskQueue> queue);

    /// Inside a section of the caller, while nothing is under way.
    void save(state::StateWriter& writer) const;
    void load(state::StateReader& reader);

  protected:
    enum class Step : std::uint8_t { Transfer, Sync, Pattern, Compare };
    struct Request {
        Task task;
        bool busy = false;
        bool cancelled = false;
        bool sync_after = false;
        Step step = Step::Transfer;
        unsigned outstanding = 0;  ///< disk requests
        int error = 0;             ///< of the first of them that failed
        bool reading = false;      ///< what failed was a read
        std::uint64_t moved = 0;
        std::uint64_t offset = 0, left = 0;  ///< Pattern, Compare: what is still to do
        std::vector<std::byte> own{};        ///< Pattern, Compare
    };

    using Handler = void (*)(LogicalUnit& unit, std::size_t at);
    template <typename Unit, void (Unit::*Method)(std::size_t)>
    static void call(LogicalUnit& unit, std::size_t at) {
        (static_cast<Unit&>(unit).*Method)(at);
    }
    struct Flag {
        static constexpr unsigned kMedium = 1;        ///< needs a medium
        static constexpr unsigned kAnyAttention = 2;  ///< carried out whatever happened to the unit
        static constexpr unsigned kWrites = 4;
    };
    static constexpr int kNoAction = -1;
    struct Command {
        std::uint8_t opcode = 0;
        int action = kNoAction;  ///< service action
        unsigned flags = 0;
        Handler handler = nullptr;
        std::array<std::uint8_t, 16> usage{};  ///< the bits of the command that mean something
    };

    /// `image`: null for no medium.
    static Result<std::unique_ptr<block::PatientQueue>> open_queue(block::DiskImage& image,
                                                                   const UnitConfig& config);
    LogicalUnit(const UnitConfig& config, std::unique_ptr<block::DiskImage> image,
                std::unique_ptr<block::PatientQueue> queue);

    // What kinds of units differ in.
    /// The commands beyond those that all units have.
    [[nodiscard]] virtual std::span<const Command> commands() const = 0;
    [[nodiscard]] virtual std::string_view product() const = 0;
    [[nodiscard]] virtual std::uint32_t block_size() const = 0;
    [[nodiscard]] virtual bool removable() const { return false; }
    /// The first byte of INQUIRY data.
    [[nodiscard]] virtual std::uint8_t peripheral() const {
        return static_cast<std::uint8_t>(kind());
    }
    /// kNone if there is a medium and it can be used.
    [[nodiscard]] virtual Sense medium_state() const;
    /// Version descriptors of INQUIRY data.
    [[nodiscard]] virtual std::span<const std::uint16_t> versions() const = 0;
    /// Vital product data pages beyond 00h, 80h and 83h, ascending, and their bodies.
    [[nodiscard]] virtual std::span<const std::uint8_t> vpd_pages() const { return {}; }
    [[nodiscard]] virtual std::vector<std::uint8_t> vpd_page(std::uint8_t /*page*/) const {
        return {};
    }
    /// Mode pages, ascending, and their bodies: two bytes of header included.
    [[nodiscard]] virtual std::span<const std::uint8_t> mode_pages() const = 0;
    [[nodiscard]] virtual std::vector<std::uint8_t> mode_page(std::uint8_t page) const = 0;
    [[nodiscard]] virtual std::uint8_t mode_parameter() const { return 0; }
    virtual void on_reset() {}
    /// Goes on with another medium, or none (both null), while nothing is under way.
    void set_medium(std::unique_ptr<block::DiskImage> image,
                    std::unique_ptr<block::PatientQueue> queue);
    virtual void save_unit(state::StateWriter& /*writer*/) const {}
    virtual void load_unit(state::StateReader& /*reader*/) {}

    // For handlers.
    [[nodiscard]] Request& request(std::size_t at) { return requests_[at]; }
    [[nodiscard]] std::span<const std::uint8_t> cdb(std::size_t at) const {
        return requests_[at].task.cdb;
    }
    [[nodiscard]] std::uint64_t cdb_field(std::size_t at, std::size_t place,
                                          std::size_t size) const {
        return get_be(requests_[at].task.cdb, place, size);
    }
    [[nodiscard]] std::uint64_t blocks() const;
    /// Copies `size` bytes of the initiator's data out; nothing if there are fewer.
    [[nodiscard]] std::vector<std::uint8_t> parameters(std::size_t at, std::size_t size) const;
    /// The `size` bytes of a command's parameter list; none: the request has ended, because the
    /// list is empty or the initiator sent fewer.
    [[nodiscard]] std::optional<std::vector<std::uint8_t>> parameter_list(std::size_t at,
                                                                          std::size_t size);
    /// Good status; `moved` bytes of data went over.
    void good(std::size_t at, std::uint64_t moved = 0);
    void fail(std::size_t at, Sense why, std::optional<std::uint64_t> information = std::nullopt);
    /// Good status with data, of which the initiator wants at most `allocation` bytes.
    void reply(std::size_t at, std::span<const std::uint8_t> data, std::uint64_t allocation);
    /// Reads or writes blocks with the task's memory, and brings them to the medium if `durable`.
    void transfer(std::size_t at, block::DiskOp op, std::uint64_t block, std::uint64_t count,
                  bool durable);
    /// Whether [block, block + count) lies on the medium; ends the request if not.
    bool in_range(std::size_t at, std::uint64_t block, std::uint64_t count);
    /// Whether the views of `side` hold `bytes`; ends the request if not.
    bool holds(std::size_t at, const std::vector<iovec>& side, std::uint64_t bytes);
    /// Submits a disk request as part of the command; its token is set here.
    void disk(std::size_t at, block::DiskRequest wanted);
    void sync(std::size_t at);
    /// Writes own (a pattern, again and again) over offset and left.
    void write_pattern(std::size_t at);
    /// Compares `out` with the medium at offset for left bytes.
    void compare(std::size_t at);

    static constexpr std::uint64_t kMaxBlocks = 0xffff;  ///< of one transfer
    static constexpr std::size_t kOwnMemory = 64 * 1024;

  private:
    [[nodiscard]] static std::span<const Command> common_commands();
    [[nodiscard]] const Command* find(std::uint8_t opcode, int action) const;
    [[nodiscard]] static std::size_t length_of(std::uint8_t opcode);
    void execute(std::size_t at);
    void completed(std::size_t at);
    void compared(std::size_t at);
    void end(std::size_t at, Completion completion);
    [[nodiscard]] static Completion failure(Sense why, std::optional<std::uint64_t> information);

    void test_unit_ready(std::size_t at) { good(at); }
    void request_sense(std::size_t at);
    void inquiry(std::size_t at);
    void report_luns(std::size_t at);
    void mode_sense(std::size_t at);
    void mode_select(std::size_t at);
    void report_opcodes(std::size_t at);
    [[nodiscard]] std::vector<std::uint8_t> all_opcodes(bool timeouts) const;
    [[nodiscard]] std::vector<std::uint8_t> one_opcode(const Command* command, bool timeouts) const;
    [[nodiscard]] std::vector<std::uint8_t> standard_inquiry() const;
    [[nodiscard]] std::vector<std::uint8_t> page_body(std::uint8_t page) const;
    [[nodiscard]] std::vector<std::uint8_t> identification() const;
    [[nodiscard]] std::vector<std::uint8_t> pages_for_mode(std::uint8_t page,
                                                           std::uint8_t control) const;

    const std::string serial_;
    const unsigned depth_;
    std::unique_ptr<block::DiskImage> image_;
    std::unique_ptr<block::PatientQueue> queue_;  ///< goes before the image
    std::vector<Request> requests_;               ///< the place is the queue's token
    std::vector<std::size_t> free_;
    std::vector<Completion> finished_;
    std::vector<block::DiskCompletion> scratch_;
    std::size_t under_way_ = 0;
    std::vector<Sense> attentions_;
    std::vector<std::uint16_t> luns_{0};
};

}  // namespace strata::scsi
