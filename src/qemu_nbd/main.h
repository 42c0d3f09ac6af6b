// qemu-nbd's personality: the command line, messages and exit statuses of the program whose name a
// link gave us.
#pragma once

#include <span>

namespace strata::qemu_nbd {

/// `words`: argv. Answers the exit status.
int run(std::span<char*> words);

}  // namespace strata::qemu_nbd
