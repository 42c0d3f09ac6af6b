// The tiny image: Debian's own kernel and a static busybox in an initramfs, made without rights.
#pragma once

#include <functional>
#include <string_view>

#include "base/result.h"
#include "cli/image/store.h"

namespace strata::cli {

/// Tells the person waiting what is being done.
using Progress = std::function<void(std::string_view)>;

/// Builds the image into `draft`'s folder; answers what image.json is to say. Packages come through
/// apt, with apt's own trust.
Result<Image> build_tiny(const ImageDraft& draft, const Progress& progress);

/// The guest's programs, as texts: what `strata.selfcheck` on the kernel command line runs, and the
/// first process.
std::string_view tiny_init_script();
std::string_view tiny_selfcheck_script();

}  // namespace strata::cli
