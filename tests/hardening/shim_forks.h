/* shim_forks.h - in both preloaded libraries: tells the core of a fork that there was not.
 *
 * The core learns of forks by a handler, which it registers when it is imported. Called
 * without a fork it makes every loop that of a parent process, to be replaced at its next
 * use: in this process, where failures can be counted.
 */
#ifndef SHIM_FORKS_H
#define SHIM_FORKS_H

#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>

typedef void (*ForkHandler)(void);

int __register_atfork(ForkHandler prepare, ForkHandler parent, ForkHandler child,
                      void *object);
void shim_pretend_fork(uintptr_t low, uintptr_t high);

enum { FORK_HANDLERS_MAX = 64 };

static ForkHandler fork_handlers[FORK_HANDLERS_MAX];
static size_t fork_handler_count;

/* What pthread_atfork() calls. */
int
__register_atfork(ForkHandler prepare, ForkHandler parent, ForkHandler child,
                  void *object)
{
    static __typeof__(&__register_atfork) real;
    if (real == NULL) {
        real = (__typeof__(&__register_atfork))dlsym(RTLD_NEXT, "__register_atfork");
    }
    if (child != NULL && fork_handler_count < FORK_HANDLERS_MAX) {
        fork_handlers[fork_handler_count++] = child;
    }
    return real(prepare, parent, child, object);
}

/* Calls the children's handlers whose code is between these addresses. */
void
shim_pretend_fork(uintptr_t low, uintptr_t high)
{
    for (size_t i = 0; i < fork_handler_count; i++) {
        uintptr_t address = (uintptr_t)fork_handlers[i];
        if (address >= low && address < high) {
            fork_handlers[i]();
        }
    }
}

#endif
