// A persistent pool of threads that share the rows of a batch.
#pragma once

#include <cstdint>
#include <functional>

namespace snnkern {

// Runs f(part) for every part in [0, parts), part 0 on the calling thread; returns when all are
// done. One caller at a time: a second one runs its parts by itself. Safe after a fork, where the
// pool's threads are gone.
void run_parts(int parts, const std::function<void(int)>& f);

}  // namespace snnkern
