// C++ in the Aerokernel beside this process: methods, exceptions, the library, and signals to the process, while Linux's
// side has exceptions of its own. `AEROKERNEL_HRT=IMAGE hvm-callback-cc`
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "hvm.h"

namespace {

std::atomic<bool> runs{false}, may_end{false};
std::atomic<uint64_t> signalled{0};

void must(const char *what, int result)
{
    if (result != 0) {
        std::fprintf(stderr, "%s: %s\n", what, hvm_error());
        std::exit(1);
    }
}

void check(const char *what, bool holds)
{
    std::printf("%s: %s\n", holds ? "right" : "WRONG", what);
    if (!holds)
        std::exit(1);
}

class Counter {
public:
    virtual ~Counter() = default;
    virtual uint64_t add(const std::string &text)
    {
        texts.push_back(text);
        return texts.size();
    }
    std::vector<std::string> texts;
};

// These run in the HRT.
uint64_t call_method(uint64_t counter, uint64_t)
{
    return reinterpret_cast<Counter *>(counter)->add("from the HRT, a text that is too long to be kept in the string itself");
}

uint64_t throw_and_catch(uint64_t value, uint64_t)
{
    try {
        if (value > 1)
            throw std::runtime_error("thrown in the HRT");
    } catch (const std::exception &error) {
        return std::string(error.what()).size();
    }
    return 0;
}

uint64_t wait_until_told(uint64_t, uint64_t)
{
    runs = true;
    while (!may_end)
        std::this_thread::yield();
    return 5;
}

uint64_t signal(uint64_t code, uint64_t)
{
    return v3_hvm_hrt_signal_ros(code);
}

void count_signal(uint64_t code)
{
    signalled += code;
}

uint64_t call(uint64_t (*function)(uint64_t, uint64_t), uint64_t argument)
{
    uint64_t result = 0;
    must("call", hvm_call(function, argument, &result));
    return result;
}

} // namespace

int main()
{
    must("init", v3_hvm_ros_user_init());
    must("merge", v3_hvm_ros_merge_address_spaces());

    Counter counter;
    counter.add("from Linux");
    check("an object's method runs in the HRT", call(call_method, reinterpret_cast<uint64_t>(&counter)) == 2);
    check("what it keeps is there", counter.texts.back().find("too long") != std::string::npos);
    check("an exception is thrown and caught in the HRT", call(throw_and_catch, 2) == 17);

    std::thread other([] { check("a call goes on meanwhile", call(wait_until_told, 0) == 5); });
    while (!runs)
        std::this_thread::yield();
    bool caught = false;
    try {
        throw std::runtime_error("thrown in Linux");
    } catch (const std::exception &) {
        caught = true;
    }
    may_end = true;
    other.join();
    check("an exception is thrown and caught in Linux while the HRT runs", caught);

    check("without a handler a signal to Linux fails", static_cast<int64_t>(call(signal, 3)) == -1);
    must("register", v3_hvm_ros_register_signal(count_signal, nullptr, 0));
    check("a signal calls the handler in Linux", call(signal, 3) == 0 && signalled == 3);
    check("a signal from Linux itself fails", v3_hvm_hrt_signal_ros(3) == -1);
    must("deinit", v3_hvm_ros_user_deinit());
    std::printf("all is right\n");
    return 0;
}
