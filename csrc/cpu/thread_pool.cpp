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

    void run(int parts, const std::function<void(int)>& f) {
        const int shared = std::min(parts, 1 + start(parts - 1));
        {
            std::lock_guard<std::mutex> lock(mutex_);
            task_ = &f;
            parts_ = shared;
            running_ = shared - 1;
            ++generation_;
        }
        wake_.notify_all();
        f(0);
        for (int part = shared; part < parts; ++part) f(part);
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [this] { return running_ == 0; });
    }

  private:
    // Threads that there are when so many are wanted: fewer where the system gives no more.
    int start(int wanted) {
        try {
            while (static_cast<int>(threads_.size()) < wanted) {
                const int part = static_cast<int>(threads_.size()) + 1;
                threads_.emplace_back([this, part] { serve(part); });
            }
        } catch (const std::system_error&) {
        }
        return static_cast<int>(threads_.size());
    }

    void serve(int part) {
        uint64_t seen = 0;
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return stopping_ || (generation_ != seen && part < parts_); });
            if (stopping_) return;
            seen = generation_;
            const std::function<void(int)>* task = task_;
            lock.unlock();
            (*task)(part);
            lock.lock();
            if (--running_ == 0) done_.notify_one();
        }
    }

    std::mutex mutex_;
    std::condition_variable wake_, done_;
    std::vector<std::thread> threads_;
    const std::function<void(int)>* task_ = nullptr;
    int parts_ = 0, running_ = 0;
    uint64_t generation_ = 0;
    bool stopping_ = false;
};

}  // namespace

void run_parts(int parts, const std::function<void(int)>& f) {
    static std::mutex callers;
    static Pool* pool = nullptr;  // never destroyed: its threads may outlive static destructors
    static pid_t owner = 0;
    std::unique_lock<std::mutex> caller(callers, std::try_to_lock);
    if (parts <= 1 || !caller.owns_lock()) {
        for (int part = 0; part < parts; ++part) f(part);
        return;
    }
    if (owner != getpid()) {
        pool = new Pool;
        owner = getpid();
    }
    pool->run(parts, f);
}

}  // namespace snnkern
