// A persistent pool of threads that work on a batch, or on one decision together.
#pragma once

#include <cstdint>
#include <functional>

namespace snnkern {

// Runs f(member, members) on a team of threads at the same time, member 0 being the calling thread;
// returns when all are done. The team has at most `wanted` members, and one alone where the system
// gives no more or another caller has the pool. Safe after a fork, where the pool's threads are
// gone.
void run_team(int wanted, const std::function<void(int, int)>& f);

}  // namespace snnkern
