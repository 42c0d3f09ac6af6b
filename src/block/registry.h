// Block graph: the registry of formats and protocols, and opening and creating images through it.
//
// A format lies in formats/NAME/, with a driver() in NAME.h, and has one line in registry.cc. The
// format of an image is named by whoever opens it; probe_format() exists for tools that were told
// to guess, and never for a disk that a guest wrote. Files that an image names (backing, data,
// extents) are opened through the ReferencePolicy alone: without one, not at all.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "block/disk_image.h"
#include "block/image_info.h"
#include "block/node.h"
#include "block/node_tree.h"

namespace strata::block {

inline constexpr unsigned kMaxChain = 200;

/// A file that an image names.
struct Reference {
    enum class Kind : std::uint8_t { Backing, Data, Extent };
    Kind kind = Kind::Backing;
    std::string name;      ///< as it stands in the image; untrusted
    std::string format;    ///< as the image says; may be empty
    std::string referrer;  ///< path of the image that names it
};

/// Where a reference leads.
struct Resolved {
    std::string path;
    UniqueFd fd;             ///< already open, or invalid
    std::string format;      ///< empty: unknown
    std::string protocol{};  ///< as in OpenOptions
    OptionList protocol_options{};
    NodeTree tree{};  ///< not empty: nodes to open instead of `path`, which is the name then
    NodePtr node{};   ///< not null: it is open already, and all else is of no account
};

/// Decides whether and how files that images name are opened.
class ReferencePolicy {
  public:
    virtual ~ReferencePolicy() = default;
    virtual Result<Resolved> resolve(const Reference& reference) const = 0;
};

/// Follows plain file names, relative to the image that names them; URLs and pseudo-names (json:,
/// nbd: …) are refused. For trusted images.
std::shared_ptr<const ReferencePolicy> follow_references();

struct OpenOptions {
    std::string
        path;  ///< what to open, or with `fd` only for messages and as the base of relative names
    UniqueFd fd;                 ///< already open
    std::string format = "raw";  ///< empty only for "file": a bare protocol node
    std::string protocol;        ///< what is below the format: empty for a file or device, or "nbd"
    OptionList protocol_options;  ///< where a protocol other than files finds it (nbd/address.h)
    bool read_only = false;
    CacheMode cache = CacheMode::Writeback;
    bool lock = true;          ///< refuse an image that another program writes to
    bool lock_backing = true;  ///< the same for the layers below; false: the caller writes to one
                               ///< of them itself (commit)
    bool discard = true;       ///< discards and unmapping zero writes give space back
    std::shared_ptr<const ReferencePolicy>
        references;  ///< null: none is opened, and an image that needs one is an error
    bool open_backing =
        true;  ///< false: without its backing file (info, rebase -u); what it lacks reads as zeros
    bool open_data = true;   ///< false: without its data file (info)
    bool for_check = false;  ///< to be checked: damage that hinders use is not an error of opening
    bool guess = false;      ///< a tree's nodes without a driver: guess the format from the content
    NodeTree tree;  ///< not empty: open these nodes (open_tree()) instead of `path` and `format`
    std::optional<NodeTree> backing;  ///< the layer below, instead of what the image names
    unsigned depth = 0;               ///< nodes of a tree above
    bool named_by_image =
        false;         ///< an image names these nodes: those that write elsewhere are refused
    OptionList extra;  ///< of the format: "lazy-refcounts", "overlap-check", "key" …
    std::vector<std::pair<std::uint64_t, std::uint64_t>>
        above{};  ///< device and inode of the images above this one

    [[nodiscard]] std::string_view extra_of(std::string_view name,
                                            std::string_view fallback = {}) const;
    /// How a layer or a part of this image is opened: all but its name and what is this image's
    /// own.
    [[nodiscard]] OpenOptions below() const;
};

struct CreateRequest {
    std::string path;
    std::uint64_t size = 0;
    OptionList options;  ///< of the driver's create_options, checked against them
    std::shared_ptr<const ReferencePolicy>
        references{};  ///< how a backing file's name is followed; null: follow_references()
    [[nodiscard]] std::string_view option(std::string_view name,
                                          std::string_view fallback = {}) const;
    Result<bool> flag(std::string_view name, bool fallback) const;
    /// With suffixes k, M, G, T, P, E.
    Result<std::uint64_t> number(std::string_view name, std::uint64_t fallback) const;
};

struct FormatDriver {
    std::string_view name;
    /// How sure it is, 0 to 100, from the start of the file (up to 2 KiB) and the path's ending.
    unsigned (*probe)(std::span<const std::byte> start, std::string_view path) = nullptr;
    /// `file`: the protocol node of options.path.
    Task<NodePtr> (*open)(NodePtr file, OpenOptions options) = nullptr;
    Task<> (*create)(Loop& loop, CreateRequest request) = nullptr;  ///< null: cannot be created
    std::span<const CreateOption> create_options{};
    /// The size of an image of `size` bytes with what `source` (may be null) has; null: cannot say.
    Task<Measurement> (*measure)(Node* source, CreateRequest request) = nullptr;
    bool backing = false;  ///< can be an overlay
    bool (*compresses)(const CreateRequest& request) =
        nullptr;  ///< an image made so takes compressed writes; null: none does
};

/// A node that is no format: a protocol other than files, a filter.
struct NodeDriver {
    std::string_view name;
    /// `tree` is what was said of it, without its driver.
    Task<NodePtr> (*open)(Loop& loop, NodeTree tree, OpenOptions options) = nullptr;
    bool named_by_images = true;  ///< harmless: may stand in a name inside an image, where the
                                  ///< policy follows such names
};

/// All of them, in the order of their names.
[[nodiscard]] std::span<const NodeDriver> node_drivers();

/// All formats, in the order of their names.
[[nodiscard]] std::span<const FormatDriver> format_drivers();
/// NotSupported, naming the known ones.
Result<const FormatDriver*> find_format(std::string_view name);
/// The format that `file` looks like; "raw" if none.
Task<std::string> probe_format(Node& file);

/// Opens an image with what it refers to, as far as the policy allows. Format "file": the bare
/// protocol node.
Task<NodePtr> open_node(Loop& loop, OpenOptions options);
/// The format of options over `file`, which is open already.
Task<NodePtr> open_format(NodePtr file, OpenOptions options);
/// `name` is a location of a protocol, nbd://host/export for instance, and no file's name: options
/// for it.
[[nodiscard]] bool is_location(std::string_view name);
Result<> set_location(OpenOptions& options, std::string_view name);
/// Opens the nodes of options.tree; what is below a format is a protocol node unless it says
/// otherwise.
Task<NodePtr> open_tree(Loop& loop, OpenOptions options);
/// For filters: opens what `tree` says of the child `name`, with the caller's `options` else.
Task<NodePtr> open_child(Loop& loop, NodeTree& tree, std::string_view name,
                         const OpenOptions& options);
/// For formats: makes `path` an empty file of `size` bytes (what was there is dropped) and opens it
/// as a protocol node. A device keeps its size, which must do. An NBD export, named by its
/// location, is as a device.
Task<NodePtr> open_new(Loop& loop, std::string path, std::uint64_t size);
/// For formats: opens what `reference` names, below `parent`; `read_only` unless said otherwise,
/// format from the reference (Data and Extent: a bare protocol node if it has none).
Task<NodePtr> open_reference(Loop& loop, const OpenOptions& parent, Reference reference,
                             bool read_only = true);
/// Creates an image; unknown options are errors that list the known ones.
Task<> create_image(Loop& loop, std::string format, CreateRequest request);

}  // namespace strata::block
