/* The baton as Linux has it: a semaphore, whose waits are system calls. */
#include <semaphore.h>

#include "baton.h"

void baton_init(struct baton *baton) { sem_init((sem_t *)baton, 0, 0); }
void baton_offer(struct baton *baton) { sem_post((sem_t *)baton); }

void baton_take(struct baton *baton)
{
    while (sem_wait((sem_t *)baton)) { }
}
