//! What C and C++ programs expect of a C library: the part that runtimes need. Linked behind a program's own files, and only
//! what it uses of it.
//!
//! Types and constants are those of the headers of glibc and libstdc++, which programs are compiled with, so that code and
//! libraries made for Linux fit. What is not here is refused when the program is linked, by name: files, sockets, locales, `long double`
//! mathematics.
//!
//! - [`memory`]: `malloc` and its kind. [`string`], [`character`], [`number`], [`math`]: `<string.h>`, `<ctype.h>`, conversions, `<math.h>`.
//! - [`output`]: `<stdio.h>` for output; [`format`]: what `printf` does. The variadic functions are in `variadic.c`.
//! - [`process`]: start, end, `errno`, the environment, time. [`jump`]: `setjmp`.
//! - [`pthread`]: threads; [`thread_local`]: what each has for itself. [`futex`]: threads wait for words of memory; [`locks`], [`barrier`],
//!   [`semaphore`]: what is built on that.
//! - [`cxx`]: what C++ compilers call. [`atomics`]: operations on 16 bytes.
//!
//! Everything here is called by C: the conditions of the C standard, or POSIX, are those of each function.
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

// Its functions are the C library's by their names.
use tinyrlibc as _;

#[global_allocator]
static ALLOCATOR: hrt::memory::ProgramAllocator = hrt::memory::ProgramAllocator;

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    hrt::output::panicked(info)
}
