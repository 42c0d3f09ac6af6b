// Disk files: opening and making.
#include "cli/image/disk_files.h"

#include "base/text.h"

namespace strata::cli {

Result<std::unique_ptr<block::BlockingImage>> open_source(std::string_view path, std::string_view format, bool follow_references) {
    block::OpenOptions options;
    options.path = path;
    options.format = format;
    options.read_only = true;
    options.references = follow_references ? block::follow_references() : nullptr;
    return block::BlockingImage::open(std::move(options));
}

Result<> make_disk(const NewDisk& disk) {
    block::CreateRequest request;
    request.path = disk.path;
    request.size = disk.size;
    for (const std::string_view list : disk.options) {
        for (const std::string_view each : split(list, ',')) {
            const std::size_t equals = each.find('=');
            request.options.emplace_back(each.substr(0, equals), equals == std::string_view::npos ? "on" : each.substr(equals + 1));
        }
    }
    if (!disk.backing.empty()) {
        request.options.emplace_back("backing_file", disk.backing);
        request.options.emplace_back("backing_fmt", disk.backing_format);
    }
    return block::BlockingImage::create(disk.format, std::move(request));
}

}  // namespace strata::cli
