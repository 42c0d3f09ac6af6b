// Image store: folders, image.json, drafts.
#include "cli/image/store.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/text.h"
#include "base/unique_fd.h"

namespace strata::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxDescription = 64U << 10;

std::string environment(const char* name) {
    const char* value =
        std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nothing here sets the environment
    return value == nullptr ? "" : value;
}

Error file_error(std::string_view what, const std::string& path, const std::error_code& code) {
    return Error::from_errno(fmt::format("{} '{}'", what, path), code.value());
}

// A file of an image stays inside its folder.
bool is_plain_name(const std::string& name) {
    return name.find('/') == std::string::npos && name != ".." && name != ".";
}

Result<Image> read_image(const std::string& folder) {
    const std::string text = STRATA_TRY(read_file(folder + "/image.json", kMaxDescription));
    const api::Json json = STRATA_TRY(api::parse_json(text));
    api::ObjectReader reader(json, "");
    Image image;
    image.folder = folder;
    image.name = reader.text("name");
    image.description = reader.text("description");
    image.kernel = reader.text("kernel");
    image.initrd = reader.text("initrd");
    image.append = reader.text("append");
    image.memory_bytes = reader.number("memory_bytes", 0, 0, api::kMaxMemory);
    for (const api::Json* disk : reader.array("disks", api::kMaxDisks)) {
        if (!disk->is_string()) {
            reader.reject("disks", "must be texts");
            break;
        }
        image.disks.push_back(disk->get<std::string>());
    }
    STRATA_TRY_VOID(reader.finish());
    const bool plain = is_plain_name(image.kernel) && is_plain_name(image.initrd) &&
                       std::all_of(image.disks.begin(), image.disks.end(), is_plain_name);
    if (!plain) {
        return Error{ErrorKind::InvalidArgument, "a file name leads out of the image's folder"};
    }
    return image;
}

}  // namespace

std::string store_folder() {
    if (std::string chosen = environment("STRATA_IMAGES"); !chosen.empty()) {
        return chosen;
    }
    if (geteuid() == 0) {
        return "/var/lib/strata/images";
    }
    if (const std::string data = environment("XDG_DATA_HOME"); !data.empty()) {
        return data + "/strata/images";
    }
    return environment("HOME") + "/.local/share/strata/images";
}

std::vector<std::string> image_names() {
    std::vector<std::string> names;
    std::error_code code;
    for (fs::directory_iterator place(store_folder(), code), end; !code && place != end;
         place.increment(code)) {
        const std::string name = place->path().filename().string();
        std::error_code ignored;  // a folder that cannot be looked into is no image
        if (!name.starts_with('.') && fs::exists(place->path() / "image.json", ignored)) {
            names.push_back(name);
        }
    }
    std::sort(names.begin(), names.end());
    return names;
}

Result<> check_image_name(std::string_view name) {
    constexpr std::string_view kAllowed =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:";
    const bool fits = !name.empty() && name.size() <= 64 &&
                      name.find_first_not_of(kAllowed) == std::string_view::npos &&
                      std::string_view(".-_:").find(name.front()) == std::string_view::npos;
    if (!fits) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("'{}' is not an image name: use letters, digits and .-_:", name)};
    }
    return ok();
}

Result<Image> find_image(std::string_view name) {
    STRATA_TRY_VOID(check_image_name(name));
    const std::string folder = fmt::format("{}/{}", store_folder(), name);
    std::error_code code;
    if (!fs::exists(folder + "/image.json", code)) {
        const std::vector<std::string> names = image_names();
        std::vector<std::string_view> known(names.begin(), names.end());
        known.insert(known.end(), {"tiny", "debian:12"});
        const std::string_view near = nearest(name, known);
        const bool buildable = name == "tiny" || name == "debian:12";
        return Error{
            ErrorKind::NotFound,
            fmt::format("no image '{}' in {}: {}", name, store_folder(),
                        buildable ? fmt::format("make it with 'strata image build {}'", name)
                        : !near.empty()
                            ? fmt::format("did you mean '{}'?", near)
                            : "'strata image list' shows what there is, or give --kernel")};
    }
    auto image = read_image(folder);
    if (!image) {
        return std::move(image).error().context(
            fmt::format("image '{}' is damaged, build it again", name));
    }
    return image;
}

Result<ImageDraft> ImageDraft::begin(std::string_view name, bool replace) {
    STRATA_TRY_VOID(check_image_name(name));
    const std::string store = store_folder();
    std::error_code code;
    fs::create_directories(store, code);
    if (code) {
        return file_error("creating the image store", store, code);
    }
    const std::string target = fmt::format("{}/{}", store, name);
    if (!replace && fs::exists(target, code)) {
        return Error{ErrorKind::AlreadyExists,
                     fmt::format("image '{}' exists already in {}: use --replace to build it anew",
                                 name, store)};
    }
    std::string folder = store + "/.build-XXXXXX";
    if (mkdtemp(folder.data()) == nullptr) {
        return Error::from_errno(fmt::format("creating a folder in '{}'", store));
    }
    if (chmod(folder.c_str(), 0755) != 0) {
        return Error::from_errno(fmt::format("'{}'", folder));
    }
    return ImageDraft(folder, target, replace);
}

ImageDraft::ImageDraft(ImageDraft&& other) noexcept
    : folder_(std::exchange(other.folder_, "")),
      target_(std::move(other.target_)),
      replace_(other.replace_) {}

ImageDraft::~ImageDraft() {
    if (!folder_.empty()) {
        std::error_code code;  // what cannot be removed stays behind under a hidden name
        fs::remove_all(folder_, code);
    }
}

Result<> ImageDraft::commit(const Image& image) {
    const api::Json json{{"name", image.name},
                         {"description", image.description},
                         {"kernel", image.kernel},
                         {"initrd", image.initrd},
                         {"append", image.append},
                         {"disks", image.disks},
                         {"memory_bytes", image.memory_bytes}};
    STRATA_TRY_VOID(write_file(folder_ + "/image.json", api::dump_json_pretty(json)));
    std::error_code code;
    const std::string old = folder_ + ".old";
    if (replace_ && fs::exists(target_, code)) {
        fs::rename(target_, old, code);
        if (code) {
            return file_error("moving the old image away", target_, code);
        }
    }
    fs::rename(folder_, target_, code);
    if (code) {
        return file_error("moving the image into place", target_, code);
    }
    folder_.clear();
    fs::remove_all(old, code);
    return ok();
}

Result<> write_file(const std::string& path, std::string_view text) {
    const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (!fd) {
        return Error::from_errno(fmt::format("writing '{}'", path));
    }
    while (!text.empty()) {
        const ssize_t done = write(fd.get(), text.data(), text.size());
        if (done < 0 && errno != EINTR) {
            return Error::from_errno(fmt::format("writing '{}'", path));
        }
        text.remove_prefix(done > 0 ? static_cast<std::size_t>(done) : 0);
    }
    return ok();
}

Result<std::string> read_file(const std::string& path, std::size_t limit) {
    const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) {
        return Error::from_errno(fmt::format("reading '{}'", path));
    }
    std::string text;
    std::array<char, 65536> chunk{};
    for (;;) {
        const ssize_t got = read(fd.get(), chunk.data(), chunk.size());
        if (got == 0) {
            return text;
        }
        if (got < 0 && errno != EINTR) {
            return Error::from_errno(fmt::format("reading '{}'", path));
        }
        text.append(chunk.data(), got > 0 ? static_cast<std::size_t>(got) : 0);
        if (text.size() > limit) {
            return Error{ErrorKind::Failed,
                         fmt::format("'{}' is larger than {}", path, format_size(limit))};
        }
    }
}

}  // namespace strata::cli
