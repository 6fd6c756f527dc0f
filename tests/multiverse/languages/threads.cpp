// Exceptions and thread-local objects over 64 threads.
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <future>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

static std::atomic<int> made, ended, caught;

struct Own {
    std::string text;
    Own() : text("own") { made++; }
    ~Own() { ended++; }
};
static thread_local Own own;
static thread_local int count;

static int thrower(int depth) {
    Own here;
    if (depth == 0) throw std::runtime_error("thrown " + own.text);
    return thrower(depth - 1) + 1;
}

int main() {
    std::vector<std::thread> threads;
    std::atomic<long> sum{0};
    for (int k = 0; k < 64; k++)
        threads.emplace_back([k, &sum] {
            for (int round = 0; round < 20; round++) try {
                    thrower(k % 7);
                } catch (const std::runtime_error &error) {
                    count++;
                    if (std::string(error.what()) == "thrown own") caught++;
                }
            sum += count + k;
        });
    for (auto &thread : threads) thread.join();
    auto later = std::async(std::launch::async, []() -> int { throw 42; });
    try {
        later.get();
    } catch (int number) {
        std::printf("from another thread: %d\n", number);
    }
    std::printf("sum %ld, caught %d, %s\n", sum.load(), caught.load(), made == ended ? "all ended" : "some are left");
    std::mutex mutex;
    std::condition_variable turn;
    int whose = 0;
    std::vector<std::thread> ring;
    for (int k = 0; k < 4; k++)
        ring.emplace_back([&, k] {
            for (int round = 0; round < 50; round++) {
                std::unique_lock lock(mutex);
                turn.wait(lock, [&] { return whose == k; });
                whose = (whose + 1) % 4;
                turn.notify_all();
            }
        });
    for (auto &thread : ring) thread.join();
    std::printf("turns %d\n", whose);
}
