// ProgressSignal: SIGUSR1 asks how far the process' job is.
//
// The signal stays blocked in every thread and waits until a job takes it between two requests, so
// nothing runs at odd moments and no system call is interrupted. Where no job is, it does nothing.
// As the signal is, the answer is the process': it is meant for programs that do one job.
#pragma once

#include <cstdint>
#include <functional>

namespace strata::block {

/// From now on the signal no longer ends the process. Before any other thread is made.
void hold_progress_signal();
/// Takes the signal: true once for those that came since the last call. Any thread.
[[nodiscard]] bool take_progress_signal();

/// Bytes done and in all.
using ProgressTeller = std::function<void(std::uint64_t done, std::uint64_t total)>;
/// From now on jobs answer the signal with `tell`, on their loops' thread; empty: not at all. While
/// no job runs. Unlike a JobControl's report this is no reason to find out a total first: a copy
/// tells of the whole disk then.
void answer_progress_signal(ProgressTeller tell);
/// For jobs: answers the signal if it came.
void look_for_progress_signal(std::uint64_t done, std::uint64_t total);

}  // namespace strata::block
