// Threads that wait for work between calls: starting them anew would cost more than a small layer.
#pragma once

#include <cstdint>
#include <functional>

namespace squeeze {

// Calls work(i) for every i in [0, count), on up to `threads` threads, the caller's among them; returns when all are done.
// Calls from several threads at once take turns. A forked child starts threads of its own.
void in_parallel(int64_t count, int64_t threads, const std::function<void(int64_t)>& work);

}  // namespace squeeze
