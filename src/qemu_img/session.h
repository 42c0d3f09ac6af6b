// Session: one run of the program: its loop, its secrets, and how it opens images.
//
// qemu-img's rules, which are not Strata's own: a format that is not named is guessed from the
// content, and files that an image names are opened. Whoever calls the program by this name asks
// for that.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "block/loop.h"
#include "block/node.h"
#include "block/registry.h"
#include "qemu_img/arguments.h"
#include "qemu_img/image_name.h"

namespace strata::qemu_img {

/// A cache mode's name taken apart.
struct Caching {
    block::CacheMode mode = block::CacheMode::Writeback;
};

/// "none", "directsync", "writeback", "writethrough", "unsafe"; the error begins with `what`.
Result<Caching> parse_caching(std::string_view what, const std::string& text);

/// How an image is named on the command line.
struct ImageSpec {
    std::string text;                   ///< a path, json:{…}, or with `options` a list of options
    std::optional<std::string> format;  ///< nothing: guess
    bool options = false;               ///< --image-opts
    bool guessed = false;  ///< `format` was guessed: a raw image's first sector must not become
                           ///< another format's
};

struct OpenMode {
    bool write = false;
    bool backing = true;  ///< open the backing chain
    bool data = true;     ///< the content will be read
    bool check = false;
    bool share = false;  ///< -U: no locks
    bool free_backing =
        false;  ///< no locks on the layers below: one of them is opened for writing besides
    bool unmap = false;  ///< discards give space back
    Caching caching{};
    block::OptionList extra{};  ///< more options of the format; those of secrets name them
};

class Session {
  public:
    static Result<std::unique_ptr<Session>> start();

    [[nodiscard]] block::Loop& loop() { return *loop_; }
    template <typename T>
    Result<T> run(block::Task<T> task) {
        return loop_->run(std::move(task));
    }
    /// --object secret,id=… and tls-creds-x509, tls-creds-psk, authz-simple: kept for what asks for
    /// them.
    Result<> add_object(const std::string& text);
    /// --object tls-creds-…: what it says, by name. The error is the peer's.
    struct TlsObject {
        bool psk = false, server = false, verify = true;
        std::string folder, user;
    };
    Result<TlsObject> tls_object(const std::string& id) const;
    /// --object authz-simple: the only name that may come in.
    Result<std::string> authorized_name(const std::string& id) const;
    /// Puts the secrets themselves in the place of their ids, in options that name secrets.
    Result<> resolve_secrets(block::OptionList& options) const;

    /// "Could not open 'NAME': reason" if it cannot.
    Result<block::NodePtr> open(const ImageSpec& spec, const OpenMode& mode);
    /// Brings everything to disk and lets go of it.
    Result<> close(block::NodePtr& node);

  private:
    explicit Session(std::unique_ptr<block::Loop> loop) : loop_(std::move(loop)) {}
    /// Of a name that is no path: a tree, or a server's export.
    Result<block::OpenOptions> options_of_tree(const ImageSpec& spec, const OpenMode& mode,
                                               block::OpenOptions options) const;
    /// resolve_secrets(); what opens without its data needs none, so that they need not be there.
    Result<> take_secrets(block::OptionList& options, const OpenMode& mode) const;
    Result<block::OpenOptions> options_of(const ImageSpec& spec, const OpenMode& mode) const;
    Result<> expand_credentials(block::OptionList& options) const;
    Result<block::NodePtr> open_guessing(block::OpenOptions options, bool warn);
    std::unique_ptr<block::Loop> loop_;
    std::map<std::string, std::string> secrets_;
    std::map<std::string, TlsObject> tls_objects_;
    std::map<std::string, std::string> authorized_;
};

/// What Session::open() says of `spec`, without "Could not open 'NAME': " in front.
std::string without_opening(const Error& error, const ImageSpec& spec);

/// Why a snapshot of `node` cannot be read.
std::string loading_failure(const Error& error, const block::Node& node);

/// The format that the file looks like ("raw" if none). Errors as open(2).
Result<std::string> probe_path(const std::string& path);
/// "Unknown protocol 'x'" for names such as "x:y" that are no path; "file:" is stripped, locations
/// (NBD) stay.
Result<std::string> plain_path(const std::string& name);

/// Files that images name, as the peer finds them.
std::shared_ptr<const block::ReferencePolicy> peer_references();
/// The image's name for people.
Result<std::string> shown_name(const ImageSpec& spec);

/// Options that most commands share.
inline constexpr OptionSpec kObjectOption{0, "object", true};
inline constexpr OptionSpec kImageOptsOption{0, "image-opts", false};
inline constexpr OptionSpec kForceShareOption{'U', "force-share", false};
inline constexpr OptionSpec kOutputOption{0, "output", true};

/// --output: true for json; the error of anything but human and json.
Result<bool> wants_json(const Arguments& arguments);
/// The image of `arguments` with `text`: -f and --image-opts taken from there.
Result<ImageSpec> image_spec(const Arguments& arguments, std::string text,
                             std::string_view format_key);
/// The snapshot that -l names: plain, or "snapshot.id=…,snapshot.name=…".
Result<std::string> snapshot_name(const std::string& text);
/// Takes in every --object.
Result<> take_objects(Session& session, const Arguments& arguments);

}  // namespace strata::qemu_img
