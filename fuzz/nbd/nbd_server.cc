// NBD server: a hostile client, from its first byte or (first byte odd) from an export well chosen;
// with the second bit, a server that wants TLS.
#include "block/nbd/server/session.h"
#include "harness.h"

using namespace strata;
using namespace strata::block;
using namespace strata::block::nbd;

namespace {

Message well_begun() {
    const std::vector<std::string> queries{"base:allocation", "qemu:allocation-depth"};
    const Message contexts = context_request("", queries);
    Message go;
    go.counted("").add(Be16(std::uint16_t{0}));
    Message all;
    all.add(Be32(3U));
    for (const Message& each : {option_message(OptionCode::StructuredReply, {}),
                                option_message(OptionCode::SetMetaContext, contexts.bytes()),
                                option_message(OptionCode::Go, go.bytes())}) {
        // SAFETY: bytes as characters.
        all.text({reinterpret_cast<const char*>(each.bytes().data()), each.size()});
    }
    return all;
}

Message encryption_asked() {
    Message all;
    all.add(Be32(3U));
    const Message option = option_message(OptionCode::StartTls, {});
    // SAFETY: bytes as characters.
    all.text({reinterpret_cast<const char*>(option.bytes().data()), option.size()});
    return all;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) {
        return 0;
    }
    Loop& loop = fuzz_loop();
    auto pair = fuzz_pair();
    ExportOptions options;
    options.allocation_depth = true;
    SessionContext context;
    context.exports.push_back(*loop.run(Export::create(fuzz_disk(), std::move(options))));
    static const auto kKeys = fuzz_keys(TlsRole::Server);
    const bool tls = (data[0] & 2) != 0;
    context.tls = tls ? kKeys : nullptr;
    Message said = tls ? encryption_asked() : (data[0] & 1) != 0 ? well_begun() : Message();
    // SAFETY: bytes as characters.
    said.text({reinterpret_cast<const char*>(data + 1), size - 1});
    Session session(loop, std::move(pair[0]), context);
    loop.spawn(session.run());
    loop.spawn(say(*pair[1], said.bytes()));
    loop.spawn(listen_to_the_end(*pair[1]));
    (void)loop.run(settle(loop));
    return 0;
}
