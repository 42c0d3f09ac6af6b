// serve: runs named scripts on request and prints what each took; how bench/system/ drives guests
// and the host alike.
#pragma once

namespace guestbench {

/// Reads names, one a line, from standard input until it ends; for each runs `/bin/sh FOLDER/NAME`
/// and prints one line "BENCH NAME SECONDS CHECK STATUS". SECONDS is CLOCK_MONOTONIC's, CHECK a
/// hash of all that the script wrote to standard output. A script whose output is itself a line of
/// guestbench passes that line's figures on. Returns the exit status of the program.
int serve(const char* folder);

}  // namespace guestbench
