/* A baton that threads hand to one another: the program's own functions, which have a version for Linux (baton.c) and
 * one for the hybrid runtime (baton-hrt.c). */
#ifndef BATON_H
#define BATON_H

/* Room for a semaphore of either side. */
struct baton { char room[64]; } __attribute__((aligned(16)));

/* Makes a baton that nobody offers. */
void baton_init(struct baton *baton);
/* Offers it to the thread that waits for it, or will. */
void baton_offer(struct baton *baton);
/* Waits until it is offered. */
void baton_take(struct baton *baton);

#endif
