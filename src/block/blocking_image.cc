// BlockingImage: a loop and a node.
#include "block/blocking_image.h"

namespace strata::block {

Result<std::unique_ptr<BlockingImage>> BlockingImage::open(OpenOptions options, IoEngine engine) {
    auto loop = STRATA_TRY(Loop::create({.engine = engine}));
    NodePtr node = STRATA_TRY(loop->run(open_node(*loop, std::move(options))));
    return std::unique_ptr<BlockingImage>(new BlockingImage(std::move(loop), std::move(node)));
}

Result<> BlockingImage::create(std::string format, CreateRequest request) {
    auto loop = STRATA_TRY(Loop::create({.engine = IoEngine::Threads, .depth = 4}));
    return loop->run(create_image(*loop, std::move(format), std::move(request)));
}

}  // namespace strata::block
