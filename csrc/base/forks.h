/* forks.h - whether this process is another one than it was. */
#ifndef PYLOOP_BASE_FORKS_H
#define PYLOOP_BASE_FORKS_H

/* Before the first forks_count(). 0, or a positive errno. Idempotent. */
int forks_init(void);

/* How many forks made this process out of that which imported pyloop: what was noted
 * before a fork is less than what the child is told. Needs no system call, where getpid()
 * does. */
unsigned int forks_count(void);

/* In a process that was forked: the thread that did it and is this process's first, as
 * threading.get_ident() numbers them. */
unsigned long forks_thread(void);

#endif
