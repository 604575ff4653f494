/* failalloc.c - preloaded by oom.py: makes chosen allocations fail, and counts what lives.
 *
 * Which allocations: those that the interpreter, its extension modules and pyloop's core
 * ask for, told by the caller's address (failalloc_add_range), in the thread that armed.
 * With PYTHONMALLOC=malloc that is every object, dict and buffer of Python's, and the
 * core's own tables. What libuv, OpenSSL or the C library allocate for themselves never
 * fails. The script steers through failalloc_control without calling anything, because a
 * call would allocate.
 *
 * glibc only: it offers its functions under a second name.
 */
#define _GNU_SOURCE
#include <Python.h>

#include <dlfcn.h>
#include <execinfo.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <unwind.h>

#include "shim_forks.h"

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *block, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *block);

void failalloc_add_range(int whose, uintptr_t low, uintptr_t high);
void failalloc_use_this_thread(void);
void failalloc_write_stack(int fd);

enum {
    COUNTDOWN, /* the allocation that fails, 1 being the next; 0: none */
    BURST,     /* how many fail from there on */
    FIRED,     /* how many have failed */
    LIVE,      /* blocks allocated and not freed, by anybody */
    TRACE,     /* not 0: write the stack of each failure to stderr */
    OWNER,     /* who asked for the one that countdown reached: OWNER_* */
    EVERYBODY, /* not 0: it fails whoever asked; else only if the core did */
    OF_TASK, /* how many failed in what asyncio's C tasks and futures asked of the core */
};

enum { OWNER_NOBODY, OWNER_CORE, OWNER_MODULE, OWNER_PYTHON, STACK_MAX = 64 };

long failalloc_control[OF_TASK + 1];

/* Of what failed last, the innermost first: where each function is called from, and where
 * on the C stack its frame ends. */
static void *stack[STACK_MAX];
static uintptr_t stack_ends[STACK_MAX];
static int stack_size;

/* Whose code is where: what the driver tells first. */
enum { OF_ANY, OF_CORE, OF_PYTHON, OF_TASKS, RANGES_MAX = 256 };

static struct {
    int whose; /* OF_ANY: who may ask at all; OF_TASKS: asyncio's, in the interpreter */
    uintptr_t low, high;
} ranges[RANGES_MAX];
static size_t range_count;

static pthread_t armed_thread;

void
failalloc_add_range(int whose, uintptr_t low, uintptr_t high)
{
    if (range_count < RANGES_MAX) {
        ranges[range_count].whose = whose;
        ranges[range_count].low = low;
        ranges[range_count].high = high;
        range_count++;
    }
}

static int
is_code(int whose, void *place)
{
    uintptr_t address = (uintptr_t)place;
    for (size_t i = 0; i < range_count; i++) {
        if (ranges[i].whose == whose && address >= ranges[i].low &&
            address < ranges[i].high) {
            return 1;
        }
    }
    return 0;
}

void
failalloc_use_this_thread(void)
{
    armed_thread = pthread_self();
}

#if PY_VERSION_HEX >= 0x030D0000
/* The end on the C stack of the innermost function that runs Python code; 0: none does.
 * Such a function has a frame of the interpreter's in its own, which is the first of the
 * current frames that lies on the C stack. No symbols are needed, which distributions'
 * interpreters lack. */
static uintptr_t
innermost_evaluation(void)
{
    static PyThreadState *(*get)(void);
    if (get == NULL) {
        get = (PyThreadState * (*)(void))
            dlsym(RTLD_DEFAULT, "PyThreadState_GetUnchecked");
    }
    uintptr_t low = (uintptr_t)&low, high = stack_ends[stack_size - 1];
    PyThreadState *thread = get();
    void *frame = thread != NULL ? (void *)thread->current_frame : NULL;
    while (frame != NULL && !((uintptr_t)frame > low && (uintptr_t)frame < high)) {
        frame = ((void **)frame)[1]; /* its previous */
    }
    return (uintptr_t)frame;
}

/* Whether Python code asked, not the function at place i of the stack. */
static int
python_is_nearer(int i)
{
    uintptr_t evaluation = innermost_evaluation();
    return evaluation != 0 && evaluation < stack_ends[i];
}
#else
/* dladdr() does not know all of what runs Python code. */
static int
python_is_nearer(int i)
{
    if (is_code(OF_PYTHON, stack[i])) {
        return 1;
    }
    Dl_info info;
    return dladdr(stack[i], &info) != 0 && info.dli_sname != NULL &&
           strcmp(info.dli_sname, "_PyEval_EvalFrameDefault") == 0;
}
#endif

/* Who asked, itself or through the interpreter's C functions: the core, another extension
 * module, or Python code. That is whose frame is the nearest, from `first` on. *place is
 * where. */
static long
owner_from(int first, int *place)
{
    Dl_info info;
    for (int i = first; i < stack_size; i++) {
        *place = i;
        if (python_is_nearer(i)) {
            return OWNER_PYTHON;
        }
        if (is_code(OF_CORE, stack[i])) {
            return OWNER_CORE;
        }
        if (dladdr(stack[i], &info) == 0) {
            continue;
        }
        if (info.dli_sname != NULL &&
            /* An instance dies whose dict lives on: a copy that CPython 3.13 does not do
             * without (python/cpython#124547). */
            strcmp(info.dli_sname, "PyObject_ClearManagedDict") == 0) {
            return OWNER_PYTHON;
        }
        if (info.dli_fname != NULL && strstr(info.dli_fname, ".cpython-") != NULL) {
            return OWNER_MODULE;
        }
    }
    return OWNER_NOBODY;
}

/* Whether the core was called by the C code of asyncio's tasks and futures; where that is
 * part of the interpreter, whether it is on the stack below all Python code. */
static int
is_of_task(void)
{
    for (int i = 0; i < stack_size && !python_is_nearer(i); i++) {
        if (is_code(OF_TASKS, stack[i])) {
            return 1;
        }
    }
    Dl_info info;
    long owner;
    int i = -1, within = -1;
    do {
        within++;
        owner = owner_from(i + 1, &i);
    } while (owner == OWNER_CORE);
    return within > 0 && owner == OWNER_MODULE && dladdr(stack[i], &info) != 0 &&
           strstr(info.dli_fname, "/_asyncio.cpython-") != NULL;
}

static _Unwind_Reason_Code
add_to_stack(struct _Unwind_Context *context, void *unused)
{
    (void)unused;
    stack[stack_size] = (void *)_Unwind_GetIP(context);
    stack_ends[stack_size] = _Unwind_GetCFA(context);
    return ++stack_size < STACK_MAX ? _URC_NO_REASON : _URC_END_OF_STACK;
}

void
failalloc_write_stack(int fd)
{
    backtrace_symbols_fd(stack + 2, stack_size > 2 ? stack_size - 2 : 0, fd);
}

/* Whose allocation the stack is of, the first of a burst; whether it fails. */
static int
owner_fails(void)
{
    int place;
    failalloc_control[OWNER] = owner_from(0, &place);
    /* For the driver, should this crash. */
    static const char *const lines[] = {
        "{\"owner\": \"nobody\"}\n", "{\"owner\": \"core\"}\n",
        "{\"owner\": \"module\"}\n", "{\"owner\": \"python\"}\n"};
    if (failalloc_control[OWNER] == OWNER_CORE || failalloc_control[EVERYBODY]) {
        const char *line = lines[failalloc_control[OWNER]];
        (void)!write(STDOUT_FILENO, line, strlen(line));
        return 1;
    }
    return 0;
}

/* Whether the allocation that caller asks for is one that fails. */
static int
fails(void *caller)
{
    if (failalloc_control[COUNTDOWN] == 0 || !is_code(OF_ANY, caller) ||
        !pthread_equal(armed_thread, pthread_self())) {
        return 0;
    }
    if (failalloc_control[COUNTDOWN] > 1) {
        failalloc_control[COUNTDOWN]--;
        return 0;
    }
    long burst = failalloc_control[BURST];
    failalloc_control[COUNTDOWN] = 0; /* unwinding may allocate */
    stack_size = 0;
    (void)_Unwind_Backtrace(add_to_stack, NULL);
    if (failalloc_control[FIRED] == 0 && !owner_fails()) {
        return 0;
    }
    if (failalloc_control[TRACE]) {
        failalloc_write_stack(STDERR_FILENO);
        (void)!write(STDERR_FILENO, "\n", 1);
    }
    failalloc_control[OF_TASK] += is_of_task();
    failalloc_control[FIRED]++;
    failalloc_control[BURST] = burst - 1;
    failalloc_control[COUNTDOWN] = burst > 1;
    return 1;
}

static void *
counted(void *block)
{
    if (block != NULL) {
        __atomic_add_fetch(&failalloc_control[LIVE], 1, __ATOMIC_RELAXED);
    }
    return block;
}

void *
malloc(size_t size)
{
    return fails(__builtin_return_address(0)) ? NULL : counted(__libc_malloc(size));
}

void *
calloc(size_t count, size_t size)
{
    return fails(__builtin_return_address(0)) ? NULL
                                              : counted(__libc_calloc(count, size));
}

void *
realloc(void *block, size_t size)
{
    if (fails(__builtin_return_address(0))) {
        return NULL;
    }
    void *moved = __libc_realloc(block, size);
    if (block == NULL) {
        return counted(moved);
    }
    if (moved == NULL && size == 0) { /* that freed it */
        __atomic_sub_fetch(&failalloc_control[LIVE], 1, __ATOMIC_RELAXED);
    }
    return moved;
}

int
posix_memalign(void **block, size_t alignment, size_t size)
{
    *block = counted(__libc_memalign(alignment, size));
    return *block != NULL ? 0 : 12; /* ENOMEM */
}

void *
aligned_alloc(size_t alignment, size_t size)
{
    return counted(__libc_memalign(alignment, size));
}

void *
memalign(size_t alignment, size_t size)
{
    return counted(__libc_memalign(alignment, size));
}

void
free(void *block)
{
    if (block != NULL) {
        __atomic_sub_fetch(&failalloc_control[LIVE], 1, __ATOMIC_RELAXED);
        __libc_free(block);
    }
}
