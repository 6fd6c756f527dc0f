//! The one definition of the functions: `hvm.h` is generated from it, and the implementations are
//! checked against it.

/// Passes the definition to a macro.
macro_rules! functions {
    ($each:ident) => {
        $each! {
            /// Prepares the library. Boots the image in the file that the environment variable
            /// AEROKERNEL_HRT names, if there is one; otherwise v3_hvm_ros_install_hrt_image and
            /// v3_hvm_ros_reset boot one.
            fn v3_hvm_ros_user_init() -> i32;
            /// Ends the HRT.
            fn v3_hvm_ros_user_deinit() -> i32;
            /// Replaces the HRT's image, an ELF file of `size` bytes at `image`, which is copied.
            /// The next reset boots it.
            fn v3_hvm_ros_install_hrt_image(image: *mut u8, size: u64) -> i32;
            /// RESET_HRT ends the HRT and boots the image. RESET_BOTH executes this program anew.
            /// RESET_ROS fails: a process cannot be reset while its HRT stays.
            fn v3_hvm_ros_reset(what: reset_type) -> i32;
            /// Merges the address spaces: the HRT sees and may change all memory of the process.
            fn v3_hvm_ros_merge_address_spaces() -> i32;
            /// Takes the address spaces apart again.
            fn v3_hvm_ros_unmerge_address_spaces() -> i32;
            /// Does nothing: every function in the HRT has the FS base of the thread that calls it.
            fn v3_hvm_ros_mirror_gdt(fsbase: u64) -> i32;
            /// Calls in the HRT what `call` describes (struct hvm_call), and waits for its end.
            /// With `parallel` it is called by as many threads as the HRT has CPUs, at once.
            fn v3_hvm_ros_invoke_hrt_async(call: *mut u8, parallel: i32) -> i32;
            /// Begins synchronous mode for the calling thread: the HRT polls for its calls.
            fn v3_hvm_ros_synchronize() -> i32;
            /// Calls what `call` describes in synchronous mode. System calls of the function are
            /// always handled; the second argument has no effect.
            fn v3_hvm_ros_invoke_hrt_sync(call: *mut u8, handle_ros_events: i32) -> i32;
            /// Ends synchronous mode.
            fn v3_hvm_ros_desynchronize() -> i32;
            /// Sets the function that v3_hvm_hrt_signal_ros calls in this process. It runs on the
            /// stack of the thread that serves the HRT; the other arguments have no effect.
            fn v3_hvm_ros_register_signal(handler: SignalHandler, stack: *mut u8, stack_size: u64) -> i32;
            /// Removes that function.
            fn v3_hvm_ros_unregister_signal() -> i32;
            /// Has that function called, with a code that is not 0. For functions in the HRT.
            fn v3_hvm_hrt_signal_ros(code: u64) -> i32;
            /// Calls a function in the HRT as the calling thread, and stores its result.
            fn hvm_call(function: Function, argument: u64, result: *mut u64) -> i32;
            /// Says why the calling thread's latest failed request failed. The text stays until its
            /// next failed request.
            fn hvm_error() -> *const u8;
        }
    };
}

pub(crate) use functions;
