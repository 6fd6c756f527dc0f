//! The program: its first function, its arguments, its end.

use core::ffi::CStr;

use crate::raw;

/// The program's arguments, the first its name.
#[derive(Clone, Copy, Debug)]
pub struct Arguments {
    count: usize,
    values: *const *const u8,
}

impl Arguments {
    /// The argument at a position; none if it is not UTF-8.
    pub fn get(&self, index: usize) -> Option<&'static str> {
        if index >= self.count {
            return None;
        }
        // SAFETY: the kernel gives `count` pointers to C strings, which stay as long as the program.
        unsafe { CStr::from_ptr((*self.values.add(index)).cast()) }.to_str().ok()
    }

    /// All of them, the name included.
    pub fn iter(&self) -> impl Iterator<Item = &'static str> + use<> {
        let arguments = *self;
        (0..self.count).filter_map(move |index| arguments.get(index))
    }
}

/// Ends the program with an exit status, all its threads included.
pub fn exit(status: i32) -> ! {
    // SAFETY: ends the program, so nothing it holds is used any more.
    unsafe { raw::aero_exit(status) }
}

/// What [`crate::program!`] calls.
///
/// # Safety
/// `values` are the kernel's: `count` pointers to C strings, which stay.
#[doc(hidden)]
pub unsafe fn run_main(count: i32, values: *const *const u8, main: fn(Arguments) -> i32) -> i32 {
    main(Arguments { count: count.max(0) as usize, values })
}

/// Makes `main`, a `fn(hrt::Arguments) -> i32`, the program's first function, with a stack of so many bytes or the
/// default; and gives the program its allocator and panic handler. Once per program.
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
                // SAFETY: the kernel's arguments, passed on.
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
