//! The program's entry point, arguments and end.

use core::ffi::CStr;

use crate::raw;

/// The program's arguments; the first is its name.
#[derive(Clone, Copy, Debug)]
pub struct Arguments {
    count: usize,
    values: *const *const u8,
}

impl Arguments {
    /// Returns the argument at a position, or `None` if there is none or it is not UTF-8.
    pub fn get(&self, index: usize) -> Option<&'static str> {
        if index >= self.count {
            return None;
        }
        // SAFETY: the kernel passes `count` pointers to C strings, which live as long as the
        // program, and `index` is below `count`.
        unsafe { CStr::from_ptr((*self.values.add(index)).cast()) }.to_str().ok()
    }

    /// Returns all arguments, including the name. Arguments that are not UTF-8 are skipped.
    pub fn iter(&self) -> impl Iterator<Item = &'static str> + use<> {
        let arguments = *self;
        (0..self.count).filter_map(move |index| arguments.get(index))
    }
}

/// Ends the program and all its threads with an exit status.
pub fn exit(status: i32) -> ! {
    // SAFETY: the call ends the whole program, so nothing that its threads have lent is used
    // afterwards.
    unsafe { raw::aero_exit(status) }
}

/// Implements [`crate::program!`].
///
/// # Safety
/// `values` must be the kernel's: `count` pointers to C strings that live as long as the program.
#[doc(hidden)]
pub unsafe fn run_main(count: i32, values: *const *const u8, main: fn(Arguments) -> i32) -> i32 {
    main(Arguments { count: count.max(0) as usize, values })
}

/// Makes `main`, a `fn(hrt::Arguments) -> i32`, the program's entry point, with a stack of the
/// given number of bytes or the default size. Also defines the program's allocator and panic
/// handler. Use once per program.
#[macro_export]
macro_rules! program {
    ($main:path) => {
        $crate::program!($main, 0);
    };
    ($main:path, $stack_size:expr) => {
        #[unsafe(no_mangle)]
        #[used]
        static aero_program: $crate::abi::Program = {
            unsafe extern "C" fn start(count: i32, values: *const *const u8) -> i32 {
                // SAFETY: the kernel calls `start` with its own arguments, which are passed on
                // unchanged.
                unsafe { $crate::run_main(count, values, $main) }
            }
            $crate::abi::Program {
                magic: $crate::abi::MAGIC,
                version: $crate::abi::VERSION,
                main: Some(start),
                stack_size: $stack_size,
            }
        };

        #[global_allocator]
        static AERO_ALLOCATOR: $crate::memory::ProgramAllocator = $crate::memory::ProgramAllocator;

        #[panic_handler]
        fn aero_panicked(info: &::core::panic::PanicInfo<'_>) -> ! {
            $crate::output::panicked(info)
        }
    };
}
