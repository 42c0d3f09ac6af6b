// strata: the command line program; called as qemu-img or qemu-nbd (links), those programs'
// stand-in.
#include <csignal>
#include <span>
#include <string_view>
#include <vector>

#include "cli/command.h"
#include "qemu_img/main.h"
#include "qemu_nbd/main.h"

int main(int argc, char** argv) {
    const std::string_view called = argc > 0 ? argv[0] : "";
    const std::span<char*> all(argv, static_cast<std::size_t>(argc));
    if (called.substr(called.rfind('/') + 1) == "qemu-img") {
        return strata::qemu_img::run(all);
    }
    if (called.substr(called.rfind('/') + 1) == "qemu-nbd") {
        return strata::qemu_nbd::run(all);
    }
    // A closed pipe is an error of write(2), not our death: terminals are restored first.
    (void)std::signal(SIGPIPE, SIG_IGN);
    const std::vector<std::string_view> words(argv + 1, argv + argc);
    return strata::cli::run_command_line(words);
}
