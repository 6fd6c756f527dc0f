// The header-only part of the C++ library, in 64 threads with objects of their own; prints the same as on Linux.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <numeric>
#include <optional>
#include <queue>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <variant>
#include <vector>

static std::atomic<int> made{0}, gone{0};

struct Counted {
    int value = 3;
    Counted() { made++; }
    ~Counted() { gone++; }
};

static thread_local Counted own;
static thread_local std::vector<int> numbers;

struct Global {
    std::string text;
    explicit Global(const char *text) : text(text) {}
    ~Global() { std::printf("destroyed: %s\n", text.c_str()); }
};
static Global first("the first object"), second("the second object, whose text is too long to be kept in place");

static int slow() {
    static std::atomic<int> calls{0};
    return ++calls;
}

static int once() {
    static int value = slow();
    return value;
}

struct alignas(256) Wide {
    char bytes[300];
};

struct Shape {
    virtual ~Shape() = default;
    virtual int area() const = 0;
};
struct Square : Shape {
    int side;
    explicit Square(int side) : side(side) {}
    int area() const override { return side * side; }
};

static long work(int number) {
    std::mt19937 random(number);
    for (int i = 0; i < 500; i++)
        numbers.push_back(random() % 1000);
    std::sort(numbers.begin(), numbers.end());
    std::map<std::string, int> counts;
    std::unordered_map<int, std::string> names;
    std::set<int> different(numbers.begin(), numbers.end());
    std::unordered_set<int> also(numbers.begin(), numbers.end());
    for (int value : numbers) {
        counts["key " + std::to_string(value % 50)]++;
        names[value] += static_cast<char>('a' + value % 26);
    }
    for (int value = 0; value < 500; value++)
        different.erase(value);
    own.value += once();
    long sum = std::accumulate(numbers.begin(), numbers.end(), 0L) + counts["key 7"] + different.size() + also.size();
    for (const auto &[value, text] : names)
        sum += value * text.size();
    return sum + own.value;
}

int main() {
    std::vector<std::thread> threads;
    std::array<long, 64> results{};
    std::mutex mutex;
    int locked = 0;
    for (int number = 0; number < 64; number++)
        threads.emplace_back([&, number] {
            results[number] = work(number);
            std::lock_guard<std::mutex> guard(mutex);
            locked++;
        });
    for (auto &thread : threads)
        thread.join();
    long total = 0;
    for (long result : results)
        total = total * 31 + result;
    std::printf("%ld %d %d %d %d\n", total, locked, made.load(), gone.load(), once());

    std::deque<int> queue;
    std::list<int> list;
    std::priority_queue<int> most;
    for (int i = 0; i < 100; i++)
        queue.push_front(i), list.push_back(i * 37 % 101), most.push(i * 53 % 97);
    list.sort();
    list.remove_if([](int value) { return value % 3 == 0; });
    list.splice(list.begin(), std::list<int>{-1, -2});
    std::printf("%d %d %d %zu %d\n", queue[10], list.front(), list.back(), list.size(), most.top());

    std::function<int(int)> twice = [&](int value) { return 2 * value + locked; };
    auto pointer = std::make_unique<Square>(7);
    std::shared_ptr<Shape> shared = std::make_shared<Square>(5), other = shared;
    std::weak_ptr<Shape> weak = shared;
    std::optional<std::string> maybe;
    std::variant<int, std::string> either = 5;
    either = std::string("a variant's text");
    std::printf("%d %d %d %ld %d %s %zu\n", twice(4), pointer->area(), other->area(), weak.use_count(), maybe.has_value(),
                std::get<std::string>(either).c_str(), std::get<0>(std::make_tuple(std::string_view("view"), 1)).size());

    std::string text = "a string";
    text.append(" that").insert(0, "once ").replace(0, 4, "now").erase(3, 1);
    text += std::string(3, '!') + text.substr(0, 3);
    std::printf("%s %zu %zu %d\n", text.c_str(), text.find("that"), text.rfind('n'), text.compare("now"));

    auto *wide = new Wide;
    auto *some = new (std::nothrow) int[10]();
    auto *too_many = new (std::nothrow) char[std::size_t(1) << 46];
    std::printf("%d %d %d\n", reinterpret_cast<std::uintptr_t>(wide) % 256 == 0, some[9], too_many == nullptr);
    delete wide;
    delete[] some;
    delete[] too_many;
    return 0;
}
