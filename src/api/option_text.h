// Option texts: the short forms in which people write parts of a machine ("--cpus 4", "--net
// user,forward=tcp:2222:22").
//
// Each function answers InvalidArgument with what is wrong and an example. Opening files is not
// done here.
#pragma once

#include <string_view>

#include "api/machine_config.h"
#include "base/result.h"

namespace strata::api {

/// "4", or "sockets=1,cores=4,threads=2" (absent parts are 1).
Result<CpuTopology> parse_cpus(std::string_view text);

/// What becomes of what the guest writes: the file's, dropped at the end, kept beside it.
enum class DiskMode : std::uint8_t { Persistent, Nonpersistent, Undoable };

/// A disk as people write it. An empty format was not named.
struct DiskText : DiskConfig {
    DiskMode mode = DiskMode::Persistent;
    std::string key_secret{};  ///< id of the secret that opens it
};

/// FILE may be the location of an NBD export, and `nbd` has what was said of how to reach it, as
/// written.
/// "FILE[,format=raw][,readonly][,follow][,key-secret=ID][,iops=N][,bps=SIZE][,limit-group=NAME]"
/// and the other limits. A comma in the file's name is written twice.
Result<DiskText> parse_disk(std::string_view text);

/// A secret as people name it, in a file: never itself on a command line.
struct SecretText {
    std::string id;
    std::string file;
    bool base64 = false;
    std::string key_id{};  ///< of another secret, under which this one is encrypted
    std::string iv{};
};
/// "secret,id=ID,file=FILE[,format=raw|base64][,keyid=ID,iv=TEXT]".
Result<SecretText> parse_secret(std::string_view text);

/// "tcp:2222:22", "udp:5353:53", "2222:22", "tcp:0.0.0.0:2222:22".
Result<PortForward> parse_forward(std::string_view text);

/// "user[,forward=…]…" adds an interface to `nets`; "none" must stand alone and leaves it empty.
Result<> parse_net(std::string_view text, std::vector<NetConfig>& nets);

enum class SerialKind : std::uint8_t { None, Stdio, Pty, File, Unix };
/// Where a serial port or a console leads.
struct SerialTarget {
    SerialKind kind = SerialKind::None;
    std::string path;
    std::string option = "--serial";  ///< for messages
};
/// "stdio", "pty", "file:PATH", "unix:PATH", "none", as the value of `option`.
Result<SerialTarget> parse_serial(std::string_view option, std::string_view text);

}  // namespace strata::api
