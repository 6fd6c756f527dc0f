// The interface from C++: global objects, virtual calls, tasks, collectives, timers, interrupts, device lines. Its exit status is
// the number of failures.
#include <aerokernel.h>

namespace {

constexpr uint64_t LIMIT_NS = 10'000'000'000;
constexpr uint32_t TASKS = 1000;
constexpr uint32_t MOST_CPUS = 64;
constexpr uint32_t ROUNDS = 100;

uint64_t deadline() { return aero_time_ns() + LIMIT_NS; }

template <size_t N> void print(const char (&text)[N]) { aero_print(text, N - 1); }

uint64_t add(uint64_t &counter, uint64_t value) { return __atomic_fetch_add(&counter, value, __ATOMIC_SEQ_CST); }

uint64_t get(const uint64_t &counter) { return __atomic_load_n(&counter, __ATOMIC_SEQ_CST); }

// A shape with a virtual function, made before main.
struct Shape {
    virtual double area() const = 0;
};

struct Square final : Shape {
    double side;
    explicit Square(double length) : side(length) {}
    double area() const override { return side * side; }
};

uint64_t constructed = 0;

struct Global {
    Square square{1.5};
    Global() { constructed += 1; }
};

Global global;

bool globals_are_constructed() {
    const Shape *shape = &global.square;
    return constructed == 1 && shape->area() == 2.25;
}

// Tasks that count themselves, half of them pinned.
struct Counted {
    uint64_t ran = 0;
    uint64_t astray = 0;
};

struct Pinned {
    Counted *counted;
    uint32_t cpu;
};

bool tasks() {
    static Counted counted;
    static Pinned pinned[TASKS];
    aero_pool *pool = nullptr;
    if (aero_pool_create(&pool) != AERO_OK)
        return false;
    for (uint32_t number = 0; number < TASKS; number++) {
        pinned[number] = {&counted, number % aero_cpu_count()};
        const aero_task_options options = {pinned[number].cpu, AERO_PRIORITY_NORMAL, 1};
        auto body = [](void *argument) {
            auto *task = static_cast<Pinned *>(argument);
            add(task->counted->ran, 1);
            add(task->counted->astray, aero_cpu_this() != task->cpu);
        };
        auto free = [](void *argument) { add(static_cast<Counted *>(argument)->ran, 1); };
        if (aero_pool_queue(pool, &options, body, &pinned[number]) != AERO_OK ||
            aero_pool_queue(pool, nullptr, free, &counted) != AERO_OK)
            return false;
    }
    const aero_task_options absent = {aero_cpu_count(), AERO_PRIORITY_HIGH, 1};
    bool refused = aero_pool_queue(pool, &absent, [](void *) {}, nullptr) == AERO_NO_SUCH_CPU;
    return aero_pool_destroy(pool) == AERO_OK && refused && counted.ran == 2 * TASKS && counted.astray == 0;
}

// A collective with a member on each CPU.
struct Member {
    aero_collective *collective;
    uint32_t rank;
    uint32_t size;
    uint64_t *elected;
    bool agreed;
};

void take_part(void *argument) {
    auto *member = static_cast<Member *>(argument);
    uint64_t words[MOST_CPUS];
    bool agreed = true;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        agreed &= aero_collective_share(member->collective, member->rank, round + member->rank, words, deadline()) == AERO_OK;
        for (uint32_t rank = 0; rank < member->size; rank++)
            agreed &= words[rank] == round + rank;
        const uint32_t root = round % member->size;
        uint64_t word = round * 100 + member->rank;
        agreed &= aero_collective_broadcast(member->collective, member->rank, root, &word, deadline()) == AERO_OK;
        agreed &= word == round * 100 + root;
        const int32_t last = aero_collective_barrier(member->collective, deadline());
        agreed &= last >= 0;
        add(*member->elected, last == 1);
    }
    member->agreed = agreed;
}

bool collectives() {
    const uint32_t size = aero_cpu_count() < MOST_CPUS ? aero_cpu_count() : MOST_CPUS;
    aero_collective *collective = nullptr;
    if (aero_collective_create(size, &collective) != AERO_OK)
        return false;
    Member members[MOST_CPUS];
    aero_thread *threads[MOST_CPUS];
    uint64_t elected = 0;
    for (uint32_t rank = 0; rank < size; rank++) {
        members[rank] = {collective, rank, size, &elected, false};
        const aero_thread_options options = {"member", 6, rank, 0};
        if (aero_thread_spawn(&options, take_part, &members[rank], &threads[rank]) != AERO_OK)
            return false;
    }
    bool agreed = true;
    for (uint32_t rank = 0; rank < size; rank++) {
        agreed &= aero_thread_join(threads[rank], deadline()) == AERO_OK;
        agreed &= members[rank].agreed;
    }
    return aero_collective_destroy(collective) == AERO_OK && agreed && elected == ROUNDS;
}

// What an interrupt handler notes, and signals.
struct Seen {
    aero_event event;
    uint64_t count;
    uint64_t cpu;
};

void note(void *argument) {
    auto *seen = static_cast<Seen *>(argument);
    __atomic_store_n(&seen->cpu, aero_cpu_this(), __ATOMIC_SEQ_CST);
    add(seen->count, 1);
    aero_event_signal(&seen->event);
}

bool timers_and_interrupts() {
    Seen seen = {};
    aero_timer *timer = nullptr;
    aero_interrupt *interrupt = nullptr;
    if (aero_event_init(&seen.event) != AERO_OK || aero_timer_create(note, &seen, &timer) != AERO_OK ||
        aero_interrupt_register(note, &seen, &interrupt) != AERO_OK)
        return false;
    bool right = true;
    for (uint64_t round = 1; round <= 3; round++) {
        right &= aero_timer_set(timer, aero_time_ns() + 100'000) == AERO_OK;
        right &= aero_event_wait(&seen.event, deadline()) == AERO_OK && get(seen.count) == round;
    }
    const uint32_t last = aero_cpu_count() - 1;
    right &= aero_interrupt_send(interrupt, last) == AERO_OK;
    right &= aero_event_wait(&seen.event, deadline()) == AERO_OK && get(seen.cpu) == last;
    right &= aero_interrupt_send(interrupt, aero_cpu_count()) == AERO_NO_SUCH_CPU;
    right &= aero_timer_set(timer, AERO_NEVER) == AERO_OK && aero_timer_cancel(timer) == 1;
    return aero_timer_destroy(timer) == AERO_OK && aero_interrupt_unregister(interrupt) == AERO_OK && right;
}

// The PC's interval timer, which the kernel leaves alone once its clock is calibrated, is wired to this line.
constexpr uint32_t TIMER_LINE = 2;

void write_port(uint16_t port, uint8_t value) { asm volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }

bool device_lines() {
    Seen seen = {};
    aero_line *line = nullptr;
    const uint32_t last = aero_cpu_count() - 1;
    if (aero_event_init(&seen.event) != AERO_OK ||
        aero_line_register(TIMER_LINE, AERO_TRIGGER_DEFAULT, last, note, &seen, &line) != AERO_OK)
        return false;
    aero_line *again = nullptr;
    bool right = aero_line_register(TIMER_LINE, AERO_TRIGGER_DEFAULT, 0, note, &seen, &again) == AERO_BUSY;
    const uint32_t cpus[] = {last, 0};
    for (uint32_t wanted : cpus) {
        right &= aero_line_steer(line, wanted) == AERO_OK;
        // Mode 0, interrupt on terminal count (Intel 8254).
        write_port(0x43, 0x30);
        write_port(0x40, 0xff);
        write_port(0x40, 0x00);
        right &= aero_event_wait(&seen.event, deadline()) == AERO_OK && get(seen.cpu) == wanted;
    }
    return aero_line_unregister(line) == AERO_OK && right;
}

template <size_t N> int32_t check(const char (&name)[N], bool (*function)()) {
    print(name);
    const bool right = function();
    if (right)
        print(": ok\n");
    else
        print(": FAILED\n");
    return right ? 0 : 1;
}

int32_t start(int32_t, const char *const *) {
    return check("global objects", globals_are_constructed) + check("tasks", tasks) + check("collectives", collectives) +
           check("timers and interrupts", timers_and_interrupts) + check("device lines", device_lines);
}

} // namespace

AERO_PROGRAM(start);
