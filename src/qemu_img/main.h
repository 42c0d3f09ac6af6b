// The qemu-img personality: what the program does when it is called by that name.
//
// Command line, exit statuses, probing rules and output are the peer's (version 7.2), so that
// scripts and tests made for it run unchanged; the work is Strata's. Strata's own command line
// (`strata image`) has other rules.
#pragma once

#include <span>

namespace strata::qemu_img {

/// argv[0] is the program's name. Answers the exit status.
int run(std::span<char*> words);

}  // namespace strata::qemu_img
