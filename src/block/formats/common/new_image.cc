// NewImage: making an image file out of a few pieces.
#include "block/formats/common/new_image.h"

#include <algorithm>

#include <fmt/format.h>

#include "block/formats/common/wire.h"
#include "block/wording.h"

namespace strata::block {

Task<> write_new_image(Loop& loop, std::string path, Pieces pieces, std::uint64_t size,
                       Preallocation preallocation) {
    STRATA_CO_TRY(
        const NodePtr file,
        co_await open_new(loop, std::move(path), preallocation == Preallocation::Off ? size : 0));
    if (preallocation != Preallocation::Off) {
        STRATA_CO_TRY_VOID(co_await file->resize(size, preallocation));
    }
    for (auto it = pieces.rbegin(); it != pieces.rend(); ++it) {
        STRATA_CO_TRY_VOID(co_await file->write(it->first, Buffers::of(it->second)));
    }
    STRATA_CO_TRY_VOID(co_await file->flush());
    co_return co_await file->close();
}

Result<std::string_view> choice(const CreateRequest& request, std::string_view name,
                                std::span<const std::string_view> allowed) {
    const std::string_view value = request.option(name, allowed.front());
    const auto found = std::find(allowed.begin(), allowed.end(), value);
    if (found == allowed.end() && wording() == Wording::Qemu) {
        std::string theirs(name);
        std::ranges::replace(theirs, '_', '-');
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("Parameter '{}' does not accept value '{}'", theirs, value)};
    }
    if (found == allowed.end()) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("{}={}: use {}", name, value, fmt::join(allowed, ", "))};
    }
    return *found;
}

Result<std::uint64_t> disk_size_of(const CreateRequest& request, std::string_view format,
                                   std::uint64_t limit) {
    const std::uint64_t size = round_up(request.size, 512);
    if (size == 0 || size > limit) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("a {} image of {} bytes cannot be made; 512 to {} can", format,
                                 size, limit)};
    }
    return size;
}

InfoField info_field(std::string_view name, std::string_view label, InfoValue value) {
    return {std::string(name), std::string(label), std::move(value)};
}

}  // namespace strata::block
