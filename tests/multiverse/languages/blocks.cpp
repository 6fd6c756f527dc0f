// oneTBB: loops, a reduction, a sort and many short loops on four threads.
#include <atomic>
#include <cstdio>
#include <tbb/parallel_for.h>
#include <tbb/parallel_reduce.h>
#include <tbb/parallel_sort.h>
#include <tbb/blocked_range.h>
#include <tbb/global_control.h>
#include <vector>
int main()
{
    tbb::global_control threads(tbb::global_control::max_allowed_parallelism, 4);
    std::vector<unsigned> numbers(200000);
    tbb::parallel_for(size_t(0), numbers.size(), [&](size_t i) { numbers[i] = unsigned(i) * 2654435761u; });
    tbb::parallel_sort(numbers.begin(), numbers.end());
    auto sum = tbb::parallel_reduce(
        tbb::blocked_range<size_t>(0, numbers.size()), 0ull,
        [&](const tbb::blocked_range<size_t> &range, unsigned long long part) {
            for (size_t i = range.begin(); i != range.end(); i++)
                part += numbers[i] * (unsigned long long)(i % 7);
            return part;
        },
        [](unsigned long long one, unsigned long long other) { return one + other; });
    std::atomic<long> seen{0};
    for (int round = 0; round < 200; round++)
        tbb::parallel_for(0, 64, [&](int) { seen++; });
    std::printf("sum %llu, seen %ld\n", sum, seen.load());
}
