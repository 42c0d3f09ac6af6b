// strata-vmm: the program of the process that one VM lives in; `strata run` starts it.
#include <csignal>
#include <string_view>
#include <vector>

#include "vmm/vmm_main.h"

int main(int argc, char** argv) {
    // A closed socket is an error of write(2), not our death.
    (void)std::signal(SIGPIPE, SIG_IGN);
    const std::vector<std::string_view> words(argv + 1, argv + argc);
    return strata::vmm::vmm_main(words);
}
