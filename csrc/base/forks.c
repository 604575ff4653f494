/* forks.c - see forks.h. The count belongs to the process, not to an interpreter: it is
 * the one fact that all interpreters and threads share. Only the child's single thread
 * writes it. (subprocess starts children with vfork, which runs none of this.)
 */
#include "base/forks.h"

#include <pthread.h>

static pthread_once_t forks_once = PTHREAD_ONCE_INIT;
static unsigned int forks;
static unsigned long forks_ident;
static int forks_error;

static void
forks_in_child(void)
{
    forks++;
    forks_ident = (unsigned long)pthread_self();
}

static void
forks_watch(void)
{
    forks_error = pthread_atfork(NULL, NULL, forks_in_child);
}

int
forks_init(void)
{
    int err = pthread_once(&forks_once, forks_watch);
    return err != 0 ? err : forks_error;
}

unsigned int
forks_count(void)
{
    return forks;
}

unsigned long
forks_thread(void)
{
    return forks_ident;
}
