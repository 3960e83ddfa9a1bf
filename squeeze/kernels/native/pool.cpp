#include "pool.h"

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace squeeze {
namespace {

class Pool {
   public:
    void run(int64_t count, int64_t threads, const std::function<void(int64_t)>& work) {
        std::lock_guard<std::mutex> turn(turns_);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            while (started_ < threads - 1) {
                std::thread(&Pool::serve, this, started_, job_).detach();
                ++started_;
            }
            work_ = &work;
            count_ = count;
            next_ = 0;
            helpers_ = busy_ = threads - 1;
            ++job_;
        }
        wake_.notify_all();
        take(work, count);
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [this] { return busy_ == 0; });
    }

   private:
    void serve(int64_t number, int64_t seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return job_ != seen; });
            seen = job_;
            if (number >= helpers_) continue;
            const auto* work = work_;
            const int64_t count = count_;
            lock.unlock();
            take(*work, count);
            lock.lock();
            if (--busy_ == 0) done_.notify_one();
        }
    }

    void take(const std::function<void(int64_t)>& work, int64_t count) {
        for (int64_t i; (i = next_.fetch_add(1)) < count;) work(i);
    }

    std::mutex turns_, mutex_;
    std::condition_variable wake_, done_;
    std::atomic<int64_t> next_{0};
    const std::function<void(int64_t)>* work_ = nullptr;
    int64_t count_ = 0, started_ = 0, helpers_ = 0, busy_ = 0, job_ = 0;
};

// Never destroyed: its threads wait on it until the process ends.
Pool* pool = nullptr;
std::once_flag once;

// Where PyTorch has brought GNU's OpenMP, its threads do the work: they are awake after the layer before, and threads of
// our own would wait for a processor until those have gone to sleep. In a forked child they do not run.
using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
Parallel shared = nullptr;

void find_shared() {
    pool = new Pool;
    shared = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
}

void start_afresh() {
    pool = new Pool;
    shared = nullptr;
}

struct Work {
    const std::function<void(int64_t)>& run;
    int64_t count;
    std::atomic<int64_t> next{0};
};

void take(void* argument) {
    Work& work = *static_cast<Work*>(argument);
    for (int64_t i; (i = work.next.fetch_add(1)) < work.count;) work.run(i);
}

}  // namespace

void in_parallel(int64_t count, int64_t threads, const std::function<void(int64_t)>& work) {
    if (threads > count) threads = count;
    if (threads <= 1) {
        for (int64_t i = 0; i < count; ++i) work(i);
        return;
    }
    std::call_once(once, [] {
        find_shared();
        pthread_atfork(nullptr, nullptr, start_afresh);
    });
    if (shared) {
        Work shares{work, count};
        shared(take, &shares, static_cast<unsigned>(threads), 0);
    } else {
        pool->run(count, threads, work);
    }
}

}  // namespace squeeze
