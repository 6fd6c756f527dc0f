/* Hybrid virtual machines for programs in C and C++: the Aerokernel beside this process. Generated from
 * host/hvm-c/src/definition.rs by `cargo test -p aero-hvm-c`; docs/HVM.md has the first program.
 *
 * The functions that begin with v3_ are those of Palacios's user library. There is one HRT. Functions return 0, or -1 if
 * they failed; hvm_error() then says why. */
#ifndef AERO_HVM_H
#define AERO_HVM_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { RESET_HRT, RESET_ROS, RESET_BOTH } reset_type;

/* What is called in the HRT: a function with up to eight arguments, and where its result goes, or null. */
struct hvm_call {
    uint64_t (*function)(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);
    uint64_t *result;
    uint64_t arguments[8];
};

/* Prepares the library. Boots the image in the file that the environment variable
 * AEROKERNEL_HRT names, if there is one; otherwise v3_hvm_ros_install_hrt_image and
 * v3_hvm_ros_reset boot one. */
int v3_hvm_ros_user_init(void);

/* Ends the HRT. */
int v3_hvm_ros_user_deinit(void);

/* Replaces the HRT's image, an ELF file of `size` bytes at `image`, which is copied.
 * The next reset boots it. */
int v3_hvm_ros_install_hrt_image(void *image, uint64_t size);

/* RESET_HRT ends the HRT and boots the image. RESET_BOTH executes this program anew.
 * RESET_ROS fails: a process cannot be reset while its HRT stays. */
int v3_hvm_ros_reset(reset_type what);

/* Merges the address spaces: the HRT sees and may change all memory of the process. */
int v3_hvm_ros_merge_address_spaces(void);

/* Takes the address spaces apart again. */
int v3_hvm_ros_unmerge_address_spaces(void);

/* Does nothing: every function in the HRT has the FS base of the thread that calls it. */
int v3_hvm_ros_mirror_gdt(uint64_t fsbase);

/* Calls in the HRT what `call` describes (struct hvm_call), and waits for its end.
 * With `parallel` it is called by as many threads as the HRT has CPUs, at once. */
int v3_hvm_ros_invoke_hrt_async(void *call, int parallel);

/* Begins synchronous mode for the calling thread: the HRT polls for its calls. */
int v3_hvm_ros_synchronize(void);

/* Calls what `call` describes in synchronous mode. System calls of the function are
 * always handled; the second argument has no effect. */
int v3_hvm_ros_invoke_hrt_sync(void *call, int handle_ros_events);

/* Ends synchronous mode. */
int v3_hvm_ros_desynchronize(void);

/* Sets the function that v3_hvm_hrt_signal_ros calls in this process. It runs on the
 * stack of the thread that serves the HRT; the other arguments have no effect. */
int v3_hvm_ros_register_signal(void (*handler)(uint64_t code), void *stack, uint64_t stack_size);

/* Removes that function. */
int v3_hvm_ros_unregister_signal(void);

/* Has that function called, with a code that is not 0. For functions in the HRT. */
int v3_hvm_hrt_signal_ros(uint64_t code);

/* Calls a function in the HRT as the calling thread, and stores its result. */
int hvm_call(uint64_t (*function)(uint64_t argument, uint64_t index), uint64_t argument, uint64_t *result);

/* Says why the calling thread's latest failed request failed. The text stays until its
 * next failed request. */
const char *hvm_error(void);

#ifdef __cplusplus
}
#endif

#endif
