// NBD client: a hostile server, from its first byte or (first byte odd) from a handshake that went
// well; with the second bit, a client that asks for TLS, which the server grants.
#include "block/nbd/client/connection.h"
#include "harness.h"

using namespace strata;
using namespace strata::block;
using namespace strata::block::nbd;

namespace {

void append(Message& all, const Message& part) {
    // SAFETY: bytes as characters.
    all.text({reinterpret_cast<const char*>(part.bytes().data()), part.size()});
}

Message well_begun() {
    Message context;
    context.add(Be32(7U)).text(kAllocationContext);
    const InfoExport about{std::uint16_t{0}, std::uint64_t{kFuzzDisk}, std::uint16_t{0xfff}};
    Message all;
    all.add(ServerHello{kInitMagic, kOptionMagic, std::uint16_t{3}});
    append(all, option_reply(8, OptionReply::Ack, {}));
    append(all, option_reply(10, OptionReply::MetaContext, context.bytes()));
    append(all, option_reply(10, OptionReply::Ack, {}));
    append(all, option_reply(7, OptionReply::Info, bytes_of(about)));
    append(all, option_reply(7, OptionReply::Ack, {}));
    return all;
}

Message encryption_granted() {
    Message all;
    all.add(ServerHello{kInitMagic, kOptionMagic, std::uint16_t{3}});
    append(all, option_reply(5, OptionReply::Ack, {}));
    return all;
}

Task<> ask(Connection& connection, CommandType type, std::uint64_t offset, Buffers buffers) {
    Connection::Command command;
    command.type = type;
    command.offset = offset;
    command.length = buffers.empty() ? 65536 : static_cast<std::uint32_t>(buffers.size());
    command.buffers = buffers;
    std::vector<StatusDescriptor> status;
    co_return co_await connection.request(command, &status);
}

Task<> use(std::unique_ptr<Stream> stream, std::span<std::byte> memory, bool tls) {
    static const auto kKeys = fuzz_keys(TlsRole::Client);
    Location location;
    location.tls = tls;
    STRATA_CO_TRY(const auto connection,
                  co_await Connection::begin(std::move(stream), location, tls ? kKeys : nullptr,
                                             std::chrono::seconds(60)));
    TaskGroup group(fuzz_loop(), 8);
    group.start(ask(*connection, CommandType::Read, 4096, Buffers(memory.first(65536))));
    group.start(ask(*connection, CommandType::BlockStatus, 0, Buffers()));
    group.start(ask(*connection, CommandType::Write, 0, Buffers(memory.subspan(65536, 4096))));
    group.start(ask(*connection, CommandType::WriteZeroes, 0, Buffers()));
    group.start(ask(*connection, CommandType::Read, 0, Buffers(memory.subspan(131072, 512))));
    Result<> done = co_await group.finish();
    (void)co_await connection->disconnect();
    co_return done;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static std::vector<std::byte> memory(kFuzzDisk);
    if (size == 0) {
        return 0;
    }
    Loop& loop = fuzz_loop();
    auto pair = fuzz_pair();
    const bool tls = (data[0] & 2) != 0;
    Message said = tls ? encryption_granted() : (data[0] & 1) != 0 ? well_begun() : Message();
    // SAFETY: bytes as characters.
    said.text({reinterpret_cast<const char*>(data + 1), size - 1});
    loop.spawn(use(std::move(pair[0]), memory, tls));
    loop.spawn(say(*pair[1], said.bytes()));
    loop.spawn(listen_to_the_end(*pair[1]));
    (void)loop.run(settle(loop));
    return 0;
}
