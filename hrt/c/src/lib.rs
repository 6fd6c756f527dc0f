//! The parts of a C library that runtimes in C and C++ need. It is linked behind a program's own
//! files, and only the parts that the program uses.
//!
//! Types and constants match the headers of glibc and libstdc++, with which programs are compiled,
//! so that code and libraries made for Linux fit. What is missing (files, sockets, locales,
//! `long double` mathematics) is refused by name when the program is linked.
//!
//! - [`memory`]: the `malloc` family. [`string`], [`character`], [`number`], [`math`]:
//!   `<string.h>`, `<ctype.h>`, conversions, `<math.h>`.
//! - [`output`]: `<stdio.h>` for output; [`format`]: the formatting of `printf`. The variadic
//!   functions are in `variadic.c`.
//! - [`process`]: start, end, `errno`, the environment, time. [`jump`]: `setjmp`.
//! - [`pthread`]: threads; [`thread_local`]: thread-specific data. [`futex`]: waiting for words of
//!   memory; [`locks`], [`barrier`], [`semaphore`]: the objects built on it.
//! - [`cxx`]: the runtime functions that C++ compilers call. [`atomics`]: operations on 16 bytes.
//!
//! C code calls every function here, under the conditions of the C standard or of POSIX for the
//! function of that name.
#![no_std]
#![feature(linkage, thread_local)]

mod atomics;
mod barrier;
mod character;
mod cxx;
mod format;
mod futex;
mod jump;
mod locks;
mod math;
mod memory;
mod number;
mod output;
mod process;
mod pthread;
mod semaphore;
mod string;
mod thread_local;

// Linked for its C library functions, which C code finds by name.
use tinyrlibc as _;

#[global_allocator]
static ALLOCATOR: hrt::memory::ProgramAllocator = hrt::memory::ProgramAllocator;

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    hrt::output::panicked(info)
}
