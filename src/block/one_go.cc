// One go: appliances as a whole, and VMDK's streams.
#include "block/one_go.h"

namespace strata::block {

bool written_in_one_go(std::string_view format, const CreateRequest& request) {
    return format == "ova" || format == "xva" ||
           (format == "vmdk" && request.option("subformat") == "streamOptimized");
}

}  // namespace strata::block
