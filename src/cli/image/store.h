// Image store: named images on this machine, one folder each.
//
// A folder holds image.json (what `strata run NAME` needs to know) and the files it names. Images
// are built in a hidden folder beside the others and renamed into place when complete, so a
// half-made image is never seen.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "api/machine_config.h"
#include "base/result.h"

namespace strata::cli {

/// What image.json says. File names are relative to the image's folder.
struct Image {
    std::string name;
    std::string description;
    std::string kernel;
    std::string initrd;
    std::string append;
    std::vector<std::string> disks;
    std::uint64_t memory_bytes = 0;  ///< advice; 0: none
    std::string folder;              ///< where it lies; not in the file
};

/// $STRATA_IMAGES, or /var/lib/strata/images for root, or $XDG_DATA_HOME/strata/images
/// (~/.local/share/…).
std::string store_folder();

/// The names of all complete images, sorted.
std::vector<std::string> image_names();

/// Letters, digits, '.', '-', '_' and ':', starting with a letter or digit, at most 64.
Result<> check_image_name(std::string_view name);

/// NotFound with near matches and what to do.
Result<Image> find_image(std::string_view name);

/// A folder in the making; removed when dropped before commit().
class ImageDraft {
  public:
    /// AlreadyExists if the image exists and `replace` is false.
    static Result<ImageDraft> begin(std::string_view name, bool replace);
    ImageDraft(ImageDraft&& other) noexcept;
    ImageDraft& operator=(ImageDraft&&) = delete;
    ImageDraft(const ImageDraft&) = delete;
    ImageDraft& operator=(const ImageDraft&) = delete;
    ~ImageDraft();

    [[nodiscard]] const std::string& folder() const { return folder_; }
    /// Writes image.json and moves the folder into the store.
    Result<> commit(const Image& image);

  private:
    ImageDraft(std::string folder, std::string target, bool replace)
        : folder_(std::move(folder)), target_(std::move(target)), replace_(replace) {}
    std::string folder_;
    std::string target_;
    bool replace_;
};

/// Writes `text` to a new file, or over an old one.
Result<> write_file(const std::string& path, std::string_view text);
/// All of a file of at most `limit` bytes.
Result<std::string> read_file(const std::string& path, std::size_t limit);

}  // namespace strata::cli
