/* The baton in the hybrid runtime: the kernel's semaphore, which is called like any function. */
#include "aerokernel.h"
#include "baton.h"

void hrt_baton_init(struct baton *baton) { aero_semaphore_init((aero_semaphore *)baton, 0); }
void hrt_baton_offer(struct baton *baton) { aero_semaphore_up((aero_semaphore *)baton); }
void hrt_baton_take(struct baton *baton) { aero_semaphore_down((aero_semaphore *)baton, AERO_NEVER); }
