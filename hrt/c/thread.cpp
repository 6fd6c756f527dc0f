// `std::thread`, which libstdc++ has only together with exceptions.
#include <bits/functexcept.h>
#include <cerrno>
#include <pthread.h>
#include <thread>
#include <unistd.h>

namespace std {

thread::_State::~_State() = default;

void thread::_M_start_thread(_State_ptr state, void (*)()) {
    auto run = [](void *pointer) -> void * {
        _State_ptr state{static_cast<_State *>(pointer)};
        state->_M_run();
        return nullptr;
    };
    if (int error = pthread_create(&_M_id._M_thread, nullptr, run, state.get()))
        __throw_system_error(error);
    state.release();
}

void thread::join() {
    int error = EINVAL;
    if (_M_id != id())
        error = pthread_join(_M_id._M_thread, nullptr);
    if (error)
        __throw_system_error(error);
    _M_id = id();
}

void thread::detach() {
    int error = EINVAL;
    if (_M_id != id())
        error = pthread_detach(_M_id._M_thread);
    if (error)
        __throw_system_error(error);
    _M_id = id();
}

unsigned thread::hardware_concurrency() noexcept {
    return sysconf(_SC_NPROCESSORS_ONLN);
}

namespace this_thread {
void __sleep_for(chrono::seconds seconds, chrono::nanoseconds nanoseconds) {
    timespec time = {seconds.count(), static_cast<long>(nanoseconds.count())};
    nanosleep(&time, nullptr);
}
} // namespace this_thread

} // namespace std
