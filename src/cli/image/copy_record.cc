// CopyRecord: a few lines of JSON, replaced by renaming.
#include "cli/image/copy_record.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <span>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/unique_fd.h"

namespace strata::cli {
namespace {

constexpr std::size_t kMostBytes = 512U << 10;
constexpr std::string_view kKey = "strata_copy", kDone = "done";
constexpr std::string_view kStart = R"({"strata_copy":)";  ///< of a record's text
constexpr std::size_t kLongestRest = 256;                  ///< what put() adds to what it has

Error trouble(std::string_view deed, const std::string& path) {
    return Error::from_errno(fmt::format("cannot {} '{}'", deed, path));
}

api::Json time_of(const timespec& time) {
    return {time.tv_sec, time.tv_nsec};
}

/// Whatever changes when a file's content does.
api::Json state(const struct stat& status) {
    return {status.st_dev, status.st_ino, status.st_size, time_of(status.st_mtim),
            time_of(status.st_ctim)};
}

Result<api::Json> state_of(const std::string& path) {
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0) {
        return trouble("look at", path);
    }
    if (!S_ISREG(status.st_mode)) {
        return Error{ErrorKind::NotSupported,
                     fmt::format("'{}' is no regular file: it does not tell whether it has changed "
                                 "since, so a copy of it cannot go on (leave out --resume)",
                                 path)};
    }
    return state(status);
}

/// Of each file; the reason why, of what cannot be looked at.
api::Json states(const std::vector<std::string>& files) {
    api::Json all = api::Json::array();
    for (const std::string& each : files) {
        struct stat status {};
        all.push_back(::stat(each.c_str(), &status) == 0 ? state(status) : api::Json(errno));
    }
    return all;
}

/// The files that `node` and all below it are made of.
Result<> add_leaves(const block::Node& node, std::set<std::string>& files) {
    if (node.format() == "file") {
        files.insert(node.name());
        return ok();
    }
    const auto children = node.children();
    if (children.empty()) {
        return Error{
            ErrorKind::NotSupported,
            fmt::format("'{}' is no file of this host: it does not tell whether it has changed "
                        "since, so a copy of it cannot go on (leave out --resume)",
                        node.name())};
    }
    for (const block::Node* each : children) {
        STRATA_TRY_VOID(add_leaves(*each, files));
    }
    return ok();
}

Result<> sync_folder(const std::string& path) {
    const auto folder = std::filesystem::absolute(path).parent_path();
    const UniqueFd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd || ::fsync(fd.get()) != 0) {
        return trouble("bring to the disk", folder.string());
    }
    return ok();
}

/// Where a record is made; a program that was killed may leave it behind.
std::string unfinished(const std::string& path) {
    return path + ".new";
}

Error in_the_way(const std::string& path) {
    return {ErrorKind::AlreadyExists,
            fmt::format("'{}' is in the way of what a copy puts down of itself, and not by a copy: "
                        "rename it, or leave out --resume",
                        path)};
}

/// A plain file to read; invalid with an errno of 0 if it is something else.
UniqueFd open_plain(const std::string& path, struct stat& status) {
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    if (fd && ::fstat(fd.get(), &status) != 0) {
        return {};
    }
    if (fd ? !S_ISREG(status.st_mode) : errno == ELOOP || errno == ENXIO) {
        fd.reset();
        errno = 0;
    }
    return fd;
}

/// Nothing unless a file of ours is there that is not finished, or never got its place; else an
/// error: neither overwritten nor followed.
Result<> remove_unfinished(const std::string& path) {
    struct stat status {};
    const UniqueFd fd = open_plain(path, status);
    if (!fd) {
        return errno == ENOENT ? ok() : errno == 0 ? in_the_way(path) : trouble("look at", path);
    }
    std::string text(kStart.size(), '\0');
    const ssize_t count = ::read(fd.get(), text.data(), text.size());
    if (count < 0) {
        return trouble("look at", path);
    }
    text.resize(static_cast<std::size_t>(count));
    if (!kStart.starts_with(text) || status.st_uid != ::geteuid()) {
        return in_the_way(path);
    }
    return ::unlink(path.c_str()) == 0 ? ok() : Result<>(trouble("remove", path));
}

Result<> write_durably(const std::string& path, std::string_view text) {
    STRATA_TRY_VOID(remove_unfinished(path));
    const UniqueFd fd(
        ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!fd) {
        return trouble("make", path);
    }
    while (!text.empty()) {
        const ssize_t count = ::write(fd.get(), text.data(), text.size());
        if (count < 0) {
            return trouble("write", path);
        }
        text.remove_prefix(static_cast<std::size_t>(count));
    }
    return ::fsync(fd.get()) == 0 ? ok() : Result<>(trouble("write", path));
}

/// What is at `path`: nothing, a record, or (null) something else.
Result<std::optional<api::Json>> read_record(const std::string& path) {
    struct stat status {};
    const UniqueFd fd = open_plain(path, status);
    if (!fd) {
        const bool none = errno == ENOENT || errno == ENOTDIR || errno == ENAMETOOLONG;
        if (none || errno == 0) {
            return none ? std::optional<api::Json>() : std::optional(api::Json());
        }
        return trouble("look at", path);
    }
    std::string text(kMostBytes, '\0');
    const ssize_t count = ::read(fd.get(), text.data(), text.size());
    if (count < 0) {
        return trouble("look at", path);
    }
    text.resize(static_cast<std::size_t>(count));
    auto parsed = api::parse_json(text);
    const bool good = parsed.ok() && parsed->is_object() && parsed->contains(kKey) &&
                      parsed->contains(kDone) && (*parsed)[kDone].is_number_unsigned();
    return std::optional(good ? std::move(parsed).value() : api::Json());
}

/// The same; AlreadyExists if it is something else.
Result<std::optional<api::Json>> read_own(const std::string& path) {
    auto found = STRATA_TRY(read_record(path));
    if (found && found->is_null()) {
        return in_the_way(path);
    }
    return found;
}

/// Durable when it answers.
Result<> move(const std::string& from, const std::string& to) {
    if (::rename(from.c_str(), to.c_str()) != 0) {
        return trouble("replace", to);
    }
    return sync_folder(to);
}

Result<> drop(const std::string& path) {
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
        return trouble("remove", path);
    }
    return sync_folder(path);
}

}  // namespace

Result<CopyRecord> CopyRecord::of(const block::Node& source, const block::CreateRequest& request,
                                  api::Json how) {
    std::set<std::string> files;
    STRATA_TRY_VOID(add_leaves(source, files));
    api::Json what = {{kKey, 1}, {"size", request.size}, {"how", std::move(how)}};
    what["options"] = api::Json::array();
    for (const auto& [name, value] : request.options) {
        // A passphrase is not written down; a wrong one does not open the target.
        what["options"].push_back({name, name.ends_with("key-secret") ? "" : value});
    }
    what["source"] = api::Json::array();
    for (const std::string& each : files) {
        what["source"].push_back(STRATA_TRY(state_of(each)));
    }
    struct stat status {};
    if (block::is_location(request.path) ||
        (::stat(request.path.c_str(), &status) == 0 && !S_ISREG(status.st_mode))) {
        return Error{ErrorKind::NotSupported,
                     fmt::format("'{}' is no regular file: how far a copy into it has come cannot "
                                 "be put down beside it (leave out --resume)",
                                 request.path)};
    }
    if (api::dump_json(what).size() + kLongestRest > kMostBytes) {
        return Error{ErrorKind::NotSupported,
                     fmt::format("'{}' is made of too many files for a copy of it to be put down "
                                 "(leave out --resume)",
                                 source.name())};
    }
    CopyRecord record(std::move(what), request.path);
    STRATA_TRY_VOID(read_own(record.path_));
    STRATA_TRY_VOID(remove_unfinished(unfinished(record.path_)));
    return record;
}

/// What a record must say beside the offset.
Result<api::Json> CopyRecord::identity() const {
    struct stat status {};
    if (::stat(target_.c_str(), &status) != 0) {
        return trouble("look at", target_);
    }
    api::Json all = what_;
    all["target"] = {status.st_dev, status.st_ino};
    return all;
}

Result<std::uint64_t> CopyRecord::done() const {
    std::optional<api::Json> record = STRATA_TRY(read_own(path_));
    if (!record) {
        return std::uint64_t{0};
    }
    const auto wanted = identity();
    if (!wanted.ok() && wanted.error().kind() != ErrorKind::NotFound) {
        return wanted.error();
    }
    const auto done = (*record)[kDone].get<std::uint64_t>();
    record->erase(kDone);
    const bool same = wanted.ok() && api::dump_json(*record) == api::dump_json(*wanted) &&
                      done <= what_["size"].get<std::uint64_t>();
    return same ? done : std::uint64_t{0};
}

Result<> CopyRecord::put(std::uint64_t done) {
    api::Json record = STRATA_TRY(identity());
    record[kDone] = done;
    STRATA_TRY_VOID(read_own(path_));
    STRATA_TRY_VOID(write_durably(unfinished(path_), api::dump_json(record) + "\n"));
    return move(unfinished(path_), path_);
}

Result<> CopyRecord::remove() const {
    STRATA_TRY_VOID(read_own(path_));
    return drop(path_);
}

Result<> CopyRecord::replace(const std::string& target, const std::vector<std::string>& files,
                             const std::function<Result<>()>& make) {
    const std::string path = path_of(target), aside = unfinished(path);
    const auto found = STRATA_TRY(read_record(path));
    if (!found || found->is_null()) {
        return make();  // not there, or somebody else's file
    }
    const api::Json before = states(files);
    STRATA_TRY_VOID(remove_unfinished(aside));
    STRATA_TRY_VOID(move(path, aside));
    Result<> made = make();
    if (made.ok() || states(files) != before) {
        Result<> gone = drop(aside);
        return made.ok() ? std::move(gone) : std::move(made);
    }
    const Result<> back = move(aside, path);
    return back.ok() ? std::move(made)
                     : Error(made.error().kind(),
                             fmt::format("{}; {}", made.error().text(), back.error().text()),
                             made.error().system_errno());
}

std::vector<std::uint64_t> samples(std::uint64_t end, std::uint64_t bytes) {
    constexpr std::uint64_t kPlaces = 64;
    std::vector<std::uint64_t> places;
    for (std::uint64_t i = 0; end >= bytes && i < kPlaces; ++i) {
        const std::uint64_t at = (end - bytes) / kPlaces * i;
        places.push_back(at - at % 512);
    }
    places.push_back(end >= bytes ? end - bytes : 0);
    return places;
}

}  // namespace strata::cli
