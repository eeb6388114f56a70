#include "thread_pool.h"

#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace snnkern {
namespace {

class Pool {
  public:
    ~Pool() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            stopping_ = true;
        }
        wake_.notify_all();
        for (std::thread& thread : threads_) thread.join();
    }

    void run(int wanted, const std::function<void(int, int)>& f) {
        const int members = std::min(wanted, 1 + start(wanted - 1));
        {
            std::lock_guard<std::mutex> lock(mutex_);
            task_ = &f;
            members_ = members;
            running_ = members - 1;
            ++generation_;
        }
        wake_.notify_all();
        f(0, members);
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [this] { return running_ == 0; });
    }

  private:
    // Threads that there are when so many are wanted: fewer where the system gives no more.
    int start(int wanted) {
        try {
            while (static_cast<int>(threads_.size()) < wanted) {
                const int member = static_cast<int>(threads_.size()) + 1;
                threads_.emplace_back([this, member] { serve(member); });
            }
        } catch (const std::system_error&) {
        }
        return static_cast<int>(threads_.size());
    }

    void serve(int member) {
        uint64_t seen = 0;
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            wake_.wait(lock,
                       [&] { return stopping_ || (generation_ != seen && member < members_); });
            if (stopping_) return;
            seen = generation_;
            const std::function<void(int, int)>* task = task_;
            const int members = members_;
            lock.unlock();
            (*task)(member, members);
            lock.lock();
            if (--running_ == 0) done_.notify_one();
        }
    }

    std::mutex mutex_;
    std::condition_variable wake_, done_;
    std::vector<std::thread> threads_;
    const std::function<void(int, int)>* task_ = nullptr;
    int members_ = 0, running_ = 0;
    uint64_t generation_ = 0;
    bool stopping_ = false;
};

}  // namespace

void run_team(int wanted, const std::function<void(int, int)>& f) {
    static std::mutex callers;
    static Pool* pool = nullptr;  // never destroyed: its threads may outlive static destructors
    static pid_t owner = 0;
    std::unique_lock<std::mutex> caller(callers, std::try_to_lock);
    if (wanted <= 1 || !caller.owns_lock()) {
        f(0, 1);
        return;
    }
    if (owner != getpid()) {
        pool = new Pool;
        owner = getpid();
    }
    pool->run(wanted, f);
}

}  // namespace snnkern
