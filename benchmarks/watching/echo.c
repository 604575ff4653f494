/* echo.c - one run of the echo experiment: a server on core 0, its load on core 1.
 *
 *   echo WAY WORK CONNECTIONS SIZE SECONDS
 *   WAY: uv_poll nested nested_first inverted uv_tcp;  WORK: echo mask churn
 *
 * Prints one line of JSON: what the server used per message during the measured phase.
 */
#include "watching.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

__attribute__((weak)) uint64_t counted_syscalls, counted_epoll_ctls;

static uint64_t
timeval_us(struct timeval tv)
{
    return (uint64_t)tv.tv_sec * 1000000u + (uint64_t)tv.tv_usec;
}

static Snapshot
snapshot_take(uint64_t bytes, uint64_t waits)
{
    struct rusage usage;
    struct timespec cpu;
    getrusage(RUSAGE_SELF, &usage);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    return (Snapshot){
        .wall_ns = now_ns(),
        .cpu_ns = (uint64_t)cpu.tv_sec * 1000000000u + (uint64_t)cpu.tv_nsec,
        .user_us = timeval_us(usage.ru_utime),
        .system_us = timeval_us(usage.ru_stime),
        .bytes = bytes,
        .waits = waits,
        .syscalls = counted_syscalls,
        .epoll_ctls = counted_epoll_ctls,
    };
}

void
meter_look(Meter *self, const Shared *shared, uint64_t bytes, uint64_t waits)
{
    Phase phase = (Phase)atomic_load_explicit(&shared->phase, memory_order_relaxed);
    if (phase == self->seen) {
        return;
    }
    if (self->seen < PHASE_MEASURE && phase >= PHASE_MEASURE) {
        self->begin = snapshot_take(bytes, waits);
    }
    if (self->seen < PHASE_COOL_DOWN && phase >= PHASE_COOL_DOWN) {
        self->end = snapshot_take(bytes, waits);
    }
    self->seen = phase;
}

static void
listen_anywhere(Job *job)
{
    struct sockaddr_in addr = {.sin_family = AF_INET,
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(addr);
    job->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (job->listener < 0 ||
        bind(job->listener, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
        listen(job->listener, 1024) < 0 ||
        getsockname(job->listener, (struct sockaddr *)&addr, &len) < 0) {
        die("listen", errno);
    }
    job->port = ntohs(addr.sin_port);
}

static void
print_result(const Job *job, const Meter *meter)
{
    const Snapshot *a = &meter->begin, *b = &meter->end;
    double messages = (double)(b->bytes - a->bytes) / (double)job->size;
    printf("{\"messages\": %.0f, \"per_second\": %.0f, \"cpu_us\": %.4f, "
           "\"user_us\": %.4f, \"system_us\": %.4f, \"waits\": %.4f, "
           "\"syscalls\": %.4f, \"epoll_ctls\": %.4f}\n",
           messages, messages * 1e9 / (double)(b->wall_ns - a->wall_ns),
           (double)(b->cpu_ns - a->cpu_ns) / 1e3 / messages,
           (double)(b->user_us - a->user_us) / messages,
           (double)(b->system_us - a->system_us) / messages,
           (double)(b->waits - a->waits) / messages,
           (double)(b->syscalls - a->syscalls) / messages,
           (double)(b->epoll_ctls - a->epoll_ctls) / messages);
}

static Work
work_from_name(const char *name)
{
    return strcmp(name, "mask") == 0    ? WORK_MASK
           : strcmp(name, "churn") == 0 ? WORK_CHURN
                                        : WORK_ECHO;
}

int
main(int argc, char **argv)
{
    if (argc != 6) {
        fprintf(stderr, "usage: echo WAY WORK CONNECTIONS SIZE SECONDS\n");
        return 2;
    }
    Job job = {
        .way = argv[1],
        .work = work_from_name(argv[2]),
        .connections = atoi(argv[3]),
        .size = (size_t)atol(argv[4]),
        .seconds = atof(argv[5]),
    };
    listen_anywhere(&job);
    job.shared = mmap(NULL, sizeof(*job.shared), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (job.shared == MAP_FAILED) {
        die("mmap", errno);
    }
    pid_t load = fork();
    if (load < 0) {
        die("fork", errno);
    }
    if (load == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* no load for a server that failed */
        close(job.listener);
        pin_to_core(1);
        load_run(&job);
        _exit(0);
    }
    Meter meter = {0};
    pin_to_core(0);
    if (strcmp(job.way, "uv_tcp") == 0) {
        serve_with_uv_tcp(&job, &meter);
    }
    else {
        serve_with_poller(&job, &meter);
    }
    int status = 0;
    waitpid(load, &status, 0);
    if (status != 0) {
        fprintf(stderr, "the load generator failed\n");
        return 1;
    }
    print_result(&job, &meter);
    return 0;
}
