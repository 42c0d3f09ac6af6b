// CopyRecord: a few lines of JSON, replaced by renaming.
#include "cli/image/copy_record.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <set>
#include <span>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/unique_fd.h"

namespace strata::cli {
namespace {

constexpr std::size_t kMostBytes = 64U << 10;
constexpr std::string_view kKey = "strata_copy", kDone = "done";

Error trouble(std::string_view deed, const std::string& path) {
    return Error::from_errno(fmt::format("cannot {} '{}'", deed, path));
}

api::Json time_of(const timespec& time) {
    return {time.tv_sec, time.tv_nsec};
}

/// Whatever changes when a file's content does.
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
    return api::Json{status.st_dev, status.st_ino, status.st_size, time_of(status.st_mtim),
                     time_of(status.st_ctim)};
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

Result<> write_durably(const std::string& path, std::string_view text) {
    const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
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

/// The record at `path`; null if there is none that can be read.
api::Json read_record(const std::string& path) {
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    std::string text(kMostBytes, '\0');
    const ssize_t count = fd ? ::read(fd.get(), text.data(), text.size()) : -1;
    text.resize(count < 0 ? 0 : static_cast<std::size_t>(count));
    auto parsed = api::parse_json(text);
    const bool good = parsed.ok() && parsed->is_object() && parsed->contains(kKey) &&
                      parsed->contains(kDone) && (*parsed)[kDone].is_number_unsigned();
    return good ? std::move(parsed).value() : api::Json();
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
    return CopyRecord(std::move(what), request.path);
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

std::uint64_t CopyRecord::done() const {
    api::Json record = read_record(path_);
    const auto wanted = identity();
    if (record.is_null() || !wanted.ok()) {
        return 0;
    }
    const auto done = record[kDone].get<std::uint64_t>();
    record.erase(kDone);
    const bool same = api::dump_json(record) == api::dump_json(*wanted);
    return same && done <= what_["size"].get<std::uint64_t>() ? done : 0;
}

Result<> CopyRecord::put(std::uint64_t done) {
    api::Json record = STRATA_TRY(identity());
    record[kDone] = done;
    const std::string fresh = path_ + ".new";
    STRATA_TRY_VOID(write_durably(fresh, api::dump_json(record) + "\n"));
    if (::rename(fresh.c_str(), path_.c_str()) != 0) {
        return trouble("replace", path_);
    }
    return sync_folder(path_);
}

Result<> CopyRecord::forget(const std::string& target) {
    const std::string path = path_of(target);
    if (read_record(path).is_null()) {
        return ok();  // not there, or somebody else's file
    }
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
        return trouble("remove", path);
    }
    return sync_folder(path);
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
